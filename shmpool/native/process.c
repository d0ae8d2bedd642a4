/* SPDX-License-Identifier: Apache-2.0
 *
 * process.c - see process.h. Reads /proc without stdio: attaching calls this, and the kill-point
 * tests kill it before every instruction.
 */
#define _GNU_SOURCE
#include "process.h"

#include <fcntl.h>
#include <linux/membarrier.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Spaces from the state to the start time in /proc/PID/stat. */
#define STAT_START 20

/* Reads the state and the start time from a line of /proc/PID/stat. Returns false if it is
 * malformed. */
static bool parse_stat(const char *line, char *state, uint32_t *start)
{
	const char *at = strrchr(line, ')'); /* the name in parentheses may contain anything */
	if (!at || at[1] != ' ' || !at[2])
		return false;
	*state = at[2];
	for (int n = STAT_START; n; at++) {
		if (!*at)
			return false;
		n -= *at == ' ';
	}
	*start = 0;
	for (; *at >= '0' && *at <= '9'; at++)
		*start = *start * 10 + (uint32_t)(*at - '0');
	return true;
}

/* Reads the state and the start time of pid. Returns false if /proc does not say. */
static bool read_stat(uint32_t pid, char *state, uint32_t *start)
{
	char text[1024], path[32], digits[10], *to = stpcpy(path, "/proc/");
	int n = 0;
	do
		digits[n++] = (char)('0' + pid % 10);
	while (pid /= 10);
	while (n)
		*to++ = digits[--n];
	stpcpy(to, "/stat");
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	ssize_t size = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (size <= 0)
		return false;
	text[size] = 0;
	return parse_stat(text, state, start);
}

struct process process_self(void)
{
	struct process p = { .pid = (uint32_t)getpid() };
	struct stat st;
	char state;
	if (!read_stat(p.pid, &state, &p.start))
		p.start = 0;
	if (stat("/proc/thread-self/ns/pid", &st) == 0)
		p.pid_namespace = (uint32_t)st.st_ino;
	return p;
}

void process_name(uint64_t name[2])
{
	name[0] = name[1] = 0;
	if (prctl(PR_GET_NAME, name, 0, 0, 0))
		name[0] = name[1] = 0;
}

bool process_suspended(struct process other)
{
	struct stat st;
	uint32_t start;
	char state;
	if (!other.start || !other.pid_namespace || stat("/proc/thread-self/ns/pid", &st) ||
	    (uint32_t)st.st_ino != other.pid_namespace)
		return false;
	return read_stat(other.pid, &state, &start) && start == other.start &&
	       (state == 'T' || state == 't');
}

bool process_barrier_register(void)
{
	return syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, 0, 0) == 0;
}

bool process_barrier(void)
{
	return syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL_EXPEDITED, 0, 0) == 0;
}
