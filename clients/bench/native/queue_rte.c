/* SPDX-License-Identifier: Apache-2.0
 *
 * queue_rte.c - baseline: DPDK's rte_ring. It needs no EAL, only memory, which may be shared.
 *
 * Only this file includes its headers. Without them the contestant is skipped, and the table says
 * so.
 */
#include "queue_loops.h"

#ifdef BENCH_DPDK
#include <rte_ring.h>

static ALWAYS_INLINE uint32_t put(void *end, const uint64_t *handle, uint32_t n, bool single)
{
	void *const *word = (void *const *)handle;
	return single ? rte_ring_sp_enqueue_bulk(end, word, n, NULL) :
			rte_ring_mp_enqueue_bulk(end, word, n, NULL);
}

static ALWAYS_INLINE uint32_t get(void *end, uint64_t *handle, uint32_t n, bool single)
{
	void **word = (void **)handle;
	return single ? rte_ring_sc_dequeue_burst(end, word, n, NULL) :
			rte_ring_mc_dequeue_burst(end, word, n, NULL);
}

static int create(struct bench_run *run)
{
	ssize_t bytes = rte_ring_get_memsize(BENCH_RING);
	if (bytes < 0)
		return (int)bytes;
	run->state = run_memory(run, (size_t)bytes);
	int error = rte_ring_init(run->state, "bench", BENCH_RING, 0);
	if (!error)
		queue_fill((struct queue_ops) { put, get }, run, run->state);
	return error;
}

static void work(struct bench_run *run, uint32_t me)
{
	queue_work((struct queue_ops) { put, get }, run, run->state, me, run->cell->single);
}

const struct bench_contestant queue_rte = { "rte_ring", DPDK, create, work, false };
#else
const struct bench_contestant queue_rte = { "rte_ring", DPDK, NULL, NULL, false };
#endif
