/* SPDX-License-Identifier: Apache-2.0
 *
 * queue_tailwait.c - baseline: the original alf_queue algorithm (tailwait.h).
 */
#include "queue_loops.h"
#include "tailwait.h"

static ALWAYS_INLINE uint32_t put(void *end, const uint64_t *handle, uint32_t n, bool single)
{
	return tailwait_enqueue(end, handle, n, single);
}

static ALWAYS_INLINE uint32_t get(void *end, uint64_t *handle, uint32_t n, bool single)
{
	return tailwait_dequeue(end, handle, n, single);
}

static int create(struct bench_run *run)
{
	run->state = run_memory(run, tailwait_bytes(BENCH_RING));
	tailwait_init(run->state, BENCH_RING);
	queue_fill((struct queue_ops) { put, get }, run, run->state);
	return 0;
}

static void work(struct bench_run *run, uint32_t me)
{
	queue_work((struct queue_ops) { put, get }, run, run->state, me, run->cell->single);
}

const struct bench_contestant queue_tailwait = { "tail-wait", ORIGINAL, create, work, false };
