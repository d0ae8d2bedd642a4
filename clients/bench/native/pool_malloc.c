/* SPDX-License-Identifier: Apache-2.0
 *
 * pool_malloc.c - for comparison: malloc() and free() of the C library. Its memory is one process's,
 * so where another worker frees, the workers are threads; they hand over through a tail-wait ring.
 */
#include <stdlib.h>

#include "pool_loops.h"
#include "tailwait.h"

static ALWAYS_INLINE uint32_t alloc(void *end, uint64_t *handle, uint32_t n)
{
	(void)end;
	for (uint32_t i = 0; i < n; i++) {
		void *buffer = malloc(POOL_BUFFER_BYTES);
		if (!buffer)
			return 0;
		handle[i] = (uintptr_t)buffer;
	}
	return n;
}

static ALWAYS_INLINE void give(void *end, const uint64_t *handle, uint32_t n)
{
	(void)end;
	for (uint32_t i = 0; i < n; i++)
		free((void *)(uintptr_t)handle[i]);
}

static ALWAYS_INLINE uint32_t put(void *end, const uint64_t *handle, uint32_t n)
{
	return tailwait_enqueue(end, handle, n, false);
}

static ALWAYS_INLINE uint32_t get(void *end, uint64_t *handle, uint32_t n)
{
	return tailwait_dequeue(end, handle, n, false);
}

static ALWAYS_INLINE uint64_t *data(void *end, uint64_t handle)
{
	(void)end;
	return (uint64_t *)(uintptr_t)handle;
}

static int create(struct bench_run *run)
{
	run->state = run_memory(run, tailwait_bytes(BENCH_RING));
	tailwait_init(run->state, BENCH_RING);
	return 0;
}

static void work(struct bench_run *run, uint32_t me)
{
	pool_work((struct pool_ops) { alloc, give, put, get, data }, run, run->state, me);
}

const struct bench_contestant pool_malloc = { "malloc", MALLOC, create, work, true };
