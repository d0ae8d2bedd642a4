/* SPDX-License-Identifier: Apache-2.0
 *
 * stress_waker.c - event loops in threads of one process wait for two queues and for a topic, while
 * other threads put, publish, drop wants, close wakers and subscribe again. Each message comes
 * once; no loop sleeps while something is there; and afterwards nobody is counted asleep.
 *
 * A lock stands for Python's: the calls of wakers are made with it, polls without.
 *
 * Usage: stress_waker [messages]
 */
#define _GNU_SOURCE
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>

#include "blocking.h"
#include "lookup.h"
#include "memfd_pool.h"
#include "topic.h"
#include "wait.h"

#define CAPACITY 256u
#define RING 16u
#define QUEUES 2u
#define LOOPS 3u
#define PATIENCE_S 200 /* then the program is killed: a loop was not woken */

static uint32_t pool_number, messages, queue[QUEUES], topic_number;
static pthread_mutex_t interpreter = PTHREAD_MUTEX_INITIALIZER;
static uint32_t *got_times; /* by message */
static uint32_t left;       /* messages that nobody has got */

static struct qmempool *pool(void)
{
	return opening_pool(pool_number);
}

static struct member *self(void)
{
	pthread_mutex_lock(&interpreter);
	if (!opening_member(pool_number))
		EQUAL(0, opening_attach(pool_number));
	struct member *m = opening_member(pool_number);
	pthread_mutex_unlock(&interpreter);
	return m;
}

static void sleep_on(int waker)
{
	struct pollfd fd = { .fd = shmpool_waker_fd(waker), .events = POLLIN };
	pthread_mutex_unlock(&interpreter);
	CHECK(poll(&fd, 1, PATIENCE_S * 1000) == 1);
	pthread_mutex_lock(&interpreter);
}

static uint32_t *number_of(uint64_t handle)
{
	return (uint32_t *)pool_data(pool(), handle_index(handle));
}

/* Gets what is in the queue now. */
static void drain(struct member *m, const struct alf_ring *r)
{
	uint64_t handle;
	while (queue_get(pool(), m, r, &handle, 1) == 1) {
		const uint32_t number = *number_of(handle);
		CHECK(number < messages);
		EQUAL(0, add_seq_cst(&got_times[number], 1)); /* pairs with itself */
		EQUAL(0, qmempool_free(pool(), m, handle));
		add_seq_cst(&left, -1u); /* pairs with the loads in consume() */
	}
}

/* A loop: one want for each queue; now and then drops one, or starts again. */
static void *consume(void *argument)
{
	const int loop = (int)(intptr_t)argument & 1;
	struct member *m = self();
	uint32_t chance = 7 + (uint32_t)(intptr_t)argument;
	int want[QUEUES] = { 0 }, fired[4];
	pthread_mutex_lock(&interpreter);
	int waker = shmpool_waker_make(loop);
	CHECK(waker > 0);
	while (load_acquire(&left)) { /* pairs with drain() */
		bool all = true;
		chance = chance * 1664525 + 1013904223;
		for (uint32_t i = 0; i < QUEUES; i++) {
			if (!want[i])
				want[i] = shmpool_waker_want(waker, (int)pool_number, queue[i],
							     SHMPOOL_DATA, 1, !loop);
			CHECK(want[i] >= 0);
			all &= want[i] > 0;
			if (!want[i] || (!loop && shmpool_waker_refresh(waker) > 0))
				drain(m, queue_ring(pool(), queue[i]));
		}
		if (chance >> 28 == 0) {
			shmpool_waker_close(waker);
			waker = shmpool_waker_make(loop);
			CHECK(waker > 0);
			want[0] = want[1] = 0;
			continue;
		}
		if (chance >> 28 == 1 && want[1]) {
			shmpool_waker_drop(waker, want[1]);
			want[1] = 0;
			continue;
		}
		if (!all)
			continue;
		sleep_on(waker);
		const int n = loop ? shmpool_waker_take(waker, fired, 4) : 0;
		for (int i = 0; i < n; i++)
			for (uint32_t j = 0; j < QUEUES; j++)
				if (want[j] == fired[i]) {
					want[j] = 0;
					drain(m, queue_ring(pool(), queue[j]));
				}
	}
	shmpool_waker_close(waker);
	pthread_mutex_unlock(&interpreter);
	return NULL;
}

/* Puts, and waits for room as loops do, or as members do. */
static void *produce(void *argument)
{
	const uint32_t which = (uint32_t)(intptr_t)argument;
	struct member *m = self();
	const struct alf_ring *r = queue_ring(pool(), queue[which % QUEUES]);
	uint64_t handle;
	int fired[1];
	pthread_mutex_lock(&interpreter);
	int waker = shmpool_waker_make(1);
	CHECK(waker > 0);
	for (uint32_t number = which; number < messages; number += QUEUES) {
		EQUAL(0, blocking_alloc(pool(), m, &handle, 1, wait_now() + 60000000000));
		*number_of(handle) = number;
		while (queue_put(pool(), m, r, &handle, 1) == -ENOBUFS) {
			const int want = shmpool_waker_want(waker, (int)pool_number, r->id,
							    SHMPOOL_ROOM, 1 + number % 4, 0);
			CHECK(want >= 0);
			if (!want)
				continue;
			do
				sleep_on(waker);
			while (!shmpool_waker_take(waker, fired, 1));
			EQUAL(want, fired[0]);
		}
		if (number % 16 == which) { /* so that loops sleep, too */
			pthread_mutex_unlock(&interpreter);
			usleep(50);
			pthread_mutex_lock(&interpreter);
		}
	}
	shmpool_waker_close(waker);
	pthread_mutex_unlock(&interpreter);
	/* The last loops look at `left` once more. */
	while (load_acquire(&left)) /* pairs with drain() */
		usleep(1000);
	wait_wake(&queue_ring(pool(), queue[0])->q->data_wait, UINT32_MAX);
	EQUAL(0, queue_shutdown(queue_ring(pool(), queue[which % QUEUES]), m));
	return NULL;
}

/* A subscriber that waits, closes, and comes again: each wait ends. */
static void *listen_again(void *unused)
{
	(void)unused;
	struct member *m = self();
	const struct alf_ring *r = queue_ring(pool(), topic_number);
	uint64_t handle, position;
	int fired[1];
	pthread_mutex_lock(&interpreter);
	int waker = shmpool_waker_make(1);
	CHECK(waker > 0);
	for (uint32_t turn = 0; load_acquire(&left); turn++) { /* pairs with drain() */
		struct subscriber s;
		EQUAL(0, topic_subscribe(pool(), m, r, turn % 2 ? TOPIC_LATEST : TOPIC_BLOCK,
					 TOPIC_NEWEST, &s));
		const uint32_t index = topic_number | s.number << SHMPOOL_SUBSCRIBER_SHIFT;
		const int want =
			shmpool_waker_want(waker, (int)pool_number, index, SHMPOOL_MESSAGE, 1, 0);
		CHECK(want >= 0);
		if (want && turn % 8) {
			do
				sleep_on(waker);
			while (!shmpool_waker_take(waker, fired, 1));
		} else if (want) {
			topic_unsubscribe(pool(), m, &s);
			opening_subscriber_ends(pool_number, index);
			do
				sleep_on(waker);
			while (!shmpool_waker_take(waker, fired, 1));
		}
		if (!s.closed && topic_get(pool(), m, &s, &handle, &position, 1) == 1)
			topic_let_go(pool(), m, &s, &handle, 1);
		topic_unsubscribe(pool(), m, &s);
	}
	shmpool_waker_close(waker);
	pthread_mutex_unlock(&interpreter);
	return NULL;
}

static void *publish(void *unused)
{
	(void)unused;
	struct member *m = self();
	const struct alf_ring *r = queue_ring(pool(), topic_number);
	uint64_t handle;
	while (load_acquire(&left)) { /* pairs with drain() */
		EQUAL(0, blocking_alloc(pool(), m, &handle, 1, wait_now() + 60000000000));
		const int error = blocking_publish(pool(), m, r, &handle, 1, WAIT_NEVER);
		CHECK(!error || error == -ENOBUFS);
		if (error)
			EQUAL(0, qmempool_free(pool(), m, handle));
		usleep(100);
	}
	EQUAL(0, queue_shutdown(r, m));
	return NULL;
}

int main(int argc, char **argv)
{
	struct shmpool_geometry g = { .buffer_size = 64,
				      .capacity = CAPACITY,
				      .prealloc = CAPACITY,
				      .bulk = 16,
				      .refill_multiplier = 1,
				      .cache_size = 0,
				      .members = 16,
				      .queues = 4 };
	const struct queue_on_death on_death = { .what = ON_DEATH_FREE };
	pthread_t thread[LOOPS + QUEUES + 2];
	uint32_t n = 0;
	messages = argc > 1 ? (uint32_t)atoi(argv[1]) : 100000;
	left = messages;
	got_times = calloc(messages, sizeof(uint32_t));
	pool_number = memfd_pool(&g);
	struct member *m = self();
	for (uint32_t i = 0; i < QUEUES; i++) {
		const int made = queue_create(pool(), m, i ? "b" : "a", RING, 0, &on_death);
		CHECK(made > 0);
		queue[i] = (uint32_t)made;
	}
	topic_number = (uint32_t)queue_create(pool(), m, "topic", RING, ALF_TOPIC, &on_death);
	alarm(PATIENCE_S);
	for (uintptr_t i = 0; i < LOOPS; i++)
		CHECK(!pthread_create(&thread[n++], NULL, consume, (void *)i));
	for (uintptr_t i = 0; i < QUEUES; i++)
		CHECK(!pthread_create(&thread[n++], NULL, produce, (void *)i));
	CHECK(!pthread_create(&thread[n++], NULL, listen_again, NULL));
	CHECK(!pthread_create(&thread[n++], NULL, publish, NULL));
	while (n--)
		pthread_join(thread[n], NULL);
	for (uint32_t i = 0; i < messages; i++)
		EQUAL(1, got_times[i]);
	const uint32_t *word[] = { &queue_ring(pool(), queue[0])->q->data_wait,
				   &queue_ring(pool(), queue[1])->q->data_wait,
				   &queue_ring(pool(), queue[0])->q->room_wait,
				   &queue_ring(pool(), queue[1])->q->room_wait,
				   &queue_ring(pool(), topic_number)->q->data_wait };
	for (uint32_t i = 0; i < sizeof(word) / sizeof(word[0]); i++)
		while (wait_anybody(word[i])) /* until the helper thread has visited */
			usleep(1000);
	EQUAL(0, opening_close(pool_number));
	free(got_times);
	printf("%u messages\n", messages);
	return 0;
}
