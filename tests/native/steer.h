/* SPDX-License-Identifier: Apache-2.0
 *
 * steer.h - the C core under a scheduler that is steered by a seed or by a script (steer_script.h).
 * The scheduler decides which thread makes the next step, how long its stores wait in a store
 * buffer, and before which step it dies.
 *
 * Compile the core with `-include steer.h`. Each atomic operation of atomic.h becomes a step of
 * steer.c, and so do futex(2), membarrier(2), sched_yield(2) and the clock. The threads are
 * coroutines of one thread, so the same seed gives the same run on any machine under any load.
 *
 *     store buffer  a relaxed or release store waits in its thread's buffer, through which only
 *                   that thread reads. The buffer is emptied step by step, in order; and at once by
 *                   a read-modify-write, a seq_cst store, a system call, and by any thread's
 *                   membarrier(2), as on x86-64. With `weak`, a relaxed store may pass other
 *                   stores, and those may pass it, as C11 allows.
 *     death         the thread makes no further step. The stores in its buffer become visible, and
 *                   a member that asks for its process finds it dead.
 *     suspension    the thread makes no step until other threads have made many, or can make none
 *     sleep         ends by a wake-up, or when no thread can make a step. Then steer_idle() is
 *                   called, which decides whether that is a fault.
 *
 * A load is never early, and plain accesses happen at once. Orders of loads are checked with Relacy
 * (tests/models).
 */
#ifndef STEER_H
#define STEER_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#define SHMPOOL_ATOMIC_RUNS 1
#include "atomic.h"

/* Few polls before a thread sleeps. */
#include "wait.h"
#undef WAIT_POLLS
#define WAIT_POLLS 2
#undef WAIT_POLLS_NS
#define WAIT_POLLS_NS (INT64_MAX / 2) /* a run does not depend on the time */

/* Consumers look at other lanes, and producers add some, after a few messages. */
#define LANES_STAY 2
#define LANES_LOSS 2u
#define LANES_PUTS 2u

/* All classes may have side rings; steer_world.c decides. */
#define GEOMETRY_WARM_SIZE 2048
#define GEOMETRY_WARM_BYTES (8 << 10)

#ifdef STEER_DEAF /* as if no member ever slept; test_steer.py checks that this is found */
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
#define equals_relaxed(p, v) (load_relaxed(p) == (v))
#define count_up(p, v) steer_count_up((p), (uint64_t)(v), __func__)
#define store_run_release(slot, tag, word, keep, n)                                                \
	steer_store_run((slot), (tag), (word), (keep), (n), __func__)
#define load_run_acquire(slot, tag, word, n) steer_load_run((slot), (tag), (word), (n), __func__)
#define cpu_relax() ((void)0)
#undef STORES_IN_ORDER
#define STORES_IN_ORDER (!steer_weak())

/* The rest is for the steered program. */

#define STEER_THREADS 6

/* How one run goes. steer_choose() fills it in from a seed. */
struct steer_run {
	uint64_t seed;
	uint32_t mean; /* steps that a thread makes before another one may, on average */
	/* A buffered store stays for another step with chance (delay - 1) / delay; 0: no store
	 * waits. */
	uint32_t delay;
	bool weak;
	uint32_t deaths;      /* threads that die at most */
	uint32_t suspensions; /* times that a thread is suspended for long */
	const char *haunt;    /* function in which a thread dies, NULL for any */
	/* Function in which two threads compete for a compare-and-swap, NULL for none. */
	const char *grave;
	const char *duel; /* function over whose compare-and-swap two threads meet, NULL for none */
};

void steer_choose(struct steer_run *run, uint64_t seed);

/* Returns the run's next random number below n. It depends on the seed alone. */
uint32_t steer_random(uint32_t n);

/* Runs body(0), body(1), ... body(threads - 1) to their ends or deaths. mortal has a bit for each
 * thread that may die. */
void steer_threads(const struct steer_run *run, uint32_t threads, uint32_t mortal,
		   void (*body)(uint32_t));

/* Returns the thread that makes the present step, -1 outside steer_threads(). */
int steer_self(void);
bool steer_died(uint32_t thread);
uint32_t steer_deaths(void);
uint64_t steer_steps(void);
/* Advances the simulated clock, outside steer_threads(). */
void steer_time_passes(int64_t ns);
/* Returns the word on which a thread sleeps, NULL if it does not; *most_ns is how long at most. */
const uint32_t *steer_asleep(uint32_t thread, int64_t *most_ns);
/* True if stores wait in this run. */
bool steer_buffers(void);

/* For scripts, which have no seed: a thread makes steps only in steer_go(). Its body calls
 * steer_rest() after each operation. */
enum steer_kind {
	STEER_LOADS,
	STEER_STORES,
	STEER_SWAPS,      /* compare-and-swaps; a point after one: after it succeeded */
	STEER_LOST_SWAPS, /* only a point after one */
	STEER_ADDS,
	STEER_SLEEPS, /* only a point before one */
	STEER_WAKES
};

/* The nth time from now that a thread reaches a step on a word of memory. */
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
/* Runs the thread to the point. If point is NULL or is not reached, runs it until it rests or
 * sleeps. */
enum steer_stop steer_go(uint32_t thread, const struct steer_point *point);
/* The thread dies where it is. */
void steer_kill(uint32_t thread);
/* From now on the thread's relaxed and release stores wait, until an operation empties the buffer
 * or the thread ends. steer_settle() makes its store to a word visible, with a release store all
 * before it too, as C11 allows. */
void steer_hold(uint32_t thread);
void steer_settle(uint32_t thread, const volatile void *word);
/* Ends the thread's sleep as if its time had passed. */
void steer_let_pass(uint32_t thread);

/* Defined by the program. Called when no thread can make a step and some sleep. Fails if one of
 * them should not sleep. */
void steer_idle(void);
/* Defined by the program. Called between two steps now and then. */
void steer_between(void);
/* Defined by the program. Reports a failure, and does not return. */
void steer_failed(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

/* What the core asks the kernel, defined by steer.c: the simulated process of a thread. */
#define STEER_PID(thread) (1000u + (thread))

extern bool steer_tracing; /* prints each step */

#endif
