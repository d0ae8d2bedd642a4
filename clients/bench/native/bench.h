/* SPDX-License-Identifier: Apache-2.0
 *
 * bench.h - the types that all parts of the native benchmark share.
 *
 * A cell is one scenario: workers on one or two cores that do one kind of work in bulks of one
 * size. A contestant is an implementation that can do the work. A sample is one run of a contestant
 * in a cell. Its workers are processes with shared memory; each counts its elements in a cache line
 * of its own. The harness reads the counts at both ends of a window of time. Workers read no clock.
 */
#ifndef BENCH_H
#define BENCH_H

#include "atomic.h"

#define BENCH_WORKERS_MAX 16
#define BENCH_ROUNDS_MAX 21
#define BENCH_CONTESTANTS_MAX 8
#define BENCH_RING 4096u /* slots of every queue */

enum bench_work {
	WORK_TURN,      /* each worker puts a bulk and gets it back */
	WORK_PASS,      /* producers put, consumers get */
	WORK_CYCLE,     /* each worker gets a bulk from a half full queue and puts it back */
	WORK_POOL,      /* each worker allocates what it holds in bulks, then frees it in bulks */
	WORK_HAND_OVER, /* producers allocate and put, consumers get and free */
	WORK_PATH, /* as WORK_HAND_OVER; producers write each buffer's bytes, consumers read them */
	WORK_LINE_LATENCY, /* two workers bounce a word between the cores */
};

enum bench_place {
	ONE_CORE,
	TWO_CORES,      /* one worker pinned to each of two cores; an idle poll is cpu_relax() */
	OVERSUBSCRIBED, /* pinned to the two cores alternately, for equal load; sched_yield() after
			 * POLLS_BEFORE_YIELD idle polls */
};
#define POLLS_BEFORE_YIELD 4

enum bench_goal_kind {
	GOAL_NONE,
	GOAL_BASELINE,  /* at most limit times the better of the baselines */
	GOAL_REFERENCE, /* at most limit times the cell's reference contestant */
	GOAL_NS,        /* at most limit ns per element */
};

struct bench_goal {
	enum bench_goal_kind kind;
	double limit;
};

/* The column of a contestant's figure in the table. Each of ours has a line of its own. */
enum bench_column { OURS, ORIGINAL, DPDK, DPDK_OWNER, CK, MALLOC, MIMALLOC, JEMALLOC, COLUMNS };

struct bench_run;

struct bench_contestant {
	const char *name;
	enum bench_column column;
	/* Builds its shared state for run->cell, before the workers start. Returns 0 or -errno.
	 * NULL: this contestant was not compiled in. */
	int (*create)(struct bench_run *run);
	/* The work of worker number me, until run_stopped(). */
	void (*work)(struct bench_run *run, uint32_t me);
	/* Its memory is private to a process: if another worker frees, the workers are threads. */
	bool threads;
};

struct bench_cell {
	const char *name;
	const struct bench_contestant *const *contestants; /* ends with NULL */
	enum bench_work work;
	enum bench_place place;
	uint32_t producers; /* the first workers; for work other than WORK_PASS all of them */
	uint32_t consumers;
	uint32_t bulk;
	uint32_t held; /* WORK_POOL: most buffers that a worker holds, a multiple of bulk */
	bool single;   /* single producer, single consumer */
	struct bench_goal goal;
	const struct bench_contestant *reference; /* for GOAL_REFERENCE, in the same rounds */
};

extern const struct bench_cell cells[];
extern const uint32_t cells_count;

extern const struct bench_contestant queue_ours, queue_ours_owner, queue_ours_multi;
extern const struct bench_contestant queue_tailwait, queue_rte, queue_ck, line_latency;
extern const struct bench_contestant pool_ours, pool_original, pool_rte, pool_rte_owner;
extern const struct bench_contestant pool_malloc, pool_mimalloc, pool_jemalloc;

#endif
