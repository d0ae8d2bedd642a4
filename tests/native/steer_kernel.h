/* SPDX-License-Identifier: Apache-2.0
 *
 * steer_kernel.h - what the kernel knows of steered members. Each thread of steer.h is a process of
 * its own, whose token is free once the thread has died. The thread's number is its pool in the
 * calls of shmpool.h. Replaces opening.c, process.c and token.c.
 */
#ifndef STEER_KERNEL_H
#define STEER_KERNEL_H

#include "alf_repair.h"
#include "member.h"
#include "segment.h"

/* Returns the token of a thread; for STEER_THREADS the token of a process that is no thread. */
#define STEER_TOKEN(thread) (1u + (thread))

/* By thread: nonzero if its process has a pin (token.h), which counts until the thread dies. */
extern uint64_t steer_pins[STEER_THREADS];

/* True if a value is published at the position. */
static inline bool steer_published(const struct alf_ring *r, alf_position at)
{
	return alf_at(r, at, alf_word(r, at)) == ALF_AT_VALUE;
}

#endif
