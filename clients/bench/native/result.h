/* SPDX-License-Identifier: Apache-2.0
 *
 * result.h - the samples of one cell, and the figures computed from them.
 */
#ifndef BENCH_RESULT_H
#define BENCH_RESULT_H

#include "run.h"

struct result {
	const struct bench_cell *cell;
	const char *skipped; /* why nothing was measured, or NULL */
	uint32_t rounds;
	uint32_t attempts; /* at the whole cell; more than one if the line latency changed */
	double line_before, line_after; /* line latency in ns; 0 if there is one core */
	uint32_t contestants; /* the cell's, then its reference if that is not among them */
	const struct bench_contestant *contestant[BENCH_CONTESTANTS_MAX];
	struct run_sample sample[BENCH_CONTESTANTS_MAX][BENCH_ROUNDS_MAX];
};

/* Makes an empty result that lists the contestants of a cell. */
void result_init(struct result *result, const struct bench_cell *cell);

/* Returns the median of the undisturbed rounds of contestant i; RUN_DISTURBED if too few. */
struct run_sample result_median(const struct result *result, uint32_t i);

/* Returns the index of the better baseline, -1 if none has a figure. */
int result_baseline(const struct result *result);

/* Returns the index of the contestant that the goal refers to, -1 for none. */
int result_reference(const struct result *result);

/* Returns the median of the ratios of contestant i to other, round by round; 0 if unknown. */
double result_ratio(const struct result *result, uint32_t i, int other);

/* Returns 1 if contestant i, one of ours, meets the cell's goal, 0 if not, -1 if unknown. */
int result_goal(const struct result *result, uint32_t i);

#endif
