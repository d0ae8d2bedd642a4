/* SPDX-License-Identifier: Apache-2.0
 *
 * slab.c - see slab.h.
 */
#include "slab.h"

#include <sys/stat.h>

#include "owner.h"
#include "token.h"

/* Reserves the headers and data of n buffers of the class. */
static int reserve(const struct segment *s, uint64_t first, uint64_t n)
{
	int error = segment_reserve(s, s->headers_offset + first * sizeof(struct buffer),
				    n * sizeof(struct buffer));
	if (error)
		return error;
	error = segment_reserve(s, s->data_offset + first * s->stride, n * s->stride);
	/* Not if the pool is pinned: a trimmer that died may have left an absent extent with memory
	 * that a process has registered. */
	if (error && !token_pinned(s, 0))
		segment_unreserve(s, s->data_offset + first * s->stride, n * s->stride);
	return error;
}

int slab_create(const struct segment *s)
{
	const uint32_t n = (uint32_t)s->geometry.prealloc, slot = segment_free_slot(s);
	struct alf_ring ring;
	struct alf_queue *q = &segment_queue(s, slot)->queue;
	int error = alf_init(&ring, q, (uint64_t *)(s->base + s->free_ring_offset),
			     (uint32_t)s->geometry.capacity, CAPACITY_MAX, slot, 0);
	const struct segment_part *part = &s->part[s->class];
	struct alf_ring side;
	for (uint32_t i = 0; !error && i < part->sides; i++)
		error = alf_init(&side, &segment_queue(s, part->side_slot + i)->queue,
				 segment_side(s, i), part->side_room, part->side_room,
				 part->side_slot + i, 0);
	if (!error && n)
		error = reserve(s, s->first, n);
	if (error)
		return error;
	for (uint32_t i = 0; i < n; i++) {
		uint64_t at = q->prod + i, handle = s->first + i;
		struct buffer *b = segment_buffer(s, s->first + i);
		b->owner = owner_transit(slot, at);
		b->headroom = (uint32_t)s->geometry.headroom;
		b->handle = handle;
		alf_publish(&ring, at, &handle, 1);
	}
	q->prod += n;
	return 0;
}

/* Returns the extent to search from. *trims receives the upper part of the hint to store next. */
static uint64_t begin(const struct segment *s, const uint64_t *hint, uint64_t *trims)
{
	*trims = load_seq_cst(&segment_class_shared(s)->trims) << SLAB_EXTENT_BITS; /* [TRIMS] */
	uint64_t since = load_relaxed(hint) ^ *trims;
	return since >> SLAB_EXTENT_BITS ? 0 : since;
}

uint64_t slab_absent(const struct segment *s, uint64_t *hint, uint64_t most)
{
	uint64_t trims, n = 0, i = begin(s, hint, &trims);
	for (; i < s->extents && n < most; i++)
		if (!load_relaxed(segment_extent(s, i)))
			n += slab_extent_size(s, i);
	return n < most ? n : most;
}

int slab_grow(const struct segment *s, uint64_t *hint, uint64_t owner, uint32_t *first)
{
	uint64_t trims, from = begin(s, hint, &trims);
	for (uint64_t i = from; i < s->extents; i++) {
		uint64_t *extent = segment_extent(s, i), seen = load_acquire(extent); /* [EXTENT] */
		if (seen == EXTENT_PRESENT && i == from)
			store_relaxed(hint, trims | ++from);
		if (seen || !cas_seq_cst(extent, &seen, owner)) /* [EXTENT] */
			continue;
		uint64_t at = slab_extent_first(s, i), n = slab_extent_size(s, i);
		int error = reserve(s, at, n);
		if (error) {
			store_release(extent, 0); /* [EXTENT] */
			return error;
		}
		for (uint64_t k = at; k < at + n; k++) {
			struct buffer *b = segment_buffer(s, (uint32_t)k);
			store_relaxed(&b->headroom, (uint32_t)s->geometry.headroom);
			store_relaxed(&b->handle, handle_of((uint32_t)k, buffer_generation(b)));
			store_relaxed(&b->owner, owner);
		}
		store_release(extent, EXTENT_PRESENT); /* [EXTENT] */
		*first = (uint32_t)at;
		return (int)n;
	}
	return -EAGAIN;
}

uint64_t slab_created(const struct segment *s)
{
	uint64_t n = (uint64_t)s->geometry.prealloc;
	for (uint64_t i = 0; i < s->extents; i++)
		if (load_acquire(segment_extent(s, i)) == EXTENT_PRESENT) /* [EXTENT] */
			n += slab_extent_size(s, i);
	return n;
}

/* Returns the number of buffers of all classes that exist, and stores how much memory they need. */
static uint64_t created_all(const struct segment *s, uint64_t *bytes)
{
	uint64_t n = 0;
	*bytes = 0;
	for (uint32_t i = 0; i < segment_classes(s); i++) {
		const struct segment view = segment_view(s, i);
		uint64_t created = slab_created(&view);
		n += created;
		*bytes += created * (sizeof(struct buffer) + view.stride);
	}
	return n;
}

bool slab_backed(const struct segment *s)
{
	uint64_t rings = s->rings_offset, before, bytes;
	uint64_t created = created_all(s, &before);
	for (uint32_t i = 1; i <= s->geometry.queues; i++) {
		const struct queue_slot *slot = segment_queue(s, i);
		uint64_t backed = load_relaxed(&slot->queue.backed);
		if (load_acquire(&slot->state) == QUEUE_READY &&
		    backed <= ALF_CAPACITY_MAX) /* [QUEUE] */
			rings += backed * sizeof(shared64);
	}
	if (rings + created * sizeof(struct buffer) <= SLAB_SMALL)
		return true;
	/* While the pool grows or is trimmed, the two numbers may disagree for a moment. */
	for (int tries = 0; tries < 4; tries++, before = bytes) {
		struct stat file;
		if (fstat(s->fd, &file))
			return false;
		created_all(s, &bytes);
		uint64_t least = before < bytes ? before : bytes;
		if ((uint64_t)file.st_blocks * 512 >= rings + least)
			return true;
	}
	return false;
}
