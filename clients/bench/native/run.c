/* SPDX-License-Identifier: Apache-2.0
 *
 * run.c - one sample: starts the workers, measures a window of time, stops the workers, and kills
 * those that do not stop.
 *
 * Signals are blocked and read with sigtimedwait(), so that Ctrl-C ends every sleep and no handler
 * is needed. The kernel kills the workers when the harness ends (PR_SET_PDEATHSIG).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "run.h"

#define MEMORY_BYTES (64u << 20)
#define START_SECONDS 5.0 /* for all workers to be running */
#define STOP_SECONDS 2.0  /* for all workers to exit; then SIGKILL */
#define STAGGER (6 * CACHE_LINE)
#define TRIES 4 /* for an undisturbed sample */
/* The share of its core that a pinned worker must get; as exact as the scheduler's tick. */
#define SHARE_MIN 0.75
/* A sample on one or two cores is the median of these: short disturbances drop out. */
#define WINDOWS 5

static struct bench_run *shared;
static int core[2];
static int cores;
/* By place. An oversubscribed window has many time slices for each of the eight workers of a
 * core. */
static const double warm_seconds[3] = { 0.002, 0.002, 0.05 };
static const double window_seconds[3] = { 0.002, 0.002, 0.25 };
static const int windows[3] = { WINDOWS, WINDOWS, 1 };
static sigset_t signals;

/* The workers' real-time priority, 0 for none. Workers keep both cores busy, so a harness of the
 * same priority would never run: it takes the next higher one. Oversubscribed workers run without,
 * because they need time slices. */
static int real_time;

static int harness_priority(void)
{
	struct sched_param own;
	int policy = sched_getscheduler(0);
	if (policy != SCHED_FIFO && policy != SCHED_RR)
		return 0;
	if (sched_getparam(0, &own))
		return -errno;
	real_time = own.sched_priority;
	own.sched_priority++;
	return sched_setscheduler(0, policy, &own) ? -errno : 0;
}

static void worker_priority(enum bench_place place)
{
	struct sched_param own = { .sched_priority = place == OVERSUBSCRIBED ? 0 : real_time };
	if (real_time &&
	    sched_setscheduler(0, place == OVERSUBSCRIBED ? SCHED_OTHER : SCHED_FIFO, &own))
		_exit(1);
}

int run_init(void)
{
	int error = harness_priority();
	if (error)
		return error;
	cpu_set_t set;
	if (sched_getaffinity(0, sizeof(set), &set))
		return -errno;
	for (int i = 0; i < CPU_SETSIZE && cores < 2; i++)
		if (CPU_ISSET(i, &set))
			core[cores++] = i;
	shared = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (shared == MAP_FAILED)
		return -errno;
	sigemptyset(&signals);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGCHLD);
	sigprocmask(SIG_BLOCK, &signals, NULL);
	return cores;
}

void *run_memory(struct bench_run *run, size_t bytes)
{
	/* Blocks must not begin at the same offset of a page: the processor would take a later load
	 * from one block to depend on a store to another (4K aliasing). */
	run->used += STAGGER;
	void *at = (char *)run + run->used;
	run->used += (bytes + 2 * CACHE_LINE - 1) / (2 * CACHE_LINE) * (2 * CACHE_LINE);
	if (run->used > MEMORY_BYTES) {
		fprintf(stderr, "bench: a cell needs more than %u bytes\n", MEMORY_BYTES);
		exit(1);
	}
	return memset(at, 0, bytes);
}

static double seconds(clockid_t clock)
{
	struct timespec t;
	if (clock_gettime(clock, &t))
		return 0;
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Sleeps until then; if child_may_end, at most until a child ends. True after Ctrl-C. */
static bool sleep_until(double then, bool child_may_end)
{
	for (double left; (left = then - seconds(CLOCK_MONOTONIC)) > 0;) {
		struct timespec t = { (time_t)left, (long)((left - (double)(time_t)left) * 1e9) };
		int signal = sigtimedwait(&signals, NULL, &t);
		if (signal == SIGINT || signal == SIGTERM)
			return true;
		if (signal == SIGCHLD && child_may_end)
			return false;
	}
	return false;
}

static void pin(int cpu)
{
	cpu_set_t set;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	sched_setaffinity(0, sizeof(set), &set);
}

/* The core of worker i. They alternate; each core gets as many producers, and as many consumers, as
 * the other. */
static int core_of(const struct bench_cell *cell, uint32_t i)
{
	if (cell->place == ONE_CORE)
		return core[0];
	if (cell->producers + cell->consumers <= 2)
		return core[i & 1];
	return core[(i < cell->producers ? i : i - cell->producers) & 1];
}

struct worker {
	const struct bench_contestant *contestant;
	uint32_t me;
};

static void *worker(void *argument)
{
	const struct worker *w = argument;
	pin(core_of(shared->cell, w->me));
	add_seq_cst(&shared->ready, 1u);
	while (!load_acquire(&shared->go))
		sched_yield();
	w->contestant->work(shared, w->me);
	return NULL;
}

/* A forked process: runs n workers from number first on; all but the first are threads. */
static _Noreturn void process(const struct bench_contestant *contestant, uint32_t first, uint32_t n,
			      pid_t parent)
{
	struct worker w[BENCH_WORKERS_MAX];
	pthread_t thread[BENCH_WORKERS_MAX];
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	sigprocmask(SIG_UNBLOCK, &signals, NULL);
	if (getppid() != parent)
		_exit(1);
	worker_priority(shared->cell->place);
	for (uint32_t i = 0; i < n; i++)
		w[i] = (struct worker) { contestant, first + i };
	for (uint32_t i = 1; i < n; i++)
		if (pthread_create(&thread[i], NULL, worker, &w[i]))
			_exit(1);
	worker(&w[0]);
	for (uint32_t i = 1; i < n; i++)
		pthread_join(thread[i], NULL);
	_exit(0);
}

struct reading {
	double wall, cpu; /* seconds; cpu: of the worker, or average of threads, with the least */
	uint64_t done;
};

static struct reading read_now(const pid_t *pid)
{
	uint32_t n = shared->cell->producers + shared->cell->consumers, processes = 0;
	struct reading r = { .wall = seconds(CLOCK_MONOTONIC) };
	while (processes < n && pid[processes])
		processes++;
	for (uint32_t i = 0; i < processes; i++) {
		clockid_t clock;
		double cpu =
			clock_getcpuclockid(pid[i], &clock) ? 0 : seconds(clock) * processes / n;
		r.cpu = i == 0 || cpu < r.cpu ? cpu : r.cpu;
	}
	for (uint32_t i = 0; i < n; i++)
		r.done += load_relaxed(&shared->worker[i].done);
	return r;
}

static struct run_sample judge(struct reading from, struct reading to)
{
	double ns = (to.wall - from.wall) * 1e9;
	uint64_t done = to.done - from.done;
	return (struct run_sample) { .outcome = done ? RUN_OK : RUN_SLOWER,
				     .ns = ns / (double)(done ? done : 1) };
}

static int by_time(const void *a, const void *b)
{
	const struct run_sample *x = a, *y = b;
	return (x->ns > y->ns) - (x->ns < y->ns);
}

/* Measures running workers. */
static struct run_sample watch(const struct bench_cell *cell, const pid_t *pid)
{
	struct run_sample sample[WINDOWS];
	enum bench_place place = cell->place;
	bool interrupted = sleep_until(seconds(CLOCK_MONOTONIC) + warm_seconds[place], false);
	struct reading first = read_now(pid), from = first, to = first;
	for (int i = 0; i < windows[place] && !interrupted; i++, from = to) {
		interrupted = sleep_until(from.wall + window_seconds[place], false);
		to = read_now(pid);
		sample[i] = judge(from, to);
	}
	if (interrupted)
		return (struct run_sample) { .outcome = RUN_INTERRUPTED };
	qsort(sample, (size_t)windows[place], sizeof(sample[0]), by_time);
	struct run_sample *median = &sample[windows[place] / 2];
	median->disturbed =
		place != OVERSUBSCRIBED && to.cpu - first.cpu < SHARE_MIN * (to.wall - first.wall);
	return *median;
}

/* Waits for the workers and kills those that are too slow. Returns the worst outcome. */
static enum run_outcome reap(pid_t *pid, uint32_t n, double limit)
{
	enum run_outcome outcome = RUN_OK;
	double end = seconds(CLOCK_MONOTONIC) + limit;
	for (uint32_t left = n; left;) {
		bool late = seconds(CLOCK_MONOTONIC) >= end;
		for (uint32_t i = 0; i < n; i++) {
			int status;
			if (!pid[i])
				continue;
			if (late) {
				kill(pid[i], SIGKILL);
				outcome = outcome == RUN_OK ? RUN_STUCK : outcome;
			}
			if (waitpid(pid[i], &status, late ? 0 : WNOHANG) == 0)
				continue;
			if (!late && (!WIFEXITED(status) || WEXITSTATUS(status)))
				outcome = RUN_FAILED;
			pid[i] = 0;
			left--;
		}
		if (left && sleep_until(end, true)) {
			outcome = RUN_INTERRUPTED;
			end = 0;
		}
	}
	return outcome;
}

static struct run_sample try_once(const struct bench_cell *cell,
				  const struct bench_contestant *contestant)
{
	struct run_sample sample = { .outcome = RUN_FAILED };
	uint32_t n = cell->producers + cell->consumers, processes = n, started = 0;
	pid_t pid[BENCH_WORKERS_MAX] = { 0 }, self = getpid();
	bool interrupted = false;

	*shared = (struct bench_run) { .cell = cell, .used = sizeof(*shared) };
	if (contestant->create(shared))
		return sample;
	if (contestant->threads && (cell->work == WORK_HAND_OVER || cell->work == WORK_PATH))
		processes = 1;
	for (; started < processes; started++) {
		pid[started] = fork();
		if (pid[started] == 0)
			process(contestant, started, n / processes, self);
		if (pid[started] < 0)
			break;
	}
	double deadline = seconds(CLOCK_MONOTONIC) + START_SECONDS;
	while (started == processes && load_acquire(&shared->ready) < n && !interrupted &&
	       seconds(CLOCK_MONOTONIC) < deadline)
		interrupted = sleep_until(seconds(CLOCK_MONOTONIC) + 0.0005, false);
	if (!interrupted && load_acquire(&shared->ready) == n) {
		store_release(&shared->go, 1u);
		sample = watch(cell, pid);
		interrupted = sample.outcome == RUN_INTERRUPTED;
	}
	store_release(&shared->stop, 1u);
	enum run_outcome end = reap(pid, started, shared->go && !interrupted ? STOP_SECONDS : 0);
	if (interrupted || end == RUN_INTERRUPTED)
		sample.outcome = RUN_INTERRUPTED;
	else if (load_relaxed(&shared->failed) || end == RUN_FAILED)
		sample.outcome = RUN_FAILED;
	else if (end == RUN_STUCK && sample.outcome != RUN_FAILED)
		sample.outcome = RUN_STUCK;
	return sample;
}

struct run_sample run_once(const struct bench_cell *cell, const struct bench_contestant *contestant)
{
	struct run_sample sample = try_once(cell, contestant);
	for (int i = 1; i < TRIES && sample.outcome == RUN_OK && sample.disturbed; i++)
		sample = try_once(cell, contestant);
	return sample;
}
