/* SPDX-License-Identifier: Apache-2.0
 *
 * qmempool.h - a pool of buffers: local caches over a shared queue over a slab.
 *
 * After the qmempool of J. D. Brouer's Linux RFC of December 2014: a member allocates from and frees
 * into a small cache of its own and touches nothing shared; the cache is refilled from, and flushed
 * into, a shared multi-producer/multi-consumer ring in bulks; when that runs dry the slab grows, and
 * when the slab is at its capacity, what lies in other members' caches is fetched. Unlike the
 * original, the caches lie in the segment, so that others can reach them.
 *
 * Who may call what at the same time: any number of members, each with its own struct member. One
 * member must not be used by two threads at once.
 *
 * Ordering
 *     [CACHE]   a member's cache. To pop, its owner moves cache_out first and then looks at thief; a
 *               thief writes thief, calls membarrier(2), then reads where the top is. The system
 *               call is a full barrier on the owner's processor, so the owner's side costs none:
 *               either the thief sees the pop and leaves those handles alone, or the owner sees the
 *               thief and takes its pop back. Pushing cannot meet a thief, who takes from the
 *               bottom. cache_in hands over what was pushed, cache_stolen and thief what was taken.
 *
 * Progress: nothing here waits for another member. A cache whose owner is in the middle of it, or
 * that another thief has, is passed over; an owner whose cache is being emptied works without it. A cache can
 * be emptied wherever its owner has stopped.
 *
 * Misuse: a handle carries the generation its buffer had when it was allocated, and a free changes
 * the buffer's; a second free, a stale handle and somebody else's buffer are errors. SHMPOOL_CHECK=0
 * leaves that out: then headers are not touched on the fast path at all.
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
	uint32_t cache_size;
	uint32_t bulk;
	struct slab_hint absent;
	struct alf_ring free;
	struct segment segment;
	struct alf_ring *queues; /* of named queues, by number; slot is NULL until bound */
	uint32_t serial;         /* of this opening: local.h */
	uint32_t closing;
	uint32_t waiters;   /* threads of this process inside a call that may sleep */
	uint64_t looked_ns; /* when this process last asked the kernel who is dead: recover.c */
};

/* Binds a checked segment. 0, -ENOMEM, -EBADMSG. */
int qmempool_bind(struct qmempool *p, const struct segment *s);
void qmempool_unbind(struct qmempool *p);

/* What the fast paths fall back to. */
int qmempool_alloc_slow(struct qmempool *p, struct member *m, uint64_t *handle, uint32_t n);
void qmempool_free_slow(struct qmempool *p, struct member *m, const uint64_t *handle, uint32_t n);

/* Makes buffers of another thread of m's process m's own. 0; -ESTALE freed or handed on since the
 * handle was made; -EPERM somebody else's. */
int qmempool_adopt(struct qmempool *p, struct member *m, uint64_t handle);

/* Flushes m's cache if somebody asks for it. False if the cache is not m's to use now. */
bool qmempool_honour(struct qmempool *p, struct member *m);

/* Gives n buffers of m's to the shared queue. What is no buffer, because somebody scribbled over a cache, is
 * left out; what does not fit because somebody has stopped at its head is abandoned to the next sweep. */
void qmempool_give(struct qmempool *p, struct member *m, const uint64_t *handle, uint32_t n);

/* Puts m's cache into the shared queue. What a thief that has stopped leaves there stays in the slot, for
 * other thieves and for the slot's next member. */
void qmempool_drain(struct qmempool *p, struct member *m);

/* Fetches up to max buffers from other members' caches; without membarrier(2) their owners are asked
 * to flush at their next call. */
uint32_t qmempool_steal(struct qmempool *p, struct member *m, uint64_t *handle, uint32_t max);

/* Asks every member to flush its cache at its next call. */
void qmempool_request(struct qmempool *p);

/* Like qmempool_alloc_bulk, sleeping until deadline_ns (CLOCK_MONOTONIC) at most for buffers. Also
 * -EINTR, -ESHUTDOWN. */
int qmempool_alloc_wait(struct qmempool *p, struct member *m, uint64_t *handle, uint32_t n,
			int64_t deadline_ns);

static inline struct buffer *qmempool_buffer(const struct qmempool *p, uint32_t index)
{
	return &p->buffers[index];
}

/* Fetches the header and the first line of the data of a buffer that is soon to be used. */
static inline void qmempool_prefetch(const struct qmempool *p, uint32_t index)
{
	prefetch_write(qmempool_buffer(p, index));
	prefetch_write(segment_data(&p->segment, index) + p->segment.geometry.headroom);
}

/* Pops the newest n handles of m's cache, by its owner: all, or none if there are not so many or
 * somebody empties the cache or asks for it. */
static inline bool cache_pop(struct qmempool *p, struct member *m, uint64_t *handle, uint32_t n)
{
	uint64_t out = load_relaxed(&m->cache_out), top = load_relaxed(&m->cache_in) - out;
	store_relaxed(&m->cache_out, out + n); /* [CACHE] */
	barrier_asymmetric();
	if (likely(!load_acquire(&m->thief))) { /* [CACHE] */
		uint64_t len = top - load_relaxed(&m->cache_stolen), mask = p->cache_size - 1;
		if (likely(n <= len && len <= p->cache_size)) {
			uint64_t from = (top - n) & mask;
			if (n == 1) {
				handle[0] = m->cache[from];
			} else if (likely(from + n <= p->cache_size)) {
				__builtin_memcpy(handle, &m->cache[from], n * sizeof(*handle));
			} else {
				for (uint32_t i = 0; i < n; i++)
					handle[i] = m->cache[(from + i) & mask];
			}
			return true;
		}
	}
	store_relaxed(&m->cache_out, out);
	return false;
}

/* Pushes n handles plus add onto m's cache, by its owner; false if they do not fit. */
static inline bool cache_push(struct qmempool *p, struct member *m, const uint64_t *handle,
			      uint32_t n, uint64_t add)
{
	uint64_t in = load_relaxed(&m->cache_in), top = in - load_relaxed(&m->cache_out);
	uint64_t len = top - load_acquire(&m->cache_stolen), mask = p->cache_size - 1; /* [CACHE] */
	if (unlikely(len > p->cache_size || len + n > p->cache_size))
		return false;
	uint64_t at = top & mask;
	if (likely(at + n <= p->cache_size))
		for (uint32_t i = 0; i < n; i++)
			m->cache[at + i] = handle[i] + add;
	else
		for (uint32_t i = 0; i < n; i++)
			m->cache[(at + i) & mask] = handle[i] + add;
	store_release(&m->cache_in, in + n); /* [CACHE] */
	return true;
}

/* Whether the header b says that handle is mine, the owner word of the caller. */
static inline bool qmempool_mine(const struct buffer *b, uint64_t mine, uint64_t handle)
{
	return load_relaxed(&b->owner) == mine &&
	       load_relaxed(&b->generation) == handle_generation(handle);
}

/* 0 if m may free or hand on handle, which must name one of the pool's buffers. */
static inline int qmempool_check(struct qmempool *p, struct member *m, uint64_t handle)
{
	if (unlikely(handle_index(handle) >= p->capacity))
		return -EINVAL;
	if (SHMPOOL_CHECK &&
	    unlikely(!qmempool_mine(qmempool_buffer(p, handle_index(handle)), m->tag, handle)))
		return qmempool_adopt(p, m, handle);
	return 0;
}

/* Allocates n buffers: all, or -EAGAIN if there are not so many; -ENOSPC if the slab may grow and the
 * file system has no room. The headers' user fields are as their last user left them. */
static inline int qmempool_alloc_bulk(struct qmempool *p, struct member *m, uint64_t *handle,
				      uint32_t n)
{
	if (likely(cache_pop(p, m, handle, n)))
		return 0;
	return qmempool_alloc_slow(p, m, handle, n);
}

/* Frees n buffers, none twice: all, or -EINVAL, -ESTALE, -EPERM and nothing. */
static inline int qmempool_free_bulk(struct qmempool *p, struct member *m, const uint64_t *handle,
				     uint32_t n)
{
#if SHMPOOL_CHECK
	/* Read once: the compiler cannot know that no generation stored below is one of them. */
	const uint64_t mine = m->tag;
	struct buffer *const buffers = p->buffers;
	const uint32_t capacity = p->capacity;
	for (uint32_t i = 0; i < n; i++) {
		struct buffer *b = &buffers[handle_index(handle[i])];
		int error = 0;
		if (unlikely(handle_index(handle[i]) >= capacity ||
			     !qmempool_mine(b, mine, handle[i])))
			error = qmempool_check(p, m, handle[i]);
		if (unlikely(error)) {
			while (i--)
				store_relaxed(&buffers[handle_index(handle[i])].generation,
					      handle_generation(handle[i]));
			return error;
		}
		store_relaxed(&b->generation, handle_generation(handle[i]) + 1);
	}
#endif
	if (likely(cache_push(p, m, handle, n, SHMPOOL_CHECK * GENERATION_ONE))) {
		barrier_asymmetric();
		if (unlikely(load_acquire(
			    &m->thief))) /* [CACHE] after the push: who waits gets it */
			qmempool_honour(p, m);
		return 0;
	}
	qmempool_free_slow(p, m, handle, n);
	return 0;
}

static inline int qmempool_alloc(struct qmempool *p, struct member *m, uint64_t *handle)
{
	return qmempool_alloc_bulk(p, m, handle, 1);
}

/* qmempool_free_bulk of one, whose handle stays in a register. */
static inline int qmempool_free(struct qmempool *p, struct member *m, uint64_t handle)
{
	int error = qmempool_check(p, m, handle);
	if (unlikely(error))
		return error;
#if SHMPOOL_CHECK
	store_relaxed(&qmempool_buffer(p, handle_index(handle))->generation,
		      handle_generation(handle) + 1);
#endif
	if (likely(cache_push(p, m, &handle, 1, SHMPOOL_CHECK * GENERATION_ONE))) {
		barrier_asymmetric();
		if (unlikely(load_acquire(&m->thief))) /* [CACHE] as above */
			qmempool_honour(p, m);
		return 0;
	}
	uint64_t cold = handle;
	qmempool_free_slow(p, m, &cold, 1);
	return 0;
}

#endif
