/* SPDX-License-Identifier: Apache-2.0
 *
 * stress_topic.c - threads publish numbered buffers, one by one and in bulks, to a topic; others
 * subscribe with every policy, hold some messages for a while, leave and come back. Each subscriber
 * sees the messages of each publisher in order, with nothing lost but what it counts; one that
 * blocks loses nothing. At the end every buffer is free, or the newest in the ring.
 *
 * Usage: stress_topic MESSAGES
 */
#define _GNU_SOURCE
#include "audit.h"
#include "blocking.h"
#include "check.h"
#include "member.h"
#include "memfd_pool.h"
#include "opening.h"

#define PUBLISHERS 2u
#define DEPTH 16u
#define HOLDS 6u /* messages that a subscriber holds at once */
#define CAPACITY 256
#define PATIENCE_NS 60000000000ll

struct message {
	uint32_t publisher;
	uint32_t number;
};

static uint32_t pool_number, messages, left;
static const struct alf_ring *ring;

struct worker {
	pthread_t thread;
	uint32_t number; /* of a publisher */
	uint32_t policy;
	bool restless; /* subscribes again after some messages */
	uint64_t got, gaps;
	uint64_t seen[PUBLISHERS];
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

static void *publish(void *argument)
{
	struct worker *w = argument;
	struct member *m = self();
	uint64_t handle[DEPTH];
	for (uint32_t number = 0; number < messages;) {
		uint32_t n = 1 + number % 5;
		if (n > messages - number)
			n = messages - number;
		EQUAL(0, blocking_alloc(pool(), m, handle, n, wait_now() + PATIENCE_NS));
		for (uint32_t i = 0; i < n; i++)
			*message_of(handle[i]) = (struct message) { w->number, number + i };
		EQUAL(0, blocking_publish(pool(), m, ring, handle, n, wait_now() + PATIENCE_NS));
		sched_yield(); /* or nobody gets anything while nobody blocks */
		number += n;
	}
	if (add_seq_cst(&left, -1u) == 1)
		EQUAL(0, queue_shutdown(ring, m));
	return NULL;
}

/* Gets until the topic ends, or after some messages. Returns true at the end. */
static bool listen(struct worker *w, struct member *m)
{
	struct subscriber s;
	uint64_t held[HOLDS], position[HOLDS], next = 0;
	uint32_t holds = 0;
	int64_t last[PUBLISHERS];
	int got;
	memset(last, -1, sizeof(last));
	EQUAL(0, topic_subscribe(pool(), m, ring, w->policy, TOPIC_OLDEST, &s));
	for (uint32_t turn = 0;; turn++) {
		uint32_t want = turn % 3 + 1;
		while (holds + want > HOLDS)
			topic_let_go(pool(), m, &s, &held[--holds], 1);
		got = blocking_take(pool(), m, &s, &held[holds], &position[holds], want,
				    wait_now() + PATIENCE_NS);
		if (got == -EPIPE)
			break;
		CHECK(got > 0);
		for (int i = 0; i < got; i++) {
			const struct message text = *message_of(held[holds + (uint32_t)i]);
			CHECK(text.publisher < PUBLISHERS);
			CHECK((int64_t)text.number > last[text.publisher]);
			if (w->policy == TOPIC_BLOCK && last[text.publisher] >= 0)
				EQUAL(last[text.publisher] + 1, text.number);
			last[text.publisher] = text.number;
			CHECK(position[holds + (uint32_t)i] >= next);
			next = position[holds + (uint32_t)i] + 1;
			w->seen[text.publisher]++;
		}
		w->got += (uint32_t)got;
		holds += (uint32_t)got;
		if (w->restless && turn == 50)
			break;
	}
	w->gaps += s.gaps;
	if (w->policy == TOPIC_BLOCK)
		EQUAL(0, s.gaps);
	topic_unsubscribe(pool(), self(), &s);
	topic_let_go(pool(), m, &s, held, holds);
	CHECK(!s.shared);
	return got == -EPIPE;
}

static void *subscribe(void *argument)
{
	struct worker *w = argument;
	struct member *m = self();
	while (!listen(w, m))
		;
	return NULL;
}

/* A subscriber that blocks and comes when publishers have long had none is heard at once. */
static void check_late_blocker(void)
{
	struct member *m = self();
	struct subscriber s;
	uint64_t handle, position;
	for (uint32_t i = 0; i < 3 * DEPTH; i++) {
		if (i == DEPTH)
			EQUAL(0, topic_subscribe(pool(), m, ring, TOPIC_BLOCK, TOPIC_NEWEST, &s));
		EQUAL(0, blocking_alloc(pool(), m, &handle, 1, WAIT_NEVER));
		const int error = topic_publish(pool(), m, ring, &handle, 1);
		EQUAL(i < 2 * DEPTH ? 0 : -ENOBUFS, error);
		if (error)
			EQUAL(0, qmempool_free(pool(), m, handle));
	}
	for (uint32_t i = 0; i < DEPTH; i++) {
		EQUAL(1, topic_get(pool(), m, &s, &handle, &position, 1));
		EQUAL(DEPTH + i, position);
		topic_let_go(pool(), m, &s, &handle, 1);
	}
	topic_unsubscribe(pool(), self(), &s);
}

/* Publishes n empty messages. */
static void say(uint32_t n)
{
	struct member *m = self();
	uint64_t handle;
	while (n--) {
		EQUAL(0, blocking_alloc(pool(), m, &handle, 1, WAIT_NEVER));
		EQUAL(0, topic_publish(pool(), m, ring, &handle, 1));
	}
}

/* Gets n messages, from number on. */
static void hear(struct subscriber *s, uint64_t number, uint32_t n)
{
	struct member *m = self();
	uint64_t handle, position;
	while (n--) {
		EQUAL(1, topic_get(pool(), m, s, &handle, &position, 1));
		EQUAL(number++, position);
		topic_let_go(pool(), m, s, &handle, 1);
	}
}

/* One that drops the newest has the oldest; and of what is published after a get, as many as it
 * got. */
static void check_drop_newest(void)
{
	struct subscriber s;
	const uint64_t from = alf_end(ring->q->prod) - DEPTH;
	EQUAL(0, topic_subscribe(pool(), self(), ring, TOPIC_DROP_NEWEST, TOPIC_NEWEST, &s));
	say(3 * DEPTH);
	EQUAL(DEPTH, topic_lag(&s));
	hear(&s, from, 2);
	say(3);
	EQUAL(DEPTH, topic_lag(&s));
	hear(&s, from + 2, DEPTH - 2);
	hear(&s, from + 3 * DEPTH, 2);
	EQUAL(2 * DEPTH + 1, s.gaps);
	EQUAL(0, topic_lag(&s));
	topic_unsubscribe(pool(), self(), &s);
}

/* A holders word has 28 bits of the position. A message 2^28 later in the same buffer is not the
 * one that a subscriber read of in the slot. */
static void check_much_later(void)
{
	struct subscriber s;
	uint32_t index;
	EQUAL(0, topic_subscribe(pool(), self(), ring, TOPIC_DROP_OLDEST, TOPIC_NEWEST, &s));
	say(1);
	const alf_position at = s.cursor, earlier = at + HOLD_POSITION_MASK + 1;
	shared64 *slot = &ring->slot[at & ring->mask];
	const uint64_t word = *slot;
	const struct buffer *b = pool_buffer(pool(), word & ALF_INDEX_MASK);
	*slot = alf_tag(ring, earlier) | (word & ALF_INDEX_MASK);
	EQUAL(TOPIC_MISSED, topic_take(pool(), self(), &s, earlier, &index));
	EQUAL(hold_word(HOLD_PUBLISHED, ring->id, at), b->since);
	*slot = word;
	EQUAL(TOPIC_TAKEN, topic_take(pool(), self(), &s, at, &index));
	topic_release(pool(), self(), &s, index);
	topic_unsubscribe(pool(), self(), &s);
}

/* A process that closes its pool gives its subscribers up: a recovery frees them, though no member
 * is dead. One that read an earlier dead subscriber's state frees none that died since. */
static void check_given_up(void)
{
	struct subscriber s;
	struct shmpool_recovery out;
	EQUAL(0, topic_subscribe(pool(), self(), ring, TOPIC_BLOCK, TOPIC_NEWEST, &s));
	uint64_t *state = &topic_of(ring)->subscriber[s.number].state;
	CHECK(topic_give_up(pool(), s.token));
	struct topic_gone earlier = { .bits = 1u << s.number };
	earlier.state[s.number] = TOPIC_DEAD | (s.token + 1);
	topic_vacate(ring, &earlier);
	EQUAL(TOPIC_DEAD | s.token, *state);
	EQUAL(0, recover_passes(pool(), self(), &out, 1));
	EQUAL(0, *state);
}

/* Publishes everything to a new topic. */
static void run(const char *name, struct worker *subscriber, uint32_t subscribers)
{
	static struct worker publisher[PUBLISHERS];
	const struct queue_on_death on_death = { .what = ON_DEATH_FREE };
	const int number = queue_create(pool(), self(), name, DEPTH, ALF_TOPIC, &on_death);
	CHECK(number > 0);
	ring = queue_ring(pool(), (uint32_t)number);
	left = PUBLISHERS;
	for (uint32_t i = 0; i < subscribers; i++)
		CHECK(!pthread_create(&subscriber[i].thread, NULL, subscribe, &subscriber[i]));
	for (uint32_t i = 0; i < subscribers; i++)
		while (load_acquire(&topic_of(ring)->subscriber[i].state) >> TOPIC_TOKEN_BITS == 0)
			sched_yield();
	for (uint32_t i = 0; i < PUBLISHERS; i++) {
		publisher[i].number = i;
		CHECK(!pthread_create(&publisher[i].thread, NULL, publish, &publisher[i]));
	}
	for (uint32_t i = 0; i < PUBLISHERS; i++)
		pthread_join(publisher[i].thread, NULL);
	for (uint32_t i = 0; i < subscribers; i++) {
		pthread_join(subscriber[i].thread, NULL);
		if (subscriber[i].policy == TOPIC_BLOCK && !subscriber[i].restless)
			EQUAL(PUBLISHERS * messages, subscriber[i].got);
		else if (!subscriber[i].restless) /* nothing is published when it begins */
			EQUAL(PUBLISHERS * messages, subscriber[i].got + subscriber[i].gaps);
		printf("%s, policy %u%s: got %llu, missed %llu\n", name, subscriber[i].policy,
		       subscriber[i].restless ? ", restless" : "",
		       (unsigned long long)subscriber[i].got,
		       (unsigned long long)subscriber[i].gaps);
	}
	for (uint32_t i = 0; i < SUBSCRIBERS_MAX; i++)
		EQUAL(0, topic_of(ring)->subscriber[i].state);
}

int main(int argc, char **argv)
{
	static struct worker paced[] = {
		{ .policy = TOPIC_BLOCK },
		{ .policy = TOPIC_BLOCK },
		{ .policy = TOPIC_DROP_OLDEST },
		{ .policy = TOPIC_LATEST },
		{ .policy = TOPIC_DROP_NEWEST },
		{ .policy = TOPIC_BLOCK, .restless = true },
		{ .policy = TOPIC_DROP_OLDEST, .restless = true },
	};
	static struct worker lapped[] = {
		{ .policy = TOPIC_DROP_NEWEST },
		{ .policy = TOPIC_DROP_NEWEST },
		{ .policy = TOPIC_DROP_OLDEST },
		{ .policy = TOPIC_DROP_NEWEST, .restless = true },
		{ .policy = TOPIC_DROP_NEWEST, .restless = true },
	};
	struct shmpool_geometry g = { .buffer_size = 256,
				      .capacity = CAPACITY,
				      .prealloc = 16,
				      .bulk = 16,
				      .refill_multiplier = 1,
				      .cache_size = 32,
				      .headroom = 0,
				      .members = 16,
				      .queues = 3 };
	const struct queue_on_death on_death = { .what = ON_DEATH_FREE };
	struct shmpool_audit audit;
	struct shmpool_held held[1];
	uint64_t queued[8] = { 0 };
	messages = argc > 1 ? (uint32_t)atoi(argv[1]) : 100000;
	pool_number = memfd_pool(&g);
	EQUAL(1, queue_create(pool(), self(), "topic", DEPTH, ALF_TOPIC, &on_death));
	ring = queue_ring(pool(), 1);
	check_late_blocker();
	check_given_up();
	check_drop_newest();
	check_much_later();
	run("paced", paced, sizeof(paced) / sizeof(paced[0]));
	run("lapped", lapped, sizeof(lapped) / sizeof(lapped[0]));
	EQUAL(0, audit_count(pool(), &audit, held, 1, queued, 8));
	EQUAL(0, audit.unaccounted + audit.doubled);
	for (uint32_t i = 1; i <= 3; i++)
		EQUAL(DEPTH, queued[i]);
	EQUAL(audit.total, audit.free + audit.cached + 3 * DEPTH);
	return 0;
}
