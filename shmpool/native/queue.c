/* SPDX-License-Identifier: Apache-2.0
 *
 * queue.c - see queue.h.
 */
#include "queue.h"

#include "role.h"
#include "transfer.h"
#include "wait.h"

#define PARTS_MOST 64 /* parts that one put reserves; a ring has fewer */

int queue_reserve(const struct qmempool *p, const struct alf_ring *r, uint32_t first, uint32_t n)
{
	return segment_reserve(&p->segment, (uint64_t)((char *)&r->slot[first] - p->segment.base),
			       (uint64_t)n * sizeof(*r->slot));
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
	int error = queue_reserve(p, r, backed, part);
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

/* Counts a put that had no room, and makes known why: that the queue has ended, or what its lane's
 * share is, before its producer sleeps. Returns error. */
__attribute__((noinline, cold)) static int refused(struct qmempool *p, struct member *m,
						   const struct alf_ring *r, int error)
{
	count_up(&m->counters[COUNT_FULL], 1);
	if (error == -EPIPE)
		store_relaxed(&r->q->ended, 1);
	const struct alf_ring *queue = r->flags & ALF_LANE ? queue_ring(p, r->queue) : NULL;
	if (queue && queue->flags & ALF_LANES_GROW)
		lanes_know(queue->lanes);
	return error;
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
		return error == -ERESTART ? error : refused(p, m, r, error);
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

/* Takes from a ring, and counts and wakes. Returns what transfer_out() returns. */
static ALWAYS_INLINE int get_from(struct qmempool *p, struct member *m, const struct alf_ring *r,
				  uint64_t *handle, uint32_t n, enum alf_side side)
{
	int got = get_through(p, m, r, handle, n, side);
	if (likely(got > 0)) {
		count_up(&m->counters[COUNT_DEQUEUE], (uint32_t)got);
		if (unlikely(wait_anybody(&r->q->room_wait))) /* [WAIT] after cons moved */
			return wake_room(r, got);
	} else if (unlikely(load_relaxed(&r->q->stepped)) && wait_anybody(&r->q->room_wait)) {
		return wake_room(r, got); /* [WAIT] */
	}
	return got;
}

/* Gets from another lane than the member's own, which has nothing. */
__attribute__((noinline)) static int get_elsewhere(struct qmempool *p, struct member *m,
						   const struct alf_ring *r, uint64_t *handle,
						   uint32_t n)
{
	const struct lanes *l = r->lanes;
	struct lane_user *u = lanes_user(r->lanes, m);
	struct lanes_walk w = { .n = lanes_active(l) };
	const struct alf_ring *lane;
	while ((lane = lanes_other(l, u, &w))) {
		int got = get_from(p, m, lane, handle, alf_most(lane, n), ALF_MULTI);
		if (got > 0) {
			u->found = w.at;
			u->left -= got;
		}
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

int queue_get_lanes(struct qmempool *p, struct member *m, const struct alf_ring *r,
		    uint64_t *handle, uint32_t n)
{
	struct lane_user *u = lanes_user(r->lanes, m);
	const struct alf_ring *lane = lanes_out(r->lanes, u);
	if (unlikely(lane->flags & ALF_ON_DEMAND)) /* else it takes as many as the queue */
		n = alf_most(lane, n);
	int got = get_from(p, m, lane, handle, n, ALF_MULTI);
	if (unlikely(!got))
		return get_elsewhere(p, m, r, handle, n);
	if (likely(got > 0))
		u->left -= got;
	return got;
}

/* queue_get() of a queue without lanes. */
static ALWAYS_INLINE int get_ring(struct qmempool *p, struct member *m, const struct alf_ring *r,
				  uint64_t *handle, uint32_t n, enum alf_side side)
{
	int got = get_from(p, m, r, handle, n, side);
	if (likely(got))
		return got;
	count_up(&m->counters[COUNT_EMPTY], 1);
	if (unlikely(load_relaxed(&r->q->ended)) && alf_closed(r) && alf_empty(r))
		return -EPIPE;
	return -EAGAIN;
}

int queue_get_single(struct qmempool *p, struct member *m, const struct alf_ring *r,
		     uint64_t *handle, uint32_t n)
{
	if (unlikely(role_take(&r->q->consumer, m->tag)))
		return -EBUSY;
	return get_ring(p, m, r, handle, n, ALF_SINGLE_WAKES);
}

int queue_get_multi(struct qmempool *p, struct member *m, const struct alf_ring *r,
		    uint64_t *handle, uint32_t n)
{
	return get_ring(p, m, r, handle, n, ALF_MULTI);
}
