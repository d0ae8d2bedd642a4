/* SPDX-License-Identifier: Apache-2.0
 *
 * queue_create.c - see queue.h: queues and their lanes are created, and found by name.
 */
#include <stdlib.h>
#include <string.h>

#include "queue.h"

#define NAMED_MOST 64 /* compare-and-swaps lost to other changes of a queue's state */

static bool named(const struct queue_slot *slot, uint64_t state, const char *name)
{
	return (state == QUEUE_READY || state & QUEUE_NAMED) &&
	       strncmp(slot->name, name, sizeof(slot->name)) == 0;
}

int queue_find(const struct qmempool *p, const char *name)
{
	for (uint32_t i = 1; i <= p->segment.geometry.queues; i++) {
		const struct queue_slot *slot = segment_queue(&p->segment, i);
		uint64_t state = load_acquire(&slot->state); /* [QUEUE] */
		if (state == QUEUE_READY && named(slot, state, name))
			return (int)i;
	}
	return -ENOENT;
}

/* Decides between two creators of the same name. Each writes its own name before it searches for
 * the other's, so at least one of them sees the other. The lower number wins: the higher one gives
 * up when it sees the lower, and the lower one removes QUEUE_NAMED from the higher one's state,
 * unless that is ready already. */
static bool outranked(const struct qmempool *p, uint32_t number, const char *name)
{
	for (uint32_t i = 1; i <= p->segment.geometry.queues; i++) {
		struct queue_slot *slot = segment_queue(&p->segment, i);
		uint64_t state = load_seq_cst(&slot->state); /* [QUEUE] */
		for (int k = NAMED_MOST;
		     k && i > number && state != QUEUE_READY && named(slot, state, name); k--)
			if (cas_seq_cst(&slot->state, &state, state & ~QUEUE_NAMED)) /* [QUEUE] */
				state = 0;
		if (i != number && named(slot, state, name))
			return true;
	}
	return false;
}

/* True if recovery can put buffers of dead consumers back as on_death says. A recoverer is one more
 * producer, so the queue must allow several. */
static bool can_take_back(struct qmempool *p, uint32_t flags, const struct queue_on_death *on_death)
{
	const struct alf_ring *letter = queue_ring(p, on_death->dead_letter);
	if (on_death->what > ON_DEATH_DEAD_LETTER)
		return false;
	if (on_death->what == ON_DEATH_REQUEUE && flags & ALF_SINGLE_PRODUCER)
		return false;
	if (on_death->dead_letter == 0)
		return on_death->what != ON_DEATH_DEAD_LETTER;
	return letter && !(letter->flags & (ALF_SINGLE_PRODUCER | ALF_TOPIC | ALF_LANE));
}

/* Makes an empty ring of room messages in a queue slot that the caller creates, with its memory.
 * Returns 0, -EINVAL, or what segment_reserve() returns. */
static int reset(const struct qmempool *p, uint32_t number, uint32_t room, uint32_t flags)
{
	struct alf_ring ring;
	int error = alf_init(&ring, &segment_queue(&p->segment, number)->queue,
			     queue_slots(p, number), room, ALF_CAPACITY_MAX, number, flags);
	if (error)
		return error;
	if (flags & ALF_LANED) /* it has only a table there */
		store_relaxed(&ring.q->backed, LANE_TABLE_SLOTS);
	uint32_t n = (uint32_t)load_relaxed(&ring.q->backed);
	if (flags & ALF_TOPIC)
		n += TOPIC_SLOTS;
	if (n < LANE_TABLE_SLOTS)
		n = LANE_TABLE_SLOTS;
	error = queue_reserve(p, &ring, 0, n);
	/* A queue with lanes whose creator was killed may have left its table here. */
	const bool clears = !error && !(flags & ALF_LANED);
	for (uint32_t i = 0; clears && i < LANE_TABLE_SLOTS; i++)
		store_relaxed(&ring.slot[i], 0);
	/* A topic's first messages evict nothing, and nothing is before them. */
	for (uint32_t i = 0; !error && flags & ALF_TOPIC && i <= ring.mask; i++)
		store_relaxed(&ring.slot[i], ALF_TOMBSTONE);
	return error;
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
		int error = reset(p, i, room, flags);
		if (!error)
			return (int)i;
		store_seq_cst(&slot->state, 0); /* [QUEUE] */
		return error;
	}
	return -ENFILE;
}

/* Frees the lanes that m has made for a queue that did not become QUEUE_READY. */
static void unmake_lanes(struct qmempool *p, struct member *m, uint32_t queue)
{
	for (uint32_t i = 1; i <= p->segment.geometry.queues; i++) {
		struct queue_slot *slot = segment_queue(&p->segment, i);
		uint64_t mine = m->tag | QUEUE_LANE;
		if (load_relaxed(&slot->state) == mine && load_relaxed(&slot->laned) == queue)
			cas_seq_cst(&slot->state, &mine, 0); /* [QUEUE] */
	}
}

/* Makes the lanes of a queue that m creates: queue slots and table. Returns 0, -ENFILE if too few
 * numbers are left, or what segment_reserve() returns; then it leaves none. */
static int make_lanes(struct qmempool *p, struct member *m, uint32_t queue, uint32_t capacity,
		      uint32_t lanes, uint32_t flags)
{
	struct lane_table *t = queue_lanes(p, queue);
	const bool grow = flags & ALF_LANES_GROW;
	const uint32_t room = grow ? capacity : lanes_room(capacity, lanes);
	flags = (flags & ALF_ON_DEMAND) | ALF_LANE;
	store_relaxed(&t->lanes, lanes);
	store_relaxed(&t->active, grow ? 1 : lanes);
	store_relaxed(&t->producers, 0);
	store_relaxed(&t->consumers, 0);
	for (uint32_t i = 0; i < lanes; i++) {
		int number = make_one(p, m, queue, room, flags);
		if (number < 0) {
			unmake_lanes(p, m, queue);
			return number;
		}
		store_relaxed(&t->number[i], (uint16_t)number);
	}
	return 0;
}

/* True if flags and capacity go together. */
static bool can_make(uint32_t capacity, uint32_t flags)
{
	const uint32_t lanes = flags >> LANES_SHIFT;
	if (flags & ((1u << LANES_SHIFT) - 2 * ALF_LANES_GROW))
		return false;
	if (flags & ALF_TOPIC)
		return flags == ALF_TOPIC && capacity <= TOPIC_DEPTH_MAX &&
		       capacity == alf_slots(capacity);
	if (flags & ALF_LANED)
		return lanes && lanes <= LANES_MAX && lanes <= capacity &&
		       !(flags & (ALF_SINGLE_PRODUCER | ALF_SINGLE_CONSUMER | ALF_LANE));
	return !(flags & (ALF_LANE | ALF_LANES_GROW)) && !lanes;
}

static int make(struct qmempool *p, struct member *m, const char *name, uint32_t capacity,
		uint32_t flags, const struct queue_on_death *on_death)
{
	size_t length = strlen(name);
	if (length == 0 || length > NAME_MAX_BYTES)
		return -EINVAL;
	if (!can_make(capacity, flags))
		return -EINVAL;
	if (!can_take_back(p, flags, on_death))
		return -EDOM;
	if (queue_find(p, name) > 0)
		return -EEXIST;
	for (uint32_t i = 1; i <= p->segment.geometry.queues; i++) {
		struct queue_slot *slot = segment_queue(&p->segment, i);
		uint64_t seen = 0;
		if (load_relaxed(&slot->state) ||
		    !cas_seq_cst(&slot->state, &seen, m->tag)) /* [QUEUE] */
			continue;
		int error = reset(p, i, capacity, flags);
		if (!error && flags & ALF_LANED)
			error = make_lanes(p, m, i, capacity, flags >> LANES_SHIFT, flags);
		if (!error) {
			slot->on_death = on_death->what;
			slot->dead_letter = on_death->dead_letter;
			slot->max_redeliveries = on_death->max_redeliveries;
			memset(slot->name, 0, sizeof(slot->name));
			memcpy(slot->name, name, length);
			seen = m->tag | QUEUE_NAMED;
			store_seq_cst(&slot->state, seen); /* [QUEUE] */
			if (!outranked(p, i, name) &&
			    cas_seq_cst(&slot->state, &seen, QUEUE_READY)) /* [QUEUE] */
				return (int)i;
			if (flags & ALF_LANED)
				unmake_lanes(p, m, i);
			error = -EEXIST;
		}
		store_seq_cst(&slot->state, 0); /* [QUEUE] */
		return error;
	}
	return -ENFILE;
}

int queue_create(struct qmempool *p, struct member *m, const char *name, uint32_t capacity,
		 uint32_t flags, const struct queue_on_death *on_death)
{
	/* Allocated first, so that the creator can use the queue in any case. */
	struct alf_ring *r = malloc(sizeof(*r)), *other = NULL;
	int number = r ? make(p, m, name, capacity, flags, on_death) : -ENOMEM;
	if (number > 0 && !(flags & ALF_LANED)) {
		alf_bind(r, &segment_queue(&p->segment, (uint32_t)number)->queue,
			 queue_slots(p, (uint32_t)number), alf_slots(capacity), capacity,
			 (uint32_t)number, flags);
		if (cas_seq_cst(&p->queues[number], &other, r)) /* pairs with queue_ring() */
			return number;
	}
	free(r);
	return number;
}

bool queue_create_again(const struct qmempool *p, const char *name, uint32_t numbers, int error)
{
	uint32_t left = 0;
	if (error == -EEXIST)
		return queue_find(p, name) < 0; /* the one that was creating it may not finish */
	for (uint32_t i = 1; i <= p->segment.geometry.queues && error == -ENFILE; i++) {
		const struct queue_slot *slot = segment_queue(&p->segment, i);
		const uint64_t state = load_acquire(&slot->state); /* [QUEUE] */
		left += state != QUEUE_READY && !(state & QUEUE_LANE && queue_listed(p, i));
	}
	return left >= numbers;
}
