/* SPDX-License-Identifier: Apache-2.0
 *
 * tailpool.h - the original pool's algorithm, written afresh as a baseline.
 *
 * Free buffers lie in one shared multi-producer/multi-consumer ring (tailwait.h). Each worker has a
 * cache of its own, in private memory, that is refilled from and flushed into the ring in bulks.
 * Nothing is checked, and what lies in the cache of a worker that dies is lost.
 *
 * Where we differ from the original we are faster, so that the baseline is no straw man: the cache
 * is a plain stack instead of a small single-producer/single-consumer ring.
 *
 * Any number of workers, each with its own struct tailpool_cache.
 */
#ifndef BENCH_TAILPOOL_H
#define BENCH_TAILPOOL_H

#include "pool_loops.h"
#include "tailwait.h"

struct tailpool_cache {
	struct tailwait *ring;
	uint32_t len;
	uint64_t handle[POOL_CACHE];
};

/* Fills the cache from the ring until it holds n, at most POOL_CACHE - POOL_BULK. */
static __attribute__((noinline, unused)) bool tailpool_refill(struct tailpool_cache *c, uint32_t n)
{
	while (c->len < n) {
		uint32_t got = tailwait_dequeue(c->ring, &c->handle[c->len], POOL_BULK, false);
		if (!got)
			return false;
		c->len += got;
	}
	return true;
}

/* Flushes the newest POOL_BULK buffers until there is room for n. The ring has room for all. */
static __attribute__((noinline, unused)) void tailpool_flush(struct tailpool_cache *c, uint32_t n)
{
	while (c->len + n > POOL_CACHE) {
		c->len -= POOL_BULK;
		tailwait_enqueue(c->ring, &c->handle[c->len], POOL_BULK, false);
	}
}

/* Allocates all n buffers or none. Returns n or 0. */
static ALWAYS_INLINE uint32_t tailpool_alloc(struct tailpool_cache *c, uint64_t *handle, uint32_t n)
{
	if (unlikely(c->len < n) && !tailpool_refill(c, n))
		return 0;
	c->len -= n;
	if (n == 1)
		handle[0] = c->handle[c->len];
	else
		memcpy(handle, &c->handle[c->len], n * sizeof(*handle));
	return n;
}

static ALWAYS_INLINE void tailpool_free(struct tailpool_cache *c, const uint64_t *handle,
					uint32_t n)
{
	if (unlikely(c->len + n > POOL_CACHE))
		tailpool_flush(c, n);
	if (n == 1)
		c->handle[c->len] = handle[0];
	else
		memcpy(&c->handle[c->len], handle, n * sizeof(*handle));
	c->len += n;
}

#endif
