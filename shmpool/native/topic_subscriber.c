/* SPDX-License-Identifier: Apache-2.0
 *
 * topic_subscriber.c - see topic.h: subscribing, getting messages and letting them go.
 */
#include <sched.h>
#include <stdlib.h>

#include "alf_repair.h"
#include "member.h"
#include "topic.h"
#include "wait.h"

#define LAPPED_MOST 64 /* jumps of one get */

/* Makes every publisher compute the gate again. */
static void gate_shut(const struct alf_ring *r)
{
	struct topic *t = topic_of(r);
	uint64_t gate = load_relaxed(&t->gate), next;
	do {
		uint64_t prod = alf_end(load_acquire(&r->q->prod)); /* [PROD] */
		next = ((gate >> TOPIC_KEEPS_SHIFT) + 1) << TOPIC_KEEPS_SHIFT |
		       (prod & TOPIC_POSITION_MASK);
	} while (!cas_seq_cst(&t->gate, &gate, next)); /* [GATE] */
}

/* Among the threads of one process. Held for a bounded number of steps, without a system call. */
static void take_turn(struct subscriber *s)
{
	uint32_t unlocked = 0;
	while (!cas_seq_cst(&s->lock, &unlocked, 1)) { /* pairs with end_turn() */
		unlocked = 0;
		sched_yield();
	}
}

static void end_turn(struct subscriber *s)
{
	store_release(&s->lock, 0); /* pairs with take_turn() */
}

/* Claims a free subscriber of the topic: the one that is barred from the fewest messages. */
static struct topic_subscriber *claim(const struct alf_ring *r, uint64_t token, uint32_t *number)
{
	struct topic *t = topic_of(r);
	for (int turns = 0; turns < TOPIC_TURNS_MAX; turns++) {
		struct topic_subscriber *best = NULL;
		for (uint32_t i = 0; i < SUBSCRIBERS_MAX; i++) {
			struct topic_subscriber *s = &t->subscriber[i];
			if (load_acquire(&s->state) == 0 && /* [TOPIC] */
			    (!best || (alf_distance)(load_relaxed(&s->barred) -
						     load_relaxed(&best->barred)) < 0))
				best = s;
		}
		if (!best)
			return NULL;
		uint64_t free = 0;
		if (cas_seq_cst(&best->state, &free, TOPIC_CLAIMED | token)) { /* [TOPIC] */
			*number = (uint32_t)(best - t->subscriber);
			return best;
		}
	}
	return NULL;
}

/* Says whether evicted messages may have to stay for the subscriber. */
static void set_keeper(const struct subscriber *s, bool keeper)
{
	uint64_t *keepers = &topic_of(s->r)->keepers;
	const uint64_t bit = 1ull << s->number;
	uint64_t seen = load_relaxed(keepers);
	while (!(seen & bit) == keeper && !cas_seq_cst(keepers, &seen, seen ^ bit)) /* [KEEP] */
		;
}

/* Gets the memory that a keeper needs. */
static int have_shelf(const struct qmempool *p, struct subscriber *s)
{
	const uint64_t slots = alf_capacity(s->r);
	shared64 *shelf = topic_shelf(s->r, s->number);
	if (s->policy == TOPIC_DROP_NEWEST) {
		s->backlog = calloc(slots, sizeof(*s->backlog));
		if (!s->backlog)
			return -ENOMEM;
	}
	return segment_reserve(&p->segment, (uint64_t)((char *)shelf - p->segment.base),
			       slots * sizeof(*shelf));
}

void topic_store_cursor(struct subscriber *s, uint32_t keeps)
{
	store_seq_cst(&s->shared->cursor,
		      (s->cursor & TOPIC_POSITION_MASK) |
			      (uint64_t)keeps << TOPIC_KEEPS_SHIFT);    /* [CURSOR] [KEEP] */
	store_relaxed(&s->seen, alf_end(load_seq_cst(&s->r->q->prod))); /* [KEEP] */
}

int topic_subscribe(struct qmempool *p, struct member *m, const struct alf_ring *r, uint32_t policy,
		    uint32_t start, struct subscriber *s)
{
	const alf_position kept = alf_capacity(r);
	if (policy >= TOPIC_POLICIES || start > TOPIC_OLDEST)
		return -EINVAL;
	*s = (struct subscriber) { .r = r,
				   .token = member_token(
					   load_relaxed(&segment_holder(&p->segment, m)->identity)),
				   .policy = policy,
				   .keeper = policy == TOPIC_DROP_NEWEST };
	s->shared = claim(r, s->token, &s->number);
	if (!s->shared)
		return -EUSERS;
	int error = s->keeper ? have_shelf(p, s) : 0;
	if (error) {
		free(s->backlog);
		store_seq_cst(&s->shared->state, 0); /* [TOPIC] */
		*s = (struct subscriber) { 0 };
		return error;
	}
	set_keeper(s, s->keeper);
	store_relaxed(&s->shared->policy, policy);
	store_relaxed(&s->shared->pid, load_relaxed(&segment_holder(&p->segment, m)->pid));
	store_relaxed(&s->shared->gaps, 0);
	/* Holds publishers up, if it blocks, until the cursor is known. */
	store_relaxed(&s->shared->cursor, (alf_end(load_acquire(&r->q->prod)) - kept) & /* [PROD] */
						  TOPIC_POSITION_MASK);
	store_seq_cst(&s->shared->state, TOPIC_LIVE | s->token); /* [TOPIC] [KEEP] */
	if (policy == TOPIC_BLOCK)
		gate_shut(r);
	alf_position prod = alf_end(load_seq_cst(&r->q->prod)); /* [GATE] [KEEP] */
	s->cursor = s->joined = prod;
	if (start == TOPIC_OLDEST || policy == TOPIC_LATEST) {
		s->cursor = (alf_position)(prod - kept);
		s->joined = policy == TOPIC_DROP_OLDEST ? s->cursor : prod;
		if ((alf_distance)(s->cursor - kept) < 0)
			s->cursor = kept;                               /* the first position */
		alf_position barred = load_acquire(&s->shared->barred); /* [TOPIC] */
		if ((alf_distance)(s->cursor - barred) < 0)
			s->cursor = barred;
	}
	s->end = (alf_position)(s->cursor + kept);
	topic_store_cursor(s, s->keeper ? (uint32_t)kept : 0);
	if (policy == TOPIC_DROP_NEWEST)
		topic_get_kept(p, m, s, NULL, NULL,
			       0); /* what came between is accepted or missed */
	if (policy == TOPIC_BLOCK && wait_anybody(&r->q->room_wait)) /* [WAIT] */
		wait_wake(&r->q->room_wait, UINT32_MAX);
	return 0;
}

/* True if the eviction of the message that b is was due when the subscriber had got it. */
static bool due(const struct subscriber *s, const struct buffer *b)
{
	return s->keeper &&
	       owner_behind(load_acquire(&b->owner), load_relaxed(&s->seen)) < /* [OWNER] */
		       -(int64_t)alf_capacity(s->r);
}

/* Returns the holders word after a subscriber has let the message go that b is. */
static uint64_t without(const struct member *m, const struct subscriber *s, const struct buffer *b,
			uint64_t word)
{
	const uint64_t bit = 1ull << s->number;
	bool held = hold_state(word) == HOLD_HELD;
	word &= ~bit;
	if (!held && unlikely(due(s, b))) { /* as the publisher one ring later would */
		const alf_position position = (alf_position)owner_position(load_acquire(&b->owner));
		word = hold_word(HOLD_HELD, s->r->id, position) | (word & HOLD_BITS) |
		       (topic_keepers(s->r, position) & ~bit);
		held = true;
	}
	return held && !(word & HOLD_BITS) ? HOLD_FINAL << HOLD_STATE_SHIFT | m->tag : word;
}

void topic_release(struct qmempool *p, struct member *m, const struct subscriber *s,
		   uint64_t handle)
{
	const uint32_t index = handle_index(handle);
	if (index >= p->total)
		return;
	struct buffer *b = pool_buffer(p, index);
	uint64_t word = load_acquire(&b->since); /* [HOLD] */
	for (int turns = 0; turns < TOPIC_TURNS_MAX; turns++) {
		const uint64_t state = hold_state(word);
		if ((state != HOLD_PUBLISHED && state != HOLD_HELD) || !(word >> s->number & 1))
			return; /* corrupted */
		const uint64_t next = without(m, s, b, word);
		if (!cas_seq_cst(&b->since, &word, next)) /* [HOLD] */
			continue;
		if (hold_state(next) == HOLD_FINAL)
			qmempool_free(p, m, topic_own(p, m, index));
		return;
	}
}

/* Sets the subscriber's bit on the message at position. Returns false if it has been evicted. */
static bool acquire(struct qmempool *p, struct member *m, const struct subscriber *s,
		    alf_position position, uint32_t index)
{
	struct buffer *b = pool_buffer(p, index);
	const uint64_t bit = 1ull << s->number;
	uint64_t word = load_acquire(&b->since); /* [HOLD] */
	for (int turns = 0; turns < TOPIC_TURNS_MAX; turns++) {
		const bool kept =
			s->keeper && word & bit && hold_is(word, HOLD_HELD, s->r->id, position);
		if (!kept && (!hold_is(word, HOLD_PUBLISHED, s->r->id, position) || word & bit))
			return false;
		if (!kept && !cas_seq_cst(&b->since, &word, word | bit)) /* [HOLD] */
			continue;
		/* The word has 28 bits of the position, the owner word has all. */
		if (likely(load_acquire(&b->owner) ==
			   owner_transit(s->r->id, position))) /* [OWNER] */
			return true;
		if (!kept)
			topic_release(p, m, s, index);
		return false;
	}
	return false;
}

/* True if a slot's word is older than the round before the position. Then the position one ring
 * before it is not published, perhaps because its publisher died, and nobody can reserve this one. */
static inline bool is_old(const struct alf_ring *r, alf_position position, uint64_t word)
{
	return (int64_t)(word - alf_tag(r, (alf_position)(position - alf_capacity(r)))) < 0;
}

enum taken topic_take(struct qmempool *p, struct member *m, const struct subscriber *s,
		      alf_position position, uint32_t *index)
{
	uint64_t word = alf_word(s->r, position);
	if (unlikely(is_old(s->r, position, word))) {
		if ((alf_distance)(alf_end(load_acquire(&s->r->q->prod)) - position) <=
		    0) /* [PROD] */
			return TAKEN_NOT_YET;
		word = alf_word(s->r, position); /* it has been reserved since */
	}
	enum alf_at at = alf_at(s->r, position, word);
	if (at == ALF_AT_LATER && s->keeper) {
		word = load_acquire(
			&topic_shelf(s->r, s->number)[position & s->r->mask]); /* [SHELF] */
		if (alf_at(s->r, position, word) == ALF_AT_VALUE)
			at = ALF_AT_VALUE;
	}
	*index = word & ALF_INDEX_MASK;
	switch (at) {
	case ALF_AT_UNPUBLISHED:
		return TAKEN_NOT_YET;
	case ALF_AT_TOMBSTONE:
		return TAKEN_NOTHING;
	case ALF_AT_VALUE:
		if (*index < p->total && acquire(p, m, s, position, *index))
			return TAKEN;
		break;
	case ALF_AT_LATER:
		break;
	}
	return TAKEN_MISSED;
}

void topic_miss(struct subscriber *s, alf_position next)
{
	const bool old = (alf_distance)(s->cursor - s->joined) < 0;
	const alf_distance gap = (alf_distance)(next - (old ? s->joined : s->cursor));
	if (gap > 0)
		s->gaps += (uint64_t)gap;
	s->cursor = next;
}

/* Goes on with the oldest message that is kept; a quarter of the ring later if that has just been
 * tried in vain. */
static void lapped(struct subscriber *s, uint32_t times)
{
	const uint32_t kept = alf_capacity(s->r);
	alf_position prod = alf_end(load_acquire(&s->r->q->prod)); /* [PROD] */
	alf_position next = (alf_position)(prod - kept + (times ? kept / 4 : 0));
	if ((alf_distance)(next - s->cursor) <= 0)
		next = (alf_position)(s->cursor + 1);
	if ((alf_distance)(prod - next) < 0)
		next = prod;
	topic_miss(s, next);
}

int topic_get_next(struct qmempool *p, struct member *m, struct subscriber *s, uint64_t *handle,
		   uint64_t *position, uint32_t n)
{
	const struct alf_ring *r = s->r;
	uint32_t got = 0, jumps = 0, index;
	for (uint32_t turns = 0; got < n && turns < r->mask + 1 + n; turns++) {
		switch (topic_take(p, m, s, s->cursor, &index)) {
		case TAKEN_NOT_YET:
			return (int)got;
		case TAKEN_NOTHING:
			s->cursor++;
			break;
		case TAKEN:
			position[got] = (uint64_t)s->cursor - alf_capacity(r);
			handle[got++] = handle_of(index, buffer_generation(pool_buffer(p, index)));
			s->cursor++;
			break;
		case TAKEN_MISSED:
			if (s->keeper) { /* the next one may be on the shelf */
				topic_miss(s, (alf_position)(s->cursor + 1));
				break;
			}
			if (index >= p->total)
				return got ? (int)got : -EBADMSG;
			if (got || jumps == LAPPED_MOST)
				return (int)got; /* the next get counts what is missing between */
			lapped(s, jumps++);
		}
	}
	return (int)got;
}

static int get_latest(struct qmempool *p, struct member *m, struct subscriber *s, uint64_t *handle,
		      uint64_t *position)
{
	const struct alf_ring *r = s->r;
	for (uint32_t tries = 0; tries < LAPPED_MOST; tries++) {
		const alf_position end = alf_end(load_acquire(&r->q->prod)); /* [PROD] */
		alf_position at = end;
		bool passed = true; /* nothing will be published between at and end */
		bool lost = false;  /* the ring has come round in between */
		for (uint32_t back = 0; back <= r->mask && at != s->cursor; back++) {
			const uint64_t word = alf_word(r, --at);
			const uint32_t index = word & ALF_INDEX_MASK;
			enum alf_at state = alf_at(r, at, word);
			lost = state == ALF_AT_LATER;
			if (lost)
				break;
			passed &= state == ALF_AT_TOMBSTONE;
			if (state != ALF_AT_VALUE)
				continue;
			if (index >= p->total)
				return -EBADMSG;
			lost = !acquire(p, m, s, at, index);
			if (lost)
				break;
			topic_miss(s, at);
			s->cursor = (alf_position)(at + 1);
			*position = (uint64_t)at - alf_capacity(r);
			*handle = handle_of(index, buffer_generation(pool_buffer(p, index)));
			return 1;
		}
		if (!lost) { /* or a ring without a message */
			topic_miss(s, at);
			s->cursor = passed ? end : at;
			return 0;
		}
	}
	return 0;
}

int topic_get(struct qmempool *p, struct member *m, struct subscriber *s, uint64_t *handle,
	      uint64_t *position, uint32_t n)
{
	const struct alf_ring *r = s->r;
	int got = -ENOTCONN;
	bool ended = false;
	take_turn(s);
	if (!s->closed) {
		const alf_position before = s->cursor;
		switch (s->policy) {
		case TOPIC_LATEST:
			got = get_latest(p, m, s, handle, position);
			break;
		case TOPIC_DROP_NEWEST:
			got = topic_get_kept(p, m, s, handle, position, n);
			break;
		default:
			got = topic_get_next(p, m, s, handle, position, n);
		}
		s->held += got > 0 ? (uint32_t)got : 0;
		if (s->cursor != before) {
			store_relaxed(&s->shared->gaps, s->gaps);
			if (s->policy == TOPIC_BLOCK)
				store_seq_cst(&s->shared->cursor,
					      s->cursor & TOPIC_POSITION_MASK); /* [CURSOR] */
			else if (!s->keeper) /* no publisher reads it */
				store_relaxed(&s->shared->cursor, s->cursor & TOPIC_POSITION_MASK);
		}
		ended = !got && unlikely(alf_closed(r)) &&
			alf_end(load_acquire(&r->q->prod)) == s->cursor; /* [PROD] */
	}
	end_turn(s);
	if (s->policy == TOPIC_BLOCK && wait_anybody(&r->q->room_wait)) /* [WAIT] after cursor */
		wait_wake(&r->q->room_wait, UINT32_MAX);
	if (got)
		return got;
	count_up(&m->counters[COUNT_EMPTY], 1);
	return ended ? -EPIPE : -EAGAIN;
}

/* Frees the subscriber for the next one, once it is closed and holds nothing. */
static void leave_if_done(struct subscriber *s)
{
	if (s->closed && !s->held && s->shared) {
		uint64_t mine = TOPIC_CLOSING | s->token;
		cas_seq_cst(&s->shared->state, &mine, 0); /* [TOPIC] */
		s->shared = NULL;
	}
}

void topic_let_go(struct qmempool *p, struct member *m, struct subscriber *s,
		  const uint64_t *handle, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		topic_release(p, m, s, handle[i]);
	take_turn(s);
	s->held -= n < s->held ? n : s->held;
	leave_if_done(s);
	end_turn(s);
}

void topic_unsubscribe(struct qmempool *p, struct member *m, struct subscriber *s)
{
	uint64_t mine = TOPIC_LIVE | s->token;
	take_turn(s);
	if (!s->closed) {
		const bool lives = cas_seq_cst(&s->shared->state, &mine,
					       TOPIC_CLOSING | s->token); /* [TOPIC] [KEEP] */
		s->closed = true;
		if (lives && s->backlog)
			topic_drop_kept(p, m, s);
		free(s->backlog);
		s->backlog = NULL;
		leave_if_done(s);
	}
	end_turn(s);
	wait_wake(&s->r->q->room_wait, UINT32_MAX);
	wait_wake(&s->r->q->data_wait, UINT32_MAX); /* other threads in topic_get() */
}

uint64_t topic_lag(struct subscriber *s)
{
	take_turn(s);
	const uint64_t lag =
		s->closed ? 0 : topic_unread(s->r, s->policy, load_relaxed(&s->shared->cursor));
	end_turn(s);
	return lag;
}
