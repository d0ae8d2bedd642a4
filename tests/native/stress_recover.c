/* SPDX-License-Identifier: Apache-2.0
 *
 * stress_recover.c - processes are killed in the middle of what they do with a pool. Two threads
 * recover them at the same time, while other threads of the same process work with the pool. A
 * sanitizer checks how recovery and the working threads interact.
 *
 * Usage: stress_recover KILLS
 */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "audit.h"
#include "life.h"
#include "member.h"
#include "memfd_pool.h"
#include "opening.h"
#include "queue.h"
#include "recover.h"
#include "wait.h"

#define CAPACITY 256
#define BULK 8
#define WORKERS 2
#define QUEUES 2

static uint32_t pool_number, stop, recovered;
static uint64_t passed;

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

/* Does everything once: allocates, puts, gets, puts again, frees. */
static void work(struct member *m, uint32_t turn)
{
	const struct alf_ring *from = queue_ring(pool(), 1 + turn % QUEUES);
	const struct alf_ring *to = queue_ring(pool(), 1 + (turn + 1) % QUEUES);
	uint64_t handle[BULK];
	uint32_t n = 1 + turn % BULK;
	if (qmempool_alloc_bulk(pool(), m, handle, n) == 0 && queue_put(pool(), m, from, handle, n))
		EQUAL(0, qmempool_free_bulk(pool(), m, handle, n));
	int got = queue_get(pool(), m, from, handle, BULK);
	if (got > 0 && (turn & 4 || queue_put(pool(), m, to, handle, (uint32_t)got)))
		EQUAL(0, qmempool_free_bulk(pool(), m, handle, (uint32_t)got));
	if (got > 0)
		add_relaxed(&passed, (uint32_t)got);
}

static void *survive(void *unused)
{
	struct member *m = self();
	for (uint32_t turn = 0; !load_relaxed(&stop); turn++) {
		work(m, turn);
		if (turn % 64 == 0)
			sched_yield();
	}
	return unused;
}

static void *recover_them(void *unused)
{
	struct member *m = self();
	while (!load_relaxed(&stop)) {
		struct shmpool_recovery done;
		EQUAL(0, recover(pool(), m, &done));
		add_relaxed(&recovered, (uint32_t)done.members);
		sched_yield();
	}
	return unused;
}

/* Forks a process that works until it is killed. It is forked before there are threads, as
 * sanitizers require, and begins when the parent starts it. */
static pid_t mortal(int *tell)
{
	int ends[2];
	CHECK(pipe(ends) == 0);
	life_open();
	pid_t parent = getpid(), pid = fork();
	CHECK(pid >= 0);
	if (pid) {
		close(ends[0]);
		*tell = ends[1];
		return pid;
	}
	char go;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent || read(ends[0], &go, 1) != 1)
		_exit(1);
	life_begin();
	struct member *m = self();
	for (uint32_t turn = 0;; turn++)
		work(m, turn);
}

static uint64_t held_by_anybody(struct shmpool_audit *audit)
{
	struct shmpool_held held[CAPACITY];
	uint64_t queued[QUEUES + 1], sum = 0;
	EQUAL(0, audit_count(pool(), audit, held, CAPACITY, queued, QUEUES + 1));
	for (int i = 0; i < CAPACITY; i++)
		sum += held[i].buffers;
	return sum;
}

int main(int argc, char **argv)
{
	uint32_t kills = argc > 1 ? (uint32_t)atoi(argv[1]) : 50;
	pool_number = memfd_pool(&(struct shmpool_geometry) { .buffer_size = 64,
							      .capacity = CAPACITY,
							      .prealloc = CAPACITY / 2,
							      .cache_size = 32,
							      .bulk = 16,
							      .refill_multiplier = 1,
							      .members = 250,
							      .queues = QUEUES });
	const struct queue_on_death on_death[QUEUES] = { { .what = ON_DEATH_FREE },
							 { .what = ON_DEATH_REQUEUE } };
	for (int i = 0; i < QUEUES; i++)
		EQUAL(i + 1,
		      queue_create(pool(), self(), i ? "second" : "first", 32, 0, &on_death[i]));
	pid_t *pid = calloc(kills, sizeof(*pid));
	int *tell = calloc(kills, sizeof(*tell));
	pthread_t thread[WORKERS + 2];
	for (uint32_t i = 0; i < kills; i++)
		pid[i] = mortal(&tell[i]);
	for (int i = 0; i < WORKERS + 2; i++)
		CHECK(!pthread_create(&thread[i], NULL, i < WORKERS ? survive : recover_them,
				      NULL));
	for (uint32_t i = 0; i < kills; i++) {
		CHECK(write(tell[i], "", 1) == 1);
		usleep(500 + (i * 7919) % 4000);
		kill(pid[i], SIGKILL);
		CHECK(waitpid(pid[i], NULL, 0) == pid[i]);
		close(tell[i]);
		life_await(pid[i]);
	}
	store_relaxed(&stop, 1);
	for (int i = 0; i < WORKERS + 2; i++)
		pthread_join(thread[i], NULL);
	/* Makes room for what recovery could not put back. */
	uint64_t handle[64];
	for (uint32_t i = 1; i <= QUEUES; i++)
		for (int n; (n = queue_get(pool(), self(), queue_ring(pool(), i), handle, 64)) > 0;)
			EQUAL(0, qmempool_free_bulk(pool(), self(), handle, (uint32_t)n));
	struct shmpool_recovery done;
	EQUAL(0, recover(pool(), self(), &done));
	EQUAL(0, done.postponed);
	for (uint32_t i = 1; i <= QUEUES; i++)
		for (int n; (n = queue_get(pool(), self(), queue_ring(pool(), i), handle, 64)) > 0;)
			EQUAL(0, qmempool_free_bulk(pool(), self(), handle, (uint32_t)n));
	struct shmpool_audit audit;
	EQUAL(0, held_by_anybody(&audit));
	EQUAL(0, audit.unaccounted);
	EQUAL(0, audit.doubled);
	EQUAL(audit.total, audit.free + audit.cached);
	printf("%u kills, %u recovered, %llu buffers passed\n", kills, recovered,
	       (unsigned long long)passed);
	EQUAL(0, opening_close(pool_number));
	free(pid);
	free(tell);
	return 0;
}
