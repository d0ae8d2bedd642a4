/* SPDX-License-Identifier: Apache-2.0
 *
 * requeue.c - see requeue.h.
 */
#include "requeue.h"

#include "transfer.h"
#include "wait.h"

int requeue_put(struct qmempool *p, struct member *m, const struct alf_ring *r, uint64_t handle)
{
	struct buffer *b = pool_buffer(p, handle_index(handle));
	alf_position at;
	int error = qmempool_check(p, m, handle);
	if (error)
		return error;
	error = queue_reserve_back(p, m, r, &at);
	if (!error) {
		requeue_note(b, load_relaxed(&b->queue), r->id);
		transfer_mark(p, r, &handle, 1, at);
		alf_publish(r, at, &handle, 1);
	}
	alf_done(&m->op, ALF_MULTI);
	if (error) {
		count_up(&m->counters[COUNT_FULL], 1);
		return error;
	}
	count_up(&m->counters[COUNT_ENQUEUE], 1);
	if (wait_anybody(&r->q->data_wait)) /* [WAIT] after prod moved */
		wait_wake(&r->q->data_wait, 1);
	return 0;
}

int requeue(struct qmempool *p, struct member *m, uint64_t handle, uint32_t *to)
{
	int error = qmempool_check(p, m, handle);
	if (error)
		return error;
	const struct buffer *b = pool_buffer(p, handle_index(handle));
	uint32_t from = load_relaxed(&b->queue);
	if (!from || load_relaxed(&b->got) != buffer_generation(b))
		return -EXDEV;
	if (!queue_ring(p, from))
		return -EBADMSG;
	*to = requeue_to(segment_queue(&p->segment, from), from, load_relaxed(&b->redelivered));
	const struct alf_ring *r = queue_ring(p, *to);
	if (!r)
		return -EBADMSG;
	if (r->flags & ALF_SINGLE_PRODUCER)
		return -EOPNOTSUPP;
	return requeue_put(p, m, r, handle);
}

void requeue_abandon(struct qmempool *p, struct member *m, uint64_t handle)
{
	pool_abandon(p, &handle, 1, load_relaxed(&pool_buffer(p, handle_index(handle))->queue));
	count_up(&m->counters[COUNT_ENQUEUE], 1);
}

int requeue_move(struct qmempool *p, struct member *m, const struct alf_ring *from, uint32_t to,
		 bool reset)
{
	const struct alf_ring *given = to ? queue_ring(p, to) : NULL;
	uint64_t handle;
	if (given && given->flags & ALF_TOPIC)
		return -EOPNOTSUPP;
	if (given && !alf_avail_space(given))
		return alf_ready(from, 0) ? -ENOBUFS : -EAGAIN;
	int got = queue_get(p, m, from, &handle, 1), error = -ENOENT;
	if (got <= 0)
		return got;
	struct buffer *b = pool_buffer(p, handle_index(handle));
	const struct alf_ring *r = to ? given : queue_ring(p, load_relaxed(&b->origin));
	uint64_t before = load_relaxed(&b->failures_link);
	if (r && r->flags & ALF_SINGLE_PRODUCER)
		error = -EOPNOTSUPP;
	else if (r) {
		if (reset)
			store_relaxed(&b->redelivered, 0);
		error = queue_put(p, m, r, &handle, 1);
	}
	if (!error)
		return 0;
	store_relaxed(&b->failures_link, before);
	if (queue_put(p, m, from, &handle, 1))
		requeue_abandon(p, m, handle);
	return error;
}
