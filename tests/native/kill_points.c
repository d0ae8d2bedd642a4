/* SPDX-License-Identifier: Apache-2.0
 *
 * kill_points.c - kills a member before instruction 0, 1, 2, ... of every operation, and checks
 * that the survivors find everything in order (kill_scene.h).
 *
 * An operation is run once under PTRACE_SINGLESTEP, which lists its instructions. For each of them
 * a new child in a new pool is run up to that instruction. The audit must be exact there. Then the
 * child meets one of three ends:
 *
 *     kill  SIGKILL, then the survivors recover
 *     late  SIGKILL, then the survivors work for a while before they recover
 *     stop  it stays suspended, the survivors work, then it runs to the end of the operation
 *
 * Some operations have a companion: another member that is suspended at an instruction of an
 * operation of its own, a different one for each point. It continues after the
 * victim's end.
 *
 * With --pairs every operation gets a companion, and both are suspended at once in these ways:
 *
 *     behind  the victim stops at its point, then the companion at its own; the victim is killed,
 *             the survivors recover and work, and the companion, which is alive, runs to its end
 *     after   the victim is killed at its point before the companion goes to its own
 *     both    as behind, and then the companion is killed too
 *
 * Usage: kill_points [--every N] [--library N] [--most N] [--operation PATTERN] [--part I/N]
 *                    [--end kill|late|stop] [--pairs PATTERN] [--points N] [--seed N] [--jobs N]
 *                    [--classes 1|2] [--list]
 *     --every N      every Nth instruction of this program's own text; default 1
 *     --library N    every Nth instruction of shared libraries and the kernel's vdso; default 1
 *     --most N       about N points in each operation at most, spread evenly
 *     --part I/N     operations I, I + N, I + 2N, ... of the table
 *     --pairs PAT    pairs with the companions of that name: put, alloc, refill, free, give,
 *                    flush, recover
 *     --points N     points of the companion for each point of the victim, chosen by --seed; 0: all
 *     --classes N    size classes of the pool; with 2 of them the operations work in the second
 *                    one, and the first has no free buffer; default 1
 *     --jobs N       in N processes; default 1
 * Exit status: 0; 1 if anything failed; 77 if ptrace(2) is not permitted or the processor is not
 * x86-64.
 */
#include <fnmatch.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "check.h"
#include "kill_dead.h"
#include "kill_scene.h"
#include "kill_trace.h"
#include "kill_victim.h"

#define HANG_S 20 /* a kill point takes milliseconds */
#define SKIPPED 77
#define FAILURES_SHOWN 20
#define JOBS_MAX 64
#define COMPANION_STRIDE 17 /* instructions of the companion from point to point */

enum end { KILL, LATE, STOP, ENDS };
static const char *const end_names[] = { "kill", "late", "stop" };

enum way { BEHIND, AFTER, BOTH, WAYS };
static const char *const way_names[] = { "behind", "after", "both" };

static const struct companion {
	const char *name;
	int (*run)(struct scene *);
} companions[] = {
	{ "put", put_beside },         { "alloc", alloc_beside }, { "refill", refill_beside },
	{ "free", free_beside },       { "give", give_beside },   { "flush", flush_beside },
	{ "recover", recover_beside },
};
#define COMPANIONS (sizeof(companions) / sizeof(*companions))

static struct trace trace, beside;
static struct counted whole; /* what a complete operation counts */
static struct at {
	const struct operation *operation;
	uint32_t k;
	enum end end;
	int failed, alarms;
	/* The present point is one of a pair. */
	bool paired;
	uint32_t j;
	enum way way;
} at;
static uint32_t failures;

static void failed(const char *what)
{
	uint64_t address = at.k < trace.n ? trace.point[at.k].address : 0, distance;
	bool own = trace_own(address, &distance);
	char pair[40] = "";
	if (at.paired)
		snprintf(pair, sizeof(pair), " and %u of its companion", at.j);
	if (!at.failed++ && failures++ < FAILURES_SHOWN)
		fprintf(stderr, "%s, %s at instruction %u%s, %s%#llx: %s\n", at.operation->name,
			at.paired ? way_names[at.way] : end_names[at.end], at.k, pair,
			own ? "program+" : "library at ",
			(unsigned long long)(own ? distance : address), what);
}

/* A check that never ends is a failure too, unless this program itself was suspended in that
 * time. */
static void hangs(int signal)
{
	(void)signal;
	if (!at.alarms++) {
		alarm(HANG_S);
		return;
	}
	failed("the survivors hang");
	_exit(1);
}

static void victim(void)
{
	const struct operation *o = at.operation;
	if (!o->unattached)
		scene.v = scene_attach();
	if (o->prepare)
		o->prepare(&scene);
	trace_begins();
	scene.report->result = o->run(&scene);
	trace_ends();
	if (o->kind == GETS && scene.report->result > 0 && !scene.report->got) {
		for (int i = 0; i < scene.report->result; i++)
			scene.report->number[i] = *scene_message(scene.owned[i]);
		scene.report->got = (uint32_t)scene.report->result;
	}
}

static void companion(void)
{
	scene.v = scene_attach();
	scene_companion_prepare(&scene);
	trace_begins();
	at.operation->beside(&scene);
	trace_ends();
	scene_companion_leave(&scene);
}

static pid_t start(void (*child)(void))
{
	pid_t pid = trace_fork(child);
	if (pid < 0) {
		printf("ptrace is not allowed here\n");
		exit(SKIPPED);
	}
	return pid;
}

/* Creates a pool. Returns the companion's pid, 0 for none. */
static pid_t make(void)
{
	scene_make(at.operation);
	return at.operation->beside ? start(companion) : 0;
}

static void discard(pid_t pid, pid_t other)
{
	trace_kill(pid);
	if (other)
		trace_kill(other);
	scene_discard();
}

/* Lists the instructions of the operation. */
static void scout(void)
{
	pid_t other = make(), pid = start(victim);
	struct counted before;
	scene_count(&before);
	trace_record(pid, &trace);
	scene_count(&whole);
	for (int k = 0; k < COUNTERS; k++)
		whole.counter[k] -= before.counter[k];
	discard(pid, other);
	if (!other)
		return;
	pid = make();
	trace_record(pid, &beside);
	discard(pid, 0);
}

/* Returns true if the point was reached. */
static bool try_point(uint32_t k, enum end end)
{
	at.k = k;
	at.end = end;
	at.failed = at.alarms = 0;
	alarm(HANG_S);
	pid_t other = make();
	if (other)
		trace_reach(other, &beside, k * COMPANION_STRIDE % beside.n);
	pid_t pid = start(victim);
	struct counted before;
	scene_count(&before);
	bool reached = trace_reach(pid, &trace, k);
	if (!at.operation->unaudited)
		scene_audit();
	if (end == STOP) {
		scene_work();
		trace_finish(pid);
	} else {
		trace_kill(pid);
	}
	if (other) {
		scene_recover();
		trace_finish(other);
	}
	if (end == LATE)
		scene_work();
	scene_check(end == KILL);
	scene_check_counters(&before, end == STOP || other ? NULL : &whole);
	scene_discard();
	alarm(0);
	return reached;
}

/* The same for a pair. A companion that recovers needs a victim that was killed in the middle. */
static void scout_pair(bool recovers)
{
	pid_t other = make(), pid = start(victim);
	trace_record(pid, &trace);
	discard(pid, other);
	other = make();
	pid = start(victim);
	if (recovers) {
		trace_reach(pid, &trace, trace.n / 2);
		trace_kill(pid);
	}
	trace_record(other, &beside);
	discard(pid, other);
}

/* Returns true if both points were reached. */
static bool try_pair(uint32_t k, uint32_t j, enum way way)
{
	at.k = k;
	at.j = j;
	at.way = way;
	at.failed = at.alarms = 0;
	alarm(HANG_S);
	pid_t other = make(), pid = start(victim);
	struct counted before;
	scene_count(&before);
	bool reached = trace_reach(pid, &trace, k);
	if (way == AFTER)
		trace_kill(pid);
	reached &= trace_reach(other, &beside, j);
	if (!at.operation->unaudited)
		scene_audit();
	if (way != AFTER)
		trace_kill(pid);
	scene_recover();
	scene_work();
	if (way == BOTH) {
		trace_kill(other);
		scene.companion_died = 1;
	} else {
		trace_finish(other);
	}
	scene_check(0);
	scene_check_counters(&before, NULL);
	scene_discard();
	alarm(0);
	return reached;
}

struct choice {
	const char *pairs; /* fnmatch(3) pattern, NULL for none */
	uint32_t points, seed;
	uint32_t every, library, most;
	uint32_t part, parts;
	uint32_t jobs;
	const char *operation; /* fnmatch(3) pattern */
	int end;               /* ENDS for all */
};

/* What all jobs have done together, in shared memory. */
struct tally {
	/* Operations taken from the table, from its end, where the longest ones are. */
	uint32_t begun;
	uint32_t done, points, failures;
};

static uint32_t stride(uint32_t every, uint32_t n, uint32_t most)
{
	return n / most > every ? n / most : every;
}

static uint32_t sweep_operation(const struct choice *c)
{
	uint32_t points = 0, elsewhere = 0, own = 0, library = 0, before = failures;
	scout();
	/* First in full, then again: the first run leaves its traces in this program's heap, which
	 * children inherit. */
	for (enum end end = KILL; end < ENDS; end++)
		try_point(0, end);
	scout();
	uint32_t every = stride(c->every, trace.own, c->most);
	uint32_t each = stride(c->library, trace.n - trace.own, c->most);
	for (uint32_t k = 0; k < trace.n; k++) {
		uint64_t distance;
		bool taken = trace_own(trace.point[k].address, &distance) ? own++ % every == 0 :
									    library++ % each == 0;
		if (!taken && k + 1 != trace.n)
			continue;
		for (enum end end = KILL; end < ENDS; end++) {
			if (c->end != ENDS && (enum end)c->end != end)
				continue;
			points++;
			elsewhere += !try_point(k, end);
		}
	}
	printf("%-28s %7u instructions, %6u own, %7u kill points, %3u passed by, %3u failures\n",
	       at.operation->name, trace.n - 1, trace.own - 1, points, elsewhere,
	       failures - before);
	fflush(stdout);
	return points;
}

static uint32_t random_below(uint32_t n)
{
	static uint64_t state = 88172645463325252ull;
	if (!n) /* starts from the beginning */
		state = 88172645463325252ull + at.j;
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return n ? (uint32_t)(state >> 32) % n : 0;
}

static uint32_t sweep_pair(const struct choice *c, const struct companion *companion)
{
	struct operation paired = *at.operation;
	const struct operation *alone = at.operation;
	uint32_t points = 0, elsewhere = 0, own = 0, before = failures;
	paired.beside = companion->run;
	if (strlen(paired.name) + strlen(companion->name) + 2 < sizeof(paired.name))
		strcat(strcat(paired.name, "+"), companion->name);
	at.operation = &paired;
	at.paired = true;
	at.j = c->seed;
	random_below(0);
	scout_pair(companion->run == recover_beside);
	uint32_t every = stride(c->every, trace.own, c->most);
	for (uint32_t k = 0; k < trace.n; k++) {
		uint64_t distance;
		bool taken = trace_own(trace.point[k].address, &distance) && own++ % every == 0;
		if (!taken && k + 1 != trace.n)
			continue;
		uint32_t n = c->points ? c->points : beside.n;
		for (uint32_t i = 0; i < n * WAYS; i++) {
			uint32_t j = c->points ? random_below(beside.n) : i / WAYS;
			points++;
			elsewhere += !try_pair(k, j, i % WAYS);
		}
	}
	printf("%-36s %7u and %7u instructions, %7u pairs, %5u passed by, %3u failures\n",
	       paired.name, trace.n - 1, beside.n - 1, points, elsewhere, failures - before);
	fflush(stdout);
	at.operation = alone;
	return points;
}

/* Runs the pairs of operations that have no companion of their own. */
static uint32_t sweep_pairs(const struct choice *c)
{
	uint32_t points = 0;
	if (at.operation->beside || at.operation->before == dead_everywhere ||
	    at.operation->before == dead_chains_everywhere)
		return 0; /* it has a companion already, or there is no slot for one */
	for (size_t i = 0; i < COMPANIONS; i++)
		if (fnmatch(c->pairs, companions[i].name, 0) == 0)
			points += sweep_pair(c, &companions[i]);
	return points;
}

static void usage(void)
{
	fprintf(stderr, "usage: kill_points [--every N] [--library N] [--most N] "
			"[--operation PATTERN] [--part I/N] [--end kill|late|stop] "
			"[--pairs PATTERN] [--points N] [--seed N] [--jobs N] "
			"[--classes 1|2] [--list]\n");
	exit(2);
}

static void parse(struct choice *c, const char *option, const char *value)
{
	if (!strcmp(option, "--every"))
		c->every = (uint32_t)atoi(value);
	else if (!strcmp(option, "--library"))
		c->library = (uint32_t)atoi(value);
	else if (!strcmp(option, "--most"))
		c->most = (uint32_t)atoi(value);
	else if (!strcmp(option, "--pairs"))
		c->pairs = value;
	else if (!strcmp(option, "--points"))
		c->points = (uint32_t)atoi(value);
	else if (!strcmp(option, "--seed"))
		c->seed = (uint32_t)atoi(value);
	else if (!strcmp(option, "--jobs"))
		c->jobs = (uint32_t)atoi(value);
	else if (!strcmp(option, "--classes") && atoi(value) >= 1 && atoi(value) <= 2)
		scene_sizes = atoi(value) == 2;
	else if (!strcmp(option, "--operation"))
		c->operation = value;
	else if (!strcmp(option, "--part") && sscanf(value, "%u/%u", &c->part, &c->parts) == 2)
		;
	else if (!strcmp(option, "--end"))
		for (c->end = 0; c->end < ENDS && strcmp(end_names[c->end], value); c->end++)
			;
	else
		usage();
}

static bool chosen(const struct choice *c, const struct operation *table, uint32_t i)
{
	return i % c->parts == c->part && fnmatch(c->operation, table[i].name, 0) == 0;
}

static void *shared_memory(size_t size)
{
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(memory != MAP_FAILED);
	return memory;
}

/* Takes one operation after another until none is left. */
static void work(const struct choice *c, const struct operation *table, uint32_t n,
		 struct tally *tally)
{
	scene.report = shared_memory(sizeof(*scene.report));
	for (uint32_t i; (i = add_relaxed(&tally->begun, 1)) < n;) {
		at = (struct at) { .operation = &table[n - 1 - i] };
		if (!chosen(c, table, n - 1 - i))
			continue;
		uint32_t before = failures;
		add_relaxed(&tally->points, c->pairs ? sweep_pairs(c) : sweep_operation(c));
		add_relaxed(&tally->failures, failures - before);
		add_relaxed(&tally->done, 1);
	}
}

static void work_in_jobs(const struct choice *c, const struct operation *table, uint32_t n,
			 struct tally *tally)
{
	pid_t parent = getpid(), job[JOBS_MAX];
	int status;
	for (uint32_t i = 1; i < c->jobs; i++) {
		job[i] = fork();
		CHECK(job[i] >= 0);
		if (job[i])
			continue;
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(1);
		work(c, table, n, tally);
		_exit(0);
	}
	work(c, table, n, tally);
	for (uint32_t i = 1; i < c->jobs; i++) {
		CHECK(waitpid(job[i], &status, 0) == job[i]);
		if (status == SKIPPED << 8)
			exit(SKIPPED);
		tally->failures += status != 0;
	}
}

int main(int argc, char **argv)
{
	struct choice c = { .points = 1,
			    .every = 1,
			    .library = 1,
			    .most = UINT32_MAX,
			    .parts = 1,
			    .jobs = 1,
			    .operation = "*",
			    .end = ENDS };
	uint32_t n, listed = 0;
	bool list = argc == 2 && !strcmp(argv[1], "--list");
	for (int i = 1; i < argc && !list; i += 2)
		parse(&c, argv[i], i + 1 < argc ? argv[i + 1] : "");
	if (!c.every || !c.library || !c.most || !c.parts || !c.jobs || c.jobs >= JOBS_MAX)
		usage();
	scene_failed = trace_failed = failed;
	signal(SIGALRM, hangs);
	const struct operation *table = operations(&n);
	for (uint32_t i = 0; i < n; i++) {
		listed += chosen(&c, table, i);
		if (list)
			printf("%s\n", table[i].name);
	}
	if (!listed)
		usage();
	if (list)
		return 0;
	struct tally *tally = shared_memory(sizeof(*tally));
	work_in_jobs(&c, table, n, tally);
	printf("%u operations, %u kill points, %u failures\n", tally->done, tally->points,
	       tally->failures);
	return tally->failures != 0;
}
