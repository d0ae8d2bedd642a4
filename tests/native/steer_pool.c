/* SPDX-License-Identifier: Apache-2.0
 *
 * steer_pool.c - members of a small pool do random operations under steer.h, and some of them die.
 * In no run is a buffer lost, freed twice or owned by two members; no message is lost, delivered
 * twice or out of order; no member sleeps while what it waits for is there: steer_world.h.
 *
 * Each profile is a small pool, a choice of operations, and the threads that may die. Each seed is
 * one run of it.
 *
 * Usage: steer_pool [--seed N] [--seeds N] [--weak] [--trace] [--list] [PROFILE...] Runs seeds N, N
 * + 1, ... of each profile. A failure prints its seed; the same command with that seed and --trace
 * prints each step. Exit status 0, or 1 after the first failure.
 */
#include "steer_world.h"

#include "topic.h"

#include <stdarg.h>

#define PRODUCER { [ALLOC_WAIT] = 2, [PUT_WAIT] = 6, [FREE] = 1 }
#define CONSUMER { [GET_WAIT] = 4, [FREE] = 6 }
#define BOTH { [ALLOC] = 3, [FREE] = 3, [PUT] = 4, [GET] = 4 }
/* Makes chains of what it allocates, and puts, gets and frees them. */
#define CHAINS { [ALLOC] = 4, [CHAIN] = 4, [FREE] = 3, [PUT] = 4, [GET] = 4 }
/* Publishes to the topic, and reads it. */
#define PUBLISHER { [ALLOC] = 4, [PUBLISH_WAIT] = 6, [FREE] = 1 }
#define READER { [SUBSCRIBE] = 2, [TAKE] = 4, [TAKE_WAIT] = 2, [LET_GO] = 4, [LEAVE] = 1 }
#define RECOVERER { [RECOVER] = 4, [ALLOC] = 1, [FREE] = 1 }
/* Queue 1 is for dead letters. */
#define LETTERS                                                                                    \
	{ REQUEUE,                                                                                 \
	  { ON_DEATH_REQUEUE, .dead_letter = 1, .max_redeliveries = 1 },                           \
	  { ON_DEATH_DEAD_LETTER, .dead_letter = 1 } }
#define L2 (ALF_LANED | 2u << LANES_SHIFT)
#define LG (ALF_LANED | ALF_LANES_GROW | 2u << LANES_SHIFT) /* begins with one */
#define MEETINGS                                                                                   \
	{ "alf_reserve", "alf_claim", "alf_make_tombstone", "take", "abandon", "alf_reserve" }
#define SLOTS                                                                                      \
	{ "member_attach", "member_take_slot", "recover_mark", "withdraw_request",                 \
	  "take",          "member_take_slot" }
#define HOLDS { "acquire", "topic_release", "evict", "reserve", "gate_passes", "topic_forsaken" }
#define KEEPS { "shelve", "set_keeper", "evict", "topic_release", "topic_evict_for", "acquire" }
#define JOINS { "gate_shut", "gate_passes", "claim", "leave_if_done", "reserve", "acquire" }
#define GONE                                                                                       \
	{                                                                                          \
		"topic_forsaken",  "topic_vacate", "mark_topic",                                   \
		"topic_evict_for", "take",         "topic_release"                                 \
	}
#define ROLES { "role_take", "role_release", "role_take", "take", "alf_make_tombstone", "abandon" }

/* clang-format off */
static const struct profile profiles[] = {
	{ "wait", 16, 16, 4, 2, 4, 2, .threads = 4, .operations = 12, .most = 1, .same = true,
	  .weight = { PRODUCER, PRODUCER, CONSUMER, CONSUMER } },
	{ "wait-bulk", 16, 16, 4, 2, 4, 4, .threads = 4, .operations = 12, .most = 2, .same = true,
	  .weight = { PRODUCER, PRODUCER, CONSUMER, CONSUMER } },
	{ "wait-single", 16, 16, 4, 2, 4, 2, .threads = 2, .operations = 16, .most = 1,
	  .same = true,
	  .flags = { SP | SC, SP, SC },
	  .weight = { PRODUCER, CONSUMER } },
	{ "wait-uneven", 16, 16, 4, 2, 4, 4, .threads = 3, .operations = 12, .most = 1,
	  .same = true,
	  .each = { 2 },
	  .weight = { PRODUCER, CONSUMER, CONSUMER } },
	{ "wait-alloc", 4, 4, 2, 2, 4, 4, .threads = 3, .operations = 12, .most = 1, .same = true,
	  .weight = { { [ALLOC_WAIT] = 3, [FREE] = 3 } } },
	{ "wait-deaths", 16, 16, 4, 2, 4, 2, .threads = 5, .operations = 8, .deaths = 2,
	  .mortal = 15, .most = 1, .same = true,
	  .weight = { PRODUCER, PRODUCER, CONSUMER, CONSUMER, RECOVERER } },
	{ "wait-deaths-requeue", 16, 16, 4, 2, 4, 4, .threads = 4, .operations = 8, .deaths = 1,
	  .mortal = 3, .most = 1, .same = true,
	  .on_death = { REQUEUE },
	  .weight = { { [ALLOC] = 2, [PUT] = 4, [GET] = 4 }, { [ALLOC] = 2, [PUT] = 4, [GET] = 4 },
		      CONSUMER, RECOVERER } },
	{ "wait-mixed", 16, 16, 4, 2, 4, 4, .threads = 4, .operations = 10, .most = 3,
	  .same_queue = true,
	  .weight = { PRODUCER, PRODUCER, CONSUMER, CONSUMER } },
	{ "wait-alloc-mixed", 8, 8, 2, 2, 4, 4, .threads = 4, .operations = 10, .most = 3,
	  .weight = { { [ALLOC_WAIT] = 3, [FREE] = 3 } } },
	{ "wait-shutdown", 16, 16, 4, 2, 4, 2, .threads = 5, .operations = 10, .most = 2,
	  .same_queue = true,
	  .duel = { "alf_close", "alf_reserve", "alf_close" },
	  .weight = { PRODUCER, PRODUCER, CONSUMER, CONSUMER,
		      { [ALLOC] = 5, [FREE] = 5, [SHUTDOWN] = 1 } } },
	{ "wait-shutdown-single", 16, 16, 4, 2, 4, 2, .threads = 3, .operations = 12, .most = 1,
	  .same = true, .flags = { SP | SC },
	  .duel = { "alf_close", "role_take", "alf_close" },
	  .weight = { PRODUCER, CONSUMER, { [ALLOC] = 5, [FREE] = 5, [SHUTDOWN] = 1 } } },
	{ "shutdown-deaths", 16, 16, 4, 2, 4, 2, .threads = 5, .operations = 10, .deaths = 3,
	  .mortal = 31, .most = 2, .same_queue = true,
	  .on_death = { REQUEUE },
	  .duel = { "alf_close", "alf_reserve", "alf_close" },
	  .weight = { { [ALLOC] = 2, [PUT_WAIT] = 4, [GET] = 2 }, PRODUCER, CONSUMER, CONSUMER,
		      { [ALLOC] = 2, [FREE] = 2, [SHUTDOWN] = 1, [RECOVER] = 2 } } },
	{ "slots", 16, 16, 4, 2, 4, 4, .threads = 5, .operations = 8, .deaths = 3, .mortal = 15,
	  .members = 6, .most = 2,
	  .duel = SLOTS,
	  .weight = { { [ALLOC] = 3, [PUT] = 3, [GET] = 3, [REATTACH] = 4, [RECOVER] = 1 } } },
	{ "queue", 16, 16, 4, 2, 4, 4, .threads = 4, .operations = 16, .most = 3,
	  .weight = { BOTH } },
	{ "queue-single", 16, 16, 4, 2, 4, 4, .threads = 4, .operations = 16, .most = 3,
	  .flags = { SP, SC, SP | SC },
	  .weight = { { [ALLOC] = 3, [FREE] = 3, [PUT] = 4, [GET] = 4, [GIVE_UP] = 2 } } },
	{ "deaths", 16, 16, 4, 2, 4, 4, .threads = 4, .operations = 16, .deaths = 3, .mortal = 15,
	  .most = 3,
	  .duel = MEETINGS,
	  .weight = { BOTH, BOTH, BOTH, RECOVERER } },
	{ "contend", 16, 16, 8, 8, 4, 4, .threads = 4, .operations = 6, .deaths = 2, .mortal = 15,
	  .most = 2, .same_queue = true,
	  .duel = MEETINGS,
	  .weight = { { [ALLOC] = 2, [PUT] = 6, [GET] = 1 }, { [ALLOC] = 2, [PUT] = 6, [GET] = 1 },
		      { [GET] = 2, [FREE] = 1 }, RECOVERER } },
	{ "contend-recoverers", 16, 16, 8, 8, 4, 4, .threads = 5, .operations = 5, .deaths = 3,
	  .mortal = 31, .most = 2, .same_queue = true,
	  .duel = MEETINGS,
	  .weight = { { [ALLOC] = 2, [PUT] = 6, [GET] = 1 }, { [ALLOC] = 2, [PUT] = 6, [GET] = 1 },
		      { [GET] = 2, [FREE] = 1 }, RECOVERER, RECOVERER } },
	{ "deaths-recoverers", 16, 16, 4, 2, 4, 4, .threads = 4, .operations = 10, .deaths = 3,
	  .mortal = 15, .most = 3,
	  .duel = MEETINGS,
	  .weight = { BOTH, BOTH, RECOVERER } },
	{ "deaths-single", 16, 16, 4, 2, 4, 4, .threads = 4, .operations = 16, .deaths = 2,
	  .mortal = 15, .most = 3,
	  .flags = { SP, SC, SP | SC },
	  .duel = ROLES,
	  .weight = { BOTH, BOTH, BOTH, RECOVERER } },
	{ "deaths-requeue", 16, 16, 4, 2, 4, 4, .threads = 4, .operations = 16, .deaths = 3,
	  .mortal = 15, .most = 3,
	  .on_death = { REQUEUE, REQUEUE, REQUEUE }, .flags = { 0, SC, 0 },
	  .duel = MEETINGS,
	  .weight = { BOTH, BOTH, BOTH, RECOVERER } },
	{ "deaths-requeue-one", 16, 16, 4, 2, 4, 4, .threads = 4, .operations = 16, .deaths = 3,
	  .mortal = 15, .most = 3,
	  .on_death = { REQUEUE },
	  .duel = MEETINGS,
	  .weight = { BOTH, BOTH, BOTH, RECOVERER } },
	{ "deaths-reattach", 16, 16, 4, 2, 4, 4, .threads = 5, .operations = 12, .deaths = 3,
	  .mortal = 31, .most = 2,
	  .flags = { SP, SC, 0 },
	  .duel = MEETINGS,
	  .weight = { BOTH, BOTH, { [ALLOC] = 3, [PUT] = 3, [GET] = 3, [REATTACH] = 4 },
		      { [ALLOC] = 3, [PUT] = 3, [GET] = 3, [REATTACH] = 4 }, RECOVERER } },
	{ "caches", 8, 8, 4, 2, 4, 4, .threads = 4, .operations = 20, .most = 3,
	  .duel = { "steal_from", "lock", "cache_flush_if_asked", "steal_from", "lock",
		    "cache_flush_if_asked" },
	  .weight = { { [ALLOC] = 6, [FREE] = 5, [REQUEST] = 1, [DRAIN] = 1 } } },
	{ "caches-deaths", 8, 8, 4, 2, 4, 4, .threads = 4, .operations = 16, .deaths = 3,
	  .mortal = 15, .most = 3,
	  .duel = { "steal_from", "lock", "cache_flush_if_asked", "steal_from", "member_take_slot",
		    "take" },
	  .weight = { { [ALLOC] = 6, [FREE] = 5, [REQUEST] = 1, [DRAIN] = 1, [RECOVER] = 1 } } },
	{ "no-caches", 8, 8, 0, 2, 4, 4, .threads = 4, .operations = 20, .most = 8,
	  .weight = { { [ALLOC] = 6, [FREE] = 5 } } },
	{ "bypass", 8, 8, 0, 2, 4, 4, .threads = 4, .operations = 20, .most = 8,
	  .weight = { { [TRY] = 6, [FREE] = 5 } } },
	{ "bypass-deaths", 8, 8, 0, 2, 4, 4, .threads = 4, .operations = 16, .deaths = 2,
	  .mortal = 15, .most = 8,
	  .weight = { { [TRY] = 6, [FREE] = 5, [RECOVER] = 1 } } },
	{ "single-producers", 16, 16, 4, 2, 4, 2, .threads = 5, .operations = 8, .deaths = 2,
	  .mortal = 3, .most = 2, .same_queue = true,
	  .flags = { SP },
	  .duel = ROLES,
	  .weight = { { [ALLOC] = 2, [PUT] = 6 }, { [ALLOC] = 2, [PUT] = 6, [GIVE_UP] = 2 },
		      { [GET] = 4, [FREE] = 2 }, RECOVERER,
		      { [RECOVER] = 3, [ALLOC] = 2, [PUT] = 4 } } },
	{ "no-caches-deaths", 8, 8, 0, 2, 4, 4, .threads = 4, .operations = 16, .deaths = 3,
	  .mortal = 15, .most = 8,
	  .weight = { { [ALLOC] = 6, [FREE] = 5, [RECOVER] = 1 } } },
	{ "growth", 16, 4, 4, 2, 2, 4, .threads = 4, .operations = 16, .most = 6,
	  .weight = { { [ALLOC] = 6, [FREE] = 4, [TRIM] = 2, [PUT] = 1, [GET] = 1 } } },
	{ "pinning", 16, 4, 4, 2, 2, 4, .threads = 4, .operations = 16, .most = 6,
	  .duel = { "slab_grow", "take_away" },
	  .weight = { { [ALLOC] = 4, [FREE] = 4, [TRIM] = 3, [PIN] = 3 } } },
	{ "pinning-deaths", 16, 4, 4, 2, 2, 4, .threads = 4, .operations = 12, .deaths = 3,
	  .mortal = 15, .most = 6,
	  .duel = { "slab_grow", "take_away", "steal_from", "take", "recover_makers", "take_away" },
	  .weight = { { [ALLOC] = 4, [FREE] = 4, [TRIM] = 3, [PIN] = 3, [RECOVER] = 1 } } },
	{ "growth-deaths", 16, 4, 4, 2, 2, 4, .threads = 4, .operations = 12, .deaths = 3,
	  .mortal = 15, .most = 6,
	  .duel = { "slab_grow", "take_away", "steal_from", "take", "recover_makers", "slab_grow" },
	  .weight = { { [ALLOC] = 6, [FREE] = 4, [TRIM] = 2, [RECOVER] = 1 } } },
	{ "requeue-single", 16, 16, 4, 2, 4, 2, .threads = 4, .operations = 10, .deaths = 2,
	  .mortal = 7, .most = 2, .same_queue = true,
	  .on_death = { REQUEUE }, .flags = { SC },
	  .duel = ROLES,
	  .weight = { { [GET] = 5, [ALLOC] = 1, [FREE] = 1 }, { [GET] = 4, [ALLOC] = 2, [PUT] = 3 },
		      { [ALLOC] = 3, [PUT] = 6 }, { [ALLOC] = 3, [PUT] = 4, [RECOVER] = 2 } } },
	{ "letters", 16, 16, 4, 2, 4, 4, .threads = 4, .operations = 16, .most = 2, .peeked = true,
	  .on_death = LETTERS,
	  .weight = { { [ALLOC] = 3, [PUT] = 5, [GET] = 1, [NACK] = 1 },
		      { [GET] = 4, [NACK] = 3, [NACK_LATER] = 1, [FREE] = 1 },
		      { [GET] = 3, [MOVE] = 3, [NACK] = 2, [FREE] = 2 },
		      { [PEEK] = 6, [MOVE] = 1, [RECOVER] = 1 } } },
	{ "letters-deaths", 16, 16, 4, 2, 4, 4, .threads = 5, .operations = 14, .deaths = 3,
	  .mortal = 31, .most = 2, .peeked = true,
	  .on_death = LETTERS,
	  .duel = MEETINGS,
	  .weight = { { [ALLOC] = 3, [PUT] = 5, [GET] = 1, [NACK] = 1 },
		      { [GET] = 4, [NACK] = 3, [NACK_LATER] = 1, [FREE] = 1 },
		      { [GET] = 3, [MOVE] = 3, [NACK] = 2, [FREE] = 2 },
		      { [PEEK] = 3, [MOVE] = 2, [RECOVER] = 3 }, RECOVERER } },
	{ "bulk", 8, 8, 4, 2, 4, 4, .threads = 4, .operations = 8, .most = 3, .same_queue = true,
	  .weight = { { [SEND] = 1 }, { [SEND] = 1 }, CONSUMER, CONSUMER } },
	{ "bulk-deaths", 8, 8, 4, 2, 4, 4, .threads = 5, .operations = 8, .deaths = 2, .mortal = 15,
	  .most = 3, .same_queue = true,
	  .duel = MEETINGS,
	  .weight = { { [SEND] = 1 }, { [SEND] = 1 }, CONSUMER, CONSUMER, RECOVERER } },
	{ "threads", 16, 16, 4, 2, 4, 4, .threads = 4, .operations = 14, .most = 2,
	  .one_process = true,
	  .weight = { { [ALLOC] = 3, [HAND_OVER] = 4, [ADOPT] = 3, [END] = 2 } } },
	{ "sizes", 8, 4, 4, 2, 2, 4, .second = 8, .threads = 4, .operations = 16, .most = 3,
	  .duel = { "steal_from", "lock", "cache_flush_if_asked", "slab_grow", "take_away",
		    "lock" },
	  .weight = { { [ALLOC] = 6, [FREE] = 4, [PUT] = 3, [GET] = 3, [TRIM] = 1, [REQUEST] = 1,
			[DRAIN] = 1 } } },
	{ "sizes-wait", 4, 4, 2, 2, 4, 4, .second = 4, .threads = 4, .operations = 12, .most = 1,
	  .same = true,
	  .weight = { { [ALLOC_WAIT] = 3, [FREE] = 3 } } },
	{ "sizes-wait-mixed", 8, 8, 2, 2, 4, 4, .second = 8, .threads = 4, .operations = 10,
	  .most = 3,
	  .weight = { { [ALLOC_WAIT] = 3, [FREE] = 3 } } },
	{ "sizes-deaths", 8, 4, 4, 2, 2, 4, .second = 8, .threads = 5, .operations = 14,
	  .deaths = 3, .mortal = 15, .most = 3,
	  .duel = MEETINGS,
	  .weight = { BOTH, { [ALLOC] = 6, [FREE] = 5, [TRY] = 2, [TRIM] = 1, [RECOVER] = 1 }, BOTH,
		      { [ALLOC] = 3, [PUT] = 3, [GET] = 3, [REATTACH] = 4 }, RECOVERER } },
	{ "sizes-wait-deaths", 4, 4, 2, 2, 4, 4, .second = 4, .threads = 4, .operations = 10,
	  .deaths = 1, .mortal = 3, .most = 1, .same = true,
	  .weight = { { [ALLOC_WAIT] = 3, [FREE] = 3 }, { [ALLOC_WAIT] = 3, [FREE] = 3 },
		      { [ALLOC_WAIT] = 3, [FREE] = 3 }, RECOVERER } },
	{ "sizes-requeue", 8, 8, 4, 2, 4, 4, .second = 8, .threads = 4, .operations = 16,
	  .deaths = 3, .mortal = 15, .most = 3,
	  .on_death = { REQUEUE, REQUEUE, REQUEUE },
	  .duel = SLOTS,
	  .weight = { BOTH, BOTH, BOTH, RECOVERER } },
	{ "warm", 8, 8, 0, 2, 4, 4, .warm = 2, .threads = 4, .operations = 20, .most = 3,
	  .duel = { "alf_reserve", "alf_claim" },
	  .weight = { { [ALLOC] = 6, [FREE] = 5, [PUT] = 2, [GET] = 2 } } },
	{ "warm-caches", 8, 4, 4, 2, 2, 4, .warm = 2, .threads = 4, .operations = 16, .most = 3,
	  .duel = { "steal_from", "alf_reserve", "alf_claim", "take_away" },
	  .weight = { { [ALLOC] = 6, [FREE] = 5, [REQUEST] = 1, [DRAIN] = 1, [TRIM] = 1 } } },
	{ "warm-wait", 4, 4, 0, 2, 4, 4, .warm = 2, .threads = 4, .operations = 12, .most = 1,
	  .same = true,
	  .weight = { { [ALLOC_WAIT] = 3, [FREE] = 3 } } },
	{ "warm-wait-mixed", 8, 8, 2, 2, 4, 4, .warm = 2, .threads = 4, .operations = 10,
	  .most = 3,
	  .weight = { { [ALLOC_WAIT] = 3, [FREE] = 3 } } },
	{ "warm-bypass-deaths", 8, 8, 0, 2, 4, 4, .warm = 2, .threads = 4, .operations = 16,
	  .deaths = 2, .mortal = 15, .most = 4,
	  .duel = { "alf_reserve", "alf_claim", "bypass_take", "take_claimed",
		    "alf_make_tombstone", "announce_stale" },
	  .weight = { { [TRY] = 6, [FREE] = 5, [RECOVER] = 1 } } },
	{ "warm-deaths", 8, 4, 0, 2, 2, 4, .warm = 2, .threads = 5, .operations = 14, .deaths = 3,
	  .mortal = 15, .most = 3,
	  .duel = MEETINGS,
	  .weight = { BOTH, { [ALLOC] = 6, [FREE] = 5, [TRY] = 2, [TRIM] = 1, [RECOVER] = 1 }, BOTH,
		      { [ALLOC] = 3, [PUT] = 3, [GET] = 3, [REATTACH] = 4 }, RECOVERER } },
	{ "warm-requeue", 8, 8, 0, 2, 4, 4, .warm = 2, .threads = 4, .operations = 16,
	  .deaths = 3, .mortal = 15, .most = 3,
	  .on_death = { REQUEUE, REQUEUE, REQUEUE },
	  .duel = SLOTS,
	  .weight = { BOTH, BOTH, BOTH, RECOVERER } },
	{ "warm-sizes", 8, 4, 4, 2, 2, 4, .warm = 2, .second = 8, .threads = 5, .operations = 14,
	  .deaths = 3, .mortal = 15, .most = 3,
	  .duel = MEETINGS,
	  .weight = { BOTH, { [ALLOC] = 6, [FREE] = 5, [TRY] = 2, [TRIM] = 1, [RECOVER] = 1 }, BOTH,
		      { [ALLOC] = 3, [PUT] = 3, [GET] = 3, [REATTACH] = 4 }, RECOVERER } },
	{ "sides", 8, 8, 0, 2, 4, 4, .warm = 2, .sides = 3,
	  .threads = 4, .operations = 20, .most = 3,
	  .duel = { "alf_reserve", "alf_claim" },
	  .weight = { { [ALLOC] = 6, [FREE] = 5, [PUT] = 2, [GET] = 2 } } },
	{ "sides-caches", 8, 4, 4, 2, 2, 4, .warm = 2, .sides = 3,
	  .threads = 4, .operations = 16, .most = 3,
	  .duel = { "steal_from", "alf_reserve", "alf_claim", "take_away" },
	  .weight = { { [ALLOC] = 6, [FREE] = 5, [REQUEST] = 1, [DRAIN] = 1, [TRIM] = 1 } } },
	{ "sides-wait", 4, 4, 0, 2, 4, 4, .warm = 2, .sides = 3,
	  .threads = 4, .operations = 12, .most = 1,
	  .same = true,
	  .weight = { { [ALLOC_WAIT] = 3, [FREE] = 3 } } },
	{ "sides-wait-mixed", 8, 8, 2, 2, 4, 4, .warm = 2, .sides = 3,
	  .threads = 4, .operations = 10,
	  .most = 3,
	  .weight = { { [ALLOC_WAIT] = 3, [FREE] = 3 } } },
	{ "sides-bypass-deaths", 8, 8, 0, 2, 4, 4, .warm = 2, .sides = 3,
	  .threads = 4, .operations = 16,
	  .deaths = 2, .mortal = 15, .most = 4,
	  .duel = { "alf_reserve", "alf_claim", "bypass_take", "take_claimed",
		    "alf_make_tombstone", "announce_stale" },
	  .weight = { { [TRY] = 6, [FREE] = 5, [RECOVER] = 1 } } },
	{ "sides-deaths", 8, 4, 0, 2, 2, 4, .warm = 2, .sides = 3,
	  .threads = 5, .operations = 14, .deaths = 3,
	  .mortal = 15, .most = 3,
	  .duel = MEETINGS,
	  .weight = { BOTH, { [ALLOC] = 6, [FREE] = 5, [TRY] = 2, [TRIM] = 1, [RECOVER] = 1 }, BOTH,
		      { [ALLOC] = 3, [PUT] = 3, [GET] = 3, [REATTACH] = 4 }, RECOVERER } },
	{ "sides-requeue", 8, 8, 0, 2, 4, 4, .warm = 2, .sides = 3,
	  .threads = 4, .operations = 16,
	  .deaths = 3, .mortal = 15, .most = 3,
	  .on_death = { REQUEUE, REQUEUE, REQUEUE },
	  .duel = SLOTS,
	  .weight = { BOTH, BOTH, BOTH, RECOVERER } },
	{ "sides-classes", 8, 4, 4, 2, 2, 4, .warm = 2, .sides = 3,
	  .second = 8, .threads = 5, .operations = 14,
	  .deaths = 3, .mortal = 15, .most = 3,
	  .duel = MEETINGS,
	  .weight = { BOTH, { [ALLOC] = 6, [FREE] = 5, [TRY] = 2, [TRIM] = 1, [RECOVER] = 1 }, BOTH,
		      { [ALLOC] = 3, [PUT] = 3, [GET] = 3, [REATTACH] = 4 }, RECOVERER } },
	{ "chains", 16, 16, 4, 2, 4, 4, .threads = 4, .operations = 16, .most = 3, .chains = true,
	  .weight = { CHAINS, CHAINS, CHAINS,
		      { [ALLOC] = 4, [CHAIN] = 4, [FREE] = 3, [REATTACH] = 1, [DRAIN] = 1 } } },
	{ "chains-deaths", 16, 16, 4, 2, 4, 4, .threads = 5, .operations = 14, .deaths = 3,
	  .mortal = 31, .most = 3, .chains = true,
	  .duel = MEETINGS,
	  .weight = { CHAINS, CHAINS, CHAINS, RECOVERER, RECOVERER } },
	{ "chains-recoverers", 16, 16, 0, 2, 4, 4, .threads = 5, .operations = 8, .deaths = 4,
	  .mortal = 31, .most = 3, .chains = true,
	  .duel = { "take", "take", "abandon", "member_take_slot", "recover_mark", "take" },
	  .weight = { { [ALLOC] = 3, [CHAIN] = 4, [FREE] = 2 },
		      { [ALLOC] = 3, [CHAIN] = 4, [FREE] = 2 }, RECOVERER } },
	{ "chains-requeue", 16, 16, 4, 2, 4, 4, .threads = 5, .operations = 14, .deaths = 3,
	  .mortal = 31, .most = 3, .chains = true,
	  .on_death = { REQUEUE, REQUEUE, REQUEUE }, .flags = { 0, SC, 0 },
	  .duel = MEETINGS,
	  .weight = { CHAINS, CHAINS, CHAINS, RECOVERER, RECOVERER } },
	{ "chains-letters", 16, 16, 4, 2, 4, 4, .threads = 5, .operations = 14, .deaths = 3,
	  .mortal = 31, .most = 2, .peeked = true, .chains = true,
	  .on_death = LETTERS,
	  .duel = MEETINGS,
	  .weight = { { [ALLOC] = 4, [CHAIN] = 4, [PUT] = 5, [GET] = 1, [NACK] = 1 },
		      { [GET] = 4, [NACK] = 3, [NACK_LATER] = 1, [FREE] = 1 },
		      { [GET] = 3, [MOVE] = 3, [NACK] = 2, [FREE] = 2 },
		      { [PEEK] = 3, [MOVE] = 2, [RECOVER] = 3 }, RECOVERER } },
	{ "chains-slots", 16, 16, 4, 2, 4, 4, .threads = 5, .operations = 10, .deaths = 4,
	  .mortal = 31, .members = 6, .most = 3, .chains = true,
	  .duel = SLOTS,
	  .weight = { { [ALLOC] = 4, [CHAIN] = 4, [PUT] = 2, [GET] = 2, [REATTACH] = 3,
			[RECOVER] = 1 } } },
	{ "chains-bypass", 8, 8, 0, 2, 4, 4, .threads = 5, .operations = 12, .deaths = 4,
	  .mortal = 31, .members = 6, .most = 3, .chains = true,
	  .duel = { "bypass_take", "take", "abandon", "bypass_take", "take_claimed",
		    "member_take_slot" },
	  .weight = { { [TRY] = 6, [CHAIN] = 4, [FREE] = 3, [REATTACH] = 2, [RECOVER] = 1 } } },
	{ "chains-sizes", 8, 4, 4, 2, 2, 4, .second = 8, .threads = 5, .operations = 14,
	  .deaths = 3, .mortal = 31, .most = 3, .chains = true,
	  .duel = MEETINGS,
	  .weight = { CHAINS, { [ALLOC] = 5, [CHAIN] = 4, [FREE] = 3, [TRIM] = 1, [RECOVER] = 1 },
		      CHAINS, CHAINS, RECOVERER } },
	{ "chains-threads", 16, 16, 4, 2, 4, 4, .threads = 4, .operations = 14, .most = 3,
	  .one_process = true, .chains = true,
	  .weight = { { [ALLOC] = 4, [CHAIN] = 4, [HAND_OVER] = 4, [ADOPT] = 3, [END] = 2 } } },
	{ "lanes", 16, 16, 4, 2, 4, 4, .threads = 4, .operations = 16, .most = 2,
	  .flags = { L2, LG, L2 },
	  .weight = { BOTH } },
	{ "lanes-wait", 16, 16, 4, 2, 4, 4, .threads = 5, .operations = 10, .most = 1, .same = true,
	  .flags = { L2 },
	  .weight = { PRODUCER, PRODUCER, PRODUCER, CONSUMER, CONSUMER } },
	{ "lanes-wait-uneven", 16, 16, 4, 2, 4, 4, .threads = 3, .operations = 12, .most = 1,
	  .same = true,
	  .flags = { L2 },
	  .weight = { PRODUCER, PRODUCER, CONSUMER } },
	{ "lanes-wait-mixed", 16, 16, 4, 2, 4, 8, .threads = 4, .operations = 10, .most = 3,
	  .same_queue = true,
	  .flags = { L2 },
	  .weight = { PRODUCER, PRODUCER, CONSUMER, CONSUMER } },
	{ "lanes-grow", 16, 16, 4, 2, 4, 8, .threads = 5, .operations = 14, .most = 2,
	  .same_queue = true, .lanes = true,
	  .flags = { LG },
	  .duel = { "alf_reserve", "alf_reserve", "alf_reserve", "share_out", "alf_reserve",
		    "share_out" },
	  .weight = { { [ALLOC] = 4, [PUT] = 8, [GET] = 1 }, { [ALLOC] = 4, [PUT] = 8, [GET] = 1 },
		      { [ALLOC] = 4, [PUT] = 8 }, CONSUMER, CONSUMER } },
	{ "lanes-grow-wait", 16, 16, 4, 2, 4, 2, .threads = 4, .operations = 12, .most = 1,
	  .same = true,
	  .flags = { LG },
	  .duel = { "alf_reserve", "alf_reserve", "alf_reserve", "share_out", "alf_reserve",
		    "alf_reserve" },
	  .weight = { PRODUCER, PRODUCER, CONSUMER, CONSUMER } },
	{ "lanes-wait-shutdown", 16, 16, 4, 2, 4, 4, .threads = 5, .operations = 10, .most = 2,
	  .same_queue = true, .lanes = true,
	  .flags = { L2 },
	  .duel = { "alf_close", "alf_reserve", "alf_close", "alf_claim", "alf_close",
		    "alf_reserve" },
	  .weight = { PRODUCER, PRODUCER, CONSUMER, CONSUMER,
		      { [ALLOC] = 5, [FREE] = 5, [SHUTDOWN] = 1 } } },
	{ "lanes-shutdown-returns", 16, 16, 4, 2, 4, 8, .threads = 5, .operations = 10, .most = 1,
	  .same_queue = true, .lanes = true,
	  .flags = { L2 },
	  .weight = { { [ALLOC] = 2, [PUT] = 4, [NACK] = 1 }, { [GET] = 3, [NACK] = 3, [FREE] = 1 },
		      CONSUMER, CONSUMER, { [ALLOC] = 5, [FREE] = 5, [SHUTDOWN] = 1 } } },
	{ "lanes-shutdown-deaths", 16, 16, 4, 2, 4, 4, .threads = 5, .operations = 10, .deaths = 3,
	  .mortal = 31, .most = 2, .same_queue = true, .lanes = true,
	  .on_death = { REQUEUE }, .flags = { L2 },
	  .duel = { "alf_close", "alf_reserve", "alf_close" },
	  .weight = { { [ALLOC] = 2, [PUT_WAIT] = 4, [GET] = 2 }, PRODUCER, CONSUMER, CONSUMER,
		      { [ALLOC] = 2, [FREE] = 2, [SHUTDOWN] = 1, [RECOVER] = 2 } } },
	{ "lanes-wait-deaths", 16, 16, 4, 2, 4, 4, .threads = 5, .operations = 8, .deaths = 2,
	  .mortal = 15, .most = 1, .same = true,
	  .flags = { L2 },
	  .weight = { PRODUCER, PRODUCER, CONSUMER, CONSUMER, RECOVERER } },
	{ "lanes-deaths", 16, 16, 4, 2, 4, 4, .threads = 5, .operations = 14, .deaths = 3,
	  .mortal = 31, .most = 2,
	  .flags = { L2, LG, L2 },
	  .duel = MEETINGS,
	  .weight = { BOTH, BOTH, BOTH, RECOVERER, RECOVERER } },
	{ "lanes-deaths-requeue", 16, 16, 4, 2, 4, 4, .threads = 5, .operations = 14, .deaths = 3,
	  .mortal = 31, .most = 2,
	  .on_death = { REQUEUE, REQUEUE, REQUEUE }, .flags = { L2, LG, 0 },
	  .duel = MEETINGS,
	  .weight = { BOTH, BOTH, BOTH, RECOVERER, RECOVERER } },
	{ "lanes-letters-deaths", 16, 16, 4, 2, 4, 4, .threads = 5, .operations = 14, .deaths = 3,
	  .mortal = 31, .most = 2,
	  .on_death = LETTERS, .flags = { L2, L2, LG },
	  .duel = MEETINGS,
	  .weight = { { [ALLOC] = 3, [PUT] = 5, [GET] = 1, [NACK] = 1 },
		      { [GET] = 4, [NACK] = 3, [NACK_LATER] = 1, [FREE] = 1 },
		      { [GET] = 3, [MOVE] = 3, [NACK] = 2, [FREE] = 2 },
		      { [MOVE] = 2, [RECOVER] = 3 }, RECOVERER } },
	{ "lanes-sizes", 8, 4, 4, 2, 2, 4, .second = 8, .threads = 5, .operations = 14,
	  .deaths = 3, .mortal = 31, .most = 2,
	  .on_death = { REQUEUE, REQUEUE, REQUEUE }, .flags = { L2, LG, L2 },
	  .duel = MEETINGS,
	  .weight = { BOTH, BOTH, BOTH, RECOVERER, RECOVERER } },
	{ "lanes-creation", 16, 16, 4, 2, 4, 4, .threads = 5, .operations = 5, .deaths = 3,
	  .mortal = 31, .most = 1, .made = 2, .lanes = true,
	  .duel = { "make", "make_one", "recover_makers", "outranked", "make_one",
		    "recover_makers" },
	  .weight = { { [CREATE] = 4, [RECOVER] = 1 } } },
	{ "topic", 16, 16, 4, 2, 4, 4, .topic = 4, .threads = 4, .operations = 16, .most = 3,
	  .duel = JOINS,
	  .weight = { PUBLISHER, PUBLISHER, READER, READER } },
	{ "topic-wait", 32, 32, 4, 2, 4, 4, .topic = 2, .threads = 4, .operations = 12, .most = 1,
	  .policies = { [2] = 1u << TOPIC_BLOCK, [3] = 1u << TOPIC_BLOCK },
	  .weight = { { [ALLOC] = 4, [PUBLISH_WAIT] = 6 }, { [ALLOC] = 4, [PUBLISH_WAIT] = 6 },
		      { [TAKE_WAIT] = 6, [LET_GO] = 4 } } },
	{ "topic-policies", 32, 32, 4, 2, 4, 4, .topic = 4, .threads = 6, .operations = 14,
	  .most = 3,
	  .policies = { 0, 0, 1u << TOPIC_BLOCK, 1u << TOPIC_DROP_OLDEST, 1u << TOPIC_LATEST,
			1u << TOPIC_DROP_NEWEST },
	  .duel = HOLDS,
	  .weight = { PUBLISHER, { [ALLOC] = 4, [PUBLISH] = 6 }, READER } },
	{ "topic-newest", 32, 32, 4, 2, 4, 4, .topic = 2, .threads = 4, .operations = 16, .most = 2,
	  .policies = { 0, 0, 1u << TOPIC_DROP_NEWEST, 1u << TOPIC_DROP_NEWEST },
	  .duel = KEEPS,
	  .weight = { PUBLISHER, PUBLISHER, READER, READER } },
	{ "topic-newest-deaths", 32, 32, 4, 2, 4, 4, .topic = 2, .threads = 5, .operations = 14,
	  .deaths = 3, .mortal = 31, .most = 2, .topics = true,
	  .policies = { 0, 0, 1u << TOPIC_DROP_NEWEST, 1u << TOPIC_DROP_NEWEST },
	  .duel = KEEPS,
	  .weight = { PUBLISHER, PUBLISHER, READER, READER, RECOVERER } },
	{ "topic-end", 16, 16, 4, 2, 4, 4, .topic = 4, .threads = 4, .operations = 12, .most = 2,
	  .weight = { PUBLISHER, PUBLISHER, READER,
		      { [ALLOC] = 5, [FREE] = 5, [TAKE_WAIT] = 5, [LET_GO] = 5,
			[END_TOPIC] = 1 } } },
	{ "topic-deaths", 32, 32, 4, 2, 4, 4, .topic = 4, .threads = 5, .operations = 14,
	  .deaths = 3, .mortal = 31, .most = 3, .topics = true,
	  .duel = HOLDS,
	  .weight = { PUBLISHER, PUBLISHER, READER, READER, RECOVERER } },
	{ "topic-recoverers", 32, 32, 4, 2, 4, 4, .topic = 2, .threads = 6, .operations = 10,
	  .deaths = 4, .mortal = 63, .most = 2, .topics = true,
	  .duel = GONE,
	  .weight = { PUBLISHER, PUBLISHER, READER, READER, RECOVERER, RECOVERER } },
	{ "topic-slots", 32, 32, 4, 2, 4, 4, .topic = 4, .threads = 5, .operations = 12,
	  .deaths = 3, .mortal = 31, .members = 6, .most = 3, .topics = true,
	  .duel = SLOTS,
	  .weight = { { [ALLOC] = 4, [PUBLISH] = 4, [REATTACH] = 1, [SUBSCRIBE] = 2, [TAKE] = 4,
			[LET_GO] = 3, [LEAVE] = 2, [RECOVER] = 1 } } },
	{ "topic-chains", 32, 32, 4, 2, 4, 4, .topic = 4, .threads = 5, .operations = 14,
	  .deaths = 3, .mortal = 31, .most = 3, .topics = true, .chains = true,
	  .duel = HOLDS,
	  .weight = { { [ALLOC] = 4, [CHAIN] = 4, [PUBLISH] = 4 },
		      { [ALLOC] = 4, [CHAIN] = 4, [PUBLISH] = 4 }, READER, READER, RECOVERER } },
	{ "topic-sizes", 16, 8, 4, 2, 2, 4, .second = 16, .topic = 4, .threads = 5,
	  .operations = 14, .deaths = 3, .mortal = 31, .most = 3, .topics = true,
	  .duel = HOLDS,
	  .weight = { PUBLISHER, { [ALLOC] = 4, [PUBLISH] = 4, [TRIM] = 1 }, READER, READER,
		      RECOVERER } },
	{ "creation", 16, 16, 4, 2, 4, 4, .threads = 4, .operations = 6, .deaths = 2, .mortal = 15,
	  .most = 1,
	  .weight = { { [CREATE] = 4, [RECOVER] = 1 } } },
};
/* clang-format on */
/* Functions in which a recoverer, or a member that takes a dead member's slot, may be overtaken by
 * all other threads. */
static const char *const haunts[] = { "recover_mark",
				      "collect_record",
				      "collect_single",
				      "alf_make_tombstone",
				      "destination",
				      "recovery_read_ops",
				      "sweep",
				      "sweep_one",
				      "returning",
				      "unreserve_one",
				      "recover_roles",
				      "abandon",
				      "take",
				      "role_release",
				      "member_vacate",
				      "member_take_slot",
				      "raise_epoch",
				      "member_attach",
				      "recover_thieves",
				      "came_from",
				      "hand_on",
				      "pass",
				      "alf_word" };
/* Functions in which a thread that dies leaves something to recover. */
static const char *const graves[] = {
	"transfer_take", "transfer_mark", "alf_publish",    "steal_from",     "take",
	"unreserve_one", "alf_done",      "slab_grow",      "take_away",      "hand_on",
	"sweep_one",     "member_attach", "member_release", "alf_publishing", "lock",
	"bypass_take",   "alf_claim",     "flush",          "abandon",        "member_take_slot",
	"reset",         "raise_epoch"
};
/* The same, where chains are made and freed, by their owner or by a recoverer. */
static const char *const chain_haunts[] = { "orphan", "sweep_one", "take", "free_chain", "sweep" };
static const char *const chain_graves[] = { "chain_make", "free_chain", "sweep_one", "take",
					    "raise_generations" };
/* The same, where queues with lanes are made, grow and end. */
static const char *const lane_haunts[] = { "recover_makers", "queue_listed",   "alf_closed",
					   "make_one",       "unmake_lanes",   "outranked",
					   "queue_see",      "queue_reserved", "look" };
static const char *const lane_graves[] = { "make_one",  "make_lanes",    "unmake_lanes",
					   "reset",     "make",          "make_view",
					   "alf_close", "recover_makers" };
/* The same, where there is a topic. */
static const char *const topic_haunts[] = { "topic_forsaken",  "topic_vacate", "mark_topic",
					    "topic_evict_for", "sweep_one",    "take" };
static const char *const topic_graves[] = { "evict",
					    "topic_publish",
					    "acquire",
					    "topic_release",
					    "topic_own",
					    "shelve",
					    "topic_store_cursor",
					    "set_keeper",
					    "topic_keepers",
					    "topic_subscribe",
					    "claim",
					    "gate_shut",
					    "leave_if_done",
					    "topic_get",
					    "topic_unsubscribe",
					    "topic_vacate",
					    "reserve",
					    "topic_evict_for",
					    "topic_forsaken" };
#define ONE_OF(names) (names)[steer_random(sizeof(names) / sizeof(*(names)))]
#define PROFILES (sizeof(profiles) / sizeof(*profiles))

static struct steer_run run;
static bool weak;

static void failed(const char *format, va_list list)
{
	fflush(stdout);
	fprintf(stderr, "%s, seed %llu%s: ", world_profile->name, (unsigned long long)run.seed,
		run.weak ? ", weak" : "");
	vfprintf(stderr, format, list);
	fprintf(stderr, "\n");
	exit(1);
}

void steer_failed(const char *format, ...)
{
	va_list list;
	va_start(list, format);
	failed(format, list);
	va_end(list);
	abort();
}

static uint32_t some(uint32_t me, uint32_t most)
{
	uint32_t limit = world_profile->each[me] ? world_profile->each[me] : world_profile->most;
	if (most > limit)
		most = limit;
	return world_profile->same || most == 0 ? most : 1 + steer_random(most);
}

/* How many buffers the thread may give or take in one operation. */
static uint32_t limit_of(const struct actor *a, enum operation what)
{
	uint32_t left = CAPACITY_MOST - a->held;
	switch (what) {
	case ALLOC:
	case TRY:
	case ALLOC_WAIT:
		return world_profile->capacity + world_profile->second - a->held;
	case FREE:
		return a->held;
	case PUT:
	case PUT_WAIT:
	case PUBLISH:
	case PUBLISH_WAIT:
		return a->held < BULK_MOST ? a->held : BULK_MOST;
	case GET:
	case GET_WAIT:
		return left < BULK_MOST ? left : BULK_MOST;
	default:
		return BULK_MOST;
	}
}

static void operate(uint32_t me, enum operation what)
{
	struct shmpool_recovery out;
	bool one = (world_profile->same || world_profile->same_queue) && what != PEEK &&
		   what != GIVE_UP;
	uint32_t queue = one ? 0 : steer_random(QUEUES);
	uint32_t n = some(me, limit_of(&world_actors[me], what));
	if (what == TRIM)
		n = steer_random(4);
	if (what == MOVE)
		queue = 0;
	if (n || what == TRIM)
		world_operate(me, what, queue, n, &out);
}

static const uint8_t *weights(uint32_t me)
{
	for (;; me--)
		for (uint32_t i = 0; i < OPERATIONS; i++)
			if (world_profile->weight[me][i])
				return world_profile->weight[me];
}

static void body(uint32_t me)
{
	const uint8_t *weight = weights(me);
	uint32_t all = 0;
	for (uint32_t i = 0; i < OPERATIONS; i++)
		all += weight[i];
	world_attach(me);
	for (uint32_t i = 0; i < world_profile->operations; i++) {
		uint32_t what = 0, left = steer_random(all);
		for (; left >= weight[what]; what++)
			left -= weight[what];
		operate(me, what);
		SAME(0, load_relaxed(&world_actors[me].m->op));
	}
	if (!world_profile->one_process)
		SAME(world_actors[me].held, member_held(&world_segment, world_actors[me].m));
}

static void run_seed(uint64_t seed)
{
	steer_choose(&run, seed);
	run.weak = weak;
	if (weak && !run.delay)
		run.delay = 1u << steer_random(11);
	if (world_profile->deaths && steer_random(2))
		run.haunt = ONE_OF(haunts);
	if (world_profile->deaths && steer_random(2))
		run.grave = ONE_OF(graves);
	if (world_profile->chains && steer_random(2)) {
		run.haunt = ONE_OF(chain_haunts);
		run.grave = ONE_OF(chain_graves);
	}
	if (world_profile->lanes && steer_random(2)) {
		run.haunt = ONE_OF(lane_haunts);
		run.grave = ONE_OF(lane_graves);
	} else if (world_profile->topics && steer_random(3)) {
		run.haunt = ONE_OF(topic_haunts);
		run.grave = ONE_OF(topic_graves);
	}
	run.duel = steer_random(2) ? world_profile->duel[steer_random(DUELS)] : NULL;
	run.deaths = world_profile->deaths ? 1 + steer_random(world_profile->deaths) : 0;
	world_begin();
	steer_threads(&run, world_profile->threads, world_profile->mortal, body);
	world_end();
}

int main(int argc, char **argv)
{
	uint64_t first = 0, seeds = 1000, steps = 0, deaths = 0;
	bool all = true, list = false;
	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--seed") && i + 1 < argc)
			first = strtoull(argv[++i], NULL, 0);
		else if (!strcmp(argv[i], "--seeds") && i + 1 < argc)
			seeds = strtoull(argv[++i], NULL, 0);
		else if (!strcmp(argv[i], "--trace"))
			steer_tracing = true;
		else if (!strcmp(argv[i], "--weak"))
			weak = true;
		else if (!strcmp(argv[i], "--list"))
			list = true;
		else
			all = false;
	}
	for (size_t k = 0; k < PROFILES; k++) {
		bool chosen = all;
		for (int i = 1; i < argc; i++)
			chosen |= !strcmp(argv[i], profiles[k].name);
		if (list)
			printf("%s\n", profiles[k].name);
		if (!chosen || list)
			continue;
		world_make(&profiles[k]);
		steps = deaths = 0;
		for (uint64_t seed = first; seed < first + seeds; seed++) {
			run_seed(seed);
			steps += steer_steps();
			deaths += steer_deaths();
		}
		printf("%-20s %llu runs, %llu steps, %llu deaths\n", world_profile->name,
		       (unsigned long long)seeds, (unsigned long long)steps,
		       (unsigned long long)deaths);
		fflush(stdout);
	}
	return 0;
}
