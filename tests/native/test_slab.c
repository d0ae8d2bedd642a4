/* SPDX-License-Identifier: Apache-2.0
 *
 * test_slab.c - where a process searches for an absent extent, what is left of one for which there
 * was no memory, and how many buffers one claim may have.
 *
 * Usage: test_slab [ROUNDS]
 */
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <unistd.h>

#include "alf_repair.h"
#include "blocking.h"
#include "member.h"
#include "memfd_pool.h"
#include "opening.h"
#include "trim.h"
#include "wait.h"

#define CAPACITY 4096u
#define BULK 16u

static uint32_t pool_number, stop;
static pthread_barrier_t begin, end;

static struct qmempool *pool(void)
{
	return opening_pool(pool_number);
}

static struct member *self(void)
{
	if (!opening_member(pool_number))
		EQUAL(0, opening_attach(pool_number));
	return opening_member(pool_number);
}

static bool no_memory;
static uint64_t from_on; /* the first byte in the file for which there is none */

/* Called by the core in place of libc's: /dev/shm is full, if no_memory says so. */
int fallocate(int fd, int mode, off_t from, off_t length)
{
	if (!no_memory || (uint64_t)from < from_on)
		return (int)syscall(SYS_fallocate, fd, mode, from, length);
	errno = ENOSPC;
	return -1;
}

static uint32_t alloc_all(uint64_t *handle, uint32_t each)
{
	uint32_t n = 0;
	while (n < CAPACITY && !qmempool_alloc_bulk(pool(), self(), handle + n, each))
		n += each;
	return n;
}

/* A thread that was suspended while it passed present extents stores its hint after those were
 * removed. */
static void stale_hint(void)
{
	static uint64_t handle[CAPACITY];
	EQUAL(CAPACITY, alloc_all(handle, BULK));
	uint64_t place = load_relaxed(&pool()->absent);
	EQUAL(0, qmempool_free_bulk(pool(), self(), handle, CAPACITY));
	cache_drain(pool(), self());
	CHECK(trim(pool(), self(), 0) > 0);
	store_relaxed(&pool()->absent, place);
	EQUAL(CAPACITY, alloc_all(handle, BULK));
	EQUAL(0, qmempool_free_bulk(pool(), self(), handle, CAPACITY));
	CHECK(trim(pool(), self(), 0) > 0);
}

/* Once there is memory again, another claim creates the extent for which there was none. */
static void full(void)
{
	static uint64_t handle[CAPACITY];
	no_memory = true;
	EQUAL(-ENOSPC, qmempool_alloc_bulk(pool(), self(), handle, BULK));
	no_memory = false;
	EQUAL(CAPACITY, alloc_all(handle, BULK));
	EQUAL(0, qmempool_free_bulk(pool(), self(), handle, CAPACITY));
	CHECK(trim(pool(), self(), 0) > 0);
}

/* An absent extent may have memory that a process has registered: a trimmer died when it had
 * claimed the extent. Growth that gets no memory does not give that back. */
static void full_and_pinned(void)
{
	static uint64_t handle[BULK];
	const struct segment *s = &pool()->segment;
	char *byte = segment_data(s, (uint32_t)slab_extent_first(s, 0));
	void *page;
	EQUAL(0, segment_reserve(s, (uint64_t)(byte - s->base), 1));
	*byte = 1;
	no_memory = true;
	from_on = s->data_offset;
	EQUAL(0, token_pin(s, opening_token(pool_number), &page));
	EQUAL(-ENOSPC, qmempool_alloc_bulk(pool(), self(), handle, BULK));
	EQUAL(1, *byte);
	token_let_go(page);
	no_memory = false;
	from_on = 0;
}

static void *grow(void *unused)
{
	static _Thread_local uint64_t handle[CAPACITY];
	for (;;) {
		pthread_barrier_wait(&begin);
		if (load_relaxed(&stop))
			return unused;
		for (int k = 0; k < 20; k++) {
			uint32_t n = alloc_all(handle, BULK);
			if (n)
				EQUAL(0, qmempool_free_bulk(pool(), self(), handle, n));
		}
		pthread_barrier_wait(&end);
	}
}

static void *cut(void *unused)
{
	for (;;) {
		pthread_barrier_wait(&begin);
		if (load_relaxed(&stop))
			return unused;
		for (int k = 0; k < 20; k++)
			trim(pool(), self(), 0);
		pthread_barrier_wait(&end);
	}
}

/* Threads grow the pool and one trims it: each time, all of it can be allocated afterwards. */
static void race(int rounds)
{
	static uint64_t handle[CAPACITY];
	pthread_t thread[3];
	pthread_barrier_init(&begin, NULL, 4);
	pthread_barrier_init(&end, NULL, 4);
	for (int i = 0; i < 3; i++)
		CHECK(!pthread_create(&thread[i], NULL, i ? grow : cut, NULL));
	for (int r = 0; r < rounds; r++) {
		pthread_barrier_wait(&begin);
		pthread_barrier_wait(&end);
		uint32_t n = alloc_all(handle, 1);
		EQUAL(CAPACITY, n);
		EQUAL(0, qmempool_free_bulk(pool(), self(), handle, n));
	}
	store_relaxed(&stop, 1);
	pthread_barrier_wait(&begin);
	for (int i = 0; i < 3; i++)
		pthread_join(thread[i], NULL);
}

static struct shmpool_geometry geometry(int64_t capacity, int64_t prealloc)
{
	return (struct shmpool_geometry) { .buffer_size = 256,
					   .capacity = capacity,
					   .prealloc = prealloc,
					   .cache_size = 0,
					   .bulk = BULK,
					   .refill_multiplier = 1,
					   .members = 10,
					   .queues = 2 };
}

/* An allocation of more than an op record can count is several claims, each of which fits. */
static void claims(void)
{
	const uint32_t n = 1 << 18;
	struct shmpool_geometry g = geometry(n, n);
	pool_number = memfd_pool(&g);
	uint64_t *handle = malloc(n * sizeof(*handle));
	int got = qmempool_obtain(pool(), self(), handle, n);
	CHECK(got > 0 && (uint32_t)got <= ALF_OP_COUNT_MAX);
	free_ring_put(pool(), self(), handle, (uint32_t)got);
	EQUAL(0, blocking_alloc(pool(), self(), handle, n, WAIT_NEVER));
	EQUAL(0, qmempool_free_bulk(pool(), self(), handle, n));
	free(handle);
}

int main(int argc, char **argv)
{
	struct shmpool_geometry g = geometry(CAPACITY, 0);
	pool_number = memfd_pool(&g);
	stale_hint();
	full();
	full_and_pinned();
	race(argc > 1 ? atoi(argv[1]) : 100);
	claims();
	return 0;
}
