/* SPDX-License-Identifier: Apache-2.0
 *
 * steer_script.h - scenarios: runs of steer.h of which each step is written down, for what a random
 * one meets once in many thousands.
 *
 * A scenario is a function that tells each thread what to do and how far to go in it. Its points
 * are named by what the step does to which word of memory:
 *
 *     START(A, PUT, .n = 2);                     A begins to put two, and makes no step yet
 *     UNTIL(A, AFTER, SWAPS, &ring->prod, 1);    A has won its first compare-and-swap of prod
 *     script_kill(A);                            A dies there
 *     DO(C, RECOVER);                            C does that from its beginning to its end
 *
 * A point that does not come fails the scenario: it is about something that the core does not do
 * any more. Points are counted from where the thread stands. At each stop the audit is exact, and
 * at the end, when all have come to the end of what they do, everything is checked that
 * world_end() checks. There is no other time than what script_let_pass() gives.
 */
#ifndef STEER_SCRIPT_H
#define STEER_SCRIPT_H

#include "steer_world.h"

enum { A, B, C, D, E, F };
_Static_assert(F < STEER_THREADS, "threads by letters");

struct scenario {
	const char *name;
	void (*play)(void);
	struct profile pool; /* .threads: so many */
	uint32_t newcomers;  /* by bits: have not attached when it begins */
};

/* Each ends with one that has no name. */
extern const struct scenario recovery_scenarios[];
extern const struct scenario slots_scenarios[];
extern const struct scenario caches_scenarios[];
extern const struct scenario waits_scenarios[];

/* What a thread does: of operations in steer_world.h, or a function of the scenario. */
struct task {
	enum operation what;
	uint32_t n;     /* buffers; 0 says 1 */
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
/* To the end of what it does, where it must come without a sleep. */
void script_finish(uint32_t thread);
/* Until it sleeps, which it must. */
void script_sleeps(uint32_t thread);
/* Its sleep's time is over. It makes no step yet. */
void script_let_pass(uint32_t thread);
void script_kill(uint32_t thread);
/* What the thread's last recovery said. */
const struct shmpool_recovery *script_recovery(uint32_t thread);

/* Words. */
struct alf_queue *script_queue(uint32_t queue); /* from 0 on */
shared64 *script_slot(uint32_t queue, alf_position position);
struct member *script_member(uint32_t thread);
/* The header of the nth buffer in the thread's hand. */
struct buffer *script_buffer(uint32_t thread, uint32_t n);

#endif
