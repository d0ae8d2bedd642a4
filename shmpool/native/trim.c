/* SPDX-License-Identifier: Apache-2.0
 *
 * trim.c - see trim.h.
 */
#define _GNU_SOURCE
#include "trim.h"

#include <stdlib.h>
#include <string.h>

#include "cache.h"
#include "member.h"
#include "slab.h"
#include "transfer.h"

/* One turn takes this part of the free buffers, and passes once through the free ring. */
#define SHARE 8u

/* One turn: free buffers of the chosen extents, collected from the free ring. */
struct collection {
	struct qmempool *p;
	uint32_t *have;   /* by extent: buffers collected, NOT_YET or TRIED */
	uint64_t *handle; /* the buffers collected, in the order in which they came */
	uint64_t n, most;
	uint64_t token; /* of this process */
	bool pinned;    /* a process has the pool pinned: no extent can be removed */
};
#define TRIED UINT32_MAX
#define NOT_YET (UINT32_MAX - 1)
_Static_assert(CAPACITY_MAX < NOT_YET, "no extent has so many buffers");

static bool all_free(const struct segment *s, uint64_t i)
{
	uint64_t first = slab_extent_first(s, i);
	if (load_acquire(segment_extent(s, i)) != EXTENT_PRESENT) /* [EXTENT] */
		return false;
	for (uint64_t k = first; k < first + slab_extent_size(s, i); k++) {
		uint64_t owner = load_acquire(&segment_buffer(s, (uint32_t)k)->owner); /* [OWNER] */
		if (!(owner & OWNER_TRANSIT) ||
		    segment_free_ring(s, owner_queue(owner)) != s->class)
			return false;
	}
	return true;
}

/* Chooses extents for the next turn, from the last one down: those that are wholly free and have
 * not been tried, a SHARE of the free buffers or one extent. Leaves the last free buffer unless the
 * slab can grow. Returns false if there is none. */
static bool choose(struct collection *c, uint64_t keep)
{
	const struct segment *s = &c->p->segment;
	uint64_t have = alf_count(&c->p->free), share = have / SHARE;
	bool others = slab_absent(s, &c->p->absent, 1);
	c->most = 0;
	for (uint64_t i = s->extents; i-- > 0 && c->most < share + 1;) {
		uint32_t size = slab_extent_size(s, i);
		if (c->have[i] != NOT_YET)
			continue;
		if (c->most + size + keep > have || (c->most + size == have && !others))
			break;
		if (c->most && c->most + size > share)
			break;
		c->have[i] = TRIED;
		if (!all_free(s, i))
			continue;
		c->have[i] = 0;
		c->most += size;
	}
	return c->most;
}

/* Returns the entry of the extent that has the buffer; NULL if it is one of the first prealloc, or
 * of another class (a corrupted ring). */
static uint32_t *extent_of(const struct collection *c, uint32_t index)
{
	const struct segment *s = &c->p->segment;
	const uint64_t i = segment_extent_of(s, index);
	return index - s->first < s->geometry.prealloc || i >= s->extents ? NULL : &c->have[i];
}

/* Passes once through the free ring. Keeps the buffers of chosen extents, and puts the others back
 * at the ring's end at once. */
static void collect(struct collection *c, struct member *m)
{
	struct qmempool *p = c->p;
	uint64_t left = alf_count(&p->free), some[BULK_MAX], back[BULK_MAX];
	c->n = 0;
	while (left) {
		/* Small, since other members cannot get these buffers for a moment. */
		uint64_t bulk = left / SHARE + 1;
		int got = transfer_free(p, m, some, bulk < BULK_MAX ? (uint32_t)bulk : BULK_MAX,
					NULL);
		uint32_t n = 0;
		if (got <= 0)
			break;
		left -= (uint64_t)got < left ? (uint64_t)got : left;
		for (int i = 0; i < got; i++) {
			uint32_t index = handle_index(some[i]);
			uint32_t *have = extent_of(c, index);
			if (have && *have < NOT_YET && c->n < c->most) {
				(*have)++;
				c->handle[c->n++] = some[i];
			} else {
				back[n++] = some[i];
			}
		}
		free_ring_put_cold(p, m, back, n);
	}
}

/* Moves what the side rings have to the free ring, from which extents are collected. */
static void cool(struct qmempool *p, struct member *m)
{
	uint64_t some[BULK_MAX];
	for (uint32_t i = 0; i < p->sides; i++) {
		uint32_t left = alf_count(&p->side[i]);
		for (int got; left && (got = side_take_from(p, m, i, some, BULK_MAX, NULL)) > 0;) {
			free_ring_put_cold(p, m, some, (uint32_t)got);
			left -= (uint32_t)got < left ? (uint32_t)got : left;
		}
	}
}

/* Removes an extent, all of whose buffers the caller owns. Returns the bytes of its whole pages
 * that were given back. If the pool is pinned, keeps the extent and sets c->pinned. */
static uint64_t take_away(struct collection *c, const struct member *m, uint64_t i)
{
	const struct segment *s = &c->p->segment;
	uint64_t first = slab_extent_first(s, i);
	uint64_t from = s->data_offset + first * s->stride;
	uint64_t end = from + slab_extent_size(s, i) * s->stride;
	uint64_t seen = EXTENT_PRESENT;
	from = (from + SEGMENT_PAGE - 1) / SEGMENT_PAGE * SEGMENT_PAGE;
	end = end / SEGMENT_PAGE * SEGMENT_PAGE;
	if (!cas_seq_cst(segment_extent(s, i), &seen, m->tag)) /* [EXTENT] */
		return 0;
	/* Now the extent is not present, and no process registers it. */
	c->pinned = token_pinned(s, c->token); /* after the word: token.h */
	if (c->pinned) {
		store_release(segment_extent(s, i), EXTENT_PRESENT); /* [EXTENT] */
		return 0;
	}
	/* After this count no hint of slab_grow() skips it. */
	add_seq_cst(&segment_class_shared(s)->trims, 1); /* [TRIMS] */
	if (end <= from || !segment_unreserve(s, from, end - from))
		end = from; /* the kernel keeps the memory; the extent is absent all the same */
	store_release(segment_extent(s, i), 0); /* [EXTENT] */
	return end - from;
}

/* Removes the extents that were collected whole, and gives the other buffers back. Returns the
 * bytes given back to the kernel. */
static uint64_t take_all_away(struct collection *c, struct member *m)
{
	const struct segment *s = &c->p->segment;
	uint64_t bytes = 0;
	for (uint64_t k = 0; k < c->n; k++) {
		uint64_t i = segment_extent_of(s, handle_index(c->handle[k]));
		if (c->have[i] == slab_extent_size(s, i) && !c->pinned) {
			bytes += take_away(c, m, i);
			if (!c->pinned)
				c->have[i] = TRIED;
		}
		if (c->have[i] != TRIED)
			free_ring_put_cold(c->p, m, &c->handle[k], 1);
	}
	for (uint64_t k = 0; k < c->n; k++)
		*extent_of(c, handle_index(c->handle[k])) = TRIED;
	free_ring_wake(c->p); /* what is absent can be made */
	return bytes;
}

/* Trims one class. */
static int64_t trim_class(struct qmempool *p, struct member *m, uint64_t keep, uint64_t token,
			  const uint32_t *closing)
{
	const struct segment *s = &p->segment;
	const uint64_t capacity = (uint64_t)s->geometry.capacity;
	struct collection c = { .p = p,
				.token = token,
				.have = malloc((s->extents + 1) * sizeof(*c.have)) };
	uint64_t some[BULK_MAX], bytes = 0, stolen = 0;
	c.handle = malloc((capacity / SHARE + s->geometry.extent_buffers + 1) * sizeof(*c.handle));
	if (!c.have || !c.handle) {
		free(c.have);
		free(c.handle);
		return -ENOMEM;
	}
	for (uint64_t i = 0; i < s->extents; i++)
		c.have[i] = NOT_YET;
	cache_drain(p, m);
	for (uint32_t n; stolen < capacity && (n = cache_steal(p, m, some, BULK_MAX)); stolen += n)
		free_ring_put_cold(p, m, some, n);
	cool(p, m);
	while (!load_relaxed(closing) && !c.pinned && choose(&c, keep)) {
		collect(&c, m);
		bytes += take_all_away(&c, m);
	}
	free(c.handle);
	free(c.have);
	return (int64_t)bytes;
}

int64_t trim(struct qmempool *p, struct member *m, uint64_t keep)
{
	const uint64_t token = member_token(load_relaxed(&m->identity));
	int64_t bytes = 0;
	if (load_relaxed(&p->segment.locked)) /* the kernel would keep the memory */
		return 0;
	if (token_pinned(&p->segment, token)) /* the answer may change: take_away() asks again */
		return 0;
	for (uint32_t i = 0; i < segment_classes(&p->segment); i++) {
		struct qmempool *of = pool_class(p, i);
		int64_t more = trim_class(of, pool_block(of, m), keep, token, &p->closing);
		if (more < 0)
			return bytes ? bytes : more;
		bytes += more;
	}
	return bytes;
}
