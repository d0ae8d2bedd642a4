/* SPDX-License-Identifier: Apache-2.0
 *
 * kill_topic.c - see kill_topic.h.
 */
#include "kill_topic.h"

#include "blocking.h"
#include "check.h"
#include "topic.h"

#define DEPTH 4u
#define FROM_TOPIC 4500u /* b, before the victim runs */
#define FROM_AFTER 4600u /* a, with the victim suspended or dead */
#define TOPIC_NUMBERS 1000u

/* Of this process: the survivors', or the victim's own. */
static struct subscriber watch, mine;
static uint64_t watched[2 * DEPTH], held[2 * DEPTH];
static uint32_t watched_n, held_n, published, after;
static uint32_t watched_number[2 * DEPTH];
static uint32_t last_number; /* that the survivor got, by publisher */

/* Two more of the survivors, which drop the newest. The first one gets something now and then. */
static struct slow {
	struct subscriber in;
	uint64_t got;
} slow[2];
static uint32_t slows; /* how many there are */
static bool gives_up;
static alf_position slow_from;

const struct alf_ring *topic_ring(struct scene *s)
{
	int number = queue_find(&s->pool, "topic");
	return number > 0 ? queue_ring(&s->pool, (uint32_t)number) : NULL;
}

static int say(struct scene *s, struct member *m, uint32_t number)
{
	uint64_t handle;
	int error = scene_compose(m, number, s->operation->chained ? s->operation->chained : 1,
				  &handle);
	if (error)
		return error;
	error = blocking_publish(&s->pool, m, topic_ring(s), &handle, 1, WAIT_NEVER);
	if (error)
		DEMAND(qmempool_free(&s->pool, m, handle) == 0);
	return error;
}

static uint32_t number_of(uint64_t handle)
{
	return *scene_message(handle);
}

/* What the survivor holds is the topic's, with its bit, whatever others have done. */
static void check_watched(struct scene *s)
{
	for (uint32_t i = 0; i < watched_n; i++) {
		const struct buffer *b = pool_buffer(&s->pool, handle_index(watched[i]));
		DEMAND(b->owner & OWNER_TRANSIT && owner_queue(b->owner) == topic_ring(s)->id);
		DEMAND(hold_state(b->since) != HOLD_FINAL && b->since >> watch.number & 1);
		DEMAND(number_of(watched[i]) == watched_number[i]);
	}
}

/* The survivor gets what there is; it keeps the last of it. */
static void hear(struct scene *s, struct member *m)
{
	uint64_t handle, position;
	int got;
	check_watched(s);
	while ((got = topic_get(&s->pool, m, &watch, &handle, &position, 1)) == 1) {
		DEMAND(number_of(handle) >= FROM_VICTIM && number_of(handle) < NUMBERS);
		last_number = number_of(handle);
		if (watched_n)
			topic_let_go(&s->pool, m, &watch, &watched[--watched_n], 1);
		watched_number[watched_n] = number_of(handle);
		watched[watched_n++] = handle;
	}
	DEMAND(got == -EAGAIN);
}

/* Others of the survivors, which come while the victim is suspended or dead. */
static struct subscriber recorder, newcomer, fill[SUBSCRIBERS_MAX];
static bool records, recorded, crowded, came;
static uint32_t last_recorded; /* of the messages before the victim's, 0 for none */
static uint64_t taken[DEPTH];
static uint32_t taken_n, filled;

/* The recorder has got a message. */
static void record(uint32_t number)
{
	const bool before = number >= FROM_TOPIC && number < FROM_AFTER;
	if (last_recorded)
		DEMAND(before ? number == last_recorded + 1 :
				last_recorded == FROM_TOPIC + published - 1);
	last_recorded = before ? number : 0;
}

/* One that blocks begins with the oldest message, and gets one. */
static void begin_recording(struct scene *s)
{
	uint64_t handle, position;
	recorded = true;
	DEMAND(topic_subscribe(&s->pool, s->b, topic_ring(s), TOPIC_BLOCK, TOPIC_OLDEST,
			       &recorder) == 0);
	if (topic_get(&s->pool, s->b, &recorder, &handle, &position, 1) != 1)
		return;
	record(number_of(handle));
	topic_let_go(&s->pool, s->b, &recorder, &handle, 1);
}

/* It misses nothing of what was published before, and holds publishers up. */
static void check_recorder(struct scene *s)
{
	uint64_t handle, position;
	int error = 0;
	if (!recorded)
		return;
	for (uint32_t i = 0; i <= 2 * DEPTH && !error; i++)
		error = say(s, s->a, FROM_AFTER + 80 + i);
	DEMAND(error == -ENOBUFS);
	DEMAND(alf_end(topic_ring(s)->q->prod) - recorder.cursor <= DEPTH + s->operation->n);
	while (topic_get(&s->pool, s->b, &recorder, &handle, &position, 1) == 1) {
		record(number_of(handle));
		topic_let_go(&s->pool, s->b, &recorder, &handle, 1);
	}
	DEMAND(recorder.gaps == 0);
	topic_unsubscribe(&s->pool, s->b, &recorder);
	records = recorded = false;
}

/* One comes when the place of a dead one is the only free one. It holds what it gets. */
static void come(struct scene *s)
{
	uint64_t position[DEPTH];
	if (topic_subscribe(&s->pool, s->b, topic_ring(s), TOPIC_DROP_OLDEST, TOPIC_OLDEST,
			    &newcomer))
		return;
	came = true;
	int got = topic_get(&s->pool, s->b, &newcomer, taken, position, DEPTH);
	taken_n = got > 0 ? (uint32_t)got : 0;
}

/* What it holds it holds, whatever recoverers of the dead one have done. */
static void check_newcomer(struct scene *s)
{
	if (crowded && !came)
		come(s);
	DEMAND(crowded == came);
	for (uint32_t i = 0; i < taken_n; i++)
		DEMAND(pool_buffer(&s->pool, handle_index(taken[i]))->since >> newcomer.number & 1);
	if (came) {
		topic_let_go(&s->pool, s->b, &newcomer, taken, taken_n);
		topic_unsubscribe(&s->pool, s->b, &newcomer);
	}
	while (crowded && filled)
		topic_unsubscribe(&s->pool, s->b, &fill[--filled]);
	crowded = came = false;
}

/* A slow survivor gets up to n messages: first all that were kept when it began. */
static void hear_slowly(struct scene *s, struct slow *slow, uint32_t n)
{
	uint64_t handle, position;
	int got = 1;
	for (uint32_t i = 0; i < n && got == 1; i++) {
		got = topic_get(&s->pool, s->b, &slow->in, &handle, &position, 1);
		if (got != 1)
			break;
		position += DEPTH - slow_from;
		if (slow->got < DEPTH) {
			DEMAND(number_of(handle) == FROM_TOPIC + published - DEPTH + slow->got);
			DEMAND(position == slow->got);
		}
		DEMAND(position >= slow->got);
		slow->got++;
		topic_let_go(&s->pool, s->b, &slow->in, &handle, 1);
	}
	DEMAND(got == 1 || got == -EAGAIN);
}

/* The second one is given up, as by a process that closes the pool, and recovered. */
static void give_up(struct scene *s)
{
	struct shmpool_recovery out;
	uint64_t *state = &topic_of(topic_ring(s))->subscriber[slow[1].in.number].state;
	gives_up = false;
	slows = 1;
	free(slow[1].in.backlog);
	store_seq_cst(state, TOPIC_DEAD | slow[1].in.token);
	DEMAND(recover(&s->pool, s->a, &out) == 0);
}

/* They have got or missed each position, apart from those of a dead publisher that they have
 * accepted. */
static void check_slow(struct scene *s)
{
	const uint64_t all = alf_end(topic_ring(s)->q->prod) - slow_from;
	for (uint32_t i = 0; i < slows; i++) {
		hear_slowly(s, &slow[i], 4 * DEPTH);
		DEMAND(slow[i].got >= DEPTH && slow[i].got + slow[i].in.gaps <= all &&
		       slow[i].got + slow[i].in.gaps + DEPTH >= all);
		topic_unsubscribe(&s->pool, s->b, &slow[i].in);
		DEMAND(topic_of(topic_ring(s))->subscriber[slow[i].in.number].state == 0);
	}
	slows = 0;
}

void topic_filled(struct scene *s)
{
	const struct queue_on_death on_death = { 0 };
	for (; slows; slows--) /* of an earlier scene */
		free(slow[slows - 1].in.backlog);
	gives_up = false;
	watched_n = held_n = published = after = last_number = 0;
	taken_n = filled = last_recorded = 0;
	records = recorded = crowded = came = false;
	CHECK(queue_create(&s->pool, s->b, "topic", DEPTH, ALF_TOPIC, &on_death) > 0);
	EQUAL(0, topic_subscribe(&s->pool, s->a, topic_ring(s), TOPIC_DROP_OLDEST, TOPIC_OLDEST,
				 &watch));
	while (published < DEPTH + 1)
		EQUAL(0, say(s, s->b, FROM_TOPIC + published++));
	hear(s, s->a);
	EQUAL(FROM_TOPIC + DEPTH, last_number);
}

void topic_slow(struct scene *s)
{
	topic_filled(s);
	slow_from = alf_end(topic_ring(s)->q->prod) - DEPTH;
	for (uint32_t i = 0; i < 2; i++) {
		slow[i].got = 0;
		EQUAL(0, topic_subscribe(&s->pool, s->b, topic_ring(s), TOPIC_DROP_NEWEST,
					 TOPIC_OLDEST, &slow[i].in));
	}
	slows = 2;
}

void topic_slow_given_up(struct scene *s)
{
	topic_slow(s);
	gives_up = true;
}

void topic_holding(struct scene *s)
{
	uint64_t position;
	topic_filled(s);
	topic_let_go(&s->pool, s->a, &watch, watched, watched_n);
	watched_n = 0;
	while (watched_n < DEPTH) {
		EQUAL(0, say(s, s->b, FROM_TOPIC + published++));
		EQUAL(1, topic_get(&s->pool, s->a, &watch, &watched[watched_n], &position, 1));
		watched_number[watched_n] = number_of(watched[watched_n]);
		watched_n++;
	}
}

void topic_recorded(struct scene *s)
{
	struct subscriber earlier;
	topic_filled(s);
	/* So that publishers compute the gate. */
	EQUAL(0,
	      topic_subscribe(&s->pool, s->b, topic_ring(s), TOPIC_BLOCK, TOPIC_NEWEST, &earlier));
	topic_unsubscribe(&s->pool, s->b, &earlier);
	records = true;
}

/* These run in a child, which then ends without leaving. */

static void reserve_four(struct scene *s)
{
	struct member *m = scene_attach();
	uint64_t handle[DEPTH];
	const struct alf_ring *r = topic_ring(s);
	EQUAL(0, blocking_alloc(&s->pool, m, handle, DEPTH, WAIT_NEVER));
	const alf_position at = load_relaxed(&r->q->prod);
	store_relaxed(&m->op, alf_op(r, ALF_OP_ENQUEUE, DEPTH, at));
	store_relaxed(&r->q->prod, at + DEPTH);
	/* Evicted, and not made its own; and the next one's owner word. */
	const uint64_t word = r->slot[at & r->mask];
	struct buffer *b = pool_buffer(&s->pool, word & ALF_INDEX_MASK);
	if (slows) /* and not yet on its shelf */
		b->since = hold_word(HOLD_HELD, r->id, at - DEPTH) | 1ull << slow[0].in.number |
			   1ull << slow[1].in.number;
	else if (!(b->since & HOLD_BITS))
		b->since = HOLD_FINAL << HOLD_STATE_SHIFT | m->tag;
	b = pool_buffer(&s->pool, handle_index(handle[0]));
	b->since = hold_word(HOLD_PUBLISHED, r->id, at);
	b->owner = owner_transit(r->id, at);
}

void topic_dead_publisher(struct scene *s)
{
	topic_filled(s);
	scene_child(reserve_four);
}

void topic_slow_dead_publisher(struct scene *s)
{
	topic_slow(s);
	scene_child(reserve_four);
}

static void hold_two(struct scene *s)
{
	struct member *m = scene_attach();
	uint64_t position[2];
	EQUAL(0, topic_subscribe(&s->pool, m, topic_ring(s), TOPIC_BLOCK, TOPIC_OLDEST, &mine));
	EQUAL(2, topic_get(&s->pool, m, &mine, held, position, 2));
}

void topic_dead_subscriber(struct scene *s)
{
	topic_filled(s);
	scene_child(hold_two);
}

static void hold_all(struct scene *s)
{
	struct member *m = scene_attach();
	uint64_t position[DEPTH];
	EQUAL(0,
	      topic_subscribe(&s->pool, m, topic_ring(s), TOPIC_DROP_OLDEST, TOPIC_OLDEST, &mine));
	EQUAL(DEPTH, topic_get(&s->pool, m, &mine, held, position, DEPTH));
}

void topic_dead_crowded(struct scene *s)
{
	topic_filled(s);
	crowded = true;
	while (filled < SUBSCRIBERS_MAX - 2)
		EQUAL(0, topic_subscribe(&s->pool, s->b, topic_ring(s), TOPIC_DROP_OLDEST,
					 TOPIC_NEWEST, &fill[filled++]));
	scene_child(hold_all);
}

static void hold_evicted(struct scene *s)
{
	struct member *m = scene_attach();
	uint64_t position[2];
	EQUAL(0,
	      topic_subscribe(&s->pool, m, topic_ring(s), TOPIC_DROP_OLDEST, TOPIC_OLDEST, &mine));
	EQUAL(2, topic_get(&s->pool, m, &mine, held, position, 2));
	for (uint32_t i = 0; i < DEPTH; i++)
		EQUAL(0, say(s, m, FROM_AFTER + 50 + i));
}

void topic_dead_evicted(struct scene *s)
{
	topic_filled(s);
	scene_child(hold_evicted);
}

/* Drops the newest: it holds one message, has some in its backlog, some on its shelf, and more was
 * published. */
static void be_slow(struct scene *s, struct member *m)
{
	uint64_t position;
	EQUAL(0,
	      topic_subscribe(&s->pool, m, topic_ring(s), TOPIC_DROP_NEWEST, TOPIC_OLDEST, &mine));
	for (uint32_t i = 0; i < 2; i++)
		EQUAL(0, say(s, m, FROM_AFTER + 50 + i));
	EQUAL(1, topic_get(&s->pool, m, &mine, held, &position, 1));
	held_n = 1;
	EQUAL(DEPTH - 1, topic_lag(&mine));
	for (uint32_t i = 2; i < DEPTH + 2; i++)
		EQUAL(0, say(s, m, FROM_AFTER + 50 + i));
	EQUAL(DEPTH, topic_lag(&mine));
}

static void be_slow_and_die(struct scene *s)
{
	be_slow(s, scene_attach());
}

void topic_dead_slow(struct scene *s)
{
	topic_filled(s);
	scene_child(be_slow_and_die);
}

/* Set-up of the victim. */

void topic_slow_victim(struct scene *s)
{
	be_slow(s, s->v);
}

void topic_keeping(struct scene *s)
{
	EQUAL(0, topic_subscribe(&s->pool, s->v, topic_ring(s), TOPIC_DROP_NEWEST, TOPIC_OLDEST,
				 &mine));
}

void topic_subscribed(struct scene *s)
{
	EQUAL(0, topic_subscribe(&s->pool, s->v, topic_ring(s), TOPIC_BLOCK, TOPIC_OLDEST, &mine));
}

void topic_latest(struct scene *s)
{
	EQUAL(0, topic_subscribe(&s->pool, s->v, topic_ring(s), TOPIC_LATEST, TOPIC_OLDEST, &mine));
}

void topic_got(struct scene *s)
{
	uint64_t position[2];
	EQUAL(0, topic_subscribe(&s->pool, s->v, topic_ring(s), TOPIC_DROP_OLDEST, TOPIC_OLDEST,
				 &mine));
	EQUAL(2, topic_get(&s->pool, s->v, &mine, held, position, 2));
	held_n = 2;
}

void topic_got_evicted(struct scene *s)
{
	topic_got(s);
	for (uint32_t i = 0; i < DEPTH; i++)
		EQUAL(0, say(s, s->v, FROM_AFTER + 50 + i));
}

void topic_lapped(struct scene *s)
{
	topic_got_evicted(s);
	for (uint32_t i = 0; i < DEPTH; i++)
		EQUAL(0, say(s, s->v, FROM_AFTER + 70 + i));
}

void topic_publisher(struct scene *s)
{
	for (; s->owned_n < s->operation->n; s->owned_n++)
		EQUAL(0, scene_compose(s->v, FROM_VICTIM + 500 + s->owned_n,
				       s->operation->chained ? s->operation->chained : 1,
				       &s->owned[s->owned_n]));
}

void topic_freed_by_dead(struct scene *s)
{
	const struct segment *segment = &s->pool.segment;
	topic_publisher(s);
	for (uint32_t i = 0; i < segment->members; i++) {
		const struct member *m = segment_member(segment, i);
		if (m != s->a && m != s->b && m != s->v && m->identity)
			pool_buffer(&s->pool, handle_index(s->owned[0]))->since =
				HOLD_FINAL << HOLD_STATE_SHIFT | m->tag;
	}
}

void topic_blocked(struct scene *s)
{
	topic_publisher(s);
	segment_shared(&s->pool.segment)->inquired = 0;
}

/* The operations. */

int topic_publish_own(struct scene *s)
{
	return topic_publish(&s->pool, s->v, topic_ring(s), s->owned, s->owned_n);
}

int topic_publish_wait(struct scene *s)
{
	return blocking_publish(&s->pool, s->v, topic_ring(s), s->owned, s->owned_n,
				wait_now() + 1000000000);
}

int topic_get_some(struct scene *s)
{
	uint64_t position[DEPTH];
	return topic_get(&s->pool, s->v, &mine, &held[held_n], position, s->operation->n);
}

int topic_let_go_held(struct scene *s)
{
	topic_let_go(&s->pool, s->v, &mine, held, held_n);
	return 0;
}

int topic_join(struct scene *s)
{
	return topic_subscribe(&s->pool, s->v, topic_ring(s), TOPIC_DROP_OLDEST, TOPIC_OLDEST,
			       &mine);
}

int topic_join_blocking(struct scene *s)
{
	return topic_subscribe(&s->pool, s->v, topic_ring(s), TOPIC_BLOCK, TOPIC_NEWEST, &mine);
}

int topic_join_keeping(struct scene *s)
{
	return topic_subscribe(&s->pool, s->v, topic_ring(s), TOPIC_DROP_NEWEST, TOPIC_OLDEST,
			       &mine);
}

int topic_go_through(struct scene *s)
{
	uint64_t position[2];
	for (uint32_t i = 0; i < DEPTH; i++) {
		const int got = topic_get(&s->pool, s->v, &mine, held, position, 2);
		topic_let_go(&s->pool, s->v, &mine, held, got > 0 ? (uint32_t)got : 0);
	}
	return 0;
}

int topic_leave(struct scene *s)
{
	(void)s;
	topic_unsubscribe(&s->pool, s->v, &mine);
	return 0;
}

int topic_leave_holding(struct scene *s)
{
	topic_unsubscribe(&s->pool, s->v, &mine);
	topic_let_go(&s->pool, s->v, &mine, held, held_n);
	return 0;
}

int topic_publish_beside(struct scene *s)
{
	int error = say(s, s->v, FROM_AFTER + 90);
	return error ? error : say(s, s->v, FROM_AFTER + 91);
}

int topic_get_beside(struct scene *s)
{
	struct subscriber other;
	uint64_t handle[2], position[2];
	int error = topic_subscribe(&s->pool, s->v, topic_ring(s), TOPIC_DROP_OLDEST, TOPIC_OLDEST,
				    &other);
	if (error)
		return error;
	int got = topic_get(&s->pool, s->v, &other, handle, position, 2);
	topic_unsubscribe(&s->pool, s->v, &other);
	topic_let_go(&s->pool, s->v, &other, handle, got > 0 ? (uint32_t)got : 0);
	return 0;
}

void topic_work(struct scene *s)
{
	if (!topic_ring(s))
		return;
	/* Nothing is published here: the victim must find what it has read. */
	if (records && !recorded)
		begin_recording(s);
	if (crowded && !came)
		come(s);
	if (gives_up)
		give_up(s);
	if (records || crowded || slows == 1)
		return;
	for (uint32_t i = 0; i < DEPTH + 2; i++) {
		int error = say(s, s->a, FROM_AFTER + after);
		DEMAND(error == 0 || error == -ENOBUFS || error == -EAGAIN);
		after += !error;
	}
	hear(s, s->a);
	if (slows)
		hear_slowly(s, &slow[0], 1);
}

uint32_t topic_keeps(struct scene *s)
{
	const struct alf_ring *r = topic_ring(s);
	uint32_t n = 0;
	for (uint32_t i = 0; r && i < s->pool.total; i++)
		if (segment_exists(&pool_of(&s->pool, i)->segment, i) &&
		    owner_queue(pool_buffer(&s->pool, i)->owner) == r->id &&
		    pool_buffer(&s->pool, i)->owner & OWNER_TRANSIT)
			n += chain_count(&s->pool,
					 handle_of(i, buffer_generation(pool_buffer(&s->pool, i))));
	return n;
}

void check_topic(struct scene *s)
{
	const struct alf_ring *r = topic_ring(s);
	const struct topic *t = topic_of(r);
	check_slow(s);
	check_recorder(s);
	check_newcomer(s);
	for (uint32_t i = 0; i < SUBSCRIBERS_MAX; i++)
		DEMAND(i == watch.number ? t->subscriber[i].state != 0 :
					   t->subscriber[i].state == 0);
	/* Nobody holds the topic up, and what is published now comes out whole. */
	hear(s, s->a);
	const uint64_t gaps = watch.gaps;
	for (uint32_t i = 0; i < 2 * DEPTH; i++) {
		DEMAND(say(s, s->b, FROM_AFTER + 100 + i) == 0);
		hear(s, s->a);
		DEMAND(last_number == FROM_AFTER + 100 + i);
	}
	DEMAND(watch.gaps == gaps);
	uint32_t kept = 0;
	for (uint32_t i = 0; i < s->pool.total; i++) {
		const struct buffer *b = pool_buffer(&s->pool, i);
		if (!segment_exists(&pool_of(&s->pool, i)->segment, i) ||
		    !(b->owner & OWNER_TRANSIT) || owner_queue(b->owner) != r->id)
			continue;
		DEMAND(hold_is(b->since, HOLD_PUBLISHED, r->id, owner_position(b->owner)) ||
		       (hold_is(b->since, HOLD_HELD, r->id, owner_position(b->owner)) &&
			b->since & HOLD_BITS));
		DEMAND((b->since & HOLD_BITS & ~(1ull << watch.number)) == 0);
		kept += hold_state(b->since) == HOLD_PUBLISHED;
	}
	DEMAND(kept == DEPTH);
	topic_let_go(&s->pool, s->a, &watch, watched, watched_n);
	watched_n = 0;
	topic_unsubscribe(&s->pool, s->a, &watch);
	DEMAND(t->subscriber[watch.number].state == 0);
}
