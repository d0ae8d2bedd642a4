/* SPDX-License-Identifier: Apache-2.0
 *
 * bench.h - what the parts of the native benchmark tell each other.
 *
 * A cell is one scenario: so many workers on so many cores doing one kind of work in bulks of one
 * size. A contestant is one implementation that can do that work. A sample is one contestant in one
 * cell once: its workers are processes over shared memory, which count what they did in a line
 * each, and the harness reads those counts at both ends of a window of time. No worker ever looks
 * at a clock.
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
	WORK_HOP,  /* two workers bounce a word: the cost of moving a line to the other core */
};

enum bench_place {
	ONE_CORE,
	TWO_CORES,      /* one worker pinned to each of two cores; an idle poll is cpu_relax() */
	OVERSUBSCRIBED, /* pinned to the two cores alternately, so that both always have the same
			 * load; after POLLS_BEFORE_YIELD idle polls sched_yield() */
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

/* Where a contestant's figure stands in the table. Ours come first, one line of the table each. */
enum bench_column { OURS, ORIGINAL, DPDK, DPDK_OWNER, CK, MALLOC, MIMALLOC, JEMALLOC, COLUMNS };

struct bench_run;

struct bench_contestant {
	const char *name;
	enum bench_column column;
	/* Builds its shared state for run->cell, before the workers exist. 0 or -errno.
	 * NULL: this contestant was not compiled in. */
	int (*create)(struct bench_run *run);
	/* What worker number me does until run_stopped(). */
	void (*work)(struct bench_run *run, uint32_t me);
	/* Its memory is one process's: where another worker frees, the workers are threads. */
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
	uint32_t held; /* WORK_POOL: buffers that a worker holds at most, a multiple of bulk */
	bool single;   /* single producer, single consumer */
	struct bench_goal goal;
	const struct bench_contestant *reference; /* for GOAL_REFERENCE, in the same rounds */
};

extern const struct bench_cell cells[];
extern const uint32_t cells_count;

extern const struct bench_contestant queue_ours, queue_ours_owner, queue_ours_multi;
extern const struct bench_contestant queue_tailwait, queue_rte, queue_ck, hop_contestant;
extern const struct bench_contestant pool_ours, pool_ours_unchecked;
extern const struct bench_contestant pool_original, pool_rte, pool_rte_owner;
extern const struct bench_contestant pool_malloc, pool_mimalloc, pool_jemalloc;

#endif
