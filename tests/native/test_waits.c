/* SPDX-License-Identifier: Apache-2.0
 *
 * test_waits.c - when members sleep, and which change wakes them: read from the wait words, not
 * timed. A count of wake-ups that has not changed shows that no member was woken.
 *
 * Usage: test_waits
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <sys/time.h>

#include "alf_repair.h"
#include "blocking.h"
#include "lookup.h"
#include "member.h"
#include "memfd_pool.h"
#include "opening.h"
#include "queue.h"
#include "trim.h"
#include "wait.h"

#define CAPACITY 64u
#define RING 16u
#define PATIENCE_NS 60000000000ll

static uint32_t pool_number;
static const struct alf_ring *ring;

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

static uint32_t wakes(const uint32_t *word)
{
	return load_seq_cst(word) >> 20;
}

static uint32_t sleepers(const uint32_t *word)
{
	return load_seq_cst(word) & WAIT_COUNT_MASK;
}

static void until_asleep(const uint32_t *word, uint32_t n)
{
	while (sleepers(word) < n)
		sched_yield();
	/* It tries once more and then sleeps. No assertion needs this pause. */
	usleep(2000);
}

struct waiter {
	pthread_t thread;
	uint32_t n;
	uint64_t handle[CAPACITY];
	int result;
};

static void *wait_for_buffers(void *argument)
{
	struct waiter *w = argument;
	int result = blocking_alloc(pool(), self(), w->handle, w->n, wait_now() + PATIENCE_NS);
	if (!result)
		EQUAL(0, qmempool_free_bulk(pool(), self(), w->handle, w->n));
	store_release(&w->result, result);
	return NULL;
}

static void *wait_for_room(void *argument)
{
	struct waiter *w = argument;
	w->result = blocking_put(pool(), self(), ring, w->handle, w->n, wait_now() + PATIENCE_NS);
	return NULL;
}

static void begin(struct waiter *w, void *(*what)(void *), uint32_t n)
{
	w->n = n;
	CHECK(!pthread_create(&w->thread, NULL, what, w));
}

static void end(struct waiter *w, int result)
{
	pthread_join(w->thread, NULL);
	EQUAL(result, w->result);
}

static void take(uint64_t *handle, uint32_t n)
{
	EQUAL(0, blocking_alloc(pool(), self(), handle, n, WAIT_NEVER));
}

static void give(const uint64_t *handle, uint32_t n)
{
	EQUAL(0, qmempool_free_bulk(pool(), self(), handle, n));
}

/* A member that waits for many owns none and is not woken for fewer, so a member that wants one
 * gets it. */
static void many_buffers(void)
{
	struct waiter many = { 0 };
	uint64_t held[CAPACITY], one;
	take(held, 8);
	begin(&many, wait_for_buffers, 60);
	until_asleep(&shared()->free_many, 1);
	uint32_t before = wakes(&shared()->free_many);
	for (int i = 0; i < 1000; i++) {
		EQUAL(0, qmempool_alloc(pool(), self(), &one));
		EQUAL(0, qmempool_free(pool(), self(), one));
	}
	take(held + 8, 56);
	give(held + 8, 56);
	EQUAL(before, wakes(&shared()->free_many));
	give(held, 4);
	CHECK(before != wakes(&shared()->free_many));
	end(&many, 0);
	give(held + 4, 4);
}

/* A wake-up for one buffer goes to a member that waits for one, even if another has waited for many
 * for longer. */
static void one_beside_many(void)
{
	struct waiter many = { 0 }, one = { 0 };
	uint64_t held[CAPACITY];
	take(held, CAPACITY);
	begin(&many, wait_for_buffers, 2);
	until_asleep(&shared()->free_many, 1);
	begin(&one, wait_for_buffers, 1);
	until_asleep(&shared()->free_wait, 2);
	uint32_t before = wakes(&shared()->free_wait), others = wakes(&shared()->free_many);
	give(held, 1);
	CHECK(before != wakes(&shared()->free_wait));
	EQUAL(others, wakes(&shared()->free_many));
	end(&one, 0);
	give(held + 1, CAPACITY - 1);
	end(&many, 0);
}

static void fill(uint32_t n)
{
	uint64_t handle[RING];
	take(handle, n);
	EQUAL(0, queue_put(pool(), self(), ring, handle, n));
}

static void drain(void)
{
	uint64_t handle[RING];
	for (int got; (got = queue_get(pool(), self(), ring, handle, RING)) > 0;)
		give(handle, (uint32_t)got);
}

static void room(void)
{
	struct waiter many = { 0 }, one = { 0 };
	struct alf_queue *q = ring->q;
	uint64_t handle[RING];
	fill(RING);
	take(many.handle, 8);
	take(one.handle, 1);
	begin(&many, wait_for_room, 8);
	until_asleep(&q->room_many, 1);
	begin(&one, wait_for_room, 1);
	until_asleep(&q->room_wait, 2);
	uint32_t before = wakes(&q->room_wait), others = wakes(&q->room_many);
	EQUAL(1, queue_get(pool(), self(), ring, handle, 1));
	give(handle, 1);
	CHECK(before != wakes(&q->room_wait));
	EQUAL(others, wakes(&q->room_many));
	end(&one, 0);
	for (int i = 0; i < 7; i++) {
		EQUAL(1, queue_get(pool(), self(), ring, handle, 1));
		give(handle, 1);
	}
	EQUAL(others, wakes(&q->room_many));
	EQUAL(1, queue_get(pool(), self(), ring, handle, 1));
	give(handle, 1);
	CHECK(others != wakes(&q->room_many));
	end(&many, 0);
	drain();
}

/* Reserves n positions and makes tombstones of them, as recovery does for a dead producer. */
static void make_voids(uint32_t n)
{
	alf_position at;
	EQUAL(0, alf_reserve(ring, &self()->op, n, ALF_MULTI, &at));
	for (uint32_t i = 0; i < n; i++)
		CHECK(alf_make_tombstone(ring, at + i, alf_word(ring, at + i)));
	alf_done(&self()->op, ALF_MULTI);
}

/* Returns how long it takes, after a get that steps over tombstones and gets one, until two members
 * that wait for room have it. */
static int64_t both_woken(void)
{
	struct waiter one = { 0 }, another = { 0 };
	uint64_t handle[RING];
	make_voids(RING - 1);
	fill(1);
	take(one.handle, 1);
	take(another.handle, 1);
	begin(&one, wait_for_room, 1);
	begin(&another, wait_for_room, 1);
	until_asleep(&ring->q->room_wait, 2);
	int64_t before = wait_now();
	EQUAL(1, queue_get(pool(), self(), ring, handle, 1));
	end(&one, 0);
	end(&another, 0);
	int64_t took = wait_now() - before;
	give(handle, 1);
	drain();
	return took;
}

/* A get that only steps over tombstones makes room; one that steps over some makes more room than
 * it gets. */
static void voids(void)
{
	struct waiter one = { 0 };
	struct alf_queue *q = ring->q;
	uint64_t handle[RING];
	make_voids(RING);
	take(one.handle, 1);
	begin(&one, wait_for_room, 1);
	until_asleep(&q->room_wait, 1);
	uint32_t before = wakes(&q->room_wait);
	EQUAL(-EAGAIN, queue_get(pool(), self(), ring, handle, 1));
	CHECK(before != wakes(&q->room_wait));
	end(&one, 0);
	drain();
	/* A member that is not woken sleeps for the rest of a slice, each time. */
	int64_t least = WAIT_SLICE_NS;
	for (int i = 0; i < 20 && least > WAIT_SLICE_NS / 2; i++) {
		int64_t took = both_woken();
		least = took < least ? took : least;
	}
	CHECK(least <= WAIT_SLICE_NS / 2);
}

/* Behind an unpublished position polls turn into sleeps, which grow longer. */
static void behind(void)
{
	alf_position at;
	uint64_t handle, before = member_counted(self(), COUNT_SLEEP);
	struct member *other;
	take(&handle, 1);
	EQUAL(0, alf_reserve(ring, &self()->op, 1, ALF_MULTI, &at));
	other = self();
	uint64_t op = load_relaxed(&other->op), got;
	store_relaxed(&other->op, 0); /* this thread continues, as another member */
	EQUAL(-EAGAIN, blocking_get(pool(), other, ring, &got, 1, wait_now() + 1200000000ll));
	CHECK(member_counted(self(), COUNT_SLEEP) - before <= 12);
	store_relaxed(&other->op, op);
	store_relaxed(&pool_buffer(pool(), handle_index(handle))->owner,
		      owner_transit(ring->id, at));
	alf_publish(ring, at, &handle, 1);
	alf_done(&other->op, ALF_MULTI);
	drain();
}

static void caught(int signal)
{
	(void)signal;
}

/* -EINTR means a signal. A wait of several slices that ends without a signal does not return it. */
static void interrupted(void)
{
	struct sigaction handler = { .sa_handler = caught }, old;
	const struct itimerval never = { 0 },
			       every = { { .tv_usec = 30000 }, { .tv_usec = 30000 } };
	uint64_t handle;
	EQUAL(-EAGAIN, blocking_get(pool(), self(), ring, &handle, 1,
				    wait_now() + 2 * WAIT_SLICE_NS + WAIT_SLICE_NS / 2));
	sigaction(SIGALRM, &handler, &old);
	setitimer(ITIMER_REAL, &every,
		  NULL); /* many times: one signal might come between two sleeps */
	EQUAL(-EINTR, blocking_get(pool(), self(), ring, &handle, 1, wait_now() + PATIENCE_NS));
	setitimer(ITIMER_REAL, &never, NULL);
	sigaction(SIGALRM, &old, NULL);
}

static uint64_t key(uint32_t queue)
{
	return key_of((uint32_t)pool_number, queue);
}

/* A call that does not wait never asks for dead members. One that may take long asks once for the
 * whole pool, and then pauses longer and longer. */
static void asking(void)
{
	struct shmpool_turn turn = { 0 };
	uint64_t held[CAPACITY], handle, *word = &shared()->inquired;
	take(held, CAPACITY);
	store_relaxed(word, 0);
	EQUAL(-EAGAIN, qmempool_alloc(pool(), self(), &handle));
	EQUAL(0, load_relaxed(word));
	EQUAL(-EAGAIN, shmpool_alloc_many_wait(key(0), &handle, 1, WAIT_NEVER, &turn));
	CHECK(load_relaxed(word));
	for (uint64_t fruitless = 2; fruitless < 6; fruitless++) {
		store_relaxed(word, load_relaxed(word) & 7);
		CHECK(!recover_if_due(pool(), self()));
		EQUAL(fruitless < 3 ? fruitless : 3, load_relaxed(word) & 7);
		CHECK((int64_t)(load_relaxed(word) - (uint64_t)wait_wall()) <= 1000000000);
	}
	uint64_t soon = (uint64_t)wait_wall() + 900000000;
	store_relaxed(word, soon);
	EQUAL(-EAGAIN, shmpool_alloc_many_wait(key(0), &handle, 1, WAIT_NEVER, &turn));
	EQUAL(soon, load_relaxed(word));
	uint64_t set_back = (uint64_t)wait_wall() + 3600000000000ull;
	store_relaxed(word, set_back);
	EQUAL(-EAGAIN, shmpool_alloc_many_wait(key(0), &handle, 1, WAIT_NEVER, &turn));
	CHECK(set_back != load_relaxed(word));
	give(held, CAPACITY);
}

/* Behind a position that is never published, calls that do not wait return their code, and do not
 * ask for dead members either. */
static void stuck(void)
{
	uint64_t held[RING], handle, *word = &shared()->inquired;
	alf_position at;
	take(held, RING);
	EQUAL(0, alf_reserve(ring, &self()->op, 1, ALF_MULTI, &at));
	alf_done(&self()->op, ALF_MULTI);
	EQUAL(0, queue_put(pool(), self(), ring, held + 1, RING - 1));
	store_relaxed(word, 0);
	EQUAL(-EINPROGRESS, shmpool_put_many(key(1), held, 1));
	int64_t got = -EAGAIN;
	for (int i = 0; i < QUEUE_EMPTIES && got == -EAGAIN; i++)
		got = shmpool_get_many(key(1), &handle, 1);
	EQUAL(-EINPROGRESS, got);
	EQUAL(0, load_relaxed(word));
	EQUAL(-EAGAIN, shmpool_get_many_wait(key(1), &handle, 1, WAIT_NEVER));
	CHECK(load_relaxed(word));
	CHECK(alf_make_tombstone(ring, at, alf_word(ring, at)));
	give(held, 1);
	drain();
}

/* No more than one buffer is ever free, and other members wait for it. Members that wait for four
 * get them nevertheless, one after the other, each in its turn. */
#define CROWD 3u
static uint32_t stop;
static uint64_t back[CROWD]; /* what each has got, plus one; 0 once it may continue */

static void *crowd(void *argument)
{
	uint64_t *mine = argument, handle;
	while (!load_acquire(&stop)) {
		EQUAL(0, blocking_alloc(pool(), self(), &handle, 1, wait_now() + PATIENCE_NS));
		store_release(mine, handle + 1);
		while (load_acquire(mine) && !load_acquire(&stop))
			sched_yield();
	}
	return NULL;
}

static void turn(void)
{
	struct waiter many = { 0 };
	pthread_t thread[CROWD];
	uint64_t held[CAPACITY];
	uint32_t n = CAPACITY;
	take(held, n);
	for (uint32_t i = 0; i < CROWD; i++)
		CHECK(!pthread_create(&thread[i], NULL, crowd, &back[i]));
	until_asleep(&shared()->free_wait, CROWD);
	store_relaxed(&many.result, 1);
	begin(&many, wait_for_buffers, 4);
	while (load_acquire(&many.result) == 1) {
		for (uint32_t i = 0; i < CROWD; i++)
			if (load_acquire(&back[i])) {
				held[n++] = load_relaxed(&back[i]) - 1;
				store_release(&back[i], 0);
			}
		if (n && alf_empty(&pool()->free))
			give(&held[--n], 1);
		sched_yield();
	}
	end(&many, 0);
	store_release(&stop, 1);
	give(held, n);
	for (uint32_t i = 0; i < CROWD; i++)
		pthread_join(thread[i], NULL);
	for (uint32_t i = 0; i < CROWD; i++)
		if (back[i])
			EQUAL(0, qmempool_free(pool(), self(), back[i] - 1));
}

static void *wait_for_data(void *argument)
{
	struct waiter *w = argument;
	uint32_t *counted = opening_begin(pool_number);
	w->result = blocking_get(pool(), self(), ring, w->handle, w->n, wait_now() + PATIENCE_NS);
	opening_end(counted);
	return NULL;
}

/* A close wakes the calls that sleep in the pool, and does not wait for the end of their slice. */
static void closed(void)
{
	struct waiter w = { 0 };
	struct segment *s = &pool()->segment;
	const size_t offset = (size_t)((char *)&ring->q->data_wait - s->base);
	char *base = mmap(NULL, s->geometry.size, PROT_READ, MAP_SHARED, s->fd, 0);
	CHECK(base != MAP_FAILED); /* stays when the pool is closed */
	const uint32_t *word = (const uint32_t *)(base + offset);
	begin(&w, wait_for_data, 1);
	until_asleep(word, 1);
	uint32_t before = wakes(word);
	EQUAL(0, opening_close(pool_number));
	CHECK(before != wakes(word));
	end(&w, -ESHUTDOWN);
	EQUAL(0, munmap(base, offset));
}

/* A position of the free ring was overwritten: buffers that are freed are abandoned after a few
 * steps. */
static void corrupted(void)
{
	uint64_t handle[8];
	pool_number = memfd_pool(&(struct shmpool_geometry) { .buffer_size = 64,
							      .capacity = 1 << 17,
							      .prealloc = 1 << 17,
							      .cache_size = 0,
							      .bulk = 16,
							      .refill_multiplier = 1,
							      .members = 2,
							      .queues = 1 });
	struct alf_queue *q = pool()->free.q;
	take(handle, 8);
	store_relaxed(&q->prod, load_relaxed(&q->prod) + (1ull << 62));
	store_relaxed(&q->limit, load_relaxed(&q->cons));
	int64_t before = wait_spent();
	give(handle, 8);
	CHECK(wait_spent() - before < 300000000ll);
	uint64_t abandoned = load_relaxed(&shared()->abandoned);
	CHECK(abandoned >= 8 && abandoned < 1000);
}

/* A buffer that was abandoned without being counted, and for which there is no room, stays counted
 * when another recoverer, which had passed it before it was abandoned, stores its count in
 * swept. */
static void left(void)
{
	struct shmpool_recovery out;
	uint64_t handle;
	take(&handle, 1);
	fill(RING);
	store_release(&pool_buffer(pool(), handle_index(handle))->owner,
		      OWNER_ABANDONED | 1ull << OWNER_QUEUE_SHIFT);
	uint64_t others = add_seq_cst(&shared()->abandoned, 1) + 1;
	EQUAL(0, recover(pool(), self(), &out));
	EQUAL(0, out.requeued);
	store_seq_cst(&shared()->swept, others > shared()->swept ? others : shared()->swept);
	CHECK(recover_abandoned(&pool()->segment));
	drain();
	EQUAL(0, recover(pool(), self(), &out));
	EQUAL(1, out.requeued);
	CHECK(!recover_abandoned(&pool()->segment));
	drain();
}

int main(void)
{
	const struct queue_on_death on_death = { 0 };
	pool_number = memfd_pool(&(struct shmpool_geometry) { .buffer_size = 64,
							      .capacity = CAPACITY,
							      .prealloc = CAPACITY,
							      .cache_size = 0,
							      .bulk = 16,
							      .refill_multiplier = 1,
							      .members = CROWD + 8,
							      .queues = 1 });
	EQUAL(1, queue_create(pool(), self(), "q", RING, 0, &on_death));
	ring = queue_ring(pool(), 1);
	many_buffers();
	one_beside_many();
	room();
	voids();
	behind();
	interrupted();
	asking();
	stuck();
	left();
	turn();
	closed();
	corrupted();
	return 0;
}
