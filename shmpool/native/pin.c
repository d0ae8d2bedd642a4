/* SPDX-License-Identifier: Apache-2.0
 *
 * pin.c - see pin.h.
 */
#define _GNU_SOURCE
#include "pin.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "slab.h"
#include "token.h"

#define PORTABLE 1u /* for all contexts of the driver: CU_MEMHOSTREGISTER_PORTABLE */

struct pin_unit {
	uint64_t offset, bytes;   /* in the segment */
	uint64_t extent, extents; /* those of its class that it has parts of, none of prealloc */
	uint32_t class;
	bool registered;
	uint64_t length; /* bytes of the registration that begins here, 0 for none */
};

typedef int registering(void *address, size_t bytes, unsigned int flags);
typedef int unregistering(void *address);
typedef int entering(void *context);
typedef int leaving(void **context);

static uint64_t page_bytes(void)
{
	long bytes = sysconf(_SC_PAGESIZE);
	return bytes > 0 ? (uint64_t)bytes : SEGMENT_PAGE;
}

/* Returns the buffer of the class where the unit ends that begins with buffer from. Counts from the
 * first buffer of the class. */
static uint64_t unit_end(const struct segment *s, uint64_t from, uint64_t page)
{
	const uint64_t prealloc = (uint64_t)s->geometry.prealloc;
	const uint64_t capacity = (uint64_t)s->geometry.capacity;
	const uint64_t data = s->data_offset + s->first * s->stride;
	uint64_t step = 1, piece, end = from; /* buffers */
	while (step * s->stride % page)
		step *= 2;
	piece = PIN_PIECE / s->stride / step * step;
	piece = piece ? piece : step;
	do {
		if (end < prealloc && prealloc - end > piece)
			end += piece;
		else if (end < prealloc)
			end = prealloc;
		else
			end += s->geometry.extent_buffers;
	} while (end < capacity && (data + end * s->stride) % page);
	return end < capacity ? end : capacity;
}

/* Writes the units of a class, unless unit is NULL. Returns how many there are. */
static uint64_t plan(const struct segment *s, struct pin_unit *unit, uint64_t page)
{
	const uint64_t prealloc = (uint64_t)s->geometry.prealloc, each = s->geometry.extent_buffers;
	const uint64_t capacity = (uint64_t)s->geometry.capacity;
	uint64_t n = 0;
	for (uint64_t from = 0, end; from < capacity; from = end, n++) {
		end = unit_end(s, from, page);
		if (!unit)
			continue;
		const uint64_t first = from < prealloc ? 0 : (from - prealloc) / each;
		const uint64_t last = end <= prealloc ? 0 : (end - prealloc + each - 1) / each;
		unit[n] = (struct pin_unit) {
			.offset = s->data_offset + (s->first + from) * s->stride,
			.bytes = (end - from) * s->stride,
			.extent = first,
			.extents = last - first,
			.class = s->class,
		};
	}
	return n;
}

void pin_retry(struct pin *pin)
{
	pthread_mutex_lock(&pin->lock);
	store_relaxed(&pin->error, 0);
	pthread_mutex_unlock(&pin->lock);
}

int pin_begin(struct pin *pin, struct qmempool *p, const struct shmpool_driver *driver, void *page)
{
	const uint64_t bytes = page_bytes();
	uint64_t n = 0;
	int error = 0;
	for (uint32_t i = 0; i < segment_classes(&p->segment); i++)
		n += plan(&pool_class(p, i)->segment, NULL, bytes);
	struct pin_unit *unit = malloc(n * sizeof(*unit));
	pthread_mutex_lock(&pin->lock);
	if (!unit) {
		error = -ENOMEM;
		goto unlock;
	}
	pin->unit = unit;
	pin->units = 0;
	for (uint32_t i = 0; i < segment_classes(&p->segment); i++)
		pin->units += plan(&pool_class(p, i)->segment, unit + pin->units, bytes);
	pin->driver = *driver;
	store_relaxed(&pin->bytes, 0);
	store_relaxed(&pin->behind, 1);
	store_relaxed(&pin->error, 0);
	store_relaxed(&pin->page, page);
unlock:
	pthread_mutex_unlock(&pin->lock);
	return error;
}

/* True if all extents of the unit are present. The process has its pin: a member that removes an
 * extent's memory after this has found the pin. */
static bool present(struct qmempool *p, const struct pin_unit *unit)
{
	const struct segment *s = &pool_class(p, unit->class)->segment;
	for (uint64_t i = unit->extent; i < unit->extent + unit->extents; i++)
		if (load_acquire(segment_extent(s, i)) != EXTENT_PRESENT) /* [EXTENT] */
			return false;
	return true;
}

/* Returns the unit behind the last one that is registered together with unit i. */
static uint64_t run_end(const struct pin *pin, struct qmempool *p, uint64_t i)
{
	const struct pin_unit *unit = pin->unit;
	uint64_t end = i + 1, bytes = unit[i].bytes;
	for (; end < pin->units; bytes += unit[end++].bytes)
		if (unit[end].registered || unit[end].offset != unit[i].offset + bytes ||
		    bytes + unit[end].bytes > PIN_PIECE || !present(p, &unit[end]))
			break;
	return end;
}

/* Registers the units from i to end - 1. Returns the driver's error. */
static int register_run(struct pin *pin, const struct qmempool *p, uint64_t i, uint64_t end)
{
	struct pin_unit *unit = pin->unit;
	const uint64_t bytes = unit[end - 1].offset + unit[end - 1].bytes - unit[i].offset;
	registering *call = (registering *)pin->driver.register_memory;
	int error = call(p->segment.base + unit[i].offset, bytes, PORTABLE);
	if (error)
		return error;
	unit[i].length = bytes;
	for (uint64_t k = i; k < end; k++)
		unit[k].registered = true;
	store_relaxed(&pin->bytes, load_relaxed(&pin->bytes) + bytes);
	return 0;
}

/* Makes the driver's context the thread's. Returns the driver's error. */
static int enter(const struct pin *pin)
{
	return ((entering *)pin->driver.push_context)(pin->driver.context);
}

static void leave(const struct pin *pin)
{
	void *context;
	((leaving *)pin->driver.pop_context)(&context);
}

int pin_more(struct pin *pin, struct qmempool *p)
{
	int result = -ENOENT, refused = 0;
	uint64_t i = 0;
	pthread_mutex_lock(&pin->lock);
	if (!load_relaxed(&pin->page) || load_relaxed(&pin->stop))
		goto unlock;
	result = 0;
	if (load_relaxed(&pin->error) || load_relaxed(&p->closing))
		goto unlock;
	while (i < pin->units && (pin->unit[i].registered || !present(p, &pin->unit[i])))
		i++;
	result = i < pin->units;
	if (result) {
		refused = enter(pin);
		if (!refused) {
			refused = register_run(pin, p, i, run_end(pin, p, i));
			leave(pin);
		}
	}
	store_relaxed(&pin->behind, result);
	if (refused) {
		store_relaxed(&pin->error, refused);
		result = 0;
	}
unlock:
	pthread_mutex_unlock(&pin->lock);
	return result;
}

void pin_end(struct pin *pin, const struct qmempool *p)
{
	store_relaxed(&pin->stop, 1);
	pthread_mutex_lock(&pin->lock);
	store_relaxed(&pin->stop, 0);
	void *page = load_relaxed(&pin->page);
	if (page) {
		/* Without the context there are no registrations either. */
		const bool entered = !enter(pin);
		for (uint64_t i = pin->units; entered && i-- > 0;)
			if (pin->unit[i].length)
				((unregistering *)pin->driver.unregister_memory)(
					p->segment.base + pin->unit[i].offset);
		if (entered)
			leave(pin);
		free(pin->unit);
		pin->unit = NULL;
		token_let_go(page);
		store_relaxed(&pin->page, NULL);
	}
	pthread_mutex_unlock(&pin->lock);
}

void pin_read(const struct pin *pin, struct qmempool *p, struct shmpool_pinned *out)
{
	*out = (struct shmpool_pinned) {
		.pinned = load_relaxed(&pin->page) != NULL,
		.behind = load_relaxed(&pin->behind),
		.error = load_relaxed(&pin->error),
		.bytes = load_relaxed(&pin->bytes),
	};
	if (!out->pinned)
		out->bytes = 0;
	for (uint32_t i = 0; i < segment_classes(&p->segment); i++) {
		const struct segment *s = &pool_class(p, i)->segment;
		out->total += slab_created(s) * s->stride;
	}
}
