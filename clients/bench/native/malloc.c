/* SPDX-License-Identifier: Apache-2.0
 *
 * malloc.c - for comparison: malloc() and free() of the C library, of mimalloc and of jemalloc.
 * Their memory is private to a process, so the workers are threads if another worker frees. Buffers
 * pass through a tail-wait ring. The libraries are loaded at run time; linked, they would replace
 * malloc().
 */
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>

#include "pool_loops.h"
#include "tailwait.h"

struct end {
	void *(*take)(size_t bytes);
	void (*drop)(void *buffer);
};

static ALWAYS_INLINE uint32_t alloc(void *at, uint64_t *handle, uint32_t n)
{
	const struct end *end = at;
	for (uint32_t i = 0; i < n; i++) {
		void *buffer = end->take(POOL_BUFFER_BYTES);
		if (!buffer)
			return 0;
		handle[i] = (uintptr_t)buffer;
	}
	return n;
}

static ALWAYS_INLINE void give(void *at, const uint64_t *handle, uint32_t n)
{
	const struct end *end = at;
	for (uint32_t i = 0; i < n; i++)
		end->drop((void *)(uintptr_t)handle[i]);
}

/* Takes the functions from a library; NULL is the C library. */
static int create_with(struct bench_run *run, const char *library, const char *take,
		       const char *drop)
{
	struct end *end = bench_memory(run, sizeof(*end));
	void *loaded = dlopen(library, RTLD_NOW | RTLD_LOCAL);
	if (!loaded)
		return -ENOENT;
	*(void **)&end->take = dlsym(loaded, take);
	*(void **)&end->drop = dlsym(loaded, drop);
	run->state = end;
	run->queue = tailwait_create(run, BENCH_RING);
	return end->take && end->drop ? 0 : -ENOENT;
}

static void work(struct bench_run *run, uint32_t me)
{
	pool_work((struct pool_ops) { alloc, give, pool_address, TAILWAIT_OPS }, run, run->state,
		  run->queue, me);
}

static int create(struct bench_run *run)
{
	return create_with(run, NULL, "malloc", "free");
}

const struct bench_contestant pool_malloc = { "pool_malloc", create, work, true };

#ifdef BENCH_MIMALLOC
static int create_mimalloc(struct bench_run *run)
{
	return create_with(run, BENCH_MIMALLOC, "mi_malloc", "mi_free");
}
#else
#define create_mimalloc NULL
#endif

#ifdef BENCH_JEMALLOC
static int create_jemalloc(struct bench_run *run)
{
	return create_with(run, BENCH_JEMALLOC, "malloc", "free");
}
#else
#define create_jemalloc NULL
#endif

const struct bench_contestant pool_mimalloc = { "pool_mimalloc", create_mimalloc, work, true };
const struct bench_contestant pool_jemalloc = { "pool_jemalloc", create_jemalloc, work, true };
