/* SPDX-License-Identifier: Apache-2.0
 *
 * wrap_ring.c - threads pass numbers through one ring until its positions have wrapped often. Every
 * number arrives once, in the order of its producer, through rings of every size.
 *
 * Usage: wrap_ring WRAPS. Prints how often each ring's positions wrapped: WRAPS times; with 16
 * bits, in a ring that needs many thread switches for that, WRAPS / 50 times.
 */
#define _GNU_SOURCE
/* Of BULK: a quarter of all positions. */
#define PACE_STEPS (SHMPOOL_POSITION_BITS == 8 ? 8u : 256u)
#include "pace.h"

#include <sched.h>

#define BULK (SHMPOOL_POSITION_BITS == 8 ? 4u : 64u)
#define SIDE_MAX 2

static struct alf_queue queue __attribute__((aligned(CACHE_LINE)));
static uint64_t slots[ALF_CAPACITY_MAX];
static struct alf_ring ring;
static uint64_t each;      /* elements of each producer */
static uint64_t remaining; /* elements of all producers */

struct worker {
	pthread_t thread;
	enum alf_side side;
	uint32_t number;
	uint64_t op;
};

/* A number has 24 bits: | producer 1 | count 23 |. */
static void *produce(void *argument)
{
	struct worker *w = argument;
	uint64_t handle[BULK];
	uint32_t full = alf_capacity(&ring) < BULK ? alf_capacity(&ring) : BULK;
	for (uint64_t sent = 0; sent < each;) {
		uint32_t n = 1 + (uint32_t)(sent * 7 % full);
		alf_position at;
		if (n > each - sent)
			n = (uint32_t)(each - sent);
		for (uint32_t i = 0; i < n; i++)
			handle[i] = w->number << 23 | ((sent + i) & 0x7fffff);
		pace_begin();
		int error = alf_reserve(&ring, &w->op, n, w->side, &at);
		if (!error)
			alf_publish(&ring, at, handle, n);
		alf_done(&w->op, w->side);
		pace_end();
		if (error)
			sched_yield();
		else
			sent += n;
	}
	return NULL;
}

static void *consume(void *argument)
{
	struct worker *w = argument;
	uint64_t handle[BULK], next[SIDE_MAX] = { 0 }, left[SIDE_MAX] = { remaining, remaining };
	while (load_relaxed(&remaining)) {
		pace_begin();
		uint32_t got = alf_claim(&ring, &w->op, handle, BULK, w->side);
		alf_done(&w->op, w->side);
		pace_end();
		if (!got)
			sched_yield();
		for (uint32_t i = 0; i < got; i++) {
			uint64_t *expected = &next[handle[i] >> 23];
			uint64_t ahead = (handle[i] - *expected) & 0x7fffff;
			/* Other consumers got the numbers between; none repeats. A thread that
			 * was suspended until the numbers wrapped cannot check this. */
			CHECK(ahead < 1u << 22 ||
			      left[handle[i] >> 23] - load_relaxed(&remaining) > 1u << 21);
			*expected = handle[i] + 1;
			left[handle[i] >> 23] = load_relaxed(&remaining);
		}
		add_seq_cst(&remaining, -(uint64_t)got);
	}
	return NULL;
}

static void run(uint64_t wraps, uint32_t capacity, enum alf_side put, enum alf_side get)
{
	struct worker worker[2 * SIDE_MAX] = { 0 };
	uint32_t producers = put == ALF_MULTI ? SIDE_MAX : 1;
	uint32_t consumers = get == ALF_MULTI ? SIDE_MAX : 1;
	memset(slots, 0, sizeof(slots));
	EQUAL(0, alf_init(&ring, &queue, slots, capacity, ALF_CAPACITY_MAX, 1, 0));
	each = (wraps << (SHMPOOL_POSITION_BITS & 31)) / producers;
	remaining = each * producers;
	uint64_t total = remaining;
	for (uint32_t i = 0; i < producers + consumers; i++) {
		worker[i].side = i < producers ? put : get;
		worker[i].number = i;
		CHECK(!pthread_create(&worker[i].thread, NULL, i < producers ? produce : consume,
				      &worker[i]));
	}
	for (uint32_t i = 0; i < producers + consumers; i++)
		pthread_join(worker[i].thread, NULL);
	EQUAL(0, remaining);
	CHECK(alf_empty(&ring));
	EQUAL((alf_position)(capacity + total), queue.cons); /* no tombstone, no element twice */
	printf("%u slots, %u to %u: positions came round %llu times\n", capacity, producers,
	       consumers, pace_wraps(total));
}

int main(int argc, char **argv)
{
	uint64_t wraps = argc > 1 ? (uint64_t)atoll(argv[1]) : 1000;
	_Static_assert(SHMPOOL_POSITION_BITS < 64, "for narrow positions");
	for (uint32_t capacity = ALF_CAPACITY_MAX; capacity >= 2; capacity /= 32)
		for (int mode = 0; mode < 4; mode++)
			run(SHMPOOL_POSITION_BITS == 16 && capacity < BULK ? wraps / 50 : wraps,
			    capacity, mode & 1 ? ALF_SINGLE : ALF_MULTI,
			    mode & 2 ? ALF_SINGLE_WAKES : ALF_MULTI);
	return 0;
}
