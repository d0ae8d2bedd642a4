/* SPDX-License-Identifier: Apache-2.0
 *
 * line_latency.c - measures how long a cache line takes from one core to the other, one way.
 *
 * Two workers bounce one word. Every figure of two cores depends on this time. On a virtual machine
 * it changes when the host moves a virtual core, so it is measured before and after each cell.
 */
#include "bench.h"

static int create(struct bench_run *run)
{
	run->state = bench_memory(run, CACHE_LINE);
	return 0;
}

static void work(struct bench_run *run, uint32_t me)
{
	uint64_t *word = run->state, turn = me;
	while (!bench_stopped(run)) {
		if (load_acquire(word) != turn) {
			cpu_relax();
			continue;
		}
		store_release(word, turn + 1);
		turn += 2;
		bench_count(run, me, turn / 2);
	}
}

const struct bench_contestant line_latency = { "line_latency", create, work, false };
