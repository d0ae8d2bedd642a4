/* SPDX-License-Identifier: Apache-2.0
 *
 * wait.c - see wait.h. The only place that calls futex(2).
 */
#include "wait.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define TRIES_YIELD 16 /* pauses of wait_again() without a sleep */
#define TRIES_MOST 8   /* ms that the others take, by the clock */
#define TRIES_TICK_NS 128

static int64_t read_clock(clockid_t clock)
{
	struct timespec t;
	clock_gettime(clock, &t);
	return t.tv_sec * 1000000000ll + t.tv_nsec;
}

int64_t wait_now(void)
{
	return read_clock(CLOCK_MONOTONIC);
}

int64_t wait_coarse(void)
{
	return read_clock(CLOCK_MONOTONIC_COARSE);
}

int64_t wait_spent(void)
{
	return read_clock(CLOCK_THREAD_CPUTIME_ID);
}

int64_t wait_wall(void)
{
	return read_clock(CLOCK_REALTIME_COARSE);
}

uint32_t wait_enter(uint32_t *word)
{
	return add_seq_cst(word, 1) + 1; /* [WAIT] */
}

int wait_sleep(uint32_t *word, uint32_t entered, int64_t most_ns, int64_t deadline_ns)
{
	int64_t left = most_ns;
	if (deadline_ns != WAIT_FOREVER) {
		int64_t until = deadline_ns - wait_now();
		if (until <= 0)
			return -ETIMEDOUT;
		if (until < left)
			left = until;
	}
	struct timespec t = { .tv_sec = left / 1000000000, .tv_nsec = left % 1000000000 };
	/* Not FUTEX_PRIVATE: the sleepers are in other processes. If the word has changed since
	 * wait_enter(), by a wake-up or by one more sleeper, the call returns at once. */
	if (syscall(SYS_futex, word, FUTEX_WAIT, entered, &t, NULL, 0) == 0 || errno == EAGAIN)
		return 0;
	if (errno == EINTR)
		return -EINTR;
	return left < most_ns ? -ETIMEDOUT : 1;
}

int64_t wait_slice_end(int64_t deadline_ns)
{
	if (deadline_ns == WAIT_NEVER)
		return deadline_ns;
	int64_t end = wait_now() + WAIT_SLICE_NS;
	return deadline_ns < end ? deadline_ns : end;
}

void wait_leave(uint32_t *word, uint32_t entered)
{
	uint32_t now = load_acquire(word); /* [WAIT] */
	do {
		if ((now ^ entered) & WAIT_EPOCH_MASK || !(now & WAIT_COUNT_MASK))
			return;
	} while (!cas_seq_cst(word, &now, now - 1)); /* [WAIT] */
}

void wait_wake(uint32_t *word, uint32_t n)
{
	/* A member that has entered and does not sleep yet finds the word changed. */
	add_seq_cst(word, WAIT_WAKE_ONE); /* [WAIT] */
	syscall(SYS_futex, word, FUTEX_WAKE, n > INT_MAX ? INT_MAX : n, NULL, NULL, 0);
}

void wait_want(uint32_t *want, uint32_t n)
{
	uint32_t said = load_seq_cst(want); /* [WAIT] */
	do {
		if (said && said <= n)
			return;
	} while (!cas_seq_cst(want, &said, n)); /* [WAIT] */
}

void wait_wake_wanted(uint32_t *word, uint32_t *want, uint64_t have)
{
	uint32_t said = load_seq_cst(want);                      /* [WAIT] */
	if (said && have >= said && cas_seq_cst(want, &said, 0)) /* [WAIT] */
		wait_wake(word, UINT32_MAX);
}

void wait_wake_ones(uint32_t *word, const uint32_t *many, uint32_t n)
{
	if (n && wait_ones(word, many))
		wait_wake(word, n);
}

void wait_reset(uint32_t *word)
{
	uint32_t now = load_acquire(word), next; /* [WAIT] */
	do {
		next = ((now + WAIT_EPOCH_ONE) & WAIT_EPOCH_MASK) |
		       ((now + WAIT_WAKE_ONE) & ~(WAIT_EPOCH_MASK | WAIT_COUNT_MASK)) | 1;
	} while (!cas_seq_cst(word, &now, next)); /* [WAIT] */
	syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
	wait_leave(word, next);
}

bool wait_again(struct wait_tries *tries)
{
	uint32_t word = 0;
	if (!tries->n)
		tries->until_ns = wait_now() + WAIT_TRIES_NS;
	if (tries->n < TRIES_YIELD) {
		tries->n++;
		sched_yield();
		return true;
	}
	const int64_t pause = WAIT_SHORT_NS * (1 + wait_now() / TRIES_TICK_NS % TRIES_MOST);
	return wait_sleep(&word, 0, pause, tries->until_ns) != -ETIMEDOUT;
}
