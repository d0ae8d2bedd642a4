/* SPDX-License-Identifier: Apache-2.0
 *
 * cover.c - see cover.h.
 */
#include "cover.h"

#include <stdlib.h>

#define OP_BITS (64 - ALF_OP_POSITION_SHIFT) /* bits of a position in an op record */
#define BITS (SHMPOOL_POSITION_BITS < OP_BITS ? SHMPOOL_POSITION_BITS : OP_BITS)
#define ROUND (1ull << BITS)

/* Returns the bound of position 0 of a queue and kind of operation. */
static uint64_t begin(enum alf_op_kind kind, uint32_t queue)
{
	return ((uint64_t)(kind == ALF_OP_DEQUEUE) << 10 | queue) << BITS;
}

void cover_add(struct cover *c, uint64_t op)
{
	enum alf_op_kind kind = alf_op_kind(op);
	uint64_t n = alf_op_count(op), first = op >> ALF_OP_POSITION_SHIFT & (ROUND - 1);
	uint64_t base = begin(kind, alf_op_queue(op));
	if (kind == ALF_OP_NONE || !n)
		return;
	if (n > ROUND)
		n = ROUND;
	uint64_t straight = ROUND - first < n ? ROUND - first : n;
	c->interval[c->n++] = (struct interval) { base + first, base + first + straight };
	if (straight < n)
		c->interval[c->n++] = (struct interval) { base, base + n - straight };
}

static int compare(const void *a, const void *b)
{
	uint64_t left = ((const struct interval *)a)->from;
	uint64_t right = ((const struct interval *)b)->from;
	return (left > right) - (left < right);
}

void cover_sort(struct cover *c)
{
	uint32_t kept = 0;
	if (c->n < 2)
		return;
	qsort(c->interval, c->n, sizeof(*c->interval), compare);
	for (uint32_t i = 1; i < c->n; i++) {
		struct interval *last = &c->interval[kept], next = c->interval[i];
		if (next.from > last->end)
			c->interval[++kept] = next;
		else if (next.end > last->end)
			last->end = next.end;
	}
	c->n = kept + 1;
}

bool cover_has(const struct cover *c, enum alf_op_kind kind, uint32_t queue, alf_position position)
{
	uint64_t at = begin(kind, queue) + ((uint64_t)position & (ROUND - 1));
	uint32_t low = 0, high = c->n;
	while (low < high) {
		uint32_t middle = (low + high) / 2;
		if (c->interval[middle].from <= at)
			low = middle + 1;
		else
			high = middle;
	}
	return low && at < c->interval[low - 1].end;
}
