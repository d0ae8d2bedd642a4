/* SPDX-License-Identifier: Apache-2.0
 *
 * our_pool.h - our pool, in a segment on a memfd; its calls for one buffer and for bulks.
 */
#ifndef BENCH_OUR_POOL_H
#define BENCH_OUR_POOL_H

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "binding.h"
#include "opening.h"
#include "queue.h"

struct our_pool {
	void *base;
	size_t size;
	int fd;
	int number; /* of the open pool */
};

/* Returns 0 or -errno. */
static inline int our_pool_create(struct our_pool *p, struct shmpool_geometry g)
{
	struct segment s;
	struct shmpool_refusal why;
	int error = segment_plan(&s, &g, &why);
	if (error)
		return error;
	p->size = g.size;
	p->fd = memfd_create("bench", MFD_CLOEXEC);
	if (p->fd < 0 || ftruncate(p->fd, (off_t)p->size))
		return -errno;
	p->base = mmap(NULL, p->size, PROT_READ | PROT_WRITE, MAP_SHARED, p->fd, 0);
	if (p->base == MAP_FAILED)
		return -errno;
	error = shmpool_create_wait(p->base, p->fd, &g);
	if (error)
		return error;
	p->number = shmpool_open(p->base, p->size, p->fd, "", 1);
	return p->number < 0 ? p->number : 0;
}

/* A member's access to the pool and to one of its queues. */
struct our_end {
	struct qmempool *pool;
	struct member *member;
	const struct alf_ring *queue;
};

/* Attaches this thread. Returns 0 or -errno. */
static inline int our_pool_attach(const struct our_pool *p, int queue, struct our_end *end)
{
	uint32_t number = (uint32_t)p->number;
	int error = opening_attach(number);
	if (error)
		return error;
	end->pool = opening_pool(number);
	end->member = opening_member(number);
	end->queue = queue_ring(end->pool, (uint32_t)queue);
	return 0;
}

static ALWAYS_INLINE int our_alloc(const struct our_end *end, uint64_t *handle, uint32_t n)
{
	return n == 1 ? qmempool_alloc(end->pool, end->member, handle) :
			qmempool_alloc_bulk(end->pool, end->member, handle, n);
}

static ALWAYS_INLINE int our_free(const struct our_end *end, const uint64_t *handle, uint32_t n)
{
	return n == 1 ? qmempool_free(end->pool, end->member, handle[0]) :
			qmempool_free_bulk(end->pool, end->member, handle, n);
}

#endif
