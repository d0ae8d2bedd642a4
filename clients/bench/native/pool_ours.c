/* SPDX-License-Identifier: Apache-2.0
 *
 * pool_ours.c - our pool and its queues, in a segment on a memfd.
 */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <unistd.h>

#include "binding.h"
#include "opening.h"
#include "pool_loops.h"
#include "queue.h"

struct end {
	struct qmempool *pool;
	struct member *member;
	const struct alf_ring *queue;
};

static int pool_number = -1, queue_number;
static int fd = -1;
static void *base = MAP_FAILED;
static size_t size;

static ALWAYS_INLINE uint32_t alloc(void *at, uint64_t *handle, uint32_t n)
{
	const struct end *end = at;
	int error = n == 1 ? qmempool_alloc(end->pool, end->member, handle) :
			     qmempool_alloc_bulk(end->pool, end->member, handle, n);
	return error ? 0 : n;
}

static ALWAYS_INLINE void give(void *at, const uint64_t *handle, uint32_t n)
{
	const struct end *end = at;
	int error = n == 1 ? qmempool_free(end->pool, end->member, handle[0]) :
			     qmempool_free_bulk(end->pool, end->member, handle, n);
	if (unlikely(error))
		_exit(1);
}

static ALWAYS_INLINE uint32_t put(void *at, const uint64_t *handle, uint32_t n)
{
	const struct end *end = at;
	return queue_put(end->pool, end->member, end->queue, handle, n) ? 0 : n;
}

static ALWAYS_INLINE uint32_t get(void *at, uint64_t *handle, uint32_t n)
{
	const struct end *end = at;
	int got = queue_get(end->pool, end->member, end->queue, handle, n);
	return got > 0 ? (uint32_t)got : 0;
}

static ALWAYS_INLINE uint64_t *data(void *at, uint64_t handle)
{
	const struct end *end = at;
	return (uint64_t *)segment_data(&end->pool->segment, handle_index(handle));
}

/* Closes the pool of the previous sample. */
static void discard(void)
{
	if (pool_number >= 0)
		shmpool_close_wait(pool_number);
	if (base != MAP_FAILED)
		munmap(base, size);
	if (fd >= 0)
		close(fd);
	pool_number = fd = -1;
	base = MAP_FAILED;
}

static int create(struct bench_run *run)
{
	struct shmpool_geometry g = { .buffer_size = POOL_BUFFER_BYTES,
				      .capacity = POOL_BUFFERS,
				      .prealloc = POOL_BUFFERS,
				      .cache_size = POOL_CACHE,
				      .bulk = POOL_BULK,
				      .refill_multiplier = 1,
				      .members = BENCH_WORKERS_MAX + 1, /* the harness is one */
				      .queues = 1 };
	struct segment s;
	struct shmpool_refusal why;
	(void)run;
	discard();
	int error = segment_plan(&s, &g, &why);
	if (error)
		return error;
	size = g.size;
	fd = memfd_create("bench", MFD_CLOEXEC);
	if (fd < 0 || ftruncate(fd, (off_t)size))
		return -errno;
	base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (base == MAP_FAILED)
		return -errno;
	error = shmpool_create_wait(base, fd, &g);
	if (error)
		return error;
	pool_number = shmpool_open(base, size, fd, "", 1);
	if (pool_number < 0)
		return pool_number;
	queue_number = shmpool_queue_create(pool_number, "bench", BENCH_RING, 0, 0, 0, 0);
	return queue_number < 0 ? queue_number : 0;
}

/* A forked worker is not a member yet, so it attaches. */
static void work(struct bench_run *run, uint32_t me)
{
	uint32_t number = (uint32_t)pool_number;
	struct end end = { .pool = opening_pool(number) };
	if (opening_attach(number))
		_exit(1);
	end.member = opening_member(number);
	end.queue = queue_ring(end.pool, (uint32_t)queue_number);
	pool_work((struct pool_ops) { alloc, give, put, get, data }, run, &end, me);
}

const struct bench_contestant pool_ours = { "pool", OURS, create, work, false };
