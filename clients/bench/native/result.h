/* SPDX-License-Identifier: Apache-2.0
 *
 * result.h - what was measured in one cell, and what follows from it.
 */
#ifndef BENCH_RESULT_H
#define BENCH_RESULT_H

#include "run.h"

struct result {
	const struct bench_cell *cell;
	const char *skipped; /* why nothing was measured, or NULL */
	uint32_t rounds;
	uint32_t attempts; /* at the whole cell: more than one if the hop changed under it */
	double hop_before, hop_after; /* ns one way; 0 where there is one core */
	uint32_t contestants;         /* the cell's, then its reference if that is none of them */
	const struct bench_contestant *contestant[BENCH_CONTESTANTS_MAX];
	struct run_sample sample[BENCH_CONTESTANTS_MAX][BENCH_ROUNDS_MAX];
};

/* Lists the contestants of a cell in an empty result. */
void result_init(struct result *result, const struct bench_cell *cell);

/* The median over the undisturbed rounds of contestant i; RUN_DISTURBED if they are too few. */
struct run_sample result_median(const struct result *result, uint32_t i);

/* Which contestant is the better baseline, -1 if there is none with a figure. */
int result_baseline(const struct result *result);

/* Which contestant the cell's goal refers to, -1 if it refers to none. */
int result_reference(const struct result *result);

/* Contestant i against contestant other: the median of the ratios within each round. 0 if unknown.
 *  */
double result_ratio(const struct result *result, uint32_t i, int other);

/* Whether contestant i (one of ours) reaches the cell's goal: 1, 0, or -1 for unknown. */
int result_goal(const struct result *result, uint32_t i);

#endif
