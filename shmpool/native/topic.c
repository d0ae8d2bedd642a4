/* SPDX-License-Identifier: Apache-2.0
 *
 * topic.c - see topic.h: publishing, and what holds it up.
 */
#include "topic.h"

#include "alf_repair.h"
#include "member.h"
#include "transfer.h"
#include "wait.h"

/* The gate's distance while no subscriber blocks: more than a ring, less than half of all. */
#define GATE_FAR (1ull << (TOPIC_POSITION_BITS * 5 / 6))

/* Returns how many positions from prod on the subscribers that block have room for. */
static int64_t room_of(const struct alf_ring *r, alf_position prod)
{
	const struct topic *t = topic_of(r);
	int64_t room = (int64_t)GATE_FAR;
	for (uint32_t i = 0; i < SUBSCRIBERS_MAX; i++) {
		const struct topic_subscriber *s = &t->subscriber[i];
		if (!topic_blocks(s))
			continue;
		const uint64_t cursor = load_seq_cst(&s->cursor); /* [CURSOR] */
		const int64_t has = topic_distance(cursor + alf_capacity(r), prod);
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
	for (int turns = 0; turns < TOPIC_TURNS_MAX; turns++) {
		if (likely(topic_distance(gate, prod) >= (int64_t)n))
			return true;
		int64_t room = room_of(r, prod);
		if (room < (int64_t)n)
			return false;
		uint64_t next = ((uint64_t)prod + (uint64_t)room) & TOPIC_POSITION_MASK;
		next |= gate & TOPIC_KEEPS_MASK;
		if (cas_seq_cst(&t->gate, &gate, next)) /* [GATE] */
			return true;
	}
	return false;
}

/* Tells why n positions from prod on cannot be reserved: 0 they can, -ENOBUFS an older message is
 * not published, -EAGAIN prod has moved. */
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

uint32_t topic_room(const struct alf_ring *r)
{
	const alf_position prod = load_seq_cst(&r->q->prod); /* [PROD] */
	uint32_t n = 0;
	if (prod & ALF_CLOSED)
		return UINT32_MAX;
	const int64_t room = room_of(r, prod);
	while (n < room && n < TOPIC_BULK && n <= r->mask &&
	       unpublished(r, (alf_position)(prod + n), 1) != -ENOBUFS)
		n++;
	return n;
}

/* alf_reserve() of a topic. */
static int reserve(const struct alf_ring *r, shared64 *op, uint32_t n, alf_position *at)
{
	uint32_t turns = 0;
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
		turns = alf_back_off(&r->q->prod, prod, n, turns);
		if (alf_tired(turns))
			return -ENOBUFS;
	}
}

/* Evicts the message at position, if there is one. Stores its handle if m has to free it. keepers:
 * some subscribers may want it to stay. */
static bool evict(const struct qmempool *p, struct member *m, const struct alf_ring *r,
		  alf_position position, bool keepers, uint64_t *handle)
{
	uint64_t index = alf_word(r, position) ^ alf_tag(r, position);
	if (index >= p->total) /* a tombstone */
		return false;
	struct buffer *b = pool_buffer(p, (uint32_t)index);
	uint64_t word = load_acquire(&b->since); /* [HOLD] */
	for (int turns = 0; turns < TOPIC_TURNS_MAX; turns++) {
		if (unlikely(!hold_is(word, HOLD_PUBLISHED, r->id, position)))
			break; /* its last holder has evicted it: topic_release(); or corrupted */
		uint64_t bits = word & HOLD_BITS;
		if (unlikely(keepers))
			bits |= topic_keepers(r, position);
		uint64_t next = bits ? hold_word(HOLD_HELD, r->id, position) | bits :
				       HOLD_FINAL << HOLD_STATE_SHIFT | m->tag;
		if (!cas_seq_cst(&b->since, &word, next)) /* [HOLD] */
			continue;
		if (!bits)
			*handle = topic_own(p, m, (uint32_t)index);
		else if (unlikely(keepers))
			topic_shelve(p, r, position, (uint32_t)index);
		return !bits;
	}
	if (hold_is(word, HOLD_HELD, r->id, position))
		topic_shelve(p, r, position, (uint32_t)index);
	return false;
}

int topic_publish(struct qmempool *p, struct member *m, const struct alf_ring *r,
		  const uint64_t *handle, uint32_t n)
{
	uint64_t evicted[TOPIC_BULK];
	uint32_t k = 0;
	alf_position at;
	if (n > TOPIC_BULK || n > r->room)
		return -EMSGSIZE;
	int error = qmempool_mark(p, m, handle, n);
	if (error)
		return error;
	error = reserve(r, &m->op, n, &at);
	const bool keepers = load_seq_cst(&topic_of(r)->keepers); /* [KEEP] */
	for (uint32_t i = 0; i < n && !error; i++, at++) {
		const uint32_t index = handle_index(handle[i]);
		struct buffer *b = pool_buffer(p, index);
		k += evict(p, m, r, (alf_position)(at - alf_capacity(r)), keepers, &evicted[k]);
		store_relaxed(&b->queue, 0); /* its consumer has passed it on */
		store_relaxed(&b->since, hold_word(HOLD_PUBLISHED, r->id, at));
		store_release(&b->owner, owner_transit(r->id, at));            /* [OWNER] [HOLD] */
		store_release(&r->slot[at & r->mask], alf_tag(r, at) | index); /* [SLOT] */
	}
	alf_done(&m->op, ALF_MULTI);
	if (error) {
		qmempool_unmark(p, m, handle, n);
		count_up(&m->counters[COUNT_FULL], 1);
		if (error == -EPIPE)
			store_relaxed(&r->q->ended, 1);
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
		if (topic_blocks(s) &&
		    topic_is_dead(p, load_acquire(&s->state), own_token)) /* [TOPIC] */
			return true;
	}
	return false;
}
