/* SPDX-License-Identifier: Apache-2.0
 *
 * process.h - who this process is, and whether another one lives, as the kernel says it.
 */
#ifndef SHMPOOL_PROCESS_H
#define SHMPOOL_PROCESS_H

#include <stdbool.h>
#include <stdint.h>

struct process {
	uint32_t pid;
	uint32_t start; /* clock ticks after boot, low bits: tells a pid from its predecessor */
	uint64_t
		namespaces; /* time and pid namespace: neither pid nor start mean anything in others */
	uint32_t image;     /* tells programs executed apart: exec keeps pid and start */
	uint8_t boot_id[16];
};

enum process_fate {
	PROCESS_ALIVE,
	PROCESS_STOPPED, /* by a signal or a tracer: alive */
	PROCESS_DEAD,    /* gone, a zombie, or its pid is another's: for ever */
	PROCESS_UNKNOWN  /* /proc does not say */
};

/* Read once, and anew after a fork. */
struct process process_self(void);

/* What became of the process of this namespace that had pid and start. */
enum process_fate process_fate(uint32_t pid, uint32_t start);

/* Whether pid maps the file: one that has executed another program does not. -1 if it is not known. */
int process_maps(uint32_t pid, int fd);

/* membarrier(2) over every process that has registered: false if the kernel cannot. */
bool process_barrier_register(void);
bool process_barrier(void);

#endif
