/* SPDX-License-Identifier: Apache-2.0
 *
 * steer_waits.c - scenarios of sleepers that must be woken at once, where polling would find later
 * what they wait for; and of messages that are returned or copied out.
 */
#include "steer_script.h"
#include "topic.h"

#define SMALL .capacity = 4, .prealloc = 4, .cache = 4, .bulk = 2, .extent = 4, .ring = 4
#define FULL_OF_TWO .capacity = 16, .prealloc = 16, .cache = 4, .bulk = 2, .extent = 4, .ring = 2

static uint32_t held(uint32_t thread)
{
	return world_actors[thread].held;
}

/* A has every buffer when B begins to wait for one. A's next free goes to B, not into A's cache. */
static void waits_for_a_free(void)
{
	DO(A, ALLOC, .n = 4);
	START(B, ALLOC_WAIT);
	script_sleeps(B);
	DO(A, FREE);
	script_finish(B);
	SAME(1, held(B));
}

/* The same with many: none of the frees goes into A's cache, and the last one wakes B. */
static void waits_for_frees(void)
{
	DO(A, ALLOC, .n = 4);
	START(B, ALLOC_WAIT, .n = 2);
	script_sleeps(B);
	DO(A, FREE);
	DO(A, FREE);
	script_finish(B);
	SAME(2, held(B));
}

/* B may not steal from A's cache, because A's process has no membarrier(2), and requests A to flush
 * it. A does so in its next call, and still gets what it needs itself. */
static void asks_for_a_flush(void)
{
	DO(A, ALLOC, .n = 4);
	DO(A, FREE, .n = 2);
	script_member(A)->barrier = 0;
	START(B, ALLOC_WAIT);
	script_sleeps(B);
	DO(A, ALLOC);
	SAME(3, held(A));
	script_finish(B);
	SAME(1, held(B));
}

/* A's free did not see B's request, and is in A's store buffer. B nevertheless steals from
 * A's cache. */
static void free_before_the_request(void)
{
	DO(A, ALLOC, .n = 4);
	steer_hold(A);
	START(A, FREE);
	UNTIL(A, AFTER, STORES, &script_member(A)->cache_top, 1);
	SAME(0, cache_length(&world_segment, script_member(A)));
	DO(B, ALLOC_WAIT);
	SAME(1, held(B));
	script_finish(A);
}

/* The queue is full of tombstones when C begins to wait for room. D's get finds nothing, but makes
 * room. */
static void get_passes_tombstones(void)
{
	DO(A, ALLOC, .n = 2);
	START(A, PUT, .n = 2);
	UNTIL(A, AFTER, SWAPS, &script_queue(0)->prod, 1);
	script_kill(A);
	DO(B, RECOVER);
	DO(C, ALLOC);
	START(C, PUT_WAIT);
	script_sleeps(C);
	DO(D, GET);
	SAME(0, held(D));
	script_finish(C);
	SAME(0, held(C));
}

/* D makes room for C, which wants one slot, while B, which wants two, is counted in one of the two
 * wait words only: D takes B for the only sleeper. B wakes C. */
static void room_for_one_beside_many(void)
{
	DO(A, ALLOC, .n = 2);
	DO(A, PUT, .n = 2);
	DO(B, ALLOC, .n = 2);
	DO(C, ALLOC);
	START(C, PUT_WAIT);
	script_sleeps(C);
	START(B, PUT_WAIT, .n = 2);
	UNTIL(B, AFTER, ADDS, &script_queue(0)->room_many, 1);
	DO(D, GET);
	script_sleeps(B);
	script_finish(C);
	SAME(0, held(C));
	DO(D, GET, .n = 2);
	script_finish(B);
	SAME(0, held(B));
}

/* The same with buffers. */
static void buffer_for_one_beside_many(void)
{
	DO(A, ALLOC, .n = 4);
	START(C, ALLOC_WAIT);
	script_sleeps(C);
	START(B, ALLOC_WAIT, .n = 2);
	UNTIL(B, AFTER, ADDS, &segment_shared(&world_segment)->free_many, 1);
	DO(A, FREE);
	script_sleeps(B);
	script_finish(C);
	SAME(1, held(C));
	DO(A, FREE, .n = 3);
	script_finish(B);
	SAME(2, held(B));
}

/* B and C die with a message each, for which the queue has no room. D has placed B's, and is
 * suspended before it records that nothing is left to do, while E leaves C's to the next
 * recoverer. */
static void two_messages_without_room(void)
{
	DO(A, ALLOC, .n = 4);
	DO(A, PUT, .n = 2);
	DO(B, GET);
	DO(C, GET);
	DO(A, PUT, .n = 2);
	script_kill(B);
	DO(D, RECOVER);
	SAME(1, script_recovery(D)->members);
	SAME(0, script_recovery(D)->requeued);
	DO(E, GET);
	DO(E, FREE);
	START(D, RECOVER);
	UNTIL(D, BEFORE, SWAPS, &segment_shared(&world_segment)->swept, 1);
	SAME(1, script_recovery(D)->requeued);
	script_kill(C);
	DO(E, RECOVER);
	SAME(1, script_recovery(E)->members);
	script_finish(D);
	DO(E, GET, .n = 2);
	SAME(2, held(E));
	DO(E, RECOVER);
	SAME(1, script_recovery(E)->requeued);
}

/* C recovers A, and dies between the reset of the word on which B sleeps and the wake-up. */
static void recoverer_dies(void)
{
	START(B, GET_WAIT);
	script_sleeps(B);
	SAME(1, script_member(B)->counters[COUNT_SLEEP]);
	script_kill(A);
	START(C, RECOVER);
	UNTIL(C, BEFORE, WAKES, &script_queue(0)->data_wait, 1);
	script_kill(C);
}

/* D's put wakes B all the same. */
static void put_after_a_recoverer(void)
{
	DO(D, ALLOC);
	recoverer_dies();
	DO(D, PUT);
	script_finish(B);
	SAME(1, held(B));
}

/* D recovers C, and wakes B, which looks and sleeps again. */
static void recoverer_after_a_recoverer(void)
{
	recoverer_dies();
	DO(D, RECOVER);
	script_sleeps(B);
	SAME(2, script_member(B)->counters[COUNT_SLEEP]);
	DO(D, ALLOC);
	DO(D, PUT);
	script_finish(B);
}

/* A returns a message to its queue, for which B waits. */
static void returned_message_wakes(void)
{
	DO(A, ALLOC);
	DO(A, PUT);
	DO(A, GET);
	START(B, GET_WAIT);
	script_sleeps(B);
	DO(A, NACK);
	script_finish(B);
	SAME(0, held(A));
	SAME(1, held(B));
}

/* What A writes into the header of a message that it returns is there before B can get it: B frees
 * the buffer, allocates it for something else, and dies with it. */
static void returned_message_is_noted(void)
{
	DO(A, ALLOC);
	struct buffer *b = script_buffer(A, 0);
	DO(A, PUT);
	DO(A, GET);
	START(A, NACK);
	UNTIL(A, AFTER, STORES, script_slot(0, 5), 1);
	DO(B, GET);
	SAME(1, held(B));
	SAME(1, load_relaxed(&b->redelivered));
	DO(B, FREE);
	DO(B, ALLOC);
	DEMAND(script_buffer(B, 0) == b);
	script_finish(A);
	script_kill(B);
	DO(C, RECOVER);
	SAME(0, script_recovery(C)->requeued);
}

/* A returns a message to a full queue whose on_death is free: the message is delivered
 * again nevertheless. */
static void returned_message_waits_for_room(void)
{
	DO(A, ALLOC, .n = 3);
	DO(A, PUT, .n = 2);
	DO(B, GET);
	DO(A, PUT);
	DO(B, NACK_LATER);
	SAME(0, held(B));
	DO(A, GET);
	DO(C, RECOVER);
	SAME(1, script_recovery(C)->requeued);
}

/* A waits for a message of a subscriber that B, another thread of the process, closes. */
static struct subscriber shared;

static void subscribe(uint32_t me)
{
	struct actor *a = &world_actors[me];
	const struct alf_ring *topic = queue_ring(&a->pool, QUEUES + 1);
	SAME(0, topic_subscribe(&a->pool, a->m, topic, TOPIC_DROP_OLDEST, TOPIC_NEWEST, &shared));
}

static void take(uint32_t me)
{
	struct actor *a = &world_actors[me];
	uint64_t handle, position;
	SAME(-ENOTCONN, blocking_take(&a->pool, a->m, &shared, &handle, &position, 1,
				      wait_now() + DEADLINE_NS));
}

static void leave(uint32_t me)
{
	topic_unsubscribe(&world_actors[me].pool, world_actors[me].m, &shared);
}

static void left_by_another_thread(void)
{
	DO(A, CALL, .call = subscribe);
	START(A, CALL, .call = take);
	script_sleeps(A);
	DO(B, CALL, .call = leave);
	script_finish(A);
}

/* B's store to a message's header is visible before the one that makes B its owner. A, which copies
 * the message out, shows no mixture of the two. */
static void peek_of_taken_message(void)
{
	DO(B, ALLOC);
	DO(B, PUT);
	struct buffer *b = pool_buffer(&world_actors[LAST].pool,
				       (uint32_t)(*script_slot(0, 4) & ALF_INDEX_MASK));
	START(A, PEEK);
	UNTIL(A, BEFORE, LOADS, &b->mark, 1);
	steer_hold(B);
	START(B, GET);
	UNTIL(B, AFTER, STORES, &b->mark, 1);
	steer_settle(B, &b->mark);
	script_finish(A);
	script_finish(B);
}

const struct scenario waits_scenarios[] = {
	{ "waits-for-a-free", waits_for_a_free, { SMALL, .threads = 2 } },
	{ "waits-for-frees", waits_for_frees, { SMALL, .threads = 2 } },
	{ "free-before-the-request", free_before_the_request, { SMALL, .threads = 2 } },
	{ "asks-for-a-flush", asks_for_a_flush, { SMALL, .threads = 2 } },
	{ "get-passes-tombstones", get_passes_tombstones, { FULL_OF_TWO, .threads = 4 } },
	{ "room-for-one-beside-many", room_for_one_beside_many, { FULL_OF_TWO, .threads = 4 } },
	{ "buffer-for-one-beside-many",
	  buffer_for_one_beside_many,
	  { .capacity = 4,
	    .prealloc = 4,
	    .cache = 0,
	    .bulk = 2,
	    .extent = 4,
	    .ring = 4,
	    .threads = 3 } },
	{ "two-messages-without-room",
	  two_messages_without_room,
	  { FULL_OF_TWO, .threads = 5, .on_death = { REQUEUE } } },
	{ "put-after-a-recoverer", put_after_a_recoverer, { SMALL, .threads = 4 } },
	{ "recoverer-after-a-recoverer", recoverer_after_a_recoverer, { SMALL, .threads = 4 } },
	{ "returned-message-wakes",
	  returned_message_wakes,
	  { SMALL, .threads = 2, .on_death = { REQUEUE } } },
	{ "returned-message-is-noted",
	  returned_message_is_noted,
	  { SMALL, .threads = 3, .on_death = { REQUEUE } } },
	{ "returned-message-waits-for-room",
	  returned_message_waits_for_room,
	  { FULL_OF_TWO, .threads = 3 } },
	{ "left-by-another-thread", left_by_another_thread, { SMALL, .threads = 2, .topic = 2 } },
	{ "peek-of-taken-message", peek_of_taken_message, { SMALL, .threads = 2, .peeked = true } },
	{ 0 },
};
