/* SPDX-License-Identifier: Apache-2.0
 *
 * process.c - see process.h.
 */
#define _GNU_SOURCE
#include "process.h"

#include <fcntl.h>
#include <linux/membarrier.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static ssize_t read_small(const char *path, char *text, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	ssize_t n = read(fd, text, size - 1);
	close(fd);
	if (n >= 0)
		text[n] = 0;
	return n;
}

uint64_t process_start(uint32_t pid)
{
	char path[32], text[1024], state;
	snprintf(path, sizeof(path), "/proc/%u/stat", pid);
	if (read_small(path, text, sizeof(text)) <= 0)
		return 0;
	char *after = strrchr(text, ')'); /* the name before it may hold anything */
	unsigned long long start;
	if (!after || sscanf(after,
			     ") %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d "
			     "%*d %*d %llu",
			     &state, &start) != 2)
		return 0;
	return state == 'Z' || state == 'X' ? 0 : start;
}

static void read_boot_id(uint8_t id[16])
{
	char text[64];
	if (read_small("/proc/sys/kernel/random/boot_id", text, sizeof(text)) < 36)
		return;
	int digits = 0;
	for (const char *c = text; *c && digits < 32; c++) {
		char pair[2] = { *c, 0 };
		if (*c == '-')
			continue;
		id[digits / 2] = (uint8_t)(id[digits / 2] << 4 | strtoul(pair, NULL, 16));
		digits++;
	}
}

struct process process_self(void)
{
	struct process p = { .pid = (uint32_t)getpid() };
	struct stat st;
	p.start = process_start(p.pid);
	if (stat("/proc/self/ns/pid", &st) == 0)
		p.pid_namespace = st.st_ino;
	read_boot_id(p.boot_id);
	return p;
}

bool process_barrier_register(void)
{
	return syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, 0, 0) == 0;
}

bool process_barrier(void)
{
	return syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL_EXPEDITED, 0, 0) == 0;
}
