/* SPDX-License-Identifier: Apache-2.0
 *
 * ranges.c - see recovery.h: positions that dead producers may have reserved and not published.
 *
 * The work is bounded by the lengths of the rings and the number of members, whatever the op
 * records say.
 */
#include <stdlib.h>

#include "recovery.h"
#include "topic.h"

#define AT_ONCE 256 /* slots that are decided with one read of all op records */

/* Adds a range, cut to the window of positions that the ring can hold now. */
static void add(struct recovery *r, struct dead_range range)
{
	uint64_t capacity = alf_capacity(range.ring);
	alf_distance at = (alf_distance)(range.from - r->base[range.ring->id]);
	if (at < 0) {
		uint64_t passed = (uint64_t)-(int64_t)at;
		if (passed >= range.n)
			return;
		range.from = (alf_position)(range.from + passed);
		range.n -= passed;
		at = 0;
	}
	range.at = (uint64_t)at;
	if (range.at >= capacity)
		return;
	if (range.n > capacity - range.at)
		range.n = capacity - range.at;
	if (range.n)
		r->range[r->ranges++] = range;
}

/* Adds what an op record of a dead member covers, up to prod. */
static void collect_record(struct recovery *r, struct dead *d, uint64_t op)
{
	enum alf_op_kind kind = alf_op_kind(op);
	if (kind != ALF_OP_ENQUEUE && kind != ALF_OP_PUBLISH)
		return;
	const struct alf_ring *ring = recovery_ring(r, alf_op_queue(op));
	if (!ring)
		return;
	alf_position prod = alf_end(load_acquire(&ring->q->prod)); /* [PROD] */
	uint64_t ago = alf_op_offset(op, prod), n = alf_op_count(op);
	add(r, (struct dead_range) { .ring = ring,
				     .from = (alf_position)(prod - ago),
				     .n = n < ago ? n : ago,
				     .by = d,
				     .certain = kind == ALF_OP_PUBLISH });
}

static void collect_records(struct recovery *r)
{
	for (uint32_t i = 0; i < r->deaths; i++)
		for (uint32_t k = 0; k < segment_classes(&r->p->segment); k++)
			collect_record(r, &r->dead[i], r->dead[i].op[k]);
}

/* Adds, for each queue whose single producer is dead, everything between cons and prod. */
static void collect_single(struct recovery *r)
{
	for (uint32_t i = 1; i <= r->p->segment.geometry.queues; i++) {
		const struct alf_ring *ring = recovery_ring(r, i);
		if (!ring || !(ring->flags & ALF_SINGLE_PRODUCER))
			continue;
		alf_position n = alf_end(load_acquire(&ring->q->prod)) - r->base[i]; /* [PROD] */
		/* [ROLE] Read after prod: a member that has the role now had it then. */
		struct dead *d = recovery_dead(r, load_acquire(&ring->q->producer));
		if (d)
			add(r, (struct dead_range) { .ring = ring,
						     .from = r->base[i],
						     .n = n,
						     .by = d,
						     .certain = true });
	}
}

static uint64_t key(const struct dead_range *range)
{
	return ((uint64_t)range->ring->id << 1 | range->certain) << 40 | range->at;
}

static int compare(const void *a, const void *b)
{
	uint64_t left = key(a), right = key(b);
	return (left > right) - (left < right);
}

/* Cuts the published positions off the front of a certain range. A bulk is published from its last
 * slot to its first, so if its first position is published, all of it is. Only the last bulk of a
 * range that belongs to one producer can be unfinished. */
static void skip_published(struct dead_range *range)
{
	while (range->n && alf_at(range->ring, range->from, alf_word(range->ring, range->from)) !=
				   ALF_AT_UNPUBLISHED) {
		range->from++;
		range->at++;
		range->n--;
	}
}

/* Sorts the ranges and removes overlaps. */
static void order(struct recovery *r)
{
	uint32_t kept = 0;
	uint64_t end = 0; /* end of what is covered so far, as a key */
	qsort(r->range, r->ranges, sizeof(*r->range), compare);
	for (uint32_t i = 0; i < r->ranges; i++) {
		struct dead_range range = r->range[i];
		uint64_t from = key(&range), common = end > from ? end - from : 0;
		if (common >= range.n)
			continue;
		range.from = (alf_position)(range.from + common);
		range.at += common;
		range.n -= common;
		end = key(&range) + range.n;
		if (range.certain)
			skip_published(&range);
		if (range.n)
			r->range[kept++] = range;
	}
	r->ranges = kept;
}

void ranges_collect(struct recovery *r)
{
	for (uint32_t i = 0; i < segment_ring_count(&r->p->segment); i++) {
		const struct alf_ring *ring = recovery_ring(r, i);
		if (ring)
			r->base[i] = load_acquire(&ring->q->cons); /* [CONS] read before prod */
		/* What is reserved and not published is within a ring of prod. */
		if (ring && topic_is(ring))
			r->base[i] =
				(alf_position)(alf_end(load_acquire(&ring->q->prod)) - /* [PROD] */
					       alf_capacity(ring));
		if (ring && alf_closed(ring)) { /* the member that closed it may be dead */
			store_relaxed(&ring->q->ended, 1);
			if (lanes_are(ring))
				lanes_close(ring);
		}
	}
	collect_records(r);
	collect_single(r);
	order(r);
}

/* Returns the range that covers the key, NULL for none. */
static struct dead_range *find(const struct recovery *r, uint64_t at)
{
	uint32_t low = 0, high = r->ranges;
	while (low < high) {
		uint32_t middle = (low + high) / 2;
		if (key(&r->range[middle]) <= at)
			low = middle + 1;
		else
			high = middle;
	}
	if (!low)
		return NULL;
	struct dead_range *range = &r->range[low - 1];
	return at - key(range) < range->n ? range : NULL;
}

struct dead_range *ranges_find(const struct recovery *r, uint32_t queue, uint64_t low,
			       alf_position *position)
{
	int64_t behind;
	if (queue >= segment_ring_count(&r->p->segment))
		return NULL;
	behind = owner_behind(low, r->base[queue]);
	if (behind < 0 || behind >= 1ll << 40)
		return NULL;
	*position = (alf_position)(r->base[queue] + (uint64_t)behind);
	struct dead_range *range = find(r, ((uint64_t)queue << 1 | 1) << 40 | (uint64_t)behind);
	return range ? range : find(r, (uint64_t)queue << 41 | (uint64_t)behind);
}

/* Makes tombstones of those of n positions, from at on, that no live member has reserved. */
static void bury(struct recovery *r, struct dead_range *range, alf_position at, uint32_t n)
{
	uint64_t word[AT_ONCE];
	for (uint32_t i = 0; i < n; i++)
		word[i] = alf_word(range->ring, (alf_position)(at + i));
	if (!range->certain)
		recovery_read_ops(r);
	for (uint32_t i = 0; i < n; i++) {
		alf_position position = (alf_position)(at + i);
		if (alf_at(range->ring, position, word[i]) != ALF_AT_UNPUBLISHED)
			continue;
		if (!range->certain && recovery_live(r, ALF_OP_ENQUEUE, range->ring->id, position))
			range->by->postponed = true;
		else {
			if (topic_is(range->ring))
				topic_evict_for(r->p, range->ring, position, word[i]);
			alf_make_tombstone(range->ring, position, word[i]);
		}
	}
}

void ranges_bury(struct recovery *r)
{
	for (uint32_t i = 0; i < r->ranges; i++) {
		struct dead_range *range = &r->range[i];
		for (uint64_t k = 0; k < range->n && !range->postponed; k += AT_ONCE)
			bury(r, range, (alf_position)(range->from + k),
			     range->n - k < AT_ONCE ? (uint32_t)(range->n - k) : AT_ONCE);
	}
}
