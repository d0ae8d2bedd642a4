/* SPDX-License-Identifier: Apache-2.0
 *
 * qmempool.h - a pool of buffers: local caches over a shared queue over a slab.
 *
 * After the qmempool of J. D. Brouer's Linux RFC of December 2014: a member allocates from and
 * frees into a small cache of its own and touches nothing shared; the cache is refilled from, and
 * flushed into, a shared multi-producer/multi-consumer ring in bulks; when that runs dry the slab
 * grows, and when the slab is at its capacity, what lies in other members' caches is fetched.
 * Unlike the original, the caches lie in the segment, so that others can reach them.
 *
 * Who may call what at the same time: any number of members, each with its own struct member. One
 * member must not be used by two threads at once.
 *
 * Ordering
 *     [CACHE]   a member's cache. To pop, its owner moves cache_top down and then looks at
 *              cache_bottom; a
 *               thief writes that it is there into cache_bottom, calls membarrier(2), then reads
 *               cache_top. The system call is a full barrier on the owner's processor, so the
 *               owner's side costs none: either the thief sees the pop and leaves those handles
 *               alone, or the owner sees the thief and takes its pop back. Pushing cannot meet a
 *               thief, who takes from the bottom. cache_top hands over what was pushed, also when
 *               its owner has popped since (C11's release sequence), cache_bottom what was taken.
 *
 * Progress: an allocation that does not wait takes what it can have in a bounded number of steps,
 * and asks nobody who is dead. blocking_alloc() does, with any deadline. What it does for
 * fairness: alloc_wait.c. Nothing here waits for another member. A cache whose owner is in the
 * middle of it, or that another thief has, is passed over; an owner whose cache is being emptied
 * works without it. A cache can be emptied wherever its owner has stopped.
 *
 * Misuse: a handle carries the generation its buffer had when it was allocated, and a free changes
 * the buffer's; a second free, a stale handle and somebody else's buffer are errors.
 * SHMPOOL_CHECK=0 leaves that out: then headers are not touched on the fast path at all.
 */
#ifndef SHMPOOL_QMEMPOOL_H
#define SHMPOOL_QMEMPOOL_H

#include "layout.h"
#include "segment.h"
#include "slab.h"

#ifndef SHMPOOL_CHECK
#define SHMPOOL_CHECK 1
#endif

#define GENERATION_ONE (1ull << 32)

/* One process's way to a pool. */
struct qmempool {
	struct buffer *buffers;
	uint32_t capacity;
	uint32_t bulk;
	uint64_t cache_size;
	uint64_t cache_mask; /* cache_size - 1; 0 without a cache */
	uint64_t absent;     /* slab_grow()'s hint */
	struct alf_ring free;
	struct segment segment;
	struct alf_ring **queues; /* of named queues, by number; NULL until bound */
	uint32_t serial;          /* of this opening: opening.h */
	uint32_t closing;
	/* Hints of bypass_take(), which threads share: any value is good enough. */
	uint32_t bypass_at;  /* buffer where it looks on */
	uint64_t bypass_sum; /* what had been given back and abandoned when it last found nothing */
	int64_t bypass_rest_ns; /* until when it need not look again while that stays so */
	uint64_t tend_ns;  /* CLOCK_MONOTONIC: from then on a busy thread tends the pool: call.h */
	uint32_t tend_due; /* one has noticed that it is time to */
};

/* Binds a checked segment. 0, -ENOMEM, -EBADMSG. */
int pool_bind(struct qmempool *p, const struct segment *s);
void pool_unbind(struct qmempool *p);

/* What the fast paths fall back to. */
int qmempool_alloc_slow(struct qmempool *p, struct member *m, uint64_t *handle, uint32_t n);
/* That of qmempool_alloc_quick(). */
int qmempool_refill(struct qmempool *p, struct member *m, uint64_t *handle);
int qmempool_free_slow(struct qmempool *p, struct member *m, const uint64_t *handle, uint32_t n);
/* That of one, for qmempool_free(), whose handle need not be in memory. */
int qmempool_free_one(struct qmempool *p, struct member *m, uint64_t handle);

/* Takes back what a free of more had done to the first n when it came to a handle that is no good.
 *  */
void pool_unfree(struct qmempool *p, const uint64_t *handle, uint32_t n);

/* Makes buffers of another thread of m's process m's own. 0; -ESTALE freed or handed on since the
 * handle was made; -EPERM somebody else's. */
int qmempool_adopt(struct qmempool *p, struct member *m, uint64_t handle);

/* Ends m, whose thread ends. The slot is free at once, or when other threads of the process have
 * adopted the last buffer that they have from m. One thread of the process at a time. */
void qmempool_end(struct qmempool *p, struct member *m);

/* Flushes m's cache if somebody asks for it. False if the cache is not m's to use now. */
bool cache_flush_if_asked(struct qmempool *p, struct member *m);

/* Gives n buffers of m's to the shared queue. What is no buffer, because somebody scribbled over a
 * cache, is left out; what does not fit is abandoned to the next sweep: somebody has stopped at its
 * head, or it is full of tombstones further on than FREE_RING_ROUNDS bulks. */
void free_ring_put(struct qmempool *p, struct member *m, const uint64_t *handle, uint32_t n);

/* The same by who has more time: up to *rounds bulks are moved from its head to its end, and
 * subtracted. */
#define FREE_RING_ROUNDS 8u
void free_ring_put_rounds(struct qmempool *p, struct member *m, const uint64_t *handle, uint32_t n,
			  uint64_t *rounds);

/* Puts m's cache into the shared queue. What a thief that has stopped leaves there stays in the
 * slot, for other thieves and for the slot's next member. */
void cache_drain(struct qmempool *p, struct member *m);

/* Fetches up to max buffers from other members' caches; without membarrier(2) their owners are
 * asked to flush at their next call. */
uint32_t cache_steal(struct qmempool *p, struct member *m, uint64_t *handle, uint32_t max);

/* Takes up to max free buffers from behind a member that has stopped in the shared queue, or that
 * were abandoned. Looks at so many headers at most, from where this process looked last. */
uint32_t bypass_take(struct qmempool *p, struct member *m, uint64_t *handle, uint32_t max,
		     uint32_t most);

/* Asks every member to flush its cache at its next call. */
void cache_request_flush(struct qmempool *p);

/* The same as qmempool_alloc_slow(), also from behind a stopped member, for which it looks at so
 * many headers. */
int qmempool_alloc_hard(struct qmempool *p, struct member *m, uint64_t *handle, uint32_t n,
			uint32_t looks);

/* Wakes everybody who waits for buffers: there may be more of them than were given back. */
void free_ring_wake(struct qmempool *p);

/* Takes 1..max buffers for m from the shared queue, the slab or others' caches. 0 or -errno if
 * there are none. */
int qmempool_obtain(struct qmempool *p, struct member *m, uint64_t *handle, uint32_t max);

/* Buffers that could be had now, as far as counting tells: up to most. */
uint64_t qmempool_count(struct qmempool *p, uint64_t most);

static inline struct buffer *pool_buffer(const struct qmempool *p, uint32_t index)
{
	return &p->buffers[index];
}

/* Whether there may be free buffers that only bypass_take() finds. */
static inline bool qmempool_blocked(const struct qmempool *p)
{
	const struct pool_shared *s = segment_shared(&p->segment);
	return !alf_empty(&p->free) || load_relaxed(&s->abandoned) != load_relaxed(&s->swept);
}

/* Pops the newest n handles of m's cache, by its owner: all, or none if there are not so many or
 * somebody empties the cache or asks for it. */
static ALWAYS_INLINE bool cache_pop(struct qmempool *p, struct member *m, uint64_t *handle,
				    uint32_t n)
{
	if (n != 1 && unlikely(n > p->cache_size))
		return false;
	const cache_position top = (cache_position)(load_relaxed(&m->cache_top) - n);
	store_relaxed(&m->cache_top, top); /* [CACHE] */
	barrier_asymmetric();
	const uint64_t left = cache_between_own(load_acquire(&m->cache_bottom), top); /* [CACHE] */
	/* Read after the barrier: an operand of the comparison, no register. */
	const uint64_t size = p->cache_size;
	/* Unsigned: less than none is more than fits. */
	if (unlikely(n == 1 ? left >= size : left > size - n)) {
		store_relaxed(&m->cache_top, (cache_position)(top + n));
		return false;
	}
	const uint64_t from = top & p->cache_mask;
	if (n == 1)
		handle[0] = m->cache[from];
	else if (likely(from + n <= size))
		__builtin_memcpy(handle, &m->cache[from], n * sizeof(*handle));
	else
		for (uint32_t i = 0; i < n; i++)
			handle[i] = m->cache[(from + i) & p->cache_mask];
	return true;
}

/* Whether the header b says that handle is mine, the owner word of the caller. */
static ALWAYS_INLINE bool owner_is(const struct buffer *b, uint64_t mine, uint64_t handle)
{
	return likely(load_relaxed(&b->owner) == mine) &&
	       likely(load_relaxed(&b->handle) == handle);
}

/* 0 if m may free or hand on handle, which must name one of the pool's buffers. */
static inline int qmempool_check(struct qmempool *p, struct member *m, uint64_t handle)
{
	if (unlikely(handle_index(handle) >= p->capacity))
		return -EINVAL;
	if (SHMPOOL_CHECK &&
	    unlikely(!owner_is(pool_buffer(p, handle_index(handle)), m->tag, handle)))
		return qmempool_adopt(p, m, handle);
	return 0;
}

/* Allocates n buffers: all, or -EAGAIN if there are not so many; -ENOSPC if the slab may grow and
 * the file system has no room. The headers' user fields are as their last user left them. */
static inline int qmempool_alloc_bulk(struct qmempool *p, struct member *m, uint64_t *handle,
				      uint32_t n)
{
	if (likely(cache_pop(p, m, handle, n)))
		return 0;
	return qmempool_alloc_slow(p, m, handle, n);
}

/* Frees n buffers into m's cache, if they fit there in one piece and each of them is m's: else
 * false, and nothing has changed. */
static ALWAYS_INLINE bool cache_free(struct qmempool *p, struct member *m, const uint64_t *handle,
				     uint32_t n)
{
	/* Read once: the compiler cannot know that no generation stored below is one of them. */
	const cache_position top = load_relaxed(&m->cache_top);
	const uint64_t len = cache_between_own(load_acquire(&m->cache_bottom), top); /* [CACHE] */
	const uint64_t size = p->cache_size;
	const uint64_t mine = m->tag, capacity = p->capacity;
	struct buffer *const buffers = p->buffers;
	uint64_t *const room = &m->cache[top & p->cache_mask];
	if (unlikely(n > size || len > size - n || room + n > m->cache + size))
		return false;
#pragma GCC unroll 4
	for (uint32_t i = n; i--;) { /* from the last one on: transfer_take_all() */
		const uint64_t h = handle[i];
		if (SHMPOOL_CHECK) {
			struct buffer *b = &buffers[handle_index(h)];
			if (unlikely(handle_index(h) >= capacity) || !owner_is(b, mine, h)) {
				pool_unfree(p, handle + i + 1, n - i - 1);
				return false;
			}
			store_relaxed(&b->handle, h + GENERATION_ONE);
		}
		room[i] = h + SHMPOOL_CHECK * GENERATION_ONE;
	}
	count_up(&m->cache_pushed, n);
	store_release(&m->cache_top, (cache_position)(top + n)); /* [CACHE] */
	return true;
}

/* Frees n buffers, none twice: all, or -EINVAL, -ESTALE, -EPERM and nothing. */
static inline int qmempool_free_bulk(struct qmempool *p, struct member *m, const uint64_t *handle,
				     uint32_t n)
{
	return likely(cache_free(p, m, handle, n)) ? 0 : qmempool_free_slow(p, m, handle, n);
}

static ALWAYS_INLINE int qmempool_alloc(struct qmempool *p, struct member *m, uint64_t *handle)
{
	uint64_t slow; /* so that *handle may stay in a register */
	if (likely(cache_pop(p, m, handle, 1)))
		return 0;
	int error = qmempool_alloc_slow(p, m, &slow, 1);
	*handle = slow;
	return error;
}

/* The same from m's cache and the shared queue only: no system call but to wake somebody, and no
 * look at every buffer or member. -EAGAIN if neither has one. */
static ALWAYS_INLINE int qmempool_alloc_quick(struct qmempool *p, struct member *m,
					      uint64_t *handle)
{
	uint64_t slow; /* so that *handle may stay in a register */
	if (likely(cache_pop(p, m, handle, 1)))
		return 0;
	int error = qmempool_refill(p, m, &slow);
	*handle = slow;
	return error;
}

/* qmempool_free_bulk of one, whose handle stays in a register. */
static ALWAYS_INLINE int qmempool_free(struct qmempool *p, struct member *m, uint64_t handle)
{
	const cache_position top = load_relaxed(&m->cache_top);
	if (unlikely(cache_between_own(load_acquire(&m->cache_bottom), top) >=
		     p->cache_size)) /* [CACHE] */
		return qmempool_free_one(p, m, handle);
	if (SHMPOOL_CHECK) {
		struct buffer *b = &p->buffers[handle_index(handle)];
		if (unlikely(handle_index(handle) >= p->capacity) || !owner_is(b, m->tag, handle))
			return qmempool_free_one(p, m, handle);
		handle += GENERATION_ONE;
		store_relaxed(&b->handle, handle);
	}
	count_up(&m->cache_pushed, 1);
	m->cache[top & p->cache_mask] = handle;
	store_release(&m->cache_top, (cache_position)(top + 1)); /* [CACHE] */
	return 0;
}

#endif
