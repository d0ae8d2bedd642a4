/* SPDX-License-Identifier: Apache-2.0
 *
 * steer_recovery.c - scenarios of steer_script.h: recoverers among the living.
 */
#include "steer_script.h"

/* Rings of 4 slots, and no caches. */
#define POOL .pool = { NULL, 16, 16, 0, 2, 4, 4, .threads = 4 }
#define FIRST 4 /* position in each queue */

#define QUEUE script_queue(0)
#define PROD &QUEUE->prod
#define CONS &QUEUE->cons
#define SLOT(n) script_slot(0, FIRST + (n))

/* A dies over a position that B reserves in its place. */
static void die_over_a_live_ones_position(void)
{
	DO(A, ALLOC);
	DO(B, ALLOC);
	START(A, PUT);
	UNTIL(A, BEFORE, SWAPS, PROD, 1);
	START(B, PUT);
	UNTIL(B, AFTER, SWAPS, PROD, 1);
	script_kill(A);
}

/* What a live member has reserved becomes no tombstone, whatever a dead one's op record says. */
static void live_reservation(void)
{
	die_over_a_live_ones_position();
	DO(C, RECOVER);
	SAME(1, script_recovery(C)->postponed);
	DO(D, GET);
	SAME(0, world_actors[D].held);
	script_finish(B);
}

/* What is published while a recoverer decides becomes no tombstone. */
static void published_meanwhile(void)
{
	die_over_a_live_ones_position();
	START(C, RECOVER);
	UNTIL(C, AFTER, LOADS, SLOT(0), 1);
	script_finish(B);
	script_finish(C);
	DO(D, GET);
	SAME(1, world_actors[D].held);
}

const struct scenario recovery_scenarios[] = {
	{ "live-reservation", live_reservation, POOL },
	{ "published-meanwhile", published_meanwhile, POOL },
	{ 0 },
};
