/* SPDX-License-Identifier: Apache-2.0
 *
 * process.h - who this process is, as the kernel says it.
 */
#ifndef SHMPOOL_PROCESS_H
#define SHMPOOL_PROCESS_H

#include <stdbool.h>
#include <stdint.h>

struct process {
	uint32_t pid;
	uint64_t start;         /* clock ticks after boot: tells a pid from its predecessor */
	uint64_t pid_namespace; /* inode of /proc/self/ns/pid */
	uint8_t boot_id[16];
};

/* Reads it anew after a fork. */
struct process process_self(void);

/* Start time of pid in clock ticks after boot; 0 if there is none such, or it is a zombie. */
uint64_t process_start(uint32_t pid);

/* membarrier(2) over every process that has registered: false if the kernel cannot. */
bool process_barrier_register(void);
bool process_barrier(void);

#endif
