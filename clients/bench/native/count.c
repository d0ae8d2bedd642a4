/* SPDX-License-Identifier: Apache-2.0
 *
 * count.c - repeats an operation of the hot path, for a tool that counts instructions.
 *
 * usage: count OPERATION TIMES. Two runs differ only by the repetitions, so their difference gives
 * the instructions of one operation (../instructions.py). --list prints the operations and the
 * number of elements of each.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "binding.h"
#include "opening.h"
#include "queue.h"

#define MOST 256u /* elements of one operation */

struct ends {
	struct qmempool *pool;
	struct member *member;
	const struct alf_ring *multi, *single;
	uint64_t handle[MOST];
};

struct operation {
	const char *name;
	void (*once)(struct ends *e, uint32_t n);
	uint32_t n;
};

/* Exits if an operation failed. */
static void expect(bool well)
{
	if (well)
		return;
	fputs("count: an operation failed\n", stderr);
	exit(1);
}

static void pool(struct ends *e, uint32_t n)
{
	if (n == 1) {
		expect(!qmempool_alloc(e->pool, e->member, e->handle));
		expect(!qmempool_free(e->pool, e->member, e->handle[0]));
	} else {
		expect(!qmempool_alloc_bulk(e->pool, e->member, e->handle, n));
		expect(!qmempool_free_bulk(e->pool, e->member, e->handle, n));
	}
}

/* Puts and gets the handles that main() allocated. */
static void queue(struct ends *e, uint32_t n)
{
	expect(!queue_put(e->pool, e->member, e->multi, e->handle, n));
	expect(queue_get(e->pool, e->member, e->multi, e->handle, n) == (int)n);
}

static void single(struct ends *e, uint32_t n)
{
	expect(!queue_put(e->pool, e->member, e->single, e->handle, n));
	expect(queue_get(e->pool, e->member, e->single, e->handle, n) == (int)n);
}

static void path(struct ends *e, uint32_t n)
{
	if (n == 1)
		expect(!qmempool_alloc(e->pool, e->member, e->handle));
	else
		expect(!qmempool_alloc_bulk(e->pool, e->member, e->handle, n));
	queue(e, n);
	if (n == 1)
		expect(!qmempool_free(e->pool, e->member, e->handle[0]));
	else
		expect(!qmempool_free_bulk(e->pool, e->member, e->handle, n));
}

static const struct operation operations[] = {
	{ "pool-1", pool, 1 },     { "pool-32", pool, 32 },     { "pool-256", pool, 256 },
	{ "queue-1", queue, 1 },   { "queue-32", queue, 32 },   { "queue-256", queue, 256 },
	{ "single-1", single, 1 }, { "single-32", single, 32 }, { "path-1", path, 1 },
	{ "path-32", path, 32 },
};
#define OPERATIONS (sizeof(operations) / sizeof(operations[0]))

static void set_up(struct ends *e)
{
	struct shmpool_geometry g = { .buffer_size = 64,
				      .capacity = 4096,
				      .prealloc = 4096,
				      .cache_size = 512,
				      .bulk = 32,
				      .refill_multiplier = 1,
				      .members = 4,
				      .queues = 2 };
	struct segment s;
	struct shmpool_refusal why;
	expect(!segment_plan(&s, &g, &why));
	int fd = memfd_create("count", MFD_CLOEXEC);
	expect(fd >= 0 && !ftruncate(fd, (off_t)g.size));
	void *base = mmap(NULL, g.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	expect(base != MAP_FAILED);
	expect(!shmpool_create_wait(base, fd, &g));
	int number = shmpool_open(base, g.size, fd, "", 1);
	expect(number >= 0);
	int multi = shmpool_queue_create(number, "multi", 1024, 0, 0, 0, 0);
	int one = shmpool_queue_create(number, "single", 1024,
				       ALF_SINGLE_PRODUCER | ALF_SINGLE_CONSUMER, 0, 0, 0);
	expect(multi >= 0 && one >= 0 && !opening_attach((uint32_t)number));
	e->pool = opening_pool((uint32_t)number);
	e->member = opening_member((uint32_t)number);
	e->multi = queue_ring(e->pool, (uint32_t)multi);
	e->single = queue_ring(e->pool, (uint32_t)one);
}

int main(int argc, char **argv)
{
	static struct ends ends;
	if (argc == 2 && !strcmp(argv[1], "--list")) {
		for (uint32_t i = 0; i < OPERATIONS; i++)
			printf("%s %u\n", operations[i].name, operations[i].n);
		return 0;
	}
	const struct operation *o = NULL;
	for (uint32_t i = 0; argc == 3 && i < OPERATIONS; i++)
		if (!strcmp(argv[1], operations[i].name))
			o = &operations[i];
	if (!o) {
		fputs("usage: count --list | count OPERATION TIMES\n", stderr);
		return 2;
	}
	set_up(&ends);
	if (o->once == queue || o->once == single)
		expect(!qmempool_alloc_bulk(ends.pool, ends.member, ends.handle, o->n));
	for (long times = strtol(argv[2], NULL, 10); times > 0; times--)
		o->once(&ends, o->n);
	return 0;
}
