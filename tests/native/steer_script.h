/* SPDX-License-Identifier: Apache-2.0
 *
 * steer_script.h - scenarios: runs of steer.h whose steps are written down, for cases that a random
 * run meets once in many thousands.
 *
 * A scenario is a function that says what each thread does, and up to which point. A point is named
 * by the kind of the step and its word of memory:
 *
 *     START(A, PUT, .n = 2);                     A begins to put two, and makes no step yet
 *     UNTIL(A, AFTER, SWAPS, &ring->prod, 1);    A has won its first compare-and-swap of prod
 *     script_kill(A);                            A dies there
 *     DO(C, RECOVER);                            C recovers from beginning to end
 *
 * A point that is not reached fails the scenario: the core no longer does what the scenario
 * tests. Points are counted from where the thread stands. At each stop the audit must be exact.
 * At the end, when all threads have finished, everything is checked that world_end() checks. Time
 * passes only by script_let_pass().
 */
#ifndef STEER_SCRIPT_H
#define STEER_SCRIPT_H

#include "steer_world.h"

enum { A, B, C, D, E, F };
_Static_assert(F < STEER_THREADS, "threads by letters");

struct scenario {
	const char *name;
	void (*play)(void);
	struct profile pool; /* .threads is the number of threads */
	/* A bit for each thread that has not attached when the scenario begins. */
	uint32_t newcomers;
};

/* Each table ends with an entry without a name. */
extern const struct scenario recovery_scenarios[];
extern const struct scenario slots_scenarios[];
extern const struct scenario caches_scenarios[];
extern const struct scenario waits_scenarios[];
extern const struct scenario chains_scenarios[];

/* What a thread does: an operation of steer_world.h, or a function of the scenario. */
struct task {
	enum operation what;
	uint32_t n;     /* buffers; 0 means 1 */
	uint32_t queue; /* from 0 on */
	void (*call)(uint32_t me);
};

enum { BEFORE, AFTER };

#define START(thread, operation, ...)                                                              \
	script_start((thread), (struct task) { .what = (operation), ##__VA_ARGS__ })
#define DO(thread, operation, ...)                                                                 \
	(START((thread), operation, ##__VA_ARGS__), script_finish((thread)))
#define UNTIL(thread, when, kind, word, nth)                                                       \
	script_until((thread), (struct steer_point) { STEER_##kind, (word), (when), (nth) },       \
		     #nth ". " #kind " of " #word, __LINE__)

void script_start(uint32_t thread, struct task task);
void script_until(uint32_t thread, struct steer_point point, const char *said, int line);
/* Runs the thread to the end of its task. It must get there without a sleep. */
void script_finish(uint32_t thread);
/* Runs the thread until it sleeps, which it must. */
void script_sleeps(uint32_t thread);
/* Ends the thread's sleep as if its time had passed. The thread makes no step yet. */
void script_let_pass(uint32_t thread);
void script_kill(uint32_t thread);
/* Returns the result of the thread's last recovery. */
const struct shmpool_recovery *script_recovery(uint32_t thread);

/* Words of the segment. */
struct alf_queue *script_queue(uint32_t queue); /* from 0 on */
shared64 *script_slot(uint32_t queue, alf_position position);
struct member *script_member(uint32_t thread);
/* Returns the header of the nth buffer that the thread owns. */
struct buffer *script_buffer(uint32_t thread, uint32_t n);

#endif
