/* SPDX-License-Identifier: Apache-2.0
 *
 * lookup.h - what a key of binding.h names, for the calling thread; one attempt with it; and a
 * buffer's header on its way in and out.
 */
#ifndef SHMPOOL_LOOKUP_H
#define SHMPOOL_LOOKUP_H

#include "binding.h"
#include "bytes.h"
#include "opening.h"
#include "queue.h"
#include "wait.h"

/* binding.h shows the parts of a key. */
#define KEY_SLOT_SHIFT 56
#define KEY_QUEUE_SHIFT 46
#define KEY_SERIAL_SHIFT 32
#define KEY_GENERATION_MASK 0x7fu

/* What a key names. */
struct lookup {
	struct qmempool *p;
	struct member *m;
	const struct alf_ring *ring;
};

/* Returns the key of a pool of that number, and of one of its queues. */
static inline uint64_t key_of(uint32_t number, uint32_t queue)
{
	return (uint64_t)(number % OPENING_POOLS_MAX) << KEY_SLOT_SHIFT |
	       (uint64_t)(number / OPENING_POOLS_MAX) << KEY_SERIAL_SHIFT |
	       (uint64_t)queue << KEY_QUEUE_SHIFT;
}

static inline uint32_t key_pool(uint64_t key)
{
	return (uint32_t)(key >> KEY_SLOT_SHIFT | (key >> KEY_SERIAL_SHIFT & OPENING_SERIAL_MAX)
							  << OPENING_SLOT_BITS);
}

static inline uint32_t key_queue(uint64_t key)
{
	return key >> KEY_QUEUE_SHIFT & 0x3ff;
}

/* The size class that an allocation names. */
static inline uint32_t key_class(uint64_t key)
{
	return key & (CLASSES_MAX - 1);
}

static inline int lookup_pool(uint32_t number, struct lookup *c)
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

static inline int lookup_key(uint64_t key, struct lookup *c)
{
	return lookup_pool(key_pool(key), c);
}

static inline int lookup_queue(uint64_t key, struct lookup *c)
{
	int error = lookup_key(key, c);
	if (unlikely(error))
		return error;
	c->ring = queue_ring(c->p, key_queue(key));
	return likely(c->ring) ? 0 : queue_missing(c->p, key_queue(key));
}

/* The same for a call that puts: the ring is the lane of the calling thread. */
static inline int lookup_queue_in(uint64_t key, struct lookup *c)
{
	int error = lookup_queue(key, c);
	if (likely(!error))
		c->ring = queue_in(c->m, c->ring);
	return error;
}

/* Finds a queue by numbers for a call that reads only, and so needs no member. Returns 0, or what
 * the call returns. */
static inline int lookup_to_read(uint32_t pool, uint32_t queue, struct lookup *c)
{
	*c = (struct lookup) { .p = opening_pool(pool) };
	if (!c->p)
		return opening_missing(pool);
	c->ring = queue_ring(c->p, queue);
	return c->ring ? 0 : (int)opening_read(pool, queue_missing(c->p, queue));
}

/* One attempt. -EINPROGRESS in place of -EAGAIN and -ENOBUFS if a blocking call may succeed,
 * because it recovers dead members. */
static inline int lookup_get(const struct lookup *c, uint64_t *handle, uint32_t n)
{
	int got = queue_get(c->p, c->m, c->ring, handle, n);
	return unlikely(got == -EAGAIN) && queue_stuck(c->ring, c->m) ? -EINPROGRESS : got;
}

static inline int lookup_put(const struct lookup *c, const uint64_t *handle, uint32_t n)
{
	int error = queue_put(c->p, c->m, c->ring, handle, n);
	return unlikely(error == -ENOBUFS) && !alf_ready(c->ring, 0) ? -EINPROGRESS : error;
}

/* Finds the header that a key names: -EPERM if it belongs to another member's process, -ESTALE if
 * the key is stale. */
static inline int lookup_buffer(uint64_t key, struct lookup *c, struct buffer **b, uint64_t *handle)
{
	uint32_t index = key & ALF_INDEX_MASK;
	if (unlikely(index >= c->p->total))
		return -EINVAL;
	*b = pool_buffer(c->p, index);
	*handle = handle_of(index, buffer_generation(*b));
	if (unlikely((handle_generation(*handle) ^ key >> ALF_INDEX_BITS) & KEY_GENERATION_MASK))
		return -ESTALE;
	return qmempool_check(c->p, c->m, *handle);
}

/* Members that wait recover dead ones. So that members that never wait do too, every call that
 * reads the clock for a header checks whether it is time, and a later call without the
 * interpreter's lock recovers (shmpool_tend_wait). */
static inline void lookup_notice_time(const struct lookup *c, int64_t now)
{
	if (unlikely((uint64_t)now >= load_relaxed(&c->p->tend_ns)))
		store_relaxed(&c->p->tend_due, 1);
}

/* Records in the header since when its holder has the buffer: Pool.holders() reports it. */
static inline void header_set_since(const struct lookup *c, uint64_t handle, int64_t now)
{
	lookup_notice_time(c, now);
	store_relaxed(&pool_buffer(c->p, handle_index(handle))->since, (uint64_t)now);
}

/* Resets the header of a buffer just allocated from a class or a larger one. -EBADMSG if the handle
 * is none of them: a local cache or a free ring was corrupted. */
static inline int header_reset(const struct lookup *c, uint32_t class, uint64_t handle, int64_t now)
{
	const uint32_t first = class ? pool_class(c->p, class)->segment.first : 0;
	if (unlikely(handle_index(handle) - first >= c->p->total - first))
		return -EBADMSG;
	struct buffer *b = pool_buffer(c->p, handle_index(handle));
	lookup_notice_time(c, now);
	store_relaxed(&b->length, 0);
	store_relaxed(&b->headroom, (uint32_t)c->p->segment.geometry.headroom);
	store_relaxed(&b->mark, 0);
	store_relaxed(&b->flow_hash, 0);
	store_relaxed(&b->queue, 0);
	store_relaxed(&b->timestamp, 0);
	store_relaxed(&b->failures_link, 0);
	store_relaxed(&b->since, (uint64_t)now);
	return 0;
}

/* Takes a buffer from the local cache, or refills that, and resets its header. -EINPROGRESS if
 * there is none: a blocking call takes one from anywhere. */
static inline int lookup_alloc(const struct lookup *c, uint64_t *handle, int64_t now)
{
	int error = qmempool_alloc_quick(c->p, c->m, handle);
	if (likely(!error))
		return header_reset(c, 0, *handle, now);
	return error == -EAGAIN ? -EINPROGRESS : error;
}

/* The same from a size class or, if that has none, a larger one. */
static inline int lookup_alloc_class(const struct lookup *c, uint32_t class, uint64_t *handle,
				     int64_t now)
{
	const uint32_t least = class;
	int error = -EAGAIN;
	for (; class < segment_classes(&c->p->segment) && error == -EAGAIN; class ++) {
		struct qmempool *of = pool_class(c->p, class);
		error = qmempool_alloc_quick(of, pool_block(of, c->m), handle);
	}
	if (unlikely(error))
		return error == -EAGAIN ? -EINPROGRESS : error;
	error = header_reset(c, least, *handle, now);
	if (unlikely(error)) /* a smaller buffer, or none */
		qmempool_free(c->p, c->m, *handle);
	return error;
}

/* Returns the smallest class whose new buffers hold length bytes, or the number of classes. */
static inline uint32_t lookup_class(const struct qmempool *p, uint64_t length)
{
	const uint32_t classes = segment_classes(&p->segment);
	const uint64_t needed = length + (uint64_t)p->segment.geometry.headroom;
	uint32_t class = 1;
	if (likely(needed <= p->segment.stride))
		return 0;
	while (class < classes && needed > pool_class((struct qmempool *)p, class)->segment.stride)
		class ++;
	return class;
}

#endif
