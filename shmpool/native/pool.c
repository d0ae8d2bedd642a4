/* SPDX-License-Identifier: Apache-2.0
 *
 * pool.c - see pool.h.
 */
#include "pool.h"

#include <stdlib.h>

#include "wait.h"

int pool_bind(struct qmempool *p, const struct segment *s)
{
	*p = (struct qmempool) {
		.segment = *s,
		.buffers = segment_buffer(s, 0),
		.capacity = (uint32_t)s->geometry.capacity,
		.cache_size = (uint64_t)s->geometry.cache_size,
		.cache_mask = (uint64_t)s->geometry.cache_size - (s->geometry.cache_size > 0),
		.bulk = (uint32_t)s->geometry.bulk,
	};
	p->queues = calloc(s->geometry.queues + 1, sizeof(*p->queues));
	if (!p->queues) {
		*p = (struct qmempool) { 0 };
		return -ENOMEM;
	}
	alf_bind(&p->free, &segment_queue(s, 0)->queue, (uint64_t *)(s->base + s->free_ring_offset),
		 p->capacity, 0, 0);
	return 0;
}

void pool_unbind(struct qmempool *p)
{
	for (int64_t i = 0; p->queues && i <= p->segment.geometry.queues; i++)
		free(p->queues[i]);
	free(p->queues);
	*p = (struct qmempool) { 0 };
}

uint32_t pool_filter(const struct qmempool *p, uint64_t *handle, uint32_t n)
{
	uint32_t good = 0;
	for (uint32_t i = 0; i < n; i++)
		if (handle_index(handle[i]) < p->capacity)
			handle[good++] = handle[i];
	return good;
}

void pool_unfree(const struct qmempool *p, const uint64_t *handle, uint32_t n)
{
	while (n--)
		store_relaxed(&pool_buffer(p, handle_index(handle[n]))->handle, handle[n]);
}

void pool_abandon(const struct qmempool *p, const uint64_t *handle, uint32_t n, uint32_t queue)
{
	for (uint32_t i = 0; i < n; i++)
		store_release(&pool_buffer(p, handle_index(handle[i]))->owner,
			      OWNER_ABANDONED | (uint64_t)queue << OWNER_QUEUE_SHIFT); /* [OWNER] */
	/* Counted afterwards, so that a member that reads the count sees the buffers. If this
	 * member dies before, the sweep for it finds them. */
	add_seq_cst(&pool_shared(p)->abandoned, n); /* [ABANDONED] */
}

void pool_wake_sleepers(const struct qmempool *p, void (*wake)(uint32_t *word))
{
	struct pool_shared *s = pool_shared(p);
	for (uint32_t i = 1; i <= p->segment.geometry.queues; i++) {
		struct alf_queue *q = &segment_queue(&p->segment, i)->queue;
		if (wait_anybody(&q->data_wait)) /* [WAIT] */
			wake(&q->data_wait);
		if (wait_anybody(&q->room_wait)) /* [WAIT] */
			wake(&q->room_wait);
		if (wait_anybody(&q->room_many)) /* [WAIT] */
			wake(&q->room_many);
	}
	if (wait_anybody(&s->free_wait)) /* [WAIT] */
		wake(&s->free_wait);
	if (wait_anybody(&s->free_many)) /* [WAIT] */
		wake(&s->free_many);
}
