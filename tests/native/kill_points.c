/* SPDX-License-Identifier: Apache-2.0
 *
 * kill_points.c - kills a member after instruction 0, 1, 2, ... of every operation, and demands that the
 * survivors find everything in order (kill_scene.h).
 *
 * An operation is run once under PTRACE_SINGLESTEP, which says what its instructions are. For each of
 * them a new child in a new pool is run up to it (a debug register counts how often its address is
 * passed: the same place as so many single steps, but much sooner; without debug registers it is single
 * steps again) and there, with the audit exact at that very moment, it meets one of three ends:
 *
 *     kill  SIGKILL, then the survivors recover
 *     late  SIGKILL, and the survivors go on working for a while before they recover
 *     stop  it is stopped, the survivors go on working, it continues to the end of the operation
 *
 * Usage: kill_points [--every N] [--library N] [--most N] [--operation PATTERN] [--part I/N]
 *                    [--end kill|late|stop] [--list]
 *     --every N      every Nth instruction of this program's own text, 1 if not given
 *     --library N    every Nth instruction of shared libraries and the kernel's vdso, 1 if not given
 *     --most N       of both about N in each operation at most, spread evenly
 *     --part I/N     the operations I, I + N, I + 2N, ... of the table
 * Exit status 0, 1 if anything failed, 77 if ptrace(2) is not allowed or this is no x86-64.
 */
#define _GNU_SOURCE
#include "kill_scene.h"

#include <fnmatch.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>

#include "check.h"

#define HANG_S 20 /* a kill point takes milliseconds */
#define SKIPPED 77
#define FAILURES_SHOWN 20

enum end { KILL, LATE, STOP, ENDS };
static const char *const end_names[] = { "kill", "late", "stop" };

/* An instruction of the operation: the pass-th time that the address comes up, and if it repeats
 * itself (rep), so many steps further. */
struct point {
	uint64_t address;
	uint32_t pass;
	uint32_t repeat;
};

static struct trace {
	struct point *point;
	uint32_t n, room;
	uint32_t own; /* in the program's own text */
} trace;

static struct at {
	const struct operation *operation;
	uint32_t k;
	enum end end;
	int failed;
} at;

static uint32_t failures;
extern const char __executable_start, etext;

__attribute__((noinline)) static void begins(void)
{
	__asm__ volatile("");
}

__attribute__((noinline)) static void ends(void)
{
	__asm__ volatile("" ::: "memory");
}

static bool own_text(uint64_t address)
{
	return address >= (uintptr_t)&__executable_start && address < (uintptr_t)&etext;
}

static void failed(const char *what)
{
	uint64_t address = at.k < trace.n ? trace.point[at.k].address : 0;
	if (!at.failed++ && failures++ < FAILURES_SHOWN)
		fprintf(stderr, "%s, %s at instruction %u, %s+%#llx: %s\n", at.operation->name,
			end_names[at.end], at.k, own_text(address) ? "program" : "library",
			(unsigned long long)(own_text(address) ?
						     address - (uintptr_t)&__executable_start :
						     address),
			what);
}

/* A check that never ends is a failure too. */
static void hangs(int signal)
{
	(void)signal;
	failed("the survivors hang");
	_exit(1);
}

#if defined(__x86_64__)

static uint64_t instruction(pid_t pid)
{
	return (uint64_t)ptrace(PTRACE_PEEKUSER, pid, offsetof(struct user_regs_struct, rip), 0);
}

static bool watch(pid_t pid, int which, uint64_t address)
{
	/* Register 7 enables: bit 2i for register i; type and length 0 are "when executed". */
	size_t control = offsetof(struct user, u_debugreg[7]);
	long enabled = ptrace(PTRACE_PEEKUSER, pid, control, 0);
	return ptrace(PTRACE_POKEUSER, pid, offsetof(struct user, u_debugreg[which]), address) ==
		       0 &&
	       ptrace(PTRACE_POKEUSER, pid, control, enabled | 1l << (2 * which)) == 0;
}

static void unwatch(pid_t pid)
{
	ptrace(PTRACE_POKEUSER, pid, offsetof(struct user, u_debugreg[7]), 0);
}

#else
#error "only x86-64: tests/test_kill_points.py skips others"
#endif

/* True if it has stopped, false if it has ended. */
static bool resume(pid_t pid, enum __ptrace_request how)
{
	int status;
	CHECK(ptrace(how, pid, 0, 0) == 0);
	CHECK(waitpid(pid, &status, 0) == pid);
	if (!WIFSTOPPED(status)) {
		if (!WIFEXITED(status) || WEXITSTATUS(status))
			failed("the victim fails");
		return false;
	}
	if (WSTOPSIG(status) != SIGTRAP)
		failed("the victim crashes");
	return WSTOPSIG(status) == SIGTRAP;
}

static void victim(pid_t parent)
{
	const struct operation *o = at.operation;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent || ptrace(PTRACE_TRACEME, 0, 0, 0))
		_exit(SKIPPED);
	if (!o->unattached)
		scene.v = scene_attach();
	if (o->prepare)
		o->prepare(&scene);
	raise(SIGSTOP);
	begins();
	scene.report->result = o->run(&scene);
	ends();
	if (o->kind == GETS && scene.report->result > 0 && !scene.report->got) {
		for (int i = 0; i < scene.report->result; i++)
			scene.report->number[i] = *scene_message(scene.hand[i]);
		scene.report->got = (uint32_t)scene.report->result;
	}
	_exit(0);
}

/* Makes a pool and a victim, stopped where the operation begins. */
static pid_t start(void)
{
	scene_make(at.operation);
	pid_t parent = getpid(), pid = fork();
	int status;
	CHECK(pid >= 0);
	if (pid == 0)
		victim(parent);
	CHECK(waitpid(pid, &status, 0) == pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == SKIPPED) {
		printf("ptrace is not allowed here\n");
		exit(SKIPPED);
	}
	CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
	CHECK(ptrace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_EXITKILL) == 0);
	if (watch(pid, 0, (uintptr_t)begins))
		CHECK(resume(pid, PTRACE_CONT));
	while (instruction(pid) != (uintptr_t)begins)
		CHECK(resume(pid, PTRACE_SINGLESTEP));
	return pid;
}

static void finish(pid_t pid)
{
	if (pid) {
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
	}
}

static void note(uint64_t address)
{
	struct point p = { .address = address };
	uint32_t i = trace.n;
	if (trace.n == trace.room) {
		trace.room = trace.room ? 2 * trace.room : 4096;
		trace.point = realloc(trace.point, trace.room * sizeof(p));
		CHECK(trace.point);
	}
	while (i-- && !p.pass)
		if (trace.point[i].address == address) {
			p.pass = trace.point[i].pass + (i + 1 != trace.n);
			p.repeat = i + 1 == trace.n ? trace.point[i].repeat + 1 : 0;
		}
	if (!p.pass)
		p.pass = 1;
	trace.own += own_text(address);
	trace.point[trace.n++] = p;
}

/* Finds out what the instructions are. */
static void scout(void)
{
	pid_t pid = start();
	trace.n = trace.own = 0;
	for (uint64_t address; (address = instruction(pid)) != (uintptr_t)ends;) {
		note(address);
		CHECK(resume(pid, PTRACE_SINGLESTEP));
	}
	note((uintptr_t)ends);
	finish(pid);
	scene_discard();
}

/* Runs the victim up to the point. False if it came to its end on another way. */
static bool reach(pid_t pid, const struct point *p)
{
	if (!watch(pid, 0, p->address) || !watch(pid, 1, (uintptr_t)ends)) {
		for (uint32_t k = 0; k < at.k && instruction(pid) != (uintptr_t)ends; k++)
			CHECK(resume(pid, PTRACE_SINGLESTEP));
		return instruction(pid) == p->address;
	}
	for (uint32_t pass = p->address == (uintptr_t)begins; pass < p->pass;) {
		CHECK(resume(pid, PTRACE_CONT));
		uint64_t here = instruction(pid);
		pass += here == p->address;
		if (here == (uintptr_t)ends && here != p->address)
			return false;
	}
	unwatch(pid);
	for (uint32_t i = 0; i < p->repeat; i++)
		CHECK(resume(pid, PTRACE_SINGLESTEP));
	return true;
}

/* True if the point was reached. */
static bool try_point(uint32_t k, enum end end)
{
	at.k = k;
	at.end = end;
	at.failed = 0;
	alarm(HANG_S);
	pid_t pid = start();
	bool reached = reach(pid, &trace.point[k]);
	if (!at.operation->unaudited)
		scene_audit();
	if (end == STOP) {
		scene_work();
		unwatch(pid);
		while (resume(pid, PTRACE_CONT))
			;
		pid = 0;
	}
	finish(pid);
	if (end == LATE)
		scene_work();
	scene_check(end == KILL);
	scene_discard();
	alarm(0);
	return reached;
}

struct choice {
	uint32_t every, library, most;
	uint32_t part, parts;
	const char *operation; /* fnmatch(3) */
	int end;               /* ENDS for all */
};

static uint32_t stride(uint32_t every, uint32_t n, uint32_t most)
{
	return n / most > every ? n / most : every;
}

static uint32_t sweep_operation(const struct choice *c)
{
	uint32_t points = 0, elsewhere = 0, own = 0, library = 0, before = failures;
	scout();
	uint32_t every = stride(c->every, trace.own, c->most);
	uint32_t each = stride(c->library, trace.n - trace.own, c->most);
	for (uint32_t k = 0; k < trace.n; k++) {
		bool chosen = own_text(trace.point[k].address) ? own++ % every == 0 :
								 library++ % each == 0;
		if (!chosen && k + 1 != trace.n)
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

static void usage(void)
{
	fprintf(stderr, "usage: kill_points [--every N] [--library N] [--most N] "
			"[--operation PATTERN] [--part I/N] [--end kill|late|stop] [--list]\n");
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

int main(int argc, char **argv)
{
	struct choice c = { 1, 1, UINT32_MAX, 0, 1, "*", ENDS };
	uint32_t n, points = 0, done = 0;
	bool list = argc == 2 && !strcmp(argv[1], "--list");
	for (int i = 1; i < argc && !list; i += 2)
		parse(&c, argv[i], i + 1 < argc ? argv[i + 1] : "");
	if (!c.every || !c.library || !c.most || !c.parts)
		usage();
	scene.report = mmap(NULL, sizeof(*scene.report), PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(scene.report != MAP_FAILED);
	scene_failed = failed;
	signal(SIGALRM, hangs);
	const struct operation *table = operations(&n);
	for (uint32_t i = c.part; i < n; i += c.parts) {
		at = (struct at) { .operation = &table[i] };
		if (fnmatch(c.operation, table[i].name, 0) != 0)
			continue;
		done++;
		if (list)
			printf("%s\n", table[i].name);
		else
			points += sweep_operation(&c);
	}
	if (!done)
		usage();
	if (!list)
		printf("%u operations, %u kill points, %u failures\n", done, points, failures);
	return failures != 0;
}
