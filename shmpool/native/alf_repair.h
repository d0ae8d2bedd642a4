/* SPDX-License-Identifier: Apache-2.0
 *
 * alf_repair.h - states of a slot, and tombstones in place of positions that a dead producer
 * reserved and never published.
 *
 *     state of position p's slot       word                     next state, and who moves it there
 *     ALF_AT_UNPUBLISHED               lap of the round before  VALUE: the producer that reserved p
 *                                                               TOMBSTONE: a recoverer, if p's
 *                                                               producer is dead, or reserved p and
 *                                                               gave up
 *     ALF_AT_VALUE                     lap(p), index            LATER: a producer, a round later
 *                                                               TOMBSTONE: a recoverer, if it is
 *                                                               part of a bulk that is not whole
 *     ALF_AT_TOMBSTONE                 lap(p), ALF_TOMBSTONE    LATER; consumers step over it
 *     ALF_AT_LATER                     a later lap              p has been consumed
 *
 * A producer that crashes before it publishes leaves UNPUBLISHED; ranges_bury() repairs it. A
 * recoverer that crashes before or after alf_make_tombstone() leaves nothing else: the next one
 * makes the same compare-and-swap, or finds it made.
 *
 * Any number of members may make tombstones at any time. The expected value of the compare-and-swap
 * was read before the caller found that no live member has the position, and a slot's word never
 * comes back.
 *
 * Ordering: [SLOT], [OP], [PROD] and [CONS] of alf_queue.h. To find the owner of a position, read
 * prod or cons first, then the slot, then the op records. A member that moves prod or cons has
 * written its op record before, and clears the record only after the work is done.
 */
#ifndef SHMPOOL_ALF_REPAIR_H
#define SHMPOOL_ALF_REPAIR_H

#include "alf_queue.h"

enum alf_at {
	ALF_AT_UNPUBLISHED, /* reserved or not: the slot has the word of the round before */
	ALF_AT_VALUE,
	ALF_AT_TOMBSTONE,
	ALF_AT_LATER
};

/* Returns the state of position, given the word read from its slot. */
static inline enum alf_at alf_at(const struct alf_ring *r, alf_position position, uint64_t word)
{
	uint64_t differs = word ^ alf_tag(r, position);
	if (differs <= (ALF_TOMBSTONE | ALF_INDEX_MASK))
		return differs & ALF_TOMBSTONE ? ALF_AT_TOMBSTONE : ALF_AT_VALUE;
	differs = word ^ alf_tag(r, (alf_position)(position - alf_capacity(r)));
	return differs <= (ALF_TOMBSTONE | ALF_INDEX_MASK) ? ALF_AT_UNPUBLISHED : ALF_AT_LATER;
}

static inline uint64_t alf_word(const struct alf_ring *r, alf_position position)
{
	return load_acquire(&r->slot[position & r->mask]); /* [SLOT] */
}

/* Makes a tombstone of a position that no live member has reserved. word is what its slot held
 * before the caller found that out. Returns false if another member changed the slot first. */
static inline bool alf_make_tombstone(const struct alf_ring *r, alf_position position,
				      uint64_t word)
{
	return cas_seq_cst(&r->slot[position & r->mask], &word,
			   alf_tag(r, position) | ALF_TOMBSTONE); /* [SLOT] */
}

#endif
