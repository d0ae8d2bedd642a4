/* SPDX-License-Identifier: Apache-2.0
 *
 * steer_chains.c - scenarios of steer_script.h: chains, and what is left of those of dead members.
 */
#include "steer_recovery.h"

#include "bypass.h"
#include "bytes.h"

#define BUFFER(index) pool_buffer(&world_actors[LAST].pool, (index))
#define INDEX(thread, n) handle_index(world_actors[thread].hand[n])

/* Returns how many buffers count as segments, by the counters of all members together. */
static int64_t counted(void)
{
	uint64_t n = 0;
	for (uint32_t i = 0; i < world_segment.members; i++)
		n += member_count(segment_member(&world_segment, i), COUNT_CHAINED);
	return (int64_t)n;
}

/* Makes a chain of n buffers, whose head lies behind its segments, so that a sweep meets them
 * first. Returns the head's index. */
static uint32_t chain_backwards(uint32_t me, uint32_t n)
{
	DO(me, ALLOC, .n = n);
	DO(me, CHAIN, .n = n, .queue = 1);
	return INDEX(me, 0);
}

/* One recovery frees the segments that the sweep has passed before it frees their head. */
static void segments_before_their_head(void)
{
	chain_backwards(A, 3);
	script_kill(A);
	DO(C, RECOVER);
	SAME(3, script_recovery(C)->buffers);
	SAME(0, counted());
	DO(D, ALLOC, .n = 16);
}

/* The same, if A dies in the middle of making the chain. */
static void die_making_a_chain(void)
{
	DO(A, ALLOC, .n = 3);
	shared64 *owner = OWNER(A);
	START(A, CHAIN, .n = 3, .queue = 1);
	UNTIL(A, AFTER, STORES, owner, 1);
	script_kill(A);
	DO(C, RECOVER);
	SAME(3, script_recovery(C)->buffers);
	DO(D, ALLOC, .n = 16);
}

/* The same, if the head is the head of another chain by then. */
static void head_of_the_next_chain(void)
{
	const struct alf_ring *ring = &world_actors[LAST].pool.free;
	uint32_t head = chain_backwards(A, 3);
	DO(D, ALLOC, .n = 13);
	script_kill(A);
	START(C, RECOVER);
	UNTIL(C, AFTER, STORES, &ring->slot[ring->q->prod & ring->mask], 1);
	DO(D, FREE);
	DO(B, ALLOC, .n = 2);
	SAME(head, INDEX(B, 0));
	DO(B, CHAIN, .n = 2);
	script_finish(C);
	SAME(3, script_recovery(C)->buffers);
	SAME(1, counted());
}

/* C dies when it has freed the head, and D frees what is left. D has no slot before: it leaves the
 * segments as they are, and counts them when it has one. */
static void orphans_of_a_dead_recoverer(void)
{
	uint32_t head = chain_backwards(A, 4), segment = head - 1;
	script_kill(A);
	START(C, RECOVER);
	UNTIL(C, AFTER, STORES, &BUFFER(head)->handle, 1);
	script_kill(C);
	START(E, ATTACH);
	UNTIL(E, BEFORE, SWAPS, &script_member(A)->identity, 1);
	DEMAND(owner_is_chained(load_relaxed(&BUFFER(segment)->owner)));
	script_finish(E);
	SAME(0, counted());
	DO(D, ALLOC, .n = 16);
}

/* C has read a segment's owner word. Then B frees the chain, and its head is the head of another
 * chain. C leaves the segment alone, whose new owner is alive. */
static void freed_while_a_recoverer_decides(void)
{
	uint32_t head = chain_backwards(B, 2), segment = head - 1;
	script_kill(A);
	START(C, RECOVER);
	UNTIL(C, AFTER, LOADS, &BUFFER(segment)->owner, 1);
	DO(B, FREE);
	DO(B, ALLOC, .n = 16);
	DO(B, CHAIN, .n = 2);
	script_finish(C);
	SAME(0, script_recovery(C)->buffers);
	SAME(1, counted());
}

/* The same, and what B frees becomes visible as late as C11 allows. */
static void freed_in_a_store_buffer(void)
{
	uint32_t head = chain_backwards(B, 2), segment = head - 1;
	script_kill(A);
	steer_hold(B);
	START(B, FREE);
	UNTIL(B, AFTER, STORES, &BUFFER(head)->handle, 2);
	steer_settle(B, &BUFFER(head)->handle);
	steer_settle(B, &BUFFER(head)->handle);
	DO(C, RECOVER);
	SAME(0, script_recovery(C)->buffers);
	DEMAND(!owner_is_chained(load_relaxed(&BUFFER(segment)->owner)));
	script_finish(B);
}

/* The word of a segment is not visible before its head's generation, which B has raised just
 * before. */
static void chain_again(uint32_t me)
{
	world_free(me, 2);
	world_alloc(me, 2, false, 0);
	world_chain(me, 2, false);
}

static void made_in_a_store_buffer(void)
{
	DO(B, ALLOC, .n = 2);
	shared64 *owner = &BUFFER(INDEX(B, 1))->owner;
	steer_hold(B);
	START(B, CALL, .call = chain_again);
	UNTIL(B, AFTER, STORES, owner, 1);
	steer_settle(B, owner);
	DEMAND(owner_is_chained(*owner));
	script_kill(A);
	DO(C, RECOVER);
	SAME(0, script_recovery(C)->buffers);
	script_finish(B);
}

/* A recoverer without a slot abandons a head; it is not a free buffer for those who find none. B
 * has read the owner word of the same buffer when it was a single one. */
static void bypass(uint32_t me)
{
	struct actor *a = &world_actors[me];
	uint64_t handle;
	if (bypass_take(&a->pool, a->m, &handle, 1, UINT32_MAX))
		a->hand[a->held++] = handle;
}

static void abandoned_head_is_not_free(void)
{
	DO(A, ALLOC);
	uint64_t *owner = OWNER(A);
	DO(D, ALLOC, .n = 15);
	script_kill(A);
	START(E, ATTACH);
	UNTIL(E, AFTER, SWAPS, owner, 1);
	START(B, CALL, .call = bypass);
	UNTIL(B, BEFORE, SWAPS, owner, 1);
	DO(C, RECOVER);
	DO(F, ATTACH);
	DO(D, FREE);
	DO(C, ALLOC, .n = 2);
	DO(C, CHAIN, .n = 2);
	DEMAND(owner == OWNER(C));
	script_kill(C);
	UNTIL(E, AFTER, SWAPS, owner, 1);
	script_finish(B);
	SAME(0, world_actors[B].held);
	script_finish(E);
	SAME(0, counted());
	DO(B, ALLOC, .n = 2);
}

/* Corrupts the last segment of one chain: the head of another one follows it, as a segment. A free
 * leaves the other one's segment to a sweep, instead of going from chain to chain. */
static void free_first(uint32_t me)
{
	struct actor *a = &world_actors[me];
	SAME(0, qmempool_free(&a->pool, a->m, a->hand[0]));
}

static void chain_of_chains(void)
{
	struct actor *b = &world_actors[B];
	for (int i = 0; i < 2; i++) {
		DO(B, ALLOC, .n = 2);
		DO(B, CHAIN, .n = 2);
	}
	const uint32_t head = INDEX(B, 1);
	const uint32_t last = chain_next(&b->pool, b->hand[0], INDEX(B, 0));
	struct buffer *segment = BUFFER(chain_next(&b->pool, b->hand[1], head));
	BUFFER(last)->link = last ^ head;
	BUFFER(head)->owner = BUFFER(last)->owner;
	count_up(&b->m->counters[COUNT_CHAINED], 1);
	DO(B, CALL, .call = free_first);
	world_forget(B);
	DEMAND(owner_is_chained(segment->owner));
	script_kill(A);
	DO(C, RECOVER);
	SAME(1, script_recovery(C)->buffers);
	SAME(0, counted());
	DO(D, ALLOC, .n = 16);
}

/* Corrupted links that lead back make a chain of three times its buffers at most. Its
 * segments are freed once. */
static void links_in_a_circle(void)
{
	const struct actor *b = &world_actors[B];
	DO(B, ALLOC, .n = 3);
	DO(B, CHAIN, .n = 3);
	const uint64_t head = b->hand[0];
	const uint32_t second = chain_next(&b->pool, head, handle_index(head));
	const uint32_t third = chain_next(&b->pool, head, second);
	BUFFER(third)->link = third ^ second;
	SAME(3, chain_count(&b->pool, head));
	uint32_t parts = 0;
	for (struct bytes_part part = bytes_first(&b->pool, head); part.n;
	     part = bytes_next(&b->pool, head, &part))
		parts++;
	SAME(3, parts);
	DO(B, FREE);
	SAME(0, counted());
	DO(D, ALLOC, .n = 16);
}

/* A burst that names a chain twice frees nothing. */
static void free_twice(uint32_t me)
{
	struct actor *a = &world_actors[me];
	const uint64_t twice[2] = { a->hand[0], a->hand[0] };
	DEMAND(qmempool_free_bulk(&a->pool, a->m, twice, 2) < 0);
	SAME(2, chain_count(&a->pool, a->hand[0]));
}

static void chain_named_twice(void)
{
	chain_backwards(B, 2);
	DO(B, CALL, .call = free_twice);
}

/* All slots are dead members' or taken: the newcomers have none at first. */
#define CROWDED .members = 5

const struct scenario chains_scenarios[] = {
	{ "segments-before-their-head", segments_before_their_head, POOL() },
	{ "die-making-a-chain", die_making_a_chain, POOL() },
	{ "head-of-the-next-chain", head_of_the_next_chain, POOL() },
	{ "orphans-of-a-dead-recoverer", orphans_of_a_dead_recoverer, POOL(CROWDED),
	  .newcomers = 1u << E },
	{ "freed-while-a-recoverer-decides", freed_while_a_recoverer_decides, POOL() },
	{ "freed-in-a-store-buffer", freed_in_a_store_buffer, POOL(.cache = 4) },
	{ "made-in-a-store-buffer", made_in_a_store_buffer, POOL(.cache = 4) },
	{ "abandoned-head-is-not-free", abandoned_head_is_not_free, POOL(CROWDED, .threads = 6),
	  .newcomers = 1u << E | 1u << F },
	{ "chain-of-chains", chain_of_chains, POOL() },
	{ "links-in-a-circle", links_in_a_circle, POOL() },
	{ "chain-named-twice", chain_named_twice, POOL() },
	{ 0 },
};
