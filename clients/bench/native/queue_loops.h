/* SPDX-License-Identifier: Apache-2.0
 *
 * queue_loops.h - the measured loops over a queue, the same for every contestant.
 *
 * A contestant passes its put and get as constants, and everything is inlined into its work(), once
 * for each combination of bulk 1 or n and single or multi. A program that uses the queue would be
 * compiled the same way.
 */
#ifndef BENCH_QUEUE_LOOPS_H
#define BENCH_QUEUE_LOOPS_H

#include "bench.h"

/* The handles that each worker puts in turn; a multiple of every bulk. */
#define QUEUE_HANDLES (BENCH_HANDLES / 2)
#define QUEUE_BUFFERS (BENCH_WORKERS_MAX * QUEUE_HANDLES)
#define QUEUE_TURNS 64 /* between two reads of the stop word */

struct queue_ops {
	/* Puts all n handles or none. Returns n or 0. */
	uint32_t (*put)(void *end, const uint64_t *handle, uint32_t n, bool single);
	/* Gets handles. Returns 1..n, or 0 if the queue is empty. */
	uint32_t (*get)(void *end, uint64_t *handle, uint32_t n, bool single);
};

static ALWAYS_INLINE void queue_turn(const struct queue_ops ops, struct bench_run *run, void *end,
				     uint64_t *handle, uint32_t n, bool single)
{
	uint64_t done = 0, *back = handle + QUEUE_HANDLES;
	while (!bench_stopped(run)) {
		uint32_t lost = 0;
		for (uint32_t i = 0; i < QUEUE_TURNS; i++) {
			lost |= ops.put(end, handle, n, single) ^ n;
			lost |= ops.get(end, back, n, single) ^ n;
		}
		if (lost)
			store_relaxed(&run->failed, 1u);
		bench_count(run, 0, done += QUEUE_TURNS * n);
	}
}

static ALWAYS_INLINE void queue_produce(const struct queue_ops ops, struct bench_run *run,
					void *end, const uint64_t *handle, uint32_t n, bool single)
{
	uint32_t next = 0, failed = 0;
	while (!bench_stopped(run)) {
		if (!ops.put(end, handle + next, n, single)) {
			bench_idle(run, ++failed);
			continue;
		}
		failed = 0;
		next = (next + n) % QUEUE_HANDLES;
	}
}

/* Gets; with back=true puts what it got back. */
static ALWAYS_INLINE void queue_consume(const struct queue_ops ops, struct bench_run *run,
					void *end, uint32_t me, uint64_t *handle, uint32_t n,
					bool single, bool back)
{
	uint64_t done = 0;
	uint32_t failed = 0;
	while (!bench_stopped(run)) {
		uint32_t got = ops.get(end, handle, n, single);
		if (!got) {
			bench_idle(run, ++failed);
			continue;
		}
		failed = 0;
		if (back && !ops.put(end, handle, got, single))
			store_relaxed(&run->failed, 1u); /* there is room for what it took out */
		bench_count(run, me, done += got);
	}
}

static ALWAYS_INLINE void queue_do(const struct queue_ops ops, struct bench_run *run, void *end,
				   uint32_t me, uint32_t n, bool single)
{
	/* No local array: if the compiler knew that it is not part of the queue, it would turn a
	 * baseline's copy into memcpy(), which it cannot do in a real program. */
	uint64_t *handle = run->handle[me];
	for (uint32_t i = 0; i < QUEUE_HANDLES; i++)
		handle[i] = me * QUEUE_HANDLES + i;
	if (run->cell->work == WORK_TURN)
		queue_turn(ops, run, end, handle, n, single);
	else if (run->cell->work == WORK_CYCLE)
		queue_consume(ops, run, end, me, handle, n, single, true);
	else if (me < run->cell->producers)
		queue_produce(ops, run, end, handle, n, single);
	else
		queue_consume(ops, run, end, me, handle, n, single, false);
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

/* For create(): fills the queue before the workers start. */
static inline void queue_fill(const struct queue_ops ops, struct bench_run *run, void *end)
{
	if (run->cell->work != WORK_CYCLE)
		return;
	for (uint64_t i = 0; i < BENCH_RING / 2; i++)
		ops.put(end, &i, 1, false);
}

#endif
