/* SPDX-License-Identifier: Apache-2.0
 *
 * steer_slots.c - scenarios of steer_script.h: the slots of dead members, and their next members.
 */
#include "steer_recovery.h"

/* A recoverer that has not noticed the change does not take the next member of a dead member's slot
 * for the dead member. */
static void next_life_in_a_put(void)
{
	DO(A, ALLOC);
	START(A, PUT);
	UNTIL(A, BEFORE, SWAPS, PROD, 1);
	script_kill(A);
	mark_up_to(C, A);
	DO(D, RECOVER);
	SAME(1, script_recovery(D)->members);
	DO(E, ATTACH);
	DEMAND(script_member(A) == script_member(E));
	DO(E, ALLOC);
	uint64_t *owner = OWNER(E);
	START(E, PUT);
	UNTIL(E, AFTER, STORES, owner, 1);
	script_finish(C);
	script_finish(E);
	DO(D, GET);
	SAME(1, world_actors[D].held);
}

/* Nor does it take the next member's buffers. */
static void next_life_with_a_buffer(void)
{
	script_kill(A);
	mark_up_to(C, A);
	DO(D, RECOVER);
	SAME(1, script_recovery(D)->members);
	DO(E, ATTACH);
	DEMAND(script_member(A) == script_member(E));
	DO(E, ALLOC);
	script_finish(C);
	SAME(0, script_recovery(C)->buffers);
	DO(D, ALLOC, .n = 15);
}

/* Nor the next member's op record, which a recoverer reads that has read the dead member's
 * identity. */
static void next_life_read_as_the_dead_one(void)
{
	script_kill(A);
	START(C, RECOVER);
	UNTIL(C, AFTER, SWAPS, IDENTITY(A), 1);
	DO(D, RECOVER);
	SAME(1, script_recovery(D)->members);
	DO(E, ATTACH);
	DEMAND(script_member(A) == script_member(E));
	DO(E, ALLOC);
	script_finish(C);
	SAME(0, script_recovery(C)->buffers);
	DO(D, ALLOC, .n = 15);
}

/* Nor does it count the next member as dead, if a recoverer died that had only the slot left to
 * reset. */
static void next_life_after_an_unfinished_clearing(void)
{
	script_kill(A);
	START(C, RECOVER);
	UNTIL(C, AFTER, STORES, &script_member(A)->tag, 1);
	script_kill(C);
	mark_up_to(D, A);
	DO(B, RECOVER);
	SAME(2, script_recovery(B)->members);
	DO(E, ATTACH);
	DEMAND(script_member(A) == script_member(E));
	DO(E, ALLOC);
	script_finish(D);
	SAME(0, script_recovery(D)->buffers);
	DO(D, ALLOC, .n = 15);
}

/* A recoverer that dies while it resets a slot leaves it to the next one, and the death is counted
 * once (world_end()). */
static void die_clearing(const void *word)
{
	script_kill(A);
	START(C, RECOVER);
	UNTIL(C, AFTER, STORES, word, 1);
	script_kill(C);
	DO(D, RECOVER);
	SAME(2, script_recovery(D)->members);
}

static void die_clearing_after_the_count(void)
{
	die_clearing(&script_member(A)->deaths);
}

static void die_clearing_after_saying_so(void)
{
	die_clearing(&script_member(A)->cleared);
}

static void die_clearing_after_the_tag(void)
{
	die_clearing(&script_member(A)->tag);
}

/* E has read that a slot is free. Then F takes it and dies, and it was the slot's last epoch: E
 * becomes a member in another slot. */
static void last_epoch_ends(void)
{
	struct member *slot = script_member(A);
	script_kill(A);
	DO(D, RECOVER);
	uint32_t tag = slot->tag;
	slot->deaths = TAG_EPOCH_MAX - 1;
	slot->tag = (TAG_EPOCH_MAX - 1) << TAG_NUMBER_BITS | (tag & TAG_NUMBER_MASK);
	START(E, ATTACH);
	UNTIL(E, BEFORE, SWAPS, &slot->identity, 1);
	DO(F, ATTACH);
	DEMAND(script_member(F) == slot);
	script_kill(F);
	DO(D, RECOVER);
	SAME(TAG_EPOCH_MAX, member_epoch(slot->tag));
	script_finish(E);
	DEMAND(script_member(E) != slot);
	slot->deaths = 2; /* those of A and F */
	slot->tag = 2u << TAG_NUMBER_BITS | (tag & TAG_NUMBER_MASK);
}

/* All slots are dead members'. E, which takes one of them, also recovers the others. */
static void newcomer_recovers_all(void)
{
	for (uint32_t i = A; i <= D; i++)
		script_kill(i);
	DO(E, ATTACH);
	uint32_t left = 0;
	for (uint32_t i = A; i <= D; i++)
		left += member_dead(script_member(i)->identity);
	SAME(0, left);
}

#define E_COMES_LATER .newcomers = 1u << E

const struct scenario slots_scenarios[] = {
	{ "next-life-in-a-put", next_life_in_a_put, POOL(), E_COMES_LATER },
	{ "next-life-with-a-buffer", next_life_with_a_buffer, POOL(), E_COMES_LATER },
	{ "next-life-read-as-the-dead-one", next_life_read_as_the_dead_one, POOL(), E_COMES_LATER },
	{ "next-life-after-an-unfinished-clearing", next_life_after_an_unfinished_clearing, POOL(),
	  E_COMES_LATER },
	{ "die-clearing-after-the-count", die_clearing_after_the_count, POOL() },
	{ "die-clearing-after-saying-so", die_clearing_after_saying_so, POOL() },
	{ "die-clearing-after-the-tag", die_clearing_after_the_tag, POOL() },
	{ "last-epoch-ends", last_epoch_ends, POOL(.threads = 6), .newcomers = 1u << E | 1u << F },
	{ "newcomer-recovers-all", newcomer_recovers_all, POOL(.members = 5), E_COMES_LATER },
	{ 0 },
};
