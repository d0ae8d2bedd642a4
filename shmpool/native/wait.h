/* SPDX-License-Identifier: Apache-2.0
 *
 * wait.h - sleeping in the segment until another process has done something, and waking it.
 *
 * A wait word is | wake-ups 12 | epoch 8 | sleepers 12 |, a futex. Whoever changed something reads it
 * and makes a system call only if somebody sleeps.
 *
 * Ordering
 *     [WAIT]  sleeper: adds itself to the word, then looks at the queue's position; waker: moves the
 *             position, then looks at the word. All four are seq_cst, so at least one of them sees
 *             the other.
 *
 * Progress: a sleep lasts at most WAIT_SLICE_NS before its caller looks again, so that a waker killed
 * between its change and its wake-up delays nobody for longer. A sleeper that is killed stays counted
 * until its member is recovered (wait_reset): each change then costs one system call too many.
 */
#ifndef SHMPOOL_WAIT_H
#define SHMPOOL_WAIT_H

#include "atomic.h"

#define WAIT_SLICE_NS 200000000ll /* 5 looks a second by an idle sleeper */
#define WAIT_SHORT_NS                                                                              \
	1000000ll /* while another member is in the middle of the operation waited for */
/* sched_yield() calls, about 0.5 us each, before the first sleep: what waking a halted core takes. */
#define WAIT_POLLS 100
#define WAIT_FOREVER INT64_MAX
#define WAIT_NEVER 0 /* as a deadline: one attempt */

#define WAIT_COUNT_MASK 0xfffu
#define WAIT_EPOCH_ONE 0x1000u
#define WAIT_EPOCH_MASK 0xff000u
#define WAIT_WAKE_ONE 0x100000u

static inline bool wait_anybody(const uint32_t *word)
{
	return load_seq_cst(word) & WAIT_COUNT_MASK; /* [WAIT] */
}

/* Announces a sleeper. Returns the word to pass on; the caller looks once more before it sleeps. */
uint32_t wait_enter(uint32_t *word);

/* Sleeps until woken, at most most_ns, and never past deadline_ns (CLOCK_MONOTONIC). 0 woken, or time
 * to look again; -ETIMEDOUT deadline passed; -EINTR a signal, or a whole slice slept: the signal may
 * have come just before the sleep. */
int wait_sleep(uint32_t *word, uint32_t entered, int64_t most_ns, int64_t deadline_ns);

void wait_leave(uint32_t *word, uint32_t entered);

/* Wakes up to n sleepers. */
void wait_wake(uint32_t *word, uint32_t n);

/* Forgets every sleeper, dead ones included, and wakes those that live: they announce themselves anew. */
void wait_reset(uint32_t *word);

int64_t wait_now(void);    /* CLOCK_MONOTONIC, ns */
int64_t wait_coarse(void); /* the same at the last tick, some ms ago: a quarter of the cost */

#endif
