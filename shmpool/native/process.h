/* SPDX-License-Identifier: Apache-2.0
 *
 * process.h - what a process can say of itself to people, and membarrier(2). Who is alive is not
 * told by any of this, but by token.h.
 */
#ifndef SHMPOOL_PROCESS_H
#define SHMPOOL_PROCESS_H

#include <stdbool.h>
#include <stdint.h>

struct process {
	uint32_t pid;           /* in its own PID namespace */
	uint32_t start;         /* clock ticks after boot, low bits; 0 if /proc does not say */
	uint32_t pid_namespace; /* inode number; 0 if /proc does not say */
};

/* Read anew with each call. */
struct process process_self(void);

/* Whether a process that lives is suspended by a signal or a tracer. False also where /proc shows
 * another namespace, or a process that began at another time. */
bool process_suspended(struct process other);

/* membarrier(2) over every process that has registered: false if the kernel cannot. */
bool process_barrier_register(void);
bool process_barrier(void);

#endif
