/* SPDX-License-Identifier: Apache-2.0
 *
 * topic_repair.c - see topic.h: what dead publishers and subscribers leave, for recovery.
 */
#include "member.h"
#include "topic.h"
#include "wait.h"

bool topic_is_dead(const struct qmempool *p, uint64_t state, uint64_t own_token)
{
	return state &&
	       ((state & TOPIC_STATE_MASK) == TOPIC_DEAD ||
		token_state(&p->segment, state & ~TOPIC_STATE_MASK, own_token) == TOKEN_FREE);
}

bool topic_give_up(struct qmempool *p, uint64_t token)
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

uint32_t topic_dead(struct qmempool *p, uint64_t own_token)
{
	uint32_t dead = 0;
	for (uint32_t i = 1; i <= p->segment.geometry.queues; i++) {
		const struct alf_ring *r = queue_ring(p, i);
		for (uint32_t k = 0; r && topic_is(r) && k < SUBSCRIBERS_MAX; k++) {
			uint64_t state =
				load_acquire(&topic_of(r)->subscriber[k].state); /* [TOPIC] */
			dead += topic_is_dead(p, state, own_token);
		}
	}
	return dead;
}

void topic_evict_for(const struct qmempool *p, const struct alf_ring *r, alf_position position,
		     uint64_t word)
{
	const alf_position before = (alf_position)(position - alf_capacity(r));
	const uint64_t index = word ^ alf_tag(r, before);
	if (index >= p->total)
		return;
	struct buffer *b = pool_buffer(p, (uint32_t)index);
	for (int turns = 0; turns < TOPIC_TURNS_MAX; turns++) {
		uint64_t seen = load_acquire(&b->since);                     /* [HOLD] */
		if (load_acquire(&b->owner) != owner_transit(r->id, before)) /* [OWNER] */
			return;
		if (!hold_is(seen, HOLD_PUBLISHED, r->id, before))
			break; /* evicted, and maybe not yet on the shelves */
		/* Without a bit: the sweep of this run takes the buffer. */
		if (cas_seq_cst(&b->since, &seen,
				hold_word(HOLD_HELD, r->id, before) | (seen & HOLD_BITS) |
					topic_keepers(r, before))) /* [HOLD] */
			break;
	}
	topic_shelve(p, r, before, (uint32_t)index);
}

bool topic_forsaken(const struct alf_ring *r, struct buffer *b, uint64_t owner, uint32_t gone,
		    bool (*dead)(const void *context, uint64_t tag), const void *context)
{
	const struct topic *t = topic_of(r);
	for (int turns = 0; turns < TOPIC_TURNS_MAX; turns++) {
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

/* True if a subscriber is barred from all messages before now: by this recoverer or a later one.
 * Otherwise barred is of an earlier death. */
static bool raised(const struct alf_ring *r, alf_position now, alf_position barred)
{
	const alf_position prod = alf_end(load_acquire(&r->q->prod)); /* [PROD] read after barred */
	return (alf_position)(barred - now) <= (alf_position)(prod - now);
}

uint32_t topic_vacate(const struct alf_ring *r, const struct topic_gone *gone)
{
	uint32_t vacated = 0;
	for (uint32_t left = gone->bits; left; left &= left - 1) {
		const uint32_t i = (uint32_t)__builtin_ctz(left);
		struct topic_subscriber *s = &topic_of(r)->subscriber[i];
		uint64_t state = gone->state[i];
		if (load_acquire(&s->state) != state) /* [TOPIC] */
			continue;                     /* another recoverer was first */
		const alf_position now = alf_end(load_acquire(&r->q->prod)); /* [PROD] */
		alf_position barred = load_acquire(&s->barred);              /* [TOPIC] */
		while (!raised(r, now, barred) &&
		       !cas_seq_cst(&s->barred, &barred, now)) /* [TOPIC] */
			;
		vacated += cas_seq_cst(&s->state, &state, 0); /* [TOPIC] */
	}
	return vacated;
}
