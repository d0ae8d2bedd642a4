/* SPDX-License-Identifier: Apache-2.0
 *
 * segment.c - see segment.h.
 */
#define _GNU_SOURCE
#include "segment.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "owner.h"

#define EXTENT_BYTES_MAX                                                                           \
	(4ull << 20) /* reserving more at once would hold up the one allocation that does it */
#define EXTENTS_MAX                                                                                \
	(1ull << 17) /* of a pool: who wants to know what exists reads all their words */
#define CACHE_SIZE_DEFAULT 512u
#define CACHE_BYTES_DEFAULT (2 << 20) /* of buffers */
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

static bool power_of_two(int64_t n)
{
	return n > 0 && !(n & (n - 1));
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

static void fill_default(int64_t *value, int64_t standard)
{
	if (*value == SHMPOOL_DEFAULT)
		*value = standard;
}

/* The largest cache that leaves three quarters of the buffers to the others and fits into a
 * processor's own cache: with more, free buffers have gone cold before they are used again. 0 if a
 * bulk is more. */
static int64_t default_cache(const struct shmpool_geometry *g)
{
	int64_t size = CACHE_SIZE_DEFAULT;
	while (size > g->capacity / 4 || size * g->buffer_size > CACHE_BYTES_DEFAULT)
		size /= 2;
	return size < g->bulk ? 0 : size;
}

static int check_range(const char *name, int64_t value, int64_t least, int64_t most,
		       const char *unit, char *why, size_t size)
{
	if (value >= least && value <= most)
		return 0;
	return refuse(why, size, "%s is %lld%s; allowed are %lld to %lld", name, (long long)value,
		      unit, (long long)least, (long long)most);
}

static int check_geometry(struct shmpool_geometry *g, char *why, size_t size)
{
	int error =
		check_range("buffer_size", g->buffer_size, 1, BUFFER_SIZE_MAX, " bytes", why, size);
	if (error)
		return error;
	if (!power_of_two(g->capacity) || g->capacity < 2 || g->capacity > CAPACITY_MAX)
		return refuse(why, size,
			      "capacity is %lld buffers; allowed is a power of two from 2 to %u",
			      (long long)g->capacity, CAPACITY_MAX);
	fill_default(&g->bulk, BULK_DEFAULT);
	fill_default(&g->refill_multiplier, REFILL_MULTIPLIER_DEFAULT);
	fill_default(&g->members, MEMBERS_DEFAULT);
	fill_default(&g->queues, QUEUES_DEFAULT);
	const struct {
		const char *name;
		int64_t value, least, most;
		const char *unit;
	} rows[] = {
		{ "prealloc", g->prealloc, 0, g->capacity, " buffers (the capacity is the most)" },
		{ "bulk", g->bulk, BULK_MIN, BULK_MAX, " buffers" },
		{ "refill_multiplier", g->refill_multiplier, 1, REFILL_MULTIPLIER_MAX, "" },
		{ "headroom", g->headroom, 0, g->buffer_size - 1, " bytes" },
		{ "members", g->members, 1, MEMBERS_MAX, "" },
		{ "queues", g->queues, 1, QUEUES_MAX, "" },
	};
	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows) && !error; i++)
		error = check_range(rows[i].name, rows[i].value, rows[i].least, rows[i].most,
				    rows[i].unit, why, size);
	if (error)
		return error;
	fill_default(&g->cache_size, default_cache(g));
	if (g->cache_size && (!power_of_two(g->cache_size) || g->cache_size > CACHE_SIZE_MAX ||
			      g->cache_size < g->bulk || g->cache_size > g->capacity))
		return refuse(
			why, size,
			"cache_size is %lld buffers; allowed are 0 and powers of two from bulk, "
			"which is %lld, to %u, and not over capacity, which is %lld",
			(long long)g->cache_size, (long long)g->bulk, CACHE_SIZE_MAX,
			(long long)g->capacity);
	g->buffer_size = (int64_t)round_up((uint64_t)g->buffer_size, CACHE_LINE);
	if (g->buffer_size > (int64_t)ADDRESS_SPACE / g->capacity)
		return refuse(
			why, size,
			"buffer_size %lld times capacity %lld is over %llu bytes of addresses",
			(long long)g->buffer_size, (long long)g->capacity, ADDRESS_SPACE);
	return 0;
}

int segment_plan(struct segment *s, struct shmpool_geometry *g, char *why, size_t why_size)
{
	int error = check_geometry(g, why, why_size);
	if (error)
		return error;
	uint64_t room = (uint64_t)g->buffer_size, capacity = (uint64_t)g->capacity;
	uint64_t extent = (uint64_t)(g->bulk * g->refill_multiplier);
	if (extent * room > EXTENT_BYTES_MAX)
		extent = EXTENT_BYTES_MAX / room;
	uint64_t least = (capacity - (uint64_t)g->prealloc + EXTENTS_MAX - 1) / EXTENTS_MAX;
	extent = extent < least ? least : extent;
	g->extent_buffers = extent ? extent : 1;

	s->stride = room;
	s->members_offset = round_up(SHARED_END, CACHE_LINE);
	s->member_stride =
		round_up(sizeof(struct member) + (uint64_t)g->cache_size * 8, CACHE_LINE);
	s->members = (uint32_t)g->members;
	s->queues_offset = s->members_offset + s->members * s->member_stride;
	s->extents_offset =
		s->queues_offset + (uint64_t)(g->queues + 1) * sizeof(struct queue_slot);
	s->extents = (capacity - (uint64_t)g->prealloc + g->extent_buffers - 1) / g->extent_buffers;
	s->free_ring_offset = round_up(s->extents_offset + s->extents * 8, SEGMENT_PAGE);
	s->rings_offset = round_up(s->free_ring_offset + capacity * 8, SEGMENT_PAGE);
	s->headers_offset = s->rings_offset + (uint64_t)g->queues * ALF_CAPACITY_MAX * 8;
	s->data_offset =
		round_up(s->headers_offset + capacity * sizeof(struct buffer), SEGMENT_PAGE);
	s->size = round_up(s->data_offset + capacity * s->stride, SEGMENT_PAGE);
	g->size = s->size;
	g->data_offset = s->data_offset;
	g->stride = s->stride;
	g->headers_offset = s->headers_offset;
	s->geometry = *g;
	return 0;
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
		sizeof(struct buffer),
		SHARED_OFFSET,
		ALF_INDEX_BITS,
		ALF_CAPACITY_MAX,
		ALF_LAP_SHIFT,
		ALF_OP_POSITION_SHIFT,
		ALF_OP_COUNT_SHIFT,
		OWNER_POSITION_BITS,
		COUNTERS,
		offsetof(struct segment_header, buffer_size),
		offsetof(struct segment_header, members_offset),
		offsetof(struct member, counters),
		offsetof(struct queue_slot, queue),
		TAG_NUMBER_BITS,
		offsetof(struct member, cleared),
		offsetof(struct buffer, timestamp),
		offsetof(struct buffer, handle),
		offsetof(struct member, cache_bottom),
	};
	return hash_of(facts, sizeof(facts));
}

/* 0, -EBADFD. */
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
		.created_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec,
		.buffer_size = (uint64_t)g->buffer_size,
		.capacity = (uint64_t)g->capacity,
		.prealloc = (uint64_t)g->prealloc,
		.cache_size = (uint64_t)g->cache_size,
		.bulk = (uint64_t)g->bulk,
		.refill_multiplier = (uint64_t)g->refill_multiplier,
		.extent_buffers = g->extent_buffers,
		.headroom = (uint64_t)g->headroom,
		.max_members = (uint64_t)g->members,
		.max_queues = (uint64_t)g->queues,
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
	h->checksum = header_checksum(*h);
	for (uint32_t i = 0; i < s->members; i++)
		segment_member(s, i)->tag = i + 1;
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
	/* Pairs with segment_ready(). */
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

	struct shmpool_geometry g = {
		.buffer_size = (int64_t)h.buffer_size,
		.capacity = (int64_t)h.capacity,
		.prealloc = (int64_t)h.prealloc,
		.cache_size = (int64_t)h.cache_size,
		.bulk = (int64_t)h.bulk,
		.refill_multiplier = (int64_t)h.refill_multiplier,
		.headroom = (int64_t)h.headroom,
		.members = (int64_t)h.max_members,
		.queues = (int64_t)h.max_queues,
	};
	if (segment_plan(s, &g, why, why_size))
		return -EBADMSG;
	if (bind_file(s, base, fd))
		return REFUSE("its file cannot be examined");
	if (h.members_offset != s->members_offset || h.member_stride != s->member_stride ||
	    h.queues_offset != s->queues_offset || h.extents_offset != s->extents_offset ||
	    h.extents != s->extents || h.free_ring_offset != s->free_ring_offset ||
	    h.rings_offset != s->rings_offset || h.headers_offset != s->headers_offset ||
	    h.data_offset != s->data_offset || h.extent_buffers != g.extent_buffers ||
	    h.buffer_size != s->stride || h.bulk != (uint64_t)g.bulk ||
	    h.cache_size != (uint64_t)g.cache_size || s->size != size)
		return REFUSE("its offsets do not follow from its geometry");
	/* What no other word would show: a prealloc or headroom that was not the creator's. */
	if (h.checksum != header_checksum(h))
		return REFUSE("its header's checksum is %#llx, of what it holds %#llx",
			      (ull)h.checksum, (ull)header_checksum(h));
	return 0;
#undef REFUSE
}
