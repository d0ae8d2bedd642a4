/* SPDX-License-Identifier: Apache-2.0
 *
 * result.c - computes medians, ratios and goals of one cell.
 */
#include "result.h"

#include <stdlib.h>

int result_reference(const struct result *result)
{
	for (uint32_t i = 0; i < result->contestants; i++)
		if (result->contestant[i] == result->cell->reference)
			return (int)i;
	return -1;
}

void result_init(struct result *result, const struct bench_cell *cell)
{
	*result = (struct result) { .cell = cell };
	for (uint32_t i = 0; cell->contestants[i]; i++)
		result->contestant[result->contestants++] = cell->contestants[i];
	if (cell->reference && result_reference(result) < 0)
		result->contestant[result->contestants++] = cell->reference;
}

static int compare_samples(const void *a, const void *b)
{
	const struct run_sample *x = a, *y = b;
	if (x->outcome != y->outcome)
		return x->outcome < y->outcome ? -1 : 1;
	return (x->ns > y->ns) - (x->ns < y->ns);
}

static int compare_doubles(const void *a, const void *b)
{
	const double *x = a, *y = b;
	return (*x > *y) - (*x < *y);
}

/* True if there are enough undisturbed rounds for a median. */
static bool enough(const struct result *result, uint32_t clean)
{
	return clean && 3 * clean >= result->rounds;
}

struct run_sample result_median(const struct result *result, uint32_t i)
{
	struct run_sample sorted[BENCH_ROUNDS_MAX];
	uint32_t n = 0;
	if (!result->rounds || !result->contestant[i]->create)
		return (struct run_sample) { .outcome = RUN_FAILED };
	for (uint32_t r = 0; r < result->rounds; r++)
		if (!result->sample[i][r].disturbed)
			sorted[n++] = result->sample[i][r];
	if (!enough(result, n))
		return (struct run_sample) { .outcome = RUN_DISTURBED };
	qsort(sorted, n, sizeof(sorted[0]), compare_samples);
	return sorted[n / 2];
}

int result_baseline(const struct result *result)
{
	int best = -1;
	double best_ns = 0;
	for (uint32_t i = 0; i < result->contestants; i++) {
		struct run_sample median = result_median(result, i);
		if (result->contestant[i]->column == OURS || median.outcome != RUN_OK)
			continue;
		if (best < 0 || median.ns < best_ns) {
			best = (int)i;
			best_ns = median.ns;
		}
	}
	return best;
}

double result_ratio(const struct result *result, uint32_t i, int other)
{
	double ratio[BENCH_ROUNDS_MAX];
	uint32_t n = 0;
	if (other < 0 || result_median(result, i).outcome != RUN_OK)
		return 0;
	for (uint32_t r = 0; r < result->rounds; r++) {
		const struct run_sample *mine = &result->sample[i][r];
		const struct run_sample *theirs = &result->sample[other][r];
		if (mine->outcome == RUN_OK && theirs->outcome == RUN_OK && !mine->disturbed &&
		    !theirs->disturbed)
			ratio[n++] = mine->ns / theirs->ns;
	}
	qsort(ratio, n, sizeof(ratio[0]), compare_doubles);
	return enough(result, n) ? ratio[n / 2] : 0;
}

int result_goal(const struct result *result, uint32_t i)
{
	const struct bench_goal *goal = &result->cell->goal;
	struct run_sample median = result_median(result, i);
	double figure = 0;
	if (goal->kind == GOAL_NS && median.outcome == RUN_OK)
		figure = median.ns;
	else if (goal->kind == GOAL_REFERENCE)
		figure = result_ratio(result, i, result_reference(result));
	else if (goal->kind == GOAL_BASELINE)
		figure = result_ratio(result, i, result_baseline(result));
	return figure == 0 ? -1 : figure <= goal->limit;
}
