/* SPDX-License-Identifier: Apache-2.0
 *
 * queue_loops.h - the measured loops over a queue, the same for every contestant.
 *
 * A contestant hands in its put and get as constants, and everything is inlined into its own
 * work():
 * once for each of bulk 1 and bulk n, and single and multi, as a program that uses the queue would
 * be compiled.
 */
#ifndef BENCH_QUEUE_LOOPS_H
#define BENCH_QUEUE_LOOPS_H

#include "run.h"

/* That each worker puts in turn; a multiple of every bulk. */
#define QUEUE_HANDLES (RUN_HANDLES / 2)
#define QUEUE_BUFFERS (BENCH_WORKERS_MAX * QUEUE_HANDLES)
#define QUEUE_TURNS 64 /* between two looks at the stop word, on one core */

struct queue_ops {
	/* Puts all n handles or none: n or 0. */
	uint32_t (*put)(void *end, const uint64_t *handle, uint32_t n, bool single);
	/* Gets 1..n handles; 0 if there is none. */
	uint32_t (*get)(void *end, uint64_t *handle, uint32_t n, bool single);
};

static ALWAYS_INLINE void queue_turn(const struct queue_ops ops, struct bench_run *run, void *end,
				     uint64_t *handle, uint32_t n, bool single)
{
	uint64_t done = 0, *back = handle + QUEUE_HANDLES;
	while (!run_stopped(run)) {
		uint32_t lost = 0;
		for (uint32_t i = 0; i < QUEUE_TURNS; i++) {
			lost |= ops.put(end, handle, n, single) ^ n;
			lost |= ops.get(end, back, n, single) ^ n;
		}
		if (lost)
			store_relaxed(&run->failed, 1u);
		run_count(run, 0, done += QUEUE_TURNS * n);
	}
}

static ALWAYS_INLINE void queue_produce(const struct queue_ops ops, struct bench_run *run,
					void *end, const uint64_t *handle, uint32_t n, bool single)
{
	uint32_t next = 0, failed = 0;
	while (!run_stopped(run)) {
		if (!ops.put(end, handle + next, n, single)) {
			run_idle(run, ++failed);
			continue;
		}
		failed = 0;
		next = (next + n) % QUEUE_HANDLES;
	}
}

static ALWAYS_INLINE void queue_consume(const struct queue_ops ops, struct bench_run *run,
					void *end, uint32_t me, uint64_t *handle, uint32_t n,
					bool single)
{
	uint64_t done = 0;
	uint32_t failed = 0;
	while (!run_stopped(run)) {
		uint32_t got = ops.get(end, handle, n, single);
		if (!got) {
			run_idle(run, ++failed);
			continue;
		}
		failed = 0;
		run_count(run, me, done += got);
	}
}

static ALWAYS_INLINE void queue_cycle(const struct queue_ops ops, struct bench_run *run, void *end,
				      uint32_t me, uint64_t *handle, uint32_t n, bool single)
{
	uint64_t done = 0;
	uint32_t failed = 0;
	while (!run_stopped(run)) {
		uint32_t got = ops.get(end, handle, n, single);
		if (!got) {
			run_idle(run, ++failed);
			continue;
		}
		failed = 0;
		if (!ops.put(end, handle, got, single))
			store_relaxed(&run->failed, 1u); /* what came out must go in again */
		run_count(run, me, done += got);
	}
}

static ALWAYS_INLINE void queue_do(const struct queue_ops ops, struct bench_run *run, void *end,
				   uint32_t me, uint32_t n, bool single)
{
	/* Not an array of this function: the compiler must not know that it is no part of the
	 * queue, or a baseline's copy turns into memcpy(), which no program with handles of its own
	 * sees. */
	uint64_t *handle = run->handle[me];
	for (uint32_t i = 0; i < QUEUE_HANDLES; i++)
		handle[i] = me * QUEUE_HANDLES + i;
	if (run->cell->work == WORK_TURN)
		queue_turn(ops, run, end, handle, n, single);
	else if (run->cell->work == WORK_CYCLE)
		queue_cycle(ops, run, end, me, handle, n, single);
	else if (me < run->cell->producers)
		queue_produce(ops, run, end, handle, n, single);
	else
		queue_consume(ops, run, end, me, handle, n, single);
}

/* The whole of a contestant's work(); end is what its put and get take. */
static ALWAYS_INLINE void queue_work(const struct queue_ops ops, struct bench_run *run, void *end,
				     uint32_t me, bool single)
{
	uint32_t n = run->cell->bulk;
	if (n == 1 && single)
		queue_do(ops, run, end, me, 1, true);
	else if (n == 1)
		queue_do(ops, run, end, me, 1, false);
	else if (single)
		queue_do(ops, run, end, me, n, true);
	else
		queue_do(ops, run, end, me, n, false);
}

/* For create(): what a queue holds before the workers start. */
static inline void queue_fill(const struct queue_ops ops, struct bench_run *run, void *end)
{
	if (run->cell->work != WORK_CYCLE)
		return;
	for (uint64_t i = 0; i < BENCH_RING / 2; i++)
		ops.put(end, &i, 1, false);
}

#endif
