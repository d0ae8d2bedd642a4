/* SPDX-License-Identifier: Apache-2.0
 *
 * side.h - the side rings of a class: short rings in front of its free ring.
 *
 * A class of large buffers, of GEOMETRY_WARM_SIZE bytes or more, has one, its warm ring. The free
 * ring is a FIFO of all free buffers. Where one member allocates and another one frees, all buffers
 * that exist take turns, and each has left every processor's cache before it is used again. The
 * warm ring has room for GEOMETRY_WARM_BYTES of them: what leaves a member's hands or cache goes
 * there as long as there is room, and allocations take from there first. In steady flow only the
 * buffers that are in use and those of the warm ring take turns.
 *
 * A class of small buffers has geometry.free_rings of them, which share out its capacity. On many
 * processors one free ring is slow: the lines of its positions and slots go from core to core. So
 * a member frees into a side ring of its own, by its number, and takes
 *
 *     1. from its own ring,
 *     2. from the ring that it remembers: the last one that had something for it,
 *     3. from another ring, each time the next one, if that is more than half full,
 *     4. from the free ring,
 *     5. from each other side ring.
 *
 * When 1 and 2 have nothing SIDE_TRIES times, one after the other, it remembers the next ring
 * instead. So where one member always frees what another one allocates, the second one soon takes
 * from the ring of the first one. Where several pairs do, each finds a ring that has something: two
 * of them may take from each other's. If they meet in one ring, another one fills up, and 3 leads
 * one of them there. An empty ring is found empty by reading lines that nobody writes.
 *
 * Who may call what at the same time: any number of members, each with its own struct member.
 *
 * Each side ring is a queue slot of its own, so op records, owner words, tombstones, the sweep and
 * audits treat it as they treat the free ring. A crash leaves what transfer.h says; what is behind
 * a member that is suspended in one is found by bypass_take(). The ring that a member remembers is
 * a hint: any value is good enough.
 *
 * Ordering: that of transfer.h.
 *
 * Progress: bounded. A member that finds side rings full, empty or obstructed uses the free ring.
 */
#ifndef SHMPOOL_SIDE_H
#define SHMPOOL_SIDE_H

#include "pool.h"

#define SIDE_TRIES 4u

static inline bool side_has(const struct qmempool *p)
{
	return p->sides;
}

/* Returns the number of the side ring into which m frees, in a class that has side rings. Each
 * round of members begins one ring later than the round before: where every second or fourth member
 * frees, these do not meet in a half or a fourth of the rings. */
uint32_t side_own(const struct qmempool *p, const struct member *m);

/* Puts the last ones of n buffers of m, whose indices are checked, into the side ring of m in a
 * class that has side rings. Returns how many. */
uint32_t side_put(const struct qmempool *p, struct member *m, const uint64_t *handle, uint32_t n);

/* Takes up to n buffers for m from side rings or the free ring of a class that has side rings.
 * Returns as transfer_out(); 0 if all were empty or obstructed when they were read. All rings share
 * BYPASS_TRIES claims of only stale slots, and each has one claim more: what is behind more stale
 * slots than these pass is left to the next call, and to bypass_take(). */
int side_take(const struct qmempool *p, struct member *m, uint64_t *handle, uint32_t n);

/* The same from one side ring. tries is that of bypass_check_claim(). */
int side_take_from(const struct qmempool *p, struct member *m, uint32_t number, uint64_t *handle,
		   uint32_t n, uint32_t *tries);

/* True if there are n buffers or more at the head of the ring from which m would take them. */
bool side_ready(const struct qmempool *p, const struct member *m, uint32_t n);

#endif
