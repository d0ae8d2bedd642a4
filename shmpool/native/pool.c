/* SPDX-License-Identifier: Apache-2.0
 *
 * pool.c - see pool.h.
 */
#include "pool.h"

#include <stdlib.h>

#include "wait.h"

/* Binds one class. Returns false if there is no memory. */
static bool bind(struct qmempool *p, const struct segment *view)
{
	const struct shmpool_geometry *g = &view->geometry;
	*p = (struct qmempool) {
		.segment = *view,
		.shared = segment_class_shared(view),
		.buffers = segment_buffer(view, 0),
		.capacity = view->first + (uint32_t)g->capacity,
		.total = view->total,
		.cache_size = (uint64_t)g->cache_size,
		.cache_mask = (uint64_t)g->cache_size - (g->cache_size > 0),
		.bulk = (uint32_t)g->bulk,
		.bypass_at = view->first,
	};
	const uint32_t slot = segment_free_slot(view);
	alf_bind(&p->free, &segment_queue(view, slot)->queue,
		 (uint64_t *)(view->base + view->free_ring_offset), (uint32_t)g->capacity,
		 (uint32_t)g->capacity, slot, 0);
	const struct segment_part *part = &view->part[view->class];
	if (part->sides)
		p->side = calloc(part->sides, sizeof(*p->side));
	for (; p->side && p->sides < part->sides; p->sides++)
		alf_bind(&p->side[p->sides],
			 &segment_queue(view, part->side_slot + p->sides)->queue,
			 segment_side(view, p->sides), part->side_room, part->side_room,
			 part->side_slot + p->sides, 0);
	return p->sides == part->sides;
}

int pool_bind(struct qmempool *p, const struct segment *s)
{
	const uint32_t classes = segment_classes(s);
	bool bound = bind(p, s);
	p->queues = calloc((size_t)s->geometry.queues + 1, sizeof(*p->queues));
	p->more = classes > 1 ? calloc(classes - 1, sizeof(*p->more)) : NULL;
	bound = bound && p->queues && (classes == 1 || p->more);
	for (uint32_t i = 1; i < classes && bound; i++) {
		const struct segment view = segment_view(s, i);
		bound = bind(&p->more[i - 1], &view);
	}
	if (bound)
		return 0;
	pool_unbind(p);
	return -ENOMEM;
}

void pool_unbind(struct qmempool *p)
{
	for (int64_t i = 0; p->queues && i <= p->segment.geometry.queues; i++)
		free(p->queues[i]);
	for (uint32_t i = 1; p->more && i < segment_classes(&p->segment); i++)
		free(p->more[i - 1].side);
	free(p->queues);
	free(p->more);
	free(p->side);
	*p = (struct qmempool) { 0 };
}

uint32_t pool_filter(const struct qmempool *p, uint64_t *handle, uint32_t n)
{
	uint32_t good = 0;
	for (uint32_t i = 0; i < n; i++)
		if (handle_index(handle[i]) < p->total)
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
	add_seq_cst(&segment_shared(&p->segment)->abandoned, n); /* [ABANDONED] */
}

void pool_wake_sleepers(const struct qmempool *p, void (*wake)(uint32_t *word))
{
	for (uint32_t i = 1; i <= p->segment.geometry.queues; i++) {
		struct alf_queue *q = &segment_queue(&p->segment, i)->queue;
		if (wait_anybody(&q->data_wait)) /* [WAIT] */
			wake(&q->data_wait);
		if (wait_anybody(&q->room_wait)) /* [WAIT] */
			wake(&q->room_wait);
		if (wait_anybody(&q->room_many)) /* [WAIT] */
			wake(&q->room_many);
		uint32_t *settled = &segment_queue(&p->segment, i)->settled_wait;
		if (wait_anybody(settled)) /* [WAIT] */
			wake(settled);
	}
	for (uint32_t i = 0; i < segment_classes(&p->segment); i++) {
		struct pool_shared *s = segment_shared(&p->segment) + i;
		if (wait_anybody(&s->free_wait)) /* [WAIT] */
			wake(&s->free_wait);
		if (wait_anybody(&s->free_many)) /* [WAIT] */
			wake(&s->free_many);
	}
}
