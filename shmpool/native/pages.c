/* SPDX-License-Identifier: Apache-2.0
 *
 * pages.c - see shmpool.h: what a process asks of the kernel for a pool's pages.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sys/mman.h>

#include "lookup.h"
#include "memory.h"

int shmpool_huge_pages(void)
{
	return memory_huge_pages();
}

int shmpool_node(void *base, uint64_t size, int64_t node)
{
	return memory_node(base, size, node);
}

int shmpool_populate_wait(int pool, uint64_t *progress)
{
	return opening_pool((uint32_t)pool) ?
		       (int)opening_read((uint32_t)pool,
					 opening_populate((uint32_t)pool, progress)) :
		       opening_missing((uint32_t)pool);
}

int shmpool_lock(int pool)
{
	struct qmempool *p = opening_pool((uint32_t)pool);
	if (!p)
		return opening_missing((uint32_t)pool);
	int error = memory_lock(p->segment.base, p->segment.size);
	for (uint32_t i = 0; i < segment_classes(&p->segment) && !error; i++)
		store_relaxed(&pool_class(p, i)->segment.locked, 1);
	return error;
}

int shmpool_dump(int pool)
{
	const struct qmempool *p = opening_pool((uint32_t)pool);
	if (!p)
		return opening_missing((uint32_t)pool);
	return madvise(p->segment.base, p->segment.size, MADV_DODUMP) ? -errno : 0;
}
