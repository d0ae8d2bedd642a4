/* SPDX-License-Identifier: Apache-2.0
 *
 * queue_view.c - see queue.h: this process's views of queues and lanes, by number.
 */
#include <stdlib.h>

#include "queue.h"

uint32_t queue_room(const struct queue_slot *slot)
{
	uint32_t capacity = load_relaxed(&slot->queue.capacity);
	uint32_t room = load_relaxed(&slot->queue.room);
	/* A topic's subscribers lie behind its slots. Behind those of a larger ring lies another
	 * queue's. */
	if (load_relaxed(&slot->queue.flags) & ALF_TOPIC && capacity > TOPIC_DEPTH_MAX)
		return 0;
	return room && room <= ALF_CAPACITY_MAX && capacity == alf_slots(room) ? room : 0;
}

bool queue_listed(const struct qmempool *p, uint32_t number)
{
	const uint32_t queue = load_relaxed(&segment_queue(&p->segment, number)->laned);
	if (queue == 0 || queue > p->segment.geometry.queues)
		return false;
	const struct queue_slot *slot = segment_queue(&p->segment, queue);
	if (load_acquire(&slot->state) != QUEUE_READY || /* [QUEUE] [LANES] */
	    !(load_relaxed(&slot->queue.flags) & ALF_LANED))
		return false;
	const struct lane_table *t = queue_lanes(p, queue);
	const uint32_t n = load_relaxed(&t->lanes);
	for (uint32_t i = 0; i < n && i < LANES_MAX; i++)
		if (load_relaxed(&t->number[i]) == number)
			return true;
	return false;
}

uint32_t queue_share(struct qmempool *p, const struct alf_ring *r)
{
	const struct alf_ring *queue = r->queue == r->id ? NULL : queue_ring(p, r->queue);
	if (!queue || !(queue->flags & ALF_LANES_GROW))
		return alf_room(r);
	return lanes_room(alf_room(queue), lanes_active(queue->lanes));
}

/* True if each slot that the table of a queue names is a lane of it. */
static bool whole(const struct qmempool *p, uint32_t queue)
{
	const struct lane_table *t = queue_lanes(p, queue);
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

/* Returns how many messages a queue or a lane holds, or 0 if there is none with that number or it
 * is corrupted. */
static uint32_t ring_room(struct qmempool *p, uint32_t number)
{
	if (number == 0 || number > p->segment.geometry.queues)
		return 0;
	const struct queue_slot *slot = segment_queue(&p->segment, number);
	const uint64_t state = load_acquire(&slot->state); /* [QUEUE] */
	if (state != QUEUE_READY && !(state & QUEUE_LANE && queue_listed(p, number)))
		return 0;
	if (load_relaxed(&slot->queue.flags) & ALF_LANED && !whole(p, number))
		return 0;
	return queue_room(slot);
}

bool queue_exists(struct qmempool *p, uint32_t number)
{
	return ring_room(p, number) != 0;
}

int queue_missing(struct qmempool *p, uint32_t number)
{
	return queue_exists(p, number) ? -ENOMEM : -ENOENT;
}

/* Gives a lane's ring what it has of its queue. */
static void belong(const struct qmempool *p, struct alf_ring *r)
{
	const uint32_t queue = load_relaxed(&segment_queue(&p->segment, r->id)->laned);
	if (queue == 0 || queue > p->segment.geometry.queues)
		return; /* corrupted since */
	struct queue_slot *slot = segment_queue(&p->segment, queue);
	const uint32_t n = load_relaxed(&queue_lanes(p, queue)->lanes), room = queue_room(slot);
	if (!room || !n)
		return;
	const uint32_t bulk = lanes_room(room, n);
	r->queue = queue;
	r->data_wait = &slot->queue.data_wait;
	if (bulk < r->bulk)
		r->bulk = bulk;
}

/* Returns a view of a queue with lanes. NULL without memory, or if its table is corrupted. */
static struct lanes *bind_lanes(struct qmempool *p, uint32_t queue)
{
	struct lane_table *t = queue_lanes(p, queue);
	const struct queue_slot *slot = segment_queue(&p->segment, queue);
	const uint32_t n = load_relaxed(&t->lanes), room = queue_room(slot);
	struct lanes *l = NULL;
	const uint32_t users = alf_slots(p->segment.members + 1); /* tags count from 1 */
	if (room && n && n <= LANES_MAX)
		l = calloc(1, sizeof(*l) + users * sizeof(l->user[0]));
	if (!l)
		return NULL;
	l->table = t;
	l->n = n;
	l->users = users - 1;
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

/* Makes this process's view of a queue or a lane, or returns the one that another thread has made
 * since. lane: only of a lane, and so without a table that could name itself. */
static struct alf_ring *make_view(struct qmempool *p, uint32_t number, bool lane)
{
	struct queue_slot *slot = segment_queue(&p->segment, number);
	const uint32_t room = ring_room(p, number), flags = load_relaxed(&slot->queue.flags);
	struct alf_ring *r = NULL, *other = NULL;
	if (!room || (lane && (flags & (ALF_LANE | ALF_LANED)) != ALF_LANE))
		return NULL;
	if (flags & ALF_LANED) {
		r = &bind_lanes(p, number)->ring; /* its first member: NULL if that is */
	} else if ((r = malloc(sizeof(*r)))) {
		alf_bind(r, &slot->queue, queue_slots(p, number), alf_slots(room), room, number,
			 flags);
		if (flags & ALF_LANE)
			belong(p, r);
	}
	if (!r)
		return NULL;
	if (cas_seq_cst(&p->queues[number], &other, r)) /* pairs with the loads below */
		return r;
	free(r); /* another thread was first */
	return other;
}

const struct alf_ring *queue_ring(struct qmempool *p, uint32_t number)
{
	if (number == 0 || number > p->segment.geometry.queues)
		return NULL;
	/* Pairs with the compare-and-swap above. */
	const struct alf_ring *r = load_acquire(&p->queues[number]);
	return likely(r) ? r : make_view(p, number, false);
}

struct alf_ring *queue_lane(struct qmempool *p, uint32_t number, uint32_t queue)
{
	if (number == 0 || number > p->segment.geometry.queues)
		return NULL;
	struct alf_ring *r = load_acquire(&p->queues[number]); /* pairs with make_view() */
	if (!r)
		r = make_view(p, number, true);
	return r && r->flags & ALF_LANE && r->queue == queue ? r : NULL;
}
