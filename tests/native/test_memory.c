/* SPDX-License-Identifier: Apache-2.0
 *
 * test_memory.c - each call that gets memory or a thread's key fails once: the operation reports
 * -ENOMEM, leaves nothing behind, and succeeds when it is tried again.
 *
 * Each failure has a process of its own, so that what a process makes once is made in it.
 *
 * Usage: test_memory (linked with --wrap for each function below that begins with __wrap_)
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <sys/wait.h>

#include "audit.h"
#include "memfd_pool.h"
#include "opening.h"

#define CAPACITY 64u
#define MEMBERS 8u
#define QUEUES 2u

static bool armed;
static int calls, fails_at;

static bool fails(void)
{
	if (!armed || ++calls != fails_at)
		return false;
	errno = ENOMEM;
	return true;
}

#define WRAP(type, name, failed, parameters, arguments)                                            \
	type __real_##name parameters;                                                             \
	type __wrap_##name parameters;                                                             \
	type __wrap_##name parameters                                                              \
	{                                                                                          \
		return fails() ? (failed) : __real_##name arguments;                               \
	}

WRAP(void *, malloc, NULL, (size_t size), (size))
WRAP(void *, calloc, NULL, (size_t n, size_t size), (n, size))
WRAP(void *, mmap, MAP_FAILED, (void *at, size_t size, int access, int flags, int fd, off_t from),
     (at, size, access, flags, fd, from))
WRAP(int, madvise, -1, (void *at, size_t size, int advice), (at, size, advice))
WRAP(int, pthread_key_create, ENOMEM, (pthread_key_t * key, void (*end)(void *)), (key, end))
WRAP(int, pthread_setspecific, ENOMEM, (pthread_key_t key, const void *value), (key, value))
WRAP(int, pthread_atfork, ENOMEM, (void (*before)(void), void (*parent)(void), void (*child)(void)),
     (before, parent, child))

static void *base;
static struct shmpool_geometry g;
static int fd, number;

static struct qmempool *pool(void)
{
	return opening_pool((uint32_t)number);
}

static void make_file(void)
{
	g = (struct shmpool_geometry) {
		.buffer_size = 256,
		.capacity = CAPACITY,
		.prealloc = CAPACITY,
		.bulk = SHMPOOL_DEFAULT,
		.refill_multiplier = SHMPOOL_DEFAULT,
		.cache_size = 0,
		.headroom = 0,
		.members = MEMBERS,
		.queues = QUEUES,
	};
	base = memfd_file(&g, &fd);
}

static int64_t open_pool(void)
{
	return number = shmpool_open(base, g.size, fd, "", 1);
}

static void opened(void)
{
	make_file();
	CHECK(open_pool() > 0);
}

static int64_t attach(void)
{
	return opening_attach((uint32_t)number);
}

static void attached(void)
{
	opened();
	EQUAL(0, attach());
}

static int64_t hold(void)
{
	void *page = NULL;
	int error = shmpool_hold(fd, "", &page);
	if (!error)
		shmpool_let_go(page);
	return error;
}

static int64_t create_queue(void)
{
	return shmpool_queue_create_wait(number, "q", 8, 0, 0, 0, 0);
}

/* A queue of which this opening has no ring yet: another one made it. */
static void with_foreign_queue(void)
{
	attached();
	CHECK(create_queue() > 0);
	int first = number;
	base = mmap(NULL, g.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(base != MAP_FAILED && open_pool() > 0 && number != first);
}

static int64_t read_queue(void)
{
	struct shmpool_queue_info info;
	return shmpool_queue_info(number, 1, &info);
}

static int64_t audit(void)
{
	struct shmpool_audit out;
	struct shmpool_held held[MEMBERS];
	uint64_t queued[QUEUES + 1];
	int error = audit_count(pool(), &out, held, MEMBERS, queued, QUEUES + 1);
	if (!error)
		CHECK(out.unaccounted == 0 && out.doubled == 0 && out.total == CAPACITY);
	return error;
}

/* A member that died with a buffer. */
static void with_dead_member(void)
{
	attached();
	pid_t child = fork();
	CHECK(child >= 0);
	if (!child) {
		uint64_t handle;
		EQUAL(0, attach());
		EQUAL(0, qmempool_alloc_bulk(pool(), opening_member((uint32_t)number), &handle, 1));
		_exit(0);
	}
	int status;
	CHECK(waitpid(child, &status, 0) == child && status == 0);
}

static int64_t recover(void)
{
	struct shmpool_recovery out;
	int error = shmpool_recover_wait(number, &out);
	if (!error)
		CHECK(out.members == 1 && out.buffers == 1);
	return error;
}

static int64_t trim(void)
{
	return shmpool_trim_wait(number, 0);
}

static const struct step {
	const char *name;
	void (*before)(void);
	int64_t (*call)(void);
} steps[] = {
	{ "open", make_file, open_pool },
	{ "hold", make_file, hold },
	{ "attach", opened, attach },
	{ "create a queue", attached, create_queue },
	{ "read a queue", with_foreign_queue, read_queue },
	{ "audit", attached, audit },
	{ "audit of a queue", with_foreign_queue, audit },
	{ "recover", with_dead_member, recover },
	{ "trim", attached, trim },
};

/* Runs a step whose at-th call fails, and again without a failure. Returns how many calls the first
 * run made. */
static int run(const struct step *step, int at)
{
	step->before();
	fails_at = at;
	armed = true;
	int64_t result = step->call();
	armed = false;
	if (result < 0) {
		CHECK(at > 0);
		EQUAL(-ENOMEM, result);
		CHECK(step->call() >= 0);
	}
	if (pool()) {
		EQUAL(0, attach());
		EQUAL(0, audit());
	}
	return calls;
}

/* Runs it in a process of its own, and returns the same. */
static int forked(const struct step *step, int at)
{
	int status;
	pid_t child = fork();
	CHECK(child >= 0);
	if (!child)
		_exit(run(step, at));
	CHECK(waitpid(child, &status, 0) == child);
	if (!WIFEXITED(status)) {
		fprintf(stderr, "%s, call %d\n", step->name, at);
		abort();
	}
	return WEXITSTATUS(status);
}

int main(void)
{
	for (size_t i = 0; i < sizeof(steps) / sizeof(*steps); i++) {
		int n = forked(&steps[i], 0);
		printf("%s: %d calls\n", steps[i].name, n);
		CHECK(n > 0);
		for (int at = 1; at <= n; at++)
			forked(&steps[i], at);
	}
	return 0;
}
