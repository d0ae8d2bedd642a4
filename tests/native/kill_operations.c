/* SPDX-License-Identifier: Apache-2.0
 *
 * kill_operations.c - see kill_scene.h: the operations that are killed, and the pool that each
 * needs.
 */
#include <stdio.h>
#include <string.h>

#include "kill_dead.h"
#include "kill_victim.h"

#define REQUEUE { .what = ON_DEATH_REQUEUE }
#define DEAD_LETTER { .what = ON_DEATH_DEAD_LETTER, .dead_letter = 1 }
#define POISON { .what = ON_DEATH_REQUEUE, .dead_letter = 1, .max_redeliveries = 1 }

#define ALL .prealloc = CAPACITY
#define GROWS .prealloc = CAPACITY / 2
#define TRIMS .prealloc = CAPACITY / 2, .trims = 1
#define RECOVERS .kind = NEITHER, ALL, .run = recover_dead
#define SP ALF_SINGLE_PRODUCER
#define SC ALF_SINGLE_CONSUMER

static const struct operation others[] = {
	{ "put-from-another-thread", PUTS, 1, ALL, .prepare = have_two, .run = put_own },
	{ "put-bulk-another-thread", PUTS, BULK, ALL, .prepare = have_two, .run = put_own },
	{ "put-moved-1", MOVES, 1, ALL, .on_death = REQUEUE, .filled = 4, .prepare = get_own,
	  .run = put_aside },
	{ "put-moved-8", MOVES, BULK, ALL, .on_death = REQUEUE, .filled = 10, .prepare = get_own,
	  .run = put_aside },
	{ "put-moved-dead-letter-8", MOVES, BULK, ALL, .on_death = DEAD_LETTER, .filled = 10,
	  .prepare = get_own, .run = put_aside },
	{ "nack-1", NEITHER, 1, ALL, .on_death = REQUEUE, .filled = 4, .prepare = get_own,
	  .run = nack_own, .check = check_nacked },
	{ "nack-1-free", FREES, 1, ALL, .filled = 4, .prepare = get_own, .run = nack_own,
	  .check = check_nacked },
	{ "nack-1-dead-letter", NEITHER, 1, ALL, .on_death = DEAD_LETTER, .filled = 4,
	  .prepare = get_own, .run = nack_own, .check = check_nacked },
	{ "nack-1-poison", NEITHER, 1, ALL, .on_death = POISON, .filled = 1,
	  .prepare = get_own_again, .run = nack_own, .check = check_nacked },
	{ "nack-1-full", NEITHER, 1, ALL, .on_death = REQUEUE, .filled = RING, .leaves = 1,
	  .prepare = get_own_full, .run = nack_own, .check = check_fuller },
	{ "nack-wait-full", NEITHER, 1, ALL, .on_death = REQUEUE, .filled = RING, .leaves = 1,
	  .prepare = get_own_full, .run = nack_wait, .check = check_fuller },
	{ "nack-later-full", NEITHER, 1, ALL, .on_death = REQUEUE, .filled = RING, .leaves = 1,
	  .prepare = get_own_full, .run = nack_later, .check = check_fuller },
	{ "nack-later-full-free", FREES, 1, ALL, .filled = RING, .leaves = 1,
	  .prepare = get_own_full, .run = nack_later, .check = check_fuller },
	{ "nack-1-beside-put", NEITHER, 1, ALL, .on_death = REQUEUE, .filled = 4,
	  .prepare = get_own, .run = nack_own, .beside = put_beside, .check = check_beside },
	{ "move-1", MOVES, 1, ALL, .on_death = REQUEUE, .filled = 4, .run = move_aside },
	{ "move-1-full", NEITHER, 1, ALL, .on_death = REQUEUE, .filled = 1, .prepare = fill_letter,
	  .run = move_to_letter },
	{ "put-wait-full", PUTS, 1, ALL, .filled = RING, .prepare = alloc_own, .run = put_wait },
	{ "put-full-behind-dead", PUTS, 1, ALL, .before = dead_full, .prepare = alloc_own,
	  .run = put_own },
	{ "put-role-of-dead", PUTS, 1, ALL, .flags = SP, .before = dead_single_reserved,
	  .prepare = alloc_own, .run = put_own },
	{ "get-role-of-dead", GETS, 2, ALL, .flags = SC, .filled = 6, .lost = 2,
	  .before = dead_single_claimed, .run = get_some },
	{ "get-wait-empty", GETS, 1, ALL, .run = get_wait },
	{ "get-past-voids", GETS, BULK, ALL, .filled = 2, .before = voids, .run = get_some },
	{ "get-requeue-1", GETS, 1, ALL, .on_death = REQUEUE, .filled = 4, .run = get_some },
	{ "get-requeue-8", GETS, BULK, ALL, .on_death = REQUEUE, .filled = 12, .run = get_some },
	{ "get-dead-letter-8", GETS, BULK, ALL, .on_death = DEAD_LETTER, .filled = 12,
	  .run = get_some },
	{ "get-requeue-single-8", GETS, BULK, ALL, .flags = SC, .on_death = REQUEUE, .filled = 12,
	  .run = get_some },
	{ "send", PUTS, 1, ALL, .unattached = 1, .prepare = have_data, .run = send_data },
	{ "receive", GETS, 4, ALL, .filled = 6, .unattached = 1, .prepare = have_data,
	  .run = receive_data },
	{ "alloc-cached-1", NEITHER, 1, ALL, .prepare = some_cached, .run = alloc_some },
	{ "alloc-cached-8", NEITHER, BULK, ALL, .prepare = some_cached, .run = alloc_some },
	{ "alloc-first", NEITHER, 1, ALL, .run = alloc_some },
	{ "alloc-refill", NEITHER, 1, ALL, .prepare = use_cache_up, .run = alloc_some },
	{ "alloc-refill-20", NEITHER, CACHE + 4, ALL, .prepare = use_cache_up, .run = alloc_some },
	{ "alloc-grow", NEITHER, 1, GROWS, .run = alloc_some },
	{ "alloc-grow-20", NEITHER, CACHE + 4, GROWS, .run = alloc_some },
	{ "alloc-steal", NEITHER, 1, ALL, .prepare = run_dry, .run = alloc_some },
	{ "alloc-steal-8", NEITHER, BULK, ALL, .prepare = run_dry, .run = alloc_some },
	{ "alloc-steal-from-alloc", NEITHER, 1, ALL, .before = survivors_dry, .prepare = run_dry,
	  .run = alloc_some, .beside = alloc_beside },
	{ "alloc-steal-from-alloc-8", NEITHER, 1, ALL, .before = survivors_dry, .prepare = run_dry,
	  .run = alloc_some, .beside = alloc_many_beside },
	{ "alloc-steal-from-free", NEITHER, 1, ALL, .before = survivors_dry, .prepare = run_dry,
	  .run = alloc_some, .beside = free_beside },
	{ "alloc-steal-from-flush", NEITHER, 1, ALL, .before = survivors_dry, .prepare = run_dry,
	  .run = alloc_some, .beside = flush_beside },
	{ "recover-thief-of-alloc", RECOVERS, .before = dead_thief, .beside = alloc_beside },
	{ "put-1-beside-put", PUTS, 1, ALL, .filled = 3, .prepare = alloc_own, .run = put_own,
	  .beside = put_beside, .check = check_beside },
	{ "put-8-beside-put", PUTS, BULK, ALL, .filled = 3, .prepare = alloc_own, .run = put_own,
	  .beside = put_beside, .check = check_beside },
	{ "recover-reserved-beside-put", RECOVERS, .filled = 3, .before = dead_reserved,
	  .beside = put_beside, .check = check_beside },
	{ "recover-half-published-beside-put", RECOVERS, .filled = 3, .before = dead_half_published,
	  .beside = put_beside, .check = check_beside },
	{ "alloc-ask", NEITHER, 1, ALL, .before = without_barrier, .prepare = run_dry,
	  .run = alloc_some, .check = with_barrier },
	{ "alloc-exhausted", NEITHER, 1, ALL, .prepare = run_all_dry, .run = alloc_some },
	{ "request", NEITHER, 1, ALL, .prepare = some_cached, .run = request_all },
	{ "free-cached-1", FREES, 1, ALL, .filled = 3, .lost = 0, .prepare = get_own,
	  .run = give_back },
	{ "free-cached-8", FREES, BULK, ALL, .filled = 12, .prepare = get_own, .run = give_back },
	{ "free-requeue-8", FREES, BULK, ALL, .on_death = REQUEUE, .filled = 12, .prepare = get_own,
	  .run = give_back },
	{ "free-flush-1", NEITHER, 1, ALL, .prepare = fill_cache, .run = give_back },
	{ "free-flush-8", NEITHER, BULK, ALL, .prepare = fill_cache, .run = give_back },
	{ "free-flush", NEITHER, 1, ALL, .prepare = asked_for, .run = give_back },
	{ "attach-member", NEITHER, 1, ALL, .unattached = 1, .run = attach_member },
	{ "attach", NEITHER, 1, ALL, .unattached = 1, .prepare = open_locally, .run = attach },
	{ "attach-opening", NEITHER, 1, ALL, .unattached = 1, .run = open_and_attach },
	{ "attach-in-place-of-dead", NEITHER, 1, ALL, .unattached = 1, .before = dead_everywhere,
	  .prepare = open_locally, .run = attach },
	{ "detach-member", NEITHER, 1, ALL, .detaches = 1, .prepare = all_home,
	  .run = detach_member },
	{ "detach", NEITHER, 1, ALL, .unattached = 1, .detaches = 1, .prepare = attach_locally,
	  .run = detach },
	{ "create-queue", NEITHER, 1, ALL, .run = create_queue, .check = check_queue },
	{ "create-queue-contested", NEITHER, 1, ALL, .before = dead_naming, .run = create_queue,
	  .check = check_queue },
	{ "create-segment", NEITHER, 1, ALL, .unattached = 1, .before = second_segment,
	  .run = create_segment, .check = check_segment },
	{ "adopt-last", NEITHER, 1, ALL, .detaches = 1, .prepare = have_last, .run = give_back },
	{ "trim", NEITHER, 0, TRIMS, .before = grown, .run = trim_all_but },
	{ "trim-one", NEITHER, CAPACITY / 2, TRIMS, .before = grown, .run = trim_all_but },
	{ "trim-with-cache", NEITHER, 0, TRIMS, .before = grown, .prepare = some_cached,
	  .run = trim_all_but },
	{ "trim-regrow-1", NEITHER, 1, TRIMS, .before = trimmed, .prepare = run_dry,
	  .run = alloc_some },
	{ "trim-regrow-20", NEITHER, CACHE + 4, TRIMS, .before = trimmed, .run = alloc_some },
	{ "trim-beside-alloc", NEITHER, 0, TRIMS, .before = grown, .run = trim_all_but,
	  .beside = refill_beside },
	{ "trim-beside-trim", NEITHER, 0, TRIMS, .before = grown, .run = trim_all_but,
	  .beside = trim_beside },
	{ "pin", NEITHER, 0, TRIMS, .before = grown, .run = pin_all, .check = check_unpinned },
	{ "pin-beside-trim", NEITHER, 0, TRIMS, .before = grown, .run = pin_all,
	  .beside = trim_beside },
	{ "trim-beside-pin", NEITHER, 0, TRIMS, .before = grown, .run = trim_all_but,
	  .beside = pin_all },
	{ "alloc-grow-beside-trim", NEITHER, CACHE + 4, TRIMS, .before = grown, .prepare = run_dry,
	  .run = alloc_some, .beside = trim_beside },
	{ "recover-trimming", .kind = NEITHER, TRIMS, .run = recover_dead,
	  .before = dead_trimming },
	{ "recover-trimming-beside-alloc", .kind = NEITHER, TRIMS, .run = recover_dead,
	  .before = dead_trimming, .beside = refill_beside },
	{ "bypass-1", NEITHER, 1, ALL, .filled = RING, .before = dead_giving, .run = alloc_some },
	{ "bypass-8", NEITHER, BULK, ALL, .filled = RING, .before = dead_giving,
	  .run = alloc_some },
	{ "bypass-beside-give", NEITHER, 1, ALL, .prepare = run_dry, .run = alloc_some,
	  .beside = give_beside },
	{ "bypass-beside-bypass", NEITHER, BULK, ALL, .filled = RING, .before = dead_giving,
	  .run = alloc_some, .beside = refill_beside },
	{ "bypass-beside-claim", NEITHER, BULK, ALL, .before = dead_giving_between,
	  .prepare = take_front, .run = alloc_some, .beside = refill_beside },
	{ "bypassed-claim-1", NEITHER, 1, ALL, .filled = RING, .before = stale_slots,
	  .run = alloc_some },
	{ "bypassed-claim-20", NEITHER, CACHE + 4, ALL, .filled = RING, .before = stale_slots,
	  .run = alloc_some },
	{ "bypassed-claim-beside-bypass", NEITHER, CACHE + 4, ALL, .filled = RING,
	  .before = dead_giving, .prepare = unblock, .run = alloc_some, .beside = refill_beside },
	{ "recover-bypassed", RECOVERS, .filled = RING, .before = dead_giving },
	{ "recover-bypassed-beside-bypass", RECOVERS, .filled = RING, .before = dead_giving,
	  .beside = refill_beside },
	{ "recover-holding", RECOVERS, .filled = 3, .before = dead_holding },
	{ "recover-reserved", RECOVERS, .filled = 3, .before = dead_reserved },
	{ "recover-half-published", RECOVERS, .filled = 3, .before = dead_half_published },
	{ "recover-half-published-single", RECOVERS, .flags = SP, .filled = 3,
	  .before = dead_half_published_single },
	{ "recover-claimed", RECOVERS, .filled = 6, .lost = 4, .before = dead_claimed },
	{ "recover-single-reserved", RECOVERS, .flags = SP, .filled = 3,
	  .before = dead_single_reserved },
	{ "recover-single-claimed", RECOVERS, .flags = SC, .filled = 6, .lost = 2,
	  .before = dead_single_claimed },
	{ "recover-thief", RECOVERS, .before = dead_thief },
	{ "recover-makers", .kind = NEITHER, GROWS, .before = dead_making, .run = recover_dead,
	  .check = check_queue_gone },
	{ "recover-sleeper", RECOVERS, .before = dead_asleep },
	{ "recover-full-pool", RECOVERS, .before = dead_full_pool },
	{ "recover-requeue", RECOVERS, .on_death = REQUEUE, .filled = 6, .lost = 4,
	  .before = dead_getting },
	{ "recover-requeue-claimed", RECOVERS, .on_death = REQUEUE, .filled = 6, .lost = 4,
	  .before = dead_claimed },
	{ "recover-requeue-full", RECOVERS, .on_death = REQUEUE, .filled = 6, .lost = 4,
	  .leaves = 1, .before = dead_getting_full },
	{ "recover-dead-letter", RECOVERS, .on_death = DEAD_LETTER, .filled = 6, .lost = 4,
	  .before = dead_getting },
	{ "recover-poison", RECOVERS, .on_death = POISON, .filled = 4, .lost = 4,
	  .before = dead_getting_twice },
	{ "recover-recoverer", RECOVERS, .on_death = REQUEUE, .filled = 6, .lost = 4,
	  .before = dead_recoverer },
	{ "recover-returned", RECOVERS, .filled = 4, .before = returned },
};

/* put and get, in all four modes, of one and of a bulk, in the middle and at both edges of the
 * ring. */
static const struct {
	const char *name;
	uint32_t flags;
} modes[] = { { "multi-multi", 0 },
	      { "single-multi", SP },
	      { "multi-single", SC },
	      { "single-single", SP | SC } };
static const struct {
	const char *name;
	enum kind kind;
	uint32_t n, turned, filled;
} transfers[] = {
	{ "put-1", PUTS, 1, 0, 3 },
	{ "put-1-last", PUTS, 1, 0, RING - 1 },
	{ "put-1-full", PUTS, 1, 0, RING },
	{ "put-8", PUTS, BULK, 0, 3 },
	{ "put-8-round", PUTS, BULK, RING - 7, 3 },
	{ "put-8-last", PUTS, BULK, 0, RING - BULK },
	{ "put-8-full", PUTS, BULK, 0, RING - BULK + 1 },
	{ "get-1", GETS, 1, 0, 3 },
	{ "get-1-last", GETS, 1, 0, 1 },
	{ "get-1-empty", GETS, 1, 0, 0 },
	{ "get-8", GETS, BULK, 0, 12 },
	{ "get-8-round", GETS, BULK, RING - 3, 12 },
	{ "get-2-of-many", GETS, 2, 0, 12 }, /* forward through the headers: transfer_take_all() */
	{ "get-8-some", GETS, BULK, 0, 3 },
	{ "get-8-empty", GETS, BULK, 0, 0 },
};

#define OTHERS (sizeof(others) / sizeof(*others))
#define MODES (sizeof(modes) / sizeof(*modes))
#define TRANSFERS (sizeof(transfers) / sizeof(*transfers))

const struct operation *operations(uint32_t *n)
{
	static struct operation all[OTHERS + MODES * TRANSFERS];
	*n = 0;
	for (size_t i = 0; i < TRANSFERS; i++)
		for (size_t k = 0; k < MODES; k++) {
			struct operation *o = &all[(*n)++];
			*o = (struct operation) {
				.kind = transfers[i].kind,
				.n = transfers[i].n,
				.flags = modes[k].flags,
				ALL,
				.turned = transfers[i].turned,
				.filled = transfers[i].filled,
				.prepare = transfers[i].kind == PUTS ? alloc_own : NULL,
				.run = transfers[i].kind == PUTS ? put_own : get_some,
			};
			snprintf(o->name, sizeof(o->name), "%s-%s", transfers[i].name,
				 modes[k].name);
		}
	memcpy(&all[*n], others, sizeof(others));
	*n += OTHERS;
	return all;
}
