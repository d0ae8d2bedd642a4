/* SPDX-License-Identifier: Apache-2.0
 *
 * original.c - baselines: the algorithms of 2014, in a new implementation. The queue is a tail-wait
 * ring (tailwait.h).
 *
 * The pool's free buffers are in one shared ring. Each worker has a local cache in private memory;
 * it is refilled from the ring and flushed into it in bulks. Nothing is checked. The buffers in the
 * cache of a worker that dies are lost.
 *
 * As in the original, the cache is a small single-producer/single-consumer ring with atomic
 * positions. A plain private stack, which a compiler may keep in registers over a loop of calls,
 * took 1.1 ns in the same measurement.
 */
#include "pool_loops.h"
#include "tailwait.h"

/* One worker's access to the pool. */
struct end {
	_Alignas(2 * CACHE_LINE) struct tailwait *ring;
	struct tailwait *cache; /* of POOL_CACHE */
};

static inline uint32_t cached(const struct end *end)
{
	return load_relaxed(&end->cache->prod.tail) - load_relaxed(&end->cache->cons.tail);
}

/* Fills the cache from the ring until it holds n, at most POOL_CACHE - POOL_BULK. */
static __attribute__((noinline)) bool refill(struct end *end, uint32_t n)
{
	uint64_t some[POOL_BULK];
	while (cached(end) < n) {
		uint32_t got = tailwait_dequeue(end->ring, some, POOL_BULK, false);
		if (!got)
			return false;
		tailwait_enqueue(end->cache, some, got, true);
	}
	return true;
}

/* Flushes the oldest POOL_BULK buffers. The ring has room for all. */
static __attribute__((noinline)) void flush(struct end *end)
{
	uint64_t some[POOL_BULK];
	uint32_t got = tailwait_dequeue(end->cache, some, POOL_BULK, true);
	tailwait_enqueue(end->ring, some, got, false);
}

static ALWAYS_INLINE uint32_t alloc(void *at, uint64_t *handle, uint32_t n)
{
	struct end *end = at;
	if (unlikely(cached(end) < n) && !refill(end, n))
		return 0;
	return tailwait_dequeue(end->cache, handle, n, true);
}

static ALWAYS_INLINE void give(void *at, const uint64_t *handle, uint32_t n)
{
	struct end *end = at;
	while (unlikely(!tailwait_enqueue(end->cache, handle, n, true)))
		flush(end);
}

static int create(struct bench_run *run)
{
	struct tailwait *ring = tailwait_create(run, POOL_BUFFERS);
	struct end *end = bench_memory(run, BENCH_WORKERS_MAX * sizeof(*end));
	char *buffer = bench_memory(run, (size_t)POOL_BUFFERS * POOL_BUFFER_BYTES);
	for (uint32_t i = 0; i < POOL_BUFFERS; i++) {
		uint64_t handle = (uintptr_t)(buffer + (size_t)i * POOL_BUFFER_BYTES);
		tailwait_enqueue(ring, &handle, 1, false);
	}
	for (uint32_t i = 0; i < BENCH_WORKERS_MAX; i++)
		end[i] = (struct end) { ring, tailwait_create(run, POOL_CACHE) };
	run->state = end;
	run->queue = tailwait_create(run, BENCH_RING);
	return 0;
}

static void work(struct bench_run *run, uint32_t me)
{
	struct end *end = run->state;
	pool_work((struct pool_ops) { alloc, give, pool_address, TAILWAIT_OPS }, run, end + me,
		  run->queue, me);
}

static int create_queue(struct bench_run *run)
{
	run->queue = tailwait_create(run, BENCH_RING);
	queue_fill(TAILWAIT_OPS, run, run->queue);
	return 0;
}

static void work_queue(struct bench_run *run, uint32_t me)
{
	queue_work(TAILWAIT_OPS, run, run->queue, me, run->cell->single);
}

const struct bench_contestant pool_original = { "pool_original", create, work, false };
const struct bench_contestant queue_tailwait = { "queue_tailwait", create_queue, work_queue,
						 false };
