/* SPDX-License-Identifier: Apache-2.0
 *
 * bbq.c - baseline: the queue of bbq.h. A bulk that meets the end of a block is put in two parts.
 */
#include "bbq.h"

struct end {
	struct bench_run *run;
	struct bbq *queue;
};

/* Drops the elements for which there is no room after the first one; only consumers count. A worker
 * that puts back what it got must not lose any: it waits, as the other baselines do inside, for a
 * worker that is suspended in the middle of a get and so keeps a block full. */
static ALWAYS_INLINE uint32_t put(void *at, const uint64_t *handle, uint32_t n, bool single)
{
	struct end *end = at;
	uint32_t done = bbq_put(end->queue, handle, n, single), failed = 0;
	while (unlikely(done < n) && end->run->cell->work == WORK_CYCLE &&
	       !bench_stopped(end->run)) {
		bench_idle(end->run, ++failed);
		done += bbq_put(end->queue, handle + done, n - done, single);
	}
	return done || bench_stopped(end->run) ? n : 0;
}

static ALWAYS_INLINE uint32_t get(void *at, uint64_t *handle, uint32_t n, bool single)
{
	struct end *end = at;
	return bbq_get(end->queue, handle, n, single);
}

static int create(struct bench_run *run)
{
	struct end *end = bench_memory(run, sizeof(*end));
	*end = (struct end) { run, bbq_create(run) };
	run->queue = end;
	queue_fill((struct queue_ops) { put, get }, run, end);
	return 0;
}

static void work(struct bench_run *run, uint32_t me)
{
	queue_work((struct queue_ops) { put, get }, run, run->queue, me, run->cell->single);
}

const struct bench_contestant queue_bbq = { "queue_bbq", create, work, false };
