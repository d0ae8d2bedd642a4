/* SPDX-License-Identifier: Apache-2.0
 *
 * wait.h - sleeping in the segment until another process has done something, and waking it.
 *
 * A wait word is | wake-ups 12 | epoch 8 | sleepers 12 |, a futex. Whoever changed something reads
 * it and makes a system call only if somebody sleeps. Each of the three may come round: a sleeper
 * that meets exactly the count of wake-ups it entered with (4,096 of them between its two steps),
 * or that was suspended for 256 resets and leaves a count it is not in, costs a wake-up, and that
 * costs one slice.
 *
 * Who waits for many at once (a bulk for which there is room for a few only) is counted in the same
 * word as everybody, sleeps on a second one, and says in a third how much there must be: it is
 * woken when there is so much, and not at each change. It takes nothing before that, so that
 * whoever wants one goes ahead of it.
 *
 * Ordering
 *     [WAIT]  sleeper: adds itself to the word, then looks at the queue's position; waker: moves
 *             the position, then looks at the word. All four are seq_cst, so at least one of them
 *             sees the other.
 *
 * Progress: a sleep lasts at most WAIT_SLICE_NS before its caller looks again, so that a waker
 * killed between its change and its wake-up delays nobody for longer. A sleeper that is killed
 * stays counted until its member is recovered (wait_reset): each change then costs one system call
 * too many.
 *
 * What ends each wait, besides its deadline, a signal (-EINTR), close() in this process
 * (-ESHUTDOWN) and the recovery of any dead member (wait_reset): docs/memory-model.md, "What ends
 * each wait".
 */
#ifndef SHMPOOL_WAIT_H
#define SHMPOOL_WAIT_H

#include "atomic.h"

#define WAIT_SLICE_NS 200000000ll /* 5 looks a second by an idle sleeper */
#define WAIT_SHORT_NS                                                                              \
	1000000ll /* the first sleep while another member is in the middle of the operation waited for */
/* sched_yield() calls, about 0.5 us each, before the first sleep: what waking a halted core takes.
 *  */
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

/* Sleeps until woken, at most most_ns, and never past deadline_ns (CLOCK_MONOTONIC). 0 woken; 1
 * most_ns passed; -ETIMEDOUT deadline passed; -EINTR a signal was handled, and nothing else. */
int wait_sleep(uint32_t *word, uint32_t entered, int64_t most_ns, int64_t deadline_ns);

void wait_leave(uint32_t *word, uint32_t entered);

/* How long to sleep next, after a sleep of most_ns that ended as slept says. Longer and longer
 * while nothing happens: who waits behind a suspended member polls for it, and a member that was in
 * the middle of its operation did not see the sleeper. */
static inline int64_t wait_longer(int64_t most_ns, int slept)
{
	if (!slept)
		return WAIT_SHORT_NS;
	return most_ns < WAIT_SLICE_NS / 8 ? 8 * most_ns : WAIT_SLICE_NS;
}

/* The deadline of one call that may sleep, of a wait until deadline_ns: the caller goes on with
 * another call, between which its language runs the handlers of signals that came just before a
 * sleep. */
int64_t wait_slice_end(int64_t deadline_ns);

/* Wakes up to n sleepers. */
void wait_wake(uint32_t *word, uint32_t n);

/* Forgets every sleeper, dead ones included, and wakes those that live: they announce themselves
 * anew. */
void wait_reset(uint32_t *word);

/* Says that somebody counted in a word waits until there are n: before it counts for the last time.
 * 0 is nobody. A hint: who finds it reached takes it away and wakes all, and those who go on
 * waiting say it anew. */
void wait_want(uint32_t *want, uint32_t n);

/* Wakes everybody who sleeps on word if there are as many as the least of them wants. */
void wait_wake_wanted(uint32_t *word, uint32_t *want, uint64_t have);

/* Whether there are sleepers in word who do not sleep on many. */
static inline bool wait_ones(const uint32_t *word, const uint32_t *many)
{
	return (load_relaxed(word) & WAIT_COUNT_MASK) > (load_relaxed(many) & WAIT_COUNT_MASK);
}

/* Called by a member that is about to sleep on many, while n units exist that are too few for it. A
 * waker that read both words while this member entered may have taken a sleeper on word for it
 * (wait_ones()) and woken none. Wakes up to n sleepers on word. */
void wait_pass_on(uint32_t *word, const uint32_t *many, uint32_t n);

int64_t wait_now(void);    /* CLOCK_MONOTONIC, ns */
int64_t wait_coarse(void); /* the same at the last tick, some ms ago: a quarter of the cost */
int64_t wait_spent(void);  /* processor time of the calling thread, ns */
int64_t wait_wall(void);   /* CLOCK_REALTIME at the last tick: the same in every time namespace */

#endif
