/* SPDX-License-Identifier: Apache-2.0
 *
 * segment.c - see segment.h: plans the layout, creates it, checks it.
 */
#define _GNU_SOURCE
#include "segment.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "geometry.h"
#include "memory.h"
#include "owner.h"

static uint64_t round_up(uint64_t n, uint64_t to)
{
	return (n + to - 1) / to * to;
}

int segment_plan(struct segment *s, struct shmpool_geometry *g, struct shmpool_refusal *why)
{
	int error = geometry_check(g, why);
	if (error)
		return error;
	const uint32_t classes = (uint32_t)g->classes;
	struct segment_part *part = s->part;
	memset(part, 0, sizeof(s->part));
	s->class = s->first = s->total = 0;
	s->stride = (uint64_t)g->buffer_size;
	s->members = (uint32_t)g->members;
	s->members_offset = round_up(SHARED_END, CACHE_LINE);
	s->member_stride = 0;
	for (uint32_t i = 0; i < classes; i++) {
		const struct shmpool_geometry of = geometry_of(g, i);
		part[i].block = s->member_stride;
		s->member_stride +=
			round_up(sizeof(struct member) + (uint64_t)of.cache_size * 8, CACHE_LINE);
		part[i].first = s->total;
		s->total += (uint32_t)of.capacity;
		part[i].extents = ((uint64_t)(of.capacity - of.prealloc) + of.extent_buffers - 1) /
				  of.extent_buffers;
	}
	s->queues_offset =
		round_up(s->members_offset + s->members * s->member_stride, SEGMENT_PAGE);
	s->rings = (uint32_t)(g->queues + g->classes);
	for (uint32_t i = 0; i < classes; i++) {
		const struct shmpool_geometry of = geometry_of(g, i);
		part[i].sides = geometry_sides(&of, &part[i].side_room);
		part[i].side_slot = s->rings;
		s->rings += part[i].sides;
	}
	s->pages = (s->rings + QUEUES_IN_PAGE - 1) / QUEUES_IN_PAGE;
	if (s->pages < QUEUE_PAGES)
		s->pages = s->rings < QUEUE_PAGES ? s->rings : QUEUE_PAGES;
	uint64_t at = s->queues_offset + (uint64_t)s->pages * QUEUE_PAGE;
	for (uint32_t i = 0; i < classes; i++) {
		part[i].extents_offset = at;
		at += part[i].extents * 8;
	}
	for (uint32_t i = 0; i < classes; i++) {
		part[i].free_ring_offset = round_up(at, SEGMENT_PAGE);
		at = part[i].free_ring_offset + (uint64_t)geometry_of(g, i).capacity * 8;
		part[i].sides_offset = round_up(at, CACHE_LINE);
		at = part[i].sides_offset + part[i].sides * segment_side_bytes(&part[i]);
	}
	s->rings_offset = round_up(at, SEGMENT_PAGE);
	/* Extents of 4 MiB have whole huge pages, if the data begins at one. */
	const uint64_t border = g->huge ? MEMORY_HUGE : SEGMENT_PAGE;
	s->headers_offset =
		round_up(s->rings_offset + (uint64_t)g->queues * RING_SLOTS * 8, border);
	at = s->headers_offset + s->total * sizeof(struct buffer);
	for (uint32_t i = 0; i < classes; i++) {
		const struct shmpool_geometry of = geometry_of(g, i);
		part[i].data_offset = round_up(at, border);
		at = part[i].data_offset + (uint64_t)of.capacity * (uint64_t)of.buffer_size;
		if (i)
			g->more[i - 1].data_offset = part[i].data_offset;
	}
	s->size = round_up(at, SEGMENT_PAGE);
	s->extents_offset = part[0].extents_offset;
	s->extents = part[0].extents;
	s->free_ring_offset = part[0].free_ring_offset;
	s->data_offset = part[0].data_offset;
	g->size = s->size;
	g->data_offset = s->data_offset;
	g->stride = s->stride;
	g->headers_offset = s->headers_offset;
	s->populate = s->locked = 0;
	s->geometry = *g;
	return 0;
}

struct segment segment_view(const struct segment *s, uint32_t class)
{
	struct segment view = *s;
	const struct segment_part *part = &s->part[class];
	view.geometry = geometry_of(&s->geometry, class);
	view.class = class;
	view.first = part->first;
	view.stride = (uint64_t)view.geometry.buffer_size;
	view.members_offset += part->block;
	view.extents_offset = part->extents_offset;
	view.extents = part->extents;
	view.free_ring_offset = part->free_ring_offset;
	/* Unsigned: what is subtracted here is added again by an index of the class. */
	view.data_offset = part->data_offset - part->first * view.stride;
	return view;
}

/* FNV-1a, 64 bits. */
static uint64_t hash_of(const void *data, size_t size)
{
	uint64_t hash = 0xcbf29ce484222325ull;
	for (size_t i = 0; i < size; i++)
		hash = (hash ^ ((const unsigned char *)data)[i]) * 0x100000001b3ull;
	return hash;
}

static uint64_t header_checksum(struct segment_header h)
{
	h.initialised = h.checksum = 0;
	return hash_of(&h, sizeof(h));
}

uint64_t segment_layout_hash(void)
{
	const uint64_t facts[] = {
		sizeof(struct segment_header),
		sizeof(struct pool_shared),
		sizeof(struct member),
		sizeof(struct queue_slot),
		QUEUE_PAGE,
		QUEUE_PAGES,
		sizeof(struct buffer),
		SHARED_OFFSET,
		ALF_INDEX_BITS,
		ALF_CAPACITY_MAX,
		ALF_LAP_SHIFT,
		ALF_OP_POSITION_SHIFT,
		ALF_OP_COUNT_SHIFT,
		OWNER_POSITION_BITS,
		COUNTERS,
		offsetof(struct segment_header, class),
		CLASSES_MAX,
		GEOMETRY_WARM_SIZE,
		GEOMETRY_WARM_BYTES,
		GEOMETRY_SIDE_BULKS,
		SIDES_MAX,
		offsetof(struct segment_header, members_offset),
		offsetof(struct member, counters),
		offsetof(struct member, device),
		offsetof(struct member, side),
		offsetof(struct queue_slot, queue),
		offsetof(struct queue_slot, bypassed),
		TAG_NUMBER_BITS,
		offsetof(struct member, cleared),
		offsetof(struct buffer, timestamp),
		offsetof(struct buffer, handle),
		offsetof(struct member, cache_bottom),
	};
	return hash_of(facts, sizeof(facts));
}

/* Returns 0, or -EBADFD if fd is not open. */
static int bind_file(struct segment *s, char *base, int fd)
{
	struct stat st;
	if (fstat(fd, &st))
		return -EBADFD;
	s->base = base;
	s->fd = fd;
	s->path[0] = 0;
	s->writes = false;
	s->device = st.st_dev;
	s->inode = st.st_ino;
	return 0;
}

int segment_init(struct segment *s, char *base, int fd)
{
	int error = bind_file(s, base, fd);
	if (!error)
		error = segment_reserve(s, 0, s->rings_offset);
	if (error)
		return error;
	const struct shmpool_geometry *g = &s->geometry;
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	struct segment_header *h = segment_header(s);
	*h = (struct segment_header) {
		.magic = LAYOUT_MAGIC,
		.version = LAYOUT_VERSION,
		.layout_hash = segment_layout_hash(),
		.creator_pid = (uint64_t)getpid(),
		.huge = g->huge != SHMPOOL_HUGE_NEVER,
		.created_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec,
		.classes = (uint64_t)g->classes,
		.bulk = (uint64_t)g->bulk,
		.refill_multiplier = (uint64_t)g->refill_multiplier,
		.headroom = (uint64_t)g->headroom,
		.max_members = (uint64_t)g->members,
		.max_queues = (uint64_t)g->queues,
		.free_rings = (uint64_t)g->free_rings,
		.members_offset = s->members_offset,
		.member_stride = s->member_stride,
		.queues_offset = s->queues_offset,
		.extents_offset = s->extents_offset,
		.free_ring_offset = s->free_ring_offset,
		.rings_offset = s->rings_offset,
		.headers_offset = s->headers_offset,
		.data_offset = s->data_offset,
		.size = s->size,
	};
	for (uint32_t i = 0; i < segment_classes(s); i++) {
		const struct shmpool_geometry of = geometry_of(g, i);
		h->class[i] = (struct segment_class) { (uint64_t)of.buffer_size,
						       (uint64_t)of.capacity, (uint64_t)of.prealloc,
						       (uint64_t)of.cache_size, of.extent_buffers };
	}
	h->checksum = header_checksum(*h);
	for (uint32_t i = 0; i < s->members; i++)
		for (uint32_t k = 0; k < segment_classes(s); k++)
			segment_block(s, segment_member(s, i), k)->tag = i + 1;
	return 0;
}

void segment_ready(struct segment *s)
{
	/* Pairs with segment_check(): a process that reads LAYOUT_MAGIC sees everything that was
	 * written before. */
	store_release(&segment_header(s)->initialised, LAYOUT_MAGIC);
}

static int refuse(struct shmpool_refusal *why, enum shmpool_fault fault, uint64_t value,
		  uint64_t expected)
{
	*why = (struct shmpool_refusal) { .fault = fault, .value = value, .expected = expected };
	return -EBADMSG;
}

int segment_check(struct segment *s, char *base, uint64_t size, int fd, struct shmpool_refusal *why)
{
	why->fault = SHMPOOL_FAULT_NONE;
	if (size == 0)
		return -EAGAIN;
	if (size < SHARED_END)
		return refuse(why, SHMPOOL_FAULT_SHORT, size, SHARED_END);
	/* Pairs with segment_ready(). */
	uint64_t ready = load_acquire(&((struct segment_header *)base)->initialised);
	/* Read once: it may change. */
	struct segment_header h = *(const struct segment_header *)base;
	if (h.magic == 0 && ready == 0)
		return -EAGAIN;
	if (h.magic != LAYOUT_MAGIC)
		return refuse(why, SHMPOOL_FAULT_MAGIC, h.magic, LAYOUT_MAGIC);
	if (ready == 0)
		return -EAGAIN;
	if (h.version != LAYOUT_VERSION)
		return refuse(why, SHMPOOL_FAULT_VERSION, h.version, LAYOUT_VERSION);
	if (ready != LAYOUT_MAGIC)
		return refuse(why, SHMPOOL_FAULT_READY, ready, LAYOUT_MAGIC);
	if (h.layout_hash != segment_layout_hash())
		return refuse(why, SHMPOOL_FAULT_LAYOUT, h.layout_hash, segment_layout_hash());
	if (h.size != size)
		return refuse(why, SHMPOOL_FAULT_SIZE, size, h.size);

	struct shmpool_geometry g = {
		.buffer_size = (int64_t)h.class[0].buffer_size,
		.capacity = (int64_t)h.class[0].capacity,
		.prealloc = (int64_t)h.class[0].prealloc,
		.cache_size = (int64_t)h.class[0].cache_size,
		.bulk = (int64_t)h.bulk,
		.refill_multiplier = (int64_t)h.refill_multiplier,
		.headroom = (int64_t)h.headroom,
		.members = (int64_t)h.max_members,
		.queues = (int64_t)h.max_queues,
		.free_rings = (int64_t)h.free_rings,
		.classes = (int64_t)h.classes,
		.huge = h.huge != 0,
	};
	for (uint32_t i = 1; i < CLASSES_MAX; i++)
		g.more[i - 1] =
			(struct shmpool_class) { .buffer_size = (int64_t)h.class[i].buffer_size,
						 .capacity = (int64_t)h.class[i].capacity,
						 .prealloc = (int64_t)h.class[i].prealloc,
						 .cache_size = (int64_t)h.class[i].cache_size };
	if (segment_plan(s, &g, why)) {
		const struct shmpool_geometry of = geometry_of(&g, why->size_class);
		if (why->fault == SHMPOOL_FAULT_OPTION)
			why->value = (uint64_t)((const int64_t *)&of)[why->option];
		return -EBADMSG;
	}
	if (bind_file(s, base, fd))
		return refuse(why, SHMPOOL_FAULT_FILE, 0, 0);
	if (h.members_offset != s->members_offset || h.member_stride != s->member_stride ||
	    h.queues_offset != s->queues_offset || h.extents_offset != s->extents_offset ||
	    h.free_ring_offset != s->free_ring_offset || h.rings_offset != s->rings_offset ||
	    h.headers_offset != s->headers_offset || h.data_offset != s->data_offset ||
	    h.bulk != (uint64_t)g.bulk || h.free_rings != (uint64_t)g.free_rings || s->size != size)
		return refuse(why, SHMPOOL_FAULT_OFFSETS, 0, 0);
	for (uint32_t i = 0; i < segment_classes(s); i++) {
		const struct shmpool_geometry of = geometry_of(&g, i);
		if (h.class[i].buffer_size != (uint64_t)of.buffer_size ||
		    h.class[i].cache_size != (uint64_t)of.cache_size ||
		    h.class[i].extent_buffers != of.extent_buffers)
			return refuse(why, SHMPOOL_FAULT_OFFSETS, 0, 0);
	}
	/* Finds a changed prealloc or headroom, on which no offset depends. */
	if (h.checksum != header_checksum(h))
		return refuse(why, SHMPOOL_FAULT_CHECKSUM, h.checksum, header_checksum(h));
	return 0;
}

/* True if those words of a ring of free buffers that never change are as slab_create() makes them,
 * and its positions hold no more than it has room for, also while others move them. */
static bool ring_is_sound(const struct segment *s, uint32_t slot, uint64_t room)
{
	const struct alf_queue *q = &segment_queue(s, slot)->queue;
	/* Neither position moves back. */
	const alf_position before = alf_end(load_acquire(&q->prod)); /* [PROD] */
	const alf_position cons = load_acquire(&q->cons);            /* [CONS] */
	const alf_position after = alf_end(load_acquire(&q->prod));  /* [PROD] */
	return load_relaxed(&q->capacity) == room && load_relaxed(&q->room) == room &&
	       load_relaxed(&q->backed) == room && load_relaxed(&q->id) == slot &&
	       load_relaxed(&q->flags) == 0 && (alf_distance)(after - cons) >= 0 &&
	       (alf_distance)(cons + room - before) >= 0;
}

/* Returns the queue slot of a ring of free buffers that is corrupted, or the number of queue slots
 * if there is none. */
static uint32_t unsound_ring(const struct segment *s)
{
	for (uint32_t i = 0; i < segment_classes(s); i++) {
		const struct segment view = segment_view(s, i);
		const struct segment_part *part = &s->part[i];
		const uint32_t slot = segment_free_slot(&view);
		if (!ring_is_sound(s, slot, (uint64_t)view.geometry.capacity))
			return slot;
		for (uint32_t k = 0; k < part->sides; k++)
			if (!ring_is_sound(s, part->side_slot + k, part->side_room))
				return part->side_slot + k;
	}
	return s->rings;
}

int segment_check_rings(const struct segment *s, struct shmpool_refusal *why)
{
	const uint32_t slot = unsound_ring(s);
	return slot < s->rings ? refuse(why, SHMPOOL_FAULT_RING, slot, 0) : 0;
}
