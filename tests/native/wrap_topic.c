/* SPDX-License-Identifier: Apache-2.0
 *
 * wrap_topic.c - a topic whose positions wrap often. Numbered messages are published one by one and
 * in bulks; subscribers of every policy get them, hold some for a while, leave and come back. What
 * each has got and missed is checked exactly.
 *
 * All is done by one thread, call by call in a random order: what happens inside the calls of
 * several threads, steering tests with narrow positions too (steer_topic.c). A subscriber must not
 * fall half of all positions behind. So nothing is published while one has not got anything for
 * NEAR messages: more than the topic keeps, so that it is lapped all the same.
 *
 * Usage: wrap_topic MESSAGES
 */
#define _GNU_SOURCE
#include "audit.h"
#include "check.h"
#include "member.h"
#include "memfd_pool.h"
#include "opening.h"
#include "pace.h"
#include "topic.h"

#define DEPTH (SHMPOOL_POSITION_BITS == 8 ? 4u : 16u)
#define NEAR (SHMPOOL_POSITION_BITS == 8 ? 40u : 4096u)
#define BULK 3u  /* messages of one publish and one get, at most */
#define HOLDS 3u /* of one subscriber */
#define CAPACITY (SHMPOOL_POSITION_BITS == 8 ? 64 : 256)
#define READERS 8u
#define STAYS 64u /* turns of a subscription, on average */

struct reader {
	struct subscriber s;
	uint32_t start;
	uint64_t from; /* the first message that it may miss */
	uint64_t next; /* the first that it may get */
	uint64_t got;  /* from `from` on */
	uint64_t seen; /* how many had been published at its last get */
	uint64_t held[HOLDS];
	uint32_t holds;
};

static struct reader readers[READERS];
static uint32_t pool_number;
static const struct alf_ring *ring;
static struct member *self;
static uint64_t published, missed, got_in_all, wanted;

static struct qmempool *pool(void)
{
	return opening_pool(pool_number);
}

static uint64_t *number_in(uint64_t handle)
{
	return (uint64_t *)segment_data(&pool()->segment, handle_index(handle));
}

static bool is_open(const struct reader *r)
{
	return r->s.r;
}

/* xorshift64 */
static uint32_t roll(uint32_t sides)
{
	static uint64_t state = 88172645463325252;
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (uint32_t)(state >> 32) % sides;
}

static bool all_are_near(void)
{
	for (uint32_t i = 0; i < READERS; i++)
		if (is_open(&readers[i]) && published > readers[i].seen + NEAR)
			return false;
	return true;
}

/* Publishes a bulk, if there is room for it. */
static void publish(void)
{
	uint64_t handle[BULK];
	const uint32_t n = 1 + roll(BULK);
	if (!all_are_near())
		return;
	bool blocked = false;
	for (uint32_t i = 0; i < READERS; i++) {
		const struct reader *r = &readers[i];
		blocked |=
			is_open(r) && r->s.policy == TOPIC_BLOCK && published + n > r->next + DEPTH;
	}
	EQUAL(0, qmempool_alloc_bulk(pool(), self, handle, n));
	for (uint32_t i = 0; i < n; i++)
		*number_in(handle[i]) = published + i;
	const int error = topic_publish(pool(), self, ring, handle, n);
	EQUAL(blocked ? -ENOBUFS : 0, error);
	if (error)
		qmempool_free_bulk(pool(), self, handle, n);
	else
		published += n;
}

static void let_go(struct reader *r, uint32_t keep)
{
	for (; r->holds > keep; r->holds--) {
		CHECK(*number_in(r->held[r->holds - 1]) < published);
		topic_let_go(pool(), self, &r->s, &r->held[r->holds - 1], 1);
	}
}

static void subscribe(struct reader *r)
{
	/* No subscriber was found dead. Not so many positions ago that this would be later. */
	for (uint32_t i = 0; i < SUBSCRIBERS_MAX && SHMPOOL_POSITION_BITS < 64; i++)
		topic_of(ring)->subscriber[i].barred = (alf_position)(ring->q->prod - DEPTH);
	const uint32_t policy = roll(TOPIC_POLICIES);
	const bool kept = roll(2) || policy == TOPIC_LATEST;
	*r = (struct reader) { .start = kept ? TOPIC_OLDEST : TOPIC_NEWEST, .seen = published };
	EQUAL(0, topic_subscribe(pool(), self, ring, policy, r->start, &r->s));
	const uint64_t oldest = published < DEPTH ? 0 : published - DEPTH;
	r->next = kept ? oldest : published;
	r->from = kept && policy != TOPIC_DROP_OLDEST ? published : r->next;
	if (policy == TOPIC_LATEST) /* it begins with the newest one */
		r->next = published ? published - 1 : 0;
}

/* Takes note of a message: the next one, or a later one if its subscriber may miss some. */
static void note(struct reader *r, uint64_t handle)
{
	const uint64_t number = *number_in(handle);
	CHECK(number < published && number >= r->next);
	if (r->s.policy == TOPIC_BLOCK || (r->s.policy == TOPIC_DROP_OLDEST && !r->s.gaps))
		EQUAL(r->next, number);
	if (r->s.policy == TOPIC_LATEST)
		EQUAL(published - 1, number);
	r->next = number + 1;
	r->got += number >= r->from;
	got_in_all++;
}

static void get(struct reader *r)
{
	uint64_t handle[BULK], position[BULK];
	let_go(r, 0); /* or what it holds could be half of all positions behind */
	const int got = topic_get(pool(), self, &r->s, handle, position, 1 + roll(BULK));
	CHECK(got > 0 || got == -EAGAIN);
	for (int i = 0; i < got; i++) {
		note(r, handle[i]);
		r->held[r->holds++] = handle[i];
	}
	r->seen = published;
	const uint64_t waiting = r->s.policy == TOPIC_DROP_NEWEST ? topic_lag(&r->s) : 0;
	/* What it has passed it has got or counted. */
	uint64_t passed = r->next > r->from ? r->next - r->from : 0;
	if (got == -EAGAIN || r->s.policy == TOPIC_DROP_NEWEST)
		passed = published - r->from - waiting;
	if (r->s.policy != TOPIC_DROP_NEWEST || r->next >= r->from)
		EQUAL(passed, r->got + r->s.gaps);
	if (got == -EAGAIN)
		EQUAL(0, topic_lag(&r->s));
}

static void leave(struct reader *r)
{
	missed += r->s.gaps;
	if (r->s.policy == TOPIC_BLOCK)
		EQUAL(0, r->s.gaps);
	const bool first = roll(2);
	if (first)
		let_go(r, 0);
	topic_unsubscribe(pool(), self, &r->s);
	let_go(r, 0);
	CHECK(!r->s.shared);
	*r = (struct reader) { .seen = 0 };
}

int main(int argc, char **argv)
{
	struct shmpool_geometry g = { .buffer_size = 64,
				      .capacity = CAPACITY,
				      .prealloc = 16,
				      .bulk = 16,
				      .refill_multiplier = 1,
				      .cache_size = 0,
				      .headroom = 0,
				      .members = 4,
				      .queues = 2 };
	const struct queue_on_death on_death = { .what = ON_DEATH_FREE };
	struct shmpool_audit audit;
	struct shmpool_held held[1];
	uint64_t queued[3] = { 0 };
	wanted = argc > 1 ? (uint64_t)atoll(argv[1]) : 100000;
	pool_number = memfd_pool(&g);
	EQUAL(0, opening_attach(pool_number));
	self = opening_member(pool_number);
	EQUAL(1, queue_create(pool(), self, "other", DEPTH, ALF_TOPIC, &on_death));
	EQUAL(2, queue_create(pool(), self, "topic", DEPTH, ALF_TOPIC, &on_death));
	ring = queue_ring(pool(), 2);
	for (uint32_t i = 0; i < READERS; i++) /* before there is any message */
		subscribe(&readers[i]);
	while (published < wanted) {
		struct reader *r = &readers[roll(READERS)];
		if (roll(2))
			publish();
		else if (!is_open(r))
			subscribe(r);
		else if (roll(STAYS))
			get(r);
		else
			leave(r);
	}
	for (uint32_t i = 0; i < READERS; i++)
		if (is_open(&readers[i]))
			leave(&readers[i]);
	for (uint32_t i = 0; i < SUBSCRIBERS_MAX; i++)
		EQUAL(0, topic_of(ring)->subscriber[i].state);
	EQUAL(0, audit_count(pool(), &audit, held, 1, queued, 3));
	EQUAL(0, audit.unaccounted + audit.doubled);
	EQUAL(DEPTH, queued[2]);
	EQUAL(audit.total, audit.free + audit.cached + DEPTH);
	printf("got %llu, missed %llu, positions came round %llu times\n",
	       (unsigned long long)got_in_all, (unsigned long long)missed, pace_wraps(published));
	return 0;
}
