/* SPDX-License-Identifier: Apache-2.0
 *
 * queue.c - see queue.h.
 */
#include "queue.h"

#include <stdlib.h>
#include <string.h>

#include "role.h"
#include "transfer.h"
#include "wait.h"

#define PARTS_MOST 64 /* parts that one put reserves; a ring has fewer */
#define NAMED_MOST 64 /* compare-and-swaps lost to other changes of a queue's state */

static bool named(const struct queue_slot *slot, uint64_t state, const char *name)
{
	return (state == QUEUE_READY || state & QUEUE_NAMED) &&
	       strncmp(slot->name, name, sizeof(slot->name)) == 0;
}

int queue_find(struct qmempool *p, const char *name)
{
	for (uint32_t i = 1; i <= p->segment.geometry.queues; i++) {
		const struct queue_slot *slot = segment_queue(&p->segment, i);
		uint64_t state = load_acquire(&slot->state); /* [QUEUE] */
		if (state == QUEUE_READY && named(slot, state, name))
			return (int)i;
	}
	return -ENOENT;
}

static uint64_t *ring_slots(const struct qmempool *p, uint32_t number)
{
	return (uint64_t *)(p->segment.base + p->segment.rings_offset) +
	       (uint64_t)(number - 1) * ALF_CAPACITY_MAX;
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
	return letter && !(letter->flags & (ALF_SINGLE_PRODUCER | ALF_TOPIC));
}

/* Reserves the memory of n slots of a ring, from slot first on. */
static int reserve_slots(const struct qmempool *p, const struct alf_ring *r, uint32_t first,
			 uint32_t n)
{
	return segment_reserve(&p->segment, (uint64_t)((char *)&r->slot[first] - p->segment.base),
			       (uint64_t)n * sizeof(*r->slot));
}

static int make(struct qmempool *p, struct member *m, const char *name, uint32_t capacity,
		uint32_t flags, const struct queue_on_death *on_death)
{
	size_t length = strlen(name);
	if (length == 0 || length > NAME_MAX_BYTES)
		return -EINVAL;
	if (flags & ALF_TOPIC &&
	    (flags != ALF_TOPIC || capacity > TOPIC_DEPTH_MAX || capacity != alf_slots(capacity)))
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
		struct alf_ring ring;
		int error = alf_init(&ring, &slot->queue, ring_slots(p, i), capacity,
				     ALF_CAPACITY_MAX, i, flags);
		if (!error)
			error = reserve_slots(p, &ring, 0,
					      (uint32_t)load_relaxed(&slot->queue.backed) +
						      (flags & ALF_TOPIC ? TOPIC_SLOTS : 0));
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
	if (number > 0) {
		alf_bind(r, &segment_queue(&p->segment, (uint32_t)number)->queue,
			 ring_slots(p, (uint32_t)number), alf_slots(capacity), capacity,
			 (uint32_t)number, flags);
		if (cas_seq_cst(&p->queues[number], &other, r)) /* pairs with queue_ring() */
			return number;
	}
	free(r);
	return number;
}

/* Returns how many elements a queue's ring holds, or 0 if there is no such queue or it is
 * corrupted. */
static uint32_t ring_room(struct qmempool *p, uint32_t number)
{
	if (number == 0 || number > p->segment.geometry.queues)
		return 0;
	const struct queue_slot *slot = segment_queue(&p->segment, number);
	if (load_acquire(&slot->state) != QUEUE_READY) /* [QUEUE] */
		return 0;
	uint32_t capacity = load_relaxed(&slot->queue.capacity);
	uint32_t room = load_relaxed(&slot->queue.room);
	/* A topic's subscribers lie behind its slots. Behind those of a larger ring lies another
	 * queue's. */
	if (load_relaxed(&slot->queue.flags) & ALF_TOPIC && capacity > TOPIC_DEPTH_MAX)
		return 0;
	return room && room <= ALF_CAPACITY_MAX && capacity == alf_slots(room) ? room : 0;
}

bool queue_exists(struct qmempool *p, uint32_t number)
{
	return ring_room(p, number) != 0;
}

int queue_missing(struct qmempool *p, uint32_t number)
{
	return queue_exists(p, number) ? -ENOMEM : -ENOENT;
}

const struct alf_ring *queue_ring(struct qmempool *p, uint32_t number)
{
	if (number == 0 || number > p->segment.geometry.queues)
		return NULL;
	/* Pairs with the compare-and-swap below. */
	struct alf_ring *r = load_acquire(&p->queues[number]), *other = NULL;
	if (likely(r))
		return r;
	struct queue_slot *slot = segment_queue(&p->segment, number);
	uint32_t room = ring_room(p, number), flags = load_relaxed(&slot->queue.flags);
	r = room ? malloc(sizeof(*r)) : NULL;
	if (!r)
		return NULL;
	alf_bind(r, &slot->queue, ring_slots(p, number), alf_slots(room), room, number, flags);
	if (cas_seq_cst(&p->queues[number], &other, r)) /* pairs with the load above */
		return r;
	free(r); /* another thread was first */
	return other;
}

/* Reserves the next part of a ring, unless another member has done so and n elements fit. Returns
 * 0, or what segment_reserve() returns. */
static int extend(const struct qmempool *p, const struct alf_ring *r, uint32_t n)
{
	alf_position prod = alf_end(load_acquire(&r->q->prod)); /* [PROD] */
	if ((alf_distance)(alf_capped(r, (alf_position)(prod + n)) - prod) >= (int64_t)n)
		return 0;
	uint64_t seen = load_acquire(&r->q->backed); /* [PART] */
	const uint32_t backed = (uint32_t)seen;
	uint32_t part = backed < ALF_PART_MAX ? backed : ALF_PART_MAX;
	if (backed > r->mask)
		return 0;
	if (part < ALF_PART_MIN)
		part = ALF_PART_MIN;
	if (part > alf_capacity(r) - backed)
		part = alf_capacity(r) - backed;
	int error = reserve_slots(p, r, backed, part);
	if (!error)
		cas_seq_cst(&r->q->backed, &seen, seen + part); /* [PART] */
	return error;
}

int queue_reserve_back(const struct qmempool *p, struct member *m, const struct alf_ring *r,
		       alf_position *at)
{
	int error = alf_reserve_back(r, &m->op, at);
	for (int parts = 0; unlikely(error == -ERESTART) && parts < PARTS_MOST; parts++) {
		alf_done(&m->op, ALF_MULTI);
		if (extend(p, r, 1))
			break;
		error = alf_reserve_back(r, &m->op, at);
	}
	return error ? -ENOBUFS : 0;
}

void queue_release(const struct alf_ring *r, const struct member *m)
{
	role_release(&r->q->producer, m->tag);
	role_release(&r->q->consumer, m->tag);
}

int queue_shutdown(const struct alf_ring *r, const struct member *m)
{
	struct alf_queue *q = r->q;
	const bool single = r->flags & ALF_SINGLE_PRODUCER;
	const bool mine = single && load_relaxed(&q->producer) == m->tag;
	if (single && role_take(&q->producer, m->tag))
		return -EBUSY;
	alf_close(r);
	store_relaxed(&q->ended, alf_closed(r)); /* a sleeper reads prod */
	wait_wake(&q->data_wait, UINT32_MAX);
	wait_wake(&q->room_many, UINT32_MAX);
	wait_wake(&q->room_wait, UINT32_MAX);
	if (single && !mine)
		role_release(&q->producer, m->tag);
	return 0;
}

/* The case of one buffer is compiled separately, without loops. */
static ALWAYS_INLINE int put_through(const struct qmempool *p, struct member *m,
				     const struct alf_ring *r, const uint64_t *handle, uint32_t n,
				     enum alf_side side)
{
	return n == 1 ? transfer_in(p, m, r, handle, 1, side) :
			transfer_in(p, m, r, handle, n, side);
}

static ALWAYS_INLINE int get_through(const struct qmempool *p, struct member *m,
				     const struct alf_ring *r, uint64_t *handle, uint32_t n,
				     enum alf_side side)
{
	return n == 1 ? transfer_out(p, m, r, handle, 1, side) :
			transfer_out(p, m, r, handle, n, side);
}

/* queue_put(), but -ERESTART where the ring must get more memory first. */
static ALWAYS_INLINE int put_backed(struct qmempool *p, struct member *m, const struct alf_ring *r,
				    const uint64_t *handle, uint32_t n)
{
	struct alf_queue *q = r->q;
	bool single = r->flags & ALF_SINGLE_PRODUCER;
	int error = 0;
	if (unlikely(n > r->bulk))
		return -EMSGSIZE;
	if (single && unlikely(role_take(&q->producer, m->tag)))
		return -EBUSY;
	error = n == 1 ? qmempool_check(p, m, handle[0]) : qmempool_mark(p, m, handle, n);
	if (unlikely(error))
		return error;
	error = single ? put_through(p, m, r, handle, n, ALF_SINGLE_WAKES) :
			 put_through(p, m, r, handle, n, ALF_MULTI);
	if (unlikely(error)) {
		if (n > 1)
			qmempool_unmark(p, m, handle, n);
		if (error == -ERESTART)
			return error;
		count_up(&m->counters[COUNT_FULL], 1);
		if (error == -EPIPE)
			store_relaxed(&q->ended, 1);
		return error;
	}
	count_up(&m->counters[COUNT_ENQUEUE], n);
	if (unlikely(wait_anybody(&q->data_wait))) /* [WAIT] after prod moved */
		wait_wake(&q->data_wait, n);
	return 0;
}

/* Reserves more of the ring's memory, and tries again. */
__attribute__((noinline, cold)) static int put_extending(struct qmempool *p, struct member *m,
							 const struct alf_ring *r,
							 const uint64_t *handle, uint32_t n)
{
	int error = -ERESTART;
	for (int parts = 0; error == -ERESTART && parts < PARTS_MOST; parts++) {
		error = extend(p, r, n);
		if (!error)
			error = put_backed(p, m, r, handle, n);
	}
	return error == -ERESTART ? -ENOBUFS : error;
}

int queue_put(struct qmempool *p, struct member *m, const struct alf_ring *r,
	      const uint64_t *handle, uint32_t n)
{
	int error = put_backed(p, m, r, handle, n);
	return likely(error != -ERESTART) ? error : put_extending(p, m, r, handle, n);
}

/* Wakes producers after a get: as many as there is room for. After tombstones that this or an
 * earlier claim has stepped over, wakes all. Returns result, the result of the get. */
__attribute__((noinline, cold)) static int wake_room(const struct alf_ring *r, int result)
{
	struct alf_queue *q = r->q;
	uint32_t n = result > 0 ? (uint32_t)result : 0;
	if (load_relaxed(&q->stepped)) {
		store_relaxed(&q->stepped, 0);
		n = UINT32_MAX;
	}
	wait_wake_ones(&q->room_wait, &q->room_many, n);
	if (load_seq_cst(&q->room_want)) /* [WAIT] */
		wait_wake_wanted(&q->room_many, &q->room_want, alf_avail_space(r));
	return result;
}

int queue_get(struct qmempool *p, struct member *m, const struct alf_ring *r, uint64_t *handle,
	      uint32_t n)
{
	struct alf_queue *q = r->q;
	bool single = r->flags & ALF_SINGLE_CONSUMER;
	int got;
	if (single && unlikely(role_take(&q->consumer, m->tag)))
		return -EBUSY;
	got = single ? get_through(p, m, r, handle, n, ALF_SINGLE_WAKES) :
		       get_through(p, m, r, handle, n, ALF_MULTI);
	if (likely(got > 0)) {
		count_up(&m->counters[COUNT_DEQUEUE], (uint32_t)got);
		if (unlikely(wait_anybody(&q->room_wait))) /* [WAIT] after cons moved */
			return wake_room(r, got);
		return got;
	}
	if (got == 0) {
		count_up(&m->counters[COUNT_EMPTY], 1);
		if (unlikely(load_relaxed(&q->stepped)) && wait_anybody(&q->room_wait)) /* [WAIT] */
			return wake_room(r, -EAGAIN);
		if (unlikely(load_relaxed(&q->ended)) && alf_closed(r) && alf_empty(r))
			return -EPIPE;
		return -EAGAIN;
	}
	return got;
}
