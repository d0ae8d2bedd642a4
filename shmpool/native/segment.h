/* SPDX-License-Identifier: Apache-2.0
 *
 * segment.h - one process's mapping of a pool's file: creates the segment, checks it before use,
 * reserves its memory.
 *
 *     segment_init     the creator only, on a new mapping
 *     segment_check, segment_check_rings
 *                      any process, on a mapping that may contain anything
 *     segment_reserve  any member at any time; reserving a range twice changes nothing
 */
#ifndef SHMPOOL_SEGMENT_H
#define SHMPOOL_SEGMENT_H

#include <stdbool.h>

#include "layout.h"
#include "shmpool.h"

#define SEGMENT_PAGE 4096ull
#define SEGMENT_PATH_MAX 128

/* Where the parts of a size class lie. */
struct segment_part {
	uint64_t block; /* bytes from a member's first block to the one of this class */
	uint64_t extents_offset, extents;
	uint64_t free_ring_offset;
	uint64_t sides_offset; /* of the slots of its side rings */
	uint64_t data_offset;
	uint32_t first;     /* index of its first buffer */
	uint32_t sides;     /* side rings */
	uint32_t side_room; /* slots of each */
	uint32_t side_slot; /* the queue slot that is the first one; the others follow */
};

/* Geometry and offsets. Copied out of the segment once and checked, so that a segment corrupted
 * later cannot lead to an access outside it.
 *
 * This is a view of one size class, of class 0 unless segment_view() made it: geometry, stride,
 * members_offset, extents, free ring and data are those of the class. data_offset is such that
 * index * stride, with an index of the class, leads to the buffer. */
struct segment {
	char *base;
	int fd;                      /* use segment_fd(): the program may have closed it */
	char path[SEGMENT_PATH_MAX]; /* the path that it was opened by, "" for none */
	bool writes;                 /* opened for writing */
	uint64_t device, inode;      /* of the file */
	uint32_t populate;           /* nonzero: this process maps what it reserves */
	uint32_t locked;             /* nonzero: this process has locked its mapping */
	struct shmpool_geometry geometry;
	uint64_t stride; /* bytes from one buffer's data to the next */
	uint64_t members_offset, member_stride;
	uint64_t queues_offset;
	uint64_t extents_offset, extents;
	uint64_t free_ring_offset;
	uint64_t rings_offset;
	uint64_t headers_offset;
	uint64_t data_offset;
	uint64_t size;
	uint32_t members; /* geometry.members */
	uint32_t class;   /* of which this is a view */
	uint32_t first;   /* index of the class's first buffer */
	uint32_t total;   /* buffers of all classes */
	uint32_t rings;   /* queue slots: named queues, free rings, side rings */
	uint32_t pages;   /* that have the queue slots */
	struct segment_part part[CLASSES_MAX];
};

/* Fills in the defaults of g, checks each option, and computes the layout. 0, or -EINVAL and *why:
 * the option, its class, and the values that it can have. */
int segment_plan(struct segment *s, struct shmpool_geometry *g, struct shmpool_refusal *why);

/* Creates the segment in a zeroed mapping of s->size bytes at base, without buffers. Returns 0,
 * -EBADFD, or what segment_reserve() returns. No process can attach before segment_ready(). */
int segment_init(struct segment *s, char *base, int fd);
void segment_ready(struct segment *s);

/* Checks the header of a segment of size bytes before anything in it is believed. 0; -EBADMSG and
 * *why; -EAGAIN if its creator has not finished. */
int segment_check(struct segment *s, char *base, uint64_t size, int fd,
		  struct shmpool_refusal *why);

/* Afterwards, in a mapping of the whole segment: checks the words of its free rings and side rings.
 * 0, or -EBADMSG and *why. */
int segment_check_rings(const struct segment *s, struct shmpool_refusal *why);

/* True if fd is open on the segment's file. */
bool segment_is(const struct segment *s, int fd);

/* Returns a descriptor of the segment's file for one call, and sets *opened to -1. If the program
 * has closed its descriptor, or has opened another file under the same number, opens the file again
 * by its path; the caller then closes *opened. Returns -EBADFD if the file cannot be opened any
 * more, -EMFILE if no descriptor is left. */
int segment_fd(const struct segment *s, int *opened);

/* Reserves memory for length bytes at offset, so that no access there raises SIGBUS. In a pool with
 * huge pages, of those that lie in the range, as long as the machine has some. Returns 0; -ENOSPC,
 * -EDQUOT, -ENOMEM; -ENODEV if the file system cannot reserve; -EACCES; -EIO; -EAGAIN or
 * -EOPNOTSUPP if there must be huge pages and are none; or what segment_fd() returns. */
int segment_reserve(const struct segment *s, uint64_t offset, uint64_t length);

/* Gives the memory of the whole pages in this range back to the kernel. The caller must be the only
 * user of the range. Returns false if the kernel keeps the memory, for example if a process has
 * locked it (mlock(2)). */
bool segment_unreserve(const struct segment *s, uint64_t offset, uint64_t length);

uint64_t segment_layout_hash(void);

/* Returns the view of a class. */
struct segment segment_view(const struct segment *s, uint32_t class);

static inline uint32_t segment_classes(const struct segment *s)
{
	return (uint32_t)s->geometry.classes;
}

/* Returns how many queue slots there are: the named queues, and the free and the side rings of all
 * classes. */
static inline uint32_t segment_ring_count(const struct segment *s)
{
	return s->rings;
}

/* Returns the queue slot that is the class's free ring. */
static inline uint32_t segment_free_slot(const struct segment *s)
{
	return s->class ? (uint32_t)s->geometry.queues + s->class : 0;
}

/* Returns the bytes from the slots of one side ring of a class to those of the next: whole lines,
 * so that no two share one. */
static inline uint64_t segment_side_bytes(const struct segment_part *part)
{
	return (part->side_room * sizeof(shared64) + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
}

/* Returns the class whose free ring or side ring a queue slot is, CLASSES_MAX for a named queue or
 * none. */
static inline uint32_t segment_free_ring(const struct segment *s, uint32_t slot)
{
	const uint32_t classes = segment_classes(s);
	if (slot == 0)
		return 0;
	if (slot <= s->geometry.queues)
		return CLASSES_MAX;
	if (slot < s->geometry.queues + classes)
		return slot - (uint32_t)s->geometry.queues;
	for (uint32_t k = 0; k < classes; k++)
		if (slot - s->part[k].side_slot < s->part[k].sides)
			return k;
	return CLASSES_MAX;
}

static inline struct segment_header *segment_header(const struct segment *s)
{
	return (struct segment_header *)s->base;
}

/* Returns the words of the pool. */
static inline struct pool_shared *segment_shared(const struct segment *s)
{
	return (struct pool_shared *)(s->base + SHARED_OFFSET);
}

/* Returns the words of the class. */
static inline struct pool_shared *segment_class_shared(const struct segment *s)
{
	return segment_shared(s) + s->class;
}

/* Returns a member's block of the class. */
static inline struct member *segment_member(const struct segment *s, uint32_t number)
{
	return (struct member *)(s->base + s->members_offset + number * s->member_stride);
}

/* Returns a member's block of a class, given its block of class 0; and the other way round. */
static inline struct member *segment_block(const struct segment *s, const struct member *m,
					   uint32_t class)
{
	return (struct member *)((char *)m + s->part[class].block);
}

static inline struct member *segment_holder(const struct segment *s, const struct member *block)
{
	return (struct member *)((char *)block - s->part[s->class].block);
}

static inline struct queue_slot *segment_queue(const struct segment *s, uint32_t number)
{
	char *page = s->base + s->queues_offset + (uint64_t)(number % s->pages) * QUEUE_PAGE;
	return (struct queue_slot *)page + number / s->pages;
}

/* Returns a pointer to the state of extent i: 0 (absent), the tag of the member that creates or
 * removes it, or EXTENT_PRESENT. */
#define EXTENT_PRESENT UINT64_MAX
static inline uint64_t *segment_extent(const struct segment *s, uint64_t i)
{
	return (uint64_t *)(s->base + s->extents_offset) + i;
}

/* Returns the slots of a side ring of the class. */
static inline uint64_t *segment_side(const struct segment *s, uint32_t number)
{
	const struct segment_part *part = &s->part[s->class];
	return (uint64_t *)(s->base + part->sides_offset + number * segment_side_bytes(part));
}

/* Returns the extent that has buffer index, which is not among the first prealloc of the class. */
static inline uint64_t segment_extent_of(const struct segment *s, uint32_t index)
{
	return (index - s->first - (uint64_t)s->geometry.prealloc) / s->geometry.extent_buffers;
}

/* True if buffer index, of the class, exists. */
static inline bool segment_exists(const struct segment *s, uint32_t index)
{
	return index - s->first < s->geometry.prealloc ||
	       load_acquire(segment_extent(s, segment_extent_of(s, index))) ==
		       EXTENT_PRESENT; /* [EXTENT] */
}

static inline struct buffer *segment_buffer(const struct segment *s, uint32_t index)
{
	return (struct buffer *)(s->base + s->headers_offset) + index;
}

static inline char *segment_data(const struct segment *s, uint32_t index)
{
	return s->base + (s->data_offset + index * s->stride);
}

#endif
