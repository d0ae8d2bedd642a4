/* SPDX-License-Identifier: Apache-2.0
 *
 * queues.c - the calls of shmpool.h and binding.h about queues as a whole.
 */
#include <string.h>

#include "lookup.h"
#include "recover.h"
#include "unfinished.h"

int shmpool_queue_create_wait(int pool, const char *name, uint32_t capacity, uint32_t flags,
			      uint32_t on_death, uint32_t dead_letter, uint32_t max_redeliveries)
{
	const uint32_t numbers = 1 + (flags >> LANES_SHIFT);
	struct queue_on_death policy = { on_death, dead_letter, max_redeliveries };
	struct wait_tries tries = { 0 };
	struct shmpool_recovery done;
	struct lookup c;
	int error = lookup_pool((uint32_t)pool, &c);
	if (error)
		return error;
	for (;;) {
		error = queue_create(c.p, c.m, name, capacity, flags, &policy);
		if ((error != -EEXIST && error != -ENFILE) ||
		    !queue_create_again(c.p, name, numbers, error))
			return error;
		recover_passes(c.p, c.m, &done, 1); /* the other one may be dead */
		if (load_relaxed(&c.p->closing))
			return -ESHUTDOWN;
		if (!wait_again(&tries))
			return error;
	}
}

int shmpool_queue_find(int pool, const char *name)
{
	struct qmempool *p = opening_pool((uint32_t)pool);
	return p ? (int)opening_read((uint32_t)pool, queue_find(p, name)) :
		   opening_missing((uint32_t)pool);
}

int shmpool_queue_info(int pool, int queue, struct shmpool_queue_info *info)
{
	struct lookup c;
	int error = lookup_to_read((uint32_t)pool, (uint32_t)queue, &c);
	if (error)
		return error;
	const struct alf_ring *r = c.ring, *part;
	const struct queue_slot *slot = segment_queue(&c.p->segment, r->id);
	memcpy(info->name, slot->name, sizeof(info->name));
	info->name[sizeof(info->name) - 1] = 0;
	info->capacity = queue_share(c.p, r);
	info->single_producer = !!(r->flags & ALF_SINGLE_PRODUCER);
	info->single_consumer = !!(r->flags & ALF_SINGLE_CONSUMER);
	info->on_demand = !!(r->flags & ALF_ON_DEMAND);
	info->count = (uint32_t)queue_count(r);
	info->topic = !!(r->flags & ALF_TOPIC);
	info->waiting = load_relaxed(&r->q->room_wait) & WAIT_COUNT_MASK;
	info->producer = load_relaxed(&r->q->producer) & TAG_NUMBER_MASK;
	info->consumer = load_relaxed(&r->q->consumer) & TAG_NUMBER_MASK;
	info->on_death = slot->on_death;
	info->dead_letter = slot->dead_letter;
	info->max_redeliveries = slot->max_redeliveries;
	info->laned = r->queue == r->id ? 0 : r->queue;
	info->lanes = lanes_are(r) ? r->lanes->n : 0;
	info->active = lanes_are(r) ? lanes_active(r->lanes) : 0;
	info->grows = !!(r->flags & ALF_LANES_GROW);
	info->bulk = r->bulk;
	info->enqueued = info->dequeued = info->lost = 0;
	for (uint32_t k = 0; (part = queue_part(r, k)); k++) {
		info->enqueued += alf_end(load_relaxed(&part->q->prod)) - alf_capacity(part);
		info->dequeued += load_relaxed(&part->q->cons) - alf_capacity(part);
		info->lost += load_relaxed(&part->q->lost);
	}
	info->refused = load_relaxed(&slot->refused);
	info->dropped = load_relaxed(&slot->dropped);
	return (int)opening_read((uint32_t)pool, 0);
}

/* Looks up a queue of a pool, both by number. */
static int lookup_number(int pool, int queue, struct lookup *c)
{
	int error = lookup_pool((uint32_t)pool, c);
	if (error)
		return error;
	c->ring = queue_ring(c->p, (uint32_t)queue);
	return c->ring ? 0 : queue_missing(c->p, (uint32_t)queue);
}

int shmpool_queue_shutdown_wait(int pool, int queue)
{
	struct lookup c;
	int error = lookup_number(pool, queue, &c);
	if (error)
		return error;
	error = queue_shutdown(c.ring, c.m);
	if (error == -EBUSY && recover_role(c.p, c.m, c.ring))
		error = queue_shutdown(c.ring, c.m);
	return error;
}

int shmpool_queue_lane(int pool, int queue)
{
	struct lookup c;
	int error = lookup_number(pool, queue, &c);
	return error ? error : (int)queue_in(c.m, c.ring)->id;
}

int shmpool_queue_lanes(int pool, int queue, uint32_t *out, size_t n)
{
	struct lookup c;
	const struct alf_ring *part;
	uint32_t k = 0;
	int error = lookup_to_read((uint32_t)pool, (uint32_t)queue, &c);
	if (error)
		return error;
	const uint32_t most = lanes_are(c.ring) ? lanes_active(c.ring->lanes) : 1;
	for (; k < most && k < n && (part = queue_part(c.ring, k)); k++)
		out[k] = part->id;
	return (int)opening_read((uint32_t)pool, k);
}

int shmpool_queue_ended(int pool, int queue)
{
	struct lookup c;
	int error = lookup_to_read((uint32_t)pool, (uint32_t)queue, &c);
	return error ? error : (int)opening_read((uint32_t)pool, alf_closed(c.ring));
}

int64_t shmpool_unfinished_wait(int pool, int queue, int producers, int64_t deadline)
{
	struct lookup c;
	int64_t end = wait_slice_end(deadline);
	int error = lookup_number(pool, queue, &c);
	if (error)
		return error;
	const enum unfinished what = producers ? UNFINISHED_PRODUCERS : UNFINISHED_MESSAGES;
	if (what == UNFINISHED_PRODUCERS && deadline == WAIT_NEVER) {
		struct shmpool_recovery done;
		recover(c.p, c.m, &done); /* a dead one is no producer any more */
	}
	const int64_t n = unfinished_wait(c.p, c.m, c.ring, what, end);
	return n > 0 && end != deadline ? -EINTR : n;
}

int64_t shmpool_queue_count(uint64_t key)
{
	struct lookup c;
	int error = lookup_to_read(key_pool(key), key_queue(key), &c);
	return error ? error : opening_read(key_pool(key), (int64_t)queue_count(c.ring));
}

int64_t shmpool_queue_empty(uint64_t key)
{
	struct lookup c;
	int error = lookup_to_read(key_pool(key), key_queue(key), &c);
	return error ? error : opening_read(key_pool(key), !queue_ready(c.ring));
}

int shmpool_queue_release(int pool, int queue)
{
	struct lookup c;
	int error = lookup_number(pool, queue, &c);
	if (!error)
		queue_release(c.ring, c.m);
	return error;
}
