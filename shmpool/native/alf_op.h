/* SPDX-License-Identifier: Apache-2.0
 *
 * alf_op.h - op records: which positions of a ring a member may have reserved or claimed.
 *
 * Each member has one op record, a 64-bit word, so that others can read it whole while it changes:
 *
 *     | position 35 | n 17 | queue 10 | kind 2 |
 *
 * Only the ALF_MULTI operations write it. On a single side, what is unfinished belongs to the one
 * producer or consumer that the queue names.
 *
 *     kind      written by          means                                 a crash then leaves
 *     NONE      alf_done()          nothing is unfinished                 nothing
 *     ENQUEUE   alf_reserve(),      n positions may be reserved; if the   reserved positions that
 *               before its CAS      CAS was lost they are another's       nobody publishes
 *     PUBLISH   alf_publishing(),   n > 1 positions are reserved, and     part of a bulk published,
 *               after the CAS       the bulk is being written             from its end on
 *     DEQUEUE   alf_claim(),        n positions may be claimed; if the    buffers whose owner words
 *               before its CAS      CAS was lost they are another's       still name the ring
 *
 * Recovery repairs all of these: ranges.c the first two, sweep.c the third. A record covers a
 * position modulo 2^35. An old record that seems to cover a position only postpones a repair.
 */
#ifndef SHMPOOL_ALF_OP_H
#define SHMPOOL_ALF_OP_H

#include "alf_pace.h"

enum alf_op_kind { ALF_OP_NONE, ALF_OP_ENQUEUE, ALF_OP_DEQUEUE, ALF_OP_PUBLISH };
#define ALF_OP_QUEUE_SHIFT 2
#define ALF_OP_COUNT_SHIFT 12
#define ALF_OP_POSITION_SHIFT 29
/* The most positions that one operation may reserve or claim. Callers split larger ones. */
#define ALF_OP_COUNT_MAX ((1u << (ALF_OP_POSITION_SHIFT - ALF_OP_COUNT_SHIFT)) - 1)

static inline enum alf_op_kind alf_op_kind(uint64_t op)
{
	return (enum alf_op_kind)(op & ((1u << ALF_OP_QUEUE_SHIFT) - 1));
}

static inline uint32_t alf_op_queue(uint64_t op)
{
	return op >> ALF_OP_QUEUE_SHIFT & ((1u << (ALF_OP_COUNT_SHIFT - ALF_OP_QUEUE_SHIFT)) - 1);
}

static inline uint32_t alf_op_count(uint64_t op)
{
	return op >> ALF_OP_COUNT_SHIFT &
	       ((1u << (ALF_OP_POSITION_SHIFT - ALF_OP_COUNT_SHIFT)) - 1);
}

/* Returns the distance of position from the record's first one, modulo 2^35. */
static inline uint64_t alf_op_offset(uint64_t op, alf_position position)
{
	uint64_t first = op >> ALF_OP_POSITION_SHIFT;
	return (alf_position)(position - first) & (UINT64_MAX >> ALF_OP_POSITION_SHIFT);
}

/* True if the record's owner may have reserved (ENQUEUE) or claimed (DEQUEUE) the position. */
static inline bool alf_op_covers(uint64_t op, enum alf_op_kind kind, uint32_t queue,
				 alf_position position)
{
	enum alf_op_kind said =
		alf_op_kind(op) == ALF_OP_PUBLISH ? ALF_OP_ENQUEUE : alf_op_kind(op);
	return said == kind && alf_op_queue(op) == queue &&
	       alf_op_offset(op, position) < alf_op_count(op);
}

#endif
