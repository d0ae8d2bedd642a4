/* SPDX-License-Identifier: Apache-2.0
 *
 * touch.c - what the first use of a page costs: in a process that maps memory which others use
 * already (WORK_TOUCH), and of memory that is new (WORK_NEW). An element is a page of 4 KiB. As the
 * pool does it: without anything, with populate=True, in huge pages.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bench.h"
#include "memory.h"

#define PAGE 4096u
#define BYTES (2 * MEMORY_HUGE)

enum way { PLAIN, POPULATED, HUGE_PAGES };

static int file = -1;
static char *room; /* addresses, from a multiple of MEMORY_HUGE on */

static int reserve(enum way way, char *base)
{
	int error = 0;
	for (uint64_t at = 0; at < BYTES && way == HUGE_PAGES && !error; at += MEMORY_HUGE) {
		if (fallocate(file, FALLOC_FL_KEEP_SIZE, (off_t)at, PAGE))
			return -errno;
		error = memory_collapse(base + at);
	}
	if (!error && fallocate(file, FALLOC_FL_KEEP_SIZE, 0, (off_t)BYTES))
		error = -errno;
	return error;
}

static char *map(void)
{
	char *base = mmap(room, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0);
	return base == MAP_FAILED ? NULL : base;
}

static int create(struct bench_run *run, enum way way)
{
	if (!room) {
		char *some = mmap(NULL, BYTES + MEMORY_HUGE, PROT_NONE,
				  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (some == MAP_FAILED)
			return -errno;
		room = some + -(uintptr_t)some % MEMORY_HUGE;
	}
	if (file >= 0)
		close(file); /* the previous sample's */
	file = memfd_create("bench", MFD_CLOEXEC);
	if (file < 0 || ftruncate(file, (off_t)BYTES) || !map())
		return -errno;
	return run->cell->work == WORK_TOUCH ? reserve(way, room) : 0;
}

static void work(struct bench_run *run, uint32_t me, enum way way)
{
	uint64_t done = 0;
	while (!bench_stopped(run)) {
		char *base = map();
		int error = base ? 0 : -errno;
		if (!error && run->cell->work == WORK_NEW)
			error = reserve(way, base);
		if (!error && way == POPULATED)
			error = memory_populate(base, BYTES, run->cell->work == WORK_NEW);
		for (uint64_t at = 0; at < BYTES && !error; at += PAGE)
			*(volatile char *)(base + at) = 1;
		if (!error && run->cell->work == WORK_NEW &&
		    fallocate(file, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, 0, (off_t)BYTES))
			error = -errno;
		if (error) {
			store_relaxed(&run->failed, 1u);
			return;
		}
		bench_count(run, me, done += BYTES / PAGE);
	}
}

static int create_plain(struct bench_run *run)
{
	return create(run, PLAIN);
}

static void work_plain(struct bench_run *run, uint32_t me)
{
	work(run, me, PLAIN);
}

static void work_populated(struct bench_run *run, uint32_t me)
{
	work(run, me, POPULATED);
}

static int create_huge(struct bench_run *run)
{
	return create(run, HUGE_PAGES);
}

static void work_huge(struct bench_run *run, uint32_t me)
{
	work(run, me, HUGE_PAGES);
}

const struct bench_contestant touch_plain = { "touch_plain", create_plain, work_plain, false };
const struct bench_contestant touch_populated = { "touch_populated", create_plain, work_populated,
						  false };
const struct bench_contestant touch_huge = { "touch_huge", create_huge, work_huge, false };
