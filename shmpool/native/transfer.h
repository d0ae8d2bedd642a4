/* SPDX-License-Identifier: Apache-2.0
 *
 * transfer.h - moves buffers between a member and a ring: the ring's steps and the owner words, in
 * the order that recovery can repair after a crash.
 *
 * transfer_in    the member owns the buffers; afterwards the ring does, or nothing has changed
 * transfer_out   the ring owns the buffers; afterwards the member does
 *
 *     killed after    the op record          the owner words                 repaired by
 *     alf_reserve     covers the positions   OWNED(dead)                     ranges_bury(), sweep()
 *     transfer_mark   covers the positions   TRANSIT, never published        sweep_unreserve()
 *     alf_publish     covers the positions   TRANSIT, published              (nothing to repair)
 *     alf_claim       covers the positions   TRANSIT, position behind cons   sweep()
 *     transfer_take   covers the positions   OWNED(dead)                     sweep()
 *
 * Each buffer is found exactly once.
 *
 * Ordering: [OWNER] of owner.h, [BYPASS] of bypass.h, and those of alf_queue.h.
 */
#ifndef SHMPOOL_TRANSFER_H
#define SHMPOOL_TRANSFER_H

#include "bypass.h"

/* A consumer goes through headers upward if its producer is so many bulks ahead
 * (docs/tuning.md). */
#define TRANSFER_CLEAR 2u

/* Marks n buffers TRANSIT to n positions of r, from at on. */
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
	/* The positions do not wrap, so the words rise by one without a carry. */
#pragma GCC unroll 4
	for (const uint64_t *end = handle + n; handle != end; handle++)
		store_relaxed(&buffers[handle_index(*handle)].owner, transit++);
}

/* Puts n buffers of m, whose indices are checked, into a ring: all, or -ENOBUFS and none. */
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

/* Writes the owner word mine into the buffer whose index was claimed from queue number id, and
 * stores the buffer's handle in *handle. Returns false if *handle is no index: the ring is
 * corrupted, and the index must not be used. */
static ALWAYS_INLINE bool transfer_take(struct buffer *buffers, uint32_t capacity, uint64_t mine,
					uint32_t id, uint64_t *handle, bool named)
{
	const uint32_t index = handle_index(*handle);
	if (unlikely(index >= capacity))
		return false;
	struct buffer *b = &buffers[index];
	/* Store first: a load would fetch the line shared, and the store would then fetch it again
	 * for ownership. */
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

/* The same for n handles, upward or from the last one down. The hardware prefetcher fetches the
 * lines after those that a loop touches: upward, the headers of the next bulk, which the producer
 * may still be writing. */
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
	/* No explicit prefetch: the transfers of the lines overlap anyway, measured near and
	 * far. */
#pragma GCC unroll 4
	for (uint32_t i = 0; i < n; i++)
		if (unlikely(!transfer_take(buffers, capacity, mine, id, &handle[i], named)))
			well = false;
	return well;
}

/* Takes 1 to n buffers from a ring for m: from a named queue, with p and m of class 0, or from the
 * free ring or a side ring of p. Returns how many, 0 if the ring is empty, -EBADMSG if
 * what it holds is no index. named is false for a ring of free buffers; tries is that of
 * bypass_check_claim() there. */
static ALWAYS_INLINE int transfer_any(const struct qmempool *p, struct member *m,
				      const struct alf_ring *r, uint64_t *handle, uint32_t n,
				      enum alf_side side, bool named, uint32_t *tries)
{
	uint32_t got = alf_claim(r, &m->op, handle, n, side);
	bool well = true;
	if (!named && unlikely(load_seq_cst(pool_bypassed(r)))) /* [BYPASS] */
		got = bypass_check_claim(p, m, r, handle, got, n, tries);
	/* Read once: the compiler cannot know that no store below changes them. */
	struct buffer *const buffers = p->buffers;
	const uint32_t capacity = named ? p->total : p->capacity, id = r->queue;
	const uint64_t mine = m->tag;
	/* Fetches the bytes while the header is written. */
	if (named && n == 1 && got)
		prefetch_read(segment_data(&p->segment, handle_index(handle[0])) +
			      p->segment.geometry.headroom);
	if (n == 1 && got)
		well = transfer_take(buffers, capacity, mine, id, handle, named);
	else if (got)
		well = transfer_take_all(buffers, capacity, mine, id, handle, got, named,
					 !named || alf_ready(r, TRANSFER_CLEAR * got - 1));
	uint32_t good = likely(well) ? got : pool_filter(p, handle, got);
	alf_done(&m->op, side);
	return likely(good || !got) ? (int)good : -EBADMSG;
}

static ALWAYS_INLINE int transfer_out(const struct qmempool *p, struct member *m,
				      const struct alf_ring *r, uint64_t *handle, uint32_t n,
				      enum alf_side side)
{
	return transfer_any(p, m, r, handle, n, side, true, NULL);
}

/* The same from the free ring. */
static ALWAYS_INLINE int transfer_free(const struct qmempool *p, struct member *m, uint64_t *handle,
				       uint32_t n, uint32_t *tries)
{
	return transfer_any(p, m, &p->free, handle, n, ALF_MULTI, false, tries);
}

#endif
