/* SPDX-License-Identifier: Apache-2.0
 *
 * cycles.h - how many cycles of the time-stamp counter a nanosecond has.
 */
#ifndef BENCH_CYCLES_H
#define BENCH_CYCLES_H

/* Takes 20 ms. 0 where there is no such counter. */
double cycles_per_ns(void);

#endif
