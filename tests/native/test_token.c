/* SPDX-License-Identifier: Apache-2.0
 *
 * test_token.c - a program closes the pool's descriptor, and opens another file under the same
 * number, while a token is queried: that file has no locks, and the answer must not be that a live
 * member is dead.
 *
 * Usage: test_token
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "memfd_pool.h"
#include "opening.h"
#include "token.h"

static int swap_with = -1; /* the file that replaces the pool's before the next query */
static int queries;

/* Stands in for the C library's function of this name. */
int fcntl(int fd, int command, ...)
{
	va_list arguments;
	va_start(arguments, command);
	void *argument = va_arg(arguments, void *);
	va_end(arguments);
	if (command == F_OFD_GETLK) {
		queries++;
		if (swap_with >= 0)
			CHECK(dup3(swap_with, fd, O_CLOEXEC) == fd);
		swap_with = -1;
	}
	return (int)syscall(SYS_fcntl, fd, command, argument);
}

int main(void)
{
	struct shmpool_geometry g = { .buffer_size = 64,
				      .capacity = 64,
				      .prealloc = 64,
				      .bulk = SHMPOOL_DEFAULT,
				      .refill_multiplier = SHMPOOL_DEFAULT,
				      .cache_size = 0,
				      .members = 8,
				      .queues = 2 };
	const uint32_t number = memfd_pool(&g);
	const struct segment *s = &opening_pool(number)->segment;
	const uint64_t own = opening_token(number);
	const int pool_file = dup(s->fd), other_file = memfd_create("other", MFD_CLOEXEC);
	struct token other = { 0 };
	CHECK(pool_file >= 0 && other_file >= 0);
	EQUAL(0, token_take(s, &other));
	EQUAL(TOKEN_HELD, token_state(s, other.number, own));
	/* As a member asks, which has a token, and as a reader. */
	for (int reader = 0; reader < 2; reader++) {
		swap_with = other_file;
		EQUAL(TOKEN_UNKNOWN, token_state(s, other.number, reader ? 0 : own));
		EQUAL(-1, swap_with);
		CHECK(dup3(pool_file, s->fd, O_CLOEXEC) == s->fd);
		EQUAL(TOKEN_HELD, token_state(s, other.number, reader ? 0 : own));
	}
	const uint64_t dropped = other.number;
	token_drop(&other);
	EQUAL(TOKEN_FREE, token_state(s, dropped, own));
	printf("%d queries\n", queries);
	return 0;
}
