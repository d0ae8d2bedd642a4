/* SPDX-License-Identifier: Apache-2.0
 *
 * ck.c - baseline: Concurrency Kit's ck_ring. It has no bulks: elements pass one by one.
 *
 * Only this file includes its headers. Without them the contestant is skipped, and the table says
 * so.
 */
#include "queue_loops.h"

#ifdef BENCH_CK
#include <ck_ring.h>

struct end {
	struct ck_ring ring;
	struct ck_ring_buffer slot[BENCH_RING];
};

/* Drops the elements for which there is no room after the first one; only consumers count. */
static ALWAYS_INLINE uint32_t put(void *at, const uint64_t *handle, uint32_t n, bool single)
{
	struct end *end = at;
	uint32_t i = 0;
	for (; i < n; i++) {
		const void *value = (const void *)(uintptr_t)handle[i];
		bool done = single ? ck_ring_enqueue_spsc(&end->ring, end->slot, value) :
				     ck_ring_enqueue_mpmc(&end->ring, end->slot, value);
		if (!done)
			break;
	}
	return i ? n : 0;
}

static ALWAYS_INLINE uint32_t get(void *at, uint64_t *handle, uint32_t n, bool single)
{
	struct end *end = at;
	uint32_t i = 0;
	for (; i < n; i++) {
		void *value;
		bool done = single ? ck_ring_dequeue_spsc(&end->ring, end->slot, &value) :
				     ck_ring_dequeue_mpmc(&end->ring, end->slot, &value);
		if (!done)
			break;
		handle[i] = (uintptr_t)value;
	}
	return i;
}

static int create(struct bench_run *run)
{
	struct end *end = bench_memory(run, sizeof(*end));
	ck_ring_init(&end->ring, BENCH_RING);
	run->queue = end;
	queue_fill((struct queue_ops) { put, get }, run, end);
	return 0;
}

static void work(struct bench_run *run, uint32_t me)
{
	queue_work((struct queue_ops) { put, get }, run, run->queue, me, run->cell->single);
}
#else
#define create NULL
#define work NULL
#endif

const struct bench_contestant queue_ck = { "queue_ck", create, work, false };
