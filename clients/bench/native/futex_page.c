/* SPDX-License-Identifier: Apache-2.0
 *
 * futex_page.c - measures what two processes that share nothing but a page pay for it in the
 * kernel: make bench-futex-page
 *
 * Each process, on a core of its own, calls futex(FUTEX_WAKE) on its own word, where nobody sleeps.
 * The words lie in one page of a shared file, on different cache lines, or in two pages. The kernel
 * takes a reference of the page in each call and drops it again: two atomics on one line of its
 * own. Prints the ns of a call for several distances between the words, the median of ROUNDS.
 */
#define _GNU_SOURCE
#include <linux/futex.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "atomic.h"

#define CALLS 200000
#define ROUNDS 5
#define BYTES (64u << 10)

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

struct shared {
	uint32_t ready;
	double ns[2];
};

/* The nth of two processes: calls on its word once both are there. */
static void work(int n, uint32_t *word, struct shared *s)
{
	cpu_set_t core;
	CPU_ZERO(&core);
	CPU_SET(n, &core);
	sched_setaffinity(0, sizeof(core), &core);
	add_seq_cst(&s->ready, 1); /* both begin at once */
	while (load_acquire(&s->ready) < 2)
		cpu_relax();
	const double began = now();
	for (int i = 0; i < CALLS; i++)
		syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
	s->ns[n] = (now() - began) / CALLS;
	_exit(0);
}

/* Returns the ns of a call when the words lie so many bytes apart. */
static double measure(char *base, uint32_t distance, struct shared *s)
{
	s->ready = 0;
	for (int n = 0; n < 2; n++)
		if (fork() == 0)
			work(n, (uint32_t *)(base + (n ? distance : 0)), s);
	while (wait(NULL) > 0)
		;
	return (s->ns[0] + s->ns[1]) / 2;
}

static int compare(const void *a, const void *b)
{
	const double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

int main(void)
{
	static const uint32_t distance[] = { 64, 320, 2048, 4096, 32768 };
	double ns[sizeof(distance) / sizeof(*distance)][ROUNDS];
	const int fd = memfd_create("futex_page", MFD_CLOEXEC);
	struct shared *s =
		mmap(NULL, sizeof(*s), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (fd < 0 || ftruncate(fd, BYTES) || s == MAP_FAILED)
		return 1;
	char *base = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
	if (base == MAP_FAILED)
		return 1;
	for (int round = 0; round < ROUNDS; round++)
		for (uint32_t i = 0; i < sizeof(distance) / sizeof(*distance); i++)
			ns[i][round] = measure(base, distance[i], s);
	for (uint32_t i = 0; i < sizeof(distance) / sizeof(*distance); i++) {
		qsort(ns[i], ROUNDS, sizeof(**ns), compare);
		printf("%6u bytes apart: %4.0f ns\n", distance[i], ns[i][ROUNDS / 2]);
	}
	return 0;
}
