/* SPDX-License-Identifier: Apache-2.0
 *
 * segment.h - one process's mapping of a pool: made, checked before it is believed, reserved.
 *
 * segment_init    by the creator, alone, on a new mapping
 * segment_check   by everybody else, on a mapping whose contents may be anything
 * segment_reserve any time, by anybody: reserving what is reserved changes nothing
 */
#ifndef SHMPOOL_SEGMENT_H
#define SHMPOOL_SEGMENT_H

#include <stdbool.h>

#include "layout.h"
#include "shmpool.h"

#define SEGMENT_PAGE 4096ull
#define SEGMENT_PATH_MAX 128

/* The geometry and the places, copied out of the segment once and checked. */
struct segment {
	char *base;
	int fd;                      /* segment_fd() */
	char path[SEGMENT_PATH_MAX]; /* that the process opened it by; "" if it has none */
	bool writes;                 /* it was opened to change it, not only to read it */
	uint64_t device, inode;      /* of the file */
	struct shmpool_geometry geometry;
	uint64_t stride; /* bytes from one buffer's data room to the next */
	uint64_t members_offset, member_stride;
	uint64_t queues_offset;
	uint64_t extents_offset, extents;
	uint64_t free_ring_offset;
	uint64_t rings_offset;
	uint64_t headers_offset;
	uint64_t data_offset;
	uint64_t size;
	uint32_t members; /* geometry.members */
};

/* The values that an option can have whatever the others are, and its default. */
struct shmpool_range segment_range(enum shmpool_option option);

/* Fills in the defaults of g, checks each option, and computes the layout. 0, or -EINVAL and *why:
 * the option and the values that it can have. */
int segment_plan(struct segment *s, struct shmpool_geometry *g, struct shmpool_refusal *why);

/* Makes the segment in a zeroed mapping of s->size bytes at base, without the slab's buffers. 0,
 * -ENOSPC. segment_ready() is what makes it attachable. */
int segment_init(struct segment *s, char *base, int fd);
void segment_ready(struct segment *s);

/* Checks the size bytes at base before anything in them is believed. 0; -EBADMSG and *why; -EAGAIN if
 * its creator has not finished. */
int segment_check(struct segment *s, char *base, uint64_t size, int fd,
		  struct shmpool_refusal *why);

/* Whether a descriptor is of the segment's file. */
bool segment_is(const struct segment *s, int fd);

/* A descriptor of the file, for one call: the one that it was opened with, or where the program has
 * closed that, or put another file under its number, a new one in *opened, else -1, which the
 * caller closes. -EBADFD the file cannot be opened any more; -EMFILE. */
int segment_fd(const struct segment *s, int *opened);

/* Reserves memory for length bytes at offset, so that nobody gets a SIGBUS there. 0; -ENOSPC,
 * -EDQUOT, -ENOMEM;
 * -ENODEV the file system cannot; -EACCES; -EIO; and as segment_fd(). */
int segment_reserve(const struct segment *s, uint64_t offset, uint64_t length);

/* Gives the memory of the whole pages between, which nobody else uses, back to the kernel. False if
 * it keeps it: what the process has locked in memory, for one. */
bool segment_unreserve(const struct segment *s, uint64_t offset, uint64_t length);

uint64_t segment_layout_hash(void);

static inline struct segment_header *segment_header(const struct segment *s)
{
	return (struct segment_header *)s->base;
}

static inline struct pool_shared *segment_shared(const struct segment *s)
{
	return (struct pool_shared *)(s->base + SHARED_OFFSET);
}

static inline struct member *segment_member(const struct segment *s, uint32_t number)
{
	return (struct member *)(s->base + s->members_offset + number * s->member_stride);
}

static inline struct queue_slot *segment_queue(const struct segment *s, uint32_t number)
{
	return (struct queue_slot *)(s->base + s->queues_offset) + number;
}

/* State of extent i: 0 absent, 1 + the number of the member that makes it, EXTENT_PRESENT. */
#define EXTENT_PRESENT UINT64_MAX
static inline uint64_t *segment_extent(const struct segment *s, uint64_t i)
{
	return (uint64_t *)(s->base + s->extents_offset) + i;
}

/* Whether buffer index has been made. */
static inline bool segment_exists(const struct segment *s, uint32_t index)
{
	return index < s->geometry.prealloc ||
	       load_acquire(segment_extent(s, (index - s->geometry.prealloc) /
						      s->geometry.extent_buffers)) ==
		       EXTENT_PRESENT; /* [EXTENT] */
}

static inline struct buffer *segment_buffer(const struct segment *s, uint32_t index)
{
	return (struct buffer *)(s->base + s->headers_offset) + index;
}

static inline char *segment_data(const struct segment *s, uint32_t index)
{
	return s->base + s->data_offset + index * s->stride;
}

#endif
