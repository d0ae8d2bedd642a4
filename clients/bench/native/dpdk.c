/* SPDX-License-Identifier: Apache-2.0
 *
 * dpdk.c - baselines: DPDK's rte_ring, and rte_mempool over it with one explicit cache for each
 * worker.
 *
 * The ring needs no EAL, only memory, which may be shared. The pool needs the EAL, which is started
 * once, in the harness. --no-huge memory is mapped shared, so the forked workers use one pool, as
 * DPDK's secondary processes would.
 *
 * The second variant of the pool adds what recovery needs: an owner word in each buffer's first
 * cache line, which put and get store. Nothing reads it. It shows the cost of moving that line to
 * the other core and back, which any pool with owner words pays.
 *
 * Only this file includes DPDK's headers. Without them the contestants are skipped, and the table
 * says so.
 */
#define _GNU_SOURCE
#include "pool_loops.h"

#ifdef BENCH_DPDK
#include <errno.h>
#include <stdio.h>

#include <rte_eal.h>
#include <rte_mempool.h>

struct end {
	struct rte_mempool *pool;
	struct rte_mempool_cache *cache;
};

#define PUT (1ull << 63) /* in an owner word: a position in the queue, otherwise the owner */

static struct rte_mempool *pool;
static struct rte_mempool_cache *cache[BENCH_WORKERS_MAX];

static ALWAYS_INLINE uint32_t put(void *queue, const uint64_t *handle, uint32_t n, bool single)
{
	void *const *word = (void *const *)handle;
	return single ? rte_ring_sp_enqueue_bulk(queue, word, n, NULL) :
			rte_ring_mp_enqueue_bulk(queue, word, n, NULL);
}

static ALWAYS_INLINE uint32_t get(void *queue, uint64_t *handle, uint32_t n, bool single)
{
	void **word = (void **)handle;
	return single ? rte_ring_sc_dequeue_burst(queue, word, n, NULL) :
			rte_ring_mc_dequeue_burst(queue, word, n, NULL);
}

static ALWAYS_INLINE uint32_t put_owner(void *queue, const uint64_t *handle, uint32_t n,
					bool single)
{
	for (uint32_t i = 0; i < n; i++)
		store_relaxed(pool_address(NULL, handle[i]), PUT + i);
	return put(queue, handle, n, single);
}

static ALWAYS_INLINE uint32_t get_owner(void *queue, uint64_t *handle, uint32_t n, bool single)
{
	uint32_t got = get(queue, handle, n, single);
	for (uint32_t i = 0; i < got; i++)
		store_relaxed(pool_address(NULL, handle[i]), (uintptr_t)queue);
	return got;
}

static ALWAYS_INLINE uint32_t alloc(void *at, uint64_t *handle, uint32_t n)
{
	struct end *end = at;
	return rte_mempool_generic_get(end->pool, (void **)handle, n, end->cache) ? 0 : n;
}

static ALWAYS_INLINE void give(void *at, const uint64_t *handle, uint32_t n)
{
	struct end *end = at;
	rte_mempool_generic_put(end->pool, (void *const *)handle, n, end->cache);
}

/* Makes run->queue. */
static int create_queue(struct bench_run *run)
{
	ssize_t bytes = rte_ring_get_memsize(BENCH_RING);
	if (bytes < 0)
		return (int)bytes;
	run->queue = bench_memory(run, (size_t)bytes);
	int error = rte_ring_init(run->queue, "bench", BENCH_RING, 0);
	if (!error)
		queue_fill((struct queue_ops) { put, get }, run, run->queue);
	return error;
}

static void work_queue(struct bench_run *run, uint32_t me)
{
	queue_work((struct queue_ops) { put, get }, run, run->queue, me, run->cell->single);
}

/* Starts the EAL once. It pins the calling thread to a core; the affinity is restored. */
static int start(void)
{
	static int started;
	static char *argument[] = { "bench",          "--no-huge", "--no-shconf",
				    "--no-pci",       "-m",        "64",
				    "--no-telemetry", "-l",        NULL,
				    "--log-level=1",  NULL };
	char cpu[16];
	cpu_set_t set;
	int i = 0;
	if (started)
		return started;
	sched_getaffinity(0, sizeof(set), &set);
	while (!CPU_ISSET(i, &set))
		i++;
	snprintf(cpu, sizeof(cpu), "%d", i);
	argument[8] = cpu;
	started = rte_eal_init(10, argument) < 0 ? -ENODEV : 1;
	sched_setaffinity(0, sizeof(set), &set);
	return started;
}

static int create_of(struct bench_run *run, uint32_t buffer_bytes)
{
	struct end *end = bench_memory(run, BENCH_WORKERS_MAX * sizeof(*end));
	int error = start();
	if (error >= 0)
		error = create_queue(run);
	if (error < 0)
		return error;
	rte_mempool_free(pool);
	pool = rte_mempool_create("bench", POOL_BUFFERS, buffer_bytes, 0, 0, NULL, NULL, NULL, NULL,
				  SOCKET_ID_ANY, 0);
	if (!pool)
		return -ENOMEM;
	for (uint32_t i = 0; i < BENCH_WORKERS_MAX; i++) {
		rte_mempool_cache_free(cache[i]);
		cache[i] = rte_mempool_cache_create(POOL_CACHE, SOCKET_ID_ANY);
		if (!cache[i])
			return -ENOMEM;
		end[i] = (struct end) { pool, cache[i] };
	}
	run->state = end;
	return 0;
}

static int create(struct bench_run *run)
{
	return create_of(run, POOL_BUFFER_BYTES);
}

/* The buffers are one cache line long, because nothing else is accessed. So they take as few pages
 * as our headers. */
static int create_owner(struct bench_run *run)
{
	return create_of(run, CACHE_LINE);
}

static ALWAYS_INLINE void work_with(const struct queue_ops queue, struct bench_run *run,
				    uint32_t me)
{
	struct end *end = run->state;
	pool_work((struct pool_ops) { alloc, give, pool_address, queue }, run, end + me, run->queue,
		  me);
}

static void work(struct bench_run *run, uint32_t me)
{
	work_with((struct queue_ops) { put, get }, run, me);
}

static void work_owner(struct bench_run *run, uint32_t me)
{
	work_with((struct queue_ops) { put_owner, get_owner }, run, me);
}
#else
#define create_queue NULL
#define work_queue NULL
#define create NULL
#define create_owner NULL
#define work NULL
#define work_owner NULL
#endif

const struct bench_contestant queue_rte = { "queue_rte", create_queue, work_queue, false };
const struct bench_contestant pool_rte = { "pool_rte", create, work, false };
const struct bench_contestant pool_rte_owner = { "pool_rte_owner", create_owner, work_owner,
						 false };
