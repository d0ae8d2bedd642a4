/* SPDX-License-Identifier: Apache-2.0
 *
 * tailwait.h - the original ring algorithm, a new implementation, as a baseline.
 *
 * A power-of-two ring of 8-byte words. Each side has a head, which a compare-and-swap moves to
 * reserve a bulk, and a tail, which limits the other side. After its copy each process waits until
 * the tail reaches its own old head, then moves the tail. A process that is preempted in between
 * blocks its whole side.
 *
 * Any number of producers and consumers; with single=true one at a time on that side.
 *
 * Ordering
 *     [HEAD]  the head is read before the opposite tail, or the room between them underflows.
 *     [TAIL]  a side that reads the other's tail sees its copies done (in or out). The waiting
 *             process acquires as well: its own store of the tail then publishes the earlier bulks
 *             of its side too.
 */
#ifndef BENCH_TAILWAIT_H
#define BENCH_TAILWAIT_H

#include "queue_loops.h"

struct tailwait_side {
	uint32_t head;
	uint32_t tail;
	uint32_t size; /* constant; on this line it needs no third one */
	uint32_t pad[13];
};

struct tailwait {
	struct tailwait_side prod;
	struct tailwait_side cons;
	uint64_t slot[];
};
_Static_assert(offsetof(struct tailwait, cons) == CACHE_LINE, "one line for each side");

/* Returns an empty ring; size is a power of two. */
static inline struct tailwait *tailwait_create(struct bench_run *run, uint32_t size)
{
	struct tailwait *ring = bench_memory(run, sizeof(*ring) + size * sizeof(uint64_t));
	ring->prod.size = size;
	ring->cons.size = size;
	return ring;
}

/* Reserves up to n positions, with all=true n or none: moves mine->head, at most to other->tail +
 * ahead. Returns how many; *at is the first. */
static inline uint32_t tailwait_reserve(struct tailwait_side *mine, struct tailwait_side *other,
					uint32_t ahead, uint32_t n, bool all, bool single,
					uint32_t *at)
{
	uint32_t head = load_acquire(&mine->head); /* [HEAD] */
	for (;;) {
		uint32_t room = ahead + load_acquire(&other->tail) - head, take = n; /* [TAIL] */
		if (unlikely(room < n)) {
			if (all || !room)
				return 0;
			take = room;
		}
		*at = head;
		if (single) {
			store_relaxed(&mine->head, head + take);
			return take;
		}
		if (likely(cas_seq_cst(&mine->head, &head, head + take))) /* [HEAD] */
			return take;
	}
}

/* Releases the n positions from at on to the other side, after all positions before them. */
static inline void tailwait_release(struct tailwait_side *mine, uint32_t at, uint32_t n,
				    bool single)
{
	while (!single && load_acquire(&mine->tail) != at) /* [TAIL] */
		cpu_relax();
	store_release(&mine->tail, at + n); /* [TAIL] */
}

/* Returns how many of n positions from at on are before the end of the slots. */
static inline uint32_t tailwait_straight(uint32_t size, uint32_t at, uint32_t n)
{
	uint32_t first = size - (at & (size - 1));
	return n < first ? n : first;
}

/* Appends all n words or none. Returns n or 0. */
static inline uint32_t tailwait_enqueue(void *queue, const uint64_t *word, uint32_t n, bool single)
{
	struct tailwait *ring = queue;
	uint32_t at, i = 0, size = ring->prod.size;
	if (!tailwait_reserve(&ring->prod, &ring->cons, size, n, true, single, &at))
		return 0;
	uint64_t *slot = &ring->slot[at & (size - 1)];
	uint32_t first = tailwait_straight(size, at, n);
	for (; i < first; i++)
		slot[i] = word[i];
	for (; unlikely(i < n); i++)
		slot[(int64_t)i - size] = word[i];
	tailwait_release(&ring->prod, at, n, single);
	return n;
}

/* Takes 1..n words, oldest first. Returns how many, 0 if the ring is empty. */
static inline uint32_t tailwait_dequeue(void *queue, uint64_t *word, uint32_t n, bool single)
{
	struct tailwait *ring = queue;
	uint32_t at, i = 0, size = ring->cons.size;
	n = tailwait_reserve(&ring->cons, &ring->prod, 0, n, false, single, &at);
	if (!n)
		return 0;
	const uint64_t *slot = &ring->slot[at & (size - 1)];
	uint32_t first = tailwait_straight(size, at, n);
	for (; i < first; i++)
		word[i] = slot[i];
	for (; unlikely(i < n); i++)
		word[i] = slot[(int64_t)i - size];
	tailwait_release(&ring->cons, at, n, single);
	return n;
}

#define TAILWAIT_OPS ((struct queue_ops) { tailwait_enqueue, tailwait_dequeue })

#endif
