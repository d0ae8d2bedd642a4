/* SPDX-License-Identifier: Apache-2.0
 *
 * steer.h - the C core under a scheduler that a seed steers, or a script (steer_script.h): which
 * thread makes the next step, how long its stores wait in a store buffer, and before which step it
 * dies.
 *
 * Compile the core with `-include steer.h`. Each atomic operation of atomic.h becomes a step of
 * steer.c; so do futex(2), membarrier(2), sched_yield(2) and the clock. The threads are coroutines
 * of one thread, so that the same seed gives the same run, however busy the machine is.
 *
 *     store buffer   a relaxed or release store waits in its thread's buffer, which that thread alone
 *                    reads through. It is emptied step by step, in order, and at once by a
 *                    read-modify-write, a seq_cst store, a system call, and by everybody's
 *                    membarrier(2). As x86-64 processors do. With `weak`, a relaxed store may pass
 *                    other stores, and those may pass it, as C11 allows.
 *     death          the thread makes no further step; what is in its buffer becomes visible, and
 *                    whoever asks for its process learns that it is dead
 *     suspension     the thread makes no step until the others have made many, or can make none
 *     sleep          ends by a wake-up, or when no thread can make a step: steer_idle() is called,
 *                    which says whether that was right
 *
 * A load is never early, and plain accesses happen at once: orders of loads are for Relacy
 * (tests/models).
 */
#ifndef STEER_H
#define STEER_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#define SHMPOOL_ATOMIC_RUNS 1
#include "atomic.h"

/* Short waits, before a thread sleeps. */
#include "wait.h"
#undef WAIT_POLLS
#define WAIT_POLLS 2

#ifdef STEER_DEAF /* as if nobody ever slept: the net must find it (test_steer.py) */
#define wait_anybody(word) (load_seq_cst(word) & 0)
#endif

enum steer_order { STEER_RELAXED, STEER_RELEASE, STEER_SEQ_CST };

uint64_t steer_load(const volatile void *p, uint32_t size, const char *where);
void steer_store(volatile void *p, uint64_t value, uint32_t size, enum steer_order order,
		 const char *where);
bool steer_cas(volatile void *p, void *expected, uint64_t desired, uint32_t size,
	       const char *where);
uint64_t steer_add(volatile void *p, uint64_t value, uint32_t size, const char *where);
void steer_count_up(uint64_t *p, uint64_t value, const char *where);
bool steer_weak(void); /* stores may pass each other in this run */
void steer_store_run(shared64 *slot, uint64_t tag, const uint64_t *word, uint64_t keep, uint32_t n,
		     const char *where);
uint64_t steer_load_run(const shared64 *slot, uint64_t tag, uint64_t *word, uint32_t n,
			const char *where);

#undef load_relaxed
#undef load_acquire
#undef load_seq_cst
#undef store_relaxed
#undef store_release
#undef store_seq_cst
#undef add_seq_cst
#undef add_relaxed
#undef cas_seq_cst

#define STEER_LOAD(p) ((__typeof__(*(p)))(uintptr_t)steer_load((p), sizeof(*(p)), __func__))
#define STEER_STORE(p, v, order)                                                                   \
	steer_store((p), (uint64_t)(uintptr_t)(v), sizeof(*(p)), order, __func__)

#define load_relaxed(p) STEER_LOAD(p)
#define load_acquire(p) STEER_LOAD(p)
#define load_seq_cst(p) STEER_LOAD(p)
#define store_relaxed(p, v) STEER_STORE(p, v, STEER_RELAXED)
#define store_release(p, v) STEER_STORE(p, v, STEER_RELEASE)
#define store_seq_cst(p, v) STEER_STORE(p, v, STEER_SEQ_CST)
#define add_seq_cst(p, v) ((__typeof__(*(p)))steer_add((p), (uint64_t)(v), sizeof(*(p)), __func__))
#define add_relaxed(p, v) add_seq_cst(p, v)
#define cas_seq_cst(p, expected, desired)                                                          \
	steer_cas((p), (expected), (uint64_t)(uintptr_t)(desired), sizeof(*(p)), __func__)
#define count_up(p, v) steer_count_up((p), (uint64_t)(v), __func__)
#define store_run_release(slot, tag, word, keep, n)                                                \
	steer_store_run((slot), (tag), (word), (keep), (n), __func__)
#define load_run_acquire(slot, tag, word, n) steer_load_run((slot), (tag), (word), (n), __func__)
#define cpu_relax() ((void)0)
#undef STORES_IN_ORDER
#define STORES_IN_ORDER (!steer_weak())

/* The rest is for the program that is steered. */

#define STEER_THREADS 6

/* How one run goes; steer_choose() fills it from a seed. */
struct steer_run {
	uint64_t seed;
	uint32_t mean; /* steps that a thread makes before another one may, on average */
	uint32_t
		delay; /* a buffered store stays at a step with a chance of (delay - 1) / delay; 0: none waits */
	bool weak;
	uint32_t deaths;      /* so many threads die at most */
	uint32_t suspensions; /* times that a thread is suspended for long */
	const char *haunt;    /* function in which a thread is suspended for long, NULL for none */
	const char *grave;    /* function in which a thread dies, NULL for any */
	const char *duel; /* function over whose compare-and-swap two threads meet, NULL for none */
};

void steer_choose(struct steer_run *run, uint64_t seed);

/* Deterministic random numbers of the run. */
uint32_t steer_random(uint32_t n);

/* Runs body(0), body(1), ... body(threads - 1) to their ends or deaths. mortal says by bits which
 * may die. */
void steer_threads(const struct steer_run *run, uint32_t threads, uint32_t mortal,
		   void (*body)(uint32_t));

/* The thread that makes the step, -1 outside steer_threads(). */
int steer_self(void);
bool steer_died(uint32_t thread);
uint32_t steer_deaths(void);
uint64_t steer_steps(void);
/* Outside steer_threads(): the simulated clock goes on. */
void steer_time_passes(int64_t ns);
/* Where a thread sleeps, NULL if it does not, and how long at most. */
const uint32_t *steer_asleep(uint32_t thread, int64_t *most_ns);
/* Whether stores wait at all in this run. */
bool steer_buffers(void);

/* Scripts: no seed; a thread makes steps only when steer_go() says so. Its body calls steer_rest()
 * where it is done with one operation. */
enum steer_kind {
	STEER_LOADS,
	STEER_STORES,
	STEER_SWAPS,      /* compare-and-swaps; after one: it was won */
	STEER_LOST_SWAPS, /* after it only */
	STEER_ADDS,
	STEER_SLEEPS, /* before it only */
	STEER_WAKES
};

/* The nth time that a thread comes to a step on a word of memory, from here on. */
struct steer_point {
	enum steer_kind kind;
	const volatile void *word;
	bool after;
	uint32_t nth;
};

/* Why a thread makes no further step. */
enum steer_stop { STEER_REACHED, STEER_RESTING, STEER_SLEEPING };

void steer_open(uint32_t threads, void (*body)(uint32_t));
void steer_close(void);
void steer_rest(void);
/* The thread runs until the point, or if that is NULL or does not come until it rests or sleeps. */
enum steer_stop steer_go(uint32_t thread, const struct steer_point *point);
/* It dies where it is. */
void steer_kill(uint32_t thread);
/* Its relaxed and release stores wait from here on: for an operation that settles all of them, or
 * its end. steer_settle() makes that to a word visible, and with a release store all before it: as
 * C11 allows. */
void steer_hold(uint32_t thread);
void steer_settle(uint32_t thread, const volatile void *word);
/* It sleeps, and its time is over. */
void steer_let_pass(uint32_t thread);

/* Given by the program. Nobody can make a step and somebody sleeps: fails if one of them should
 * not. */
void steer_idle(void);
/* Some time between two steps, now and then. */
void steer_between(void);
/* Reports a failure, and does not return. */
void steer_failed(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

/* What the core asks of the kernel: given by steer.c. The simulated process of a thread. */
#define STEER_PID(thread) (1000u + (thread))

extern bool steer_tracing; /* prints each step */

#endif
