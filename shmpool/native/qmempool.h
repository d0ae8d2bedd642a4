/* SPDX-License-Identifier: Apache-2.0
 *
 * qmempool.h - a pool of buffers: local caches in front of a free ring in front of a slab.
 *
 * After the qmempool of J. D. Brouer's Linux RFC of December 2014. A member allocates from and
 * frees into a small cache of its own, and touches no shared cache line. The cache is refilled from
 * and flushed into the free ring, a multi-producer/multi-consumer ring, in bulks. When the ring is
 * empty the slab grows. When the slab has its full size, buffers are stolen from other members'
 * caches. Unlike the original, the caches are in the segment, so that other members can reach them.
 *
 * Who may call what at the same time: any number of members, each with its own struct member. Two
 * threads must not use one member at the same time.
 *
 * Ordering
 *     [CACHE]  a member's cache. To pop, its owner lowers cache_top and then reads cache_bottom. A
 *              thief locks cache_bottom, calls membarrier(2), and then reads cache_top. The system
 *              call is a full barrier on the owner's processor, so the owner needs none: either the
 *              thief sees the pop and leaves those handles alone, or the owner sees the lock and
 *              undoes its pop. A push cannot meet a thief, which takes from the bottom. cache_top
 *              publishes what was pushed, also after later pops (C11's release sequence);
 *              cache_bottom publishes what was taken.
 *
 * Progress: an allocation that does not wait takes what it finds in a bounded number of steps, and
 * does not ask which members are dead; blocking_alloc() does, with any deadline. For fairness see
 * blocking_alloc.c. No member waits for another one. A thief skips a cache that another thief has
 * locked. An owner whose cache is locked works without it. A cache can be emptied wherever its
 * owner is suspended.
 *
 * Misuse: a handle has the generation that its buffer had when it was allocated, and each free
 * raises the buffer's. A second free, a stale handle and another member's buffer are errors. A
 * build with SHMPOOL_CHECK=0 leaves these checks out; its fast paths do not touch headers.
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

/* One process's view of a pool. */
struct qmempool {
	struct buffer *buffers;
	uint32_t capacity;
	uint32_t bulk;
	uint64_t cache_size;
	uint64_t cache_mask; /* cache_size - 1; 0 if there is no cache */
	uint64_t absent;     /* hint of slab_grow() */
	struct alf_ring free;
	struct segment segment;
	struct alf_ring **queues; /* of named queues, by number; NULL until first used */
	uint32_t serial;          /* of this opening: opening.h */
	uint32_t closing;
	/* Hints of bypass_take(), shared by threads. Any value is safe. */
	uint32_t bypass_at; /* index of the buffer to inspect next */
	/* The sum of free.prod and pool_shared.abandoned when the last search found nothing. */
	uint64_t bypass_sum;
	int64_t bypass_rest_ns; /* while that sum stays the same, no search before this time */
	/* CLOCK_MONOTONIC: after this time a thread whose calls do not wait asks for dead members
	 * too (lookup.h). */
	uint64_t tend_ns;
	uint32_t tend_due; /* nonzero: that time has passed */
};

/* Binds a checked segment. Returns 0 or -ENOMEM. */
int pool_bind(struct qmempool *p, const struct segment *s);
void pool_unbind(struct qmempool *p);

/* The slow paths of qmempool_alloc_bulk() and qmempool_free_bulk(). */
int qmempool_alloc_slow(struct qmempool *p, struct member *m, uint64_t *handle, uint32_t n);
/* The slow path of qmempool_alloc_quick(). */
int qmempool_refill(struct qmempool *p, struct member *m, uint64_t *handle);
int qmempool_free_slow(struct qmempool *p, struct member *m, const uint64_t *handle, uint32_t n);
/* The slow path of qmempool_free(), whose handle need not be in memory. */
int qmempool_free_one(struct qmempool *p, struct member *m, uint64_t handle);

/* Undoes what a free has done to the first n handles, when it has come to an invalid one: restores
 * their generations. */
void pool_unfree(struct qmempool *p, const uint64_t *handle, uint32_t n);

/* Makes m the owner of a buffer that another thread of its process owns. Returns 0; -ESTALE if the
 * buffer was freed or put since the handle was made; -EPERM if another process's member owns it. */
int qmempool_adopt(struct qmempool *p, struct member *m, uint64_t handle);

/* Ends m when its thread ends. Its slot is free at once, or when other threads of the process have
 * adopted the last of its buffers. One thread of the process at a time. */
void qmempool_end(struct qmempool *p, struct member *m);

/* Flushes m's cache if another member has requested it. Returns false if m may not use its cache
 * now: it is locked, or requested again. */
bool cache_flush_if_asked(struct qmempool *p, struct member *m);

/* Puts n buffers of m into the free ring. Skips handles that are no index, from a corrupted cache.
 * If the ring has no room, abandons buffers to the next sweep: a member is suspended at its head,
 * or it has tombstones further on than FREE_RING_ROUNDS bulks. */
void free_ring_put(struct qmempool *p, struct member *m, const uint64_t *handle, uint32_t n);

/* The same for callers that have more time: moves up to *rounds bulks from the ring's head to its
 * end, and subtracts them from *rounds. */
#define FREE_RING_ROUNDS 8u
void free_ring_put_rounds(struct qmempool *p, struct member *m, const uint64_t *handle, uint32_t n,
			  uint64_t *rounds);

/* Flushes m's cache into the free ring. What a suspended thief has locked stays in the slot, for
 * other thieves and for the slot's next member. */
void cache_drain(struct qmempool *p, struct member *m);

/* Takes up to max buffers from other members' caches. Returns how many. Without membarrier(2) it
 * only requests their owners to flush at their next call. */
uint32_t cache_steal(struct qmempool *p, struct member *m, uint64_t *handle, uint32_t max);

/* Takes up to max free buffers from behind a member that is suspended in the free ring, and
 * abandoned ones. Inspects up to most headers, from where this process stopped last. Returns how
 * many it took. */
uint32_t bypass_take(struct qmempool *p, struct member *m, uint64_t *handle, uint32_t max,
		     uint32_t most);

/* Requests every member to flush its cache at its next call. */
void cache_request_flush(struct qmempool *p);

/* The same as qmempool_alloc_slow(), and from behind a suspended member too, for which it inspects
 * up to looks headers. */
int qmempool_alloc_hard(struct qmempool *p, struct member *m, uint64_t *handle, uint32_t n,
			uint32_t looks);

/* Wakes all members that wait for buffers, since more may be free than were given back. */
void free_ring_wake(struct qmempool *p);

/* Takes 1 to max buffers for m from the free ring, the slab or other members' caches. Returns how
 * many, or -errno if there are none. */
int qmempool_obtain(struct qmempool *p, struct member *m, uint64_t *handle, uint32_t max);

/* Returns the number of buffers that an allocation could get now, as far as counters tell, or most
 * if there are more. */
uint64_t qmempool_count(struct qmempool *p, uint64_t most);

static inline struct buffer *pool_buffer(const struct qmempool *p, uint32_t index)
{
	return &p->buffers[index];
}

/* True if there may be free buffers that only bypass_take() finds. */
static inline bool qmempool_blocked(const struct qmempool *p)
{
	const struct pool_shared *s = segment_shared(&p->segment);
	return !alf_empty(&p->free) || load_relaxed(&s->abandoned) != load_relaxed(&s->swept);
}

/* Pops the newest n handles of m's cache. Only m's thread may call it. Returns false, and pops
 * none, if there are fewer, or if another member has locked the cache or requested a flush. */
static ALWAYS_INLINE bool cache_pop(struct qmempool *p, struct member *m, uint64_t *handle,
				    uint32_t n)
{
	if (n != 1 && unlikely(n > p->cache_size))
		return false;
	const cache_position top = (cache_position)(load_relaxed(&m->cache_top) - n);
	store_relaxed(&m->cache_top, top); /* [CACHE] */
	barrier_asymmetric();
	const uint64_t left = cache_between_own(load_acquire(&m->cache_bottom), top); /* [CACHE] */
	/* Read after the barrier, so that it is an operand of the comparison and needs no
	 * register. */
	const uint64_t size = p->cache_size;
	/* Unsigned: a negative number is larger than any cache. */
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

/* True if header b says that the member with owner word mine owns handle. */
static ALWAYS_INLINE bool owner_is(const struct buffer *b, uint64_t mine, uint64_t handle)
{
	return likely(load_relaxed(&b->owner) == mine) &&
	       likely(load_relaxed(&b->handle) == handle);
}

/* Checks that m may free or put handle; adopts it from another thread of m's process. Returns 0,
 * -EINVAL if it is no index of the pool, -ESTALE or -EPERM. */
static inline int qmempool_check(struct qmempool *p, struct member *m, uint64_t handle)
{
	if (unlikely(handle_index(handle) >= p->capacity))
		return -EINVAL;
	if (SHMPOOL_CHECK &&
	    unlikely(!owner_is(pool_buffer(p, handle_index(handle)), m->tag, handle)))
		return qmempool_adopt(p, m, handle);
	return 0;
}

/* Allocates n buffers, all or none. Returns 0; -EAGAIN if there are fewer; -ENOSPC if the slab
 * could grow and the file system has no room. The headers' user fields are as the last user left
 * them. */
static inline int qmempool_alloc_bulk(struct qmempool *p, struct member *m, uint64_t *handle,
				      uint32_t n)
{
	if (likely(cache_pop(p, m, handle, n)))
		return 0;
	return qmempool_alloc_slow(p, m, handle, n);
}

/* Frees n buffers into m's cache. Returns false, and changes nothing, unless they fit into it
 * without wrapping, and m owns each of them. */
static ALWAYS_INLINE bool cache_free(struct qmempool *p, struct member *m, const uint64_t *handle,
				     uint32_t n)
{
	/* Read once: the compiler cannot know that the stores of generations below do not change
	 * them. */
	const cache_position top = load_relaxed(&m->cache_top);
	const uint64_t len = cache_between_own(load_acquire(&m->cache_bottom), top); /* [CACHE] */
	const uint64_t size = p->cache_size;
	const uint64_t mine = m->tag, capacity = p->capacity;
	struct buffer *const buffers = p->buffers;
	uint64_t *const room = &m->cache[top & p->cache_mask];
	if (unlikely(n > size || len > size - n || room + n > m->cache + size))
		return false;
#pragma GCC unroll 4
	for (uint32_t i = n; i--;) { /* from the last one down: see transfer_take_all() */
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

/* Frees n buffers, all or none. Returns 0, -EINVAL, -ESTALE or -EPERM. None may be named twice. */
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

/* Allocates a buffer from m's cache or the free ring only. Makes no system call except to wake a
 * sleeper, and scans neither buffers nor members. Returns 0, or -EAGAIN if neither has one. */
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

/* qmempool_free_bulk() of one handle, which stays in a register. */
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
