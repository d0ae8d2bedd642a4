/* SPDX-License-Identifier: Apache-2.0
 *
 * test_warm.c - the warm ring of large buffers: what was freed last comes first, nothing is hidden
 * there, also behind a suspended member, and all that counts or trims free buffers knows of it.
 */
#define _GNU_SOURCE
#include "audit.h"
#include "blocking.h"
#include "geometry.h"
#include "member.h"
#include "memfd_pool.h"
#include "opening.h"
#include "trim.h"

#define CAPACITY 32u
#define WARM 8u /* slots */
#define BEHIND 3u

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

static void create(uint32_t prealloc)
{
	struct shmpool_geometry g = { .buffer_size = GEOMETRY_WARM_BYTES / WARM,
				      .capacity = CAPACITY,
				      .prealloc = prealloc,
				      .bulk = 16,
				      .refill_multiplier = 1,
				      .cache_size = 0,
				      .members = 4,
				      .queues = 2 };
	number = memfd_pool(&g);
	EQUAL(WARM, alf_capacity(pool()->side));
}

/* All figures say that so many of the buffers are free. */
static void free_are(uint64_t n)
{
	struct shmpool_stats stats;
	struct shmpool_audit audit;
	struct shmpool_held held[4];
	uint64_t queued[3], met[CAPACITY / 64 + 1];
	memset(&audit, 0, sizeof(audit));
	while (audit_step(pool(), &audit, held, 4, queued, 3, met, INT64_MAX / 2) > 0)
		;
	EQUAL(0, audit.unaccounted + audit.doubled);
	EQUAL(n, audit.free);
	audit_stats(pool(), &stats);
	EQUAL(n, stats.free);
	EQUAL(n, qmempool_count(pool(), CAPACITY));
}

/* Allocates all buffers one by one: n, each once. */
static void take_all(uint64_t *handle, uint32_t n)
{
	uint64_t seen = 0, none;
	for (uint32_t i = 0; i < n; i++) {
		EQUAL(0, qmempool_alloc(pool(), self(), &handle[i]));
		CHECK(!(seen >> handle_index(handle[i]) & 1));
		seen |= 1ull << handle_index(handle[i]);
	}
	EQUAL(-EAGAIN, qmempool_alloc(pool(), self(), &none));
}

/* Of n buffers that are freed at once the last ones are allocated next, and then the others. */
static void last_first(uint32_t n)
{
	uint64_t handle[CAPACITY], again[CAPACITY];
	const uint32_t warm = n < WARM ? n : WARM;
	EQUAL(0, qmempool_alloc_bulk(pool(), self(), handle, n));
	EQUAL(0, qmempool_free_bulk(pool(), self(), handle, n));
	free_are(CAPACITY);
	take_all(again, CAPACITY);
	for (uint32_t i = 0; i < warm; i++)
		EQUAL(handle_index(handle[n - warm + i]), handle_index(again[i]));
	free_are(0);
	EQUAL(0, qmempool_free_bulk(pool(), self(), again, CAPACITY));
	free_are(CAPACITY);
}

/* A member is suspended in the warm ring. What was freed behind it can be had, and comes out once
 * only when the member goes on. */
static void suspended(void)
{
	struct qmempool *p = pool();
	struct member *other;
	uint64_t handle[CAPACITY], its, none;
	alf_position at;
	EQUAL(0, member_attach(&p->segment, opening_token(number), &other));
	EQUAL(0, qmempool_alloc(p, other, &its));
	take_all(handle, CAPACITY - 1);
	EQUAL(0, alf_reserve(p->side, &other->op, 1, ALF_MULTI, &at));
	EQUAL(0, qmempool_free_bulk(p, self(), handle, BEHIND));
	EQUAL(-EAGAIN, qmempool_alloc(p, self(), &none));
	for (uint32_t i = 0; i < BEHIND; i++)
		EQUAL(0, qmempool_alloc_hard(p, self(), &handle[i], 1, CAPACITY_MAX));
	EQUAL(-EAGAIN, qmempool_alloc_hard(p, self(), &none, 1, CAPACITY_MAX));
	its += GENERATION_ONE;
	pool_buffer(p, handle_index(its))->handle = its;
	transfer_mark(p, p->side, &its, 1, at);
	alf_publish(p->side, at, &its, 1);
	alf_done(&other->op, ALF_MULTI);
	EQUAL(0, qmempool_free_bulk(p, self(), handle, BEHIND));
	take_all(handle, BEHIND + 1);
	EQUAL(0, qmempool_free_bulk(p, self(), handle, BEHIND + 1));
	qmempool_drain(p, other);
	member_release(&p->segment, other);
}

/* A trim takes every buffer that is free, those of the warm ring too. */
static void trimmed(void)
{
	uint64_t handle[CAPACITY];
	struct shmpool_stats stats;
	create(0);
	take_all(handle, CAPACITY);
	EQUAL(0, qmempool_free_bulk(pool(), self(), handle, CAPACITY));
	CHECK(trim(pool(), self(), 0) > 0);
	audit_stats(pool(), &stats);
	EQUAL(0, stats.created);
	take_all(handle, CAPACITY);
}

int main(void)
{
	create(CAPACITY);
	last_first(1);
	last_first(WARM);
	last_first(WARM + 1);
	last_first(CAPACITY);
	suspended();
	trimmed();
	printf("%u large buffers, %u of them warm\n", CAPACITY, WARM);
	return 0;
}
