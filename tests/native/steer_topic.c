/* SPDX-License-Identifier: Apache-2.0
 *
 * steer_topic.c - see steer_topic.h. Positions are those that topic_get() returns: from 0 on.
 */
#include "steer_topic.h"

#include "topic.h"

#define TOPIC (QUEUES + 1u) /* its queue slot */
#define DEPTH (world_profile->topic)
#define SUBSCRIPTIONS 2u /* of each thread */
#define HOLDS_MOST 8u
#define POSITIONS 512u
#define POLICIES                                                                                   \
	(1u << TOPIC_BLOCK | 1u << TOPIC_DROP_OLDEST | 1u << TOPIC_DROP_NEWEST | 1u << TOPIC_LATEST)
#define UNKNOWN UINT32_MAX

/* What was published, by its number. */
static struct post {
	enum fate fate;
	uint32_t producer, first, n; /* it was published together with the next n - 1 */
	uint32_t position;
} posts[POSITIONS];
static uint32_t posted;
static uint32_t at[POSITIONS];  /* the post at a position, if it is known */
static bool skipped[POSITIONS]; /* by a subscriber that blocks: nothing is there */
static const struct alf_ring *ring;
static alf_position base;       /* of position 0 in the ring */
static uint32_t calls, returns; /* of all threads, on the topic */
static bool ended;

/* A subscription, and what its thread knows of it. */
struct reading {
	struct subscriber s;
	bool open;
	uint32_t next;  /* the first position that it may get */
	uint32_t since; /* what it misses from here on is a gap */
	uint32_t got;   /* from there on */
	uint32_t skips; /* it blocks: positions without a message */
	uint64_t hand[HOLDS_MOST];
	uint32_t number[HOLDS_MOST], position[HOLDS_MOST], held;
};
static struct reading readings[STEER_THREADS][SUBSCRIPTIONS];
static const struct reading *waits_with[STEER_THREADS];
static uint32_t holders[CAPACITY_MOST]; /* by buffer: a bit for each reading that holds it */

/* None of these makes a step: they read memory as it is. */

/* Returns how many positions have been reserved. */
static uint32_t reserved(void)
{
	return (uint32_t)(alf_position)(alf_end(ring->q->prod) - base);
}

static bool closed(void)
{
	return ring->q->prod & ALF_CLOSED;
}

static uint32_t position_of(alf_position position)
{
	return (uint32_t)(alf_position)(position - base);
}

static alf_position in_ring(uint32_t position)
{
	return (alf_position)(base + (alf_position)(int32_t)position);
}

static uint64_t word_at(uint32_t position)
{
	return ring->slot[position & ring->mask];
}

static enum alf_at state_at(uint32_t position)
{
	return alf_at(ring, in_ring(position), word_at(position));
}

static uint32_t number_of(uint64_t handle)
{
	return *world_text(handle);
}

/* Returns how many messages of dead publishers may or may not be there. */
static uint32_t doubtful(void)
{
	uint32_t n = 0;
	for (uint32_t i = 0; i < posted; i++)
		n += posts[i].fate == SENDING && steer_died(posts[i].producer) &&
		     posts[i].position == UNKNOWN;
	return n;
}

/* Returns how many positions the subscribers that block, and the messages that are still being
 * published, leave to publishers. */
static int64_t room(uint32_t n)
{
	int64_t least = DEPTH;
	for (uint32_t i = 0; i < n; i++)
		if (state_at(reserved() + i - DEPTH) == ALF_AT_UNPUBLISHED)
			return 0;
	for (uint32_t i = 0; i < SUBSCRIBERS_MAX; i++) {
		const struct topic_subscriber *s = &topic_of(ring)->subscriber[i];
		int64_t has = topic_distance(s->cursor + DEPTH, alf_end(ring->q->prod));
		if ((s->state & TOPIC_STATE_MASK) == TOPIC_LIVE && s->state &&
		    s->policy == TOPIC_BLOCK && has < least)
			least = has;
	}
	return least;
}

/* Notes that a message is at a position. */
static void learn(uint32_t number, uint32_t position)
{
	DEMAND(number < posted && position < POSITIONS && position < reserved());
	struct post *p = &posts[number];
	DEMAND(p->fate != UNSENT);
	if (p->position == position && at[position] == number)
		return;
	SAME(UNKNOWN, p->position);
	SAME(UNKNOWN, at[position]);
	p->position = position;
	at[position] = number;
	if (skipped[position])
		steer_failed("a subscriber that blocks has missed message %u at %u", number,
			     position);
	for (uint32_t i = 0; i < posted; i++) {
		const struct post *other = &posts[i];
		if (other->position == UNKNOWN || i == number)
			continue;
		if (other->producer == p->producer && (other->position < position) != (i < number))
			steer_failed("message %u is at %u, and %u at %u", number, position, i,
				     other->position);
		if (other->first == p->first)
			SAME(i - number, other->position - position);
	}
}

/* Learns what the ring shows. With store buffers a buffer's words may be older than its bytes. */
static void learn_ring(void)
{
	for (uint32_t i = 0; i < DEPTH && i < reserved() && !steer_buffers(); i++) {
		const uint32_t position = reserved() - 1 - i;
		const uint32_t index = word_at(position) & ALF_INDEX_MASK;
		if (state_at(position) == ALF_AT_VALUE &&
		    pool_buffer(&world_actors[LAST].pool, index)->owner ==
			    owner_transit(TOPIC, in_ring(position)))
			learn(*world_text(index), position);
	}
}

static uint32_t bit_of(uint32_t me, const struct reading *r)
{
	return 1u << (me * SUBSCRIPTIONS + (uint32_t)(r - readings[me]));
}

static void note_holder(uint64_t handle, uint32_t bit, bool holds)
{
	for (uint32_t i = 1 + handle_index(handle); i; i = world_next_part(i - 1))
		holders[i - 1] = holds ? holders[i - 1] | bit : holders[i - 1] & ~bit;
}

void topic_check_unheld(uint32_t index)
{
	for (uint32_t i = 0; i < STEER_THREADS * SUBSCRIPTIONS; i++)
		if (holders[index] >> i & 1 && !steer_died(i / SUBSCRIPTIONS))
			steer_failed("buffer %u is allocated while thread %u reads it", index,
				     i / SUBSCRIPTIONS);
}

static void check_holds(const struct reading *r)
{
	for (uint32_t i = 0; i < r->held; i++) {
		const struct buffer *b =
			pool_buffer(&world_actors[LAST].pool, handle_index(r->hand[i]));
		SAME(r->number[i], number_of(r->hand[i]));
		DEMAND(b->owner == owner_transit(TOPIC, in_ring(r->position[i])));
		DEMAND(b->since >> r->s.number & 1);
		DEMAND(hold_state(b->since) != HOLD_FINAL);
	}
}

/* Returns how many messages it has got from the topic and its thread has not. */
static uint32_t backlog(const struct reading *r)
{
	uint32_t n = 0;
	for (uint32_t i = 0; i < r->s.waiting; i++)
		n += position_of(r->s.backlog[(r->s.first + i) & ring->mask].position) >= r->since;
	return n;
}

/* All that lies behind a subscriber it has got, or counted as a gap, or was no message. */
static void check_gaps(const struct reading *r)
{
	const uint32_t cursor = position_of(r->s.cursor);
	const uint32_t passed = cursor > r->since ? cursor - r->since : 0;
	const uint32_t known = r->got + (uint32_t)r->s.gaps + backlog(r);
	if (r->s.policy == TOPIC_BLOCK) {
		SAME(0, r->s.gaps);
		DEMAND(r->skips <= doubtful());
	}
	DEMAND(known <= passed && passed - known <= doubtful());
}

/* A call on the topic: nobody else is at it, and no store waits, if quiet() holds at its end. */
static uint32_t begin_call(void)
{
	const bool alone = calls == returns;
	calls++;
	return alone && !steer_buffers() ? calls : 0;
}

static bool quiet(uint32_t call)
{
	returns++;
	return call && call == calls && !steer_deaths();
}

/* Operations. */

static void publish(uint32_t me, uint32_t n, bool wait)
{
	struct actor *a = &world_actors[me];
	if (n > DEPTH)
		n = DEPTH;
	if (n > a->held || posted + n > POSITIONS)
		return;
	const struct alf_ring *r = queue_ring(&a->pool, TOPIC);
	const uint32_t first = posted;
	posted += n;
	for (uint32_t i = 0; i < n; i++) {
		posts[first + i] = (struct post) { SENDING, me, first, n, UNKNOWN };
		world_number(a->hand[a->held - n + i], first + i);
	}
	const uint64_t *handle = world_part_with(me, n);
	const bool late = ended;
	a->waits_on = r;
	a->waits_for = n;
	const uint32_t call = begin_call();
	const int error =
		wait ? blocking_publish(&a->pool, a->m, r, handle, n, wait_now() + DEADLINE_NS) :
		       topic_publish(&a->pool, a->m, r, handle, n);
	a->waits_on = NULL;
	const bool alone = quiet(call);
	for (uint32_t i = first; i < first + n; i++) {
		DEMAND(!error || posts[i].position == UNKNOWN);
		posts[i].fate = error ? UNSENT : SENT;
	}
	if (error) {
		DEMAND(error == -ENOBUFS || (error == -EINTR && wait) ||
		       (error == -EPIPE && closed()));
		DEMAND(error != -ENOBUFS || !alone || room(n) < n);
		world_keep(me, n);
	} else {
		DEMAND(!late);
	}
	learn_ring();
}

static void subscribe(uint32_t me)
{
	struct actor *a = &world_actors[me];
	const uint32_t may = world_profile->policies[me] ? world_profile->policies[me] : POLICIES;
	uint32_t policy = steer_random(TOPIC_POLICIES), start = steer_random(2), i = 0;
	while (!(may >> policy & 1))
		policy = (policy + 1) % TOPIC_POLICIES;
	while (i < SUBSCRIPTIONS && (readings[me][i].open || readings[me][i].held))
		i++;
	if (i == SUBSCRIPTIONS)
		return;
	struct reading *r = &readings[me][i];
	begin_call();
	SAME(0, topic_subscribe(&a->pool, a->m, queue_ring(&a->pool, TOPIC), policy, start, &r->s));
	returns++;
	r->open = true;
	r->since = position_of(r->s.joined);
	r->next = policy != TOPIC_DROP_NEWEST ? position_of(r->s.cursor) :
		  start == TOPIC_OLDEST       ? 0 :
						r->since;
	if ((int32_t)r->since < (int32_t)r->next)
		r->since = r->next;
	r->got = r->skips = r->held = 0;
}

static void receive(uint32_t me, struct reading *r, uint64_t handle, uint32_t position)
{
	const uint32_t number = number_of(handle);
	DEMAND(position >= r->next);
	learn(number, position);
	for (; r->s.policy == TOPIC_BLOCK && r->next < position; r->next++) {
		if (r->next < r->since) /* evicted while it subscribed */
			continue;
		if (at[r->next] != UNKNOWN)
			steer_failed("a subscriber that blocks has missed message %u at %u",
				     at[r->next], r->next);
		skipped[r->next] = true;
		r->skips++;
	}
	r->next = position + 1;
	r->got += position >= r->since;
	r->number[r->held] = number;
	r->position[r->held] = position;
	r->hand[r->held++] = handle;
	note_holder(handle, bit_of(me, r), true);
}

static void get(uint32_t me, struct reading *r, uint32_t n, bool wait)
{
	struct actor *a = &world_actors[me];
	uint64_t handle[BULK_MOST], position[BULK_MOST];
	if (n > HOLDS_MOST - r->held)
		n = HOLDS_MOST - r->held;
	if (!n)
		return;
	const uint64_t gaps = r->s.gaps;
	const uint32_t read = position_of(r->s.cursor) - r->s.waiting;
	a->waits_on = queue_ring(&a->pool, TOPIC);
	waits_with[me] = r;
	const uint32_t call = begin_call();
	const int got = wait ? blocking_take(&a->pool, a->m, &r->s, handle, position, n,
					     wait_now() + DEADLINE_NS) :
			       topic_get(&a->pool, a->m, &r->s, handle, position, n);
	a->waits_on = NULL;
	const bool alone = quiet(call);
	for (int i = 0; i < got; i++)
		receive(me, r, handle[i], position_of((alf_position)(position[i] + DEPTH)));
	DEMAND(got > 0 || got == -EAGAIN || (got == -EINTR && wait) || (got == -EPIPE && closed()));
	if (alone && (got <= 0 || r->s.policy == TOPIC_LATEST))
		SAME(reserved(), position_of(r->s.cursor));
	if (got == -EPIPE)
		SAME(reserved(), position_of(r->s.cursor));
	/* It had room for all that there was. */
	if (r->s.policy != TOPIC_LATEST && reserved() - read <= DEPTH)
		SAME(gaps, r->s.gaps);
	check_gaps(r);
	check_holds(r);
	learn_ring();
	for (int i = 0; i < got; i++) /* the thread may die here */
		world_check_whole(me, handle[i]);
}

static void let_go(uint32_t me, struct reading *r, uint32_t n)
{
	struct actor *a = &world_actors[me];
	check_holds(r);
	n = n < r->held ? n : r->held;
	r->held -= n;
	for (uint32_t i = 0; i < n; i++)
		note_holder(r->hand[r->held + i], bit_of(me, r), false);
	topic_let_go(&a->pool, a->m, &r->s, &r->hand[r->held], n);
}

static void leave(uint32_t me, struct reading *r)
{
	struct actor *a = &world_actors[me];
	r->open = false;
	begin_call();
	topic_unsubscribe(&a->pool, a->m, &r->s);
	returns++;
	check_holds(r);
}

/* One of the thread's subscriptions, NULL if it has none. */
static struct reading *one_of(uint32_t me, bool open)
{
	const uint32_t first = steer_random(SUBSCRIPTIONS);
	for (uint32_t i = 0; i < SUBSCRIPTIONS; i++) {
		struct reading *r = &readings[me][(first + i) % SUBSCRIPTIONS];
		if (open ? r->open : r->held != 0)
			return r;
	}
	return NULL;
}

void topic_operate(uint32_t me, enum operation what, uint32_t n)
{
	struct actor *a = &world_actors[me];
	struct reading *r = one_of(me, what != LET_GO);
	switch (what) {
	case PUBLISH:
	case PUBLISH_WAIT:
		publish(me, n, what == PUBLISH_WAIT);
		break;
	case TAKE:
	case TAKE_WAIT:
		if (r)
			get(me, r, n, what == TAKE_WAIT);
		else
			subscribe(me);
		break;
	case LET_GO:
		if (r)
			let_go(me, r, n);
		break;
	case LEAVE:
		if (r)
			leave(me, r);
		break;
	case END_TOPIC:
		SAME(0, queue_shutdown(queue_ring(&a->pool, TOPIC), a->m));
		ended = true;
		break;
	default:
		subscribe(me);
		break;
	}
}

void topic_between(void)
{
	for (uint32_t i = 0; i < STEER_THREADS * SUBSCRIPTIONS; i++) {
		const struct reading *r = &readings[i / SUBSCRIPTIONS][i % SUBSCRIPTIONS];
		if (!r->open || steer_died(i / SUBSCRIPTIONS) || r->s.policy != TOPIC_BLOCK)
			continue;
		const uint32_t cursor = position_of(r->s.shared->cursor & TOPIC_POSITION_MASK);
		DEMAND(reserved() <= (cursor < r->since ? r->since : cursor) + DEPTH);
	}
	learn_ring();
}

bool topic_has_something(const struct actor *a, const uint32_t *word)
{
	const struct reading *r = waits_with[a - world_actors];
	/* A recoverer that dies between resetting a wait word and waking costs a slice. */
	if (steer_deaths() > 1)
		return false;
	if (word == &ring->q->room_wait)
		return alf_end(ring->q->prod) != ring->q->prod ||
		       room(a->waits_for) >= a->waits_for;
	for (uint32_t i = position_of(r->s.cursor); i < reserved() && !r->s.waiting; i++) {
		if (state_at(i) == ALF_AT_VALUE || state_at(i) == ALF_AT_LATER)
			return true;
		if (r->s.policy != TOPIC_LATEST && state_at(i) == ALF_AT_UNPUBLISHED)
			return false;
	}
	return closed() || r->s.waiting;
}

void topic_make(void)
{
	const struct queue_on_death free_them = { 0 };
	if (DEPTH)
		SAME(TOPIC, queue_create(&world_actors[LAST].pool, world_actors[LAST].m, "topic",
					 DEPTH, ALF_TOPIC, &free_them));
}

/* Narrow positions (SHMPOOL_POSITION_BITS): begins up to four rings before they wrap. */
static void begin_before_the_end(void)
{
	base = (alf_position)(0 - (1 + steer_random(4)) * DEPTH);
	ring->q->prod = ring->q->cons = base;
	for (uint32_t i = 0; i < DEPTH; i++)
		ring->slot[i] = alf_tag(ring, (alf_position)(base - DEPTH)) | ALF_TOMBSTONE;
	for (uint32_t i = 0; i < SUBSCRIBERS_MAX; i++)
		topic_of(ring)->subscriber[i].barred = base;
}

void topic_begin(void)
{
	ring = DEPTH ? queue_ring(&world_actors[LAST].pool, TOPIC) : NULL;
	base = DEPTH;
	if (ring && SHMPOOL_POSITION_BITS < 64)
		begin_before_the_end();
	posted = calls = returns = 0;
	ended = false;
	for (uint32_t i = 0; i < STEER_THREADS * SUBSCRIPTIONS; i++) /* of threads that died */
		free(readings[i / SUBSCRIPTIONS][i % SUBSCRIPTIONS].s.backlog);
	memset(readings, 0, sizeof(readings));
	memset(holders, 0, sizeof(holders));
	memset(skipped, 0, sizeof(skipped));
	memset(at, 0xff, sizeof(at));
}

void topic_end(void)
{
	for (uint32_t i = 0; i < world_profile->threads * SUBSCRIPTIONS && DEPTH; i++) {
		struct reading *r = &readings[i / SUBSCRIPTIONS][i % SUBSCRIPTIONS];
		if (steer_died(i / SUBSCRIPTIONS))
			continue;
		for (uint32_t gets = 0;
		     r->open && (position_of(r->s.cursor) != reserved() || r->s.waiting); gets++) {
			DEMAND(gets < POSITIONS);
			let_go(i / SUBSCRIPTIONS, r, HOLDS_MOST);
			get(i / SUBSCRIPTIONS, r, 1 + steer_random(BULK_MOST), false);
		}
		if (r->open)
			leave(i / SUBSCRIPTIONS, r);
		let_go(i / SUBSCRIPTIONS, r, HOLDS_MOST);
		DEMAND(!r->s.shared);
	}
	uint32_t published = 0, possible = 0;
	for (uint32_t i = 0; i < posted; i++) {
		published += posts[i].fate == SENT;
		possible += posts[i].fate == SENDING;
	}
	DEMAND(!DEPTH || (reserved() >= published && reserved() <= published + possible));
	for (uint32_t i = 0; i < SUBSCRIBERS_MAX && DEPTH; i++)
		SAME(0, topic_of(ring)->subscriber[i].state);
}

uint32_t topic_kept(void)
{
	uint32_t n = 0;
	for (uint32_t i = 0; i < DEPTH && i < reserved(); i++) {
		const uint32_t position = reserved() - 1 - i;
		const uint32_t index = word_at(position) & ALF_INDEX_MASK;
		DEMAND(state_at(position) == ALF_AT_VALUE ||
		       state_at(position) == ALF_AT_TOMBSTONE);
		if (state_at(position) != ALF_AT_VALUE)
			continue;
		const struct buffer *b = pool_buffer(&world_actors[LAST].pool, index);
		DEMAND(b->owner == owner_transit(TOPIC, in_ring(position)));
		DEMAND(b->since == hold_word(HOLD_PUBLISHED, TOPIC, in_ring(position)));
		n += world_parts(index);
	}
	return n;
}
