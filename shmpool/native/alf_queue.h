/* SPDX-License-Identifier: Apache-2.0
 *
 * alf_queue.h - an array-based lock-free FIFO of buffer indices, bulk in and bulk out.
 *
 * One file: the ring and its operations, which only together are an algorithm.
 *
 * A ring of 2^k 64-bit slots in shared memory, with two free-running positions, prod and cons. Each
 * bulk costs one compare-and-swap. There is no tail: no member ever waits for another one's store.
 * After the alf_queue of J. D. Brouer's Linux RFC of December 2014 ("Faster than SLAB caching of
 * SKBs with qmempool"). It shares no code with it; a lap number in each slot replaces the tails.
 *
 * Who may call what at the same time
 *     alf_reserve + alf_publish   any number of producers with ALF_MULTI, else one at a time
 *     alf_claim                   any number of consumers with ALF_MULTI, else one at a time
 *     alf_count, alf_avail_space  any thread; exact only while nothing moves
 *     alf_init                    before any other thread sees the queue
 *
 * Ordering: what each tag pairs
 *     [SLOT]  slot[i]: a producer stores it with release, a consumer loads it with acquire. A
 *             consumer that reads the published word sees the buffer's bytes and its owner word.
 *     [CONS]  cons: a consumer moves it, a producer reads it. The producer may overwrite every slot
 *             behind cons, because the consumer read those slots before it moved cons. Producers
 *             pass the value on through limit.
 *     [PROD]  prod: a producer moves it; a sleeper (wait.h) and an observer read it. The op record
 *             that covers the reserved positions is visible before the new prod.
 *     [PART]  backed: a producer raises it after it has reserved the memory of those slots, and
 *             then other producers read it. It only grows: an older value caps them earlier.
 *     [OP]    the caller's op record. Once it reads as cleared, the slots that it covered are
 *             published (enqueue) or the owner words are written (dequeue).
 *
 * Progress: lock-free. A compare-and-swap is lost only when another producer or consumer succeeded.
 * Every loop also ends after ALF_TURNS_MAX turns, whatever a corrupted ring says. A producer that
 * is suspended between alf_reserve and alf_publish delays what stands behind it in this queue and
 * nothing else. If it died, its positions become tombstones (alf_repair.h).
 *
 * Invariants; positions run freely, so they are subtracted and never compared
 *     0 <= prod - cons <= room <= capacity
 *     the slot of position p holds lap(p) exactly when p is published
 *     positions start at capacity, so that zeroed memory (lap 0) is an empty ring
 *     while backed < capacity: prod <= capacity + backed - ALF_MARGIN
 *
 * A ring may get its memory on demand, in parts. Producers do not pass the part that has memory:
 * where one reaches limit, alf_reserve() caps it there, and returns -ERESTART for its caller to
 * reserve the next part (queue.h). Consumers read no more than ALF_MARGIN slots beyond prod.
 */
#ifndef SHMPOOL_ALF_QUEUE_H
#define SHMPOOL_ALF_QUEUE_H

#include <errno.h>

#include "alf_op.h"

#define ALF_CAPACITY_MIN 2u
#define ALF_QUEUE_MAX (1u << 20) /* entries of a named queue; the free ring may have more */
#define ALF_BULK_MAX 65536u      /* entries of it that one operation moves */
#define ALF_CAPACITY_MAX                                                                           \
	((uint32_t)(ALF_QUEUE_MAX < ALF_CAPACITY_FITS ? ALF_QUEUE_MAX : ALF_CAPACITY_FITS))

/* A slot is | lap 39 | tombstone 1 | index 24 |. The lap is the position of the ring's first slot
 * in this round. At 10^8 elements a second it wraps after an hour and a half; only a store delayed
 * by exactly that long could be mistaken for a new one. */
#define ALF_INDEX_BITS 24
#define ALF_INDEX_MASK ((1ull << ALF_INDEX_BITS) - 1)
#define ALF_TOMBSTONE (1ull << ALF_INDEX_BITS)
#define ALF_LAP_SHIFT (ALF_INDEX_BITS + 1)

#define ALF_RUN_MAX 1024u /* tombstones that one claim steps over at most */
_Static_assert(ALF_BULK_MAX + ALF_RUN_MAX <= ALF_OP_COUNT_MAX,
	       "an op record counts every bulk, and the tombstones between");

/* Of a ring whose memory is reserved on demand, in slots. */
#define ALF_PART_MIN 512u         /* the first part: a page */
#define ALF_PART_MAX (128u << 10) /* the others: as much as there is, 1 MiB at most */
#define ALF_MARGIN 128u           /* that producers leave at the end of what has memory */

/* How many members may be on one side. ALF_SINGLE_WAKES moves the position with seq_cst, so that
 * the member that moved it cannot miss a sleeper that polls it (wait.h). A compare-and-swap is
 * seq_cst anyway. */
enum alf_side { ALF_MULTI, ALF_SINGLE, ALF_SINGLE_WAKES };

/* In the segment. */
struct alf_queue {
	/* Only alf_init writes this line, except for backed and the wait words (wait.h). */
	uint32_t capacity;
	uint32_t id;
	uint32_t flags;
	uint32_t data_wait; /* consumers asleep until something is published */
	uint32_t room_wait; /* producers asleep until there is room */
	uint32_t room_many; /* producers of bulks sleep on this word instead */
	uint32_t room_want; /* the smallest bulk that one of them waits for: wait_want() */
	uint32_t room;      /* the most elements: capacity, or fewer */
	uint32_t ended; /* nonzero: prod has ALF_CLOSED. Written after it: a hint to consumers */
	uint32_t pad_ended;
	shared64 backed; /* slots that have memory; fewer than capacity only with ALF_ON_DEMAND */
	uint32_t pad0[4];
	alf_shared_position prod; /* with ALF_CLOSED in a closed queue */
	/* An earlier value of cons, plus room. A producer that reaches it reads cons again. */
	alf_shared_position limit;
	alf_shared_position full_at; /* where a producer last found no room: alf_slip() */
	uint32_t producer; /* tag of the member with the single-producer role, 0 for none */
	uint32_t lost;     /* compare-and-swaps that producers lost; some are not counted */
	uint32_t pad1[8];
	alf_shared_position cons;
	alf_shared_position empty_at; /* where a consumer last found nothing */
	shared64 stepped;  /* nonzero: a claim stepped over tombstones and freed more than it got */
	uint32_t consumer; /* tag of the member with the single-consumer role, 0 for none */
	uint32_t pad2[9];
};
_Static_assert(sizeof(struct alf_queue) == 3 * CACHE_LINE, "one line for each side");
_Static_assert(offsetof(struct alf_queue, prod) == CACHE_LINE, "producers' line");
_Static_assert(offsetof(struct alf_queue, cons) == 2 * CACHE_LINE, "consumers' line");

enum {
	ALF_SINGLE_PRODUCER = 1,
	ALF_SINGLE_CONSUMER = 2,
	ALF_ON_DEMAND = 4,
	ALF_TOPIC = 8,      /* topic.h */
	ALF_LANED = 16,     /* a queue whose messages are in lanes: lanes.h */
	ALF_LANE = 32,      /* one of them */
	ALF_LANES_GROW = 64 /* a queue with lanes that begins with one */
};

/* In prod once alf_close() has closed the queue: producers find no room, at no cost while it is
 * open. No position reaches this bit. Not the highest one: limit may lie behind prod, and less 2^63
 * a negative distance would be positive. The narrow positions of tests have none for it; there a
 * queue cannot be closed. */
#if SHMPOOL_POSITION_BITS == 64
#define ALF_CLOSED (1ull << 62)
#else
#define ALF_CLOSED 0
#endif

/* One process's view of a queue. The geometry is copied out of the segment once and checked, so
 * that a segment corrupted later cannot lead to an access outside it. */
struct alf_ring {
	struct alf_queue *q;
	shared64 *slot;
	uint64_t mask;
	uint32_t id;
	uint32_t flags;
	uint64_t room;       /* the most elements */
	uint32_t bulk;       /* the most that one operation moves: room, or fewer */
	uint64_t op;         /* the bits that every op record on this queue has in common */
	uint32_t *data_wait; /* its own, or of a lane that of its queue */
	uint32_t queue;      /* its own number, or of a lane that of its queue */
	struct lanes *lanes; /* of a queue with ALF_LANED: lanes.h */
};

/* Returns how many slots the ring has: a power of two. */
static inline uint32_t alf_capacity(const struct alf_ring *r)
{
	return (uint32_t)r->mask + 1;
}

/* Returns how many elements the ring holds at the most: as many as slots, or fewer. */
static inline uint32_t alf_room(const struct alf_ring *r)
{
	return (uint32_t)load_relaxed(&r->room); /* lanes_grow() changes it */
}

/* Returns the slot word of a published position, without its index. */
static inline uint64_t alf_tag(const struct alf_ring *r, alf_position position)
{
	return (position - (position & r->mask)) << ALF_LAP_SHIFT;
}

/* Returns the position of a value of prod. */
static inline alf_position alf_end(alf_position prod)
{
	return prod & (alf_position)~ALF_CLOSED;
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

/* Points r to a queue whose slots lie at slot. capacity is a power of two, room at most that. */
static inline void alf_bind(struct alf_ring *r, struct alf_queue *q, shared64 *slot,
			    uint32_t capacity, uint32_t room, uint32_t id, uint32_t flags)
{
	r->q = q;
	r->slot = slot;
	r->mask = capacity - 1;
	r->room = room;
	r->bulk = room < ALF_BULK_MAX ? room : ALF_BULK_MAX;
	r->id = id;
	r->flags = flags;
	r->op = (uint64_t)id << ALF_OP_QUEUE_SHIFT;
	r->data_wait = &q->data_wait;
	r->queue = id;
	r->lanes = NULL;
}

/* Returns the slots of a ring that holds room elements. room is at most 2^31. */
static inline uint32_t alf_slots(uint32_t room)
{
	uint32_t slots = ALF_CAPACITY_MIN;
	while (slots < room)
		slots *= 2;
	return slots;
}

/* Returns a limit of producers, capped at the end of the slots that have memory. Positions start at
 * capacity, and none is in a later lap before all slots have memory. */
static inline alf_position alf_capped(const struct alf_ring *r, alf_position limit)
{
	const uint32_t backed = (uint32_t)load_acquire(&r->q->backed); /* [PART] */
	if (likely(backed > r->mask))
		return limit;
	const alf_position end = (alf_position)(r->mask + 1 + backed - ALF_MARGIN);
	return (alf_distance)(limit - end) > 0 ? end : limit;
}

/* Returns how many of n elements a consumer may ask for: alf_claim() reads the last of their slots
 * first, and transfer.h one that is twice as far. */
static inline uint32_t alf_most(const struct alf_ring *r, uint64_t n)
{
	uint32_t most = r->bulk;
	if (r->flags & ALF_ON_DEMAND && load_acquire(&r->q->backed) <= r->mask) /* [PART] */
		most = ALF_MARGIN / 2;
	return n < most ? (uint32_t)n : most;
}

/* Makes an empty queue of room elements in place; slot[] must read as zero. Returns 0, or -EINVAL
 * if room is 0 or over limit. The first q->backed slots must get memory before they are used. */
static inline int alf_init(struct alf_ring *r, struct alf_queue *q, shared64 *slot, uint32_t room,
			   uint32_t limit, uint32_t id, uint32_t flags)
{
	if (room == 0 || room > limit || alf_slots(room) / (ALF_CAPACITY_FITS + 1))
		return -EINVAL;
	const uint32_t capacity = alf_slots(room);
	clear_unshared(q);
	q->capacity = capacity;
	q->room = room;
	q->id = id;
	q->flags = flags;
	store_relaxed(&q->backed,
		      flags & ALF_ON_DEMAND && capacity > ALF_PART_MIN ? ALF_PART_MIN : capacity);
	store_relaxed(&q->prod, capacity);
	store_relaxed(&q->full_at, capacity);
	store_relaxed(&q->empty_at, capacity);
	store_relaxed(&q->cons, capacity);
	alf_bind(r, q, slot, capacity, room, id, flags);
	store_relaxed(&q->limit, alf_capped(r, (alf_position)(capacity + room)));
	return 0;
}

/* Prefetches the slots of a later bulk. For reading: the compare-and-swap that follows would wait
 * for lines prefetched for writing. Beyond the ring's end the prefetch has no use and no harm. */
static ALWAYS_INLINE void alf_fetch_bulk(const struct alf_ring *r, alf_position at, uint32_t n)
{
	const shared64 *slot = &r->slot[(at + ALF_AHEAD) & r->mask];
	for (const shared64 *end = slot + n; slot < end; slot += ALF_LINE)
		prefetch_read((const void *)slot);
}

/* The same for a producer of one element at a time: one line whenever it begins one. */
static ALWAYS_INLINE void alf_fetch_line(const struct alf_ring *r, alf_position at)
{
	if (at % ALF_LINE == 0)
		prefetch_write((const void *)&r->slot[(at + ALF_AHEAD) & r->mask]);
}

/* Reserves n positions (at most ALF_OP_COUNT_MAX), all or none, and stores the first in *at.
 * Returns 0; -ENOBUFS if they do not fit now; -EPIPE if the queue is closed; -ERESTART if the ring
 * must get more memory first. The record *op covers the positions until the caller has published
 * them and calls alf_done(). */
static ALWAYS_INLINE int alf_reserve(const struct alf_ring *r, shared64 *op, uint32_t n,
				     enum alf_side side, alf_position *at)
{
	struct alf_queue *q = r->q;
	uint32_t turns = 0;
	alf_position prod =
		load_acquire(&q->prod); /* [PROD] read before cons, or the space underflows */
	for (;;) {
		/* Signed: limit may lag by more than a ring, and then room is negative. prod may be
		 * outdated and lie behind cons; then room is too large and the CAS fails. With
		 * ALF_CLOSED in prod it is negative. */
		alf_distance room = (alf_distance)(load_acquire(&q->limit) - prod); /* [CONS] */
		if (unlikely(room < (int64_t)n)) {
			if (unlikely(prod & ALF_CLOSED))
				return -EPIPE;
			alf_position full = load_acquire(&q->cons) + alf_room(r); /* [CONS] */
			alf_position limit = alf_capped(r, full);
			store_release(&q->limit, limit); /* [CONS] */
			room = (alf_distance)(limit - prod);
			if (room < (int64_t)n) {
				if (limit != full && (alf_distance)(full - prod) >= (int64_t)n)
					return -ERESTART;
				alf_position now = side != ALF_MULTI ?
							   prod :
							   load_acquire(&q->prod); /* [PROD] */
				if (now == prod || alf_tired(++turns)) {
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
		store_relaxed(&q->lost, load_relaxed(&q->lost) + 1);
		turns = alf_back_off(&q->prod, prod, n, turns);
		if (alf_tired(turns))
			return -ENOBUFS;
		prod = load_acquire(&q->prod); /* [PROD] */
	}
	*at = prod;
	return 0;
}

/* alf_reserve() of one position for an element that comes back, also into a closed queue. */
static inline int alf_reserve_back(const struct alf_ring *r, shared64 *op, alf_position *at)
{
	struct alf_queue *q = r->q;
	uint32_t turns = 0;
	int error = alf_reserve(r, op, 1, ALF_MULTI, at);
	while (unlikely(error == -EPIPE)) {
		alf_position prod = load_acquire(&q->prod); /* [PROD] */
		*at = alf_end(prod);
		alf_position full = load_acquire(&q->cons) + alf_room(r); /* [CONS] */
		if ((alf_distance)(full - *at) < 1 || alf_tired(turns))
			return -ENOBUFS;
		if ((alf_distance)(alf_capped(r, full) - *at) < 1)
			return -ERESTART;
		store_relaxed(op, alf_op(r, ALF_OP_ENQUEUE, 1, *at)); /* [OP] */
		if (cas_seq_cst(&q->prod, &prod, prod + 1))           /* [PROD] */
			return 0;
		turns = alf_back_off(&q->prod, prod, 1, turns);
	}
	return error;
}

/* Closes the queue: from now on alf_reserve() returns -EPIPE. What is reserved comes out. Returns
 * false if it was closed before, or cannot be closed. Nobody may be on a single producer's side. */
static inline bool alf_close(const struct alf_ring *r)
{
	alf_position prod = load_acquire(&r->q->prod); /* [PROD] */
	for (uint32_t turns = 0; ALF_CLOSED != 0 && !alf_tired(turns);) {
		if (prod & ALF_CLOSED)
			return false;
		if (cas_seq_cst(&r->q->prod, &prod, prod | ALF_CLOSED)) /* [PROD] */
			return true;
		turns = alf_back_off(&r->q->prod, prod, 1, turns);
	}
	return false;
}

/* Publishes the indices in handle[] at n reserved positions, after their owner words and bytes.
 * Stores the first slot last, so that a consumer sees the whole bulk or none of it. */
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

/* A run of published positions: how many, and how many of them are no tombstones. */
struct alf_run {
	uint32_t span;
	uint32_t values;
};

/* Slow path of alf_read: one slot after the other, stepping over tombstones. */
__attribute__((noinline, cold, unused)) static struct alf_run
alf_read_each(const struct alf_ring *r, alf_position at, uint64_t *handle, uint32_t n)
{
	struct alf_run run = { 0, 0 };
	while (run.values < n && run.span <= r->mask && run.span - run.values < ALF_RUN_MAX) {
		uint64_t word = load_acquire(&r->slot[(at + run.span) & r->mask]) ^
				alf_tag(r, at + run.span); /* [SLOT] */
		if (word > (ALF_TOMBSTONE | ALF_INDEX_MASK))
			break;
		if (word <= ALF_INDEX_MASK)
			handle[run.values++] = word;
		run.span++;
	}
	if (run.span != run.values)
		store_relaxed(&r->q->stepped, 1);
	return run;
}

/* alf_read for a run that wraps at the end of the ring: two straight runs. */
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

/* Copies up to n indices that are published from position at on into handle[]. */
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
		/* The last slot first: if it is not published, the lines between are left alone. */
		differs = load_acquire(&slot[n - 1]) ^ tag; /* [SLOT] */
		if (likely(differs <= ALF_INDEX_MASK))
			differs = load_run_acquire(slot, tag, handle, n); /* [SLOT] */
	}
	if (unlikely(differs > ALF_INDEX_MASK))
		return alf_read_each(r, at, handle, n);
	return (struct alf_run) { n, n };
}

/* Takes 1 to n indices (n at most alf_most()), oldest first. Returns how many, or 0 if nothing
 * is published at the head. The record *op covers what was taken until the caller has written the
 * owner words and calls alf_done(). */
static ALWAYS_INLINE uint32_t alf_claim(const struct alf_ring *r, shared64 *op, uint64_t *handle,
					uint32_t n, enum alf_side side)
{
	struct alf_queue *q = r->q;
	uint32_t turns = 0;
	alf_position cons = load_acquire(&q->cons); /* [CONS] */
	for (;;) {
		struct alf_run run = alf_read(r, cons, handle, n);
		if (unlikely(run.span == 0)) {
			alf_position now =
				side != ALF_MULTI ? cons : load_acquire(&q->cons); /* [CONS] */
			if (now == cons || alf_tired(++turns)) {
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
				turns = alf_back_off(&q->cons, cons, run.span, turns);
				if (alf_tired(turns))
					return 0;
				cons = load_acquire(&q->cons); /* [CONS] */
				continue;
			}
		}
		if (likely(run.values))
			return run.values;
		if (alf_tired(++turns))
			return 0;
		cons += run.span;
	}
}

/* Marks the op record after alf_reserve(), before the first slot of a bulk is written: the record
 * is not that of a lost compare-and-swap. A recoverer that finds it makes tombstones of what was
 * published of the bulk, so that a dead producer's bulk comes out whole or not at all. Relaxed: the
 * slots are stored with release, which orders this store before them. */
static inline void alf_publishing(shared64 *op, uint32_t n, enum alf_side side)
{
	if (side == ALF_MULTI && n > 1)
		store_relaxed(op, load_relaxed(op) | ALF_OP_PUBLISH);
}

/* Ends an operation: clears the op record, after all that it covered is done. */
static inline void alf_done(shared64 *op, enum alf_side side)
{
	if (side == ALF_MULTI)
		store_release(op, 0); /* [OP] */
}

/* Returns the number of elements, reserved positions included. */
static inline uint32_t alf_count(const struct alf_ring *r)
{
	alf_position cons = load_acquire(&r->q->cons);              /* [CONS] */
	alf_position n = alf_end(load_acquire(&r->q->prod)) - cons; /* [PROD] */
	return n > r->mask + 1 ? (uint32_t)r->mask + 1 : (uint32_t)n;
}

/* True if the position that far behind the head is published, also as a tombstone. Does not touch
 * the producers' line. */
static inline bool alf_ready(const struct alf_ring *r, uint32_t behind)
{
	alf_position at = (alf_position)(load_acquire(&r->q->cons) + behind); /* [CONS] */
	uint64_t word = load_acquire(&r->slot[at & r->mask]);                 /* [SLOT] */
	return (word ^ alf_tag(r, at)) <= (ALF_TOMBSTONE | ALF_INDEX_MASK);
}

static inline uint32_t alf_avail_space(const struct alf_ring *r)
{
	const uint32_t n = alf_count(r);
	return n < alf_room(r) ? alf_room(r) - n : 0;
}

/* True if n elements fit, as far as producers know. Does not touch the consumers' line. */
static inline bool alf_fits(const struct alf_ring *r, uint32_t n)
{
	const alf_position prod = load_acquire(&r->q->prod);                         /* [PROD] */
	return (alf_distance)(load_acquire(&r->q->limit) - prod) >= (alf_distance)n; /* [CONS] */
}

static inline bool alf_empty(const struct alf_ring *r)
{
	return alf_count(r) == 0;
}

static inline bool alf_closed(const struct alf_ring *r)
{
	return load_acquire(&r->q->prod) & ALF_CLOSED; /* [PROD] */
}

#endif
