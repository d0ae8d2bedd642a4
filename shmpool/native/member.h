/* SPDX-License-Identifier: Apache-2.0
 *
 * member.h - members of a pool: one for each thread that has attached.
 *
 * member_attach may be called by anybody at any time; member_release only by a thread of the member's
 * own process, when the member's cache is empty and it holds nothing, or by whoever has put a dead one
 * right (recover.h).
 *
 * An identity is attached, or dead once anybody has learnt from the kernel that its process is gone, or
 * 0. Dead is for ever, until everything that names the member has been put right and the slot is free.
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
#define MEMBER_DEAD (2ull << 62)
#define MEMBER_STATE_MASK (3ull << 62)
#define MEMBER_PID_SHIFT 40
#define MEMBER_PID_MASK ((1ull << 22) - 1) /* the kernel's own limit on pids */
#define MEMBER_EPOCH_SHIFT 32
#define MEMBER_EPOCH_MASK (0xffull << MEMBER_EPOCH_SHIFT)

static inline uint64_t member_identity(uint32_t pid, uint32_t start)
{
	return MEMBER_ATTACHED | (uint64_t)pid << MEMBER_PID_SHIFT | start;
}

static inline uint32_t member_pid(uint64_t identity)
{
	return (uint32_t)(identity >> MEMBER_PID_SHIFT & MEMBER_PID_MASK);
}

static inline bool member_attached(uint64_t identity)
{
	return (identity & MEMBER_STATE_MASK) == MEMBER_ATTACHED;
}

static inline bool member_dead(uint64_t identity)
{
	return (identity & MEMBER_STATE_MASK) == MEMBER_DEAD;
}

/* Whether two attached identities are of one process. */
static inline bool member_same_process(uint64_t identity, uint64_t other)
{
	return ((identity ^ other) & ~MEMBER_EPOCH_MASK) == 0 && member_attached(identity);
}

/* Whether the tag is of the life that the identity is of: not so any more when all but the slot has been
 * put right. */
static inline bool member_epoch_is(uint64_t identity, uint32_t tag)
{
	return ((identity >> MEMBER_EPOCH_SHIFT ^ tag >> TAG_NUMBER_BITS) & 0xff) == 0;
}

/* The calling thread takes a slot, a spare one if it only puts the dead right. -EUSERS if all are taken. */
int member_attach(const struct segment *s, uint32_t opening, bool spare, struct member **out);

/* Gives the slot back. Who is killed in the middle of it leaves something that the next one begins anew. */
void member_release(const struct segment *s, struct member *m);

/* What the slot has counted in all its lives. Allocations from the local cache are counted by what was pushed and
 * is not there any more; what passes the cache for other reasons is taken off again. In the middle of a pop
 * or a push that count can be too high by as many as are moved, never too low. */
static inline uint64_t member_count(const struct member *m, int counter)
{
	uint64_t n = load_relaxed(&m->counters[counter]);
	if (counter == COUNT_ALLOC)
		n += load_relaxed(&m->cache_pushed) - load_relaxed(&m->cache_top);
	if (counter == COUNT_FREE)
		n += load_relaxed(&m->cache_pushed);
	return n;
}

/* What the member has counted in this one. */
static inline uint64_t member_counted(const struct member *m, int counter)
{
	return member_count(m, counter) - load_relaxed(&m->base[counter]);
}

/* Buffers in the member's local cache, as anybody may see it. */
static inline uint32_t member_cached(const struct segment *s, const struct member *m)
{
	uint64_t bottom = load_acquire(&m->cache_bottom);                 /* [CACHE] */
	int64_t len = cache_between(bottom, load_acquire(&m->cache_top)); /* [CACHE] */
	return (uint64_t)len > (uint64_t)s->geometry.cache_size ? 0 : (uint32_t)len;
}

/* How many buffers the member has in hand, its local cache not counted. */
static inline uint64_t member_held(const struct member *m)
{
	/* What was pushed counts in both and is left out: it may grow between two looks. */
	uint64_t allocated = load_relaxed(&m->counters[COUNT_ALLOC]) -
			     load_relaxed(&m->base[COUNT_ALLOC]) - load_relaxed(&m->cache_top);
	uint64_t freed =
		load_relaxed(&m->counters[COUNT_FREE]) - load_relaxed(&m->base[COUNT_FREE]);
	return (cache_position)(allocated + member_counted(m, COUNT_DEQUEUE) +
				member_counted(m, COUNT_ADOPT) - freed -
				member_counted(m, COUNT_ENQUEUE) - load_relaxed(&m->adopted));
}

#endif
