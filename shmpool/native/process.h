/* SPDX-License-Identifier: Apache-2.0
 *
 * process.h - what is shown to users about a process, and membarrier(2). Whether a process is alive
 * is decided by token.h alone.
 */
#ifndef SHMPOOL_PROCESS_H
#define SHMPOOL_PROCESS_H

#include <stdbool.h>
#include <stdint.h>

struct process {
	uint32_t pid;           /* in its own PID namespace */
	uint32_t start;         /* clock ticks after boot, low 32 bits; 0 if /proc does not say */
	uint32_t pid_namespace; /* inode number; 0 if /proc does not say */
};

/* Describes the calling process. Reads /proc on each call, since a fork changes the answer. */
struct process process_self(void);

/* Stores the calling thread's name, as ps shows it: up to 15 bytes, and zeros. All are zeros if the
 * kernel does not say. */
void process_name(uint64_t name[2]);

/* True if the process, which must be alive, is suspended by a signal or a tracer. False also if it
 * is in another PID namespace or if its pid now belongs to a process with another start time. */
bool process_suspended(struct process other);

/* Register the calling process for membarrier(2), and issue a barrier on every processor that runs
 * a registered process. Both return false if the kernel refuses. */
bool process_barrier_register(void);
bool process_barrier(void);

#endif
