/* SPDX-License-Identifier: Apache-2.0
 *
 * memfd_pool.h - creates a pool without a name, on a memfd, which forked children share.
 */
#ifndef MEMFD_POOL_H
#define MEMFD_POOL_H

#include "binding.h"
#include "check.h"

/* Completes the geometry and creates the pool, which no process has open yet. Returns its mapping,
 * and in *fd its file. */
static inline void *memfd_file(struct shmpool_geometry *g, int *fd)
{
	struct shmpool_refusal why;
	CHECK(shmpool_plan(g, &why) == 0);
	*fd = memfd_create("pool", MFD_CLOEXEC);
	CHECK(*fd >= 0 && ftruncate(*fd, (off_t)g->size) == 0);
	void *base = mmap(NULL, g->size, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
	CHECK(base != MAP_FAILED);
	CHECK(shmpool_create_wait(base, *fd, g) == 0);
	return base;
}

/* Returns the number of the pool, which this process has open. */
static inline uint32_t memfd_pool(struct shmpool_geometry *g)
{
	int fd;
	void *base = memfd_file(g, &fd);
	int number = shmpool_open(base, g->size, fd, "", 1);
	CHECK(number >= 0);
	return (uint32_t)number;
}

#endif
