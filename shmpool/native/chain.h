/* SPDX-License-Identifier: Apache-2.0
 *
 * chain.h - chains: several buffers that are one message, for what no single buffer holds.
 *
 * One buffer is the head. It is owned, put, got, requeued and freed like any other; queues, caches
 * and op records do not know that it heads a chain. The others are segments: their owner words are
 * CHAINED and name the head and its generation (owner.h). So the owner of the head owns the chain,
 * and moving it costs what moving one buffer costs.
 *
 * The order of the bytes is that of the links: link of a header is the index of the next segment,
 * combined with its own index by exclusive or; so 0, which every new buffer has, ends the chain.
 * Only readers follow links. Recovery does not: the owner word of each segment names the head.
 *
 *     chain_make    the owner of all n buffers, which nobody else can name
 *     chain_next    the owner of the head
 *
 *     killed in      leaves                                 repaired by
 *     chain_make     the head OWNED(dead) with              sweep(): frees the head, which ends its
 *                    HANDLE_CHAIN; some segments CHAINED,   generation; then the segments of any
 *                    others OWNED(dead)                     head's earlier generation
 *     free_chain of  the same; the head is not put back     the same
 *     qmempool.c     into its queue (got)
 *
 * Ordering
 *     [CHAIN]  the head's handle and generation, got, and the segments' owner words, which are
 *              stored with release. HANDLE_CHAIN is set before the first word is CHAINED, and
 *              removed after the last one was. A member that frees the head takes every segment
 *              first. A recoverer reads a CHAINED word with acquire, then the head's generation
 *              with acquire. If that is another one, the head was freed after the word was written;
 *              the owner that freed it has taken its segments, so a compare-and-swap on the word
 *              fails, or was a recoverer, which leaves them to sweeps.
 *
 * Progress: loops over links end after as many turns as there are buffers, whatever the links say;
 * if they lead in a circle, after three times as many as it has.
 */
#ifndef SHMPOOL_CHAIN_H
#define SHMPOOL_CHAIN_H

#include "pool.h"

/* Makes n buffers of m (2 or more), just allocated, one chain: handle[0] is its head from now on,
 * and the only handle of the chain. */
void chain_make(struct qmempool *p, struct member *m, const uint64_t *handle, uint32_t n);

/* Returns the index of the segment that follows index in the chain with that head; index itself if
 * it is the last one. */
static inline uint32_t chain_next(const struct qmempool *p, uint64_t head, uint32_t index)
{
	const uint32_t next = index ^ load_relaxed(&pool_buffer(p, index)->link);
	const uint64_t owner = owner_chained(handle_index(head), handle_generation(head));
	if (next == index || next >= p->total ||
	    load_acquire(&pool_buffer(p, next)->owner) != owner) /* [OWNER] */
		return index;
	return next;
}

/* chain_next() of the nth buffer of the chain, for a walk from its head on, which is the first. The
 * walk also ends if corrupted links lead back. *mark is one of the buffers that it has passed. */
static inline uint32_t chain_walk(const struct qmempool *p, uint64_t head, uint32_t index,
				  uint32_t n, uint32_t *mark)
{
	const uint32_t next = chain_next(p, head, index);
	if (!(n & (n - 1))) /* twice as far from the head each time: once it lies in the circle */
		*mark = index;
	return next == *mark || n >= p->total ? index : next;
}

/* Returns how many buffers the chain has: 1 for a buffer that heads none. */
uint32_t chain_count(const struct qmempool *p, uint64_t head);

#endif
