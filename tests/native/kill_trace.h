/* SPDX-License-Identifier: Apache-2.0
 *
 * kill_trace.h - a child under ptrace(2): which instructions an operation has, and to stop before
 * any one of them.
 */
#ifndef KILL_TRACE_H
#define KILL_TRACE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* An instruction of the operation: the pass-th time that the address comes up, and if it repeats
 * itself (rep), so many steps further. */
struct point {
	uint64_t address;
	uint32_t pass;
	uint32_t repeat;
};

struct trace {
	struct point *point;
	uint32_t n, room;
	uint32_t own; /* in the program's own text */
};

/* Called when the child does what it must not: it crashes, or exits with a status. */
extern void (*trace_failed)(const char *what);

/* Runs child in a traced child process, which is killed if this one dies, up to where it calls
 * trace_begins(). -1 if ptrace(2) is not allowed. */
pid_t trace_fork(void (*child)(void));
void trace_begins(void);
void trace_ends(void);

/* Steps through what is between the two, and notes it. */
void trace_record(pid_t pid, struct trace *t);

/* Runs the child from trace_begins() up to point k. False if it came to trace_ends() on another
 * way. */
bool trace_reach(pid_t pid, const struct trace *t, uint32_t k);

/* Lets it go on to its exit. */
void trace_finish(pid_t pid);
void trace_kill(pid_t pid);

/* Whether the address is in the program's own text, and then its distance from the program's start.
 *  */
bool trace_own(uint64_t address, uint64_t *distance);

#endif
