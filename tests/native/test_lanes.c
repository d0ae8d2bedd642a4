/* SPDX-License-Identifier: Apache-2.0
 *
 * test_lanes.c - queues with lanes: what is created, which lane each put and get chooses, what
 * wakes whom, how lanes are added, and what a corrupted table can do. Deaths: kill_points.c,
 * steer_pool.c.
 *
 * Usage: test_lanes
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "blocking.h"
#include "member.h"
#include "memfd_pool.h"
#include "opening.h"
#include "queue.h"
#include "token.h"
#include "unfinished.h"
#include "wait.h"

#define CAPACITY 256u
#define QUEUES 12u
#define LANES 4u
#define ROOM 8u /* of each lane */
#define PATIENCE_NS 60000000000ll
#define THREADS 4

static const struct queue_on_death frees = { 0 };

static struct segment segment;
static struct token token;
static struct qmempool pool;
static int file;

static struct member *attach(void)
{
	struct member *m = NULL;
	EQUAL(0, member_attach(&segment, token.number, &m));
	return m;
}

static struct queue_slot *slot(uint32_t number)
{
	return segment_queue(&segment, number);
}

/* Creates an empty pool with nothing in it, in place of the last one. */
static void begin(void)
{
	struct shmpool_geometry g = { .buffer_size = 64,
				      .capacity = CAPACITY,
				      .prealloc = CAPACITY,
				      .cache_size = 16,
				      .bulk = 16,
				      .refill_multiplier = 1,
				      .members = 8,
				      .queues = QUEUES };
	struct shmpool_refusal why;
	if (segment.base) {
		token_drop(&token);
		pool_unbind(&pool);
		munmap(segment.base, segment.size);
		close(file);
	}
	char *base = memfd_file(&g, &file);
	EQUAL(0, segment_check(&segment, base, g.size, file, &why));
	segment.writes = true;
	EQUAL(0, token_take(&segment, &token));
	EQUAL(0, pool_bind(&pool, &segment));
}

static const struct alf_ring *make(struct member *m, const char *name, uint32_t capacity,
				   uint32_t lanes, uint32_t flags)
{
	int number = queue_create(&pool, m, name, capacity,
				  flags | ALF_LANED | lanes << LANES_SHIFT, &frees);
	CHECK(number > 0);
	const struct alf_ring *r = queue_ring(&pool, (uint32_t)number);
	CHECK(r);
	return r;
}

static int put(struct member *m, const struct alf_ring *r, uint32_t number)
{
	uint64_t handle;
	EQUAL(0, blocking_alloc(&pool, m, &handle, 1, WAIT_NEVER));
	*(uint32_t *)pool_data(&pool, handle_index(handle)) = number;
	int error = queue_put(&pool, m, queue_in(m, r), &handle, 1);
	if (error)
		EQUAL(0, qmempool_free(&pool, m, handle));
	return error;
}

/* Returns the number of the message, or an error. */
static int get(struct member *m, const struct alf_ring *r)
{
	uint64_t handle;
	int got = queue_get(&pool, m, r, &handle, 1);
	if (got != 1)
		return got;
	int number = *(int *)pool_data(&pool, handle_index(handle));
	EQUAL(r->id, pool_buffer(&pool, handle_index(handle))->queue);
	EQUAL(0, qmempool_free(&pool, m, handle));
	return number;
}

static uint32_t used_slots(void)
{
	uint32_t n = 0;
	for (uint32_t i = 1; i <= QUEUES; i++)
		n += slot(i)->state != 0;
	return n;
}

static long blocks(void)
{
	struct stat s;
	CHECK(!fstat(file, &s));
	return (long)s.st_blocks;
}

/* What creation makes and refuses. */
static void creation(void)
{
	begin();
	struct member *m = attach();
	const uint32_t bad[] = { ALF_LANED, /* without a number of lanes */
				 ALF_LANED | (LANES_MAX + 1) << LANES_SHIFT,
				 ALF_LANED | 17 << LANES_SHIFT, /* of 16 messages */
				 ALF_LANED | ALF_SINGLE_PRODUCER | 2 << LANES_SHIFT,
				 ALF_LANED | ALF_SINGLE_CONSUMER | 2 << LANES_SHIFT,
				 ALF_LANED | ALF_LANE | 2 << LANES_SHIFT,
				 ALF_LANED | ALF_TOPIC | 2 << LANES_SHIFT,
				 ALF_LANED | 128 | 2 << LANES_SHIFT,
				 ALF_LANE,
				 ALF_LANES_GROW,
				 2 << LANES_SHIFT };
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		EQUAL(-EINVAL, queue_create(&pool, m, "bad", 16, bad[i], &frees));
	EQUAL(0, used_slots());
	const struct alf_ring *r = make(m, "queue", 30, LANES, 0);
	EQUAL(1 + LANES, used_slots());
	EQUAL(30, alf_room(r));
	EQUAL(8, r->bulk);
	EQUAL(QUEUE_READY, slot(r->id)->state);
	for (uint32_t k = 0; k < LANES; k++) {
		const struct alf_ring *lane = queue_part(r, k);
		EQUAL(m->tag | QUEUE_LANE, slot(lane->id)->state);
		EQUAL(r->id, lane->queue);
		EQUAL(8, alf_room(lane));
		EQUAL(8, lane->bulk);
		CHECK(lane->data_wait == &r->q->data_wait);
		CHECK(lane == queue_ring(&pool, lane->id));
	}
	CHECK(!queue_part(r, LANES));
	EQUAL(1, queue_find(&pool, "queue"));
	EQUAL(-EEXIST, queue_create(&pool, m, "queue", 16, ALF_LANED | 2 << LANES_SHIFT, &frees));
	EQUAL(1 + LANES, used_slots());
	/* A lane is nobody's dead-letter queue. */
	const struct queue_on_death letter = { ON_DEATH_DEAD_LETTER, queue_part(r, 0)->id, 0 };
	EQUAL(-EDOM, queue_create(&pool, m, "other", 16, 0, &letter));
	/* Too few numbers are left: nothing remains. */
	EQUAL(-ENFILE, queue_create(&pool, m, "more", 16, ALF_LANED | 8 << LANES_SHIFT, &frees));
	EQUAL(1 + LANES, used_slots());
	/* Those that were tried are used again, with nothing of the table in them. */
	while (used_slots() < QUEUES) {
		const char name[2] = { (char)('a' + used_slots()), 0 };
		int number = queue_create(&pool, m, name, 16, 0, &frees);
		CHECK(number > 0);
		const struct alf_ring *plain = queue_ring(&pool, (uint32_t)number);
		for (uint32_t i = 0; i < 16; i++)
			EQUAL(0, plain->slot[i]);
		EQUAL(-EAGAIN, get(m, plain));
		EQUAL(0, put(m, plain, 7));
		EQUAL(7, get(m, plain));
	}
}

/* A queue with lanes has memory for a table, not for a ring of its own. */
static void memory(void)
{
	begin();
	struct member *m = attach();
	const long before = blocks();
	const struct alf_ring *r = make(m, "queue", 1u << 16, LANES, 0);
	const long pages = (blocks() - before) / 8;
	CHECK(pages >= (1 << 16) / 512 && pages <= (1 << 16) / 512 + 1);
	EQUAL(LANE_TABLE_SLOTS, r->q->backed);
}

/* A member puts into one lane. Each gets what all of them have. */
static void order(void)
{
	begin();
	struct member *m[LANES];
	const struct alf_ring *r = NULL;
	for (uint32_t i = 0; i < LANES; i++) {
		m[i] = attach();
		if (!r)
			r = make(m[0], "queue", LANES * ROOM, LANES, 0);
		for (uint32_t k = 0; k < ROOM; k++)
			EQUAL(0, put(m[i], r, i * 100 + k));
		EQUAL(-ENOBUFS, put(m[i], r, 0));
	}
	EQUAL(LANES * ROOM, queue_count(r));
	EQUAL(LANES * ROOM, unfinished_count(&pool, r, UNFINISHED_MESSAGES));
	uint32_t next[LANES] = { 0 };
	for (uint32_t n = 0; n < LANES * ROOM; n++) {
		int number = get(m[n % LANES], r);
		CHECK(number >= 0);
		EQUAL(next[number / 100]++, number % 100);
	}
	for (uint32_t i = 0; i < LANES; i++)
		EQUAL(ROOM, next[i]);
	EQUAL(-EAGAIN, get(m[0], r));
	EQUAL(0, unfinished_count(&pool, r, UNFINISHED_MESSAGES));
	/* A bulk is at most a lane's share. */
	EQUAL(ROOM, queue_most(r, 1000));
	uint64_t handle[ROOM + 1];
	EQUAL(0, blocking_alloc(&pool, m[0], handle, ROOM + 1, WAIT_NEVER));
	EQUAL(-EMSGSIZE, queue_put(&pool, m[0], queue_in(m[0], r), handle, ROOM + 1));
	EQUAL(0, queue_put(&pool, m[0], queue_in(m[0], r), handle, ROOM));
	EQUAL(ROOM, queue_get(&pool, m[1], r, handle, ROOM));
	EQUAL(0, qmempool_free_bulk(&pool, m[1], handle, ROOM));
}

/* A message waits for 2 x LANES_STAY x lanes gets of each consumer at most, however full the other
 * lanes are. */
static void fairness(void)
{
	begin();
	struct member *a = attach(), *b = attach(), *consumer = attach();
	const struct alf_ring *r = make(a, "queue", LANES * ROOM, LANES, 0);
	for (uint32_t i = 0; i < ROOM; i++)
		EQUAL(0, put(a, r, 1));
	for (uint32_t round = 0; round < 20; round++) {
		/* Busy with the lane of a, or with that of b, from another number of gets on. */
		for (uint32_t i = 0; i < 7 * round; i++) {
			EQUAL(1, get(consumer, r));
			EQUAL(0, put(a, r, 1));
		}
		EQUAL(0, put(b, r, 2));
		uint32_t gets = 1;
		for (; get(consumer, r) == 1; gets++) {
			EQUAL(0, put(a, r, 1));
			CHECK(gets < 2 * LANES_STAY * LANES);
		}
	}
}

/* So many puts as a producer makes at the most before it knows of lanes that were added. */
static void notice(struct member *m, const struct alf_ring *r)
{
	for (uint32_t i = 0; i < LANES_PUTS; i++)
		CHECK(queue_in(m, r));
}

/* Lanes are added where compare-and-swaps are lost. A producer changes to another one only when
 * consumers have taken all that it has put into the first. */
static void growth(void)
{
	begin();
	struct member *a = attach(), *b = attach(), *consumer = attach();
	const struct alf_ring *r = make(a, "queue", LANES * ROOM, LANES, ALF_LANES_GROW);
	const struct alf_ring *first = queue_part(r, 0);
	EQUAL(1, lanes_active(r->lanes));
	EQUAL(ROOM, r->bulk);
	CHECK(queue_in(a, r) == first && queue_in(b, r) == first);
	EQUAL(LANES * ROOM, alf_room(first));
	for (uint32_t i = 0; i < 3 * LANES_PUTS; i++) { /* nobody loses: none is added */
		EQUAL(0, put(a, r, i));
		EQUAL(i, get(consumer, r));
	}
	EQUAL(1, lanes_active(r->lanes));
	EQUAL(0, put(b, r, 1000));
	EQUAL(0, put(b, r, 1001));
	for (uint32_t active = 2; active <= LANES; active *= 2) {
		for (uint32_t i = 0; lanes_active(r->lanes) < active; i++) {
			CHECK(i < 2 * LANES_PUTS);
			queue_in(a, r)->q->lost++;
			queue_in(a, r);
		}
		EQUAL(active, lanes_active(r->lanes));
		notice(a, r);
		EQUAL(0, put(b, r, 1000 + active));
		EQUAL(0, alf_count(queue_part(r, 1)));
		EQUAL(lanes_room(LANES * ROOM, active), alf_room(first));
	}
	EQUAL(1000, get(consumer, r));
	EQUAL(1001, get(consumer, r));
	EQUAL(1002, get(consumer, r));
	notice(b, r);
	EQUAL(0, put(b, r, 1006));
	EQUAL(1004, get(consumer, r));
	EQUAL(1006, get(consumer, r));
	EQUAL(0, put(b, r, 1007)); /* all were taken */
	EQUAL(1, alf_count(queue_part(r, 1)));
	EQUAL(1007, get(consumer, r));
	for (uint32_t i = 0; i < 4 * LANES_PUTS; i++) { /* no more than there are */
		queue_in(a, r)->q->lost += LANES_PUTS;
		CHECK(queue_in(a, r));
	}
	EQUAL(LANES, lanes_active(r->lanes));
}

/* A producer that does not know of lanes that were added learns it when it finds no room. */
static void no_room(void)
{
	begin();
	struct member *m = attach();
	const struct alf_ring *r = make(m, "queue", LANES * ROOM, LANES, ALF_LANES_GROW);
	EQUAL(0, put(m, r, 0));
	r->lanes->table->active = 2;
	for (uint32_t i = 1; i < LANES * ROOM; i++)
		EQUAL(0, put(m, r, i));
	EQUAL(LANES * ROOM, alf_room(queue_part(r, 0)));
	EQUAL(-ENOBUFS, put(m, r, 99));
	EQUAL(lanes_room(LANES * ROOM, 2), alf_room(queue_part(r, 0)));
}

/* A process was forked while a thread chose its first lanes. A member of the child may get that
 * thread's number, and what the process remembers of it. */
static void forked_between(void)
{
	begin();
	struct member *m = attach();
	for (uint32_t flags = 0; flags <= ALF_LANES_GROW; flags += ALF_LANES_GROW) {
		const struct alf_ring *r = make(m, flags ? "grows" : "queue", 8, 2, flags);
		struct lane_user *u = lanes_user(r->lanes, m);
		u->producer = u->consumer = 1;
		u->lanes = lanes_active(r->lanes);
		EQUAL(0, put(m, r, 7));
		EQUAL(7, get(m, r));
	}
}

struct thread {
	pthread_t thread;
	struct member *m;
	const struct alf_ring *r;
	uint64_t handle;
	int result;
};

static uint32_t go;

/* Makes the view, and puts. */
static void *bind(void *argument)
{
	struct thread *t = argument;
	while (!load_acquire(&go))
		;
	t->r = queue_ring(&pool, (uint32_t)queue_find(&pool, "queue"));
	for (uint32_t i = 0; i < 5 * LANES_PUTS; i++) {
		uint64_t n = lanes_active(t->r->lanes);
		if (i % LANES_PUTS == LANES_PUTS - 1 &&
		    n < LANES) /* threads read this number or the one before */
			cas_seq_cst(&t->r->lanes->table->active, &n, 2 * n);
		if (put(t->m, t->r, 1) == 0)
			while (get(t->m, t->r) != 1)
				sched_yield();
	}
	return NULL;
}

/* Threads of a process make its view of a queue at the same time, and share the capacity out. */
static void threads(void)
{
	for (uint32_t round = 0; round < 20; round++) {
		begin();
		struct member *m[THREADS];
		struct thread thread[THREADS];
		for (int i = 0; i < THREADS; i++)
			m[i] = attach();
		EQUAL(1, queue_create(&pool, m[0], "queue", LANES * ROOM,
				      ALF_LANED | ALF_LANES_GROW | LANES << LANES_SHIFT, &frees));
		store_relaxed(&go, 0);
		for (int i = 0; i < THREADS; i++) {
			thread[i] = (struct thread) { .m = m[i] };
			CHECK(!pthread_create(&thread[i].thread, NULL, bind, &thread[i]));
		}
		store_release(&go, 1);
		for (int i = 0; i < THREADS; i++) {
			pthread_join(thread[i].thread, NULL);
			CHECK(thread[i].r == thread[0].r);
		}
		const struct alf_ring *r = thread[0].r;
		EQUAL(LANES, lanes_active(r->lanes));
		notice(m[0], r);
		for (uint32_t k = 0; k < LANES; k++)
			EQUAL(ROOM, alf_room(queue_part(r, k)));
	}
}

static void *wait_for_data(void *argument)
{
	struct thread *t = argument;
	t->result = blocking_get(&pool, t->m, t->r, &t->handle, 1, wait_now() + PATIENCE_NS);
	return NULL;
}

static void *wait_for_room(void *argument)
{
	struct thread *t = argument;
	t->result = blocking_put(&pool, t->m, queue_in(t->m, t->r), &t->handle, 1,
				 wait_now() + PATIENCE_NS);
	return NULL;
}

static void *wait_to_return(void *argument)
{
	struct thread *t = argument;
	uint32_t to;
	t->result = blocking_requeue(&pool, t->m, t->handle, wait_now() + PATIENCE_NS, &to);
	return NULL;
}

static void asleep(struct thread *t, void *(*waits)(void *), const uint32_t *word)
{
	const int64_t until = wait_now() + PATIENCE_NS;
	CHECK(!pthread_create(&t->thread, NULL, waits, t));
	while (!(load_seq_cst(word) & WAIT_COUNT_MASK)) {
		CHECK(wait_now() < until);
		sched_yield();
	}
	usleep(2000); /* It tries once more and then sleeps. No assertion needs this pause. */
}

static uint32_t wakes(const uint32_t *word)
{
	return load_seq_cst(word) >> 20;
}

/* Who sleeps where, and what wakes it. */
static void waits(void)
{
	begin();
	struct member *m[LANES], *sleeper = attach();
	const struct alf_ring *r = make(sleeper, "queue", LANES * ROOM, LANES, 0);
	struct thread t = { .m = sleeper, .r = r };
	for (uint32_t i = 0; i < LANES; i++) {
		m[i] = attach();
		CHECK(queue_in(m[i], r) == queue_part(r, i));
	}
	/* A put into any lane wakes a consumer. */
	for (uint32_t i = 0; i < LANES; i++) {
		const uint32_t before = wakes(&r->q->data_wait);
		asleep(&t, wait_for_data, &r->q->data_wait);
		EQUAL(0, put(m[i], r, 1));
		EQUAL(before + 1, wakes(&r->q->data_wait));
		pthread_join(t.thread, NULL);
		EQUAL(1, t.result);
		EQUAL(0, qmempool_free(&pool, sleeper, t.handle));
	}
	/* Only a get from its own lane wakes a producer. */
	const struct alf_ring *own = queue_in(sleeper, r);
	for (uint32_t i = 0; i < LANES; i++)
		while (put(m[i], r, i) == 0)
			;
	EQUAL(0, alf_avail_space(own));
	EQUAL(0, blocking_alloc(&pool, sleeper, &t.handle, 1, WAIT_NEVER));
	asleep(&t, wait_for_room, &own->q->room_wait);
	const uint32_t before = wakes(&own->q->room_wait);
	for (bool taken = false; !taken;) {
		const alf_position cons = own->q->cons;
		CHECK(get(m[0], r) >= 0);
		taken = own->q->cons != cons;
		EQUAL(before + taken, wakes(&own->q->room_wait));
	}
	pthread_join(t.thread, NULL);
	EQUAL(0, t.result);
	/* What comes back goes to any lane; if all are full, its member sleeps until its own one is
	 * not. */
	while (get(m[1], r) >= 0)
		;
	EQUAL(0, put(m[0], r, 1));
	EQUAL(1, queue_get(&pool, sleeper, r, &t.handle, 1));
	while (put(sleeper, r, 2) == 0)
		;
	uint32_t to;
	EQUAL(0, requeue(&pool, sleeper, t.handle, &to));
	EQUAL(r->id, to);
	EQUAL(ROOM + 1, queue_count(r));
	do
		EQUAL(1, queue_get(&pool, sleeper, r, &t.handle, 1));
	while (*(int *)pool_data(&pool, handle_index(t.handle)) == 2 &&
	       qmempool_free(&pool, sleeper, t.handle) == 0);
	for (uint32_t i = 0; i < LANES; i++)
		while (put(m[i], r, i) == 0)
			;
	const uint32_t woken = wakes(&own->q->room_wait);
	asleep(&t, wait_to_return, &own->q->room_wait);
	while (wakes(&own->q->room_wait) == woken)
		CHECK(get(m[0], r) >= 0);
	pthread_join(t.thread, NULL);
	EQUAL(0, t.result);
}

/* A member that ends the queue is killed before it has closed a lane. */
static void shutdown_half(void)
{
	begin();
	struct member *a = attach(), *b = attach();
	const struct alf_ring *r = make(a, "queue", LANES * ROOM, LANES, 0);
	EQUAL(0, put(a, r, 1));
	CHECK(queue_in(b, r) != queue_in(a, r));
	CHECK(alf_close(r));
	EQUAL(0, put(b, r, 2));     /* it did not return: puts may go on for a moment */
	CHECK(queue_see(r).closed); /* what a sleeper sees, and makes known */
	EQUAL(1, get(b, r));
	EQUAL(2, get(b, r));
	EQUAL(-EPIPE, get(b, r));
	for (uint32_t k = 0; k < LANES; k++)
		CHECK(alf_closed(queue_part(r, k)));
	EQUAL(-EPIPE, put(a, r, 3));
	EQUAL(-EPIPE, put(b, r, 3));
	EQUAL(0, queue_shutdown(r, a));
	EQUAL(-EPIPE, get(a, r));
}

/* The same, and nobody gets: who recovers the member closes the lanes. */
static void shutdown_recovered(void)
{
	begin();
	struct member *a = attach();
	const struct alf_ring *r = make(a, "queue", LANES * ROOM, LANES, 0);
	struct shmpool_recovery out = { 0 };
	pid_t child = fork();
	CHECK(child >= 0);
	if (!child) {
		EQUAL(0, token_take(&segment, &token));
		attach();
		CHECK(alf_close(r));
		_exit(0);
	}
	CHECK(waitpid(child, NULL, 0) == child);
	for (const int64_t until = wait_now() + PATIENCE_NS; !out.members;) {
		CHECK(wait_now() < until); /* its memory ends soon */
		EQUAL(0, recover(&pool, a, &out));
	}
	for (uint32_t k = 0; k < LANES; k++)
		CHECK(alf_closed(queue_part(r, k)));
	EQUAL(-EPIPE, put(a, r, 1));
}

/* The same, and a producer sleeps in a lane that is open. */
static void shutdown_wakes(void)
{
	begin();
	struct member *a = attach(), *b = attach();
	const struct alf_ring *r = make(a, "queue", LANES * ROOM, LANES, 0);
	struct thread t = { .m = b, .r = r };
	while (put(b, r, 1) == 0)
		;
	EQUAL(0, blocking_alloc(&pool, b, &t.handle, 1, WAIT_NEVER));
	asleep(&t, wait_for_room, &queue_in(b, r)->q->room_wait);
	EQUAL(0, queue_shutdown(r, a));
	pthread_join(t.thread, NULL);
	EQUAL(-EPIPE, t.result);
	/* What comes back still enters, and comes out. */
	uint64_t handle;
	uint32_t to;
	EQUAL(1, queue_get(&pool, a, r, &handle, 1));
	EQUAL(0, requeue(&pool, a, handle, &to));
	for (uint32_t i = 0; i < ROOM; i++)
		EQUAL(1, get(a, r));
	EQUAL(-EPIPE, get(a, r));
}

static struct lane_table *table(const struct alf_ring *r)
{
	return r->lanes->table;
}

/* Returns the queue as a process sees it that has not used it before. */
static const struct alf_ring *seen_again(uint32_t number)
{
	pool_unbind(&pool);
	EQUAL(0, pool_bind(&pool, &segment));
	return queue_ring(&pool, number);
}

/* A corrupted table is as no queue: no access outside, no endless search, and recovery goes on. */
static void corrupted(void)
{
	const struct {
		uint32_t lanes, number; /* the table's; the number of its second lane */
	} tables[] = { { 0, 3 },          { LANES_MAX + 1, 3 },
		       { UINT32_MAX, 3 }, { 2, 0 },
		       { 2, 1 },          { 2, 4 },
		       { 2, 7 },          { 2, 9 },
		       { 2, QUEUES },     { 2, QUEUES + 1 },
		       { 2, 0xffff } };
	for (size_t i = 0; i < sizeof(tables) / sizeof(*tables); i++) {
		begin();
		struct member *m = attach();
		const struct alf_ring *r = make(m, "one", 16, 2, 0); /* 1, and lanes 2 and 3 */
		make(m, "two", 16, 2, 0);                            /* 4, 5 and 6 */
		EQUAL(7, queue_create(&pool, m, "plain", 16, 0, &frees));
		CHECK(seen_again(1));
		r = queue_ring(&pool, 1);
		table(queue_ring(&pool, 4))->number[0] = 1; /* both name each other */
		table(r)->lanes = tables[i].lanes;
		table(r)->number[1] = (uint16_t)tables[i].number;
		CHECK(!seen_again(1) || tables[i].number == 3);
		EQUAL(-ENOENT, queue_missing(&pool, 1));
		CHECK(!queue_ring(&pool, 4));
		EQUAL(-ENOENT, queue_missing(&pool, 4));
		CHECK(queue_ring(&pool, 7));
		struct shmpool_recovery out;
		EQUAL(0, recover(&pool, m, &out));
	}
	/* Words that change: read by a process that has the queue. */
	begin();
	struct member *m = attach();
	const struct alf_ring *r = make(m, "one", 16, 2, ALF_LANES_GROW);
	const uint64_t values[] = { 0, 1, 2, 3, LANES_MAX + 1, UINT32_MAX, UINT64_MAX };
	for (size_t i = 0; i < sizeof(values) / sizeof(*values); i++) {
		table(r)->active = table(r)->producers = table(r)->consumers = values[i];
		CHECK(lanes_active(r->lanes) >= 1 && lanes_active(r->lanes) <= 2);
		EQUAL(0, put(m, r, 5));
		while (get(m, r) >= 0)
			;
	}
	const uint32_t tag = m->tag;
	m->tag |= TAG_NUMBER_MASK; /* no member has that number */
	queue_in(m, r);
	CHECK(get(m, r) < 0);
	m->tag = tag;
}

int main(void)
{
	creation();
	memory();
	order();
	fairness();
	growth();
	no_room();
	forked_between();
	threads();
	waits();
	shutdown_half();
	shutdown_recovered();
	shutdown_wakes();
	corrupted();
	return 0;
}
