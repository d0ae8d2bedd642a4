/* SPDX-License-Identifier: Apache-2.0
 *
 * stress_pool.c - threads that are members of one pool pass numbered buffers through queues of
 * every mode, with lanes too, while other threads allocate and free until the pool is used up, so
 * that it grows, steals and waits. At the end every number was seen once, in the order of its
 * producer, and every buffer is free.
 *
 * Usage: stress_pool MESSAGES
 */
#define _GNU_SOURCE
#include "audit.h"
#include "blocking.h"
#include "check.h"
#include "member.h"
#include "memfd_pool.h"
#include "opening.h"
#include "pace.h"
#include "queue.h"
#include "wait.h"

#define PRODUCERS 2
#define CONSUMERS 2
#if SHMPOOL_POSITION_BITS == 8
/* Narrow positions allow no larger ring, and no bulks of a cache's size: members have no caches. */
#define CAPACITY 64
#define CACHE 0
#define REFILL 16
#define BULK 2
#define ROOM 16
#define HOARD 1
#elif SHMPOOL_POSITION_BITS == 16
/* Large bulks, so that positions wrap often; more often in a large queue, which needs fewer thread
 * switches. */
#ifndef CAPACITY
#define CAPACITY 1024
#endif
#define CACHE 64
#define REFILL 64
#define BULK 64
#define ROOM (CAPACITY / 4)
#define HOARD 64
#else
#define CAPACITY 256
#define CACHE 32
#define REFILL 16
#define BULK 8
#define ROOM 32
#define HOARD 1
#endif
/* With narrow positions no thread sleeps inside an operation: pace.h. */
#define PACED_WAIT (SHMPOOL_POSITION_BITS < 64)
#define PATIENCE_NS 60000000000ll

struct message {
	uint32_t producer;
	uint32_t number;
};

static uint32_t pool_number;
static uint32_t messages;
static uint32_t remaining;
static uint32_t stop;

struct worker {
	pthread_t thread;
	const struct alf_ring *ring;
	uint32_t number;
	uint64_t seen;
};

static struct qmempool *pool(void)
{
	return opening_pool(pool_number);
}

static struct member *self(void)
{
	if (!opening_member(pool_number))
		EQUAL(0, opening_attach(pool_number));
	return opening_member(pool_number);
}

static struct message *message_of(uint64_t handle)
{
	return (struct message *)segment_data(&pool()->segment, handle_index(handle));
}

static int64_t until(int64_t patience_ns)
{
	return PACED_WAIT ? WAIT_NEVER : wait_now() + patience_ns;
}

static void take(struct member *m, uint64_t *handle, uint32_t n)
{
	int error;
	while ((error = PACED(blocking_alloc(pool(), m, handle, n, until(PATIENCE_NS)))) &&
	       PACED_WAIT)
		sched_yield();
	EQUAL(0, error);
}

static void put(struct member *m, const struct alf_ring *r, const uint64_t *handle, uint32_t n)
{
	int error;
	while ((error = PACED(
			blocking_put(pool(), m, queue_in(m, r), handle, n, until(PATIENCE_NS)))) &&
	       PACED_WAIT)
		sched_yield();
	EQUAL(0, error);
}

static void *produce(void *argument)
{
	struct worker *w = argument;
	struct member *m = self();
	uint64_t handle[BULK];
	for (uint32_t number = 0; number < messages;) {
		uint32_t n = 1 + number % BULK;
		if (n > messages - number)
			n = messages - number;
		take(m, handle, n);
		for (uint32_t i = 0; i < n; i++)
			*message_of(handle[i]) = (struct message) { w->number, number + i };
		put(m, w->ring, handle, n);
		number += n;
	}
	return NULL;
}

static void *consume(void *argument)
{
	struct worker *w = argument;
	struct member *m = self();
	uint64_t handle[BULK];
	int64_t last[PRODUCERS];
	memset(last, -1, sizeof(last));
	while (load_relaxed(&remaining)) {
		int got = PACED(blocking_get(pool(), m, w->ring, handle, BULK, until(20000000)));
		if (got == -EAGAIN) {
			sched_yield();
			continue;
		}
		CHECK(got > 0);
		for (int i = 0; i < got; i++) {
			struct message *text = message_of(handle[i]);
			CHECK(text->producer < PRODUCERS);
			CHECK((int64_t)text->number > last[text->producer]);
			last[text->producer] = text->number;
			w->seen += text->number;
		}
		EQUAL(0, PACED(qmempool_free_bulk(pool(), m, handle, (uint32_t)got)));
		add_seq_cst(&remaining, -(uint32_t)got);
	}
	return NULL;
}

/* Takes as many buffers as it can get and frees them, so that other members find none and
 * steal. */
static void *hoard(void *argument)
{
	struct member *m = self();
	uint64_t handle[CAPACITY];
	(void)argument;
	while (!load_relaxed(&stop)) {
		uint32_t n = 0;
		while (n < CAPACITY / 2 &&
		       PACED(qmempool_alloc_bulk(pool(), m, &handle[n], HOARD)) == 0)
			n += HOARD;
		for (uint32_t i = 0; i < n; i += HOARD)
			EQUAL(0, PACED(qmempool_free_bulk(pool(), m, &handle[i], HOARD)));
		if (n)
			EQUAL(-ESTALE, qmempool_free(pool(), m, handle[n - 1]));
	}
	return NULL;
}

static void run(const char *name, uint32_t flags)
{
	uint32_t producers = flags & ALF_SINGLE_PRODUCER ? 1 : PRODUCERS;
	uint32_t consumers = flags & ALF_SINGLE_CONSUMER ? 1 : CONSUMERS;
	struct worker worker[PRODUCERS + CONSUMERS] = { 0 };
	pthread_t hoarder;
	const struct queue_on_death on_death = { .what = ON_DEATH_FREE };
	int number = queue_create(pool(), self(), name, ROOM, flags, &on_death);
	CHECK(number > 0);
	store_relaxed(&remaining, messages * producers);
	store_relaxed(&stop, 0);
	uint32_t n = 0;
	for (; n < producers + consumers; n++) {
		worker[n].ring = queue_ring(pool(), (uint32_t)number);
		worker[n].number = n;
		CHECK(!pthread_create(&worker[n].thread, NULL, n < producers ? produce : consume,
				      &worker[n]));
	}
	CHECK(!pthread_create(&hoarder, NULL, hoard, NULL));
	uint64_t seen = 0;
	for (uint32_t i = 0; i < n; i++) {
		pthread_join(worker[i].thread, NULL);
		seen += worker[i].seen;
	}
	store_relaxed(&stop, 1);
	pthread_join(hoarder, NULL);
	EQUAL((uint64_t)messages * (messages - 1) / 2 * producers, seen);
	struct shmpool_audit audit;
	struct shmpool_held held[258];
	uint64_t queued[65] = { 0 };
	EQUAL(0, audit_count(pool(), &audit, held, 258, queued, 65));
	EQUAL(0, audit.unaccounted);
	EQUAL(0, audit.doubled);
	EQUAL(audit.total, audit.free + audit.cached);
	struct shmpool_stats stats;
	audit_stats(pool(), &stats);
	EQUAL(1, stats.members); /* this thread; the members of the other threads ended with them */
	printf("%-15s %u messages, %llu grown, %llu stolen from, %llu sleeps, %llu wraps\n", name,
	       messages * producers, (unsigned long long)stats.counters[COUNT_GROW],
	       (unsigned long long)stats.counters[COUNT_STEAL],
	       (unsigned long long)stats.counters[COUNT_SLEEP],
	       pace_wraps((uint64_t)messages * producers));
}

int main(int argc, char **argv)
{
	messages = argc > 1 ? (uint32_t)atoi(argv[1]) : 20000;
	pool_number = memfd_pool(&(struct shmpool_geometry) { .buffer_size = 64,
							      .capacity = CAPACITY,
							      .prealloc = 16,
							      .cache_size = CACHE,
							      .bulk = REFILL,
							      .refill_multiplier = 1,
							      .members = 16,
							      .queues = 12 });
	run("multi-multi", 0);
	run("single-multi", ALF_SINGLE_PRODUCER);
	run("multi-single", ALF_SINGLE_CONSUMER);
	run("single-single", ALF_SINGLE_PRODUCER | ALF_SINGLE_CONSUMER);
	run("lanes", ALF_LANED | 2 << LANES_SHIFT);
	run("lanes-grow", ALF_LANED | ALF_LANES_GROW | 2 << LANES_SHIFT);
	EQUAL(0, opening_close(pool_number));
	return 0;
}
