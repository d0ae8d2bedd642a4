/* SPDX-License-Identifier: Apache-2.0
 *
 * lanes.c - see lanes.h.
 */
#include "lanes.h"

#include <stdlib.h>
#include <string.h>

#include "queue.h"
#include "wait.h"

static struct lane_table *table_of(const struct qmempool *p, uint32_t queue)
{
	return (struct lane_table *)queue_slots(p, queue);
}

uint32_t lanes_room(uint32_t capacity, uint32_t lanes)
{
	return (capacity + lanes - 1) / lanes;
}

/* Makes one lane in a free queue slot. Returns its number. */
static int make_one(struct qmempool *p, struct member *m, uint32_t queue, uint32_t room,
		    uint32_t flags)
{
	for (uint32_t i = 1; i <= p->segment.geometry.queues; i++) {
		struct queue_slot *slot = segment_queue(&p->segment, i);
		uint64_t seen = 0;
		if (load_relaxed(&slot->state) ||
		    !cas_seq_cst(&slot->state, &seen, m->tag | QUEUE_LANE)) /* [QUEUE] */
			continue;
		store_relaxed(&slot->laned, queue);
		int error = queue_reset(p, i, room, flags);
		if (!error)
			return (int)i;
		store_seq_cst(&slot->state, 0); /* [QUEUE] */
		return error;
	}
	return -ENFILE;
}

void lanes_unmake(struct qmempool *p, struct member *m, uint32_t queue)
{
	for (uint32_t i = 1; i <= p->segment.geometry.queues; i++) {
		struct queue_slot *slot = segment_queue(&p->segment, i);
		uint64_t mine = m->tag | QUEUE_LANE;
		if (load_relaxed(&slot->state) == mine && load_relaxed(&slot->laned) == queue)
			cas_seq_cst(&slot->state, &mine, 0); /* [QUEUE] */
	}
}

int lanes_make(struct qmempool *p, struct member *m, uint32_t queue, uint32_t capacity,
	       uint32_t lanes, uint32_t flags)
{
	struct lane_table *t = table_of(p, queue);
	const bool grow = flags & ALF_LANES_GROW;
	const uint32_t room = grow ? capacity : lanes_room(capacity, lanes);
	flags = (flags & ALF_ON_DEMAND) | ALF_LANE;
	t->lanes = lanes;
	store_relaxed(&t->active, grow ? 1 : lanes);
	for (uint32_t i = 0; i < lanes; i++) {
		int number = make_one(p, m, queue, room, flags);
		if (number < 0) {
			lanes_unmake(p, m, queue);
			return number;
		}
		t->number[i] = (uint16_t)number;
	}
	return 0;
}

bool lanes_listed(const struct qmempool *p, uint32_t number)
{
	const uint32_t queue = load_relaxed(&segment_queue(&p->segment, number)->laned);
	if (queue == 0 || queue > p->segment.geometry.queues)
		return false;
	const struct queue_slot *slot = segment_queue(&p->segment, queue);
	if (load_acquire(&slot->state) != QUEUE_READY || /* [QUEUE] [LANES] */
	    !(load_relaxed(&slot->queue.flags) & ALF_LANED))
		return false;
	const struct lane_table *t = table_of(p, queue);
	const uint32_t n = load_relaxed(&t->lanes);
	for (uint32_t i = 0; i < n && i < LANES_MAX; i++)
		if (load_relaxed(&t->number[i]) == number)
			return true;
	return false;
}

uint32_t lanes_share(struct qmempool *p, const struct alf_ring *r)
{
	const struct alf_ring *queue = r->queue == r->id ? NULL : queue_ring(p, r->queue);
	if (!queue || !(queue->flags & ALF_LANES_GROW))
		return alf_room(r);
	return lanes_room(alf_room(queue), lanes_active(queue->lanes));
}

bool lanes_whole(const struct qmempool *p, uint32_t queue)
{
	const struct lane_table *t = table_of(p, queue);
	const uint32_t n = load_relaxed(&t->lanes);
	for (uint32_t i = 0; i < n && n <= LANES_MAX; i++) {
		const uint32_t number = load_relaxed(&t->number[i]);
		if (number == 0 || number > p->segment.geometry.queues)
			return false;
		const struct queue_slot *slot = segment_queue(&p->segment, number);
		const uint32_t flags = load_relaxed(&slot->queue.flags);
		const uint64_t state = load_relaxed(&slot->state);
		if (state == QUEUE_READY || !(state & QUEUE_LANE) ||
		    load_relaxed(&slot->laned) != queue || !queue_room(slot) ||
		    (flags & (ALF_LANE | ALF_LANED)) != ALF_LANE)
			return false;
	}
	return n && n <= LANES_MAX;
}

/* Shares the capacity out to the lanes in use, for this process. Several threads may do so at once,
 * and one of them may have read an earlier number: so rooms only become smaller. */
static void share_out(struct lanes *l, uint32_t active)
{
	const uint64_t room = lanes_room(alf_room(&l->ring), active);
	for (uint32_t i = 0; i < l->n; i++) {
		uint64_t had = load_relaxed(&l->lane[i]->room);
		while (had > room && !cas_seq_cst(&l->lane[i]->room, &had, room))
			;
	}
	store_relaxed(&l->active, active);
}

struct lanes *lanes_bind(struct qmempool *p, uint32_t queue)
{
	struct lane_table *t = table_of(p, queue);
	const struct queue_slot *slot = segment_queue(&p->segment, queue);
	const uint32_t n = load_relaxed(&t->lanes), room = queue_room(slot);
	struct lanes *l = NULL;
	if (room && n && n <= LANES_MAX)
		l = calloc(1, sizeof(*l) + p->segment.members * sizeof(l->user[0]));
	if (!l)
		return NULL;
	l->table = t;
	l->n = n;
	l->members = p->segment.members;
	for (uint32_t i = 0; i < n; i++) {
		l->lane[i] = queue_lane(p, load_relaxed(&t->number[i]), queue);
		if (!l->lane[i]) {
			free(l);
			return NULL;
		}
	}
	/* As small as a ring can be: nobody puts into it. */
	alf_bind(&l->ring, (struct alf_queue *)&slot->queue, queue_slots(p, queue),
		 ALF_CAPACITY_MIN, room, queue, load_relaxed(&slot->queue.flags) | ALF_LANED);
	l->ring.lanes = l;
	if (lanes_room(room, n) < l->ring.bulk)
		l->ring.bulk = lanes_room(room, n);
	return l;
}

void lanes_belong(const struct qmempool *p, struct alf_ring *r)
{
	const uint32_t queue = load_relaxed(&segment_queue(&p->segment, r->id)->laned);
	if (queue == 0 || queue > p->segment.geometry.queues)
		return; /* corrupted since */
	struct queue_slot *slot = segment_queue(&p->segment, queue);
	const uint32_t n = load_relaxed(&table_of(p, queue)->lanes), room = queue_room(slot);
	if (!room || !n)
		return;
	const uint32_t bulk = lanes_room(room, n);
	r->queue = queue;
	r->data_wait = &slot->queue.data_wait;
	if (bulk < r->bulk)
		r->bulk = bulk;
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
