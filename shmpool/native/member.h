/* SPDX-License-Identifier: Apache-2.0
 *
 * member.h - members of a pool: one for each thread that has attached.
 *
 * member_attach may be called by anybody at any time; member_release only by a thread of the member's
 * own process, when the member's cache is empty and it holds nothing.
 *
 * Ordering
 *     [MEMBER]  identity: written with a compare-and-swap that makes the slot its own, released with
 *               zero when everything in it is done with.
 */
#ifndef SHMPOOL_MEMBER_H
#define SHMPOOL_MEMBER_H

#include "layout.h"
#include "process.h"
#include "segment.h"

#define MEMBER_ATTACHED (1ull << 62)
#define MEMBER_START_BITS 40
#define MEMBER_PID_MASK ((1ull << 22) - 1) /* the kernel's own limit on pids */

static inline uint64_t member_identity(uint32_t pid, uint64_t start)
{
	return MEMBER_ATTACHED | (uint64_t)pid << MEMBER_START_BITS |
	       (start & ((1ull << MEMBER_START_BITS) - 1));
}

static inline uint32_t member_pid(uint64_t identity)
{
	return (uint32_t)(identity >> MEMBER_START_BITS & MEMBER_PID_MASK);
}

static inline uint64_t member_start(uint64_t identity)
{
	return identity & ((1ull << MEMBER_START_BITS) - 1);
}

/* The calling thread takes a slot. -EUSERS if all are taken. */
int member_attach(const struct segment *s, uint32_t opening, struct member **out);

/* Gives the slot back; its counters go to the pool's sums. */
void member_release(const struct segment *s, struct member *m);

/* How many buffers the member has in hand, its local cache not counted. */
static inline uint64_t member_held(const struct member *m)
{
	const uint64_t *n = m->counters;
	return load_relaxed(&n[COUNT_ALLOC]) + load_relaxed(&n[COUNT_DEQUEUE]) +
	       load_relaxed(&n[COUNT_ADOPT]) - load_relaxed(&n[COUNT_FREE]) -
	       load_relaxed(&n[COUNT_ENQUEUE]) - load_relaxed(&m->adopted);
}

#endif
