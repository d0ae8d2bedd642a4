/* SPDX-License-Identifier: Apache-2.0
 *
 * transfer.h - moving buffers between a member and a ring: the ring's two steps with the owner words
 * between them, in the one order that a sweep can put right after a death.
 *
 * transfer_in    the member owns the buffers; afterwards the ring does, or nothing has changed
 * transfer_out   the ring owns them; afterwards the member does
 *
 * Killed between reserve and publish, the dead member's op record covers the positions, its buffers
 * read OWNED(dead) or TRANSIT to a position never published. Killed between claim and the owner
 * words, they read TRANSIT to a position behind cons. Either way each is found exactly once.
 *
 * Ordering
 *     [BYPASS]  bypassed: whoever bypasses a stopped member raises it and then looks at cons; whoever claims
 *              moves cons and then looks at it. All four are seq_cst, so that either the one leaves
 *              alone what the other claims, or the other looks at each owner word.
 *     [OWNER]  an owner word: whoever sweeps and reads that the member has it sees from which queue. For
 *              everybody else [SLOT] of alf_queue.h carries what the header says.
 */
#ifndef SHMPOOL_TRANSFER_H
#define SHMPOOL_TRANSFER_H

#include "qmempool.h"

/* Overlaps the transfers of the header lines from the core that wrote them last. */
static inline void transfer_prefetch(const struct qmempool *p, const uint64_t *handle, uint32_t n)
{
	if (n > 1)
		for (uint32_t i = 0; i < n; i++)
			prefetch_write(qmempool_buffer(p, handle_index(handle[i])));
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
		for (uint32_t i = 0; i < n; i++) {
			struct buffer *b = qmempool_buffer(p, handle_index(handle[i]));
			store_relaxed(&b->owner, owner_transit(r->id, at + i));
		}
		alf_publish(r, at, handle, n);
	}
	alf_done(&m->op, side);
	return error;
}

/* Of the buffers just claimed from the free ring, those whose slots were not hollow, made m's; claims up to n
 * more while there are none. How many. */
uint32_t transfer_solid(const struct qmempool *p, struct member *m, uint64_t *handle,
			uint32_t claimed, uint32_t n);

/* Takes 1..n buffers from a ring for m, the free ring or a named one; 0 if it is empty, -EBADMSG if what it holds is no index. */
static ALWAYS_INLINE int transfer_any(const struct qmempool *p, struct member *m,
				      const struct alf_ring *r, uint64_t *handle, uint32_t n,
				      enum alf_side side, bool named)
{
	uint32_t got = alf_claim(r, &m->op, handle, n, side), good = 0;
	if (!named && unlikely(load_seq_cst(&segment_shared(&p->segment)->bypassed))) /* [BYPASS] */
		got = transfer_solid(p, m, handle, got, n);
	transfer_prefetch(p, handle, got);
	if (named && n == 1 &&
	    got) /* its header is written at once: its bytes come over meanwhile */
		prefetch_read(segment_data(&p->segment, handle_index(handle[0])) +
			      p->segment.geometry.headroom);
	for (uint32_t i = 0; i < got; i++) {
		uint32_t index = handle_index(handle[i]);
		if (unlikely(index >= p->capacity))
			continue; /* somebody scribbled over the ring: never follow it */
		struct buffer *b = qmempool_buffer(p, index);
		/* A store comes first: a load would fetch the line from its last writer's core to read, and
		 * the store once more to write. */
		if (named)
			store_relaxed(&b->queue, r->id);
		else
			store_relaxed(&b->owner, m->tag);
		uint32_t generation = load_relaxed(&b->generation);
		if (named) {
			store_relaxed(&b->got, generation);
			store_release(&b->owner, m->tag); /* [OWNER] */
		}
		handle[good++] = handle_of(index, generation);
	}
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
