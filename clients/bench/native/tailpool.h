/* SPDX-License-Identifier: Apache-2.0
 *
 * tailpool.h - the original pool's algorithm, a new implementation, as a baseline.
 *
 * Free buffers are in one shared multi-producer/multi-consumer ring (tailwait.h). Each worker has a
 * local cache in private memory; it is refilled from the ring and flushed into it in bulks. Nothing
 * is checked. The buffers in the cache of a worker that dies are lost.
 *
 * As in the original, the cache is a small single-producer/single-consumer ring with atomic
 * positions. A plain private stack, which a compiler may keep in registers over a loop of calls,
 * took 1.1 ns in the same measurement.
 *
 * Any number of workers, each with its own struct tailpool_cache.
 */
#ifndef BENCH_TAILPOOL_H
#define BENCH_TAILPOOL_H

#include "pool_loops.h"
#include "tailwait.h"

struct tailpool_cache {
	struct tailwait *ring;
	struct tailwait *local; /* of POOL_CACHE */
};

static inline uint32_t tailpool_cached(const struct tailpool_cache *c)
{
	return load_relaxed(&c->local->prod.tail) - load_relaxed(&c->local->cons.tail);
}

/* Fills the cache from the ring until it holds n, at most POOL_CACHE - POOL_BULK. */
static __attribute__((noinline, unused)) bool tailpool_refill(struct tailpool_cache *c, uint32_t n)
{
	uint64_t some[POOL_BULK];
	while (tailpool_cached(c) < n) {
		uint32_t got = tailwait_dequeue(c->ring, some, POOL_BULK, false);
		if (!got)
			return false;
		tailwait_enqueue(c->local, some, got, true);
	}
	return true;
}

/* Flushes the oldest POOL_BULK buffers. The ring has room for all. */
static __attribute__((noinline, unused)) void tailpool_flush(struct tailpool_cache *c)
{
	uint64_t some[POOL_BULK];
	uint32_t got = tailwait_dequeue(c->local, some, POOL_BULK, true);
	tailwait_enqueue(c->ring, some, got, false);
}

/* Allocates all n buffers or none. Returns n or 0. */
static ALWAYS_INLINE uint32_t tailpool_alloc(struct tailpool_cache *c, uint64_t *handle, uint32_t n)
{
	if (unlikely(tailpool_cached(c) < n) && !tailpool_refill(c, n))
		return 0;
	return tailwait_dequeue(c->local, handle, n, true);
}

static ALWAYS_INLINE void tailpool_free(struct tailpool_cache *c, const uint64_t *handle,
					uint32_t n)
{
	while (unlikely(!tailwait_enqueue(c->local, handle, n, true)))
		tailpool_flush(c);
}

#endif
