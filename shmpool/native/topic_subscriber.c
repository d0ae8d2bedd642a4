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

int topic_vacancy(const struct alf_ring *r)
{
	int vacancy = 0;
	for (uint32_t i = 0; i < SUBSCRIBERS_MAX; i++) {
		const struct topic_subscriber *s = &topic_of(r)->subscriber[i];
		const uint64_t state = load_acquire(&s->state); /* [TOPIC] */
		const uint64_t what = state & TOPIC_STATE_MASK;
		if (!state)
			return 1;
		if (what == TOPIC_DEAD || what == TOPIC_CLAIMED)
			vacancy = -EAGAIN;
	}
	return vacancy;
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

/* Returns the first position between the oldest that is kept and prod at which a message is or will
 * be. Not one from which a dead subscriber may still have a bit: barred was raised before the
 * caller had its place, or is of no use to it. */
static alf_position oldest(const struct alf_ring *r, const struct topic_subscriber *s,
			   alf_position prod)
{
	alf_position position = (alf_position)(prod - alf_capacity(r));
	const alf_distance barred =
		(alf_distance)(load_acquire(&s->barred) - position); /* [TOPIC] */
	if (barred > 0)
		position = barred < (alf_distance)alf_capacity(r) ?
				   position + (alf_position)barred :
				   prod;
	for (; position != prod; position++) {
		const enum alf_at at = alf_at(r, position, alf_word(r, position));
		if (at == ALF_AT_VALUE || at == ALF_AT_UNPUBLISHED)
			break;
	}
	return position;
}

int topic_subscribe(struct qmempool *p, struct member *m, const struct alf_ring *r, uint32_t policy,
		    uint32_t start, struct subscriber *s)
{
	const alf_position kept = alf_capacity(r);
	uint64_t name[2];
	if (policy >= TOPIC_POLICIES || start > TOPIC_OLDEST)
		return -EINVAL;
	*s = (struct subscriber) { .r = r,
				   .token = member_token(
					   load_relaxed(&segment_holder(&p->segment, m)->identity)),
				   .policy = policy,
				   .keeper = policy == TOPIC_DROP_NEWEST ||
					     (policy == TOPIC_BLOCK && start == TOPIC_OLDEST) };
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
	store_relaxed(&s->shared->held, 0);
	process_name(name);
	store_relaxed(&s->shared->name[0], name[0]);
	store_relaxed(&s->shared->name[1], name[1]);
	/* Holds publishers up, if it blocks, until the cursor is known. */
	store_relaxed(&s->shared->cursor, (alf_end(load_acquire(&r->q->prod)) - kept) & /* [PROD] */
						  TOPIC_POSITION_MASK);
	store_seq_cst(&s->shared->state, TOPIC_LIVE | s->token); /* [TOPIC] [KEEP] */
	if (policy == TOPIC_BLOCK)
		gate_shut(r);
	alf_position prod = alf_end(load_seq_cst(&r->q->prod)); /* [GATE] [KEEP] */
	s->cursor = s->joined = prod;
	if (start == TOPIC_OLDEST || policy == TOPIC_LATEST) {
		s->cursor = oldest(r, s->shared, prod);
		s->joined = policy == TOPIC_DROP_OLDEST ? s->cursor : prod;
	}
	s->end = policy == TOPIC_BLOCK ? s->joined : (alf_position)(s->cursor + kept);
	topic_store_cursor(s, s->keeper ? (alf_position)(s->end - s->cursor) : 0);
	if (policy == TOPIC_DROP_NEWEST) /* accepts or misses what came between */
		topic_get_kept(p, m, s, NULL, NULL, 0);
	if (policy == TOPIC_BLOCK && wait_anybody(&r->q->room_wait)) /* [WAIT] */
		wait_wake(&r->q->room_wait, UINT32_MAX);
	return 0;
}

/* Stores the cursor of one that blocks. Until it has passed the position at which it joined,
 * evicted messages may stay for it. */
static void store_blocking(struct subscriber *s, alf_position before)
{
	const alf_distance keeps = (alf_distance)(s->end - s->cursor);
	if (likely(!s->keeper || (alf_distance)(s->end - before) <= 0)) {
		store_seq_cst(&s->shared->cursor, s->cursor & TOPIC_POSITION_MASK); /* [CURSOR] */
		return;
	}
	topic_store_cursor(s, keeps > 0 ? (uint32_t)keeps : 0);
	if (keeps <= 0)
		set_keeper(s, false);
}

/* With the narrow positions of tests: moves on what a cursor has passed, so that it stays less than
 * half of all positions behind. */
static inline void keep_near(struct subscriber *s)
{
	if (SHMPOOL_POSITION_BITS == 64 || (alf_distance)(s->cursor - s->joined) < 0)
		return;
	s->joined = s->cursor;
	if (s->policy == TOPIC_BLOCK) {
		s->end = s->cursor;
		store_relaxed(&s->seen, alf_end(load_seq_cst(&s->r->q->prod))); /* [KEEP] */
	}
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
			got = topic_get_latest(p, m, s, handle, position);
			break;
		case TOPIC_DROP_NEWEST:
			got = topic_get_kept(p, m, s, handle, position, n);
			break;
		default:
			got = topic_get_next(p, m, s, handle, position, n);
		}
		if (got > 0) {
			s->held += (uint32_t)got;
			store_relaxed(&s->shared->held, (uint32_t)s->held);
		}
		if (s->cursor != before) {
			store_relaxed(&s->shared->gaps, s->gaps);
			if (s->policy == TOPIC_BLOCK)
				store_blocking(s, before);
			else if (!s->keeper) /* no publisher reads it */
				store_relaxed(&s->shared->cursor, s->cursor & TOPIC_POSITION_MASK);
			keep_near(s);
		}
		ended = !got && unlikely(load_relaxed(&r->q->ended)) && alf_closed(r) &&
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
	if (likely(s->shared))
		store_relaxed(&s->shared->held, (uint32_t)s->held);
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
		if (lives && s->keeper)
			topic_drop_kept(p, m, s);
		free(s->backlog);
		s->backlog = NULL;
		leave_if_done(s);
	}
	end_turn(s);
	wait_wake(&s->r->q->room_wait, UINT32_MAX);
	wait_wake(&s->r->q->data_wait, UINT32_MAX); /* other threads in topic_get() */
}

/* True if a message of positions from cursor on is published. Scans back, as get_latest() does. */
static bool any_published(const struct alf_ring *r, alf_position cursor, alf_position end)
{
	for (uint32_t back = 0; back <= r->mask && end != cursor; back++) {
		end--;
		const enum alf_at state = alf_at(r, end, alf_word(r, end));
		if (state == ALF_AT_VALUE || state == ALF_AT_LATER)
			return true;
	}
	return false;
}

uint32_t topic_ready(const struct alf_ring *r, uint32_t number, uint64_t token, bool *unsure)
{
	const struct topic_subscriber *s = &topic_of(r)->subscriber[number];
	const alf_position prod = load_seq_cst(&r->q->prod); /* [PROD] [WAIT] */
	*unsure = false;
	if (load_acquire(&s->state) != (TOPIC_LIVE | token)) /* [TOPIC] */
		return UINT32_MAX;
	const uint64_t word = load_seq_cst(&s->cursor); /* [CURSOR] */
	const uint32_t policy = load_relaxed(&s->policy);
	if (policy == TOPIC_DROP_NEWEST && word >> TOPIC_KEEPS_SHIFT < alf_capacity(r))
		return alf_capacity(r) - (uint32_t)(word >> TOPIC_KEEPS_SHIFT); /* it has them */
	const int64_t lag = topic_distance(alf_end(prod), word);
	if (lag <= 0)
		return prod & ALF_CLOSED ? UINT32_MAX : 0;
	const alf_position cursor = (alf_position)(alf_end(prod) - (alf_position)lag);
	const bool any = policy == TOPIC_LATEST ?
				 any_published(r, cursor, alf_end(prod)) :
				 alf_at(r, cursor, alf_word(r, cursor)) != ALF_AT_UNPUBLISHED;
	*unsure = !any;
	return any ? lag > UINT32_MAX ? UINT32_MAX : (uint32_t)lag : 0;
}

uint64_t topic_lag(struct subscriber *s)
{
	take_turn(s);
	const uint64_t lag =
		s->closed ? 0 : topic_unread(s->r, s->policy, load_relaxed(&s->shared->cursor));
	end_turn(s);
	return lag;
}
