/* SPDX-License-Identifier: Apache-2.0
 *
 * life.h - waits until the memory of a killed child has ended, and with it its token.
 *
 * waitpid(2) returns earlier while another process reads the child's /proc/PID/maps, smaps or
 * cmdline: the kernel keeps a process's memory as long as it is read. The child locks a byte of a
 * file, as token.c does. Its parent waits until that lock is gone.
 */
#ifndef LIFE_H
#define LIFE_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "check.h"

#define LIFE_PAUSE_NS 1000000
#define LIFE_TRIES 60000 /* one minute */

static int life_file = -1;

/* The parent calls it before its first child. */
static inline void life_open(void)
{
	if (life_file < 0)
		life_file = memfd_create("lives", MFD_CLOEXEC);
	CHECK(life_file >= 0);
}

/* The child calls it. */
static inline void life_begin(void)
{
	char path[32];
	struct flock lock = { .l_type = F_WRLCK, .l_start = getpid(), .l_len = 1 };
	snprintf(path, sizeof(path), "/proc/self/fd/%d", life_file);
	int fd = open(path, O_RDWR | O_CLOEXEC);
	CHECK(fd >= 0 && fcntl(fd, F_OFD_SETLK, &lock) == 0);
	void *page = mmap(NULL, 4096, PROT_NONE, MAP_SHARED, fd, 0);
	CHECK(page != MAP_FAILED && madvise(page, 4096, MADV_DONTFORK) == 0);
	close(fd);
}

/* The parent calls it after waitpid(2). */
static inline void life_await(pid_t pid)
{
	const struct timespec pause = { .tv_nsec = LIFE_PAUSE_NS };
	for (int i = 0; i < LIFE_TRIES; i++) {
		struct flock lock = { .l_type = F_RDLCK, .l_start = pid, .l_len = 1 };
		CHECK(fcntl(life_file, F_OFD_GETLK, &lock) == 0);
		if (lock.l_type == F_UNLCK)
			return;
		nanosleep(&pause, NULL);
	}
	CHECK(!"a child's memory has ended");
}

#endif
