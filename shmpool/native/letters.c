/* SPDX-License-Identifier: Apache-2.0
 *
 * letters.c - the calls of shmpool.h and binding.h about buffers whose consumer failed: returns one
 * to its queue, moves one on from a dead-letter queue, copies one without taking it, and counts
 * those that were refused.
 */
#include "alf_repair.h"
#include "blocking.h"
#include "copy.h"
#include "lookup.h"
#include "process.h"
#include "recover.h"
#include "requeue.h"

static void count_refused(const struct qmempool *p, uint32_t queue, uint64_t n)
{
	add_relaxed(&segment_queue(&p->segment, queue)->refused, n);
}

int shmpool_refused(int pool, int queue, uint64_t n)
{
	struct qmempool *p = opening_pool((uint32_t)pool);
	if (!p)
		return opening_missing((uint32_t)pool);
	if (!p->segment.writes)
		return -EROFS;
	if (!queue_ring(p, (uint32_t)queue))
		return -ENOENT;
	count_refused(p, (uint32_t)queue, n);
	return 0;
}

int64_t shmpool_requeue_wait(uint64_t key, uint64_t handle, int64_t deadline)
{
	struct lookup c;
	uint32_t to;
	const bool keep = deadline == WAIT_FOREVER; /* the pool keeps what has no room now */
	int64_t end = keep ? WAIT_NEVER : wait_slice_end(deadline), error = lookup_key(key, &c);
	if (error)
		return error;
	error = blocking_requeue(c.p, c.m, handle, end, &to);
	if (keep && error == -ENOBUFS) {
		requeue_abandon(c.p, c.m, handle);
		return 0;
	}
	if (!keep)
		error = wait_slice_result(error, end, deadline);
	if (error == -ENOBUFS)
		count_refused(c.p, to, 1);
	return error;
}

int64_t shmpool_move(uint64_t key, uint32_t to, int reset)
{
	struct lookup c;
	int error = lookup_queue(key, &c);
	if (error)
		return error;
	error = requeue_move(c.p, c.m, c.ring, to, reset);
	if (error == -EBUSY && recover_role(c.p, c.m, c.ring))
		error = requeue_move(c.p, c.m, c.ring, to, reset);
	return error;
}

/* Copies the buffer at a position of a ring without writing to it. Returns false if the buffer was
 * taken in that time: the owner word must be the same before and after the copy. A member that
 * takes the buffer changes the owner word before it changes anything that is read here, and the
 * owner word of a position is never used again. Where a processor's stores may become visible in
 * another order (STORES_IN_ORDER), membarrier(2) orders them, if the writer's process has
 * registered for it. */
static bool copy_out(const struct qmempool *p, const struct alf_ring *r, alf_position at,
		     struct shmpool_peek *out, char *bytes, size_t size)
{
	uint64_t word = alf_word(r, at), index = word & ALF_INDEX_MASK;
	if (alf_at(r, at, word) != ALF_AT_VALUE || index >= p->total ||
	    !segment_exists(&pool_of((struct qmempool *)p, (uint32_t)index)->segment,
			    (uint32_t)index))
		return false;
	const struct buffer *b = pool_buffer(p, (uint32_t)index);
	uint64_t owner = owner_transit(r->id, at);
	if (load_acquire(&b->owner) != owner) /* [OWNER] */
		return false;
	const uint64_t handle = handle_of((uint32_t)index, buffer_generation(b));
	const uint64_t length = bytes_all(p, handle).length;
	*out = (struct shmpool_peek) {
		.position = (alf_position)(at - alf_capacity(r)),
		.timestamp = load_relaxed(&b->timestamp) & INT64_MAX,
		.index = (uint32_t)index,
		.length = length,
		.mark = load_relaxed(&b->mark),
		.flow_hash = load_relaxed(&b->flow_hash),
		.redelivered = load_relaxed(&b->redelivered),
		.origin = load_relaxed(&b->origin),
	};
	bytes_copy_out(p, handle, bytes, size);
	if (!STORES_IN_ORDER)
		process_barrier(); /* [OWNER] the copy before it, the owner word after it */
	barrier_loads();
	return load_relaxed(&b->owner) == owner;
}

int shmpool_peek(int pool, int queue, uint64_t position, struct shmpool_peek *out, char *bytes,
		 size_t size)
{
	struct lookup c;
	int error = lookup_to_read((uint32_t)pool, (uint32_t)queue, &c);
	if (error)
		return error;
	const struct alf_ring *r = c.ring;
	alf_position at = load_acquire(&r->q->cons);           /* [CONS] */
	alf_position end = alf_end(load_acquire(&r->q->prod)); /* [PROD] */
	alf_position wanted = (alf_position)(position + alf_capacity(r));
	if ((alf_distance)(wanted - at) > 0)
		at = wanted;
	for (uint64_t n = (alf_position)(end - at); n && n <= r->mask + 1; n--, at++)
		if (copy_out(c.p, r, at, out, bytes, size))
			return (int)opening_read((uint32_t)pool, 1);
	return (int)opening_read((uint32_t)pool, 0);
}
