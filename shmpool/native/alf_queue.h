/* SPDX-License-Identifier: Apache-2.0
 *
 * alf_queue.h - an array-based lock-free FIFO of buffer indices, bulk in and bulk out.
 *
 * A ring of 2^k 64-bit words in memory that processes share. Two free-running positions, one
 * compare-and-swap per bulk, no tail: nobody ever waits for somebody else's store. After the
 * alf_queue of J. D. Brouer's Linux RFC of December 2014 ("Faster than SLAB caching of SKBs with
 * qmempool"), which it shares no code and no tail-wait with; the lap in each slot replaces it.
 *
 * Who may call what at the same time
 *     alf_reserve + alf_publish   any number of producers with ALF_MULTI, else one at a time
 *     alf_claim                   any number of consumers with ALF_MULTI, else one at a time
 *     alf_count, alf_avail_space  anybody; exact only while nothing moves
 *     alf_init                    before anybody else sees the queue
 *
 * Ordering: what each tag pairs
 *     [SLOT]  slot[i], written by a producer, read by a consumer: who sees the published word sees
 *             the buffer's bytes and its owner word.
 *     [CONS]  cons, moved by a consumer, read by a producer: it may overwrite every slot behind it,
 *             because the consumer read those slots before it moved cons. Relayed through limit.
 *     [PROD]  prod, moved by a producer, read by a sleeper (wait.h) and by an observer: the op
 *             record that covers the reserved positions is visible before they are.
 *     [OP]    the caller's op record: once it reads as cleared, the slots it covered are published
 *             (enqueue) or the owner words written (dequeue).
 *
 * Progress: every loop here is ended by somebody else's success (a lost compare-and-swap means that
 * another producer or consumer moved on), and after ALF_TURNS_MAX turns in any case: what the words
 * of the ring say bounds nothing. A producer that stops between alf_reserve and alf_publish
 * delays what stands behind it in this queue and nothing else; if it died, its positions are made
 * void and consumers step over them.
 *
 * Invariants, with all positions running freely and subtracted, never compared
 *     0 <= prod - cons <= capacity
 *     slot of position p holds lap(p) exactly when p is published
 *     positions start at capacity, so that zeroed memory (lap 0) is an empty ring
 */
#ifndef SHMPOOL_ALF_QUEUE_H
#define SHMPOOL_ALF_QUEUE_H

#include <errno.h>

#include "alf_op.h"

#define ALF_CAPACITY_MIN 2u
#define ALF_QUEUE_MAX 65536u /* of a queue; the pool's own ring of free buffers goes further */
#define ALF_CAPACITY_MAX                                                                           \
	((uint32_t)(ALF_QUEUE_MAX < ALF_CAPACITY_FITS ? ALF_QUEUE_MAX : ALF_CAPACITY_FITS))

/* A slot: | lap 39 | void 1 | index 24 |. The lap is the position of the ring's first slot in this
 * round: at 10^8 elements a second it comes round again after an hour and a half, and even then
 * only a store delayed by exactly that long could be mistaken for a new one. */
#define ALF_INDEX_BITS 24
#define ALF_INDEX_MASK ((1ull << ALF_INDEX_BITS) - 1)
#define ALF_VOID (1ull << ALF_INDEX_BITS)
#define ALF_LAP_SHIFT (ALF_INDEX_BITS + 1)

#define ALF_RUN_MAX 1024u /* tombstones that a claim steps over at once */
_Static_assert(ALF_QUEUE_MAX + ALF_RUN_MAX <= ALF_OP_COUNT_MAX,
	       "an op record counts a whole queue, and the tombstones between");

/* How many may be on one side. A position that a sleeper looks at (wait.h) is moved with seq_cst,
 * so that whoever moved it cannot miss the sleeper; a compare-and-swap is that anyway. */
enum alf_side { ALF_MULTI, ALF_SINGLE, ALF_SINGLE_WAKES };

/* In the segment. */
struct alf_queue {
	/* Written by alf_init only, but for the wait words (wait.h). */
	uint32_t capacity;
	uint32_t id;
	uint32_t flags;
	uint32_t data_wait; /* consumers asleep until there is something to dequeue */
	uint32_t room_wait; /* producers asleep until there is room */
	uint32_t room_many; /* those of them who put many at once sleep here */
	uint32_t room_want; /* the room that one of those waits for, the least: wait_want() */
	uint32_t pad0[9];
	alf_shared_position prod;
	alf_shared_position
		limit; /* a value cons has had, plus capacity: at it producers look at cons again */
	alf_shared_position full_at; /* where a producer last found no room: alf_slip() */
	uint32_t producer; /* of a single-producer queue: its member's number + 1, 0 for none yet */
	uint32_t pad1[9];
	alf_shared_position cons;
	alf_shared_position empty_at; /* where a consumer last found nothing */
	shared64 stepped;  /* a claim stepped over tombstones: it made more room than it got */
	uint32_t consumer; /* of a single-consumer queue, likewise */
	uint32_t pad2[9];
};
_Static_assert(sizeof(struct alf_queue) == 3 * CACHE_LINE, "one line for each side");
_Static_assert(offsetof(struct alf_queue, prod) == CACHE_LINE, "producers' line");
_Static_assert(offsetof(struct alf_queue, cons) == 2 * CACHE_LINE, "consumers' line");

enum { ALF_SINGLE_PRODUCER = 1, ALF_SINGLE_CONSUMER = 2 };

/* One process's way to a queue: the geometry is copied out of the segment once and checked then, so
 * that nothing which scribbles over the segment later can lead an access outside it. */
struct alf_ring {
	struct alf_queue *q;
	shared64 *slot;
	uint64_t mask;
	uint32_t id;
	uint32_t flags;
	uint64_t op; /* what every op record on this queue has in common */
};

static inline uint32_t alf_capacity(const struct alf_ring *r)
{
	return (uint32_t)r->mask + 1;
}

/* The slot word of a published position, without its index. */
static inline uint64_t alf_tag(const struct alf_ring *r, alf_position position)
{
	return (position - (position & r->mask)) << ALF_LAP_SHIFT;
}

static inline uint64_t alf_op(const struct alf_ring *r, enum alf_op_kind kind, uint32_t n,
			      alf_position position)
{
	return (uint64_t)position << ALF_OP_POSITION_SHIFT |
	       (r->op + kind + ((uint64_t)n << ALF_OP_COUNT_SHIFT));
}

static ALWAYS_INLINE void alf_move(alf_shared_position *position, alf_position to,
				   enum alf_side side)
{
	if (side == ALF_SINGLE_WAKES)
		store_seq_cst(position, to); /* [PROD] [CONS] */
	else
		store_release(position, to); /* [PROD] [CONS] */
}

/* Points r at a queue whose slots lie at slot. capacity is a power of two. */
static inline void alf_bind(struct alf_ring *r, struct alf_queue *q, shared64 *slot,
			    uint32_t capacity, uint32_t id, uint32_t flags)
{
	r->q = q;
	r->slot = slot;
	r->mask = capacity - 1;
	r->id = id;
	r->flags = flags;
	r->op = (uint64_t)id << ALF_OP_QUEUE_SHIFT;
}

/* Makes an empty queue in place; slot[] must read as zero. 0, or -EINVAL if capacity is no power of
 * two from ALF_CAPACITY_MIN to limit. */
static inline int alf_init(struct alf_ring *r, struct alf_queue *q, shared64 *slot,
			   uint32_t capacity, uint32_t limit, uint32_t id, uint32_t flags)
{
	if (capacity < ALF_CAPACITY_MIN || capacity > limit || (capacity & (capacity - 1)) ||
	    capacity / (ALF_CAPACITY_FITS + 1))
		return -EINVAL;
	clear_unshared(q);
	q->capacity = capacity;
	q->id = id;
	q->flags = flags;
	store_relaxed(&q->prod, capacity);
	store_relaxed(&q->full_at, capacity);
	store_relaxed(&q->empty_at, capacity);
	store_relaxed(&q->limit, 2 * (uint64_t)capacity);
	store_relaxed(&q->cons, capacity);
	alf_bind(r, q, slot, capacity, id, flags);
	return 0;
}

/* Fetches ahead the slots of a bulk: to read, because a compare-and-swap follows, and it waits for
 * lines that are taken from others. What lies behind the ring's end is fetched for nothing. */
static ALWAYS_INLINE void alf_fetch_bulk(const struct alf_ring *r, alf_position at, uint32_t n)
{
	const shared64 *slot = &r->slot[(at + ALF_AHEAD) & r->mask];
	for (const shared64 *end = slot + n; slot < end; slot += ALF_LINE)
		prefetch_read((const void *)slot);
}

/* And a line of them where elements go in one by one. */
static ALWAYS_INLINE void alf_fetch_line(const struct alf_ring *r, alf_position at)
{
	if (at % ALF_LINE == 0)
		prefetch_write((const void *)&r->slot[(at + ALF_AHEAD) & r->mask]);
}

/* Reserves n positions, at most ALF_OP_COUNT_MAX, the first of them in *at: all of them or none. 0,
 * -ENOBUFS if they do not fit now. Until the caller has published and cleared *op, that record
 * covers them. */
static ALWAYS_INLINE int alf_reserve(const struct alf_ring *r, shared64 *op, uint32_t n,
				     enum alf_side side, alf_position *at)
{
	struct alf_queue *q = r->q;
	uint32_t pauses = ALF_PAUSES_FIRST;
	alf_position prod =
		load_acquire(&q->prod); /* [PROD] before cons, or the space underflows */
	for (;;) {
		/* Signed: limit may lag by more than a ring (less than no room), and a prod that
		 * others have moved on since may lag behind cons (too much room: the CAS fails). */
		alf_distance room = (alf_distance)(load_acquire(&q->limit) - prod); /* [CONS] */
		if (unlikely(room < (int64_t)n)) {
			alf_position limit = load_acquire(&q->cons) + r->mask + 1; /* [CONS] */
			store_release(&q->limit, limit);                           /* [CONS] */
			room = (alf_distance)(limit - prod);
			if (room < (int64_t)n) {
				alf_position now = side != ALF_MULTI ?
							   prod :
							   load_acquire(&q->prod); /* [PROD] */
				if (now == prod || alf_tired(++pauses)) {
					alf_slip(&q->full_at, prod);
					return -ENOBUFS;
				}
				prod = now;
				continue;
			}
		}
		if (side != ALF_MULTI) {
			if (n == 1)
				alf_fetch_line(r, prod);
			alf_move(&q->prod, prod + n, side); /* [PROD] */
			break;
		}
		store_relaxed(op, alf_op(r, ALF_OP_ENQUEUE, n, prod)); /* [OP] */
		if (likely(cas_seq_cst(&q->prod, &prod, prod + n)))    /* [PROD] */
			break;
		pauses = alf_back_off(pauses);
		if (alf_tired(pauses))
			return -ENOBUFS;
		prod = load_acquire(&q->prod); /* [PROD] */
	}
	*at = prod;
	return 0;
}

/* Fills n reserved positions from at on with the indices in handle[]; their owner words and bytes
 * must have been written. The first slot is stored last: a consumer sees a whole bulk or none. */
static ALWAYS_INLINE void alf_publish(const struct alf_ring *r, alf_position at,
				      const uint64_t *handle, uint32_t n)
{
	shared64 *slot = &r->slot[at & r->mask];
	uint64_t tag = alf_tag(r, at);
	if (n == 1) {
		store_release(slot, tag | (handle[0] & ALF_INDEX_MASK)); /* [SLOT] */
		return;
	}
	if (n >= ALF_AHEAD_BULK)
		alf_fetch_bulk(r, at, n);
	uint64_t straight = r->mask + 1 - (at & r->mask);
	if (unlikely(n > straight)) {
		store_run_release(r->slot, alf_tag(r, at + straight), handle + straight,
				  ALF_INDEX_MASK, n - (uint32_t)straight); /* [SLOT] */
		n = (uint32_t)straight;
	}
	store_run_release(slot, tag, handle, ALF_INDEX_MASK, n); /* [SLOT] */
}

/* Published positions: how many, and how many of them hold an index and no void. */
struct alf_run {
	uint32_t span;
	uint32_t values;
};

/* The slow way of alf_read: one slot after the other, stepping over voids. */
__attribute__((noinline, cold, unused)) static struct alf_run
alf_read_each(const struct alf_ring *r, alf_position at, uint64_t *handle, uint32_t n)
{
	struct alf_run run = { 0, 0 };
	while (run.values < n && run.span <= r->mask && run.span - run.values < ALF_RUN_MAX) {
		uint64_t word = load_acquire(&r->slot[(at + run.span) & r->mask]) ^
				alf_tag(r, at + run.span); /* [SLOT] */
		if (word > (ALF_VOID | ALF_INDEX_MASK))
			break;
		if (word <= ALF_INDEX_MASK)
			handle[run.values++] = word;
		run.span++;
	}
	if (run.span != run.values)
		store_relaxed(&r->q->stepped, 1);
	return run;
}

/* alf_read where the run goes round the end of the ring: two straight ones. */
__attribute__((noinline, unused)) static struct alf_run
alf_read_round(const struct alf_ring *r, alf_position at, uint64_t *handle, uint32_t n)
{
	uint64_t straight = r->mask + 1 - (at & r->mask), differs;
	if (n > r->mask + 1)
		n = (uint32_t)r->mask + 1;
	differs = load_run_acquire(&r->slot[at & r->mask], alf_tag(r, at), handle,
				   (uint32_t)straight); /* [SLOT] */
	if (n > straight)
		differs |= load_run_acquire(r->slot, alf_tag(r, at + straight), handle + straight,
					    n - (uint32_t)straight); /* [SLOT] */
	return differs <= ALF_INDEX_MASK ? (struct alf_run) { n, n } :
					   alf_read_each(r, at, handle, n);
}

/* Copies out up to n indices published from position at on. */
static ALWAYS_INLINE struct alf_run alf_read(const struct alf_ring *r, alf_position at,
					     uint64_t *handle, uint32_t n)
{
	const shared64 *slot = &r->slot[at & r->mask];
	uint64_t tag = alf_tag(r, at), differs;
	if (n == 1) {
		differs = handle[0] = load_acquire(slot) ^ tag; /* [SLOT] */
	} else {
		uint64_t straight = r->mask + 1 - (at & r->mask);
		if (unlikely(n > straight))
			return alf_read_round(r, at, handle, n);
		/* The last one first: no use in touching the lines between if it is not there. */
		differs = load_acquire(&slot[n - 1]) ^ tag; /* [SLOT] */
		if (likely(differs <= ALF_INDEX_MASK))
			differs = load_run_acquire(slot, tag, handle, n); /* [SLOT] */
	}
	if (unlikely(differs > ALF_INDEX_MASK))
		return alf_read_each(r, at, handle, n);
	return (struct alf_run) { n, n };
}

/* Takes 1..n indices, n at most ALF_QUEUE_MAX, oldest first. Returns how many, 0 if nothing is
 * published at the head. Until the caller has written the owner words and cleared *op, that record
 * covers what was taken. */
static ALWAYS_INLINE uint32_t alf_claim(const struct alf_ring *r, shared64 *op, uint64_t *handle,
					uint32_t n, enum alf_side side)
{
	struct alf_queue *q = r->q;
	uint32_t pauses = ALF_PAUSES_FIRST;
	alf_position cons = load_acquire(&q->cons); /* [CONS] */
	for (;;) {
		struct alf_run run = alf_read(r, cons, handle, n);
		if (unlikely(run.span == 0)) {
			alf_position now =
				side != ALF_MULTI ? cons : load_acquire(&q->cons); /* [CONS] */
			if (now == cons || alf_tired(++pauses)) {
				alf_slip(&q->empty_at, cons);
				return 0;
			}
			cons = now;
			continue;
		}
		if (side != ALF_MULTI) {
			alf_move(&q->cons, cons + run.span, side); /* [CONS] */
		} else {
			store_relaxed(op, alf_op(r, ALF_OP_DEQUEUE, run.span, cons));   /* [OP] */
			if (unlikely(!cas_seq_cst(&q->cons, &cons, cons + run.span))) { /* [CONS] */
				pauses = alf_back_off(pauses);
				if (alf_tired(pauses))
					return 0;
				cons = load_acquire(&q->cons); /* [CONS] */
				continue;
			}
		}
		if (likely(run.values))
			return run.values;
		if (alf_tired(++pauses))
			return 0;
		cons += run.span;
	}
}

/* After alf_reserve, before the first word of a bulk is written: from here on the op record is
 * known not to be that of a lost compare-and-swap, and whoever finds its owner dead can make void
 * what was published of the bulk already, so that it is all or nothing in death too. Nobody waits
 * for this word: that it is there before the slots are follows from the order in which a processor
 * retires stores. */
static inline void alf_publishing(shared64 *op, uint32_t n, enum alf_side side)
{
	if (side == ALF_MULTI && n > 1)
		store_relaxed(op, load_relaxed(op) | ALF_OP_PUBLISH);
}

/* Ends an operation: what its op record covered is done. */
static inline void alf_done(shared64 *op, enum alf_side side)
{
	if (side == ALF_MULTI)
		store_release(op, 0); /* [OP] */
}

/* Elements in the queue, reserved ones included. */
static inline uint32_t alf_count(const struct alf_ring *r)
{
	alf_position cons = load_acquire(&r->q->cons);     /* [CONS] */
	alf_position n = load_acquire(&r->q->prod) - cons; /* [PROD] */
	return n > r->mask + 1 ? (uint32_t)r->mask + 1 : (uint32_t)n;
}

/* Whether a claim would find something that far behind the head, voids included. Does not touch the
 * producers' line. */
static inline bool alf_ready(const struct alf_ring *r, uint32_t behind)
{
	alf_position at = (alf_position)(load_acquire(&r->q->cons) + behind); /* [CONS] */
	uint64_t word = load_acquire(&r->slot[at & r->mask]);                 /* [SLOT] */
	return (word ^ alf_tag(r, at)) <= (ALF_VOID | ALF_INDEX_MASK);
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
