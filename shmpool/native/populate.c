/* SPDX-License-Identifier: Apache-2.0
 *
 * populate.c - see populate.h.
 */
#include "populate.h"

#include <errno.h>

#include "memory.h"
#include "queue.h"
#include "slab.h"

#define STEP_BYTES (4ull << 20) /* 0.5 ms */
#define STEP_RANGES 65536       /* that do not exist, or are small */

/* *at is | range 32 | offset in it 32 |, in pages: of data there are 2^46 bytes at most. */
#define RANGE_SHIFT 32

struct range {
	uint64_t from, length; /* bytes; a length of 0: it does not exist */
};

/* Buffers from first on, of a class: their headers, or their data. */
static struct range of_buffers(const struct segment *s, uint64_t first, uint64_t n, bool data)
{
	return data ? (struct range) { s->data_offset + first * s->stride, n * s->stride } :
		      (struct range) { s->headers_offset + first * sizeof(struct buffer),
				       n * sizeof(struct buffer) };
}

static struct range of_queue(struct qmempool *p, uint32_t number)
{
	const struct alf_ring *r = queue_exists(p, number) ? queue_ring(p, number) : NULL;
	uint64_t slots = r ? load_relaxed(&r->q->backed) : 0;
	if (!slots || slots > ALF_CAPACITY_MAX)
		return (struct range) { 0 };
	slots += r->flags & ALF_TOPIC ? TOPIC_SLOTS : 0;
	return (struct range) { (uint64_t)((const char *)r->slot - p->segment.base), slots * 8 };
}

/* Stores range n of the pool in *out. Returns false if there are fewer. */
static bool range_at(struct qmempool *p, uint64_t n, struct range *out)
{
	if (!n) {
		*out = (struct range) { 0, p->segment.rings_offset };
		return true;
	}
	if (n <= (uint64_t)p->segment.geometry.queues) {
		*out = of_queue(p, (uint32_t)n);
		return true;
	}
	n -= (uint64_t)p->segment.geometry.queues + 1;
	for (uint32_t i = 0; i < segment_classes(&p->segment); i++) {
		const struct segment *s = &pool_class(p, i)->segment;
		const uint64_t at = n / 2, ranges = 2 * (s->extents + 1);
		if (n >= ranges) {
			n -= ranges;
			continue;
		}
		if (!at)
			*out = of_buffers(s, s->first, (uint64_t)s->geometry.prealloc, n % 2);
		else if (load_acquire(segment_extent(s, at - 1)) == EXTENT_PRESENT) /* [EXTENT] */
			*out = of_buffers(s, slab_extent_first(s, at - 1),
					  slab_extent_size(s, at - 1), n % 2);
		else
			*out = (struct range) { 0 };
		return true;
	}
	return false;
}

int populate_step(struct qmempool *p, uint64_t *at, bool fresh)
{
	uint64_t left = STEP_BYTES, n = *at >> RANGE_SHIFT;
	uint64_t done = (*at & ((1ull << RANGE_SHIFT) - 1)) * SEGMENT_PAGE;
	struct range range;
	if (!*at && !slab_backed(&p->segment))
		return -EBADMSG;
	for (int k = 0; k < STEP_RANGES && left && range_at(p, n, &range); k++) {
		const uint64_t from = range.from / SEGMENT_PAGE * SEGMENT_PAGE;
		const uint64_t length = range.length ? range.from + range.length - from : 0;
		const uint64_t some = done >= length       ? 0 :
				      length - done < left ? length - done :
							     left;
		int error = some ? memory_populate(p->segment.base + from + done, some, fresh) : 0;
		if (error)
			return error;
		left -= some;
		done += some;
		if (done < length)
			break;
		done = 0;
		n++;
	}
	*at = n << RANGE_SHIFT | done / SEGMENT_PAGE;
	if (range_at(p, n, &range))
		return 1;
	for (uint32_t i = 0; i < segment_classes(&p->segment); i++)
		store_relaxed(&pool_class(p, i)->segment.populate, 1);
	return 0;
}
