/* SPDX-License-Identifier: Apache-2.0
 *
 * steer_kernel.h - what steered members are to the kernel: each thread of steer.h is a process of
 * its own, whose token is free once it has died, and whose number names its pool in the calls of
 * shmpool.h. In the place of opening.c, process.c and token.c.
 */
#ifndef STEER_KERNEL_H
#define STEER_KERNEL_H

#include "alf_repair.h"
#include "member.h"
#include "segment.h"

/* The token of a thread; that of whoever is none, for STEER_THREADS. */
#define STEER_TOKEN(thread) (1u + (thread))

/* Whether a value is published at the position. */
static inline bool steer_published(const struct alf_ring *r, alf_position at)
{
	return alf_at(r, at, alf_word(r, at)) == ALF_AT_VALUE;
}

#endif
