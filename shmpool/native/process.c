/* SPDX-License-Identifier: Apache-2.0
 *
 * process.c - see process.h.
 */
#define _GNU_SOURCE
#include "process.h"

#include "atomic.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/membarrier.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
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

/* The state and start time of pid; false if /proc does not say. */
static bool read_stat(uint32_t pid, char *state, uint32_t *start)
{
	char path[32], text[1024];
	snprintf(path, sizeof(path), "/proc/%u/stat", pid);
	if (read_small(path, text, sizeof(text)) <= 0)
		return false;
	char *after = strrchr(text, ')'); /* the name before it may hold anything */
	unsigned long long ticks;
	if (!after || sscanf(after,
			     ") %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d "
			     "%*d %*d %llu",
			     state, &ticks) != 2)
		return false;
	*start = (uint32_t)ticks;
	return true;
}

enum process_fate process_fate(uint32_t pid, uint32_t start)
{
	char state = 0;
	uint32_t found = 0;
	int fd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (fd < 0)
		return errno == ESRCH ? PROCESS_DEAD : PROCESS_UNKNOWN;
	bool said = read_stat(pid, &state, &found);
	/* After the reading: a process that lives still was the one read. Readable is a zombie too; the
	 * state letter is not asked for that, it is Z also where only the first thread has ended. */
	struct pollfd ended = { .fd = fd, .events = POLLIN };
	bool dead = poll(&ended, 1, 0) == 1;
	close(fd);
	if (dead)
		return PROCESS_DEAD;
	if (!said || !start)
		return PROCESS_UNKNOWN;
	if (found != start)
		return PROCESS_DEAD;
	return state == 'T' || state == 't' ? PROCESS_STOPPED : PROCESS_ALIVE;
}

int process_maps(uint32_t pid, int fd)
{
	char path[32], *line = NULL;
	size_t room = 0;
	struct stat file;
	bool some = false;
	int found = 0;
	snprintf(path, sizeof(path), "/proc/%u/maps", pid);
	FILE *maps = fopen(path, "re");
	if (!maps)
		return -1;
	if (fstat(fd, &file))
		found = -1;
	for (; !found && getline(&line, &room, maps) > 0; some = true) {
		unsigned int major, minor;
		unsigned long long inode;
		found = sscanf(line, "%*s %*s %*s %x:%x %llu", &major, &minor, &inode) == 3 &&
			inode == file.st_ino && makedev(major, minor) == file.st_dev;
	}
	/* Nothing is shown of one that is on its way out, of one whose first thread has ended though others
	 * live, and of one that is not ours to look at. */
	if (!some || ferror(maps))
		found = -1;
	free(line);
	fclose(maps);
	return found;
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

static uint32_t namespace(const char *path)
{
	struct stat st;
	return stat(path, &st) == 0 ? (uint32_t)st.st_ino : 0;
}

/* Where the kernel happened to place this program's stack and its first pages: the same for every copy
 * of this library in it, and for its forked children. Without randomisation all are alike, and then
 * what a program left behind waits for the end of its process. */
static uint32_t image(void)
{
	uint64_t mixed = getauxval(AT_RANDOM) * 0x9e3779b97f4a7c15ull;
	mixed = (mixed ^ getauxval(AT_SYSINFO_EHDR)) * 0x9e3779b97f4a7c15ull;
	mixed = (mixed ^ getauxval(AT_BASE)) * 0x9e3779b97f4a7c15ull;
	return (uint32_t)(mixed >> 32);
}

static struct process read_self(void)
{
	struct process p = { .pid = (uint32_t)getpid() };
	char state;
	if (!read_stat(p.pid, &state, &p.start))
		p.start = 0;
	p.namespaces = (uint64_t)namespace("/proc/thread-self/ns/time") << 32 |
		       namespace("/proc/thread-self/ns/pid");
	p.image = image();
	read_boot_id(p.boot_id);
	return p;
}

struct process process_self(void)
{
	static struct process
		*known; /* what all threads agree on; a forked child finds its parent's */
	struct process *seen = load_acquire(&known); /* pairs with the swap below */
	if (seen && seen->pid == (uint32_t)getpid())
		return *seen;
	struct process self = read_self(), *fresh = malloc(sizeof(*fresh));
	if (!fresh)
		return self;
	*fresh = self;
	if (cas_seq_cst(&known, &seen, fresh))
		return self;
	free(fresh);
	return *seen;
}

bool process_barrier_register(void)
{
	return syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, 0, 0) == 0;
}

bool process_barrier(void)
{
	return syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL_EXPEDITED, 0, 0) == 0;
}
