/* SPDX-License-Identifier: Apache-2.0
 *
 * lanes.c - see lanes.h.
 */
#include "lanes.h"

#include "wait.h"

uint32_t lanes_room(uint32_t capacity, uint32_t lanes)
{
	return (capacity + lanes - 1) / lanes;
}

/* Shares the capacity out to the lanes in use, for this process. Several threads may do so at once,
 * and one of them may have read an earlier number: so rooms only become smaller. */
static void share_out(struct lanes *l, uint32_t active)
{
	const uint64_t room = lanes_room(alf_room(&l->ring), active);
	for (uint32_t i = 0; i < l->n; i++) {
		uint64_t had = load_relaxed(&l->lane[i]->room);
		while (had > room &&
		       !cas_seq_cst(&l->lane[i]->room, &had, room)) /* pairs with another's */
			;
	}
	store_relaxed(&l->active, active);
}

uint32_t lanes_active(const struct lanes *l)
{
	const uint64_t n = load_acquire(&l->table->active); /* [LANES] */
	return n - 1 < l->n ? (uint32_t)n : l->n;
}

uint32_t lanes_know(struct lanes *l)
{
	const uint32_t n = lanes_active(l);
	if (unlikely(n != load_relaxed(&l->active)))
		share_out(l, n);
	return n;
}

/* Adds lanes if the producers lose many compare-and-swaps on the lane of u. */
static void grow(struct lanes *l, struct lane_user *u)
{
	const uint32_t lost = load_relaxed(&u->in->q->lost);
	uint64_t n = lanes_active(l);
	if (lost - u->lost >= LANES_PUTS / LANES_LOSS && n < l->n)
		cas_seq_cst(&l->table->active, &n, 2 * n < l->n ? 2 * n : l->n); /* [LANES] */
	u->lost = lost;
	lanes_know(l);
}

static void put_into(struct lanes *l, struct lane_user *u, uint32_t lane)
{
	u->in_lane = lane;
	u->in = l->lane[lane];
	u->lost = load_relaxed(&u->in->q->lost);
}

const struct alf_ring *lanes_choose_in(struct lanes *l, struct lane_user *u)
{
	const bool grows = l->ring.flags & ALF_LANES_GROW;
	const uint32_t n = grows ? lanes_know(l) : lanes_active(l);
	if (!u->in) { /* a child that was forked in the middle of this has its number only */
		u->producer = (uint32_t)add_relaxed(&l->table->producers, 1) % UINT32_MAX + 1;
		put_into(l, u, (u->producer - 1) % n);
	}
	if (!grows) {
		store_release(&u->puts, INT32_MAX); /* pairs with fork(2) */
		return u->in;
	}
	const uint32_t to = (u->producer - 1) % n;
	/* [CONS] after the reserved positions, its own among them. */
	if (to != u->in_lane && alf_empty(u->in))
		put_into(l, u, to);
	u->done += u->given + 1;
	if (u->done >= LANES_PUTS) {
		u->done = 0;
		grow(l, u);
	}
	u->given = to == u->in_lane ? LANES_PUTS - 1 - u->done : 0;
	store_release(&u->puts, (int32_t)u->given); /* pairs with fork(2) */
	return u->in;
}

/* Looks whether another lane has a message that nobody takes, and if so stays there. */
static void look(const struct lanes *l, struct lane_user *u, uint32_t n)
{
	const uint32_t at = u->look % n;
	const alf_position cons = load_acquire(&l->lane[at]->q->cons); /* [CONS] */
	u->look = at + 1;
	u->seen[u->out_lane] = load_relaxed(&l->lane[u->out_lane]->q->cons);
	if (at != u->out_lane && cons == u->seen[at] && alf_ready(l->lane[at], 0))
		u->out_lane = at;
	u->seen[at] = cons;
}

const struct alf_ring *lanes_choose_out(struct lanes *l, struct lane_user *u)
{
	const uint32_t n = lanes_active(l);
	if (!u->consumer)
		u->consumer = (uint32_t)add_relaxed(&l->table->consumers, 1) % UINT32_MAX + 1;
	if (u->lanes == n) {
		look(l, u, n);
	} else {
		u->lanes = n;
		u->found = u->out_lane = (u->consumer - 1) % n;
	}
	u->out = l->lane[u->out_lane];
	store_release(&u->left, LANES_STAY); /* pairs with fork(2) */
	return u->out;
}

const struct alf_ring *lanes_other(const struct lanes *l, const struct lane_user *u,
				   struct lanes_walk *w)
{
	while (w->step < w->n) {
		w->at = (u->found + w->step++) % w->n;
		if (w->at != u->out_lane && alf_ready(l->lane[w->at], 0))
			return l->lane[w->at];
	}
	return NULL;
}

bool lanes_close(const struct alf_ring *r)
{
	const struct lanes *l = r->lanes;
	bool all = true;
	for (uint32_t i = 0; i < l->n; i++) {
		if (alf_closed(l->lane[i]))
			continue;
		all &= alf_close(l->lane[i]) || alf_closed(l->lane[i]);
		wait_wake(&l->lane[i]->q->room_many, UINT32_MAX);
		wait_wake(&l->lane[i]->q->room_wait, UINT32_MAX);
	}
	return all;
}
