/* SPDX-License-Identifier: Apache-2.0
 *
 * transfer.h - moving buffers between a member and a ring: the ring's two steps with the owner
 * words between them, in the one order that a sweep can put right after a death.
 *
 * transfer_in    the member owns the buffers; afterwards the ring does, or nothing has changed
 * transfer_out   the ring owns them; afterwards the member does
 *
 * Killed between reserve and publish, the dead member's op record covers the positions, its buffers
 * read OWNED(dead) or TRANSIT to a position never published. Killed between claim and the owner
 * words, they read TRANSIT to a position behind cons. Either way each is found exactly once.
 *
 * Ordering
 *     [BYPASS]  bypassed: whoever bypasses a stopped member raises it and then looks at cons;
 *               whoever claims
 *              moves cons and then looks at it. All four are seq_cst, so that either the one leaves
 *              alone what the other claims, or the other looks at each owner word.
 *     [OWNER]  an owner word: whoever sweeps and reads that the member has it sees from which
 *              queue. For everybody else [SLOT] of alf_queue.h carries what the header says.
 */
#ifndef SHMPOOL_TRANSFER_H
#define SHMPOOL_TRANSFER_H

#include "qmempool.h"

/* Bulks that a producer is ahead by when its consumer may go forward. */
#define TRANSFER_CLEAR 2u

/* Says in the owner words of n buffers that they are on their way to as many positions of r, from
 * at on. */
static ALWAYS_INLINE void transfer_mark(const struct qmempool *p, const struct alf_ring *r,
					const uint64_t *handle, uint32_t n, alf_position at)
{
	struct buffer *const buffers = p->buffers;
	uint64_t transit = owner_transit(r->id, at);
	if (n > 1 && unlikely(n > r->mask + 1 - (at & r->mask))) {
		for (uint32_t i = 0; i < n; i++)
			store_relaxed(&buffers[handle_index(handle[i])].owner,
				      owner_transit(r->id, (alf_position)(at + i)));
		return;
	}
	/* They do not go round the end of the ring, and so the words go up by one without a carry.
	 *  */
#pragma GCC unroll 4
	for (const uint64_t *end = handle + n; handle != end; handle++)
		store_relaxed(&buffers[handle_index(*handle)].owner, transit++);
}

/* Puts n buffers that m owns, their indices checked, into a ring: all, or -ENOBUFS. */
static ALWAYS_INLINE int transfer_in(const struct qmempool *p, struct member *m,
				     const struct alf_ring *r, const uint64_t *handle, uint32_t n,
				     enum alf_side side)
{
	alf_position at;
	int error = alf_reserve(r, &m->op, n, side, &at);
	if (likely(!error)) {
		alf_publishing(&m->op, n, side);
		transfer_mark(p, r, handle, n, at);
		alf_publish(r, at, handle, n);
	}
	alf_done(&m->op, side);
	return error;
}

/* Of the buffers just claimed from the free ring, those whose slots were not hollow, made m's;
 * claims up to n more while there are none. How many. */
uint32_t transfer_solid(const struct qmempool *p, struct member *m, uint64_t *handle,
			uint32_t claimed, uint32_t n);

/* Keeps of n handles those that name a buffer. How many. */
uint32_t transfer_indices(const struct qmempool *p, uint64_t *handle, uint32_t n);

/* Makes mine the buffer that handle says was claimed from ring number id, and handle its handle.
 * False if it is no index: somebody scribbled over the ring, and it must not be followed. */
static ALWAYS_INLINE bool transfer_take(struct buffer *buffers, uint32_t capacity, uint64_t mine,
					uint32_t id, uint64_t *handle, bool named)
{
	const uint32_t index = handle_index(*handle);
	if (unlikely(index >= capacity))
		return false;
	struct buffer *b = &buffers[index];
	/* A store comes first: a load would fetch the line from its last writer's core to read, and
	 * the store once more to write. */
	if (named)
		store_relaxed(&b->queue, id);
	else
		store_relaxed(&b->owner, mine);
	uint32_t generation = buffer_generation(b);
	if (named) {
		store_relaxed(&b->got, generation);
		store_release(&b->owner, mine); /* [OWNER] */
	}
	*handle = handle_of(index, generation);
	return true;
}

/* The same for n of them, forward or from the last one on. A processor fetches by itself the lines
 * beyond those that a loop goes through: forward, the headers of the next bulk, which the producer
 * may be writing yet. */
static ALWAYS_INLINE bool transfer_take_all(struct buffer *buffers, uint32_t capacity,
					    uint64_t mine, uint32_t id, uint64_t *handle,
					    uint32_t n, bool named, bool forward)
{
	bool well = true;
	if (!forward) {
#pragma GCC unroll 4
		for (uint32_t i = n; i--;)
			if (unlikely(
				    !transfer_take(buffers, capacity, mine, id, &handle[i], named)))
				well = false;
		return well;
	}
	/* No prefetch of the lines first: their transfers overlap anyhow, near cores or far. */
#pragma GCC unroll 4
	for (uint32_t i = 0; i < n; i++)
		if (unlikely(!transfer_take(buffers, capacity, mine, id, &handle[i], named)))
			well = false;
	return well;
}

/* Takes 1..n buffers from a ring for m, the free ring or a named one; 0 if it is empty, -EBADMSG if
 * what it holds is no index. */
static ALWAYS_INLINE int transfer_any(const struct qmempool *p, struct member *m,
				      const struct alf_ring *r, uint64_t *handle, uint32_t n,
				      enum alf_side side, bool named)
{
	uint32_t got = alf_claim(r, &m->op, handle, n, side);
	bool well = true;
	if (!named && unlikely(load_seq_cst(&segment_shared(&p->segment)->bypassed))) /* [BYPASS] */
		got = transfer_solid(p, m, handle, got, n);
	/* Read once: the compiler cannot know that nothing stored meanwhile is one of them. */
	struct buffer *const buffers = p->buffers;
	const uint32_t capacity = p->capacity, id = r->id;
	const uint64_t mine = m->tag;
	/* While the header of one is written, its bytes come over. */
	if (named && n == 1 && got)
		prefetch_read(segment_data(&p->segment, handle_index(handle[0])) +
			      p->segment.geometry.headroom);
	if (n == 1 && got)
		well = transfer_take(buffers, capacity, mine, id, handle, named);
	else if (got)
		well = transfer_take_all(buffers, capacity, mine, id, handle, got, named,
					 !named || alf_ready(r, TRANSFER_CLEAR * got - 1));
	uint32_t good = likely(well) ? got : transfer_indices(p, handle, got);
	alf_done(&m->op, side);
	return likely(good || !got) ? (int)good : -EBADMSG;
}

static ALWAYS_INLINE int transfer_out(const struct qmempool *p, struct member *m,
				      const struct alf_ring *r, uint64_t *handle, uint32_t n,
				      enum alf_side side)
{
	return transfer_any(p, m, r, handle, n, side, true);
}

/* The same from the ring of free buffers. */
static ALWAYS_INLINE int transfer_free(const struct qmempool *p, struct member *m, uint64_t *handle,
				       uint32_t n)
{
	return transfer_any(p, m, &p->free, handle, n, ALF_MULTI, false);
}

#endif
