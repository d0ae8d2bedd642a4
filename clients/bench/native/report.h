/* SPDX-License-Identifier: Apache-2.0
 *
 * report.h - prints the figures as a table or as JSON.
 */
#ifndef BENCH_REPORT_H
#define BENCH_REPORT_H

#include <stdio.h>

#include "result.h"

/* Prints a table. cycles: per nanosecond, 0 for unknown. */
void report_table(FILE *out, const struct result *results, uint32_t n, double cycles);

/* Writes every sample of every round, and the figures of the table. */
void report_json(FILE *out, const struct result *results, uint32_t n, bool quick);

#endif
