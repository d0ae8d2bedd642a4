/* SPDX-License-Identifier: Apache-2.0
 *
 * kill_trace.c - see kill_trace.h. A debug register stops the child when it passes an address for
 * the nth time: the place that single steps would reach, but much faster. Without debug
 * registers it falls back to single steps.
 */
#define _GNU_SOURCE
#include "kill_trace.h"

#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>

#include "check.h"
#include "life.h"

#define NO_PTRACE 77 /* a child's exit status */

void (*trace_failed)(const char *what);
extern const char __executable_start, etext;

__attribute__((noinline)) void trace_ends(void)
{
	__asm__ volatile("" ::: "memory");
}

__attribute__((noinline)) static void begins(void)
{
	__asm__ volatile("" ::: "memory");
}

void trace_begins(void)
{
	raise(SIGSTOP);
	begins();
}

bool trace_own(uint64_t address, uint64_t *distance)
{
	*distance = address - (uintptr_t)&__executable_start;
	return address >= (uintptr_t)&__executable_start && address < (uintptr_t)&etext;
}

#if defined(__x86_64__)

static uint64_t instruction(pid_t pid)
{
	return (uint64_t)ptrace(PTRACE_PEEKUSER, pid, offsetof(struct user_regs_struct, rip), 0);
}

static bool watch(pid_t pid, int which, uint64_t address)
{
	/* Register 7 enables: bit 2i for register i; type and length 0 mean "on execution". */
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

/* Returns true if the child has stopped, false if it has ended. */
static bool resume(pid_t pid, enum __ptrace_request how)
{
	int status;
	CHECK(ptrace(how, pid, 0, 0) == 0);
	CHECK(waitpid(pid, &status, 0) == pid);
	if (!WIFSTOPPED(status)) {
		if (!WIFEXITED(status) || WEXITSTATUS(status))
			trace_failed("the child fails");
		return false;
	}
	if (WSTOPSIG(status) != SIGTRAP)
		trace_failed("the child crashes");
	return WSTOPSIG(status) == SIGTRAP;
}

pid_t trace_fork(void (*child)(void))
{
	life_open();
	pid_t parent = getpid(), pid = fork();
	int status;
	CHECK(pid >= 0);
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent || ptrace(PTRACE_TRACEME, 0, 0, 0))
			_exit(NO_PTRACE);
		life_begin();
		child();
		_exit(0);
	}
	CHECK(waitpid(pid, &status, 0) == pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == NO_PTRACE)
		return -1;
	CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
	CHECK(ptrace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_EXITKILL) == 0);
	if (watch(pid, 0, (uintptr_t)begins))
		CHECK(resume(pid, PTRACE_CONT));
	while (instruction(pid) != (uintptr_t)begins)
		CHECK(resume(pid, PTRACE_SINGLESTEP));
	return pid;
}

static void note(struct trace *t, uint64_t address)
{
	struct point p = { .address = address };
	uint32_t i = t->n;
	uint64_t distance;
	if (t->n == t->room) {
		t->room = t->room ? 2 * t->room : 4096;
		t->point = realloc(t->point, t->room * sizeof(p));
		CHECK(t->point);
	}
	while (i-- && !p.pass)
		if (t->point[i].address == address) {
			p.pass = t->point[i].pass + (i + 1 != t->n);
			p.repeat = i + 1 == t->n ? t->point[i].repeat + 1 : 0;
		}
	if (!p.pass)
		p.pass = 1;
	t->own += trace_own(address, &distance);
	t->point[t->n++] = p;
}

void trace_record(pid_t pid, struct trace *t)
{
	t->n = t->own = 0;
	for (uint64_t address; (address = instruction(pid)) != (uintptr_t)trace_ends;) {
		note(t, address);
		CHECK(resume(pid, PTRACE_SINGLESTEP));
	}
	note(t, (uintptr_t)trace_ends);
}

bool trace_reach(pid_t pid, const struct trace *t, uint32_t k)
{
	const struct point *p = &t->point[k];
	const uint64_t end = (uintptr_t)trace_ends;
	if (!watch(pid, 0, p->address) || !watch(pid, 1, end)) {
		for (uint32_t i = 0; i < k && instruction(pid) != end; i++)
			CHECK(resume(pid, PTRACE_SINGLESTEP));
		return instruction(pid) == p->address;
	}
	for (uint32_t pass = p->address == (uintptr_t)begins; pass < p->pass;) {
		CHECK(resume(pid, PTRACE_CONT));
		uint64_t here = instruction(pid);
		pass += here == p->address;
		if (here == end && here != p->address)
			return false;
	}
	unwatch(pid);
	for (uint32_t i = 0; i < p->repeat; i++)
		CHECK(resume(pid, PTRACE_SINGLESTEP));
	return true;
}

void trace_finish(pid_t pid)
{
	unwatch(pid);
	while (resume(pid, PTRACE_CONT))
		;
	life_await(pid);
}

void trace_kill(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	life_await(pid);
}
