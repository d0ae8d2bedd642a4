/* SPDX-License-Identifier: Apache-2.0
 *
 * topic_subscriber.c - see topic.h: subscribing, getting messages and letting them go.
 */
#include <sched.h>

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
		next = ((gate >> TOPIC_GATE_BITS) + 1) << TOPIC_GATE_BITS |
		       (prod & ((1ull << TOPIC_GATE_BITS) - 1));
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

int topic_subscribe(struct qmempool *p, struct member *m, const struct alf_ring *r, uint32_t policy,
		    uint32_t start, struct subscriber *s)
{
	const alf_position kept = alf_capacity(r);
	uint64_t name[2];
	if (policy >= TOPIC_POLICIES || policy == TOPIC_DROP_NEWEST || start > TOPIC_OLDEST)
		return -EINVAL;
	*s = (struct subscriber) { .r = r,
				   .token = member_token(
					   load_relaxed(&segment_holder(&p->segment, m)->identity)),
				   .policy = policy };
	s->shared = claim(r, s->token, &s->number);
	if (!s->shared)
		return -EUSERS;
	store_relaxed(&s->shared->policy, policy);
	store_relaxed(&s->shared->pid, load_relaxed(&segment_holder(&p->segment, m)->pid));
	store_relaxed(&s->shared->gaps, 0);
	store_relaxed(&s->shared->held, 0);
	process_name(name);
	store_relaxed(&s->shared->name[0], name[0]);
	store_relaxed(&s->shared->name[1], name[1]);
	/* Holds publishers up, if it blocks, until the cursor is known. */
	store_relaxed(&s->shared->cursor, alf_end(load_acquire(&r->q->prod)) - kept); /* [PROD] */
	store_seq_cst(&s->shared->state, TOPIC_LIVE | s->token);                      /* [TOPIC] */
	if (policy == TOPIC_BLOCK)
		gate_shut(r);
	alf_position prod = alf_end(load_seq_cst(&r->q->prod)); /* [GATE] */
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
	store_seq_cst(&s->shared->cursor, s->cursor);                /* [CURSOR] */
	if (policy == TOPIC_BLOCK && wait_anybody(&r->q->room_wait)) /* [WAIT] */
		wait_wake(&r->q->room_wait, UINT32_MAX);
	return 0;
}

/* Clears the subscriber's bit. True if m must free the buffer: *handle. */
static bool let_go(const struct qmempool *p, struct member *m, const struct subscriber *s,
		   uint32_t index, uint64_t *handle)
{
	struct buffer *b = pool_buffer(p, index);
	const uint64_t bit = 1ull << s->number;
	uint64_t word = load_acquire(&b->since); /* [HOLD] */
	for (int turns = 0; turns < TOPIC_TURNS_MAX; turns++) {
		uint64_t state = hold_state(word), bits = word & HOLD_BITS;
		if ((state != HOLD_PUBLISHED && state != HOLD_HELD) || !(bits & bit))
			return false; /* corrupted */
		bool last = state == HOLD_HELD && bits == bit;
		uint64_t next = last ? HOLD_FINAL << HOLD_STATE_SHIFT | m->tag : word & ~bit;
		if (!cas_seq_cst(&b->since, &word, next)) /* [HOLD] */
			continue;
		if (last)
			*handle = topic_own(p, m, index);
		return last;
	}
	return false;
}

/* Sets the subscriber's bit on the message at position. Returns false if it has been evicted. */
static bool acquire(struct qmempool *p, struct member *m, const struct subscriber *s,
		    alf_position position, uint32_t index)
{
	struct buffer *b = pool_buffer(p, index);
	const uint64_t bit = 1ull << s->number;
	uint64_t word = load_acquire(&b->since), handle; /* [HOLD] */
	for (int turns = 0; turns < TOPIC_TURNS_MAX; turns++) {
		if (!hold_is(word, HOLD_PUBLISHED, s->r->id, position) || word & bit)
			return false;
		if (!cas_seq_cst(&b->since, &word, word | bit)) /* [HOLD] */
			continue;
		/* The word has 28 bits of the position, the owner word has all. */
		if (likely(load_acquire(&b->owner) ==
			   owner_transit(s->r->id, position))) /* [OWNER] */
			return true;
		if (let_go(p, m, s, index, &handle))
			qmempool_free(p, m, handle);
		return false;
	}
	return false;
}

static void miss(struct subscriber *s, alf_position next)
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
	miss(s, next);
}

static int get_next(struct qmempool *p, struct member *m, struct subscriber *s, uint64_t *handle,
		    uint64_t *position, uint32_t n)
{
	const struct alf_ring *r = s->r;
	uint32_t got = 0, jumps = 0;
	for (uint32_t turns = 0; got < n && turns < r->mask + 1 + n; turns++) {
		const uint64_t word = alf_word(r, s->cursor);
		const uint32_t index = word & ALF_INDEX_MASK;
		switch (alf_at(r, s->cursor, word)) {
		case ALF_AT_UNPUBLISHED:
			return (int)got;
		case ALF_AT_TOMBSTONE:
			s->cursor++;
			continue;
		case ALF_AT_VALUE:
			if (index >= p->total)
				return got ? (int)got : -EBADMSG;
			if (acquire(p, m, s, s->cursor, index)) {
				position[got] = (uint64_t)s->cursor - alf_capacity(r);
				handle[got++] =
					handle_of(index, buffer_generation(pool_buffer(p, index)));
				s->cursor++;
				continue;
			}
			break;
		case ALF_AT_LATER:
			break;
		}
		if (got || jumps == LAPPED_MOST)
			return (int)got; /* the next get counts what is missing between */
		lapped(s, jumps++);
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
			miss(s, at);
			s->cursor = (alf_position)(at + 1);
			*position = (uint64_t)at - alf_capacity(r);
			*handle = handle_of(index, buffer_generation(pool_buffer(p, index)));
			return 1;
		}
		if (at == s->cursor && !lost) {
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
	take_turn(s);
	if (!s->closed) {
		const alf_position before = s->cursor;
		got = s->policy == TOPIC_LATEST ? get_latest(p, m, s, handle, position) :
						  get_next(p, m, s, handle, position, n);
		if (got > 0) {
			s->held += (uint32_t)got;
			store_relaxed(&s->shared->held, (uint32_t)s->held);
		}
		if (s->cursor != before) {
			store_relaxed(&s->shared->gaps, s->gaps);
			if (s->policy == TOPIC_BLOCK)
				store_seq_cst(&s->shared->cursor, s->cursor); /* [CURSOR] */
			else
				store_relaxed(&s->shared->cursor,
					      s->cursor); /* no publisher reads it */
		}
	}
	end_turn(s);
	if (s->policy == TOPIC_BLOCK && wait_anybody(&r->q->room_wait)) /* [WAIT] after cursor */
		wait_wake(&r->q->room_wait, UINT32_MAX);
	if (got)
		return got;
	count_up(&m->counters[COUNT_EMPTY], 1);
	if (unlikely(alf_closed(r)) && alf_end(load_acquire(&r->q->prod)) == s->cursor) /* [PROD] */
		return -EPIPE;
	return -EAGAIN;
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
	for (uint32_t i = 0; i < n; i++) {
		uint64_t mine;
		if (handle_index(handle[i]) < p->total &&
		    let_go(p, m, s, handle_index(handle[i]), &mine))
			qmempool_free(p, m, mine);
	}
	take_turn(s);
	s->held -= n < s->held ? n : s->held;
	if (likely(s->shared))
		store_relaxed(&s->shared->held, (uint32_t)s->held);
	leave_if_done(s);
	end_turn(s);
}

void topic_unsubscribe(struct subscriber *s)
{
	uint64_t mine = TOPIC_LIVE | s->token;
	take_turn(s);
	if (!s->closed) {
		cas_seq_cst(&s->shared->state, &mine, TOPIC_CLOSING | s->token); /* [TOPIC] */
		s->closed = true;
		leave_if_done(s);
	}
	end_turn(s);
	wait_wake(&s->r->q->room_wait, UINT32_MAX);
	wait_wake(&s->r->q->data_wait, UINT32_MAX); /* other threads in topic_get() */
}

uint64_t topic_lag(const struct subscriber *s)
{
	alf_position prod = alf_end(load_acquire(&s->r->q->prod)); /* [PROD] */
	alf_distance behind = (alf_distance)(prod - load_relaxed(&s->cursor));
	return behind > 0 ? (uint64_t)behind : 0;
}
