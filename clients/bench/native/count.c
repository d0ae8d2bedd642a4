/* SPDX-License-Identifier: Apache-2.0
 *
 * count.c - repeats an operation of the hot path, for a tool that counts instructions.
 *
 * usage: count OPERATION TIMES [MEMBERS QUEUES CAPACITY]. Two runs differ only by the repetitions,
 * so their difference gives the instructions of one operation (../instructions.py). --list prints
 * the operations and the number of elements of each. The pool has so many idle members besides,
 * so many queues, of which the last one is used, and so many buffers.
 */
#define _GNU_SOURCE
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lanes.h"
#include "member.h"
#include "our_pool.h"

#define MOST 256u /* elements of one operation */
#define LANES (ALF_LANED | 8u << LANES_SHIFT)

struct ends {
	struct our_end end;
	uint64_t handle[MOST];
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
	expect(!our_alloc(&e->end, e->handle, n));
	expect(!our_free(&e->end, e->handle, n));
}

/* The same for one buffer, compiled by itself, so that its count does not depend on the bulks. */
static void pool_one(struct ends *e, uint32_t n)
{
	(void)n;
	expect(!our_alloc(&e->end, e->handle, 1));
	expect(!our_free(&e->end, e->handle, 1));
}

/* Puts and gets the handles that main() allocated. */
static void queue(struct ends *e, uint32_t n)
{
	expect(!queue_put(e->end.pool, e->end.member, e->end.queue, e->handle, n));
	expect(queue_get(e->end.pool, e->end.member, e->end.queue, e->handle, n) == (int)n);
}

/* The same in a queue of several lanes, of which one is used. */
static void lanes(struct ends *e, uint32_t n)
{
	const struct alf_ring *in = queue_in(e->end.member, e->end.queue);
	expect(!queue_put(e->end.pool, e->end.member, in, e->handle, n));
	expect(queue_get(e->end.pool, e->end.member, e->end.queue, e->handle, n) == (int)n);
}

static void path(struct ends *e, uint32_t n)
{
	expect(!our_alloc(&e->end, e->handle, n));
	queue(e, n);
	expect(!our_free(&e->end, e->handle, n));
}

static void path_one(struct ends *e, uint32_t n)
{
	expect(!our_alloc(&e->end, e->handle, 1));
	queue(e, n);
	expect(!our_free(&e->end, e->handle, 1));
}

static const struct operation {
	const char *name;
	void (*once)(struct ends *e, uint32_t n);
	uint32_t n;
	uint32_t flags; /* of the queue */
} operations[] = {
	{ "pool-1", pool_one, 1, 0 },
	{ "pool-32", pool, 32, 0 },
	{ "pool-256", pool, 256, 0 },
	{ "queue-1", queue, 1, 0 },
	{ "queue-32", queue, 32, 0 },
	{ "queue-256", queue, 256, 0 },
	{ "single-1", queue, 1, ALF_SINGLE_PRODUCER | ALF_SINGLE_CONSUMER },
	{ "single-32", queue, 32, ALF_SINGLE_PRODUCER | ALF_SINGLE_CONSUMER },
	{ "lanes-1", lanes, 1, LANES },
	{ "lanes-32", lanes, 32, LANES },
	{ "auto-1", lanes, 1, LANES | ALF_LANES_GROW },
	{ "auto-32", lanes, 32, LANES | ALF_LANES_GROW },
	{ "path-1", path_one, 1, 0 },
	{ "path-32", path, 32, 0 },
};
#define OPERATIONS (sizeof(operations) / sizeof(operations[0]))

static void set_up(struct ends *e, uint32_t flags, uint32_t others, uint32_t queues,
		   uint32_t capacity)
{
	struct our_pool p = { 0 };
	const uint32_t lanes_of = flags & ALF_LANED ? LANES_MAX : 0; /* each has a number too */
	expect(!our_pool_create(&p, (struct shmpool_geometry) { .buffer_size = 64,
								.capacity = capacity,
								.prealloc = capacity,
								.cache_size = 512,
								.bulk = 32,
								.refill_multiplier = 1,
								.members = others + 4,
								.queues = queues + lanes_of }));
	int number = -1;
	for (uint32_t i = 0; i < queues; i++) {
		char name[16];
		snprintf(name, sizeof(name), "bench%u", i);
		number = shmpool_queue_create_wait(p.number, name, 1024, flags, 0, 0, 0);
		expect(number >= 0);
	}
	expect(!our_pool_attach(&p, number, &e->end));
	for (uint32_t i = 0; i < others; i++) {
		struct member *idle;
		expect(!member_attach(&e->end.pool->segment, opening_token((uint32_t)p.number),
				      &idle));
	}
}

/* What is counted: ../instructions.py names this function to callgrind. */
__attribute__((noinline)) static void repeat(const struct operation *o, struct ends *e, long times)
{
	for (; times > 0; times--)
		o->once(e, o->n);
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
	for (uint32_t i = 0; (argc == 3 || argc == 6) && i < OPERATIONS; i++)
		if (!strcmp(argv[1], operations[i].name))
			o = &operations[i];
	if (!o) {
		fputs("usage: count --list | count OPERATION TIMES [MEMBERS QUEUES CAPACITY]\n",
		      stderr);
		return 2;
	}
	uint32_t size[] = { 0, 1, 4096 }; /* members, queues, capacity */
	for (int i = 3; i < argc; i++)
		size[i - 3] = (uint32_t)strtoul(argv[i], NULL, 10);
	set_up(&ends, o->flags, size[0], size[1], size[2]);
	if (o->once == queue || o->once == lanes)
		expect(!our_alloc(&ends.end, ends.handle, o->n));
	repeat(o, &ends, strtol(argv[2], NULL, 10));
	return 0;
}
