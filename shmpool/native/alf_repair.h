/* SPDX-License-Identifier: Apache-2.0
 *
 * alf_repair.h - what a dead producer or consumer can leave in a ring, by name, and its repair: a
 * reserved position that nobody will ever publish is made void, and consumers step over it.
 *
 * Anybody may do all of this at any time, any number at once: alf_make_void() is one
 * compare-and-swap whose expected value was read before it was learnt that nobody alive has the
 * position, and a slot's word never comes back.
 *
 * Ordering: [SLOT], [OP], [PROD] and [CONS] of alf_queue.h. Who wants to know whose a position is
 * reads prod or cons, then the slot, then the op records: whoever moved prod or cons over the
 * position had written its op record before, and a record that no longer covers it was cleared
 * after the work.
 */
#ifndef SHMPOOL_ALF_REPAIR_H
#define SHMPOOL_ALF_REPAIR_H

#include "alf_queue.h"

enum alf_at {
	ALF_AT_UNPUBLISHED, /* reserved or not; what is there is a round old */
	ALF_AT_VALUE,
	ALF_AT_VOID,
	ALF_AT_LATER /* the ring has gone round since */
};

/* What the word of position's slot says of that position. */
static inline enum alf_at alf_at(const struct alf_ring *r, alf_position position, uint64_t word)
{
	uint64_t differs = word ^ alf_tag(r, position);
	if (differs <= (ALF_VOID | ALF_INDEX_MASK))
		return differs & ALF_VOID ? ALF_AT_VOID : ALF_AT_VALUE;
	differs = word ^ alf_tag(r, (alf_position)(position - alf_capacity(r)));
	return differs <= (ALF_VOID | ALF_INDEX_MASK) ? ALF_AT_UNPUBLISHED : ALF_AT_LATER;
}

static inline uint64_t alf_word(const struct alf_ring *r, alf_position position)
{
	return load_acquire(&r->slot[position & r->mask]); /* [SLOT] */
}

/* Makes a position void that nobody alive has reserved; word is what its slot held before that was
 * learnt. False if somebody else has done it. */
static inline bool alf_make_void(const struct alf_ring *r, alf_position position, uint64_t word)
{
	return cas_seq_cst(&r->slot[position & r->mask], &word,
			   alf_tag(r, position) | ALF_VOID); /* [SLOT] */
}

#endif
