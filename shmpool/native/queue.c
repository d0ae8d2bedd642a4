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

/* Reserves the memory of n slots of a ring, from slot first on. */
static int reserve_slots(const struct qmempool *p, const struct alf_ring *r, uint32_t first,
			 uint32_t n)
{
	return segment_reserve(&p->segment, (uint64_t)((char *)&r->slot[first] - p->segment.base),
			       (uint64_t)n * sizeof(*r->slot));
}

int queue_reset(const struct qmempool *p, uint32_t number, uint32_t room, uint32_t flags)
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
	error = reserve_slots(p, &ring, 0, n);
	/* A queue with lanes whose creator was killed may have left its table here. */
	for (uint32_t i = 0; !error && i < LANE_TABLE_SLOTS; i++)
		store_relaxed(&ring.slot[i], 0);
	return error;
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
		int error = queue_reset(p, i, capacity, flags);
		if (!error && flags & ALF_LANED)
			error = lanes_make(p, m, i, capacity, flags >> LANES_SHIFT, flags);
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
				lanes_unmake(p, m, i);
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

/* The same; also 0 if there is no such queue. */
static uint32_t ring_room(struct qmempool *p, uint32_t number)
{
	if (number == 0 || number > p->segment.geometry.queues)
		return 0;
	const struct queue_slot *slot = segment_queue(&p->segment, number);
	const uint64_t state = load_acquire(&slot->state); /* [QUEUE] */
	if (state != QUEUE_READY && !(state & QUEUE_LANE && lanes_listed(p, number)))
		return 0;
	if (load_relaxed(&slot->queue.flags) & ALF_LANED && !lanes_whole(p, number))
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
		r = &lanes_bind(p, number)->ring; /* its first member: NULL if that is */
	} else if ((r = malloc(sizeof(*r)))) {
		alf_bind(r, &slot->queue, queue_slots(p, number), alf_slots(room), room, number,
			 flags);
		if (flags & ALF_LANE)
			lanes_belong(p, r);
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

static int reserve_back(const struct qmempool *p, struct member *m, const struct alf_ring *r,
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

int queue_reserve_back(const struct qmempool *p, struct member *m, const struct alf_ring **r,
		       alf_position *at)
{
	if (likely(!lanes_are(*r)))
		return reserve_back(p, m, *r, at);
	const struct alf_ring *queue = *r;
	for (uint32_t i = 0, n = lanes_active(queue->lanes); i < n; i++) {
		*r = queue->lanes->lane[i];
		if (!reserve_back(p, m, *r, at))
			return 0;
		alf_done(&m->op, ALF_MULTI);
	}
	*r = queue;
	return -ENOBUFS;
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
	if (lanes_are(r))
		lanes_close(r);
	wait_wake(&q->data_wait, UINT32_MAX);
	wait_wake(&q->room_many, UINT32_MAX);
	wait_wake(&q->room_wait, UINT32_MAX);
	if (single && !mine)
		role_release(&q->producer, m->tag);
	return 0;
}

/* Restores the owner words of n buffers that check_each_once() has marked. */
static void unmark(struct qmempool *p, struct member *m, const uint64_t *handle, uint32_t n)
{
	while (n--)
		store_relaxed(&pool_buffer(p, handle_index(handle[n]))->owner, m->tag);
}

/* Checks that m owns each of n buffers and that none of them is named twice. Marks each one: m does
 * not own a marked buffer, so a second handle of it fails. Returns 0, or an error and marks
 * none. */
static ALWAYS_INLINE int check_each_once(struct qmempool *p, struct member *m,
					 const uint64_t *handle, uint32_t n)
{
	/* Read once: the compiler cannot know that the stores of owner words below do not change
	 * it. */
	struct buffer *const buffers = p->buffers;
	const uint64_t mine = m->tag, marked = mine | OWNER_PUTTING, capacity = p->total;
#pragma GCC unroll 4
	for (uint32_t i = 0; i < n; i++) {
		const uint64_t h = handle[i];
		struct buffer *b = &buffers[handle_index(h)];
		if (unlikely(handle_index(h) >= capacity) || !owner_is(b, mine, h)) {
			int error = qmempool_check(p, m, h);
			if (error) {
				unmark(p, m, handle, i);
				return error;
			}
		}
		store_relaxed(&b->owner, marked);
	}
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
	error = n == 1 ? qmempool_check(p, m, handle[0]) : check_each_once(p, m, handle, n);
	if (unlikely(error))
		return error;
	error = single ? put_through(p, m, r, handle, n, ALF_SINGLE_WAKES) :
			 put_through(p, m, r, handle, n, ALF_MULTI);
	if (unlikely(error)) {
		if (n > 1)
			unmark(p, m, handle, n);
		if (error == -ERESTART)
			return error;
		count_up(&m->counters[COUNT_FULL], 1);
		if (error == -EPIPE)
			store_relaxed(&q->ended, 1);
		return error;
	}
	count_up(&m->counters[COUNT_ENQUEUE], n);
	if (unlikely(wait_anybody(r->data_wait))) /* [WAIT] after prod moved */
		wait_wake(r->data_wait, n);
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

/* queue_get() of a queue with lanes. */
__attribute__((noinline)) static int get_lanes(struct qmempool *p, struct member *m,
					       const struct alf_ring *r, uint64_t *handle,
					       uint32_t n)
{
	struct lanes_walk w = lanes_begin(m, r);
	const struct alf_ring *lane;
	while ((lane = lanes_next(&w))) {
		int got = get_through(p, m, lane, handle, alf_most(lane, n), ALF_MULTI);
		if (got > 0) {
			lanes_got(&w, (uint32_t)got);
			count_up(&m->counters[COUNT_DEQUEUE], (uint32_t)got);
		}
		if (unlikely(wait_anybody(&lane->q->room_wait)) && /* [WAIT] after cons moved */
		    (got > 0 || load_relaxed(&lane->q->stepped)))
			wake_room(lane, got);
		if (got)
			return got;
	}
	count_up(&m->counters[COUNT_EMPTY], 1);
	if (unlikely(load_relaxed(&r->q->ended)) && alf_closed(r)) {
		/* The member that closed it may have been killed before it closed the lanes. */
		if (lanes_close(r) && queue_drained(r))
			return -EPIPE;
	}
	return -EAGAIN;
}

int queue_get(struct qmempool *p, struct member *m, const struct alf_ring *r, uint64_t *handle,
	      uint32_t n)
{
	struct alf_queue *q = r->q;
	bool single = r->flags & (ALF_SINGLE_CONSUMER | ALF_LANED);
	int got;
	if (single && lanes_are(r))
		return get_lanes(p, m, r, handle, n);
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
