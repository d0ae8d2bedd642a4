/* SPDX-License-Identifier: Apache-2.0
 *
 * pool_ours.c - our pool and its queues.
 */
#define _GNU_SOURCE
#include "our_pool.h"
#include "pool_loops.h"

static struct our_pool pool = { .number = -1 };
static int queue;

static ALWAYS_INLINE uint32_t alloc(void *end, uint64_t *handle, uint32_t n)
{
	return our_alloc(end, handle, n) ? 0 : n;
}

static ALWAYS_INLINE void give(void *end, const uint64_t *handle, uint32_t n)
{
	if (unlikely(our_free(end, handle, n)))
		_exit(1);
}

static ALWAYS_INLINE uint64_t *data(void *at, uint64_t handle)
{
	const struct our_end *end = at;
	return (uint64_t *)segment_data(&end->pool->segment, handle_index(handle));
}

static ALWAYS_INLINE uint32_t put(void *at, const uint64_t *handle, uint32_t n, bool single)
{
	const struct our_end *end = at;
	(void)single; /* the queue knows */
	return queue_put(end->pool, end->member, end->queue, handle, n) ? 0 : n;
}

static ALWAYS_INLINE uint32_t get(void *at, uint64_t *handle, uint32_t n, bool single)
{
	const struct our_end *end = at;
	int got = queue_get(end->pool, end->member, end->queue, handle, n);
	(void)single;
	return got > 0 ? (uint32_t)got : 0;
}

static int create(struct bench_run *run)
{
	(void)run;
	if (pool.number >= 0) { /* the previous sample's */
		shmpool_close_wait(pool.number);
		munmap(pool.base, pool.size);
		close(pool.fd);
		pool.number = -1;
	}
	int error =
		our_pool_create(&pool, (struct shmpool_geometry) { .buffer_size = POOL_BUFFER_BYTES,
								   .capacity = POOL_BUFFERS,
								   .prealloc = POOL_BUFFERS,
								   .cache_size = POOL_CACHE,
								   .bulk = POOL_BULK,
								   .refill_multiplier = 1,
								   .members = BENCH_WORKERS_MAX +
									      1, /* the harness */
								   .queues = 1 });
	if (error)
		return error;
	queue = shmpool_queue_create_wait(pool.number, "bench", BENCH_RING, 0, 0, 0, 0);
	return queue < 0 ? queue : 0;
}

/* A forked worker is not a member yet, so it attaches. */
static void work(struct bench_run *run, uint32_t me)
{
	struct our_end end;
	if (our_pool_attach(&pool, queue, &end))
		_exit(1);
	pool_work((struct pool_ops) { alloc, give, data, { put, get } }, run, &end, &end, me);
}

const struct bench_contestant pool_ours = { "pool_ours", create, work, false };
