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

static struct lane_user *user_of(struct lanes *l, const struct member *m)
{
	const uint32_t number = tag_number(m->tag);
	return &l->user[likely(number < l->members) ? number : 0]; /* or its tag is corrupted */
}

uint32_t lanes_active(const struct lanes *l)
{
	const uint64_t n = load_acquire(&l->table->active); /* [LANES] */
	return n - 1 < l->n ? (uint32_t)n : l->n;
}

/* Adds lanes if the producers lose many compare-and-swaps on this one. */
static void grow(struct lanes *l, struct lane_user *u, const struct alf_ring *lane)
{
	const uint32_t lost = load_relaxed(&lane->q->lost);
	uint64_t n = lanes_active(l);
	u->puts = LANES_PUTS;
	if (lost - u->lost >= LANES_PUTS / LANES_LOSS && n < l->n)
		cas_seq_cst(&l->table->active, &n, 2 * n < l->n ? 2 * n : l->n); /* [LANES] */
	u->lost = lost;
}

/* Decides again which lane a producer has, when there are more. */
static void choose(struct lanes *l, struct lane_user *u, uint32_t n)
{
	if (!u->producer) {
		u->producer = (uint32_t)add_relaxed(&l->table->producers, 1) % UINT32_MAX + 1;
		u->in = (u->producer - 1) % n;
		u->puts = LANES_PUTS;
		u->lost = load_relaxed(&l->lane[u->in]->q->lost);
	}
	const uint32_t to = (u->producer - 1) % n;
	/* [CONS] after the reserved positions, its own among them. */
	if (to != u->in && alf_empty(l->lane[u->in])) {
		u->in = to;
		u->lost = load_relaxed(&l->lane[to]->q->lost);
	}
}

const struct alf_ring *lanes_in(const struct member *m, const struct alf_ring *r)
{
	struct lanes *l = r->lanes;
	struct lane_user *u = user_of(l, m);
	if (unlikely(!u->producer))
		choose(l, u, lanes_active(l));
	if (r->flags & ALF_LANES_GROW) {
		const uint32_t n = lanes_active(l);
		if (unlikely(n != load_relaxed(&l->active)))
			share_out(l, n);
		if (unlikely((u->producer - 1) % n != u->in))
			choose(l, u, n);
		if (unlikely(--u->puts == 0))
			grow(l, u, l->lane[u->in]);
	}
	return l->lane[u->in];
}

/* Looks whether another lane has a message that nobody takes, and if so stays there. */
static void look(const struct lanes *l, struct lane_user *u, uint32_t n)
{
	const uint32_t at = u->look % n;
	const alf_position cons = load_acquire(&l->lane[at]->q->cons); /* [CONS] */
	u->left = LANES_STAY;
	u->look = at + 1;
	u->seen[u->out] = load_relaxed(&l->lane[u->out]->q->cons);
	if (at != u->out && cons == u->seen[at] && alf_ready(l->lane[at], 0))
		u->out = at;
	u->seen[at] = cons;
}

struct lanes_walk lanes_begin(const struct member *m, const struct alf_ring *r)
{
	struct lanes *l = r->lanes;
	struct lane_user *u = user_of(l, m);
	const uint32_t n = lanes_active(l);
	if (unlikely(!u->consumer))
		u->consumer = (uint32_t)add_relaxed(&l->table->consumers, 1) % UINT32_MAX + 1;
	if (unlikely(u->lanes != n)) {
		u->lanes = n;
		u->found = u->out = (u->consumer - 1) % n;
		u->left = LANES_STAY;
	}
	if (unlikely(!u->left))
		look(l, u, n);
	return (struct lanes_walk) { .l = l, .u = u, .n = n };
}

const struct alf_ring *lanes_next(struct lanes_walk *w)
{
	const uint32_t n = w->n;
	if (w->step == 0) {
		w->step = 1;
		w->at = w->u->out;
		return w->l->lane[w->at];
	}
	/* From the lane on in which it last found something. */
	while (w->step <= n) {
		w->at = (w->u->found + w->step++ - 1) % n;
		if (w->at != w->u->out && alf_ready(w->l->lane[w->at], 0))
			return w->l->lane[w->at];
	}
	return NULL;
}

void lanes_got(struct lanes_walk *w, uint32_t n)
{
	struct lane_user *u = w->u;
	u->left -= n < u->left ? n : u->left;
	if (w->at != u->out)
		u->found = w->at;
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
