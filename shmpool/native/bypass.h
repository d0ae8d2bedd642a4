/* SPDX-License-Identifier: Apache-2.0
 *
 * bypass.h - takes free buffers from behind a member that is suspended in the free ring.
 *
 * A member that is suspended between alf_reserve and alf_publish blocks what stands behind it in
 * that ring, and the free ring serves all members. Buffers that are published behind it can be
 * taken by their owner words. The slot stays and is stale: a consumer that claims it later finds
 * that the buffer is no longer there.
 *
 *     step                            a crash then leaves                 repaired by
 *     announce_stale() raises         a limit that is too high: claims    nothing to repair
 *       bypassed                      check owner words needlessly
 *     CAS of an owner word from       a buffer OWNED(dead), a stale       sweep(); a consumer steps
 *       TRANSIT(free ring) to OWNED   slot                                over the slot
 *     claim of a stale slot           a claimed position whose buffer     nothing to repair: the
 *       (bypass_check_claim)          is another member's                 owner word decides
 *
 * Who may call what at the same time: any number of members.
 *
 * Ordering
 *     [BYPASS]  bypassed: a member that bypasses raises it and then reads cons; a member that
 *               claims moves cons and then reads bypassed. All four accesses are seq_cst. So either
 *               the first leaves alone what the second claims, or the second checks each owner
 *               word.
 *
 * Progress: bounded by the number of headers that the caller allows.
 */
#ifndef SHMPOOL_BYPASS_H
#define SHMPOOL_BYPASS_H

#include "pool.h"

/* True if there may be free buffers that only bypass_take() finds. */
static inline bool bypass_needed(const struct qmempool *p)
{
	const struct pool_shared *s = segment_shared(&p->segment);
	return pool_free_count(p) || load_relaxed(&s->abandoned) != load_relaxed(&s->swept);
}

/* Takes up to max free buffers for m that lie behind a suspended member in the free ring or were
 * abandoned. Reads at most most headers, from where this process stopped last. Returns how many. */
uint32_t bypass_take(struct qmempool *p, struct member *m, uint64_t *handle, uint32_t max,
		     uint32_t most);

/* Claims that a search of one or more rings makes after claims of only stale slots. When they are
 * used up, a ring that has stale slots at its head counts as empty after the first claim. */
#define BYPASS_TRIES 64u

/* Makes those of the buffers just claimed from r, a ring of free buffers, m's whose slots are not
 * stale. While there are none, claims up to n more, up to *tries times, and subtracts these claims
 * from *tries; NULL stands for BYPASS_TRIES. Returns how many buffers. */
uint32_t bypass_check_claim(const struct qmempool *p, struct member *m, const struct alf_ring *r,
			    uint64_t *handle, uint32_t claimed, uint32_t n, uint32_t *tries);

#endif
