/* SPDX-License-Identifier: Apache-2.0
 *
 * call.h - the keys and answers of shmpool.h, taken apart and put together.
 */
#ifndef SHMPOOL_CALL_H
#define SHMPOOL_CALL_H

#include "opening.h"
#include "queue.h"
#include "shmpool.h"
#include "wait.h"

#define KEY_GENERATION_MASK 0x7fu

/* What a key names, for the calling thread. */
struct call {
	struct qmempool *p;
	struct member *m;
	const struct alf_ring *ring;
};

static inline uint32_t key_pool(uint64_t key)
{
	return (uint32_t)(key >> 58 | (key >> 32 & 0xffff) << 6);
}

static inline uint32_t key_queue(uint64_t key)
{
	return key >> 48 & 0x3ff;
}

static inline int open_pool(uint32_t number, struct call *c)
{
	c->p = opening_pool(number);
	if (unlikely(!c->p))
		return opening_missing(number);
	c->m = opening_member(number);
	if (unlikely(!c->m)) {
		int error = opening_attach(number);
		if (error)
			return error;
		c->m = opening_member(number);
	}
	return 0;
}

static inline int open_key(uint64_t key, struct call *c)
{
	return open_pool(key_pool(key), c);
}

static inline int open_queue(uint64_t key, struct call *c)
{
	int error = open_key(key, c);
	if (unlikely(error))
		return error;
	c->ring = queue_ring(c->p, key_queue(key));
	return likely(c->ring) ? 0 : queue_missing(c->p, key_queue(key));
}

/* Attempts of calls that hold their language's lock: -EINPROGRESS in place of -EAGAIN and -ENOBUFS
 * if the same call with wait in its name may find more, because it asks who is dead. */
static inline int call_get(const struct call *c, uint64_t *handle, uint32_t n)
{
	int got = queue_get(c->p, c->m, c->ring, handle, n);
	return unlikely(got == -EAGAIN) && queue_stuck(c->ring, c->m) ? -EINPROGRESS : got;
}

static inline int call_put(const struct call *c, const uint64_t *handle, uint32_t n)
{
	int error = queue_put(c->p, c->m, c->ring, handle, n);
	return unlikely(error == -ENOBUFS) && !alf_ready(c->ring, 0) ? -EINPROGRESS : error;
}

/* The result of a wait until end, which came in place of deadline (wait_slice_end), as one until
 * deadline: -EINTR if that has not come, which is the same to the caller as a signal. */
static inline int64_t waits_on(int64_t result, int64_t end, int64_t deadline)
{
	return (result == -EAGAIN || result == -ENOBUFS) && end != deadline ? -EINTR : result;
}

/* The header that a key names, if it is the caller's and the key is not stale. */
static inline int open_buffer(uint64_t key, struct call *c, struct buffer **b, uint64_t *handle)
{
	uint32_t index = key & ALF_INDEX_MASK;
	if (unlikely(index >= c->p->capacity))
		return -EINVAL;
	*b = pool_buffer(c->p, index);
	*handle = handle_of(index, buffer_generation(*b));
	if (unlikely((handle_generation(*handle) ^ key >> ALF_INDEX_BITS) & KEY_GENERATION_MASK))
		return -ESTALE;
	return qmempool_check(c->p, c->m, *handle);
}

/* Where the payload of a buffer lies, as its header says: each word is read once, and what leads
 * outside the buffer is taken for nothing. */
static inline struct shmpool_extent extent_of(const struct qmempool *p, uint64_t handle)
{
	const struct buffer *b = pool_buffer(p, handle_index(handle));
	const uint32_t headroom = load_relaxed(&b->headroom), length = load_relaxed(&b->length);
	const uint64_t stride = p->segment.stride;
	if (unlikely(headroom > stride || length > stride - headroom))
		return (struct shmpool_extent) { 0, 0 };
	return (struct shmpool_extent) { headroom, length };
}

/* Members that wait look for dead ones, and members that never wait do too: whoever reads the clock
 * for a header notices when it is time. The next call of a thread that can do without the
 * interpreter's lock does it. */
static inline void notice_time(const struct call *c, int64_t now)
{
	if (unlikely((uint64_t)now >= load_relaxed(&c->p->tend_ns)))
		store_relaxed(&c->p->tend_due, 1);
}

/* Says in the header since when its holder has the buffer: for pool.holders(). */
static inline void held_since(const struct call *c, uint64_t handle, int64_t now)
{
	notice_time(c, now);
	store_relaxed(&pool_buffer(c->p, handle_index(handle))->since, (uint64_t)now);
}

/* Resets the header of a buffer just allocated. -EBADMSG if the local cache held no buffer. */
static inline int fresh(const struct call *c, uint64_t handle, int64_t now)
{
	if (unlikely(handle_index(handle) >= c->p->capacity))
		return -EBADMSG;
	struct buffer *b = pool_buffer(c->p, handle_index(handle));
	notice_time(c, now);
	store_relaxed(&b->length, 0);
	store_relaxed(&b->headroom, (uint32_t)c->p->segment.geometry.headroom);
	store_relaxed(&b->mark, 0);
	store_relaxed(&b->flow_hash, 0);
	store_relaxed(&b->queue, 0);
	store_relaxed(&b->timestamp, 0);
	store_relaxed(&b->failures, 0);
	store_relaxed(&b->since, (uint64_t)now);
	return 0;
}

#endif
