/* SPDX-License-Identifier: Apache-2.0
 *
 * steer_caches.c - scenarios of what a dead member leaves: entries of local caches, member slots
 * and extents.
 */
#include "steer_script.h"

#define SMALL .capacity = 4, .prealloc = 4, .cache = 4, .bulk = 2, .extent = 4, .ring = 4
#define GROWS .capacity = 8, .prealloc = 6, .cache = 4, .bulk = 2, .extent = 2, .ring = 4

static uint32_t held(uint32_t thread)
{
	return world_actors[thread].held;
}

/* A frees two buffers into its cache. B steals the first one, and dies before it moves the bottom
 * of A's cache, which still lists that buffer. */
static struct buffer *leave_stale_entry(void)
{
	DO(A, ALLOC, .n = 4);
	struct buffer *stolen = script_buffer(A, 2);
	DO(A, FREE, .n = 2);
	START(B, ALLOC);
	UNTIL(B, AFTER, SWAPS, &stolen->owner, 1);
	script_kill(B);
	return stolen;
}

/* The buffer returns to A through a queue before A flushes its cache: A owns it again, with another
 * generation. */
static void stale_entry_of_own_buffer(void)
{
	leave_stale_entry();
	DO(C, RECOVER);
	DO(C, ALLOC);
	DO(C, PUT);
	DO(A, GET);
	SAME(3, held(A));
	DO(A, ALLOC);
	SAME(4, held(A));
}

/* A flushes its cache while a recoverer owns the buffer and has not raised its generation yet. */
static void stale_entry_of_recoverer(void)
{
	struct buffer *stolen = leave_stale_entry();
	START(C, RECOVER);
	UNTIL(C, AFTER, SWAPS, &stolen->owner, 1);
	DO(A, ALLOC);
	SAME(3, held(A));
	script_finish(C);
	DO(A, ALLOC);
	SAME(4, held(A));
}

/* A itself is the recoverer, and C steals from its cache at that moment. */
static void stale_entry_of_own_recovery(void)
{
	struct buffer *stolen = leave_stale_entry();
	START(A, RECOVER);
	UNTIL(A, AFTER, SWAPS, &stolen->owner, 1);
	DO(C, ALLOC);
	SAME(1, held(C));
	script_finish(A);
	DO(A, ALLOC);
	SAME(3, held(A));
}

/* A dies while B steals from its cache. D becomes a member and fills a cache before B moves the
 * bottom of A's. */
static void thief_outlives_owner(void)
{
	DO(A, ALLOC, .n = 4);
	DO(A, FREE, .n = 4);
	START(B, ALLOC);
	UNTIL(B, BEFORE, STORES, &script_member(A)->cache_bottom, 1);
	script_kill(A);
	DO(C, RECOVER);
	DO(D, ATTACH);
	DO(D, ALLOC);
	script_finish(B);
	DO(D, ALLOC);
	DO(D, ALLOC);
	SAME(1, held(B));
	SAME(3, held(D));
}

/* D has removed the extent and died, so its headers name D. C recovers D while B creates the extent
 * again, and B's stores become visible as late as their orders allow. */
static void extent_is_published(void)
{
	uint64_t *extent = segment_extent(&world_segment, 0);
	DO(D, ALLOC, .n = 8);
	DO(D, FREE, .n = 8);
	DO(D, TRIM);
	SAME(0, *extent);
	script_kill(D);
	DO(B, ALLOC, .n = 6);
	START(B, ALLOC);
	steer_hold(B);
	UNTIL(B, AFTER, STORES, extent, 1);
	steer_settle(B, extent);
	SAME(EXTENT_PRESENT, *extent);
	DO(C, RECOVER);
	script_finish(B);
	DO(C, ALLOC);
	SAME(7, held(B));
	SAME(1, held(C));
}

/* A's process knows that every extent exists. D dies in the middle of removing one. */
static void extent_was_being_taken_away(void)
{
	uint64_t *extent = segment_extent(&world_segment, 0);
	DO(A, ALLOC, .n = 8);
	DO(A, ALLOC);
	SAME(8, held(A));
	DO(A, FREE, .n = 8);
	START(D, TRIM);
	UNTIL(D, AFTER, SWAPS, extent, 1);
	script_kill(D);
	DO(C, RECOVER);
	SAME(0, *extent);
	DO(A, ALLOC, .n = 8);
	SAME(8, held(A));
}

/* D has found no pin, and is about to claim the extent. B pins the pool, and registers the extent:
 * it stays, with its memory. */
static void extent_is_pinned_before_the_claim(void)
{
	uint64_t *extent = segment_extent(&world_segment, 0);
	DO(A, ALLOC, .n = 8);
	DO(A, FREE, .n = 8);
	START(D, TRIM);
	UNTIL(D, BEFORE, SWAPS, extent, 1);
	DO(B, CALL, .call = world_pin);
	SAME(world_actors[B].pool.segment.geometry.capacity * 2048,
	     load_relaxed(&world_actors[B].pin.bytes));
	script_finish(D);
	SAME(EXTENT_PRESENT, *extent);
	DO(D, TRIM);
	SAME(EXTENT_PRESENT, *extent);
	DO(B, CALL, .call = world_unpin);
	DO(D, TRIM);
	SAME(0, *extent);
}

/* D has claimed the extent. B pins the pool, and does not register the extent. D keeps it, and then
 * B registers it. B dies: its pin does not count any more. */
static void extent_is_pinned_after_the_claim(void)
{
	uint64_t *extent = segment_extent(&world_segment, 0);
	DO(A, ALLOC, .n = 8);
	DO(A, FREE, .n = 8);
	START(D, TRIM);
	UNTIL(D, AFTER, SWAPS, extent, 1);
	DO(B, CALL, .call = world_pin);
	SAME(6 * 2048, load_relaxed(&world_actors[B].pin.bytes));
	script_finish(D);
	SAME(EXTENT_PRESENT, *extent);
	DO(B, CALL, .call = world_register);
	SAME(8 * 2048, load_relaxed(&world_actors[B].pin.bytes));
	DO(D, TRIM);
	SAME(EXTENT_PRESENT, *extent);
	script_kill(B);
	DO(D, TRIM);
	SAME(0, *extent);
}

/* D dies when it has claimed the extent, and has not asked for pins again. The extent is absent
 * then, but keeps its memory, which B has registered. A creates it again. */
static void trimmer_of_a_pinned_extent_dies(void)
{
	uint64_t *extent = segment_extent(&world_segment, 0);
	DO(A, ALLOC, .n = 8);
	DO(A, FREE, .n = 8);
	START(D, TRIM);
	UNTIL(D, BEFORE, SWAPS, extent, 1);
	DO(B, CALL, .call = world_pin);
	UNTIL(D, AFTER, SWAPS, extent, 1);
	script_kill(D);
	DO(C, RECOVER);
	SAME(0, *extent);
	DO(A, ALLOC, .n = 8);
	SAME(EXTENT_PRESENT, *extent);
	DO(B, CALL, .call = world_unpin);
}

/* A ends while B adopts the last buffer that A had. At least one of the two sees the other, and
 * frees A's slot, however late A's stores become visible. */
static void last_buffer_is_adopted(void)
{
	struct member *slot = script_member(A);
	DO(A, ALLOC);
	DO(A, HAND_OVER);
	steer_hold(A);
	START(A, END);
	UNTIL(A, AFTER, LOADS, &slot->adopted, 1);
	DO(B, ADOPT);
	SAME(0, slot->identity);
	script_finish(A);
}

/* C has read that A, which has ended, owns no buffer. Then B frees A's slot, D takes the slot, and
 * D ends while it owns a buffer, before C continues: the slot is no longer the one that C
 * has read. */
static void slot_ends_again(void)
{
	struct member *slot = script_member(A);
	DO(A, ALLOC, .n = 2);
	DO(A, HAND_OVER);
	DO(A, HAND_OVER);
	DO(A, END);
	START(B, ADOPT);
	UNTIL(B, AFTER, ADDS, &slot->adopted, 1);
	START(C, ADOPT);
	UNTIL(C, BEFORE, SWAPS, &slot->ended, 1);
	script_finish(B);
	DO(D, ATTACH);
	DEMAND(script_member(D) == slot);
	DO(D, ALLOC);
	DO(D, HAND_OVER);
	DO(D, END);
	script_finish(C);
	DO(A, ADOPT);
	SAME(0, slot->identity);
}

const struct scenario caches_scenarios[] = {
	{ "stale-entry-of-own-buffer", stale_entry_of_own_buffer, { SMALL, .threads = 3 } },
	{ "stale-entry-of-recoverer", stale_entry_of_recoverer, { SMALL, .threads = 3 } },
	{ "stale-entry-of-own-recovery", stale_entry_of_own_recovery, { SMALL, .threads = 3 } },
	{ "thief-outlives-owner",
	  thief_outlives_owner,
	  { SMALL, .threads = 4 },
	  .newcomers = 1 << D },
	{ "extent-is-published", extent_is_published, { GROWS, .threads = 4 } },
	{ "extent-was-being-taken-away", extent_was_being_taken_away, { GROWS, .threads = 4 } },
	{ "extent-is-pinned-before-the-claim",
	  extent_is_pinned_before_the_claim,
	  { GROWS, .threads = 4 } },
	{ "extent-is-pinned-after-the-claim",
	  extent_is_pinned_after_the_claim,
	  { GROWS, .threads = 4 } },
	{ "trimmer-of-a-pinned-extent-dies",
	  trimmer_of_a_pinned_extent_dies,
	  { GROWS, .threads = 4 } },
	{ "last-buffer-is-adopted",
	  last_buffer_is_adopted,
	  { SMALL, .threads = 2, .one_process = true } },
	{ "slot-ends-again",
	  slot_ends_again,
	  { SMALL, .threads = 4, .one_process = true },
	  .newcomers = 1 << D },
	{ 0 },
};
