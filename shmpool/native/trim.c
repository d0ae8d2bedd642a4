/* SPDX-License-Identifier: Apache-2.0
 *
 * trim.c - see trim.h.
 */
#define _GNU_SOURCE
#include "trim.h"

#include <stdlib.h>
#include <string.h>

#include "slab.h"
#include "transfer.h"

/* Free buffers of the extents to be trimmed, collected out of the shared queue. */
struct collection {
	struct qmempool *p;
	uint32_t *have;   /* by extent: buffers collected, NOT_WANTED */
	uint64_t *handle; /* those, in the order in which they came */
	uint64_t n;
};
#define NOT_WANTED UINT32_MAX

static uint32_t extent_of(const struct segment *s, uint32_t index)
{
	return (uint32_t)((index - s->geometry.prealloc) / s->geometry.extent_buffers);
}

static uint32_t extent_size(const struct segment *s, uint64_t i)
{
	uint64_t each = s->geometry.extent_buffers;
	uint64_t left = (uint64_t)(s->geometry.capacity - s->geometry.prealloc) - i * each;
	return (uint32_t)(left < each ? left : each);
}

static bool all_free(const struct segment *s, uint64_t i)
{
	uint64_t first = (uint64_t)s->geometry.prealloc + i * s->geometry.extent_buffers;
	if (load_acquire(segment_extent(s, i)) != EXTENT_PRESENT) /* [EXTENT] */
		return false;
	for (uint64_t k = first; k < first + extent_size(s, i); k++) {
		uint64_t owner = load_acquire(&segment_buffer(s, (uint32_t)k)->owner); /* [OWNER] */
		if (!(owner & OWNER_TRANSIT) || owner_queue(owner))
			return false;
	}
	return true;
}

/* Chooses the extents: from the last one on, those that are free as a whole. Returns their buffers. */
static uint64_t choose(struct collection *c, uint64_t keep)
{
	const struct segment *s = &c->p->segment;
	uint64_t chosen = 0, have = alf_count(&c->p->free);
	for (uint64_t i = s->extents; i-- > 0;) {
		uint32_t size = extent_size(s, i);
		bool wanted = chosen + size + keep <= have && all_free(s, i);
		c->have[i] = wanted ? 0 : NOT_WANTED;
		chosen += wanted ? size : 0;
	}
	return chosen;
}

/* Passes the shared queue by once and keeps what is wanted; the rest goes to its end at once. */
static void collect(struct collection *c, struct member *m, uint64_t most)
{
	struct qmempool *p = c->p;
	uint64_t left = alf_count(&p->free), some[BULK_MAX], back[BULK_MAX];
	while (left) {
		int got = transfer_free(p, m, some, left < BULK_MAX ? (uint32_t)left : BULK_MAX);
		uint32_t n = 0;
		if (got <= 0)
			break;
		left -= (uint32_t)got;
		for (int i = 0; i < got; i++) {
			uint32_t index = handle_index(some[i]);
			uint32_t *have = index < p->segment.geometry.prealloc ?
						 NULL :
						 &c->have[extent_of(&p->segment, index)];
			if (have && *have != NOT_WANTED && c->n < most) {
				(*have)++;
				c->handle[c->n++] = some[i];
			} else {
				back[n++] = some[i];
			}
		}
		qmempool_give(p, m, back, n);
	}
}

/* Takes an extent away, all of whose buffers are the caller's. Returns the bytes of its whole pages. */
static uint64_t take_away(const struct segment *s, const struct member *m, uint64_t i)
{
	uint64_t first = (uint64_t)s->geometry.prealloc + i * s->geometry.extent_buffers;
	uint64_t from = s->data_offset + first * s->stride;
	uint64_t end = from + extent_size(s, i) * s->stride;
	uint64_t seen = EXTENT_PRESENT;
	from = (from + SEGMENT_PAGE - 1) / SEGMENT_PAGE * SEGMENT_PAGE;
	end = end / SEGMENT_PAGE * SEGMENT_PAGE;
	if (!cas_seq_cst(segment_extent(s, i), &seen, m->tag)) /* [EXTENT] */
		return 0;
	/* From here on it is not present, and nobody's hint goes past it any more (slab_grow). */
	add_seq_cst(&segment_shared(s)->trims, 1);
	if (end <= from || !segment_unreserve(s, from, end - from))
		end = from; /* the memory stays; the extent is absent all the same */
	store_release(segment_extent(s, i), 0); /* [EXTENT] */
	return end - from;
}

int64_t trim(struct qmempool *p, struct member *m, uint64_t keep)
{
	const struct segment *s = &p->segment;
	struct collection c = { .p = p, .have = calloc(s->extents + 1, sizeof(*c.have)) };
	uint64_t some[BULK_MAX], bytes = 0, most = 0;
	if (!c.have)
		return -ENOMEM;
	qmempool_drain(p, m);
	for (uint32_t n; (n = qmempool_steal(p, m, some, BULK_MAX));)
		qmempool_give(p, m, some, n);
	most = choose(&c, keep);
	c.handle = malloc((most + 1) * sizeof(*c.handle));
	if (!c.handle) {
		free(c.have);
		return -ENOMEM;
	}
	collect(&c, m, most);
	/* Whole ones are absent from here on, and their buffers nobody's; the others go back. */
	for (uint64_t k = 0; k < c.n; k++) {
		uint32_t i = extent_of(s, handle_index(c.handle[k]));
		if (c.have[i] == extent_size(s, i)) {
			bytes += take_away(s, m, i);
			c.have[i] = NOT_WANTED;
		}
		if (c.have[i] != NOT_WANTED)
			qmempool_give(p, m, &c.handle[k], 1);
	}
	free(c.handle);
	free(c.have);
	return (int64_t)bytes;
}
