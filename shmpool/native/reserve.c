/* SPDX-License-Identifier: Apache-2.0
 *
 * reserve.c - see segment.h: the segment's file: descriptors of it, and its memory.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "memory.h"
#include "segment.h"

#define PIECE_BYTES (4ull << 20) /* reserved with signals blocked: about 1 ms */

bool segment_is(const struct segment *s, int fd)
{
	struct stat st;
	return fstat(fd, &st) == 0 && st.st_dev == s->device && st.st_ino == s->inode;
}

int segment_fd(const struct segment *s, int *opened)
{
	*opened = -1;
	if (segment_is(s, s->fd))
		return s->fd;
	if (!s->path[0])
		return -EBADFD;
	int flags = (s->writes ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW;
	int fd = open(s->path, flags);
	if (fd >= 0 && !segment_is(s, fd)) {
		close(fd);
		return -EBADFD;
	}
	*opened = fd;
	return fd >= 0 ? fd : errno == EMFILE || errno == ENFILE ? -EMFILE : -EBADFD;
}

/* Returns the code for an errno of fallocate(2). Other codes have other meanings in shmpool.h. */
static int refusal(int error)
{
	switch (error) {
	case EPERM:
		return -EACCES;
	case EBADF:
		return -EBADFD;
	case EINVAL:
	case ENOSYS:
	case EOPNOTSUPP:
		return -ENODEV;
	}
	return -error;
}

/* Reserves length bytes, PIECE_BYTES at most. */
static int reserve_piece(int fd, uint64_t from, uint64_t length)
{
	sigset_t every, before;
	int error;
	/* When a signal comes, tmpfs releases all that it has reserved, so a periodic timer could
	 * prevent success without end. */
	sigfillset(&every);
	pthread_sigmask(SIG_SETMASK, &every, &before);
	/* Not posix_fallocate(3): on a file system without fallocate(2) it writes to the pages,
	 * which other processes may be using. KEEP_SIZE: another thread may have closed the
	 * program's descriptors just now and opened another file under this number; that file does
	 * not change in size or content. */
	do {
		error = fallocate(fd, FALLOC_FL_KEEP_SIZE, (off_t)from, (off_t)length) ? errno : 0;
	} while (error == EINTR); /* the process was frozen (cgroup freezer) */
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return refusal(error);
}

/* Makes huge pages of the whole ones in a range. One page of each is reserved before: the kernel
 * makes none of a hole. Ends at the first that cannot be made: a search for free memory is slow.
 * Takes 0.24 us for each 4 KiB, fallocate() 1.05. Returns 0, -EAGAIN, -EOPNOTSUPP, or what
 * reserve_piece() returns. */
static int reserve_huge(const struct segment *s, int fd, uint64_t from, uint64_t end)
{
	int error = (uint64_t)s->base % MEMORY_HUGE ? -EAGAIN : 0;
	from = (from + MEMORY_HUGE - 1) / MEMORY_HUGE * MEMORY_HUGE;
	for (; from + MEMORY_HUGE <= end && !error; from += MEMORY_HUGE) {
		error = reserve_piece(fd, from, SEGMENT_PAGE);
		if (!error)
			error = memory_collapse(s->base + from);
	}
	return error;
}

int segment_reserve(const struct segment *s, uint64_t offset, uint64_t length)
{
	uint64_t from = offset / SEGMENT_PAGE * SEGMENT_PAGE, left = offset + length - from;
	int error = 0, opened, fd = segment_fd(s, &opened);
	if (fd < 0)
		return fd;
	if (s->geometry.huge)
		error = reserve_huge(s, fd, from, from + left);
	if (s->geometry.huge != SHMPOOL_HUGE_ALWAYS)
		error = 0;
	/* Piece by piece, so that signals are delivered in between. */
	for (uint64_t n; left && !error; from += n, left -= n) {
		n = left < PIECE_BYTES ? left : PIECE_BYTES;
		error = reserve_piece(fd, from, n);
	}
	if (opened >= 0)
		close(opened);
	/* That it fails changes nothing: the memory is there, and the first access maps it. */
	if (!error && load_relaxed(&s->populate))
		memory_populate(s->base + offset / SEGMENT_PAGE * SEGMENT_PAGE,
				offset % SEGMENT_PAGE + length, true);
	return error;
}

bool segment_unreserve(const struct segment *s, uint64_t offset, uint64_t length)
{
	uint64_t from = (offset + SEGMENT_PAGE - 1) / SEGMENT_PAGE * SEGMENT_PAGE;
	uint64_t end = (offset + length) / SEGMENT_PAGE * SEGMENT_PAGE;
	/* Through the mapping: the descriptor's number may name another file by now. */
	return end > from && madvise(s->base + from, end - from, MADV_REMOVE) == 0;
}
