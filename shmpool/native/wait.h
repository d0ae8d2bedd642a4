/* SPDX-License-Identifier: Apache-2.0
 *
 * wait.h - sleeping until another process changes a queue or frees a buffer, and waking the
 * sleepers.
 *
 * A wait word is a futex in the segment: | wake-ups 12 | epoch 8 | sleepers 12 |. A member that has
 * changed something reads the word, and makes a system call only if the count of sleepers is not 0.
 *
 *     step                    by, in                       a crash after it leaves
 *     sleepers + 1            a member that will sleep,    a sleeper too many: each change makes a
 *                             wait_enter()                 needless system call
 *     sleepers - 1, if the    the same member,             nothing
 *       epoch is the same     wait_leave()
 *     wake-ups + 1, then      a member that has changed    sleepers that are not woken: each polls
 *       FUTEX_WAKE            something, wait_wake()       after one slice
 *     epoch + 1, wake-ups     a recoverer of a dead        a sleeper too many, in place of those
 *       + 1, sleepers = 1,    member, wait_reset()         that are not woken: each change wakes
 *       then FUTEX_WAKE                                    one of them, the next recoverer all
 *     sleepers - 1            the same recoverer           nothing
 *
 * A recovery repairs all of these: it resets each wait word that counts a sleeper (wait_reset()).
 *
 * Members that wait for many at once (a bulk, while there is room for a few only) use three words.
 * They are counted in the wait word like all others. They sleep on a second wait word. A third word
 * has the smallest number that one of them wants, 0 for none. They are woken when there are as
 * many, not at each change, and take nothing before, so members that want one go ahead of them.
 *
 * Fields that wrap: a sleeper misses a wake-up if exactly 4,096 of them come between its two steps,
 * and the count is one too low if a sleeper is suspended for exactly 256 resets. Either costs a
 * wake-up, and a missed wake-up costs one slice.
 *
 * Ordering
 *     [WAIT]  a sleeper adds itself to the word, then reads the queue's position. A waker moves the
 *             position, then reads the word. All four accesses are seq_cst, so at least one of the
 *             two sees the other.
 *
 * Progress: a sleep lasts WAIT_SLICE_NS at most. Then the caller polls again, so a waker that is
 * killed between its change and its wake-up delays no sleeper for longer.
 *
 * A wait also ends at its deadline, on a signal (-EINTR), when this process closes the pool
 * (-ESHUTDOWN), and when any dead member is recovered. docs/memory-model.md, "What ends each wait",
 * lists what each wait is for and which member wakes it.
 */
#ifndef SHMPOOL_WAIT_H
#define SHMPOOL_WAIT_H

#include <errno.h>

#include "atomic.h"

#define WAIT_SLICE_NS 200000000ll /* an idle sleeper polls 5 times a second */
/* The first sleep while another member is in the middle of the operation that is waited for. */
#define WAIT_SHORT_NS 1000000ll
/* sched_yield() calls before the first sleep, about 0.5 us each: together as long as the kernel
 * takes to wake a halted core. */
#define WAIT_POLLS 100
/* The most that they take together where other processes keep the processors busy. */
#define WAIT_POLLS_NS 25000000ll
#define WAIT_FOREVER INT64_MAX
#define WAIT_NEVER 0 /* as a deadline: one attempt, no sleep */

#define WAIT_COUNT_MASK 0xfffu
#define WAIT_EPOCH_ONE 0x1000u
#define WAIT_EPOCH_MASK 0xff000u
#define WAIT_WAKE_ONE 0x100000u

static inline bool wait_anybody(const uint32_t *word)
{
	return load_seq_cst(word) & WAIT_COUNT_MASK; /* [WAIT] */
}

/* Counts the caller as a sleeper. Returns the word to pass to wait_sleep() and wait_leave(). The
 * caller tries once more before it sleeps. */
uint32_t wait_enter(uint32_t *word);

/* Sleeps until woken, for most_ns at most and never past deadline_ns (CLOCK_MONOTONIC). Returns 0
 * if woken, or if the word has changed since wait_enter(); 1 if most_ns have passed; -ETIMEDOUT if
 * the deadline has passed; -EINTR if a signal was handled. */
int wait_sleep(uint32_t *word, uint32_t entered, int64_t most_ns, int64_t deadline_ns);

void wait_leave(uint32_t *word, uint32_t entered);

/* Returns the length of the next sleep, in ns, after a sleep of most_ns that returned slept. Sleeps
 * grow eightfold up to one slice while nothing happens: a suspended member, and one that was in the
 * middle of its operation when the sleeper came, wake nobody. */
static inline int64_t wait_longer(int64_t most_ns, int slept)
{
	if (!slept)
		return WAIT_SHORT_NS;
	return most_ns < WAIT_SLICE_NS / 8 ? 8 * most_ns : WAIT_SLICE_NS;
}

/* Returns the earlier of deadline_ns and one slice from now (WAIT_NEVER unchanged): the deadline of
 * one call of a longer wait. Between two such calls the interpreter runs signal handlers, also for
 * a signal that came just before a sleep. */
int64_t wait_slice_end(int64_t deadline_ns);

/* Translates the result of a wait until end, which wait_slice_end() chose, for a caller that waits
 * until deadline: -EINTR if only end has passed, because the caller goes on as after a signal. */
static inline int64_t wait_slice_result(int64_t result, int64_t end, int64_t deadline)
{
	return (result == -EAGAIN || result == -ENOBUFS) && end != deadline ? -EINTR : result;
}

/* Wakes up to n sleepers. */
void wait_wake(uint32_t *word, uint32_t n);

/* Counts no sleeper any more, dead ones included, and wakes all that live. They count themselves
 * again if they go on waiting. Until they are woken the caller is counted in their place, so that
 * they are not forgotten if it is killed in between. */
void wait_reset(uint32_t *word);

/* Lowers *want to n, the number that the caller waits for. Call it before the last count that
 * decides whether to sleep. The word is a hint: a member that finds it reached clears it and wakes
 * all, and those that go on waiting call this again. */
void wait_want(uint32_t *want, uint32_t n);

/* Wakes all that sleep on word if have is at least *want, and clears *want. */
void wait_wake_wanted(uint32_t *word, uint32_t *want, uint64_t have);

/* True if word counts sleepers that do not sleep on many. A hint: reads both words relaxed. */
static inline bool wait_ones(const uint32_t *word, const uint32_t *many)
{
	return (load_relaxed(word) & WAIT_COUNT_MASK) > (load_relaxed(many) & WAIT_COUNT_MASK);
}

/* Wakes up to n sleepers on word, if any of those do not sleep on many. A member that is about to
 * sleep on many, while n units exist that are too few for it, calls this too: a waker that read
 * both words while that member entered may have taken a sleeper on word for it and woken none. */
void wait_wake_ones(uint32_t *word, const uint32_t *many, uint32_t n);

/* The attempts of one call at what other members may be about to release. Zeroed before the first
 * one. */
struct wait_tries {
	uint32_t n;
	int64_t until_ns;
};
#define WAIT_TRIES_NS 1000000000ll

/* Pauses between two attempts: yields the processor a few times, then sleeps for 1 to 8 ms each
 * time, so that two that take something from each other do not meet again and again. For what
 * another member releases after a bounded number of steps, unless it is suspended among them.
 * Returns false once WAIT_TRIES_NS have passed since the first call. */
bool wait_again(struct wait_tries *tries);

int64_t wait_now(void);    /* CLOCK_MONOTONIC, ns */
int64_t wait_coarse(void); /* the same at the last tick, some ms ago, for a quarter of the cost */
int64_t wait_spent(void);  /* processor time of the calling thread, ns */
int64_t wait_wall(void);   /* CLOCK_REALTIME at the last tick; the same in every time namespace */

#endif
