/* SPDX-License-Identifier: Apache-2.0
 *
 * cover.h - a set of positions, made from op records: sorted intervals, searched by bisection.
 *
 * For one thread. A bound of an interval is | kind 1 | queue 10 | position 35 |; the end is one
 * past the last position. An interval that wraps at 2^35 is stored as two.
 */
#ifndef SHMPOOL_COVER_H
#define SHMPOOL_COVER_H

#include "alf_repair.h"

struct interval {
	uint64_t from, end;
};

struct cover {
	struct interval *interval; /* room for two for each op record */
	uint32_t n;
};

static inline void cover_clear(struct cover *c)
{
	c->n = 0;
}

/* Adds what an op record covers. */
void cover_add(struct cover *c, uint64_t op);

/* Sorts and merges. Call it after the last cover_add() and before cover_has(). */
void cover_sort(struct cover *c);

/* True if an op record of that kind (ENQUEUE or DEQUEUE) and queue covers the position. */
bool cover_has(const struct cover *c, enum alf_op_kind kind, uint32_t queue, alf_position position);

#endif
