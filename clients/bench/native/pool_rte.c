/* SPDX-License-Identifier: Apache-2.0
 *
 * pool_rte.c - baseline: DPDK's rte_mempool over rte_ring, with one explicit cache for each worker.
 *
 * It needs the EAL, which is started once, in the harness. --no-huge memory is mapped shared, so
 * the forked workers use one pool, as DPDK's secondary processes would.
 *
 * The second variant adds what recovery needs: an owner word in each buffer's first cache line,
 * which put and get store. Nothing reads it. It shows the cost of moving that line to the other
 * core and back, which any pool with owner words pays.
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
	struct rte_ring *queue;
};

#define PUT (1ull << 63) /* in an owner word: a position in the queue, otherwise the owner */

static struct rte_mempool *pool;
static struct rte_mempool_cache *cache[BENCH_WORKERS_MAX];

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

static ALWAYS_INLINE uint32_t put(void *at, const uint64_t *handle, uint32_t n)
{
	struct end *end = at;
	return rte_ring_mp_enqueue_bulk(end->queue, (void *const *)handle, n, NULL);
}

static ALWAYS_INLINE uint32_t get(void *at, uint64_t *handle, uint32_t n)
{
	struct end *end = at;
	return rte_ring_mc_dequeue_burst(end->queue, (void **)handle, n, NULL);
}

static ALWAYS_INLINE uint32_t put_owner(void *at, const uint64_t *handle, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		store_relaxed((uint64_t *)(uintptr_t)handle[i], PUT + i);
	return put(at, handle, n);
}

static ALWAYS_INLINE uint32_t get_owner(void *at, uint64_t *handle, uint32_t n)
{
	uint32_t got = get(at, handle, n);
	for (uint32_t i = 0; i < got; i++)
		store_relaxed((uint64_t *)(uintptr_t)handle[i], (uintptr_t)at);
	return got;
}

static ALWAYS_INLINE uint64_t *data(void *at, uint64_t handle)
{
	(void)at;
	return (uint64_t *)(uintptr_t)handle;
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
	int error = start();
	ssize_t bytes = rte_ring_get_memsize(BENCH_RING);
	struct end *end = run_memory(run, BENCH_WORKERS_MAX * sizeof(*end));
	struct rte_ring *queue = run_memory(run, bytes < 0 ? 0 : (size_t)bytes);
	if (error < 0 || bytes < 0)
		return error < 0 ? error : (int)bytes;
	error = rte_ring_init(queue, "bench", BENCH_RING, 0);
	if (error)
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
		end[i] = (struct end) { pool, cache[i], queue };
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

static void work(struct bench_run *run, uint32_t me)
{
	struct end *end = run->state;
	pool_work((struct pool_ops) { alloc, give, put, get, data }, run, end + me, me);
}

static void work_owner(struct bench_run *run, uint32_t me)
{
	struct end *end = run->state;
	pool_work((struct pool_ops) { alloc, give, put_owner, get_owner, data }, run, end + me, me);
}

const struct bench_contestant pool_rte = { "rte_mempool", DPDK, create, work, false };
const struct bench_contestant pool_rte_owner = { "rte_mempool + owner", DPDK_OWNER, create_owner,
						 work_owner, false };
#else
const struct bench_contestant pool_rte = { "rte_mempool", DPDK, NULL, NULL, false };
const struct bench_contestant pool_rte_owner = { "rte_mempool + owner", DPDK_OWNER, NULL, NULL,
						 false };
#endif
