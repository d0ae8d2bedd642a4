/* SPDX-License-Identifier: Apache-2.0
 *
 * token.c - see token.h: takes, drops and queries file locks.
 */
#define _GNU_SOURCE
#include "token.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "forked.h"

#define NUMBER_MASK ((1ull << TOKEN_BITS) - 1)
/* Attempts. A number that is locked already comes from a corrupted counter, or the whole file is
 * locked for a moment by a process that removes its name. */
#define TAKE_TRIES 200
#define TAKE_PAUSE_NS 5000000
#define TAKE_FREELY 16 /* attempts without a pause */

/* The bytes of pins, above those by which daemons say that they use the file
 * (service/watched_pool.py: IN_USE_FIRST). */
#define PIN_BITS (TOKEN_BITS - 1)
#define PINS (3ull << PIN_BITS)
_Static_assert(PINS + ((1ull << PIN_BITS) - 1) == INT64_MAX, "the last file offset");

/* Returns a lock request for one byte: that of a token or a pin. */
static struct flock byte_lock(short type, uint64_t number)
{
	return (struct flock) {
		.l_type = type, .l_whence = SEEK_SET, .l_start = (off_t)number, .l_len = 1
	};
}

/* Writes the path of descriptor fd below /proc/self/fd, for a new open(2) of the same file. */
static void name_descriptor(int fd, char path[32])
{
	char digits[10], *to = stpcpy(path, "/proc/self/fd/");
	int n = 0;
	do
		digits[n++] = (char)('0' + fd % 10);
	while (fd /= 10);
	while (n)
		*to++ = digits[--n];
	*to = 0;
}

/* Returns the code for an errno of open(2) or mmap(2). Other codes have other meanings in
 * shmpool.h. */
static int refusal(int error)
{
	switch (error) {
	case EMFILE:
	case ENFILE:
		return -EMFILE;
	case ENOMEM:
	case EAGAIN: /* of mmap(2) */
		return -ENOMEM;
	case EACCES:
	case EPERM:
	case EROFS:
		return -EACCES;
	}
	return -EBADFD;
}

/* Returns a descriptor with a new open file description of the file that fd is open on, or -errno.
 * Opens it through /proc/self/fd, or without /proc by the path that the process opened it by. */
static int open_again(int fd, const char *by)
{
	struct stat mine, found;
	char path[32];
	name_descriptor(fd, path);
	if (fstat(fd, &mine))
		return -EBADFD;
	int again = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (again < 0 && (errno == ENOENT || errno == ENOTDIR))
		again = open(by, O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
	if (again < 0)
		return refusal(errno);
	if (fstat(again, &found) == 0 && found.st_dev == mine.st_dev && found.st_ino == mine.st_ino)
		return again;
	close(again);
	return -EBADFD;
}

/* Hands fd's open file description, with its locks, over to a mapping that no child inherits, and
 * closes fd in any case. Returns 0, -ENOMEM, -EACCES or -EBADFD. */
static int leave_to_mapping(int fd, void **out)
{
	void *page = mmap(NULL, SEGMENT_PAGE, PROT_NONE, MAP_SHARED, fd, 0);
	int error = page == MAP_FAILED ? refusal(errno) : 0;
	close(fd);
	if (error)
		return error;
	if (forked_absent(page, SEGMENT_PAGE)) {
		error = refusal(errno);
		munmap(page, SEGMENT_PAGE);
		return error;
	}
	*out = page;
	return 0;
}

/* Opens the segment's file again: a new open file description. Returns a descriptor, or -errno. */
static int open_segment(const struct segment *s)
{
	int opened, fd, again;
	if (!s->writes)
		return -EROFS;
	fd = segment_fd(s, &opened);
	if (fd < 0)
		return fd;
	again = open_again(fd, s->path);
	if (opened >= 0)
		close(opened);
	return again;
}

/* Waits before another attempt, after tries of them. False if there have been enough. */
static bool try_again(int *tries)
{
	const struct timespec pause = { .tv_nsec = TAKE_PAUSE_NS };
	if (*tries >= TAKE_FREELY)
		nanosleep(&pause, NULL);
	return ++*tries < TAKE_TRIES;
}

/* Locks the byte of a number that no process has, and stores the number in *number. Returns 0,
 * -EDEADLK, -ENOLCK or -ENOMEM. */
static int lock_new(const struct segment *s, int fd, uint64_t *number)
{
	int tries = 0;
	do {
		/* Pairs with itself: each number is handed out once. */
		*number = (add_seq_cst(&segment_shared(s)->tokens, 1) + 1) & NUMBER_MASK;
		if (*number == 0)
			continue;
		struct flock lock = byte_lock(F_WRLCK, *number);
		if (fcntl(fd, F_OFD_SETLK, &lock) == 0)
			return 0;
		if (errno != EAGAIN && errno != EACCES && errno != EINTR)
			return errno == ENOMEM ? -ENOMEM : -ENOLCK;
	} while (try_again(&tries));
	return -EDEADLK;
}

int token_take(const struct segment *s, struct token *t)
{
	uint64_t number = 0;
	void *page;
	int fd = open_segment(s);
	if (fd < 0)
		return fd;
	int error = lock_new(s, fd, &number);
	if (error) {
		close(fd);
		return error;
	}
	error = leave_to_mapping(fd, &page);
	if (!error)
		*t = (struct token) { number, page };
	return error;
}

int token_pin(const struct segment *s, uint64_t number, void **page)
{
	/* Two numbers that differ in their highest bit only are never in use at once. */
	struct flock lock = byte_lock(F_WRLCK, PINS | number);
	int tries = 0, fd = open_segment(s);
	if (fd < 0)
		return fd;
	while (fcntl(fd, F_OFD_SETLK, &lock)) {
		bool locked = errno == EAGAIN || errno == EACCES || errno == EINTR;
		int error = locked ? -EDEADLK : errno == ENOMEM ? -ENOMEM : -ENOLCK;
		if (!locked || !try_again(&tries)) {
			close(fd);
			return error;
		}
	}
	return leave_to_mapping(fd, page);
}

void token_drop(struct token *t)
{
	if (t->number)
		forked_unmap(t->page, SEGMENT_PAGE);
	*t = (struct token) { 0 };
}

int token_hold(int fd, const char *path, void **page)
{
	struct flock lock = byte_lock(F_WRLCK, 0);
	int again = open_again(fd, path);
	*page = NULL;
	if (again < 0)
		return again;
	if (fcntl(again, F_OFD_SETLK, &lock)) {
		int error = errno == EAGAIN || errno == EACCES ? -EDEADLK : -ENOLCK;
		close(again);
		return error;
	}
	return leave_to_mapping(again, page);
}

void token_let_go(void *page)
{
	if (page)
		forked_unmap(page, SEGMENT_PAGE);
}

/* Returns 1 if another process has the write lock of one of length bytes, 0 if none has; or -errno.
 * With a length of 0, of all bytes from there on. */
static int ask(int fd, uint64_t first, off_t length)
{
	struct flock lock = byte_lock(F_RDLCK, first);
	lock.l_len = length;
	if (fcntl(fd, F_OFD_GETLK, &lock))
		return -errno;
	return lock.l_type != F_UNLCK;
}

/* The same, of the segment's file. */
static int ask_segment(const struct segment *s, uint64_t first, off_t length, uint64_t own)
{
	int opened, fd = segment_fd(s, &opened), held;
	if (fd < 0)
		return fd;
	held = ask(fd, first, length);
	/* Another thread may have closed the program's descriptors during the query and opened
	 * another file under the same number. That file has no locks at all. */
	if (held == 0 && (!segment_is(s, fd) || (own && ask(fd, own & NUMBER_MASK, 1) != 1)))
		held = -EBADFD;
	if (opened >= 0)
		close(opened);
	return held;
}

enum token_state token_state(const struct segment *s, uint64_t number, uint64_t own)
{
	int held = number == own ? 1 : ask_segment(s, number & NUMBER_MASK, 1, own);
	return held < 0 ? TOKEN_UNKNOWN : held ? TOKEN_HELD : TOKEN_FREE;
}

bool token_pinned(const struct segment *s, uint64_t own)
{
	return ask_segment(s, PINS, 0, own) != 0;
}
