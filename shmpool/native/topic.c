/* SPDX-License-Identifier: Apache-2.0
 *
 * topic.c - see topic.h.
 */
#include "topic.h"

#include <sched.h>

#include "alf_repair.h"
#include "member.h"
#include "transfer.h"
#include "wait.h"

#define GATE_BITS 48
#define GATE_FAR (1ull << 40) /* the gate's distance while no subscriber blocks */
#define TURNS_MAX 1024        /* compare-and-swaps lost in a row: a corrupted word */
#define LAPPED_MOST 64        /* jumps of one get */

/* Returns how many positions from prod on lie before the gate; negative if prod is behind it. */
static int64_t gate_room(uint64_t gate, alf_position prod)
{
	return (int64_t)((gate - (uint64_t)prod) << (64 - GATE_BITS)) >> (64 - GATE_BITS);
}

/* Returns how many positions from prod on the subscribers that block have room for. */
static int64_t room_of(const struct alf_ring *r, alf_position prod)
{
	struct topic *t = topic_of(r);
	int64_t room = (int64_t)GATE_FAR;
	for (uint32_t i = 0; i < SUBSCRIBERS_MAX; i++) {
		const struct topic_subscriber *s = &t->subscriber[i];
		if ((load_acquire(&s->state) & TOPIC_STATE_MASK) != TOPIC_LIVE || /* [TOPIC] */
		    load_relaxed(&s->policy) != TOPIC_BLOCK)
			continue;
		alf_position cursor = load_seq_cst(&s->cursor); /* [CURSOR] */
		int64_t has = (alf_distance)(cursor + alf_capacity(r) - prod);
		if (has < room)
			room = has;
	}
	return room;
}

/* True if no subscriber that blocks needs what n positions from prod on would evict. */
static bool gate_passes(const struct alf_ring *r, alf_position prod, uint32_t n)
{
	struct topic *t = topic_of(r);
	uint64_t gate = load_seq_cst(&t->gate); /* [GATE] */
	for (int turns = 0; turns < TURNS_MAX; turns++) {
		if (likely(gate_room(gate, prod) >= (int64_t)n))
			return true;
		int64_t room = room_of(r, prod);
		if (room < (int64_t)n)
			return false;
		uint64_t next = ((uint64_t)prod + (uint64_t)room) & ((1ull << GATE_BITS) - 1);
		next |= gate >> GATE_BITS << GATE_BITS;
		if (cas_seq_cst(&t->gate, &gate, next)) /* [GATE] */
			return true;
	}
	return false;
}

/* Makes every publisher compute the gate again. */
static void gate_shut(const struct alf_ring *r)
{
	struct topic *t = topic_of(r);
	uint64_t gate = load_relaxed(&t->gate), next;
	do {
		uint64_t prod = alf_end(load_acquire(&r->q->prod)); /* [PROD] */
		next = ((gate >> GATE_BITS) + 1) << GATE_BITS | (prod & ((1ull << GATE_BITS) - 1));
	} while (!cas_seq_cst(&t->gate, &gate, next)); /* [GATE] */
}

/* What keeps n positions from prod on from being reserved: 0 nothing, -ENOBUFS an older message that
 * is not published, -EAGAIN prod has moved. */
static int unpublished(const struct alf_ring *r, alf_position prod, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		alf_position before = (alf_position)(prod + i - alf_capacity(r));
		switch (alf_at(r, before, alf_word(r, before))) {
		case ALF_AT_VALUE:
		case ALF_AT_TOMBSTONE:
			break;
		case ALF_AT_UNPUBLISHED:
			return -ENOBUFS;
		case ALF_AT_LATER:
			return -EAGAIN;
		}
	}
	return 0;
}

bool topic_unpublished(const struct alf_ring *r)
{
	return unpublished(r, alf_end(load_acquire(&r->q->prod)), 1) == -ENOBUFS; /* [PROD] */
}

/* alf_reserve() of a topic. */
static int reserve(const struct alf_ring *r, shared64 *op, uint32_t n, alf_position *at)
{
	uint32_t pauses = ALF_PAUSES_FIRST;
	for (;;) {
		alf_position prod = load_seq_cst(&r->q->prod); /* [PROD] [GATE] */
		if (unlikely(prod & ALF_CLOSED))
			return -EPIPE;
		int error = unpublished(r, prod, n);
		if (!error && unlikely(!gate_passes(r, prod, n)))
			error = -ENOBUFS;
		if (!error) {
			store_relaxed(op, alf_op(r, ALF_OP_ENQUEUE, n, prod));   /* [OP] */
			if (likely(cas_seq_cst(&r->q->prod, &prod, prod + n))) { /* [PROD] */
				*at = prod;
				return 0;
			}
		} else if (error == -ENOBUFS && load_acquire(&r->q->prod) == prod) { /* [PROD] */
			return error;
		}
		pauses = alf_back_off(pauses);
		if (alf_tired(pauses))
			return -ENOBUFS;
	}
}

/* Makes a buffer m's own that m has made FINAL. Returns its handle, which m frees. */
static uint64_t own(const struct qmempool *p, struct member *m, uint32_t index)
{
	struct buffer *b = pool_buffer(p, index);
	store_release(&b->owner, m->tag); /* [OWNER] [HOLD] */
	count_up(&m->counters[COUNT_DEQUEUE], 1);
	return handle_of(index, buffer_generation(b));
}

/* Evicts the message at position. Stores its handle if m has to free it. */
static bool evict(const struct qmempool *p, struct member *m, const struct alf_ring *r,
		  alf_position position, uint64_t *handle)
{
	uint64_t index = alf_word(r, position) ^ alf_tag(r, position);
	if (position < alf_capacity(r) || index >= p->total) /* none, or a tombstone */
		return false;
	struct buffer *b = pool_buffer(p, (uint32_t)index);
	uint64_t word = load_acquire(&b->since); /* [HOLD] */
	for (int turns = 0; turns < TURNS_MAX; turns++) {
		if (!hold_is(word, HOLD_PUBLISHED, r->id, position))
			return false; /* corrupted */
		uint64_t bits = word & HOLD_BITS;
		uint64_t next = bits ? hold_word(HOLD_HELD, r->id, position) | bits :
				       HOLD_FINAL << HOLD_STATE_SHIFT | m->tag;
		if (!cas_seq_cst(&b->since, &word, next)) /* [HOLD] */
			continue;
		if (!bits)
			*handle = own(p, m, (uint32_t)index);
		return !bits;
	}
	return false;
}

/* Checks that m owns each of n buffers, and none is named twice; marks them as queue_put() does. */
static int check_each_once(struct qmempool *p, struct member *m, const uint64_t *handle, uint32_t n)
{
	uint32_t good = 0;
	int error = 0;
	while (good < n && !(error = qmempool_check(p, m, handle[good])))
		store_relaxed(&pool_buffer(p, handle_index(handle[good++]))->owner,
			      m->tag | OWNER_PUTTING);
	while (error && good--)
		store_relaxed(&pool_buffer(p, handle_index(handle[good]))->owner, m->tag);
	return error;
}

int topic_publish(struct qmempool *p, struct member *m, const struct alf_ring *r,
		  const uint64_t *handle, uint32_t n)
{
	uint64_t evicted[TOPIC_BULK];
	uint32_t k = 0;
	alf_position at;
	if (n > TOPIC_BULK || n > r->room)
		return -EMSGSIZE;
	int error = check_each_once(p, m, handle, n);
	if (error)
		return error;
	error = reserve(r, &m->op, n, &at);
	for (uint32_t i = 0; i < n && !error; i++, at++) {
		const uint32_t index = handle_index(handle[i]);
		struct buffer *b = pool_buffer(p, index);
		k += evict(p, m, r, (alf_position)(at - alf_capacity(r)), &evicted[k]);
		store_relaxed(&b->queue, 0); /* its consumer has passed it on */
		store_relaxed(&b->since, hold_word(HOLD_PUBLISHED, r->id, at));
		store_release(&b->owner, owner_transit(r->id, at));            /* [OWNER] [HOLD] */
		store_release(&r->slot[at & r->mask], alf_tag(r, at) | index); /* [SLOT] */
	}
	alf_done(&m->op, ALF_MULTI);
	if (error) {
		for (uint32_t i = 0; i < n; i++)
			store_relaxed(&pool_buffer(p, handle_index(handle[i]))->owner, m->tag);
		count_up(&m->counters[COUNT_FULL], 1);
		return error;
	}
	count_up(&m->counters[COUNT_ENQUEUE], n);
	if (k)
		qmempool_free_bulk(p, m, evicted, k);
	if (wait_anybody(&r->q->data_wait)) /* [WAIT] after prod moved */
		wait_wake(&r->q->data_wait, UINT32_MAX);
	if (wait_anybody(&r->q->room_wait)) /* [WAIT] publishers behind this message's slot */
		wait_wake(&r->q->room_wait, UINT32_MAX);
	return 0;
}

bool topic_blocked_by_dead(const struct qmempool *p, const struct member *m,
			   const struct alf_ring *r)
{
	const uint64_t own_token = member_token(load_relaxed(&m->identity));
	for (uint32_t i = 0; i < SUBSCRIBERS_MAX; i++) {
		const struct topic_subscriber *s = &topic_of(r)->subscriber[i];
		uint64_t state = load_acquire(&s->state); /* [TOPIC] */
		if ((state & TOPIC_STATE_MASK) == TOPIC_LIVE &&
		    load_relaxed(&s->policy) == TOPIC_BLOCK &&
		    token_state(&p->segment, state & ~TOPIC_STATE_MASK, own_token) == TOKEN_FREE)
			return true;
	}
	return false;
}

/* ---- subscribers ---- */

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
	for (int turns = 0; turns < TURNS_MAX; turns++) {
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
	/* Holds publishers up, if it blocks, until the cursor is known. */
	store_relaxed(&s->shared->cursor, alf_end(load_acquire(&r->q->prod)) - kept); /* [PROD] */
	store_seq_cst(&s->shared->state, TOPIC_LIVE | s->token);                      /* [TOPIC] */
	if (policy == TOPIC_BLOCK)
		gate_shut(r);
	alf_position prod = alf_end(load_seq_cst(&r->q->prod)); /* [GATE] */
	s->cursor = s->joined = prod;
	if (start == TOPIC_OLDEST || policy == TOPIC_LATEST) {
		s->cursor = (alf_position)(prod - kept);
		s->joined = policy == TOPIC_LATEST ? prod : s->cursor;
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
	for (int turns = 0; turns < TURNS_MAX; turns++) {
		uint64_t state = hold_state(word), bits = word & HOLD_BITS;
		if ((state != HOLD_PUBLISHED && state != HOLD_HELD) || !(bits & bit))
			return false; /* corrupted */
		bool last = state == HOLD_HELD && bits == bit;
		uint64_t next = last ? HOLD_FINAL << HOLD_STATE_SHIFT | m->tag : word & ~bit;
		if (!cas_seq_cst(&b->since, &word, next)) /* [HOLD] */
			continue;
		if (last)
			*handle = own(p, m, index);
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
	for (int turns = 0; turns < TURNS_MAX; turns++) {
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
		for (uint32_t back = 0; back <= r->mask && at != s->cursor; back++) {
			const uint64_t word = alf_word(r, --at);
			const uint32_t index = word & ALF_INDEX_MASK;
			enum alf_at state = alf_at(r, at, word);
			if (state == ALF_AT_LATER)
				break;
			passed &= state == ALF_AT_TOMBSTONE;
			if (state != ALF_AT_VALUE)
				continue;
			if (index >= p->total)
				return -EBADMSG;
			if (!acquire(p, m, s, at, index))
				break;
			miss(s, at);
			s->cursor = (alf_position)(at + 1);
			*position = (uint64_t)at - alf_capacity(r);
			*handle = handle_of(index, buffer_generation(pool_buffer(p, index)));
			return 1;
		}
		if (at == s->cursor) {
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
		s->held += got > 0 ? (uint32_t)got : 0;
		if (s->cursor != before) {
			store_relaxed(&s->shared->gaps, s->gaps);
			store_seq_cst(&s->shared->cursor, s->cursor); /* [CURSOR] */
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

bool topics_give_up(struct qmempool *p, uint64_t token)
{
	bool any = false;
	for (uint32_t i = 1; i <= p->segment.geometry.queues; i++) {
		const struct alf_ring *r = queue_ring(p, i);
		for (uint32_t k = 0; r && topic_is(r) && k < SUBSCRIBERS_MAX; k++) {
			uint64_t *word = &topic_of(r)->subscriber[k].state;
			uint64_t state = load_acquire(word); /* [TOPIC] */
			if (token && (state & ~TOPIC_STATE_MASK) == token)
				any |= cas_seq_cst(word, &state, TOPIC_DEAD | token); /* [TOPIC] */
		}
		if (any && r)
			wait_wake(&r->q->room_wait, UINT32_MAX);
	}
	return any;
}

uint32_t topics_dead(struct qmempool *p, uint64_t own_token)
{
	uint32_t dead = 0;
	for (uint32_t i = 1; i <= p->segment.geometry.queues; i++) {
		const struct alf_ring *r = queue_ring(p, i);
		for (uint32_t k = 0; r && topic_is(r) && k < SUBSCRIBERS_MAX; k++) {
			uint64_t state =
				load_acquire(&topic_of(r)->subscriber[k].state); /* [TOPIC] */
			dead += state && ((state & TOPIC_STATE_MASK) == TOPIC_DEAD ||
					  token_state(&p->segment, state & ~TOPIC_STATE_MASK,
						      own_token) == TOKEN_FREE);
		}
	}
	return dead;
}

/* ---- recovery ---- */

void topic_evict_for(const struct qmempool *p, const struct alf_ring *r, alf_position position,
		     uint64_t word)
{
	const alf_position before = (alf_position)(position - alf_capacity(r));
	const uint64_t index = word ^ alf_tag(r, before);
	if (before < alf_capacity(r) || index >= p->total)
		return;
	struct buffer *b = pool_buffer(p, (uint32_t)index);
	for (int turns = 0; turns < TURNS_MAX; turns++) {
		uint64_t seen = load_acquire(&b->since); /* [HOLD] */
		if (!hold_is(seen, HOLD_PUBLISHED, r->id, before) ||
		    load_acquire(&b->owner) != owner_transit(r->id, before)) /* [OWNER] */
			return;
		/* Without a bit: the sweep of this run takes the buffer. */
		if (cas_seq_cst(&b->since, &seen,
				hold_word(HOLD_HELD, r->id, before) |
					(seen & HOLD_BITS))) /* [HOLD] */
			return;
	}
}

bool topic_forsaken(const struct alf_ring *r, struct buffer *b, uint64_t owner, uint32_t gone,
		    bool (*dead)(const void *context, uint64_t tag), const void *context)
{
	const struct topic *t = topic_of(r);
	for (int turns = 0; turns < TURNS_MAX; turns++) {
		uint64_t word = load_acquire(&b->since), clear = 0; /* [HOLD] */
		if (hold_state(word) == HOLD_FINAL)
			return dead(context, (uint32_t)word);
		bool held = hold_is(word, HOLD_HELD, r->id, owner_position(owner));
		if (!held && !hold_is(word, HOLD_PUBLISHED, r->id, owner_position(owner)))
			return false;
		for (uint64_t left = word & gone; left; left &= left - 1) {
			const uint32_t i = (uint32_t)__builtin_ctzll(left);
			uint64_t state = load_acquire(&t->subscriber[i].state); /* [TOPIC] */
			if ((state & TOPIC_STATE_MASK) == TOPIC_DEAD)
				clear |= 1ull << i;
		}
		if (!clear || cas_seq_cst(&b->since, &word, word & ~clear)) /* [HOLD] */
			return held && !(word & ~clear & HOLD_BITS);
	}
	return false;
}

void topic_vacate(const struct alf_ring *r, uint32_t gone)
{
	for (; gone; gone &= gone - 1) {
		struct topic_subscriber *s = &topic_of(r)->subscriber[__builtin_ctz(gone)];
		uint64_t state = load_acquire(&s->state); /* [TOPIC] */
		if ((state & TOPIC_STATE_MASK) != TOPIC_DEAD)
			continue; /* another recoverer was first */
		alf_position now = alf_end(load_acquire(&r->q->prod)); /* [PROD] */
		alf_position barred = load_acquire(&s->barred);        /* [TOPIC] */
		while ((alf_distance)(now - barred) > 0 &&
		       !cas_seq_cst(&s->barred, &barred, now)) /* [TOPIC] */
			;
		cas_seq_cst(&s->state, &state, 0); /* [TOPIC] */
	}
}
