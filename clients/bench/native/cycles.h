/* SPDX-License-Identifier: Apache-2.0
 *
 * cycles.h - the rate of the time-stamp counter.
 */
#ifndef BENCH_CYCLES_H
#define BENCH_CYCLES_H

/* Returns cycles per nanosecond; 0 if there is no such counter. Takes 20 ms. */
double cycles_per_ns(void);

#endif
