/* SPDX-License-Identifier: Apache-2.0
 *
 * cache.h - the local cache of a member: a stack of free buffers in the segment. Its owner pushes
 * and pops at the top without an atomic read-modify-write; other members steal from the bottom.
 *
 * Who may call what at the same time
 *     cache_steal, cache_request_flush, cache_length   any member, on the cache of any other
 *     everything else                                  the owner, on its own cache
 *
 * cache_bottom is one word for the bottom position and the lock of the cache:
 *
 *     word                             meaning                     a crash of the holder leaves
 *     position                         unlocked                    nothing
 *     | 1 | tag 32 | position 31 |     locked by that member,      a locked cache, of which some
 *                                      which steals or flushes     entries are owned by the thief
 *     | 1 | CACHE_FLUSH_REQUESTED |    the owner is asked to       nothing
 *           position 31 |              flush it
 *
 *     from -> to              by                                   in
 *     unlocked -> locked      a thief                              cache_steal()
 *     unlocked -> requested   a member that waits for a buffer     cache_request_flush()
 *     requested -> locked     the owner, to flush it               cache_flush_if_asked()
 *     requested -> locked     a thief                              cache_steal()
 *     locked -> unlocked      that member, with the new bottom     cache_steal(),
 *                                                                  cache_flush_if_asked()
 *     locked -> requested     that member, while others wait       the same
 *     locked -> requested     a recoverer, if the thief is dead    recover_thieves()
 *     any -> unlocked         the owner, which detaches; the       member_release(),
 *                             recoverer of a dead owner            member_take_slot()
 *
 * CACHE_LOCKED is the highest bit. For the owner a bottom with this bit is further below its top
 * than a cache can hold, so one comparison finds both "too few" and "locked". Entries that a dead
 * thief had taken are told by their owner words and generations (entry_valid() in cache.c).
 *
 * Ordering
 *     [CACHE]  a member's cache. To pop, the owner moves cache_top down and then reads
 *              cache_bottom. A thief locks cache_bottom, calls membarrier(2), then reads cache_top.
 *              The system call is a full barrier on the owner's processor, so the owner's side
 *              costs none: either the thief sees the pop and leaves those handles alone, or the
 *              owner sees the lock and undoes its pop. A push cannot meet a thief, which takes from
 *              the bottom. cache_top is stored with release and read with acquire: it hands over
 *              what was pushed, also when the owner has popped since (C11's release sequence). So
 *              is cache_bottom, which hands over what was taken.
 *
 * Progress: nothing here waits for another member. A cache that another member has locked is passed
 * over. Its owner works without it then. A cache can be stolen from wherever its owner is
 * suspended.
 */
#ifndef SHMPOOL_CACHE_H
#define SHMPOOL_CACHE_H

#include <string.h>

#include "free_ring.h"

#define CACHE_LOCKED (1ull << 63)
#define CACHE_POSITION_BITS 31
#define CACHE_FLUSH_REQUESTED UINT32_MAX /* no tag: its number is larger than any */
_Static_assert(CACHE_SIZE_MAX < 1u << (CACHE_POSITION_BITS - 1), "a locked cache has a length");

/* Returns the word of a cache locked by the member with that tag, or CACHE_FLUSH_REQUESTED. */
static inline uint64_t cache_locked_by(uint32_t tag, uint64_t bottom)
{
	return CACHE_LOCKED | (uint64_t)tag << CACHE_POSITION_BITS |
	       (bottom & ((1u << CACHE_POSITION_BITS) - 1));
}

/* Returns the tag of the member that has locked the cache; CACHE_FLUSH_REQUESTED; 0 if unlocked. */
static inline uint32_t cache_holder(uint64_t bottom)
{
	return bottom & CACHE_LOCKED ? (uint32_t)(bottom >> CACHE_POSITION_BITS) : 0;
}

/* Returns the number of handles between bottom and top, locked or not. It is negative while the
 * owner tries to pop more than there are. */
static inline int64_t cache_between(uint64_t bottom, cache_position top)
{
	if (sizeof(top) < sizeof(bottom))
		return (alf_distance)(top - (cache_position)bottom);
	return (int64_t)((top - bottom) << (64 - CACHE_POSITION_BITS)) >>
	       (64 - CACHE_POSITION_BITS);
}

/* Returns the bottom position, locked or not. */
static inline cache_position cache_bottom_at(uint64_t bottom, cache_position top)
{
	return (cache_position)(top - (cache_position)cache_between(bottom, top));
}

/* cache_between() for the owner: larger than any cache if the cache is locked. */
static ALWAYS_INLINE uint64_t cache_between_own(uint64_t bottom, cache_position top)
{
	if (sizeof(top) < sizeof(bottom))
		return bottom & CACHE_LOCKED ? UINT64_MAX :
					       (cache_position)(top - (cache_position)bottom);
	return top - bottom;
}

/* Returns the number of buffers in a cache. Any thread may ask. */
static inline uint32_t cache_length(const struct segment *s, const struct member *m)
{
	uint64_t bottom = load_acquire(&m->cache_bottom);                 /* [CACHE] */
	int64_t len = cache_between(bottom, load_acquire(&m->cache_top)); /* [CACHE] */
	return (uint64_t)len > (uint64_t)s->geometry.cache_size ? 0 : (uint32_t)len;
}

/* Pops the newest n handles. Returns false, and pops none, if there are fewer, or if the cache is
 * locked or a flush is requested. */
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

/* Pushes n handles. Returns false if they do not fit, or if the cache is locked. */
static inline bool cache_push(struct qmempool *p, struct member *m, const uint64_t *handle,
			      uint32_t n)
{
	cache_position top = load_relaxed(&m->cache_top);
	uint64_t len = cache_between_own(load_acquire(&m->cache_bottom), top); /* [CACHE] */
	uint64_t size = p->cache_size;
	if (n > size || len > size - n)
		return false;
	uint64_t from = top & p->cache_mask, straight = size - from;
	uint32_t first = n < straight ? n : (uint32_t)straight;
	memcpy(&m->cache[from], handle, first * sizeof(*handle));
	if (unlikely(first < n))
		memcpy(m->cache, handle + first, (n - first) * sizeof(*handle));
	count_up(&m->cache_pushed, n);
	store_release(&m->cache_top, (cache_position)(top + n)); /* [CACHE] */
	return true;
}

/* Puts n buffers that m has and nobody freed into its cache, or into the free ring if the cache
 * does not take them. */
static inline void cache_put(struct qmempool *p, struct member *m, const uint64_t *handle,
			     uint32_t n)
{
	if (n && cache_push(p, m, handle, n))
		count_up(&m->counters[COUNT_FREE], -(uint64_t)n); /* nobody freed them */
	else
		free_ring_put(p, m, handle, n);
}

/* Takes up to n handles out of the cache that do not count as allocated. Returns how many. */
static inline uint32_t cache_take(struct qmempool *p, struct member *m, uint64_t *handle,
				  uint32_t n)
{
	uint32_t len = cache_length(&p->segment, m);
	if (n > len)
		n = len;
	if (!n || !cache_pop(p, m, handle, n))
		return 0;
	count_up(&m->counters[COUNT_ALLOC], -(uint64_t)n);
	return n;
}

/* Frees n buffers into the cache. Returns false, and changes nothing, unless they fit there without
 * a wrap and m owns each of them. */
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
	for (uint32_t i = n; i--;) { /* from the last one on: transfer_take_all() */
		const uint64_t h = handle[i];
		struct buffer *b = &buffers[handle_index(h)];
		if (unlikely(handle_index(h) >= capacity) || !owner_is_each(b, mine, h)) {
			pool_unfree(p, handle + i + 1, n - i - 1);
			return false;
		}
		store_relaxed(&b->handle, h + GENERATION_ONE);
		room[i] = h + GENERATION_ONE;
	}
	count_up(&m->cache_pushed, n);
	store_release(&m->cache_top, (cache_position)(top + n)); /* [CACHE] */
	return true;
}

/* The same for one, whose handle stays in a register. */
static ALWAYS_INLINE bool cache_free_one(struct qmempool *p, struct member *m, uint64_t handle)
{
	const cache_position top = load_relaxed(&m->cache_top);
	if (unlikely(cache_between_own(load_acquire(&m->cache_bottom), top) >=
		     p->cache_size)) /* [CACHE] */
		return false;
	struct buffer *b = &p->buffers[handle_index(handle)];
	if (unlikely(handle_index(handle) >= p->capacity) || !owner_is(b, m->tag, handle))
		return false;
	handle += GENERATION_ONE;
	store_relaxed(&b->handle, handle);
	count_up(&m->cache_pushed, 1);
	m->cache[top & p->cache_mask] = handle;
	store_release(&m->cache_top, (cache_position)(top + 1)); /* [CACHE] */
	return true;
}

/* Moves bulks from the top of the cache to the free ring until n more fit. Returns false if they
 * fitted before, or if room cannot be made. */
bool cache_make_room(struct qmempool *p, struct member *m, uint32_t n);

/* Flushes the cache if a flush is requested. Returns false if another member has locked it, or if
 * members still wait for buffers: the owner must not use the cache then. */
bool cache_flush_if_asked(struct qmempool *p, struct member *m);

/* Moves all buffers of the cache to the free ring. Entries that a suspended thief has locked stay
 * in the slot, for other thieves and for the next member of the slot. */
void cache_drain(struct qmempool *p, struct member *m);

/* Takes up to max buffers from the caches of other members for m. Where membarrier(2) is missing it
 * requests a flush instead. Returns how many. */
uint32_t cache_steal(struct qmempool *p, struct member *m, uint64_t *handle, uint32_t max);

/* Requests every member to flush its cache at its next call. */
void cache_request_flush(struct qmempool *p);

#endif
