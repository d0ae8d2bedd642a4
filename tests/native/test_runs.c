/* SPDX-License-Identifier: Apache-2.0
 *
 * test_runs.c - a run of slots is seen as a whole, wherever cache lines end in it: a thread that
 * sees its first slot sees the others.
 *
 * Usage: test_runs READS
 */
#define _GNU_SOURCE
#include "atomic.h"
#include "check.h"

#define SLOTS 32u
#define MOST 9u

static shared64 ring[SLOTS] __attribute__((aligned(4096)));
static uint64_t stop;

struct run {
	uint32_t at, n;
};

static void *write_runs(void *argument)
{
	const struct run *r = argument;
	uint64_t word[MOST];
	for (uint32_t i = 0; i < MOST; i++)
		word[i] = i;
	for (uint64_t lap = 1; !load_relaxed(&stop); lap++)
		store_run_release(&ring[r->at], lap << 25, word, 0xffffff, r->n);
	return NULL;
}

static void read_run(struct run r, uint64_t reads)
{
	pthread_t writer;
	store_relaxed(&stop, 0);
	for (uint32_t i = 0; i < SLOTS; i++)
		store_relaxed(&ring[i], 0);
	CHECK(!pthread_create(&writer, NULL, write_runs, &r));
	for (uint64_t k = 0; k < reads; k++) {
		uint64_t first = load_acquire(&ring[r.at]) >> 25;
		for (uint32_t i = 1; i < r.n; i++)
			CHECK(load_acquire(&ring[r.at + i]) >> 25 >= first);
	}
	store_relaxed(&stop, 1);
	pthread_join(writer, NULL);
}

int main(int argc, char **argv)
{
	uint64_t reads = argc > 1 ? (uint64_t)atoll(argv[1]) : 1000000;
	for (uint32_t at = 0; at < 8; at++)
		for (uint32_t n = 2; n <= MOST; n++)
			read_run((struct run) { at, n }, reads);
	read_run((struct run) { 7, 2 }, 64 * reads); /* a cache line ends after the first slot */
	return 0;
}
