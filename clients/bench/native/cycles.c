/* SPDX-License-Identifier: Apache-2.0
 *
 * cycles.c - compares the time-stamp counter with the clock.
 */
#include "cycles.h"

#include <stdint.h>
#include <time.h>

#define MEASURE_NS 20000000

#if defined(__x86_64__)
static uint64_t ns_now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

double cycles_per_ns(void)
{
	uint64_t began = ns_now(), from = __builtin_ia32_rdtsc(), now;
	do {
		now = ns_now();
	} while (now - began < MEASURE_NS);
	return (double)(__builtin_ia32_rdtsc() - from) / (double)(now - began);
}
#else
double cycles_per_ns(void)
{
	return 0;
}
#endif
