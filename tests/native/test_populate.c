/* SPDX-License-Identifier: Apache-2.0
 *
 * test_populate.c - a pool that is populated keeps its extents: madvise(2) is replaced by a
 * function that trims the pool just before the kernel maps a piece of it.
 */
#define _GNU_SOURCE
#include <sys/stat.h>
#include <sys/syscall.h>

#include "memfd_pool.h"
#include "opening.h"
#include "qmempool.h"
#include "slab.h"
#include "trim.h"

#define BUFFERS 512u
#define POPULATE_READ 22
#define POPULATE_WRITE 23

static uint32_t pool;
static struct member *me;
static bool trims;
static int pieces;

static struct qmempool *found(void)
{
	return opening_pool(pool);
}

/* Takes the place of the C library's. */
int madvise(void *from, size_t length, int advice)
{
	if (trims && (advice == POPULATE_READ || advice == POPULATE_WRITE)) {
		pieces++;
		EQUAL(0, trim(found(), me, 0));
		EQUAL(BUFFERS, slab_created(&found()->segment));
	}
	return (int)syscall(SYS_madvise, from, length, advice);
}

static uint64_t blocks(void)
{
	struct stat st;
	CHECK(fstat(found()->segment.fd, &st) == 0);
	return (uint64_t)st.st_blocks * 512;
}

/* All buffers exist, and are free. */
static void fill(void)
{
	uint64_t handle[BUFFERS];
	EQUAL(0, qmempool_alloc_bulk(found(), me, handle, BUFFERS));
	EQUAL(0, qmempool_free_bulk(found(), me, handle, BUFFERS));
}

static int populate(void)
{
	uint64_t at = 0;
	int more;
	while ((more = shmpool_populate_wait((int)pool, &at)) > 0)
		;
	return more;
}

int main(void)
{
	struct shmpool_geometry g = { .buffer_size = 65536,
				      .capacity = BUFFERS,
				      .bulk = 16,
				      .refill_multiplier = 1,
				      .members = 4,
				      .queues = 1 };
	pool = memfd_pool(&g);
	EQUAL(0, opening_attach(pool));
	me = opening_member(pool);
	CHECK(me != NULL);
	fill();
	EQUAL(BUFFERS, slab_created(&found()->segment));
	const uint64_t before = blocks();
	trims = true;
	EQUAL(0, populate());
	trims = false;
	CHECK(pieces > 8);
	EQUAL(before, blocks());

	/* Afterwards it can be trimmed, and what is absent stays without memory. */
	CHECK(trim(found(), me, 0) > (int64_t)BUFFERS / 2 * 65536);
	CHECK(slab_created(&found()->segment) < BUFFERS / 4);
	const uint64_t trimmed = blocks();
	EQUAL(0, populate());
	EQUAL(trimmed, blocks());
	EQUAL(0, shmpool_close_wait((int)pool));
	return 0;
}
