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
