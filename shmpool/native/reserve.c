/* SPDX-License-Identifier: Apache-2.0
 *
 * reserve.c - see segment.h: the file under a segment: a descriptor of it, and its memory.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "segment.h"

#define PIECE_BYTES (4ull << 20) /* reserved with signals blocked: about a millisecond */

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

/* The code for what fallocate(2) says: others mean something else in shmpool.h. */
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

/* Reserves at most PIECE_BYTES. */
static int reserve_piece(int fd, uint64_t from, uint64_t length)
{
	sigset_t every, before;
	int error;
	/* tmpfs gives back all that it has reserved when a signal comes: a timer's could come for
	 * ever. */
	sigfillset(&every);
	pthread_sigmask(SIG_SETMASK, &every, &before);
	/* Not posix_fallocate(3), which writes where the file system has no such call, beside
	 * others who use the pages. The size stays: had another thread closed the program's
	 * descriptors in this very moment, and opened another file under this number, no byte of
	 * that would change. */
	do {
		error = fallocate(fd, FALLOC_FL_KEEP_SIZE, (off_t)from, (off_t)length) ? errno : 0;
	} while (error == EINTR); /* the process was frozen */
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return refusal(error);
}

int segment_reserve(const struct segment *s, uint64_t offset, uint64_t length)
{
	uint64_t from = offset / SEGMENT_PAGE * SEGMENT_PAGE, left = offset + length - from;
	int error = 0, opened, fd = segment_fd(s, &opened);
	if (fd < 0)
		return fd;
	/* Piece by piece: in between signals come through. */
	for (uint64_t n; left && !error; from += n, left -= n) {
		n = left < PIECE_BYTES ? left : PIECE_BYTES;
		error = reserve_piece(fd, from, n);
	}
	if (opened >= 0)
		close(opened);
	return error;
}

bool segment_unreserve(const struct segment *s, uint64_t offset, uint64_t length)
{
	uint64_t from = (offset + SEGMENT_PAGE - 1) / SEGMENT_PAGE * SEGMENT_PAGE;
	uint64_t end = (offset + length) / SEGMENT_PAGE * SEGMENT_PAGE;
	/* Through the mapping: a descriptor's number could stand for another file by now. */
	return end > from && madvise(s->base + from, end - from, MADV_REMOVE) == 0;
}
