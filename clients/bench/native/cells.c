/* SPDX-License-Identifier: Apache-2.0
 *
 * cells.c - every scenario of the benchmark, with its goal.
 */
#include "bench.h"

static const struct bench_contestant *const queues[] = {
	&queue_ours, &queue_ours_owner, &queue_tailwait, &queue_rte, &queue_ck, NULL,
};
static const struct bench_contestant *const pools[] = {
	&pool_ours, &pool_original, &pool_rte, &pool_malloc, &pool_mimalloc, &pool_jemalloc, NULL,
};
static const struct bench_contestant *const pools_handed[] = {
	&pool_ours,   &pool_original, &pool_rte,      &pool_rte_owner,
	&pool_malloc, &pool_mimalloc, &pool_jemalloc, NULL,
};

/* clang-format off */
#define MULTI .contestants = queues
#define SINGLE .contestants = queues, .single = true
#define ALONE .work = WORK_TURN, .place = ONE_CORE, .producers = 1
#define PAIR .work = WORK_PASS, .place = TWO_CORES, .producers = 1, .consumers = 1
#define TWO_CYCLE .work = WORK_CYCLE, .place = TWO_CORES, .producers = 2
#define EIGHT_EIGHT .work = WORK_PASS, .place = OVERSUBSCRIBED, .producers = 8, .consumers = 8
#define EIGHT_CYCLE .work = WORK_CYCLE, .place = OVERSUBSCRIBED, .producers = 8
#define POOL .contestants = pools, .work = WORK_POOL
#define POOL_ALONE POOL, .place = ONE_CORE, .producers = 1
#define HANDED .place = TWO_CORES, .producers = 1, .consumers = 1
#define FREED .contestants = pools_handed, HANDED, .work = WORK_HAND_OVER
#define TIMES(x) { GOAL_BASELINE, (x) }
#define TIMES_OF(x, which) .goal = { GOAL_REFERENCE, (x) }, .reference = &(which)
#define NS(x) { GOAL_NS, (x) }

const struct bench_cell cells[] = {
	{ "queue, 1 core, bulk 1", MULTI, ALONE, .bulk = 1, .goal = TIMES(1.15) },
	{ "queue, 1 core, bulk 2", MULTI, ALONE, .bulk = 2 },
	{ "queue, 1 core, bulk 4", MULTI, ALONE, .bulk = 4 },
	{ "queue, 1 core, bulk 8", MULTI, ALONE, .bulk = 8, .goal = TIMES(1.1) },
	{ "queue, 1 core, bulk 16", MULTI, ALONE, .bulk = 16 },
	{ "queue, 1 core, bulk 32", MULTI, ALONE, .bulk = 32, .goal = TIMES(1) },
	{ "queue, 1 core, bulk 64", MULTI, ALONE, .bulk = 64 },
	{ "queue, 1 core, bulk 128", MULTI, ALONE, .bulk = 128, .goal = TIMES(1) },
	{ "queue, 1 core, bulk 256", MULTI, ALONE, .bulk = 256 },
	{ "queue, 1 core, single, bulk 1", SINGLE, ALONE, .bulk = 1,
	  .goal = { GOAL_REFERENCE, 0.5 }, .reference = &queue_ours_multi },

	{ "queue, 1 to 1, bulk 1", MULTI, PAIR, .bulk = 1, .goal = TIMES(1) },
	{ "queue, 1 to 1, bulk 8", MULTI, PAIR, .bulk = 8, .goal = TIMES(1) },
	{ "queue, 1 to 1, bulk 32", MULTI, PAIR, .bulk = 32, .goal = TIMES(1) },
	{ "queue, 1 to 1, bulk 128", MULTI, PAIR, .bulk = 128 },
	{ "queue, 1 to 1, bulk 256", MULTI, PAIR, .bulk = 256 },
	{ "queue, 1 to 1, single, bulk 1", SINGLE, PAIR, .bulk = 1, .goal = NS(2.5) },
	{ "queue, 2 get and put, bulk 1", MULTI, TWO_CYCLE, .bulk = 1, .goal = TIMES(1) },
	{ "queue, 2 get and put, bulk 8", MULTI, TWO_CYCLE, .bulk = 8, .goal = TIMES(1) },
	{ "queue, 2 get and put, bulk 32", MULTI, TWO_CYCLE, .bulk = 32, .goal = TIMES(1) },

	{ "queue, 8 to 8, bulk 1", MULTI, EIGHT_EIGHT, .bulk = 1, .goal = NS(60) },
	{ "queue, 8 to 8, bulk 32", MULTI, EIGHT_EIGHT, .bulk = 32, .goal = NS(2.5) },
	{ "queue, 8 get and put, bulk 1", MULTI, EIGHT_CYCLE, .bulk = 1, .goal = NS(100) },

	{ "pool, reuse of one buffer", POOL_ALONE, .held = 1, .bulk = 1,
	  TIMES_OF(1, pool_original) },
	{ "pool, 256 one by one", POOL_ALONE, .held = 256, .bulk = 1, TIMES_OF(1, pool_original) },
	{ "pool, 256 in bulks of 8", POOL_ALONE, .held = 256, .bulk = 8 },
	{ "pool, 256 at once", POOL_ALONE, .held = 256, .bulk = 256 },
	{ "pool, bulk 32", POOL_ALONE, .held = 32, .bulk = 32, .goal = NS(1) },
	{ "pool, 8 workers, 256", POOL, .place = OVERSUBSCRIBED, .producers = 8, .held = 256,
	  .bulk = 1, TIMES_OF(1, pool_rte) },
	/* Bulks of 32 have no goal: they pay for owner words, which DPDK does not have. */
	{ "pool, freed by another, bulk 1", FREED, .bulk = 1, TIMES_OF(1, pool_rte) },
	{ "pool, freed by another, bulk 8", FREED, .bulk = 8, TIMES_OF(1, pool_rte) },
	{ "pool, freed by another, bulk 32", FREED, .bulk = 32 },
	{ "whole path, 64 bytes", .contestants = pools, HANDED, .bulk = 32, .work = WORK_PATH,
	  .goal = NS(67.2) },
};
/* clang-format on */

const uint32_t cells_count = sizeof(cells) / sizeof(cells[0]);
