/* SPDX-License-Identifier: Apache-2.0
 *
 * pool_original.c - baseline: the original qmempool algorithm (tailpool.h). A handle is an address.
 * It is the same in every worker, because they are forked after the memory is mapped.
 */
#include "tailpool.h"

struct end {
	_Alignas(2 * CACHE_LINE) struct tailpool_cache cache;
	struct tailwait *queue;
};

static ALWAYS_INLINE uint32_t alloc(void *end, uint64_t *handle, uint32_t n)
{
	return tailpool_alloc(&((struct end *)end)->cache, handle, n);
}

static ALWAYS_INLINE void give(void *end, const uint64_t *handle, uint32_t n)
{
	tailpool_free(&((struct end *)end)->cache, handle, n);
}

static ALWAYS_INLINE uint32_t put(void *end, const uint64_t *handle, uint32_t n)
{
	return tailwait_enqueue(((struct end *)end)->queue, handle, n, false);
}

static ALWAYS_INLINE uint32_t get(void *end, uint64_t *handle, uint32_t n)
{
	return tailwait_dequeue(((struct end *)end)->queue, handle, n, false);
}

static ALWAYS_INLINE uint64_t *data(void *end, uint64_t handle)
{
	(void)end;
	return (uint64_t *)(uintptr_t)handle;
}

static int create(struct bench_run *run)
{
	struct tailwait *ring = run_memory(run, tailwait_bytes(POOL_BUFFERS));
	struct tailwait *queue = run_memory(run, tailwait_bytes(BENCH_RING));
	struct end *end = run_memory(run, BENCH_WORKERS_MAX * sizeof(*end));
	char *buffer = run_memory(run, (size_t)POOL_BUFFERS * POOL_BUFFER_BYTES);
	tailwait_init(ring, POOL_BUFFERS);
	tailwait_init(queue, BENCH_RING);
	for (uint32_t i = 0; i < POOL_BUFFERS; i++) {
		uint64_t handle = (uintptr_t)(buffer + (size_t)i * POOL_BUFFER_BYTES);
		tailwait_enqueue(ring, &handle, 1, false);
	}
	for (uint32_t i = 0; i < BENCH_WORKERS_MAX; i++) {
		end[i].cache.ring = ring;
		end[i].cache.local = run_memory(run, tailwait_bytes(POOL_CACHE));
		tailwait_init(end[i].cache.local, POOL_CACHE);
		end[i].queue = queue;
	}
	run->state = end;
	return 0;
}

static void work(struct bench_run *run, uint32_t me)
{
	struct end *end = run->state;
	pool_work((struct pool_ops) { alloc, give, put, get, data }, run, end + me, me);
}

const struct bench_contestant pool_original = { "qmempool of 2014", ORIGINAL, create, work, false };
