/* SPDX-License-Identifier: Apache-2.0
 *
 * test_survivors.c - a member that waits recovers a process that is killed, whatever it waits for,
 * with nobody else to do so. Each wait would otherwise last PATIENCE_NS.
 *
 * Usage: test_survivors
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "blocking.h"
#include "member.h"
#include "memfd_pool.h"
#include "opening.h"
#include "queue.h"
#include "unfinished.h"
#include "wait.h"

#define CAPACITY 64u
#define RING 16u
#define PATIENCE_NS 60000000000ll

enum { REQUEUES = 1, FREES }; /* queues, by what becomes of a dead consumer's messages */

static uint32_t pool_number;

static struct qmempool *pool(void)
{
	return opening_pool(pool_number);
}

static struct pool_shared *shared(void)
{
	return segment_shared(&pool()->segment);
}

static struct member *self(void)
{
	if (!opening_member(pool_number))
		EQUAL(0, opening_attach(pool_number));
	return opening_member(pool_number);
}

static const struct alf_ring *ring(uint32_t queue)
{
	return queue_ring(pool(), queue);
}

static void put(uint32_t queue, uint32_t n)
{
	uint64_t handle;
	while (n--) {
		EQUAL(0, blocking_alloc(pool(), self(), &handle, 1, WAIT_NEVER));
		EQUAL(0, queue_put(pool(), self(), ring(queue), &handle, 1));
	}
}

/* What the process does that is killed. */

static void nothing(void)
{
	self();
}

static void has_all_buffers(void)
{
	uint64_t handle[CAPACITY];
	EQUAL(0, blocking_alloc(pool(), self(), handle, CAPACITY, WAIT_NEVER));
}

static void has_a_message(void)
{
	uint64_t handle;
	EQUAL(1, queue_get(pool(), self(), ring(REQUEUES), &handle, 1));
}

static void has_a_message_that_is_freed(void)
{
	uint64_t handle;
	EQUAL(1, queue_get(pool(), self(), ring(FREES), &handle, 1));
}

static void reserves(void)
{
	alf_position at;
	EQUAL(0, alf_reserve(ring(REQUEUES), &self()->op, 1, ALF_MULTI, &at));
}

/* Starts a process that does it and then waits to be killed. */
static pid_t begin(void (*does)(void))
{
	int done[2];
	char byte;
	CHECK(!pipe(done));
	pid_t child = fork();
	CHECK(child >= 0);
	if (!child) {
		does();
		CHECK(write(done[1], "", 1) == 1);
		for (;;)
			pause();
	}
	CHECK(read(done[0], &byte, 1) == 1);
	close(done[0]);
	close(done[1]);
	return child;
}

static void end(pid_t child)
{
	CHECK(!kill(child, SIGKILL));
	CHECK(waitpid(child, NULL, 0) == child);
}

/* What the survivor waits for. Each frees what it gets. */

static void *waits_for_data(void *argument)
{
	uint64_t handle;
	EQUAL(1,
	      blocking_get(pool(), self(), ring(REQUEUES), &handle, 1, wait_now() + PATIENCE_NS));
	EQUAL(0, qmempool_free(pool(), self(), handle));
	return argument;
}

static void *waits_for_a_buffer(void *argument)
{
	uint64_t handle;
	EQUAL(0, blocking_alloc(pool(), self(), &handle, 1, wait_now() + PATIENCE_NS));
	EQUAL(0, qmempool_free(pool(), self(), handle));
	return argument;
}

static void *waits_for_many(void *argument)
{
	uint64_t handle[4];
	EQUAL(0, blocking_alloc(pool(), self(), handle, 4, wait_now() + PATIENCE_NS));
	EQUAL(0, qmempool_free_bulk(pool(), self(), handle, 4));
	return argument;
}

/* It is in the middle of its turn, which lasts as long as its patience. */
static void *waits_in_its_turn(void *argument)
{
	const int64_t until = wait_now() + PATIENCE_NS;
	struct shmpool_turn turn = { .end_ns = until, .length_ns = PATIENCE_NS };
	uint64_t handle[4];
	EQUAL(0, blocking_alloc_turns(pool(), self(), 0, handle, 4, until, until, &turn));
	CHECK(wait_now() < until); /* a call that times out recovers in any case */
	EQUAL(0, qmempool_free_bulk(pool(), self(), handle, 4));
	return argument;
}

static void *waits_until_done(void *argument)
{
	EQUAL(0, unfinished_wait(pool(), self(), ring(FREES), UNFINISHED_MESSAGES,
				 wait_now() + PATIENCE_NS));
	return argument;
}

/* Kills the child while the survivor sleeps on word. */
static void survives(uint32_t *word, void *(*waits)(void *), pid_t child)
{
	pthread_t thread;
	CHECK(!pthread_create(&thread, NULL, waits, NULL));
	while (!(load_seq_cst(word) & WAIT_COUNT_MASK))
		sched_yield();
	end(child);
	pthread_join(thread, NULL);
}

static void *put_one(void *argument)
{
	uint64_t *handle = argument;
	EQUAL(0, blocking_put(pool(), self(), ring(REQUEUES), handle, 1, wait_now() + PATIENCE_NS));
	return NULL;
}

/* Consumers cannot pass the dead producer's position. The producer that finds no room makes it a
 * tombstone. */
static void room(void)
{
	const int64_t until = wait_now() + PATIENCE_NS;
	pid_t child = begin(reserves);
	uint64_t handle, got[RING];
	pthread_t thread;
	int n = -EAGAIN;
	put(REQUEUES, RING - 1);
	EQUAL(0, blocking_alloc(pool(), self(), &handle, 1, WAIT_NEVER));
	CHECK(!pthread_create(&thread, NULL, put_one, &handle));
	while (!(load_seq_cst(&ring(REQUEUES)->q->room_wait) & WAIT_COUNT_MASK))
		sched_yield();
	EQUAL(-EAGAIN, queue_get(pool(), self(), ring(REQUEUES), got, RING));
	end(child);
	while (n == -EAGAIN && wait_now() < until) {
		sched_yield();
		n = queue_get(pool(), self(), ring(REQUEUES), got, RING);
	}
	CHECK(n > 0);
	pthread_join(thread, NULL);
	EQUAL(0, qmempool_free_bulk(pool(), self(), got, (uint32_t)n));
	while ((n = queue_get(pool(), self(), ring(REQUEUES), got, RING)) > 0)
		EQUAL(0, qmempool_free_bulk(pool(), self(), got, (uint32_t)n));
}

/* A member that cannot ask the kernel does not make the others pause. */
static void blind(void)
{
	pid_t child = begin(nothing);
	struct segment *s = &pool()->segment;
	const int fd = s->fd;
	uint64_t *word = &shared()->inquired;
	store_relaxed(word, 3); /* three inquiries found nothing */
	s->fd = -1;
	CHECK(!recover_if_due(pool(), self()));
	EQUAL(0, load_relaxed(word) & 7);
	s->fd = fd;
	store_relaxed(word, 3);
	CHECK(!recover_if_due(pool(), self()));
	EQUAL(3, load_relaxed(word) & 7);
	end(child);
}

int main(void)
{
	const struct queue_on_death requeue = { .what = ON_DEATH_REQUEUE }, free = { 0 };
	pool_number = memfd_pool(&(struct shmpool_geometry) { .buffer_size = 64,
							      .capacity = CAPACITY,
							      .prealloc = CAPACITY,
							      .cache_size = 0,
							      .bulk = 16,
							      .refill_multiplier = 1,
							      .members = 8,
							      .queues = 2 });
	EQUAL(REQUEUES, queue_create(pool(), self(), "requeues", RING, 0, &requeue));
	EQUAL(FREES, queue_create(pool(), self(), "frees", RING, 0, &free));
	blind();
	put(REQUEUES, 1);
	survives(&ring(REQUEUES)->q->data_wait, waits_for_data, begin(has_a_message));
	survives(&shared()->free_wait, waits_for_a_buffer, begin(has_all_buffers));
	survives(&shared()->free_wait, waits_for_many, begin(has_all_buffers));
	survives(&shared()->free_wait, waits_in_its_turn, begin(has_all_buffers));
	put(FREES, 1);
	survives(&segment_queue(&pool()->segment, FREES)->settled_wait, waits_until_done,
		 begin(has_a_message_that_is_freed));
	room();
	EQUAL(CAPACITY, qmempool_count(pool(), CAPACITY));
	return 0;
}
