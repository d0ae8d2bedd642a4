/* SPDX-License-Identifier: Apache-2.0
 *
 * recover.pml - one recoverer: the steps of pass() in recover.c, in its order. Any number of
 * recoverers may run at the same time. The steps of sweep.c are in sweep.pml.
 *
 *     dead_is[v]       the identity found DEAD in slot v; 0: v is not one of this run's dead members
 *     dead_op[v]       that member's op record
 *     from, n, by[j]   range j of ranges_collect(), and the tag of its dead member. With several
 *                      producers j is the member's number, with a single one 0
 *     certain, passed  by bit, of the ranges: which are certain, which are postponed
 *     postponed        by bit: members that are left to a later run
 *     locked           a live recoverer is resetting the slot of one of the dead members
 *
 * A member that is not one of this run's dead members counts as live, even if it dies later: it
 * belongs to another run. An op record that cannot be of the kind in question (a consumer's ENQUEUE)
 * is not read. The including model defines settle(b): where a recovered buffer goes.
 */
#ifdef MUTATE_LIVE_NOW
#define LIVE(v) (identity[v] / DEAD == 0)
#else
#ifdef MUTATE_NO_IDENTITY_CHECK
#define LIVE(v) (dead_is[v] == 0)
#else
#define LIVE(v) (dead_is[v] == 0 || identity[v] != dead_is[v])
#endif
#endif
#define IN_DEAD(t) ((t) < 16 && ((dead_tags >> (t)) & 1))
#define MEMBER(t) (((t) - 1) % 8)
#define IN_RANGE(j, p) ((p) >= from[j] && (p) < from[j] + n[j])
#define CERTAIN ((certain >> j) & 1)
#define RANGES 2

#ifdef MUTATE_CERTAIN_WITHOUT_PUBLISH
#define IS_CERTAIN(o) (COUNT(o) > 1)
#elif defined MUTATE_NEVER_CERTAIN
#define IS_CERTAIN(o) false
#else
#define IS_CERTAIN(o) (KIND(o) == PUBLISH)
#endif
#ifdef MUTATE_UNRESERVE_AFTER_TOMBSTONES
#define AFTER_RANGES bury_begin
#define AFTER_UNRESERVE sweep_begin
#define AFTER_TOMBSTONES unreserve_begin
#else
#define AFTER_RANGES unreserve_begin
#define AFTER_UNRESERVE bury_begin
#define AFTER_TOMBSTONES sweep_begin
#endif
#ifdef MUTATE_ROLES_BEFORE_SWEEP
#define SWEEP_BEGIN roles_begin
#define AFTER_SWEEP slots_next
#define AFTER_ROLES sweep_cons
#else
#define SWEEP_BEGIN sweep_cons
#define AFTER_SWEEP roles_begin
#define AFTER_ROLES slots_next
#endif

inline on(step)
{
	pc[me] = step
}

inline forget()
{
	i = 0;
	do :: i < MEMBERS -> dead_is[i] = 0; dead_op[i] = 0; i++ :: else -> break od;
	i = 0; j = 0; d_b = 0; at = 0; word = 0; take = 0; seen_cons = 0; seen_role = 0; dead_tags = 0;
	covered = 0; certain = 0; passed = 0; seen_op[0] = 0; seen_op[1] = 0;
	from[0] = 0; from[1] = 0; n[0] = 0; n[1] = 0; by[0] = 0; by[1] = 0
}

/* Finds the next slot with a dead member and marks it DEAD. If a member dies after its slot was
 * read, it belongs to another run. */
inline recover_mark()
{
#if MERGED
	do
	:: i < MEMBERS ->
		if
		:: (identity[i] & DEAD) || (identity[i] != 0 && GONE(identity[i])) ->
			identity[i] = identity[i] | DEAD;
			dead_is[i] = identity[i];
			dead_tags = dead_tags | BIT(dead_is[i] - DEAD);
			dead_op[i] = op[i]
		:: else
		fi;
		i++
	:: else -> break
	od;
	i = 0;
	on(thieves_next)
#else
	do
	:: i < MEMBERS && !(identity[i] & DEAD) && !(identity[i] != 0 && GONE(identity[i])) -> i++
	:: else -> break
	od;
	if
	:: i < MEMBERS ->
		identity[i] = identity[i] | DEAD;
		dead_is[i] = identity[i];
		dead_tags = dead_tags | BIT(dead_is[i] - DEAD);
		next(recover_mark_op)
	:: else -> i = 0; on(thieves_next)
	fi
#endif
}

/* The work on the recoverer's own variables that follows a step, up to the next load or store. It is
 * part of the step. */
inline onward()
{
	if
	:: pc[me] >= thieves_next ->
	do
	:: pc[me] == thieves_next ->
		do :: i < MEMBERS && !IN_DEAD(holder[i]) -> i++ :: else -> break od;
		if
		:: i < MEMBERS -> next(recover_thieves_cas)
		:: else ->
			i = 0;
#ifdef MUTATE_ROLE_BEFORE_PROD
			if :: MULTI_PRODUCER -> on(ranges_next) :: else -> next(recover_ranges_role) fi
#else
			if :: MULTI_PRODUCER -> on(ranges_next) :: else -> next(recover_ranges_cons) fi
#endif
		fi
	:: pc[me] == ranges_next ->
		do :: j < RANGES && KIND(dead_op[j]) != ENQUEUE && KIND(dead_op[j]) != PUBLISH -> j++ :: else -> break od;
		if :: j < RANGES -> next(recover_ranges_prod) :: else -> j = 0; on(AFTER_RANGES) fi
	:: pc[me] == range_read -> /* skip_published() of ranges.c */
		if
		:: n[j] == 0 -> from[j] = 0; by[j] = 0; certain = certain & (3 - BIT(j)); on(range_added)
#ifndef MUTATE_PUBLISHED_TOO
		:: n[j] > 0 && CERTAIN -> next(recover_ranges_slot)
#endif
		:: else -> on(range_added)
		fi
	:: pc[me] == range_added ->
		if :: MULTI_PRODUCER -> j++; on(ranges_next) :: else -> on(AFTER_RANGES) fi
	:: pc[me] == unreserve_begin ->
		d_b = 0;
		if :: n[0] + n[1] -> next(sweep_unreserve_owner) :: else -> on(AFTER_UNRESERVE) fi
	:: pc[me] == unreserve_range -> /* ranges_find() */
		i = 0; word = 0; covered = 0;
		do :: j < RANGES && !IN_RANGE(j, at) -> j++ :: else -> break od;
		if :: j < RANGES -> next(sweep_unreserve_slot) :: else -> on(unreserve_next) fi
	:: pc[me] == unreserve_next ->
		i = 0; j = 0; at = 0; word = 0; take = 0; covered = 0;
		d_b++;
		if :: d_b == BUFFERS -> d_b = 0; on(AFTER_UNRESERVE) :: else -> next(sweep_unreserve_owner) fi
	:: pc[me] == unreserve_cover ->
		do :: i < MEMBERS && !MAY_ENQUEUE(i) -> i++ :: else -> break od;
		if
		:: i < MEMBERS && !covered -> next(sweep_unreserve_live)
		:: covered ->
			passed = passed | BIT(j);
			postponed = postponed | BIT(MEMBER(by[j]));
			j++;
			on(unreserve_range)
		:: else -> i = 0; next(sweep_unreserve_again)
		fi
	:: pc[me] == bury_begin ->
		j = 0; i = 0; covered = 0;
		at = from[0];
		on(bury_at)
	:: pc[me] == bury_at ->
		word = 0; i = 0; covered = 0;
		do
#ifdef MUTATE_TOMBSTONES_OF_POSTPONED_RANGE
		:: j < RANGES && !IN_RANGE(j, at) ->
#else
		:: j < RANGES && (!IN_RANGE(j, at) || (passed >> j) & 1) ->
#endif
			j++;
			if :: j < RANGES -> at = from[j] :: else fi
		:: else -> break
		od;
		if :: j < RANGES -> next(ranges_bury_slot) :: else -> j = 0; at = 0; on(AFTER_TOMBSTONES) fi
	:: pc[me] == bury_cover ->
		do :: i < MEMBERS && !MAY_ENQUEUE(i) -> i++ :: else -> break od;
		if
		:: i < MEMBERS && !covered -> next(ranges_bury_live)
#ifdef MUTATE_TOMBSTONE_FORGOTTEN
		:: covered -> at++; on(bury_at)
#else
		:: covered -> postponed = postponed | BIT(MEMBER(by[j])); at++; on(bury_at)
#endif
		:: else -> i = 0; next(ranges_bury_cas)
		fi
	:: pc[me] == sweep_begin ->
		from[0] = 0; from[1] = 0; n[0] = 0; n[1] = 0; by[0] = 0; by[1] = 0; certain = 0; passed = 0; j = 0; at = 0;
		d_b = 0;
		if
		:: SWEEP_BEGIN != sweep_cons -> on(roles_begin)
#ifdef MUTATE_CONSUMER_ROLE_FIRST
		:: else -> next(sweep_role)
#elif defined MUTATE_OPS_BEFORE_CONS
		:: else -> next(sweep_live)
#else
		:: else -> next(sweep_cons)
#endif
		fi
	:: pc[me] == sweep_next ->
		at = 0; take = 0;
		d_b++;
		if
		:: d_b == BUFFERS ->
			d_b = 0; seen_cons = 0; seen_role = 0; seen_op[0] = 0; seen_op[1] = 0;
			i = 0;
			on(AFTER_SWEEP)
		:: else -> next(sweep_owner)
		fi
	:: pc[me] == roles_begin ->
		i = 0;
		if
		:: !MULTI_PRODUCER -> next(recover_roles_producer)
		:: !MULTI_CONSUMER && MULTI_PRODUCER -> next(recover_roles_consumer)
		:: else -> on(AFTER_ROLES)
		fi
	:: pc[me] == slots_next ->
		do :: i < MEMBERS && (dead_is[i] == 0 || (postponed >> i) & 1) -> i++ :: else -> break od;
		if
		:: i < MEMBERS -> next(recover_slots_cas)
		:: else ->
			assert(!alone || !(postponed || locked));
			alone = 0; postponed = 0; locked = 0;
			forget();
			next(at_rest)
		fi
	:: else -> break
	od
	:: else
	fi;
	skip /* a loop may not be the last statement of a d_step */
}

#include "sweep.pml"

inline recover()
{
	if
	:: pc[me] == recover_mark_identity -> recover_mark()
	:: pc[me] == recover_mark_op ->
		dead_op[i] = op[i];
#ifdef MUTATE_NO_IDENTITY_CHECK
		i++;
		next(recover_mark_identity)
#else
		next(recover_mark_tag)
#endif
	:: pc[me] == recover_mark_tag -> /* drops the member if its slot has another identity now */
		if
		:: identity[i] != dead_is[i] ->
			dead_tags = dead_tags & ~BIT(dead_is[i] - DEAD);
			dead_op[i] = 0;
			dead_is[i] = 0
		:: else
		fi;
		i++;
		next(recover_mark_identity)
	:: pc[me] == recover_thieves_cas -> /* to CACHE_FLUSH_REQUESTED; for the cache see cache.pml */
		if :: IN_DEAD(holder[i]) -> holder[i] = 0 :: else fi;
		i++;
		on(thieves_next)

	:: pc[me] == recover_ranges_cons ->
		from[0] = cons;
		next(recover_ranges_prod)
	:: pc[me] == recover_ranges_prod ->
		if
		:: MULTI_PRODUCER ->
			from[j] = POSITION(dead_op[j]);
			n[j] = (prod <= from[j] -> 0 : (prod - from[j] < COUNT(dead_op[j]) -> prod - from[j] : COUNT(dead_op[j])));
			by[j] = dead_is[j] - DEAD;
			if :: IS_CERTAIN(dead_op[j]) -> certain = certain | BIT(j) :: else fi;
			on(range_read)
		:: else ->
			n[0] = prod - from[0];
#ifdef MUTATE_ROLE_BEFORE_PROD
			on(range_read)
#else
			next(recover_ranges_role)
#endif
		fi
	:: pc[me] == recover_ranges_role -> /* after prod: the next member with the role reserves behind it */
		if
		:: IN_DEAD(producer) -> by[0] = producer; certain = 1
#ifdef MUTATE_ROLE_BEFORE_PROD
			; next(recover_ranges_cons)
		:: else -> on(AFTER_RANGES)
#else
			; on(range_read)
		:: else -> from[0] = 0; n[0] = 0; on(AFTER_RANGES)
#endif
		fi
	:: pc[me] == recover_ranges_slot -> /* skip_published(): from the first unpublished on */
		if
		:: PENDING(slot[from[j] % SIZE], from[j]) -> on(range_added)
		:: else -> from[j]++; n[j]--; on(range_read)
		fi

	:: pc[me] == ranges_bury_slot ->
		word = slot[at % SIZE];
		if
		:: !PENDING(word, at) -> at++; on(bury_at)
		:: PENDING(word, at) && CERTAIN -> next(ranges_bury_cas)
#ifdef MUTATE_NO_OP_COVER
		:: PENDING(word, at) && !CERTAIN -> next(ranges_bury_cas)
#else
		:: PENDING(word, at) && !CERTAIN -> on(bury_cover)
#endif
		fi
	:: pc[me] == ranges_bury_live ->
		covered = (COVERS(op[i], ENQUEUE, at) && LIVE(i));
		i++;
		on(bury_cover)
	:: pc[me] == ranges_bury_cas ->
#ifdef MUTATE_TOMBSTONE_WITHOUT_CAS
		slot[at % SIZE] = WORD(at, TOMBSTONE);
#else
		if :: slot[at % SIZE] == word -> slot[at % SIZE] = WORD(at, TOMBSTONE) :: else fi;
#endif
		at++;
		on(bury_at)

	:: pc[me] == recover_roles_producer ->
		if :: IN_DEAD(producer) -> producer = 0 :: else fi;
		if :: MULTI_CONSUMER -> on(AFTER_ROLES) :: else -> next(recover_roles_consumer) fi
	:: pc[me] == recover_roles_consumer ->
		if :: IN_DEAD(consumer) -> consumer = 0 :: else fi;
		on(AFTER_ROLES)

	:: pc[me] == recover_slots_cas ->
		if
		:: holder[i] == 0 || IN_DEAD(holder[i]) ->
			holder[i] = tag;
#if MERGED
			if
			:: identity[i] != dead_is[i] -> next(recover_slots_unlock)
			:: else -> next(recover_slots_op)
			fi
#else
			next(recover_slots_check)
#endif
		/* another recoverer has locked the slot */
		:: else -> locked = locked || identity[i] == dead_is[i]; i++; on(slots_next)
		fi
	:: pc[me] == recover_slots_check ->
		if
		:: identity[i] != dead_is[i] -> next(recover_slots_unlock)
		:: else -> next(recover_slots_op)
		fi
	:: pc[me] == recover_slots_op -> /* reset() of member.c */
		op[i] = 0;
		next(recover_slots_identity)
	:: pc[me] == recover_slots_identity ->
		identity[i] = 0;
		next(recover_slots_unlock)
	:: pc[me] == recover_slots_unlock ->
		holder[i] = 0;
		i++;
		on(slots_next)
	:: else -> sweep_steps()
	fi;
	onward()
}
