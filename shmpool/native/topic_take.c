/* SPDX-License-Identifier: Apache-2.0
 *
 * topic_take.c - see topic.h: a subscriber's bit set on messages and cleared, and which ones it
 * gets next.
 */
#include "alf_repair.h"
#include "member.h"
#include "topic.h"

#define LAPPED_MOST 64 /* jumps of one get */
/* Of a slot's word. */
#define LAP_BITS (SHMPOOL_POSITION_BITS < 64 ? SHMPOOL_POSITION_BITS : 64 - ALF_LAP_SHIFT)

/* Returns the holders word after a subscriber has let the message go that b is. */
static uint64_t without(const struct member *m, const struct subscriber *s, const struct buffer *b,
			uint64_t word)
{
	const uint64_t owner = load_acquire(&b->owner); /* [OWNER] */
	const uint64_t bit = 1ull << s->number;
	bool held = hold_state(word) == HOLD_HELD;
	word &= ~bit;
	/* If its eviction was due when the subscriber had got it: as the member that evicts. */
	if (!held && unlikely(s->keeper) &&
	    owner_behind(owner, load_relaxed(&s->seen)) < -(int64_t)alf_capacity(s->r)) {
		const alf_position position = (alf_position)owner_position(owner);
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
 * before it is not published, perhaps because its publisher died; nobody can reserve this one. */
static inline bool is_old(const struct alf_ring *r, alf_position position, uint64_t word)
{
	const uint64_t later = word - alf_tag(r, (alf_position)(position - alf_capacity(r)));
	return (int64_t)(later << (64 - ALF_LAP_SHIFT - LAP_BITS)) < 0;
}

enum topic_taken topic_take(struct qmempool *p, struct member *m, const struct subscriber *s,
			    alf_position position, uint32_t *index)
{
	uint64_t word = alf_word(s->r, position);
	if (unlikely(is_old(s->r, position, word))) {
		const alf_position prod = alf_end(load_acquire(&s->r->q->prod)); /* [PROD] */
		if ((alf_distance)(prod - position) <= 0)
			return TOPIC_NOT_YET;
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
		return TOPIC_NOT_YET;
	case ALF_AT_TOMBSTONE:
		return TOPIC_NOTHING;
	case ALF_AT_VALUE:
		if (*index < p->total && acquire(p, m, s, position, *index))
			return TOPIC_TAKEN;
		break;
	case ALF_AT_LATER:
		break;
	}
	return TOPIC_MISSED;
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
		case TOPIC_NOT_YET:
			return (int)got;
		case TOPIC_NOTHING:
			s->cursor++;
			break;
		case TOPIC_TAKEN:
			position[got] = (uint64_t)s->cursor - alf_capacity(r);
			handle[got++] = handle_of(index, buffer_generation(pool_buffer(p, index)));
			s->cursor++;
			break;
		case TOPIC_MISSED:
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

int topic_get_latest(struct qmempool *p, struct member *m, struct subscriber *s, uint64_t *handle,
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
