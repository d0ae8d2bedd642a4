/* SPDX-License-Identifier: Apache-2.0
 *
 * alf_queue.h - an array-based lock-free FIFO of buffer indices, bulk in and bulk out.
 *
 * A ring of 2^k 64-bit words in memory that processes share. Two free-running positions, one
 * compare-and-swap per bulk, no tail: nobody ever waits for somebody else's store. After the
 * alf_queue of J. D. Brouer's Linux RFC of December 2014 ("Faster than SLAB caching of SKBs with
 * qmempool"), which it shares no code and no tail-wait with; the lap in each slot is what replaces it.
 *
 * Who may call what at the same time
 *     alf_reserve + alf_publish   any number of producers; with single=true one at a time
 *     alf_claim                   any number of consumers; with single=true one at a time
 *     alf_count, alf_avail_space  anybody; exact only while nothing moves
 *     alf_init                    before anybody else sees the queue
 *
 * Ordering: what each tag pairs
 *     [SLOT]  slot[i], written by a producer, read by a consumer: who sees the published word sees
 *             the buffer's bytes and its owner word.
 *     [CONS]  cons, moved by a consumer, read by a producer: it may overwrite every slot behind it,
 *             because the consumer read those slots before it moved cons. Relayed through cons_seen.
 *     [PROD]  prod, moved by a producer, read by a sleeper (wait.h) and by an observer: the op
 *             record that covers the reserved positions is visible before they are.
 *     [OP]    the caller's op record: once it reads as cleared, the slots it covered are published
 *             (enqueue) or the owner words written (dequeue).
 *
 * Progress: every loop here is ended by somebody else's success (a lost compare-and-swap means that
 * another producer or consumer moved on). A producer that stops between alf_reserve and alf_publish
 * delays what stands behind it in this queue and nothing else; if it died, its positions are made
 * void and consumers step over them.
 *
 * Invariants, with all positions 64-bit and subtracted, never compared
 *     0 <= prod - cons <= capacity
 *     slot of position p holds lap(p) exactly when p is published
 *     positions start at capacity, so that zeroed memory (lap 0) is an empty ring
 */
#ifndef SHMPOOL_ALF_QUEUE_H
#define SHMPOOL_ALF_QUEUE_H

#include <errno.h>

#include "atomic.h"

#define ALF_CAPACITY_MIN 2u
#define ALF_CAPACITY_MAX 65536u /* of a queue; the pool's own ring of free buffers goes further */

/* A slot: | lap 39 | void 1 | index 24 |. The lap is a position divided by the capacity: at 10^8
 * elements a second in a ring of 2 it comes round again after three hours, and even then only a
 * store delayed by exactly that long could be mistaken for a new one. */
#define ALF_INDEX_BITS 24
#define ALF_INDEX_MASK ((1ull << ALF_INDEX_BITS) - 1)
#define ALF_VOID (1ull << ALF_INDEX_BITS)
#define ALF_LAP_ONE (1ull << (ALF_INDEX_BITS + 1))

/* An op record: | kind 2 | queue 10 | n 17 | position 35 |: what its owner may have reserved or
 * claimed and not yet finished. One word, so that it can be read while it changes. */
enum alf_op_kind { ALF_OP_NONE, ALF_OP_ENQUEUE, ALF_OP_DEQUEUE };
#define ALF_OP_POSITION_BITS 35
#define ALF_OP_COUNT_BITS 17
#define ALF_OP_QUEUE_BITS 10

/* In the segment. */
struct alf_queue {
	/* Written by alf_init only, and the two wait words (wait.h), which change when somebody sleeps. */
	uint32_t capacity;
	uint32_t id;
	uint32_t flags;
	uint32_t data_wait; /* consumers asleep until there is something to dequeue */
	uint32_t room_wait; /* producers asleep until there is room */
	uint32_t pad0[11];
	uint64_t prod;
	uint64_t
		cons_seen; /* a value cons has had: producers look at cons only when this says full */
	uint32_t producer; /* of a single-producer queue: its member's number + 1, 0 for none yet */
	uint32_t pad1[11];
	uint64_t cons;
	uint32_t consumer; /* of a single-consumer queue, likewise */
	uint32_t pad2[13];
};
_Static_assert(sizeof(struct alf_queue) == 3 * CACHE_LINE, "one line for each side");
_Static_assert(offsetof(struct alf_queue, prod) == CACHE_LINE, "producers' line");
_Static_assert(offsetof(struct alf_queue, cons) == 2 * CACHE_LINE, "consumers' line");

/* ALF_WAKES: somebody may sleep on the queue (wait.h), so a single side, which has no
 * compare-and-swap, moves its position with seq_cst: it cannot then miss a sleeper. */
enum { ALF_SINGLE_PRODUCER = 1, ALF_SINGLE_CONSUMER = 2, ALF_WAKES = 4 };

/* One process's way to a queue: the geometry is copied out of the segment once and checked then, so
 * that nothing which scribbles over the segment later can lead an access outside it. */
struct alf_ring {
	struct alf_queue *q;
	uint64_t *slot;
	uint64_t mask;
	uint32_t shift;
	uint32_t id;
	uint32_t flags;
};

static inline uint32_t alf_capacity(const struct alf_ring *r)
{
	return (uint32_t)r->mask + 1;
}

/* The slot word of a published position, without its index. */
static inline uint64_t alf_tag(const struct alf_ring *r, uint64_t position)
{
	return (position >> r->shift) * ALF_LAP_ONE;
}

static inline uint64_t alf_op(enum alf_op_kind kind, uint32_t queue, uint32_t n, uint64_t position)
{
	return (uint64_t)kind << 62 |
	       (uint64_t)queue << (ALF_OP_POSITION_BITS + ALF_OP_COUNT_BITS) |
	       (uint64_t)n << ALF_OP_POSITION_BITS |
	       (position & ((1ull << ALF_OP_POSITION_BITS) - 1));
}

static inline void alf_move(const struct alf_ring *r, uint64_t *position, uint64_t to)
{
	if (r->flags & ALF_WAKES)
		store_seq_cst(position, to); /* [PROD] [CONS] */
	else
		store_release(position, to); /* [PROD] [CONS] */
}

/* Points r at a queue whose slots lie at slot. capacity is a power of two. */
static inline void alf_bind(struct alf_ring *r, struct alf_queue *q, uint64_t *slot,
			    uint32_t capacity, uint32_t id, uint32_t flags)
{
	r->q = q;
	r->slot = slot;
	r->mask = capacity - 1;
	r->shift = (uint32_t)__builtin_ctz(capacity);
	r->id = id;
	r->flags = flags;
}

/* Makes an empty queue in place; slot[] must read as zero. 0, or -EINVAL if capacity is no power of
 * two from ALF_CAPACITY_MIN to limit. */
static inline int alf_init(struct alf_ring *r, struct alf_queue *q, uint64_t *slot,
			   uint32_t capacity, uint32_t limit, uint32_t id, uint32_t flags)
{
	if (capacity < ALF_CAPACITY_MIN || capacity > limit || (capacity & (capacity - 1)))
		return -EINVAL;
	*q = (struct alf_queue) { .capacity = capacity,
				  .id = id,
				  .flags = flags,
				  .prod = capacity,
				  .cons_seen = capacity,
				  .cons = capacity };
	alf_bind(r, q, slot, capacity, id, flags);
	return 0;
}

/* Reserves n positions, the first of them in *at: all of them or none. 0, -ENOBUFS if they do not fit
 * now. Until the caller has published and cleared *op, that record covers them. */
static inline int alf_reserve(const struct alf_ring *r, uint64_t *op, uint32_t n, bool single,
			      uint64_t *at)
{
	struct alf_queue *q = r->q;
	uint64_t prod = load_acquire(&q->prod); /* [PROD] before cons, or the space underflows */
	for (;;) {
		uint64_t cons = load_acquire(&q->cons_seen); /* [CONS] */
		/* Signed: cons_seen may lag by more than a ring (less than no room), and a prod that
		 * others have moved on since may lag behind cons (too much room: the CAS fails). */
		int64_t room = (int64_t)(r->mask + 1 - (prod - cons));
		if (unlikely(room < (int64_t)n)) {
			cons = load_acquire(&q->cons);      /* [CONS] */
			store_release(&q->cons_seen, cons); /* [CONS] */
			room = (int64_t)(r->mask + 1 - (prod - cons));
			if (room < (int64_t)n) {
				if (single)
					return -ENOBUFS;
				uint64_t now = load_acquire(&q->prod); /* [PROD] */
				if (now == prod)
					return -ENOBUFS;
				prod = now;
				continue;
			}
		}
		store_relaxed(op, alf_op(ALF_OP_ENQUEUE, r->id, n, prod)); /* [OP] */
		if (single) {
			alf_move(r, &q->prod, prod + n); /* [PROD] */
			break;
		}
		if (likely(cas_seq_cst(&q->prod, &prod, prod + n))) /* [PROD] */
			break;
	}
	*at = prod;
	return 0;
}

/* Fills n reserved positions from at on with the indices in handle[]; their owner words and bytes
 * must have been written. The first slot is stored last, so a consumer sees all of a bulk or nothing. */
static inline void alf_publish(const struct alf_ring *r, uint64_t at, const uint64_t *handle,
			       uint32_t n)
{
	uint64_t first = r->mask + 1 - (at & r->mask), tag = alf_tag(r, at);
	if (n == 1) {
		store_release(&r->slot[at & r->mask],
			      tag | (handle[0] & ALF_INDEX_MASK)); /* [SLOT] */
		return;
	}
	if (unlikely(n > first))
		store_run_release(r->slot, tag + ALF_LAP_ONE, handle + first, ALF_INDEX_MASK,
				  n - (uint32_t)first); /* [SLOT] */
	else
		first = n;
	store_run_release(&r->slot[at & r->mask], tag, handle, ALF_INDEX_MASK,
			  (uint32_t)first); /* [SLOT] */
}

/* Copies out up to n indices published from position at on. Returns how many positions they span
 * (voids included), with the number of indices in *values. */
static inline uint32_t alf_read(const struct alf_ring *r, uint64_t at, uint64_t *handle, uint32_t n,
				uint32_t *values)
{
	uint64_t last = at + n - 1;
	uint64_t end = load_acquire(&r->slot[last & r->mask]) ^ alf_tag(r, last); /* [SLOT] */
	if (likely(end <= ALF_INDEX_MASK)) {
		if (n == 1) {
			handle[0] = end;
			return *values = 1;
		}
		uint64_t first = r->mask + 1 - (at & r->mask), tag = alf_tag(r, at), differs = 0;
		if (unlikely(n > first))
			differs = load_run_acquire(r->slot, tag + ALF_LAP_ONE, handle + first,
						   n - (uint32_t)first); /* [SLOT] */
		else
			first = n;
		differs |= load_run_acquire(&r->slot[at & r->mask], tag, handle,
					    (uint32_t)first); /* [SLOT] */
		if (likely(differs <= ALF_INDEX_MASK))
			return *values = n;
	}
	uint32_t span = 0, got = 0;
	while (got < n && span <= r->mask) {
		uint64_t word = load_acquire(&r->slot[(at + span) & r->mask]) ^
				alf_tag(r, at + span); /* [SLOT] */
		if (word > (ALF_VOID | ALF_INDEX_MASK))
			break;
		if (word <= ALF_INDEX_MASK)
			handle[got++] = word;
		span++;
	}
	*values = got;
	return span;
}

/* Takes 1..n indices, oldest first. Returns how many, 0 if nothing is published at the head. Until the
 * caller has written the owner words and cleared *op, that record covers what was taken. */
static inline uint32_t alf_claim(const struct alf_ring *r, uint64_t *op, uint64_t *handle,
				 uint32_t n, bool single)
{
	struct alf_queue *q = r->q;
	uint64_t cons = load_acquire(&q->cons); /* [CONS] */
	if (n > r->mask + 1)
		n = (uint32_t)r->mask + 1;
	for (;;) {
		uint32_t values, span = alf_read(r, cons, handle, n, &values);
		if (span == 0) {
			if (single)
				return 0;
			uint64_t now = load_acquire(&q->cons); /* [CONS] */
			if (now == cons)
				return 0;
			cons = now;
			continue;
		}
		store_relaxed(op, alf_op(ALF_OP_DEQUEUE, r->id, span, cons)); /* [OP] */
		if (single)
			alf_move(r, &q->cons, cons + span);                    /* [CONS] */
		else if (unlikely(!cas_seq_cst(&q->cons, &cons, cons + span))) /* [CONS] */
			continue;
		if (likely(values))
			return values;
		cons += span;
	}
}

/* Ends an operation: what its op record covered is done. */
static inline void alf_done(uint64_t *op)
{
	store_release(op, 0); /* [OP] */
}

/* Elements in the queue, reserved ones included. */
static inline uint32_t alf_count(const struct alf_ring *r)
{
	uint64_t cons = load_acquire(&r->q->cons);     /* [CONS] */
	uint64_t n = load_acquire(&r->q->prod) - cons; /* [PROD] */
	return n > r->mask + 1 ? (uint32_t)r->mask + 1 : (uint32_t)n;
}

static inline uint32_t alf_avail_space(const struct alf_ring *r)
{
	return alf_capacity(r) - alf_count(r);
}

static inline bool alf_empty(const struct alf_ring *r)
{
	return alf_count(r) == 0;
}

#endif
