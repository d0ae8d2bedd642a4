/* SPDX-License-Identifier: Apache-2.0
 *
 * wrap_cache.c - two members of one pool, in one thread, allocate, free, run out of buffers and
 * steal from each other's cache until the positions of their caches have wrapped often. What each
 * has agrees with its counters, and the audit is exact.
 *
 * After STEPS of that, all buffers go from one cache to the other and back, TURNS times.
 *
 * Usage: wrap_cache STEPS TURNS. Prints how often the positions of both wrapped, together.
 */
#define _GNU_SOURCE
#include "audit.h"
#include "member.h"
#include "memfd_pool.h"
#include "opening.h"
#include "qmempool.h"

#if SHMPOOL_POSITION_BITS == 8
#define CAPACITY 64u /* narrow positions allow no larger ring */
#else
#define CAPACITY 1024u
#endif
#define CACHE CAPACITY
#define BULK 16u
#define USED 16u /* buffers that a member has at most while there are enough */
#define SOME 8u  /* at a time */

static uint32_t pool_number;

struct worker {
	struct member *m;
	uint64_t hand[CAPACITY];
	uint32_t held;
	cache_position bottom; /* as last read */
	uint64_t moved;        /* how far bottom and top have moved */
};

static struct qmempool *pool(void)
{
	return opening_pool(pool_number);
}

static uint32_t random_below(uint32_t n)
{
	static uint64_t state = 88172645463325252ull;
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (uint32_t)(state >> 32) % n;
}

static void observe(struct worker *w)
{
	cache_position bottom = cache_bottom_at(w->m->cache_bottom, w->m->cache_top);
	w->moved += (cache_position)(bottom - w->bottom);
	w->bottom = bottom;
	EQUAL(w->held, member_held(&pool()->segment, w->m));
	CHECK(cache_length(&pool()->segment, w->m) <= CACHE);
}

static void step(struct worker *w, uint32_t most)
{
	uint32_t n = 1 + random_below(SOME);
	if (w->held + n <= most) {
		if (qmempool_alloc_bulk(pool(), w->m, &w->hand[w->held], n) == 0)
			w->held += n;
	} else if (n <= w->held) {
		w->held -= n;
		EQUAL(0, qmempool_free_bulk(pool(), w->m, &w->hand[w->held], n));
	}
}

/* Takes all buffers, out of the other member's cache, into its own. */
static void turn(struct worker *w)
{
	EQUAL(0, qmempool_alloc_bulk(pool(), w->m, w->hand, CAPACITY));
	EQUAL(0, qmempool_free_bulk(pool(), w->m, w->hand, CAPACITY));
}

static void check_all(uint32_t held)
{
	struct shmpool_audit audit;
	struct shmpool_held list[8];
	uint64_t queued[2] = { 0 };
	EQUAL(0, audit_count(pool(), &audit, list, 8, queued, 2));
	EQUAL(0, audit.unaccounted + audit.doubled);
	EQUAL(CAPACITY, audit.free + audit.cached + held);
}

int main(int argc, char **argv)
{
	uint64_t steps = argc > 1 ? (uint64_t)atoll(argv[1]) : 100000;
	uint64_t turns = argc > 2 ? (uint64_t)atoll(argv[2]) : 1000;
	const unsigned bits = SHMPOOL_POSITION_BITS & 63;
	struct worker worker[2] = { 0 };
	pool_number = memfd_pool(&(struct shmpool_geometry) { .buffer_size = 64,
							      .capacity = CAPACITY,
							      .prealloc = CAPACITY,
							      .cache_size = CACHE,
							      .bulk = BULK,
							      .refill_multiplier = 1,
							      .members = 4,
							      .queues = 1 });
	for (int i = 0; i < 2; i++)
		EQUAL(0, member_attach(&pool()->segment, opening_token(pool_number), &worker[i].m));
	for (uint64_t i = 0; i < steps; i++) {
		/* In turns: a cache has enough buffers for its member, or there are fewer than both
		 * members want. */
		uint32_t most = i / 256 % 4 ? USED : CAPACITY;
		step(&worker[random_below(2)], most);
		observe(&worker[0]);
		observe(&worker[1]);
		if (i % 1024 == 0)
			check_all(worker[0].held + worker[1].held);
	}
	for (int i = 0; i < 2; i++) {
		EQUAL(0, qmempool_free_bulk(pool(), worker[i].m, worker[i].hand, worker[i].held));
		worker[i].held = 0;
	}
	for (uint64_t i = 0; i < turns; i++) {
		turn(&worker[i % 2]);
		observe(&worker[0]);
		observe(&worker[1]);
		if (i % 1024 == 0)
			check_all(0);
	}
	for (int i = 0; i < 2; i++) {
		struct worker *w = &worker[i];
		cache_drain(pool(), w->m);
		member_release(&pool()->segment, w->m);
	}
	check_all(0);
	printf("the positions came round %llu times\n",
	       (unsigned long long)(worker[0].moved + worker[1].moved) >> bits);
	EQUAL(0, opening_close(pool_number));
	return 0;
}
