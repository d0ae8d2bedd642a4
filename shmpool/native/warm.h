/* SPDX-License-Identifier: Apache-2.0
 *
 * warm.h - the warm ring of a class of large buffers: a short ring in front of its free ring.
 *
 * The free ring is a FIFO of all free buffers. Where one member allocates and another one frees,
 * all buffers that exist take turns, and each has left every processor's cache before it is used
 * again. So a class whose buffers have GEOMETRY_WARM_SIZE bytes or more has a warm ring with room
 * for GEOMETRY_WARM_BYTES of them: what leaves a member's hands or cache goes there as long as
 * there is room, and allocations take from there first. In steady flow only the buffers that are in
 * use and those of the warm ring take turns, and the others stay in the free ring.
 *
 * Who may call what at the same time: any number of members, each with its own struct member.
 *
 * The warm ring is a queue slot of its own, so op records, owner words, tombstones, the sweep and
 * audits treat it as they treat the free ring. A crash leaves what transfer.h says; what is behind
 * a member that is suspended in it is found by bypass_take().
 *
 * Ordering: that of transfer.h.
 *
 * Progress: bounded. A member that finds the warm ring full, empty or obstructed uses the free
 * ring.
 */
#ifndef SHMPOOL_WARM_H
#define SHMPOOL_WARM_H

#include "pool.h"

static inline bool warm_has(const struct qmempool *p)
{
	return p->warm.q;
}

/* Puts the last ones of n buffers of m, whose indices are checked, into the warm ring, which the
 * class must have. Returns how many. */
uint32_t warm_put(const struct qmempool *p, struct member *m, const uint64_t *handle, uint32_t n);

/* Takes up to n buffers for m from the warm ring, which the class must have. Returns as
 * transfer_out(). */
int warm_take(const struct qmempool *p, struct member *m, uint64_t *handle, uint32_t n);

#endif
