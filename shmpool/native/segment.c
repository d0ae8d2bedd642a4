/* SPDX-License-Identifier: Apache-2.0
 *
 * segment.c - see segment.h.
 */
#define _GNU_SOURCE
#include "segment.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "process.h"

#define PAGE 4096ull
#define EXTENT_BYTES_MAX                                                                           \
	(4ull << 20) /* reserving more at once would hold up the one allocation that does it */
#define CACHE_SIZE_MAX 4096u
#define CACHE_SIZE_DEFAULT 512u
#define BULK_MIN 16u
#define BULK_DEFAULT 32u
#define REFILL_MULTIPLIER_MAX 64u
#define REFILL_MULTIPLIER_DEFAULT 4u
#define MEMBERS_DEFAULT 256u
#define QUEUES_DEFAULT 64u
#define ADDRESS_SPACE (1ull << 46)

static uint64_t round_up(uint64_t n, uint64_t to)
{
	return (n + to - 1) / to * to;
}

static bool power_of_two(uint64_t n)
{
	return n && !(n & (n - 1));
}

__attribute__((format(printf, 3, 4))) static int refuse(char *why, size_t size, const char *format,
							...)
{
	va_list list;
	va_start(list, format);
	vsnprintf(why, size, format, list);
	va_end(list);
	return -EINVAL;
}

/* The largest cache that leaves three quarters of the buffers to the others, 0 if a bulk is more. */
static int64_t default_cache(const struct shmpool_geometry *g)
{
	uint64_t size = CACHE_SIZE_DEFAULT;
	while (size > g->capacity / 4)
		size /= 2;
	return size < g->bulk ? 0 : (int64_t)size;
}

static void fill_defaults(struct shmpool_geometry *g)
{
	if (!g->bulk)
		g->bulk = BULK_DEFAULT;
	if (!g->refill_multiplier)
		g->refill_multiplier = REFILL_MULTIPLIER_DEFAULT;
	if (!g->members)
		g->members = MEMBERS_DEFAULT;
	if (!g->queues)
		g->queues = QUEUES_DEFAULT;
	if (g->cache_size == -1)
		g->cache_size = default_cache(g);
}

static int check_geometry(struct shmpool_geometry *g, char *why, size_t size)
{
#define REFUSE(...) refuse(why, size, __VA_ARGS__)
	typedef unsigned long long ull;
	if (g->buffer_size < 1 || g->buffer_size > BUFFER_SIZE_MAX)
		return REFUSE("buffer_size is %llu bytes; allowed are 1 to %u", (ull)g->buffer_size,
			      BUFFER_SIZE_MAX);
	if (!power_of_two(g->capacity) || g->capacity < 2 || g->capacity > CAPACITY_MAX)
		return REFUSE("capacity is %llu buffers; allowed is a power of two from 2 to %u",
			      (ull)g->capacity, CAPACITY_MAX);
	fill_defaults(g);
	if (g->prealloc > g->capacity)
		return REFUSE("prealloc is %llu buffers; allowed are 0 to capacity, which is %llu",
			      (ull)g->prealloc, (ull)g->capacity);
	if (g->bulk < BULK_MIN || g->bulk > BULK_MAX)
		return REFUSE("bulk is %llu buffers; allowed are %u to %u", (ull)g->bulk, BULK_MIN,
			      BULK_MAX);
	if (g->cache_size &&
	    (g->cache_size < 0 || g->cache_size > CACHE_SIZE_MAX ||
	     !power_of_two((uint64_t)g->cache_size) || (uint64_t)g->cache_size < g->bulk ||
	     (uint64_t)g->cache_size > g->capacity))
		return REFUSE(
			"cache_size is %lld buffers; allowed are 0 and powers of two from bulk, "
			"which is %llu, to %u, and not over capacity, which is %llu",
			(long long)g->cache_size, (ull)g->bulk, CACHE_SIZE_MAX, (ull)g->capacity);
	if (g->refill_multiplier > REFILL_MULTIPLIER_MAX)
		return REFUSE("refill_multiplier is %llu; allowed are 1 to %u",
			      (ull)g->refill_multiplier, REFILL_MULTIPLIER_MAX);
	if (g->headroom >= g->buffer_size)
		return REFUSE(
			"headroom is %llu bytes; allowed are 0 to buffer_size - 1, which is %llu",
			(ull)g->headroom, (ull)g->buffer_size - 1);
	if (g->members > MEMBERS_MAX)
		return REFUSE("members is %llu; allowed are 1 to %u", (ull)g->members, MEMBERS_MAX);
	if (g->queues > QUEUES_MAX)
		return REFUSE("queues is %llu; allowed are 1 to %u", (ull)g->queues, QUEUES_MAX);
	g->buffer_size = round_up(g->buffer_size, CACHE_LINE);
	if (g->buffer_size * g->capacity > ADDRESS_SPACE)
		return REFUSE("buffer_size %llu times capacity %llu is over %llu bytes",
			      (ull)g->buffer_size, (ull)g->capacity, ADDRESS_SPACE);
	return 0;
#undef REFUSE
}

int segment_plan(struct segment *s, struct shmpool_geometry *g, char *why, size_t why_size)
{
	int error = check_geometry(g, why, why_size);
	if (error)
		return error;
	g->extent_buffers = g->bulk * g->refill_multiplier;
	if (g->extent_buffers * g->buffer_size > EXTENT_BYTES_MAX)
		g->extent_buffers = EXTENT_BYTES_MAX / g->buffer_size;
	if (g->extent_buffers == 0)
		g->extent_buffers = 1;

	s->stride = g->buffer_size;
	s->members_offset = round_up(SHARED_END, CACHE_LINE);
	s->member_stride =
		round_up(sizeof(struct member) + (uint64_t)g->cache_size * 8, CACHE_LINE);
	s->queues_offset = s->members_offset + g->members * s->member_stride;
	s->extents_offset = s->queues_offset + (g->queues + 1) * sizeof(struct queue_slot);
	s->extents = (g->capacity - g->prealloc + g->extent_buffers - 1) / g->extent_buffers;
	s->free_ring_offset = round_up(s->extents_offset + s->extents * 8, PAGE);
	s->rings_offset = round_up(s->free_ring_offset + g->capacity * 8, PAGE);
	s->headers_offset = s->rings_offset + g->queues * ALF_CAPACITY_MAX * 8;
	s->data_offset = round_up(s->headers_offset + g->capacity * sizeof(struct buffer), PAGE);
	s->size = round_up(s->data_offset + g->capacity * s->stride, PAGE);
	g->size = s->size;
	g->data_offset = s->data_offset;
	g->stride = s->stride;
	g->headers_offset = s->headers_offset;
	s->geometry = *g;
	return 0;
}

uint64_t segment_layout_hash(void)
{
	const uint64_t facts[] = {
		sizeof(struct segment_header),
		sizeof(struct pool_shared),
		sizeof(struct member),
		sizeof(struct queue_slot),
		sizeof(struct buffer),
		SHARED_OFFSET,
		ALF_INDEX_BITS,
		ALF_CAPACITY_MAX,
		ALF_OP_POSITION_BITS,
		ALF_OP_COUNT_BITS,
		OWNER_POSITION_BITS,
		COUNTERS,
		offsetof(struct segment_header, buffer_size),
		offsetof(struct segment_header, members_offset),
		offsetof(struct member, counters),
		offsetof(struct queue_slot, queue),
		offsetof(struct buffer, timestamp),
	};
	uint64_t hash = 0xcbf29ce484222325ull; /* FNV-1a, 64 bits */
	for (size_t i = 0; i < sizeof(facts); i++)
		hash = (hash ^ ((const unsigned char *)facts)[i]) * 0x100000001b3ull;
	return hash;
}

int segment_reserve(const struct segment *s, uint64_t offset, uint64_t length)
{
	uint64_t from = offset / PAGE * PAGE;
	int error;
	do {
		error = posix_fallocate(s->fd, (off_t)from, (off_t)(offset + length - from));
	} while (error == EINTR);
	return -error;
}

int segment_init(struct segment *s, char *base, int fd)
{
	s->base = base;
	s->fd = fd;
	int error = segment_reserve(s, 0, s->rings_offset);
	if (error)
		return error;
	const struct shmpool_geometry *g = &s->geometry;
	struct process self = process_self();
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	struct segment_header *h = segment_header(s);
	*h = (struct segment_header) {
		.magic = LAYOUT_MAGIC,
		.version = LAYOUT_VERSION,
		.layout_hash = segment_layout_hash(),
		.creator_pid = self.pid,
		.creator_start = self.start,
		.created_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec,
		.buffer_size = g->buffer_size,
		.capacity = g->capacity,
		.prealloc = g->prealloc,
		.cache_size = (uint64_t)g->cache_size,
		.bulk = g->bulk,
		.refill_multiplier = g->refill_multiplier,
		.extent_buffers = g->extent_buffers,
		.headroom = g->headroom,
		.max_members = g->members,
		.max_queues = g->queues,
		.members_offset = s->members_offset,
		.member_stride = s->member_stride,
		.queues_offset = s->queues_offset,
		.extents_offset = s->extents_offset,
		.extents = s->extents,
		.free_ring_offset = s->free_ring_offset,
		.rings_offset = s->rings_offset,
		.headers_offset = s->headers_offset,
		.data_offset = s->data_offset,
		.size = s->size,
	};
	memcpy(h->boot_id, self.boot_id, sizeof(h->boot_id));
	return 0;
}

void segment_ready(struct segment *s)
{
	/* Pairs with segment_check(): whoever reads it sees all that was made before. */
	store_release(&segment_header(s)->initialised, LAYOUT_MAGIC);
}

int segment_check(struct segment *s, char *base, uint64_t size, int fd, char *why, size_t why_size)
{
#define REFUSE(...) (refuse(why, why_size, __VA_ARGS__), -EBADMSG)
	typedef unsigned long long ull;
	if (size == 0)
		return -EAGAIN;
	if (size < SHARED_END)
		return REFUSE("it is %llu bytes long, shorter than a header", (ull)size);
	uint64_t ready = load_acquire(&((struct segment_header *)base)->initialised);
	struct segment_header h = *(const struct segment_header *)base; /* read once */
	if (h.magic == 0 && ready == 0)
		return -EAGAIN;
	if (h.magic != LAYOUT_MAGIC)
		return REFUSE("its magic is %#llx, not %#llx: not a pool", (ull)h.magic,
			      LAYOUT_MAGIC);
	if (ready == 0)
		return -EAGAIN;
	if (h.version != LAYOUT_VERSION)
		return REFUSE("its layout is version %u, this is version %u", h.version,
			      LAYOUT_VERSION);
	if (ready != LAYOUT_MAGIC)
		return REFUSE("its initialised word is %#llx", (ull)ready);
	if (h.layout_hash != segment_layout_hash())
		return REFUSE("its layout hash is %#llx, this build's is %#llx", (ull)h.layout_hash,
			      (ull)segment_layout_hash());
	if (h.size != size)
		return REFUSE("it is %llu bytes long and says %llu", (ull)size, (ull)h.size);
	struct process self = process_self();
	if (memcmp(h.boot_id, self.boot_id, sizeof(h.boot_id)))
		return REFUSE("it was made before this machine's last boot");

	struct shmpool_geometry g = {
		.buffer_size = h.buffer_size,
		.capacity = h.capacity,
		.prealloc = h.prealloc,
		.cache_size = (int64_t)h.cache_size,
		.bulk = h.bulk,
		.refill_multiplier = h.refill_multiplier,
		.headroom = h.headroom,
		.members = h.max_members,
		.queues = h.max_queues,
	};
	if (!h.bulk || !h.refill_multiplier || !h.max_members || !h.max_queues ||
	    (int64_t)h.cache_size < 0)
		return REFUSE("its geometry has zeros");
	if (segment_plan(s, &g, why, why_size))
		return -EBADMSG;
	s->base = base;
	s->fd = fd;
	if (h.members_offset != s->members_offset || h.member_stride != s->member_stride ||
	    h.queues_offset != s->queues_offset || h.extents_offset != s->extents_offset ||
	    h.extents != s->extents || h.free_ring_offset != s->free_ring_offset ||
	    h.rings_offset != s->rings_offset || h.headers_offset != s->headers_offset ||
	    h.data_offset != s->data_offset || h.extent_buffers != g.extent_buffers ||
	    h.buffer_size != g.buffer_size || s->size != size)
		return REFUSE("its offsets do not follow from its geometry");
	return 0;
#undef REFUSE
}
