/* SPDX-License-Identifier: Apache-2.0
 *
 * cover.h - the positions that some op records cover, as sorted intervals: whether a position is
 * among them costs a binary search, however many members there are.
 *
 * For one thread. Each interval is | kind 1 | queue 10 | position 35 |, from its first position up
 * to the one after its last; one that goes round the end of an op record's positions is two.
 */
#ifndef SHMPOOL_COVER_H
#define SHMPOOL_COVER_H

#include "alf_repair.h"

struct interval {
	uint64_t from, end;
};

struct cover {
	struct interval *interval; /* room for two an op record */
	uint32_t n;
};

static inline void cover_clear(struct cover *c)
{
	c->n = 0;
}

/* Adds what an op record covers; what covers nothing is left out. */
void cover_add(struct cover *c, uint64_t op);

/* After the last of them: from here on cover_has() may be asked. */
void cover_sort(struct cover *c);

/* Whether one of the op records covers the position: of an enqueue, or of a dequeue. */
bool cover_has(const struct cover *c, enum alf_op_kind kind, uint32_t queue, alf_position position);

#endif
