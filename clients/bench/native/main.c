/* SPDX-License-Identifier: Apache-2.0
 *
 * main.c - the native benchmark: options, rounds, and when a cell is measured again.
 *
 * The contestants of a cell take turns (A B C A B C ...), so that a change of the machine affects
 * all of them. Only figures of the same round are compared.
 */
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cycles.h"
#include "report.h"

/* By place. Oversubscribed samples are long. The others are short and need more rounds, so that
 * short disturbances do not reach the median. */
static const uint32_t rounds_full[3] = { 21, 21, 7 }, rounds_quick[3] = { 5, 5, 3 };

#define CELL_ATTEMPTS 3
#define LINE_CHANGED 1.5   /* times: figures measured during such a change are not comparable */
#define LINE_NS_MAX 2000.0 /* more means that another program uses a core */
#define LINE_TRIES 20

static const char usage[] =
	"usage: bench [--quick] [--only SUBSTRING] [--json FILE] [--list] [-h]\n"
	"\n"
	"Measures the queue and the pool in C against the original algorithm and DPDK.\n"
	"  --quick           3 to 5 short rounds instead of 7 to 21\n"
	"  --only SUBSTRING  only the scenarios whose name contains it\n"
	"  --json FILE       also write every sample of every round\n"
	"  --list            list the scenarios and exit\n"
	"\n"
	"example: bench --quick --only '1 to 1' --json /tmp/bench.json\n";

static const struct bench_cell line_cell = {
	.name = "line latency", .work = WORK_LINE_LATENCY, .place = TWO_CORES, .producers = 2
};

/* Cache-line latency in ns, the median of three; retried while another program uses a core. Returns
 * LINE_NS_MAX if that does not end, 0 after Ctrl-C. */
static double measure_line(void)
{
	struct result r = { .cell = &line_cell, .rounds = 3, .contestants = 1 };
	r.contestant[0] = &line_latency;
	for (int tries = 0; tries < LINE_TRIES; tries++) {
		for (uint32_t i = 0; i < r.rounds; i++) {
			r.sample[0][i] = run_once(&line_cell, &line_latency);
			if (r.sample[0][i].outcome == RUN_INTERRUPTED)
				return 0;
		}
		struct run_sample median = result_median(&r, 0);
		if (median.outcome == RUN_OK && median.ns < LINE_NS_MAX)
			return median.ns;
	}
	return LINE_NS_MAX;
}

/* Runs all rounds of one cell. True after Ctrl-C. */
static bool measure(struct result *result, uint32_t rounds)
{
	const struct bench_cell *cell = result->cell;
	result->rounds = 0;
	for (uint32_t r = 0; r < rounds; r++) {
		for (uint32_t i = 0; i < result->contestants; i++) {
			if (!result->contestant[i]->create)
				continue;
			if (isatty(STDERR_FILENO))
				fprintf(stderr, "\r\033[K%s: round %u of %u, %s", cell->name, r + 1,
					rounds, result->contestant[i]->name);
			result->sample[i][r] = run_once(cell, result->contestant[i]);
			if (result->sample[i][r].outcome == RUN_INTERRUPTED)
				return true;
		}
		result->rounds = r + 1;
	}
	return false;
}

static bool measure_cell(struct result *result, uint32_t rounds, int cores)
{
	if (result->cell->place == ONE_CORE)
		return measure(result, rounds);
	if (cores < 2) {
		result->skipped = "it needs two cores";
		return false;
	}
	double changed;
	do {
		result->attempts++;
		result->line_before = measure_line();
		if (result->line_before == 0 || measure(result, rounds))
			return true;
		result->line_after = measure_line();
		if (result->line_after == 0)
			return true;
		changed = result->line_after / result->line_before;
	} while ((changed > LINE_CHANGED || changed < 1 / LINE_CHANGED) &&
		 result->attempts < CELL_ATTEMPTS);
	return false;
}

static int write_json(const char *path, const struct result *results, uint32_t n, bool quick)
{
	FILE *out = fopen(path, "w");
	if (out)
		report_json(out, results, n, quick);
	if (!out || fclose(out)) {
		fprintf(stderr, "bench: %s: %s\n", path, strerror(errno));
		return 1;
	}
	return 0;
}

/* Measures the selected cells, up to Ctrl-C, and prints them. Returns the exit status. */
static int run_all(const char *only, bool quick, const char *json)
{
	struct result *results = calloc(cells_count, sizeof(*results));
	int cores = run_init();
	bool interrupted = false;
	uint32_t n = 0;
	if (!results || cores < 0) {
		fprintf(stderr, "bench: %s\n", strerror(results ? -cores : ENOMEM));
		return 1;
	}
	for (uint32_t i = 0; i < cells_count && !interrupted; i++) {
		const struct bench_cell *cell = &cells[i];
		if (!strstr(cell->name, only))
			continue;
		result_init(&results[n], cell);
		interrupted = measure_cell(
			&results[n], (quick ? rounds_quick : rounds_full)[cell->place], cores);
		if (interrupted && !results[n].rounds)
			results[n].skipped = "interrupted";
		n++;
	}
	if (isatty(STDERR_FILENO))
		fprintf(stderr, "\r\033[K");
	if (!n) {
		fprintf(stderr, "bench: no scenario's name contains '%s'; --list names them\n",
			only);
		free(results);
		return 2;
	}
	report_table(stdout, results, n, cycles_per_ns());
	int status = json ? write_json(json, results, n, quick) : 0;
	free(results);
	return interrupted ? 128 + SIGINT : status;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "quick", no_argument, NULL, 'q' },      { "only", required_argument, NULL, 'o' },
		{ "json", required_argument, NULL, 'j' }, { "list", no_argument, NULL, 'l' },
		{ "help", no_argument, NULL, 'h' },       { NULL, 0, NULL, 0 }
	};
	const char *only = "", *json = NULL;
	bool quick = false;
	for (int c; (c = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
		switch (c) {
		case 'q':
			quick = true;
			break;
		case 'o':
			only = optarg;
			break;
		case 'j':
			json = optarg;
			break;
		case 'l':
			for (uint32_t i = 0; i < cells_count; i++)
				puts(cells[i].name);
			return 0;
		default:
			fputs(usage, c == 'h' ? stdout : stderr);
			return c == 'h' ? 0 : 2;
		}
	}
	if (optind < argc) {
		fputs(usage, stderr);
		return 2;
	}
	return run_all(only, quick, json);
}
