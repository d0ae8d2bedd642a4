/* SPDX-License-Identifier: Apache-2.0
 *
 * main.c - the native benchmark: takes one sample for each line that it reads (../core.py).
 *
 * First it prints the number of cores, the cycles of the time-stamp counter in a nanosecond (0 if
 * there is none), and the compiler. A request is CONTESTANT WORK PLACE PRODUCERS CONSUMERS BULK
 * HELD SINGLE, in numbers of bench.h. The answer is OUTCOME SHARE FAULTS, the page faults of all
 * workers in the windows of time, then NS DONE for each window: its length, and the elements that
 * passed.
 *
 * It handles no signal: the kernel kills the workers when it ends (PR_SET_PDEATHSIG).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"

#define MEMORY_BYTES (64u << 20)
#define START_SECONDS 5.0 /* for all workers to be running */
#define STOP_SECONDS 2.0  /* for all workers to exit; then SIGKILL */
#define POLL_SECONDS 0.0005
#define CYCLES_SECONDS 0.02
#define STAGGER (6 * CACHE_LINE)
#define WINDOWS 5

static const struct bench_contestant *const contestants[] = {
	&queue_ours,  &queue_ours_owner, &queue_ours_multi, &queue_tailwait, &queue_rte,
	&queue_ck,    &queue_bbq,        &line_latency,     &pool_ours,      &pool_original,
	&pool_rte,    &pool_rte_owner,   &pool_malloc,      &pool_mimalloc,  &pool_jemalloc,
	&touch_plain, &touch_populated,  &touch_huge,
};

static struct bench_run *shared;
static int core[2];
static int cores;
/* By place. An oversubscribed window has many time slices for each of the eight workers of a
 * core. Several windows: short disturbances drop out. */
static const double warm_seconds[3] = { 0.002, 0.002, 0.05 };
/* Then until no page was new for a worker in WARM_STEP, which would measure the kernel. */
#define WARM_STEP 0.002
#define WARM_SECONDS 0.5 /* at most: malloc() may give pages back all the time */
static const double window_seconds[3] = { 0.002, 0.002, 0.25 };
static const int windows[3] = { WINDOWS, WINDOWS, 1 };

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
		return -1;
	real_time = own.sched_priority;
	own.sched_priority++;
	return sched_setscheduler(0, policy, &own);
}

static void worker_priority(enum bench_place place)
{
	struct sched_param own = { .sched_priority = place == OVERSUBSCRIBED ? 0 : real_time };
	if (real_time &&
	    sched_setscheduler(0, place == OVERSUBSCRIBED ? SCHED_OTHER : SCHED_FIFO, &own))
		_exit(1);
}

/* Finds the cores and maps the memory. Returns 0, or -1 with errno set. */
static int set_up(void)
{
	cpu_set_t set;
	if (harness_priority() || sched_getaffinity(0, sizeof(set), &set))
		return -1;
	for (int i = 0; i < CPU_SETSIZE && cores < 2; i++)
		if (CPU_ISSET(i, &set))
			core[cores++] = i;
	shared = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	return shared == MAP_FAILED ? -1 : 0;
}

void *bench_memory(struct bench_run *run, size_t bytes)
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

static void sleep_until(double then)
{
	struct timespec t = { (time_t)then, (long)((then - (double)(time_t)then) * 1e9) };
	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
		;
}

static double cycles_per_ns(void)
{
#if defined(__x86_64__)
	double began = seconds(CLOCK_MONOTONIC), now;
	uint64_t from = __builtin_ia32_rdtsc();
	do {
		now = seconds(CLOCK_MONOTONIC);
	} while (now - began < CYCLES_SECONDS);
	return (double)(__builtin_ia32_rdtsc() - from) / ((now - began) * 1e9);
#else
	return 0;
#endif
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

/* Returns the page faults of the processes so far. */
static uint64_t read_faults(const pid_t *pid, uint32_t processes)
{
	uint64_t sum = 0;
	for (uint32_t i = 0; i < processes; i++) {
		char path[32], text[512];
		unsigned long faults;
		snprintf(path, sizeof(path), "/proc/%d/stat", pid[i]);
		FILE *file = fopen(path, "r");
		if (!file)
			continue;
		text[fread(text, 1, sizeof(text) - 1, file)] = 0;
		fclose(file);
		const char *name = strrchr(text, ')'); /* then: state and six numbers */
		if (name && sscanf(name + 1, " %*c %*d %*d %*d %*d %*d %*u %lu", &faults) == 1)
			sum += faults;
	}
	return sum;
}

static uint64_t elements_done(void)
{
	uint64_t done = 0;
	for (uint32_t i = 0; i < shared->cell->producers + shared->cell->consumers; i++)
		done += load_relaxed(&shared->worker[i].done);
	return done;
}

/* Waits until the workers have used all their pages once: they go on, and fault no more. */
static void warm_up(const pid_t *pid, uint32_t processes, enum bench_place place)
{
	uint64_t before, done, faults = read_faults(pid, processes);
	double now = seconds(CLOCK_MONOTONIC), end = now + WARM_SECONDS;
	sleep_until(now + warm_seconds[place]);
	do {
		before = faults;
		done = elements_done();
		sleep_until(seconds(CLOCK_MONOTONIC) + WARM_STEP);
		faults = read_faults(pid, processes);
	} while ((faults != before || elements_done() == done) && seconds(CLOCK_MONOTONIC) < end);
}

struct reading {
	double wall, cpu; /* seconds; cpu: of the worker, or average of threads, with the least */
	uint64_t done;
};

static struct reading read_now(const pid_t *pid, uint32_t processes)
{
	uint32_t n = shared->cell->producers + shared->cell->consumers;
	struct reading r = { .wall = seconds(CLOCK_MONOTONIC) };
	for (uint32_t i = 0; i < processes; i++) {
		clockid_t clock;
		double cpu =
			clock_getcpuclockid(pid[i], &clock) ? 0 : seconds(clock) * processes / n;
		r.cpu = i == 0 || cpu < r.cpu ? cpu : r.cpu;
	}
	r.done = elements_done();
	return r;
}

/* Waits for the workers and kills those that are too slow. Returns the worst outcome. */
static const char *reap(pid_t *pid, uint32_t n, double limit)
{
	const char *outcome = "ok";
	double end = seconds(CLOCK_MONOTONIC) + limit;
	for (uint32_t left = n; left;) {
		bool late = seconds(CLOCK_MONOTONIC) >= end;
		for (uint32_t i = 0; i < n; i++) {
			int status;
			if (!pid[i])
				continue;
			if (late && !kill(pid[i], SIGKILL) && !strcmp(outcome, "ok"))
				outcome = "stuck";
			if (waitpid(pid[i], &status, late ? 0 : WNOHANG) == 0)
				continue;
			if (!late && (!WIFEXITED(status) || WEXITSTATUS(status)))
				outcome = "failed";
			pid[i] = 0;
			left--;
		}
		sleep_until(seconds(CLOCK_MONOTONIC) + (left ? POLL_SECONDS : 0));
	}
	return outcome;
}

/* Takes a sample and prints it. The share is that of its core which the least of the workers got.
 */
static void sample(const struct bench_cell *cell, const struct bench_contestant *contestant)
{
	uint32_t n = cell->producers + cell->consumers, processes = n, started = 0;
	pid_t pid[BENCH_WORKERS_MAX] = { 0 }, self = getpid();
	struct reading at[WINDOWS + 1] = { 0 };
	int measured = 0;
	uint64_t faults = 0;

	*shared = (struct bench_run) { .cell = cell, .used = sizeof(*shared) };
	if (contestant->create(shared)) {
		puts("failed 0 0");
		return;
	}
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
	while (started == processes && load_acquire(&shared->ready) < n &&
	       seconds(CLOCK_MONOTONIC) < deadline)
		sleep_until(seconds(CLOCK_MONOTONIC) + POLL_SECONDS);
	bool go = load_acquire(&shared->ready) == n;
	if (go) {
		store_release(&shared->go, 1u);
		if (cell->work != WORK_TOUCH && cell->work != WORK_NEW)
			warm_up(pid, processes, cell->place);
		faults = read_faults(pid, processes);
		for (at[0] = read_now(pid, processes); measured < windows[cell->place];) {
			sleep_until(at[measured].wall + window_seconds[cell->place]);
			at[++measured] = read_now(pid, processes);
		}
		faults = read_faults(pid, processes) - faults;
	}
	store_release(&shared->stop, 1u);
	const char *outcome = reap(pid, started, go ? STOP_SECONDS : 0);
	if (!go || load_relaxed(&shared->failed))
		outcome = "failed";
	double wall = at[measured].wall - at[0].wall;
	printf("%s %.3f %llu", outcome, go ? (at[measured].cpu - at[0].cpu) / wall : 0,
	       (unsigned long long)faults);
	for (int i = 0; i < measured; i++)
		printf(" %.0f %llu", (at[i + 1].wall - at[i].wall) * 1e9,
		       (unsigned long long)(at[i + 1].done - at[i].done));
	putchar('\n');
}

int main(void)
{
	char name[32];
	struct bench_cell c;
	if (set_up()) {
		perror("bench");
		return 1;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("%d %.4f %s\n", cores, cycles_per_ns(), __VERSION__);
	while (scanf("%31s %u %u %u %u %u %u %d", name, &c.work, &c.place, &c.producers,
		     &c.consumers, &c.bulk, &c.held, &c.single) == 8) {
		const struct bench_contestant *contestant = NULL;
		for (size_t i = 0; i < sizeof(contestants) / sizeof(contestants[0]); i++)
			if (!strcmp(contestants[i]->name, name))
				contestant = contestants[i];
		if (contestant && contestant->create)
			sample(&c, contestant);
		else
			puts("skipped 0 0");
	}
	return 0;
}
