/* SPDX-License-Identifier: Apache-2.0
 *
 * alf_op.h - an op record: which positions of a ring its owner may have reserved or claimed.
 */
#ifndef SHMPOOL_ALF_OP_H
#define SHMPOOL_ALF_OP_H

#include "alf_pace.h"

/* An op record, of the ALF_MULTI operations: | position 35 | n 17 | queue 10 | kind 2 |: what its owner may have reserved or
 * claimed and not yet finished. One word, so that it can be read while it changes. A single side
 * needs none: what is unfinished there is the one producer's or consumer's that the queue names. */
enum alf_op_kind {
	ALF_OP_NONE,
	ALF_OP_ENQUEUE,
	ALF_OP_DEQUEUE,
	ALF_OP_PUBLISH /* an enqueue of more than one, whose positions are reserved for certain */
};
#define ALF_OP_QUEUE_SHIFT 2
#define ALF_OP_COUNT_SHIFT 12
#define ALF_OP_POSITION_SHIFT 29
/* The most that one operation may reserve or claim: more goes in several. A record covers a
 * position modulo 2^35; an older one that seems to cover it postpones a repair, and nothing else
 * (recover.h). */
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

/* How far position lies behind the first one of the record. */
static inline uint64_t alf_op_offset(uint64_t op, alf_position position)
{
	uint64_t first = op >> ALF_OP_POSITION_SHIFT;
	return (alf_position)(position - first) & (UINT64_MAX >> ALF_OP_POSITION_SHIFT);
}

/* Whether the record says that its owner may have reserved (claimed) the position. */
static inline bool alf_op_covers(uint64_t op, enum alf_op_kind kind, uint32_t queue,
				 alf_position position)
{
	enum alf_op_kind said =
		alf_op_kind(op) == ALF_OP_PUBLISH ? ALF_OP_ENQUEUE : alf_op_kind(op);
	return said == kind && alf_op_queue(op) == queue &&
	       alf_op_offset(op, position) < alf_op_count(op);
}

#endif
