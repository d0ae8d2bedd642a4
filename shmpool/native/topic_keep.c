/* SPDX-License-Identifier: Apache-2.0
 *
 * topic_keep.c - see topic.h: messages that stay for a subscriber when the ring evicts them, and
 * DROP_NEWEST, which gets its messages so.
 */
#include "alf_repair.h"
#include "member.h"
#include "topic.h"

#define ROUNDS_MOST 64 /* of one get, while publishers go round the whole ring in each */

shared64 *topic_shelf(const struct alf_ring *r, uint32_t number)
{
	return &r->slot[(uint64_t)alf_capacity(r) * (1 + number) + TOPIC_SLOTS];
}

/* True if the subscriber has accepted the message at position, and not taken it. */
static bool accepts(const struct topic_subscriber *s, alf_position position)
{
	const uint64_t cursor = load_seq_cst(&s->cursor); /* [KEEP] */
	const int64_t behind = topic_distance(position, cursor);
	return behind >= 0 && behind < (int64_t)(cursor >> TOPIC_KEEPS_SHIFT);
}

/* True if that subscriber lives and the message at position must stay for it. */
static bool keeps(const struct topic_subscriber *s, alf_position position)
{
	return topic_lives(s) && accepts(s, position);
}

uint64_t topic_keepers(const struct alf_ring *r, alf_position position)
{
	uint64_t bits = 0;
	for (uint64_t left = load_seq_cst(&topic_of(r)->keepers) & HOLD_BITS; left; /* [KEEP] */
	     left &= left - 1) {
		const uint32_t i = (uint32_t)__builtin_ctzll(left);
		if (keeps(&topic_of(r)->subscriber[i], position))
			bits |= 1ull << i;
	}
	return bits;
}

/* Puts a message that is kept for a subscriber where that will find it, also if it is leaving. */
static void shelve(const struct alf_ring *r, uint32_t number, alf_position position,
		   const struct buffer *b, uint32_t index)
{
	shared64 *slot = &topic_shelf(r, number)[position & r->mask];
	const uint64_t entry = alf_tag(r, position) | index;
	uint64_t seen = load_acquire(slot); /* [SHELF] */
	for (int turns = 0; turns < TOPIC_TURNS_MAX && seen != entry; turns++) {
		/* Still wanted: so what was read before is of an earlier message, and if the slot
		 * changes from now on, the compare-and-swap fails. */
		const uint64_t word = load_acquire(&b->since); /* [HOLD] */
		if (!hold_is(word, HOLD_HELD, r->id, position) || !(word >> number & 1) ||
		    !accepts(&topic_of(r)->subscriber[number], position) ||
		    cas_seq_cst(slot, &seen, entry)) /* [SHELF] */
			return;
	}
}

void topic_shelve(const struct qmempool *p, const struct alf_ring *r, alf_position position,
		  uint32_t index)
{
	const struct buffer *b = pool_buffer(p, index);
	for (uint64_t left = load_acquire(&b->since) &                        /* [HOLD] */
			     load_seq_cst(&topic_of(r)->keepers) & HOLD_BITS; /* [KEEP] */
	     left; left &= left - 1)
		shelve(r, (uint32_t)__builtin_ctzll(left), position, b, index);
}

void topic_evict_due(const struct qmempool *p, const struct alf_ring *r)
{
	const alf_position prod = alf_end(load_seq_cst(&r->q->prod)); /* [KEEP] */
	for (uint32_t i = alf_capacity(r); i; i--) {
		const alf_position position = (alf_position)(prod - i);
		const uint64_t word = alf_word(r, position);
		if (alf_at(r, position, word) == ALF_AT_UNPUBLISHED)
			topic_evict_for(p, r, position, word);
	}
}

/* ---- DROP_NEWEST ---- */

/* Takes what the subscriber has accepted into its backlog. Returns false where a message is still
 * being published. */
static bool take_in(struct qmempool *p, struct member *m, struct subscriber *s)
{
	const uint32_t mask = (uint32_t)s->r->mask;
	uint32_t index;
	for (; s->cursor != s->end; s->cursor++) {
		switch (topic_take(p, m, s, s->cursor, &index)) {
		case TOPIC_NOT_YET:
			return false;
		case TOPIC_NOTHING:
			break;
		case TOPIC_MISSED:
			s->gaps += (alf_distance)(s->cursor - s->joined) >= 0;
			break;
		case TOPIC_TAKEN:
			s->backlog[(s->first + s->waiting++) & mask] = (struct topic_backlog) {
				.position = s->cursor,
				.handle =
					handle_of(index, buffer_generation(pool_buffer(p, index))),
			};
		}
	}
	return true;
}

/* Hands out up to n messages of the backlog. */
static uint32_t hand_out(struct subscriber *s, uint64_t *handle, uint64_t *position, uint32_t n)
{
	uint32_t got = 0;
	for (; got < n && s->waiting; got++, s->waiting--) {
		const struct topic_backlog *one = &s->backlog[s->first++ & s->r->mask];
		handle[got] = one->handle;
		position[got] = (uint64_t)one->position - alf_capacity(s->r);
	}
	return got;
}

/* Accepts as many messages more as there is room for, and lets evictors know. */
static void accept_more(struct subscriber *s)
{
	s->end = (alf_position)(s->cursor + alf_capacity(s->r) - s->waiting);
	topic_store_cursor(s, (alf_position)(s->end - s->cursor));
}

int topic_get_kept(struct qmempool *p, struct member *m, struct subscriber *s, uint64_t *handle,
		   uint64_t *position, uint32_t n)
{
	uint32_t got = 0;
	int more = 0;
	for (int rounds = 0; rounds < ROUNDS_MOST; rounds++) {
		alf_position from = s->end; /* what is before it was accepted in time */
		const alf_position prod = alf_end(load_acquire(&s->r->q->prod)); /* [PROD] */
		if ((alf_distance)(prod - s->end) > 0 && take_in(p, m, s)) {
			topic_miss(s, prod);
			from = prod;
			accept_more(s);
		}
		got += hand_out(s, handle + got, position + got, n - got);
		if (!s->waiting && got < n) {
			more = topic_get_next(p, m, s, handle + got, position + got, n - got);
			got += more > 0 ? (uint32_t)more : 0;
		}
		accept_more(s);
		/* A member that evicts has reserved first; it may have read the earlier cursor. */
		if ((alf_distance)(s->seen - from) <= (alf_distance)alf_capacity(s->r))
			break;
	}
	return got ? (int)got : more;
}

void topic_drop_kept(struct qmempool *p, struct member *m, struct subscriber *s)
{
	uint64_t handle, position;
	uint32_t index;
	store_relaxed(&s->seen, alf_end(load_seq_cst(&s->r->q->prod))); /* [KEEP] */
	while (hand_out(s, &handle, &position, 1))
		topic_release(p, m, s, handle);
	for (; (alf_distance)(s->end - s->cursor) > 0; s->cursor++) {
		const enum topic_taken taken = topic_take(p, m, s, s->cursor, &index);
		if (taken == TOPIC_NOT_YET)
			break; /* nobody evicts it, or what is behind it, before it is published */
		if (taken == TOPIC_TAKEN)
			topic_release(p, m, s, index);
	}
}
