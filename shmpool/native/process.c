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
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define HEAD_MAX 128 /* bytes of a line of /proc/PID/maps before the file's name, at most 87 */

/* What is in /proc is read and taken apart without stdio: recovery does it, and every instruction of a
 * recovery is one to be killed at. */

static int open_proc(uint32_t pid, const char *name)
{
	char path[40], digits[10], *to = stpcpy(path, "/proc/");
	int n = 0;
	do
		digits[n++] = (char)('0' + pid % 10);
	while (pid /= 10);
	while (n)
		*to++ = digits[--n];
	stpcpy(to, name);
	return open(path, O_RDONLY | O_CLOEXEC);
}

/* Reads the whole of a small file and closes it; -1 if it cannot be read. */
static ssize_t read_small(int fd, char *text, size_t size)
{
	if (fd < 0)
		return -1;
	ssize_t n = read(fd, text, size - 1);
	close(fd);
	if (n >= 0)
		text[n] = 0;
	return n;
}

/* The number that a text begins with, *at afterwards behind it. */
static uint64_t number(const char **at, uint32_t base)
{
	uint64_t value = 0;
	for (;; (*at)++) {
		uint32_t c = (uint8_t)**at, digit = c - '0', letter = (c | 0x20) - 'a';
		if (digit > 9)
			digit = letter < 6 ? letter + 10 : base;
		if (digit >= base)
			return value;
		value = value * base + digit;
	}
}

/* The place behind the next n spaces of a line, NULL if there are not so many. */
static const char *skip_spaces(const char *at, int n)
{
	for (; n; at++) {
		if ((uint8_t)*at < ' ')
			return NULL;
		n -= *at == ' ';
	}
	return at;
}

/* The state and start time of pid; false if /proc does not say. */
static bool read_stat(uint32_t pid, char *state, uint32_t *start)
{
	char text[1024];
	if (read_small(open_proc(pid, "/stat"), text, sizeof(text)) <= 0)
		return false;
	const char *at = strrchr(text, ')'); /* the name before it may hold anything */
	if (!at || at[1] != ' ' || !at[2])
		return false;
	*state = at[2];
	at = skip_spaces(at, 20); /* the third field is behind the first of them */
	if (!at)
		return false;
	*start = (uint32_t)number(&at, 10);
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

/* Whether a line of /proc/PID/maps, which a newline ends, is of the file. */
static bool line_is_of(const char *line, const struct stat *file)
{
	const char *at = skip_spaces(line, 3); /* the addresses, rights and offset */
	if (!at)
		return false;
	uint32_t major = (uint32_t)number(&at, 16);
	if (*at++ != ':')
		return false;
	uint32_t minor = (uint32_t)number(&at, 16);
	return *at++ == ' ' && number(&at, 10) == file->st_ino &&
	       makedev(major, minor) == file->st_dev;
}

int process_maps(uint32_t pid, int fd)
{
	char text[4096], *end = text, *next;
	struct stat file;
	bool some = false, found = false;
	ssize_t n = -1;
	if (fstat(fd, &file))
		return -1;
	int maps = open_proc(pid, "/maps");
	if (maps < 0)
		return -1;
	while (!found && (n = read(maps, end, (size_t)(text + sizeof(text) - end))) > 0) {
		char *line = text;
		end += n;
		some = true;
		for (; !found && (next = memchr(line, '\n', (size_t)(end - line))); line = next + 1)
			found = line_is_of(line, &file);
		size_t rest = (size_t)(end - line);
		memmove(text, line, rest < HEAD_MAX ? rest : HEAD_MAX);
		end = text + (rest < HEAD_MAX ? rest : HEAD_MAX);
	}
	close(maps);
	/* Nothing is shown of one that is on its way out, of one whose first thread has ended though others
	 * live, and of one that is not ours to look at. */
	return found ? 1 : n < 0 || !some ? -1 : 0;
}

static void read_boot_id(uint8_t id[16])
{
	char text[64];
	int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC), digits = 0;
	if (read_small(fd, text, sizeof(text)) < 36)
		return;
	for (const char *c = text; *c && digits < 32; c++) {
		const char pair[2] = { *c, 0 }, *at = pair;
		if (*c == '-')
			continue;
		id[digits / 2] = (uint8_t)(id[digits / 2] << 4 | number(&at, 16));
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
