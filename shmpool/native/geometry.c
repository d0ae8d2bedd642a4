/* SPDX-License-Identifier: Apache-2.0
 *
 * geometry.c - see geometry.h.
 */
#include "geometry.h"

#include <errno.h>
#include <stdbool.h>

#include "layout.h"

/* Of one extent: reserving more at once would delay the allocation that does it. */
#define EXTENT_BYTES_MAX (4ull << 20)
/* Of an extent made large for huge pages; as many as the largest bulks and multiplier make. */
#define EXTENT_BUFFERS_MAX 4096u
/* Of a pool: statistics and audits read all their words. */
#define EXTENTS_MAX (1ull << 17)
#define CACHE_SIZE_DEFAULT 512u
/* Of the buffers in one cache. */
#define CACHE_BYTES_DEFAULT (2 << 20)
#define BULK_MIN 16u
#define ADDRESS_SPACE (1ull << 46) /* bytes: of one pool's buffers */

static bool power_of_two(int64_t n)
{
	return n > 0 && !(n & (n - 1));
}

/* What an option can be whatever the others are, and its default. narrowed() knows the rest. */
static const struct shmpool_range ranges[SHMPOOL_OPTIONS] = {
	[SHMPOOL_BUFFER_SIZE] = { 1, BUFFER_SIZE_MAX, SHMPOOL_DEFAULT },
	[SHMPOOL_CAPACITY] = { 2, CAPACITY_MAX, SHMPOOL_DEFAULT },
	[SHMPOOL_PREALLOC] = { 0, CAPACITY_MAX, 0 },
	[SHMPOOL_BULK] = { BULK_MIN, BULK_MAX, 32 },
	[SHMPOOL_REFILL_MULTIPLIER] = { 1, 64, 4 },
	[SHMPOOL_CACHE_SIZE] = { BULK_MIN, CACHE_SIZE_MAX, SHMPOOL_DEFAULT },
	[SHMPOOL_HEADROOM] = { 0, BUFFER_SIZE_MAX - 1, 0 },
	[SHMPOOL_MEMBERS] = { 1, MEMBERS_MAX, 256 },
	[SHMPOOL_QUEUES] = { 1, QUEUES_MAX, 64 },
	[SHMPOOL_FREE_RINGS] = { 0, SIDES_MAX, 0 },
};
_Static_assert(offsetof(struct shmpool_geometry, extent_buffers) ==
		       SHMPOOL_OPTIONS * sizeof(int64_t),
	       "the options come first in a geometry");
_Static_assert(sizeof(((struct shmpool_geometry *)0)->more) ==
		       (CLASSES_MAX - 1) * sizeof(struct shmpool_class),
	       "a geometry has every class");

struct shmpool_range geometry_range(enum shmpool_option option)
{
	return ranges[option < SHMPOOL_OPTIONS ? option : 0];
}

uint32_t geometry_sides(const struct shmpool_geometry *of, uint32_t *room)
{
	const bool warm = of->buffer_size >= GEOMETRY_WARM_SIZE;
	int64_t number = warm ? 1 : of->free_rings;
	*room = 0;
	/* By division: the options may be anything. */
	const int64_t fit = of->bulk > 0 ? of->capacity / GEOMETRY_SIDE_BULKS / of->bulk : 0;
	if (!warm && number > fit)
		number = fit;
	if (number <= 0)
		return 0;
	const int64_t most = warm ? GEOMETRY_WARM_BYTES / of->buffer_size : of->capacity / number;
	*room = ALF_CAPACITY_MIN;
	while (*room <= most / 2)
		*room *= 2;
	return (uint32_t)number;
}

/* Returns the size that buffers have for a size that is asked for. */
static int64_t whole_lines(int64_t size)
{
	return (int64_t)((uint64_t)size + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
}

/* Returns the largest cache size that leaves three quarters of the buffers to other members, and
 * whose buffers fit into a core's own data cache; beyond that, a free buffer is cold before it is
 * used again. Returns 0 if that is less than a bulk, and for a class with a warm ring: what is in
 * the caches of those that free is cold before those that allocate get it. */
static int64_t default_cache(const struct shmpool_geometry *g)
{
	int64_t size = CACHE_SIZE_DEFAULT;
	struct shmpool_geometry made = *g;
	made.buffer_size = whole_lines(g->buffer_size);
	if (made.buffer_size >= GEOMETRY_WARM_SIZE)
		return 0;
	while (size > g->capacity / 4 || size * g->buffer_size > CACHE_BYTES_DEFAULT)
		size /= 2;
	return size < g->bulk ? 0 : size;
}

/* The range of an option beside those before it in the geometry, which are checked. */
static struct shmpool_range narrowed(const struct shmpool_geometry *g, enum shmpool_option option)
{
	struct shmpool_range range = ranges[option];
	if (option == SHMPOOL_PREALLOC)
		range.most = g->capacity;
	if (option == SHMPOOL_HEADROOM)
		range.most = g->buffer_size - 1;
	if (option == SHMPOOL_CACHE_SIZE) {
		range.least = g->bulk;
		range.most = g->capacity < CACHE_SIZE_MAX ? g->capacity : CACHE_SIZE_MAX;
		range.standard = default_cache(g);
	}
	return range;
}

static bool allowed(enum shmpool_option option, const struct shmpool_range *range, int64_t value)
{
	if (option == SHMPOOL_CACHE_SIZE && value == 0)
		return true; /* no cache */
	if (value < range->least || value > range->most)
		return false;
	return (option != SHMPOOL_CAPACITY && option != SHMPOOL_CACHE_SIZE) || power_of_two(value);
}

static int refuse_option(struct shmpool_refusal *why, enum shmpool_option option, int64_t least,
			 int64_t most)
{
	*why = (struct shmpool_refusal) {
		.fault = SHMPOOL_FAULT_OPTION, .option = option, .least = least, .most = most
	};
	return -EINVAL;
}

static int check_options(struct shmpool_geometry *g, struct shmpool_refusal *why)
{
	for (enum shmpool_option option = 0; option < SHMPOOL_OPTIONS; option++) {
		int64_t *value = (int64_t *)g + option;
		const struct shmpool_range range = narrowed(g, option);
		if (*value == SHMPOOL_DEFAULT)
			*value = range.standard;
		if (!allowed(option, &range, *value))
			return refuse_option(why, option, range.least, range.most);
	}
	const int64_t most = (int64_t)ADDRESS_SPACE / g->capacity; /* a multiple of a cache line */
	if (g->buffer_size > most)
		return refuse_option(why, SHMPOOL_BUFFER_SIZE, 1, most);
	g->buffer_size = whole_lines(g->buffer_size);
	uint64_t extent = (uint64_t)(g->bulk * g->refill_multiplier);
	if (extent * (uint64_t)g->buffer_size > EXTENT_BYTES_MAX)
		extent = EXTENT_BYTES_MAX / (uint64_t)g->buffer_size;
	if (g->huge) {
		uint64_t large = EXTENT_BYTES_MAX / (uint64_t)g->buffer_size;
		large = large < EXTENT_BUFFERS_MAX ? large : EXTENT_BUFFERS_MAX;
		extent = extent > large ? extent : large;
	}
	uint64_t least = (uint64_t)(g->capacity - g->prealloc + EXTENTS_MAX - 1) / EXTENTS_MAX;
	extent = extent < least ? least : extent;
	g->extent_buffers = extent ? extent : 1;
	return 0;
}

struct shmpool_geometry geometry_of(const struct shmpool_geometry *g, uint32_t class)
{
	struct shmpool_geometry of = *g;
	if (class) {
		const struct shmpool_class *more = &g->more[class - 1];
		of.buffer_size = more->buffer_size;
		of.capacity = more->capacity;
		of.prealloc = more->prealloc;
		of.cache_size = more->cache_size;
		of.extent_buffers = more->extent_buffers;
	}
	return of;
}

static int refuse_classes(struct shmpool_refusal *why, int64_t value, int64_t least, int64_t most)
{
	*why = (struct shmpool_refusal) { .fault = SHMPOOL_FAULT_CLASSES,
					  .value = (uint64_t)value,
					  .least = least,
					  .most = most };
	return -EINVAL;
}

int geometry_check(struct shmpool_geometry *g, struct shmpool_refusal *why)
{
	g->classes += !g->classes; /* 0 is left out */
	if (g->classes < 1 || g->classes > CLASSES_MAX)
		return refuse_classes(why, g->classes, 1, CLASSES_MAX);
	uint64_t total = 0;
	uint32_t sides = 0, room;
	for (uint32_t i = 0; i < g->classes; i++) {
		struct shmpool_geometry of = geometry_of(g, i);
		int error = check_options(&of, why);
		const int64_t smaller = !i    ? 0 :
					i > 1 ? g->more[i - 2].buffer_size :
						g->buffer_size;
		if (!error && of.buffer_size <= smaller)
			error = refuse_option(why, SHMPOOL_BUFFER_SIZE, smaller + 1,
					      BUFFER_SIZE_MAX);
		sides += error ? 0 : geometry_sides(&of, &room);
		/* An op record has no number for more. */
		if (!error && i + 1 == g->classes && of.queues + i + sides > QUEUES_MAX)
			error = refuse_option(why, SHMPOOL_QUEUES, 1, QUEUES_MAX - i - sides);
		if (i)
			g->more[i - 1] = (struct shmpool_class) { of.buffer_size,
								  of.capacity,
								  of.prealloc,
								  of.cache_size,
								  of.extent_buffers,
								  total,
								  0 };
		else
			*g = of;
		if (error) {
			why->size_class = i;
			why->classes = (uint32_t)g->classes;
			return error;
		}
		total += (uint64_t)of.capacity;
	}
	return total > CAPACITY_MAX ? refuse_classes(why, (int64_t)total, 2, CAPACITY_MAX) : 0;
}
