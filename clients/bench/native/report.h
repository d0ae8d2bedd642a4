/* SPDX-License-Identifier: Apache-2.0
 *
 * report.h - the figures for people (a table) and for programs (JSON).
 */
#ifndef BENCH_REPORT_H
#define BENCH_REPORT_H

#include <stdio.h>

#include "result.h"

/* cycles: of a nanosecond, 0 for unknown. */
void report_table(FILE *out, const struct result *results, uint32_t n, double cycles);

/* Every sample of every round, with what the table says about it. */
void report_json(FILE *out, const struct result *results, uint32_t n, bool quick);

#endif
