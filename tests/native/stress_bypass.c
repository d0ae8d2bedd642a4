/* SPDX-License-Identifier: Apache-2.0
 *
 * stress_bypass.c - a member is suspended many times in the middle of freeing buffers, while
 * other members allocate all that there are. No two members get the same buffer, all free buffers
 * can be allocated, and at the end every buffer is free.
 *
 * With narrow positions (SHMPOOL_POSITION_BITS) there are no other threads, since positions would
 * wrap while a member is suspended.
 *
 * Usage: stress_bypass STOPS
 */
#define _GNU_SOURCE
#include "audit.h"
#include "blocking.h"
#include "member.h"
#include "memfd_pool.h"
#include "opening.h"
#include "transfer.h"
#include "wait.h"

#define CAPACITY 64
#define STOPPED 16 /* buffers that the suspended member is freeing */
#define WORKERS 3

static uint32_t pool_number, stop, holders[CAPACITY], most;
static uint64_t allocated;

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

static void *work(void *unused)
{
	struct member *m = self();
	for (uint32_t turn = 0; !load_relaxed(&stop); turn++) {
		uint64_t handle[CAPACITY];
		uint32_t n = 0;
		while (n < CAPACITY && !blocking_alloc(pool(), m, &handle[n], 1, WAIT_NEVER))
			EQUAL(0, add_seq_cst(&holders[handle_index(handle[n++])], 1));
		add_relaxed(&allocated, n);
		for (uint32_t i = 0; i < n; i++)
			add_seq_cst(&holders[handle_index(handle[i])], -1u);
		for (uint32_t i = 0; i < n; i++)
			EQUAL(0, qmempool_free(pool(), m, handle[i]));
		sched_yield();
	}
	return unused;
}

/* All buffers that the suspended member does not own can be allocated. */
static void all_but(uint32_t missing)
{
	uint64_t handle[CAPACITY];
	uint32_t n = 0;
	while (n < CAPACITY && !blocking_alloc(pool(), self(), &handle[n], 1, WAIT_NEVER))
		n++;
	EQUAL(CAPACITY - missing, n);
	EQUAL(0, qmempool_free_bulk(pool(), self(), handle, n));
}

int main(int argc, char **argv)
{
	uint32_t stops = argc > 1 ? (uint32_t)atoi(argv[1]) : 1000;
	uint32_t alone = SHMPOOL_POSITION_BITS == 64 ? stops / 2 : stops;
	uint64_t moved = 0; /* by the positions of the free ring */
	pthread_t thread[WORKERS];
	struct member *stopped;
	struct shmpool_audit audit;
	struct shmpool_held held[8];
	uint64_t queued[2], handle[STOPPED];
	pool_number = memfd_pool(&(struct shmpool_geometry) { .buffer_size = 64,
							      .capacity = CAPACITY,
							      .prealloc = CAPACITY,
							      .cache_size = 0,
							      .bulk = 16,
							      .refill_multiplier = 1,
							      .members = 6,
							      .queues = 1 });
	EQUAL(0, member_attach(&pool()->segment, opening_token(pool_number), &stopped));
	for (uint32_t i = 0; i < stops; i++) {
		const struct alf_ring *ring = &pool()->free;
		alf_position at;
		alf_position before = ring->q->prod;
		if (i == alone)
			for (int k = 0; k < WORKERS; k++)
				CHECK(!pthread_create(&thread[k], NULL, work, NULL));
		uint32_t n = 0;
		while (n < STOPPED && !qmempool_alloc(pool(), stopped, &handle[n]))
			n++;
		if (!n)
			continue;
		/* transfer_in(), with a suspension in the middle. */
		if (alf_reserve(ring, &stopped->op, n, ALF_MULTI, &at)) {
			alf_done(&stopped->op, ALF_MULTI);
			EQUAL(0, qmempool_free_bulk(pool(), stopped, handle, n));
			continue;
		}
		if (i < alone)
			all_but(n);
		alf_publishing(&stopped->op, n, ALF_MULTI);
		for (uint32_t k = 0; k < n; k++)
			store_release(&pool_buffer(pool(), handle_index(handle[k]))->owner,
				      owner_transit(0, at + k)); /* [OWNER] */
		if (i < alone)
			all_but(n);
		else
			usleep(i % 200);
		alf_publish(ring, at, handle, n);
		alf_done(&stopped->op, ALF_MULTI);
		most = n > most ? n : most;
		moved += (alf_position)(load_relaxed(&ring->q->prod) - before);
	}
	store_relaxed(&stop, 1);
	for (int k = 0; k < WORKERS && alone < stops; k++)
		pthread_join(thread[k], NULL);
	all_but(0);
	EQUAL(0, audit_count(pool(), &audit, held, 8, queued, 2));
	EQUAL(CAPACITY, audit.free);
	EQUAL(0, audit.doubled + audit.unaccounted);
	printf("%u stops with up to %u buffers, %llu allocated by others\n", stops, most,
	       (unsigned long long)allocated);
	if (SHMPOOL_POSITION_BITS < 64)
		printf("positions came round %llu times\n",
		       (unsigned long long)moved >> (SHMPOOL_POSITION_BITS & 63));
	EQUAL(0, opening_close(pool_number));
	return 0;
}
