/* SPDX-License-Identifier: Apache-2.0
 *
 * test_sizes.c - size classes: which class a buffer and an allocation belong to, at every border,
 * and that each class gets back its own.
 */
#define _GNU_SOURCE
#include "audit.h"
#include "blocking.h"
#include "lookup.h"
#include "member.h"
#include "memfd_pool.h"
#include "opening.h"
#include "trim.h"

#define CLASSES 3u
#define TOTAL 112u

static const uint64_t size[CLASSES] = { 64, 256, 4096 };
static const uint32_t capacity[CLASSES] = { 16, 32, 64 };
static const uint32_t first[CLASSES + 1] = { 0, 16, 48, TOTAL };

static uint32_t number;

static struct qmempool *pool(void)
{
	return opening_pool(number);
}

static struct member *self(void)
{
	if (!opening_member(number))
		EQUAL(0, opening_attach(number));
	return opening_member(number);
}

static void create(void)
{
	struct shmpool_geometry g = { .buffer_size = (int64_t)size[0],
				      .capacity = capacity[0],
				      .prealloc = 4,
				      .bulk = 16,
				      .refill_multiplier = 1,
				      .cache_size = 16,
				      .members = 4,
				      .queues = 2,
				      .classes = CLASSES };
	for (uint32_t i = 1; i < CLASSES; i++)
		g.more[i - 1] = (struct shmpool_class) { .buffer_size = (int64_t)size[i],
							 .capacity = capacity[i],
							 .prealloc = i == 2 ? 16 : 0,
							 .cache_size = 16 };
	number = memfd_pool(&g);
}

static uint32_t class_of(uint64_t handle)
{
	uint32_t class = 0;
	while (handle_index(handle) >= first[class + 1])
		class++;
	return class;
}

/* Every index has its class, and every buffer bytes of its own. */
static void borders(void)
{
	const char *end = pool_data(pool(), 0);
	for (uint32_t i = 0; i < TOTAL; i++) {
		EQUAL(class_of(i), pool_of(pool(), i)->segment.class);
		EQUAL(size[class_of(i)], pool_stride(pool(), i));
		CHECK(pool_data(pool(), i) >= end);
		end = pool_data(pool(), i) + pool_stride(pool(), i);
	}
	CHECK(end <= pool()->segment.base + pool()->segment.size);
	for (uint32_t i = 0; i < CLASSES; i++) {
		EQUAL(i, lookup_class(pool(), size[i]));
		EQUAL(i + 1, lookup_class(pool(), size[i] + 1));
	}
}

/* What is allocated from a class is of that class, and then of the larger ones. */
static void smallest(void)
{
	uint64_t handle[TOTAL];
	for (uint32_t class = 0; class < CLASSES; class++) {
		uint32_t n = 0;
		while (!blocking_alloc_class(pool(), self(), class, &handle[n], 1, WAIT_NEVER))
			n++;
		EQUAL(TOTAL - first[class], n);
		for (uint32_t i = 0, of = class; i < n; i++) {
			of += i + first[class] == first[of + 1];
			EQUAL(of, class_of(handle[i]));
		}
		EQUAL(0, qmempool_free_bulk(pool(), self(), handle, n));
	}
	/* Many come from the first class that ever has so many. */
	EQUAL(0, blocking_alloc_class(pool(), self(), 0, handle, 20, WAIT_NEVER));
	for (uint32_t i = 0; i < 20; i++)
		EQUAL(1, class_of(handle[i]));
	EQUAL(0, qmempool_free_bulk(pool(), self(), handle, 20));
	struct shmpool_turn turn = { 0 };
	uint64_t key = key_of((uint32_t)number, 0);
	EQUAL(-EMSGSIZE, shmpool_alloc_many_wait(key, handle, 65, WAIT_NEVER, &turn));
}

static void check_figures(uint32_t held, bool cached)
{
	struct shmpool_stats stats;
	struct shmpool_audit audit;
	struct shmpool_held holders[4];
	uint64_t queued[3];
	audit_stats(pool(), &stats);
	EQUAL(0, audit_count(pool(), &audit, holders, 4, queued, 3));
	EQUAL(0, audit.unaccounted + audit.doubled);
	EQUAL(stats.created, audit.total);
	EQUAL(stats.cached, audit.cached);
	EQUAL(stats.free, audit.free);
	EQUAL(held, stats.created - stats.free - stats.cached);
	EQUAL(held, member_held(&pool()->segment, self()));
	for (uint32_t i = 0; i < CLASSES; i++) {
		const struct shmpool_class_stats *of = &stats.classes[i];
		EQUAL(cached, of->cached != 0);
		EQUAL(held / CLASSES, of->created - of->free - of->cached);
		stats.created -= of->created;
		stats.free -= of->free;
		stats.cached -= of->cached;
	}
	EQUAL(0, stats.created + stats.free + stats.cached);
}

/* Buffers of several classes that are freed at once, or one by one, return to their own. */
static void back(void)
{
	uint64_t handle[TOTAL];
	for (uint32_t each = 1; each <= 9; each += 8) {
		for (uint32_t i = 0; i < 9; i++)
			EQUAL(0, blocking_alloc_class(pool(), self(), i % CLASSES, &handle[i], 1,
						      WAIT_NEVER));
		check_figures(9, true);
		for (uint32_t i = 0; i < 9; i += each)
			EQUAL(0, qmempool_free_bulk(pool(), self(), handle + i, each));
		check_figures(0, true);
	}
	/* Into the free rings. */
	qmempool_drain(pool(), self());
	check_figures(0, false);
}

/* A request to flush reaches the caches of its class, and no others. */
static void requested(void)
{
	uint64_t handle[CLASSES];
	for (uint32_t i = 0; i < CLASSES; i++)
		EQUAL(0, blocking_alloc_class(pool(), self(), i, &handle[i], 1, WAIT_NEVER));
	cache_request_flush(pool_class(pool(), 1));
	for (uint32_t i = 0; i < CLASSES; i++) {
		struct member *block = segment_block(&pool()->segment, self(), i);
		EQUAL(i == 1 ? CACHE_FLUSH_REQUESTED : 0, cache_holder(block->cache_bottom));
		EQUAL(0, qmempool_free(pool(), self(), handle[i]));
		EQUAL(i == 1, cache_length(&pool_class(pool(), i)->segment, block) == 1);
	}
	qmempool_drain(pool(), self());
}

/* Each class that has unused extents loses them, and gets them again. */
static void trimmed(void)
{
	const uint32_t prealloc[CLASSES] = { 4, 0, 16 };
	struct shmpool_stats stats;
	CHECK(trim(pool(), self(), 0) > 0);
	audit_stats(pool(), &stats);
	for (uint32_t i = 0; i < CLASSES; i++)
		EQUAL(prealloc[i], stats.classes[i].created);
	smallest();
}

/* Buffers in another thread's caches are taken from there. */
static void *have_all_cached(void *unused)
{
	uint64_t handle[TOTAL];
	for (uint32_t i = 0; i < CLASSES; i++)
		for (uint32_t k = 0; k < capacity[i]; k++)
			EQUAL(0, blocking_alloc_class(pool(), self(), i, &handle[first[i] + k], 1,
						      WAIT_NEVER));
	for (uint32_t i = 0; i < TOTAL; i++)
		EQUAL(0, qmempool_free(pool(), self(), handle[i]));
	pthread_barrier_wait(unused);
	pthread_barrier_wait(unused);
	return unused;
}

static void stolen(void)
{
	pthread_barrier_t barrier;
	pthread_t thread;
	qmempool_drain(pool(), self());
	pthread_barrier_init(&barrier, NULL, 2);
	pthread_create(&thread, NULL, have_all_cached, &barrier);
	pthread_barrier_wait(&barrier);
	/* Not while the other thread's process cannot be made to see that it is stolen from. */
	struct member *other = segment_member(&pool()->segment, 0);
	other = other == self() ? segment_member(&pool()->segment, 1) : other;
	store_relaxed(&other->barrier, 0);
	for (uint32_t i = 0; i < CLASSES; i++) {
		const struct member *block = segment_block(&pool()->segment, other, i);
		uint64_t handle[TOTAL];
		CHECK(cache_length(&pool_class(pool(), i)->segment, block));
		EQUAL(0, cache_steal(pool_class(pool(), i),
				     segment_block(&pool()->segment, self(), i), handle, TOTAL));
	}
	store_relaxed(&other->barrier, 1);
	smallest();
	pthread_barrier_wait(&barrier);
	pthread_join(thread, NULL);
}

/* Exchanges the newest entry of the cache of class 1 for a buffer of class 0, as corruption may.
 * Returns the handle of the buffer that the cache had. */
static uint64_t corrupt_cache(void)
{
	struct qmempool *of = pool_class(pool(), 1);
	struct member *block = pool_block(of, self());
	uint64_t small, mine;
	EQUAL(0, blocking_alloc_class(pool(), self(), 1, &mine, 1, WAIT_NEVER));
	EQUAL(0, qmempool_free(pool(), self(), mine));
	EQUAL(0, blocking_alloc_class(pool(), self(), 0, &small, 1, WAIT_NEVER));
	uint64_t *newest = &block->cache[(block->cache_top - 1) & of->cache_mask];
	EQUAL(mine + GENERATION_ONE, *newest);
	*newest = small;
	return mine + GENERATION_ONE;
}

/* No allocation gives a smaller buffer than it was asked for: all of it would not fit there. */
static void refused(void)
{
	const uint64_t key = key_of((uint32_t)number, 0);
	struct shmpool_turn turn = { 0 };
	struct lookup c;
	uint64_t handle, kept;
	EQUAL(0, lookup_pool(number, &c));
	kept = corrupt_cache();
	EQUAL(-EBADMSG, lookup_alloc_class(&c, 1, &handle, 0));
	EQUAL(0, qmempool_free(pool(), self(), kept));
	kept = corrupt_cache();
	EQUAL(-EBADMSG, shmpool_alloc_cached(key | 1, &handle, 1));
	EQUAL(0, qmempool_free(pool(), self(), kept));
	kept = corrupt_cache();
	EQUAL(-EBADMSG, shmpool_alloc_many_wait(key | 1, &handle, 1, WAIT_NEVER, &turn));
	EQUAL(0, qmempool_free(pool(), self(), kept));
	EQUAL(0, lookup_alloc_class(&c, 1, &handle, 0));
	EQUAL(1, class_of(handle));
	EQUAL(0, qmempool_free(pool(), self(), handle));
}

int main(void)
{
	create();
	borders();
	smallest();
	back();
	requested();
	trimmed();
	stolen();
	refused();
	printf("buffers of %u size classes: each of its own\n", CLASSES);
	return 0;
}
