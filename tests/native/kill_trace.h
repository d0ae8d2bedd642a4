/* SPDX-License-Identifier: Apache-2.0
 *
 * kill_trace.h - a child under ptrace(2): lists the instructions of an operation, and stops before
 * any one of them.
 */
#ifndef KILL_TRACE_H
#define KILL_TRACE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* One instruction of the operation: the pass-th time that the address is reached, and for a
 * repeated instruction (rep prefix) that many steps further. */
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

/* Called if the child crashes, or exits with a status. */
extern void (*trace_failed)(const char *what);

/* Runs child in a traced child process, up to trace_begins(). The child is killed if this process
 * dies. Returns its pid, or -1 if ptrace(2) is not permitted. */
pid_t trace_fork(void (*child)(void));
void trace_begins(void);
void trace_ends(void);

/* Steps from trace_begins() to trace_ends(), and records the instructions. */
void trace_record(pid_t pid, struct trace *t);

/* Runs the child from trace_begins() to point k. Returns false if it reached trace_ends() by
 * another path. */
bool trace_reach(pid_t pid, const struct trace *t, uint32_t k);

/* Lets the child run on to its exit. */
void trace_finish(pid_t pid);
void trace_kill(pid_t pid);

/* True if the address is in the program's own text; *distance then receives its distance from the
 * program's start. */
bool trace_own(uint64_t address, uint64_t *distance);

#endif
