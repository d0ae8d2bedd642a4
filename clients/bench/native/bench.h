/* SPDX-License-Identifier: Apache-2.0
 *
 * bench.h - what all parts of the native benchmark share.
 *
 * A cell is one scenario: workers on one or two cores that do one kind of work in bulks of one
 * size. A contestant is an implementation that can do the work. A sample is one run of a contestant
 * in a cell. Its workers are processes with shared memory; each counts its elements in a cache line
 * of its own. The harness reads the counts at both ends of a window of time. Workers read no clock.
 * ../core.py has the cells, and computes the figures.
 */
#ifndef BENCH_H
#define BENCH_H

#include <sched.h>

#include "atomic.h"

#define BENCH_WORKERS_MAX 16
#define BENCH_HANDLES 1024u
#define BENCH_RING 4096u /* slots of every queue */

/* The numbers stand in ../core.py too. */
enum bench_work {
	WORK_TURN,      /* each worker puts a bulk and gets it back */
	WORK_PASS,      /* producers put, consumers get */
	WORK_CYCLE,     /* each worker gets a bulk from a half full queue and puts it back */
	WORK_POOL,      /* each worker allocates what it holds in bulks, then frees it in bulks */
	WORK_HAND_OVER, /* producers allocate and put, consumers get and free */
	WORK_PATH, /* as WORK_HAND_OVER; producers write each buffer's bytes, consumers read them */
	WORK_LINE_LATENCY, /* two workers bounce a word between the cores */
	WORK_TOUCH,        /* maps memory that others have used, and writes to each page */
	WORK_NEW,          /* reserves memory, writes to each page, and gives it back */
};

enum bench_place {
	ONE_CORE,
	TWO_CORES,      /* one worker pinned to each of two cores; an idle poll is cpu_relax() */
	OVERSUBSCRIBED, /* pinned to the two cores alternately, for equal load; sched_yield() after
			 * POLLS_BEFORE_YIELD idle polls */
};
#define POLLS_BEFORE_YIELD 4

struct bench_cell {
	enum bench_work work;
	enum bench_place place;
	uint32_t producers; /* the first workers; for work other than WORK_PASS all of them */
	uint32_t consumers;
	uint32_t bulk;
	uint32_t held; /* WORK_POOL: most buffers that a worker holds, a multiple of bulk */
	int single;    /* single producer, single consumer */
};

struct bench_worker {
	uint64_t done;    /* elements so far; written by the worker, read by the harness */
	uint64_t pad[15]; /* two cache lines: the processor fetches them in pairs */
};

/* At the head of the shared memory. */
struct bench_run {
	_Alignas(2 * CACHE_LINE) uint32_t go;
	uint32_t stop;
	_Alignas(2 * CACHE_LINE) uint32_t ready;
	uint32_t failed; /* a worker found elements lost or wrong */
	_Alignas(2 * CACHE_LINE) struct bench_worker worker[BENCH_WORKERS_MAX];
	uint64_t handle[BENCH_WORKERS_MAX][BENCH_HANDLES]; /* private to each worker */
	const struct bench_cell *cell;
	void *state; /* the contestant's */
	void *queue; /* through which a pool's buffers pass, if it is not in state */
	size_t used; /* bytes of the mapping in use, this structure included */
};

struct bench_contestant {
	const char *name;
	/* Builds its shared state for run->cell, before the workers start. Returns 0 or -errno.
	 * NULL: this contestant was not compiled in. */
	int (*create)(struct bench_run *run);
	/* The work of worker number me, until bench_stopped(). */
	void (*work)(struct bench_run *run, uint32_t me);
	/* Its memory is private to a process: if another worker frees, the workers are threads. */
	bool threads;
};

extern const struct bench_contestant queue_ours, queue_ours_owner, queue_ours_multi;
extern const struct bench_contestant queue_tailwait, queue_rte, queue_ck, queue_bbq, line_latency;
extern const struct bench_contestant pool_ours, pool_original, pool_rte, pool_rte_owner;
extern const struct bench_contestant touch_plain, touch_populated, touch_huge;
extern const struct bench_contestant pool_malloc, pool_mimalloc, pool_jemalloc;

/* For create(): returns zeroed shared memory, aligned to a pair of cache lines. Exits if there is
 * not enough. */
void *bench_memory(struct bench_run *run, size_t bytes);

/* For work(): */
static inline bool bench_stopped(const struct bench_run *run)
{
	return load_relaxed(&run->stop);
}

static inline void bench_count(struct bench_run *run, uint32_t me, uint64_t done)
{
	store_relaxed(&run->worker[me].done, done);
}

/* Pauses after a poll found the queue empty or full; failed is how often in sequence. */
static inline void bench_idle(const struct bench_run *run, uint32_t failed)
{
	if (run->cell->place == OVERSUBSCRIBED && failed >= POLLS_BEFORE_YIELD)
		sched_yield();
	else
		cpu_relax();
}

#endif
