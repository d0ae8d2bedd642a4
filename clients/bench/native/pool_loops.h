/* SPDX-License-Identifier: Apache-2.0
 *
 * pool_loops.h - the measured loops over a pool, the same for every contestant.
 *
 * As in queue_loops.h, a contestant passes its operations as constants, and everything is inlined
 * into its work(). A handle is the contestant's 64-bit name of a buffer.
 */
#ifndef BENCH_POOL_LOOPS_H
#define BENCH_POOL_LOOPS_H

#include <string.h>

#include "queue_loops.h"

/* The same for every pool; the cache is the largest that DPDK allows. */
#define POOL_BUFFERS 8192u
#define POOL_BUFFER_BYTES 2048u
#define POOL_CACHE 512u /* buffers in each worker's local cache */
#define POOL_BULK 64u   /* moved at once between cache and free ring; DPDK chooses itself */
#define POOL_REUSES 64  /* between two reads of the stop word */
#define POOL_TURNS 8    /* between two reads of the stop word */
#define POOL_WORDS 8    /* of each packet, written and read in WORK_PATH: 64 bytes */

struct pool_ops {
	/* Allocates all n or none. Returns n or 0. */
	uint32_t (*alloc)(void *end, uint64_t *handle, uint32_t n);
	void (*free)(void *end, const uint64_t *handle, uint32_t n);
	/* Returns the address of a buffer's bytes. */
	uint64_t *(*data)(void *end, uint64_t handle);
	struct queue_ops queue; /* buffers pass through it */
};

/* data() of a pool whose handles are addresses. They are the same in every worker, because workers
 * are forked after the memory is mapped. */
static ALWAYS_INLINE uint64_t *pool_address(void *end, uint64_t handle)
{
	(void)end;
	return (uint64_t *)(uintptr_t)handle;
}

/* Allocates one buffer and frees it, with its handle in a register: the reuse pattern of the RFC's
 * benchmark. */
static ALWAYS_INLINE void pool_reuse(const struct pool_ops ops, struct bench_run *run, void *end,
				     uint32_t me)
{
	uint64_t done = 0;
	while (!bench_stopped(run)) {
		for (uint32_t turn = 0; turn < POOL_REUSES; turn++) {
			uint64_t handle;
			if (unlikely(!ops.alloc(end, &handle, 1))) {
				store_relaxed(&run->failed, 1u);
				return;
			}
			ops.free(end, &handle, 1);
		}
		bench_count(run, me, done += POOL_REUSES);
	}
}

/* Allocates held buffers n at a time, then frees them n at a time, oldest first. */
static ALWAYS_INLINE void pool_turn(const struct pool_ops ops, struct bench_run *run, void *end,
				    uint32_t me, uint64_t *handle, uint32_t held, uint32_t n)
{
	uint64_t done = 0;
	while (!bench_stopped(run)) {
		uint32_t lost = 0;
		for (uint32_t turn = 0; turn < POOL_TURNS; turn++) {
			for (uint32_t i = 0; i < held; i += n)
				lost |= ops.alloc(end, handle + i, n) ^ n;
			for (uint32_t i = 0; i < held && !lost; i += n)
				ops.free(end, handle + i, n);
		}
		if (lost) {
			store_relaxed(&run->failed, 1u);
			return;
		}
		bench_count(run, me, done += POOL_TURNS * held);
	}
}

static ALWAYS_INLINE void pool_produce(const struct pool_ops ops, struct bench_run *run, void *end,
				       void *queue, uint64_t *handle, uint32_t n, bool bytes)
{
	uint32_t failed = 0;
	uint64_t packet = 0;
	while (!bench_stopped(run)) {
		if (!ops.alloc(end, handle, n)) {
			bench_idle(run, ++failed);
			continue;
		}
		for (uint32_t i = 0; bytes && i < n; i++) {
			uint64_t *word = ops.data(end, handle[i]);
			packet++;
			for (uint32_t k = 0; k < POOL_WORDS; k++)
				word[k] = packet;
		}
		failed = 0;
		while (!ops.queue.put(queue, handle, n, false) && !bench_stopped(run))
			bench_idle(run, ++failed);
		failed = 0;
	}
}

static ALWAYS_INLINE void pool_consume(const struct pool_ops ops, struct bench_run *run, void *end,
				       void *queue, uint32_t me, uint64_t *handle, uint32_t n,
				       bool bytes)
{
	uint64_t done = 0, differs = 0;
	uint32_t failed = 0;
	while (!bench_stopped(run)) {
		uint32_t got = ops.queue.get(queue, handle, n, false);
		if (!got) {
			bench_idle(run, ++failed);
			continue;
		}
		failed = 0;
		for (uint32_t i = 0; bytes && i < got; i++) {
			const uint64_t *word = ops.data(end, handle[i]);
			for (uint32_t k = 1; k < POOL_WORDS; k++)
				differs |= word[k] ^ word[0];
		}
		ops.free(end, handle, got);
		bench_count(run, me, done += got);
	}
	if (differs)
		store_relaxed(&run->failed, 1u);
}

/* A contestant's work(); end and queue are what its operations take. */
static ALWAYS_INLINE void pool_work(const struct pool_ops ops, struct bench_run *run, void *end,
				    void *queue, uint32_t me)
{
	const struct bench_cell *cell = run->cell;
	uint64_t *handle = run->handle[me]; /* no local array: see queue_do() */
	bool produces = me < cell->producers;
	if (cell->work == WORK_POOL && cell->held == 1)
		pool_reuse(ops, run, end, me);
	else if (cell->work == WORK_POOL && cell->bulk == 1)
		pool_turn(ops, run, end, me, handle, cell->held, 1);
	else if (cell->work == WORK_POOL)
		pool_turn(ops, run, end, me, handle, cell->held, cell->bulk);
	else if (cell->work == WORK_HAND_OVER && produces)
		pool_produce(ops, run, end, queue, handle, cell->bulk, false);
	else if (cell->work == WORK_HAND_OVER)
		pool_consume(ops, run, end, queue, me, handle, cell->bulk, false);
	else if (produces)
		pool_produce(ops, run, end, queue, handle, cell->bulk, true);
	else
		pool_consume(ops, run, end, queue, me, handle, cell->bulk, true);
}

#endif
