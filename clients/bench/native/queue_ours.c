/* SPDX-License-Identifier: Apache-2.0
 *
 * queue_ours.c - our queue: the bare ring (alf_queue.h with an op record), and the ring with an
 * owner word, which each put and get stores into the buffer's header line.
 */
#include "queue_loops.h"

#include "alf_queue.h"

struct header {
	uint64_t owner;
	uint64_t pad[7];
};

/* One worker's access to the queue, laid out in memory as a member's. */
struct end {
	struct alf_ring ring;
	struct header *header;
	uint64_t me;
	_Alignas(2 * CACHE_LINE) uint64_t op;
};

static const uint64_t TRANSIT = 1ull << 63;

static ALWAYS_INLINE uint32_t put(struct end *end, const uint64_t *handle, uint32_t n, bool single,
				  bool owner)
{
	enum alf_side side = single ? ALF_SINGLE : ALF_MULTI;
	uint64_t at;
	uint32_t put = alf_reserve(&end->ring, &end->op, n, side, &at) ? 0 : n;
	for (uint32_t i = 0; owner && i < put; i++)
		store_relaxed(&end->header[handle[i]].owner, TRANSIT | (at + i));
	if (put)
		alf_publish(&end->ring, at, handle, n);
	alf_done(&end->op, side);
	return put;
}

static ALWAYS_INLINE uint32_t get(struct end *end, uint64_t *handle, uint32_t n, bool single,
				  bool owner)
{
	enum alf_side side = single ? ALF_SINGLE : ALF_MULTI;
	uint32_t got = alf_claim(&end->ring, &end->op, handle, n, side);
	for (uint32_t i = 0; owner && i < got; i++)
		store_relaxed(&end->header[handle[i]].owner, end->me);
	alf_done(&end->op, side);
	return got;
}

static ALWAYS_INLINE uint32_t put_bare(void *end, const uint64_t *handle, uint32_t n, bool single)
{
	return put(end, handle, n, single, false);
}

static ALWAYS_INLINE uint32_t get_bare(void *end, uint64_t *handle, uint32_t n, bool single)
{
	return get(end, handle, n, single, false);
}

static ALWAYS_INLINE uint32_t put_owner(void *end, const uint64_t *handle, uint32_t n, bool single)
{
	return put(end, handle, n, single, true);
}

static ALWAYS_INLINE uint32_t get_owner(void *end, uint64_t *handle, uint32_t n, bool single)
{
	return get(end, handle, n, single, true);
}

static int create(struct bench_run *run)
{
	struct alf_queue *q = bench_memory(run, sizeof(*q));
	uint64_t *slot = bench_memory(run, BENCH_RING * sizeof(*slot));
	struct header *header = bench_memory(run, QUEUE_BUFFERS * sizeof(*header));
	struct end *end = bench_memory(run, BENCH_WORKERS_MAX * sizeof(*end));
	uint32_t flags = run->cell->single ? ALF_SINGLE_PRODUCER | ALF_SINGLE_CONSUMER : 0;
	struct alf_ring ring;
	alf_calibrate(); /* as a process that opens a pool */
	int error = alf_init(&ring, q, slot, BENCH_RING, ALF_CAPACITY_MAX, 1, flags);
	for (uint32_t i = 0; i < BENCH_WORKERS_MAX; i++)
		end[i] = (struct end) { .ring = ring, .header = header, .me = i };
	run->state = end;
	if (!error)
		queue_fill((struct queue_ops) { put_bare, get_bare }, run, end);
	return error;
}

static void work_bare(struct bench_run *run, uint32_t me)
{
	struct end *end = run->state;
	queue_work((struct queue_ops) { put_bare, get_bare }, run, end + me, me, run->cell->single);
}

static void work_owner(struct bench_run *run, uint32_t me)
{
	struct end *end = run->state;
	queue_work((struct queue_ops) { put_owner, get_owner }, run, end + me, me,
		   run->cell->single);
}

/* The reference of the single variant: the same work through the multi variant. */
static void work_multi(struct bench_run *run, uint32_t me)
{
	struct end *end = run->state;
	queue_work((struct queue_ops) { put_bare, get_bare }, run, end + me, me, false);
}

const struct bench_contestant queue_ours = { "queue_ours", create, work_bare, false };
const struct bench_contestant queue_ours_owner = { "queue_ours_owner", create, work_owner, false };
const struct bench_contestant queue_ours_multi = { "queue_ours_multi", create, work_multi, false };
