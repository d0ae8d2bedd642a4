/* SPDX-License-Identifier: Apache-2.0
 *
 * held_up.c - how long does a reader that blocks, and is killed, hold a topic's writer up?
 *
 * The reader subscribes to a topic that is full, gets two messages, lets them go and leaves. It is
 * run up to each instruction of this (kill_trace.h), and stays there until the writer, another
 * process, has published two rings of messages or is asleep because the topic has no room. Then
 * the reader is killed.
 *
 *     held up        from kill(2) to the writer's next success, which includes the time that the
 *                    kernel takes to end the reader's memory
 *     sleeps         that the writer begins when the kernel already knows that the reader is dead,
 *                    before it publishes: one at most, since it asks after each. That does not
 *                    depend on the machine; a sleep lasts 20 ms at most.
 *
 * Usage: held_up [--most N]    N instructions, spread evenly; default: all
 * Exit status: 0; 1 if the writer began a second sleep, was not woken, or failed; 77 if ptrace(2)
 * is not permitted.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>

#include "blocking.h"
#include "check.h"
#include "kill_trace.h"
#include "life.h"
#include "member.h"
#include "queue.h"
#include "recover.h"
#include "slab.h"
#include "token.h"
#include "topic.h"

#define DEPTH 4u
#define GETS 2u
#define BATCH (2 * DEPTH)
#define SLEEPS_MOST 1
#define SLEEPS_BEFORE 4 /* the first ones are shorter */
#define HANG_NS 30000000000ll
#define SKIPPED 77

struct success {
	int64_t at_ns;
	int64_t queued_ns; /* for which the writer has waited for a processor */
	uint64_t sleeps;   /* that the writer had begun by then */
	int error;
};

/* Shared by the processes. */
static struct {
	uint32_t orders, done; /* batches of the writer */
	struct success success[BATCH];
	struct member *writer;
	uint64_t reader; /* token */
} *shared;

static struct qmempool pool;
static const struct alf_ring *ring;
static struct token token;
static struct trace trace;

static struct member *attach(void)
{
	struct member *m = NULL;
	EQUAL(0, token_take(&pool.segment, &token));
	EQUAL(0, member_attach(&pool.segment, token.number, &m));
	return m;
}

static void make_pool(void)
{
	struct shmpool_geometry g = { .buffer_size = 64,
				      .capacity = 64,
				      .prealloc = 64,
				      .cache_size = 16,
				      .bulk = 16,
				      .refill_multiplier = 2,
				      .members = 8,
				      .queues = 1 };
	struct segment s;
	struct shmpool_refusal why;
	EQUAL(0, segment_plan(&s, &g, &why));
	const int fd = memfd_create("held_up", MFD_CLOEXEC);
	CHECK(fd >= 0 && ftruncate(fd, (off_t)g.size) == 0);
	char *base = mmap(NULL, g.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(base != MAP_FAILED);
	EQUAL(0, segment_init(&s, base, fd));
	EQUAL(0, slab_create(&s));
	segment_ready(&s);
	s.writes = true;
	EQUAL(0, pool_bind(&pool, &s));
}

/* Returns how long a process has waited for a processor; 0 if the kernel does not say. */
static int64_t queued(pid_t pid)
{
	char path[40];
	long long ran, waited = 0;
	snprintf(path, sizeof(path), "/proc/%d/schedstat", (int)pid);
	FILE *file = fopen(path, "re");
	if (file) {
		if (fscanf(file, "%lld %lld", &ran, &waited) != 2)
			waited = 0;
		fclose(file);
	}
	return waited;
}

static void publish(struct member *m, struct success *out)
{
	uint64_t handle;
	EQUAL(0, blocking_alloc(&pool, m, &handle, 1, WAIT_NEVER));
	out->error = blocking_publish(&pool, m, ring, &handle, 1, wait_now() + HANG_NS);
	out->sleeps = member_counted(m, COUNT_SLEEP);
	out->at_ns = wait_now();
	out->queued_ns = queued(getpid());
}

static void write_batches(void)
{
	shared->writer = attach();
	for (uint32_t n = 0;; n++) {
		store_release(&shared->done, n);           /* pairs with await() */
		while (load_acquire(&shared->orders) == n) /* pairs with order_batch() */
			sched_yield();
		for (uint32_t i = 0; i < BATCH; i++)
			publish(shared->writer, &shared->success[i]);
	}
}

static void read_some(void)
{
	struct subscriber s;
	uint64_t handle[GETS], position[GETS];
	struct member *m = attach();
	shared->reader = token.number;
	trace_begins();
	int error = topic_subscribe(&pool, m, ring, TOPIC_BLOCK, TOPIC_OLDEST, &s);
	int got = topic_get(&pool, m, &s, handle, position, GETS);
	topic_let_go(&pool, m, &s, handle, GETS);
	topic_unsubscribe(&pool, m, &s);
	trace_ends();
	EQUAL(0, error);
	EQUAL(GETS, got);
	member_release(&pool.segment, m);
}

static void failed(const char *what)
{
	fprintf(stderr, "held_up: %s\n", what);
	exit(1);
}

static bool is_done(void)
{
	return load_acquire(&shared->done) == load_relaxed(&shared->orders);
}

/* Lets the writer publish a batch. Returns true if it sleeps because a reader holds it up. */
static bool order_batch(void)
{
	const uint64_t sleeps = member_counted(shared->writer, COUNT_SLEEP);
	store_release(&shared->orders, shared->orders + 1); /* pairs with write_batches() */
	while (!is_done())
		if (member_counted(shared->writer, COUNT_SLEEP) >= sleeps + SLEEPS_BEFORE)
			return true;
	return false;
}

struct figures {
	uint32_t points, elsewhere, blocked;
	uint64_t sleeps;
	int64_t *held_ns, *known_ns; /* since the kill; since the kernel knew, without queued() */
};

static int by_value(const void *a, const void *b)
{
	const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
	return (x > y) - (x < y);
}

static void print(const char *what, int64_t *ns, uint32_t n)
{
	qsort(ns, n, sizeof(*ns), by_value);
	printf("%s: %.1f ms in the median, %.1f ms at 99 %%, %.1f ms at most\n", what,
	       (double)ns[n / 2] / 1e6, (double)ns[n - 1 - n / 100] / 1e6, (double)ns[n - 1] / 1e6);
}

static int kill_at(struct member *m, pid_t writer, uint32_t k, struct figures *f)
{
	struct shmpool_recovery out;
	const pid_t pid = trace_fork(read_some);
	f->points++;
	f->elsewhere += !trace_reach(pid, &trace, k);
	const bool blocked = order_batch();
	const int64_t killed = wait_now();
	kill(pid, SIGKILL);
	while (token_state(&pool.segment, shared->reader, token.number) != TOKEN_FREE)
		sched_yield();
	const int64_t known = wait_now(), queue = queued(writer);
	const uint64_t before = member_counted(shared->writer, COUNT_SLEEP);
	trace_kill(pid); /* waits for it */
	while (!is_done())
		sched_yield();
	for (uint32_t i = 0; i < BATCH; i++) {
		const struct success *s = &shared->success[i];
		EQUAL(0, s->error);
		if (!blocked || s->at_ns < killed)
			continue;
		const uint64_t sleeps = s->sleeps > before ? s->sleeps - before : 0;
		f->held_ns[f->blocked] = s->at_ns - killed;
		f->known_ns[f->blocked++] = s->at_ns - known - (s->queued_ns - queue);
		if (f->sleeps < sleeps)
			f->sleeps = sleeps;
		if (sleeps > SLEEPS_MOST) {
			fprintf(stderr, "held_up: killed at instruction %u: %llu sleeps\n", k,
				(unsigned long long)sleeps);
			return 1;
		}
		break;
	}
	EQUAL(0, recover(&pool, m, &out));
	for (uint32_t i = 0; i < SUBSCRIBERS_MAX; i++)
		EQUAL(0, topic_of(ring)->subscriber[i].state);
	return 0;
}

int main(int argc, char **argv)
{
	const uint32_t most = argc == 3 && !strcmp(argv[1], "--most") ?
				      (uint32_t)strtoul(argv[2], NULL, 10) :
				      UINT32_MAX;
	const struct queue_on_death free_them = { 0 };
	struct figures f = { 0 };
	int wrong = 0;
	trace_failed = failed;
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		      0);
	CHECK(shared != MAP_FAILED);
	make_pool();
	struct member *m = attach();
	CHECK(queue_create(&pool, m, "topic", DEPTH, ALF_TOPIC, &free_them) == 1);
	ring = queue_ring(&pool, 1);
	for (uint32_t i = 0; i < DEPTH; i++)
		publish(m, &shared->success[0]);
	pid_t pid = trace_fork(read_some);
	if (pid < 0) {
		puts("ptrace(2) is not permitted here");
		return SKIPPED;
	}
	trace_record(pid, &trace);
	trace_finish(pid);
	f.held_ns = calloc(trace.n, sizeof(*f.held_ns));
	f.known_ns = calloc(trace.n, sizeof(*f.known_ns));
	CHECK(f.held_ns && f.known_ns);
	const pid_t parent = getpid(), writer = fork();
	CHECK(writer >= 0);
	if (!writer) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() == parent)
			write_batches();
		_exit(1);
	}
	while (!load_acquire(&shared->writer)) /* pairs with write_batches() */
		sched_yield();
	const uint32_t every = most < trace.n ? (trace.n + most - 1) / most : 1;
	for (uint32_t k = 0; k < trace.n && !wrong; k += every)
		wrong = kill_at(m, writer, k, &f);
	kill(writer, SIGKILL);
	printf("%u instructions, killed at %u, of which %u were on another path\n", trace.n,
	       f.points, f.elsewhere);
	printf("%u held the writer up; it began %llu sleeps at most when the kernel knew\n",
	       f.blocked, (unsigned long long)f.sleeps);
	if (f.blocked) {
		print("since the kill", f.held_ns, f.blocked);
		print("since the kernel knew, without waiting for a processor", f.known_ns,
		      f.blocked);
	}
	return wrong || !f.blocked || f.blocked == f.points;
}
