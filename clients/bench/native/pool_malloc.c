/* SPDX-License-Identifier: Apache-2.0
 *
 * pool_malloc.c - for comparison: malloc() and free() of the C library, of mimalloc and of
 * jemalloc. Their memory is private to a process, so the workers are threads if another worker
 * frees. Buffers pass through a tail-wait ring. The libraries are loaded at run time; linked, they
 * would replace malloc().
 */
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>

#include "pool_loops.h"
#include "tailwait.h"

struct end {
	void *(*take)(size_t bytes);
	void (*drop)(void *buffer);
	struct tailwait *queue;
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

static ALWAYS_INLINE uint32_t put(void *at, const uint64_t *handle, uint32_t n)
{
	const struct end *end = at;
	return tailwait_enqueue(end->queue, handle, n, false);
}

static ALWAYS_INLINE uint32_t get(void *at, uint64_t *handle, uint32_t n)
{
	const struct end *end = at;
	return tailwait_dequeue(end->queue, handle, n, false);
}

static ALWAYS_INLINE uint64_t *data(void *end, uint64_t handle)
{
	(void)end;
	return (uint64_t *)(uintptr_t)handle;
}

static int create_with(struct bench_run *run, void *(*take)(size_t), void (*drop)(void *))
{
	struct end *end = run_memory(run, sizeof(*end));
	*end = (struct end) { take, drop, run_memory(run, tailwait_bytes(BENCH_RING)) };
	tailwait_init(end->queue, BENCH_RING);
	run->state = end;
	return 0;
}

static int create(struct bench_run *run)
{
	return create_with(run, malloc, free);
}

static void work(struct bench_run *run, uint32_t me)
{
	pool_work((struct pool_ops) { alloc, give, put, get, data }, run, run->state, me);
}

const struct bench_contestant pool_malloc = { "malloc", MALLOC, create, work, true };

#if defined(BENCH_MIMALLOC) || defined(BENCH_JEMALLOC)
static int create_loaded(struct bench_run *run, const char *library, const char *take,
			 const char *drop)
{
	void *loaded = dlopen(library, RTLD_NOW | RTLD_LOCAL);
	if (!loaded)
		return -ENOENT;
	void *(*taker)(size_t);
	void (*dropper)(void *);
	*(void **)&taker = dlsym(loaded, take);
	*(void **)&dropper = dlsym(loaded, drop);
	return taker && dropper ? create_with(run, taker, dropper) : -ENOENT;
}
#endif

#ifdef BENCH_MIMALLOC
static int create_mimalloc(struct bench_run *run)
{
	return create_loaded(run, BENCH_MIMALLOC, "mi_malloc", "mi_free");
}
const struct bench_contestant pool_mimalloc = { "mimalloc", MIMALLOC, create_mimalloc, work, true };
#else
const struct bench_contestant pool_mimalloc = { "mimalloc", MIMALLOC, NULL, NULL, true };
#endif

#ifdef BENCH_JEMALLOC
static int create_jemalloc(struct bench_run *run)
{
	return create_loaded(run, BENCH_JEMALLOC, "malloc", "free");
}
const struct bench_contestant pool_jemalloc = { "jemalloc", JEMALLOC, create_jemalloc, work, true };
#else
const struct bench_contestant pool_jemalloc = { "jemalloc", JEMALLOC, NULL, NULL, true };
#endif
