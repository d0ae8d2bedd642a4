/* SPDX-License-Identifier: Apache-2.0
 *
 * steer_recovery.c - scenarios of steer_script.h: recoverers among live members, positions, claims
 * and abandoned buffers.
 */
#include "steer_recovery.h"

/* Positions and tombstones. */

/* A dies just before it reserves a position, which B then reserves. */
static void die_over_a_live_reservation(void)
{
	DO(A, ALLOC);
	DO(B, ALLOC);
	START(A, PUT);
	UNTIL(A, BEFORE, SWAPS, PROD, 1);
	START(B, PUT);
	UNTIL(B, AFTER, SWAPS, PROD, 1);
	script_kill(A);
}

/* A position that a live member has reserved becomes no tombstone, whatever a dead member's op
 * record covers. */
static void live_reservation(void)
{
	die_over_a_live_reservation();
	DO(C, RECOVER);
	SAME(1, script_recovery(C)->postponed);
	DO(D, GET);
	SAME(0, world_actors[D].held);
	script_finish(B);
}

/* A position that is published while a recoverer decides becomes no tombstone. */
static void published_before_a_tombstone(void)
{
	die_over_a_live_reservation();
	START(C, RECOVER);
	UNTIL(C, AFTER, LOADS, SLOT(0), 1);
	script_finish(B);
	script_finish(C);
	DO(D, GET);
	SAME(1, world_actors[D].held);
}

/* The same, and the owner word of B's buffer says TRANSIT. */
static void die_over_a_live_transit(void)
{
	DO(B, ALLOC);
	uint64_t *owner = OWNER(B);
	DO(A, ALLOC);
	START(A, PUT);
	UNTIL(A, BEFORE, SWAPS, PROD, 1);
	START(B, PUT);
	UNTIL(B, AFTER, STORES, owner, 1);
	script_kill(A);
}

/* A live member's buffer in TRANSIT to a position stays there. */
static void live_transit(void)
{
	die_over_a_live_transit();
	DO(C, RECOVER);
	SAME(1, script_recovery(C)->postponed);
	script_finish(B);
	DO(D, GET);
	SAME(1, world_actors[D].held);
}

/* A buffer that arrives while a recoverer decides stays there too. */
static void published_before_unreserving(void)
{
	die_over_a_live_transit();
	START(C, RECOVER);
	UNTIL(C, AFTER, LOADS, SLOT(0), 1);
	script_finish(B);
	script_finish(C);
	DO(D, GET);
	SAME(1, world_actors[D].held);
}

/* A bulk that wraps at the end of the ring is seen whole or not at all: A dies when the first slot
 * that a consumer reads is published. */
static void bulk_round_the_end(void)
{
	DO(B, ALLOC, .n = 3);
	DO(B, PUT, .n = 3);
	DO(B, GET, .n = 3);
	DO(A, ALLOC, .n = 2);
	START(A, PUT, .n = 2);
	UNTIL(A, AFTER, STORES, SLOT(3), 1);
	DO(D, GET, .n = 2);
	script_kill(A);
	DO(C, RECOVER);
	DO(D, GET, .n = 2);
}

/* A dies with a buffer in TRANSIT to a position. */
static void die_in_a_put(void)
{
	DO(A, ALLOC);
	uint64_t *owner = OWNER(A);
	START(A, PUT);
	UNTIL(A, AFTER, STORES, owner, 1);
	script_kill(A);
}

/* Such a buffer is taken from there before consumers may pass: a live single consumer may have
 * claimed everything behind cons. */
static void the_ring_goes_round_behind_a_tombstone(void)
{
	DO(B, ALLOC, .n = 4);
	die_in_a_put();
	START(C, RECOVER);
	UNTIL(C, AFTER, SWAPS, SLOT(0), 1);
	DO(B, PUT, .n = 3);
	DO(D, GET, .n = 3);
	SAME(3, world_actors[D].held);
	DO(B, PUT);
	script_finish(C);
}

/* A position whose owner was not certain becomes no tombstone, even if the owner is certain a
 * moment later: the buffer in TRANSIT to it has not been taken yet. */
static void postponed_and_then_certain(void)
{
	DO(B, ALLOC);
	START(B, PUT);
	UNTIL(B, BEFORE, SWAPS, PROD, 1);
	die_in_a_put();
	START(C, RECOVER);
	UNTIL(C, AFTER, LOADS, OP(B), 1);
	script_finish(B);
	UNTIL(C, AFTER, SWAPS, SLOT(0), 1);
	DO(D, GET);
	SAME(1, world_actors[D].held);
	script_finish(C);
}

/* Buffers abandoned on behalf of one dead member do not depend on another one, whose recovery ends
 * in that time. */
static void abandoned_beside_another(void)
{
	DO(B, ALLOC);
	uint64_t *owner = OWNER(B);
	script_kill(A);
	mark_up_to(D, B);
	START(B, PUT);
	UNTIL(B, AFTER, STORES, owner, 1);
	script_kill(B);
	mark_up_to(C, B);
	script_finish(D);
	SAME(1, script_recovery(D)->members);
	UNTIL(C, AFTER, SWAPS, owner, 1);
	script_kill(C);
}

/* A late recoverer finds that a dead single producer's role has a successor. The successor's
 * positions are not the dead member's. */
static void successor_of_a_single_producer(void)
{
	DO(B, ALLOC);
	DO(A, ALLOC);
	DO(A, PUT);
	script_kill(A);
	START(C, RECOVER);
	UNTIL(C, AFTER, LOADS, &script_queue(0)->producer, 1);
	DO(D, RECOVER);
	SAME(1, script_recovery(D)->members);
	START(B, PUT);
	UNTIL(B, AFTER, STORES, PROD, 1);
	script_finish(C);
	DO(D, GET, .n = 2);
	script_finish(B);
	DO(D, GET, .n = 2);
	SAME(2, world_actors[D].held);
}

/* A recoverer dies in the middle of making tombstones, and consumers pass those that exist. The
 * next recoverer makes the rest. */
static void die_burying(void)
{
	DO(A, ALLOC, .n = 3);
	DO(B, ALLOC);
	START(A, PUT, .n = 3);
	UNTIL(A, AFTER, SWAPS, PROD, 1);
	DO(B, PUT);
	script_kill(A);
	START(C, RECOVER);
	UNTIL(C, AFTER, SWAPS, SLOT(0), 1);
	script_kill(C);
	DO(D, GET);
	SAME(0, world_actors[D].held);
	DO(D, RECOVER);
	DO(D, GET);
	SAME(1, world_actors[D].held);
}

/* Claims. */

/* A buffer that a live member has claimed is left to it. */
static void live_claim(void)
{
	DO(B, ALLOC);
	DO(B, PUT);
	script_kill(A);
	START(B, GET);
	UNTIL(B, AFTER, SWAPS, CONS, 1);
	DO(C, RECOVER);
	SAME(0, script_recovery(C)->buffers);
	script_finish(B);
	DO(D, ALLOC, .n = 15);
}

/* A dead single consumer's claim is found by its role, which is released only afterwards. */
static void successor_of_a_single_consumer(void)
{
	DO(B, ALLOC);
	DO(B, PUT);
	START(A, GET);
	UNTIL(A, AFTER, STORES, CONS, 1);
	script_kill(A);
	START(C, RECOVER);
	UNTIL(C, AFTER, SWAPS, &script_queue(0)->consumer, 1);
	DO(D, GET);
	script_finish(C);
	SAME(1, script_recovery(C)->buffers);
}

/* A dead member keeps its slot as long as it is not certain whether it claimed a buffer. */
static void claimed_by_one_of_two(void)
{
	DO(B, ALLOC);
	DO(B, PUT);
	START(B, GET);
	UNTIL(B, BEFORE, SWAPS, CONS, 1);
	START(A, GET);
	UNTIL(A, AFTER, SWAPS, CONS, 1);
	script_kill(A);
	DO(C, RECOVER);
	SAME(1, script_recovery(C)->postponed);
	script_finish(B);
	SAME(0, world_actors[B].held);
}

/* Two recoverers reserve a position for the same buffer: the slower one's becomes a tombstone. */
static void requeued_by_two(void)
{
	DO(B, ALLOC);
	DO(B, PUT);
	DO(A, GET);
	script_kill(A);
	START(C, RECOVER);
	UNTIL(C, AFTER, SWAPS, PROD, 1);
	DO(D, RECOVER);
	SAME(1, script_recovery(D)->requeued);
	script_finish(C);
	SAME(0, script_recovery(C)->requeued);
	DO(D, GET);
	SAME(1, world_actors[D].held);
}

/* A buffer that a recoverer has abandoned and not counted, because it is suspended there, is put
 * into its queue all the same once there is room. */
static void abandoned_and_not_yet_counted(void)
{
	DO(B, ALLOC, .n = 5);
	DO(B, PUT);
	DO(A, GET);
	uint64_t *owner = OWNER(A);
	DO(B, PUT, .n = 3);
	DO(B, PUT);
	script_kill(A);
	START(C, RECOVER);
	UNTIL(C, AFTER, SWAPS, owner, 1);
	DO(D, RECOVER);
	SAME(1, script_recovery(D)->members);
	DO(D, GET);
	DO(D, RECOVER);
	SAME(1, script_recovery(D)->requeued);
	script_finish(C);
}

/* A buffer that is abandoned behind a sweep does not count as swept: C places A's buffer, and has
 * passed E's when D abandons that one. */
static void abandoned_behind_a_sweep(void)
{
	const struct qmempool *p = &world_actors[LAST].pool;
	DO(B, ALLOC, .n = 6);
	DO(B, PUT, .n = 2);
	DO(A, GET);
	DO(E, GET);
	DO(B, PUT, .n = 3);
	DO(B, PUT);
	script_kill(A);
	DO(D, RECOVER);
	SAME(1, script_recovery(D)->postponed);
	DO(D, GET);
	START(C, RECOVER);
	UNTIL(C, AFTER, LOADS, &pool_buffer(p, p->capacity - 1)->owner, 1);
	SAME(1, script_recovery(C)->requeued);
	script_kill(E);
	DO(D, RECOVER);
	SAME(1, script_recovery(D)->postponed);
	script_finish(C);
	DO(D, GET);
	DO(B, RECOVER);
	SAME(1, script_recovery(B)->requeued);
}

const struct scenario recovery_scenarios[] = {
	{ "live-reservation", live_reservation, POOL() },
	{ "published-before-a-tombstone", published_before_a_tombstone, POOL() },
	{ "live-transit", live_transit, POOL() },
	{ "published-before-unreserving", published_before_unreserving, POOL() },
	{ "bulk-round-the-end", bulk_round_the_end, POOL() },
	{ "ring-goes-round-behind-a-tombstone", the_ring_goes_round_behind_a_tombstone,
	  POOL(.flags = { SC }) },
	{ "postponed-and-then-certain", postponed_and_then_certain, POOL(.flags = { SC }) },
	{ "abandoned-beside-another", abandoned_beside_another, POOL() },
	{ "successor-of-a-single-producer", successor_of_a_single_producer, POOL(.flags = { SP }) },
	{ "die-burying", die_burying, POOL() },
	{ "live-claim", live_claim, POOL() },
	{ "successor-of-a-single-consumer", successor_of_a_single_consumer, POOL(.flags = { SC }) },
	{ "claimed-by-one-of-two", claimed_by_one_of_two, POOL() },
	{ "requeued-by-two", requeued_by_two, POOL(.on_death = { REQUEUE }) },
	{ "abandoned-and-not-yet-counted", abandoned_and_not_yet_counted,
	  POOL(.on_death = { REQUEUE }) },
	{ "abandoned-behind-a-sweep", abandoned_behind_a_sweep, POOL(.on_death = { REQUEUE }) },
	{ 0 },
};
