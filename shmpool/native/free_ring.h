/* SPDX-License-Identifier: Apache-2.0
 *
 * free_ring.h - puts free buffers into the ring that all members allocate from, and wakes members
 * that wait for one.
 *
 * Who may call what at the same time: any number of members, each with its own struct member.
 *
 * The ring has a slot for every buffer. Only tombstones, or a member that is suspended at its head,
 * can make it full. A buffer that finds no slot is abandoned: the next recoverer frees it, and
 * bypass_take() finds it.
 *
 * Progress: bounded. Nothing here waits for another member.
 */
#ifndef SHMPOOL_FREE_RING_H
#define SHMPOOL_FREE_RING_H

#include "side.h"
#include "transfer.h"

/* Takes 1 to n free buffers for m from a side ring or the free ring. Returns as transfer_free(); 0
 * if all these rings are empty or obstructed. */
static ALWAYS_INLINE int free_ring_take(struct qmempool *p, struct member *m, uint64_t *handle,
					uint32_t n)
{
	if (unlikely(side_has(p)))
		return side_take(p, m, handle, n);
	return transfer_free(p, m, handle, n, NULL);
}

/* True if there are n buffers or more at the head of a ring from which m would take them. */
static inline bool free_ring_ready(const struct qmempool *p, const struct member *m, uint32_t n)
{
	return (unlikely(side_has(p)) && side_ready(p, m, n)) || alf_ready(&p->free, n - 1);
}

/* Puts n buffers of m into its side ring, if the class has side rings, as far as that has room, and
 * the others into the free ring, and wakes members that wait for them. Leaves out handles that name
 * no buffer (a corrupted cache). If the ring is full of tombstones, moves up to
 * FREE_RING_ROUNDS bulks from its head to its end, and abandons what still finds no slot. */
void free_ring_put(struct qmempool *p, struct member *m, const uint64_t *handle, uint32_t n);

/* The same, but moves up to *rounds bulks, and subtracts those that it moved from *rounds. */
#define FREE_RING_ROUNDS 8u
void free_ring_put_rounds(struct qmempool *p, struct member *m, const uint64_t *handle, uint32_t n,
			  uint64_t *rounds);

/* Puts n buffers of m into the free ring only: they are not needed soon. */
void free_ring_put_cold(struct qmempool *p, struct member *m, const uint64_t *handle, uint32_t n);

/* Wakes all members that wait for buffers: there may be more buffers than were put. */
void free_ring_wake(struct qmempool *p);

#endif
