/* SPDX-License-Identifier: Apache-2.0
 *
 * report.c - prints results: a line of the table for each of our variants; the first also has the
 * figures of the baselines.
 */
#include "report.h"

#include <string.h>

static const char *const column_name[COLUMNS] = { "ours", "original", "dpdk",     "+ owner",
						  "ck",   "malloc",   "mimalloc", "jemalloc" };
static const char *const outcome_name[] = {
	"ok", "slower", "stuck", "failed", "interrupted", "busy"
};

/* Formats a time per element. */
static const char *figure(char *text, size_t size, struct run_sample s)
{
	const char *more = s.outcome == RUN_OK ? "" : "> ";
	if (s.outcome >= RUN_FAILED)
		snprintf(text, size, "%s", outcome_name[s.outcome]);
	else if (s.ns >= 1e6)
		snprintf(text, size, "%s%.0f ms", more, s.ns / 1e6);
	else if (s.ns >= 1e4)
		snprintf(text, size, "%s%.0f us", more, s.ns / 1e3);
	else
		snprintf(text, size, "%s%.*f", more, s.ns < 10 ? 2 : 1, s.ns);
	return text;
}

static const char *goal_text(char *text, size_t size, const struct bench_cell *cell)
{
	switch (cell->goal.kind) {
	case GOAL_BASELINE:
		snprintf(text, size, "<= %.2fx", cell->goal.limit);
		break;
	case GOAL_REFERENCE:
		snprintf(text, size, "<= %.2fx of %s", cell->goal.limit, cell->reference->name);
		break;
	case GOAL_NS:
		snprintf(text, size, "<= %.1f ns", cell->goal.limit);
		break;
	default:
		text[0] = 0;
	}
	return text;
}

/* Formats a note on the samples of a line. */
static const char *remark(char *text, size_t size, const struct result *result)
{
	uint32_t disturbed = 0;
	text[0] = 0;
	for (uint32_t i = 0; i < result->contestants; i++)
		for (uint32_t r = 0; r < result->rounds; r++)
			disturbed += result->sample[i][r].disturbed;
	if (result->attempts > 1)
		snprintf(text, size, "; attempt %u: the line latency changed", result->attempts);
	if (disturbed)
		snprintf(text + strlen(text), size - strlen(text), "; %u of %u samples disturbed",
			 disturbed, result->rounds * result->contestants);
	return text;
}

/* The fields of one line. */
struct line {
	char figure[COLUMNS][16];
	char cycles[16];
	char ratio[16];
	char goal[64];
	char latency[32];
	char remark[96];
};

/* Prints our variant i. The fields of the whole cell are on its first line only. */
static void row(FILE *out, const struct result *result, uint32_t i, bool first, double cycles)
{
	const struct bench_cell *cell = result->cell;
	struct line l = { 0 };
	int other = cell->goal.kind == GOAL_REFERENCE ? result_reference(result) :
							result_baseline(result);
	double ratio = result_ratio(result, i, other);
	struct run_sample ours = result_median(result, i);
	figure(l.figure[OURS], sizeof(l.figure[0]), ours);
	if (cycles > 0 && ours.outcome == RUN_OK)
		snprintf(l.cycles, sizeof(l.cycles), "%.1f", ours.ns * cycles);
	if (ratio > 0)
		snprintf(l.ratio, sizeof(l.ratio), ratio < 0.01 ? "%.0ex" : "%.2fx", ratio);
	for (uint32_t j = 0; first && j < result->contestants; j++) {
		enum bench_column c = result->contestant[j]->column;
		if (c != OURS && result->contestant[j]->create)
			figure(l.figure[c], sizeof(l.figure[c]), result_median(result, j));
		else if (c != OURS)
			snprintf(l.figure[c], sizeof(l.figure[c]), "skipped");
	}
	if (first) {
		int met = result_goal(result, i);
		goal_text(l.goal, sizeof(l.goal), cell);
		if (met >= 0)
			strcat(l.goal, met ? ": met" : ": MISSED");
		remark(l.remark, sizeof(l.remark), result);
		if (result->line_after > 0)
			snprintf(l.latency, sizeof(l.latency), "%.0f-%.0f", result->line_before,
				 result->line_after);
	}
	fprintf(out, "%-31s %-19s %9s %8s", first ? cell->name : "", result->contestant[i]->name,
		l.figure[OURS], l.cycles);
	for (int c = OURS + 1; c < COLUMNS; c++)
		fprintf(out, " %9s", l.figure[c]);
	fprintf(out, " %7s %8s  %s%s\n", l.ratio, l.latency, l.goal, l.remark);
}

static void missing(FILE *out, const struct bench_contestant *contestant, const char *package)
{
	if (!contestant->create)
		fprintf(out, "\n%s: skipped; this compiler does not find %s\n", contestant->name,
			package);
}

void report_table(FILE *out, const struct result *results, uint32_t n, double cycles)
{
	fputs("ns per element, medians; of ours also cycles of the time-stamp counter. Ratio: ours "
	      "to the better baseline, or to the\n"
	      "one that the goal names, round by round. Line: ns for a cache line from core to "
	      "core, before and after. A goal is for the\n"
	      "first variant of its scenario.\n\n",
	      out);
	fprintf(out, "%-31s %-19s %9s %8s", "scenario", "variant", column_name[OURS], "cycles");
	for (int c = OURS + 1; c < COLUMNS; c++)
		fprintf(out, " %9s", column_name[c]);
	fprintf(out, " %7s %8s  goal\n", "ratio", "line");
	for (uint32_t k = 0; k < n; k++) {
		const struct result *result = &results[k];
		bool first = true;
		if (result->skipped)
			fprintf(out, "%-31s skipped: %s\n", result->cell->name, result->skipped);
		for (uint32_t i = 0; !result->skipped && i < result->contestants; i++) {
			if (result->contestant[i]->column != OURS)
				continue;
			row(out, result, i, first, cycles);
			first = false;
		}
	}
	missing(out, &queue_rte, "libdpdk-dev");
	missing(out, &queue_ck, "libck-dev");
	missing(out, &pool_mimalloc, "libmimalloc-dev");
	missing(out, &pool_jemalloc, "libjemalloc-dev");
}

static void json_contestant(FILE *out, const struct result *result, uint32_t i)
{
	struct run_sample median = result_median(result, i);
	int met = result->contestant[i]->column == OURS ? result_goal(result, i) : -1;
	fprintf(out, "      {\"name\": \"%s\", \"column\": \"%s\", \"outcome\": \"%s\", ",
		result->contestant[i]->name, column_name[result->contestant[i]->column],
		result->contestant[i]->create ? outcome_name[median.outcome] : "skipped");
	fprintf(out, "\"median_ns\": %.4f, \"ratio\": %.4f, \"met\": %s, \"rounds\": [", median.ns,
		result_ratio(result, i, result_baseline(result)),
		met < 0 ? "null" :
		met     ? "true" :
			  "false");
	for (uint32_t r = 0; result->contestant[i]->create && r < result->rounds; r++) {
		const struct run_sample *s = &result->sample[i][r];
		fprintf(out, "%s{\"ns\": %.4f, \"outcome\": \"%s\", \"disturbed\": %s}",
			r ? ", " : "", s->ns, outcome_name[s->outcome],
			s->disturbed ? "true" : "false");
	}
	fprintf(out, "]}%s\n", i + 1 < result->contestants ? "," : "");
}

void report_json(FILE *out, const struct result *results, uint32_t n, bool quick)
{
	char goal[64];
	fprintf(out, "{\n  \"compiler\": \"%s\", \"quick\": %s,\n  \"cells\": [\n", __VERSION__,
		quick ? "true" : "false");
	for (uint32_t k = 0; k < n; k++) {
		const struct result *result = &results[k];
		fprintf(out, "    {\"name\": \"%s\", \"goal\": \"%s\", \"skipped\": %s%s%s,\n",
			result->cell->name, goal_text(goal, sizeof(goal), result->cell),
			result->skipped ? "\"" : "", result->skipped ? result->skipped : "null",
			result->skipped ? "\"" : "");
		fprintf(out,
			"     \"line_before_ns\": %.1f, \"line_after_ns\": %.1f, \"attempts\": "
			"%u,\n"
			"     \"contestants\": [\n",
			result->line_before, result->line_after, result->attempts);
		for (uint32_t i = 0; i < result->contestants; i++)
			json_contestant(out, result, i);
		fprintf(out, "    ]}%s\n", k + 1 < n ? "," : "");
	}
	fprintf(out, "  ]\n}\n");
}
