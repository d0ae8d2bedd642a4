/* SPDX-License-Identifier: Apache-2.0
 *
 * run.h - one sample: the workers of one contestant in one cell, and their shared memory.
 */
#ifndef BENCH_RUN_H
#define BENCH_RUN_H

#include <sched.h>
#include <signal.h>

#include "bench.h"

#define RUN_HANDLES 1024u

struct run_worker {
	uint64_t done;    /* elements so far; written by the worker, read by the harness */
	uint64_t pad[15]; /* two cache lines: the processor fetches them in pairs */
};

/* At the head of the shared memory. */
struct bench_run {
	_Alignas(2 * CACHE_LINE) uint32_t go;
	uint32_t stop;
	_Alignas(2 * CACHE_LINE) uint32_t ready;
	uint32_t failed; /* a worker found elements lost or wrong */
	_Alignas(2 * CACHE_LINE) struct run_worker worker[BENCH_WORKERS_MAX];
	uint64_t handle[BENCH_WORKERS_MAX][RUN_HANDLES]; /* private to each worker */
	const struct bench_cell *cell;
	void *state; /* the contestant's */
	size_t used; /* bytes of the mapping in use, this structure included */
};

enum run_outcome {
	RUN_OK,
	RUN_SLOWER, /* than ns: no element passed in the window */
	RUN_STUCK,  /* as RUN_SLOWER; the workers did not stop and were killed */
	RUN_FAILED, /* the contestant could not be created, crashed or lost elements */
	RUN_INTERRUPTED,
	RUN_DISTURBED, /* of a median: other programs used the cores in most rounds */
};

struct run_sample {
	enum run_outcome outcome;
	double ns;      /* per element */
	bool disturbed; /* pinned workers had to share their cores with other programs */
};

/* Finds the cores and maps the memory. Returns the number of cores to use (1 or 2) or -errno. */
int run_init(void);

/* Runs one contestant in one cell; repeats a disturbed sample a few times. */
struct run_sample run_once(const struct bench_cell *cell,
			   const struct bench_contestant *contestant);

/* For create(): returns zeroed shared memory, aligned to a pair of cache lines. Exits if there is
 * not enough. */
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

/* Pauses after a poll found the queue empty or full; failed is how often in sequence. */
static inline void run_idle(const struct bench_run *run, uint32_t failed)
{
	if (run->cell->place == OVERSUBSCRIBED && failed >= POLLS_BEFORE_YIELD)
		sched_yield();
	else
		cpu_relax();
}

#endif
