/* SPDX-License-Identifier: Apache-2.0
 *
 * run.h - one sample: the workers of one contestant in one cell, and what they share.
 */
#ifndef BENCH_RUN_H
#define BENCH_RUN_H

#include <sched.h>
#include <signal.h>

#include "bench.h"

#define RUN_HANDLES 1024u

struct run_worker {
	uint64_t done;    /* elements so far; written by the worker, read by the harness */
	uint64_t pad[15]; /* two lines: the processor fetches them in pairs */
};

/* At the head of the shared memory. */
struct bench_run {
	_Alignas(2 * CACHE_LINE) uint32_t go;
	uint32_t stop;
	_Alignas(2 * CACHE_LINE) uint32_t ready;
	uint32_t failed; /* a worker saw a queue lose or invent elements */
	_Alignas(2 * CACHE_LINE) struct run_worker worker[BENCH_WORKERS_MAX];
	uint64_t handle[BENCH_WORKERS_MAX][RUN_HANDLES]; /* for each worker's own use */
	const struct bench_cell *cell;
	void *state; /* the contestant's */
	size_t used; /* bytes of the mapping given out, this structure included */
};

enum run_outcome {
	RUN_OK,
	RUN_SLOWER, /* than ns: not one element came through in the window */
	RUN_STUCK,  /* as RUN_SLOWER, and the workers did not stop when told and were killed */
	RUN_FAILED, /* the contestant could not be set up, crashed or lost elements */
	RUN_INTERRUPTED,
	RUN_DISTURBED, /* of a median: others kept the cores busy in most of the rounds */
};

struct run_sample {
	enum run_outcome outcome;
	double ns;      /* per element */
	bool disturbed; /* pinned workers did not get their cores for themselves */
};

/* Finds the cores and the memory. Returns how many cores there are to use (1 or 2) or -errno. */
int run_init(void);

/* Runs one contestant in one cell; a disturbed sample is repeated a few times first. */
struct run_sample run_once(const struct bench_cell *cell,
			   const struct bench_contestant *contestant);

/* For create(): zeroed shared memory that begins on a pair of cache lines. Never NULL: more than
 * there is ends the program. */
void *run_memory(struct bench_run *run, size_t bytes);

/* For work(): */
static inline bool run_stopped(const struct bench_run *run)
{
	return load_relaxed(&run->stop);
}

static inline void run_count(struct bench_run *run, uint32_t me, uint64_t done)
{
	store_relaxed(&run->worker[me].done, done);
}

/* What every contestant does when a poll found the queue empty or full for the failed-th time. */
static inline void run_idle(const struct bench_run *run, uint32_t failed)
{
	if (run->cell->place == OVERSUBSCRIBED && failed >= POLLS_BEFORE_YIELD)
		sched_yield();
	else
		cpu_relax();
}

#endif
