/* SPDX-License-Identifier: Apache-2.0
 *
 * recover.pml - the steps of recover.c: what one recoverer does, any number of them at a time.
 *
 *     dead_is[v]   the identity word found DEAD in slot v; 0: v is not of this recovery's dead set
 *     dead_op[v]   that member's op record
 *     postponed    something was left to a later recovery: nobody is finished in this one
 *     locked       a live recoverer is finishing a member of the set
 *
 * Live is whoever is not in this set; who dies later is so too, and another recovery's.
 * An op record that cannot be of the kind asked for (a consumer's ENQUEUE) is not looked at.
 * The model gives settle(b), the rest of what happens to a buffer that has been taken.
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
#define IN_DEAD(t) ((dead_tags >> (t)) & 1)

/* Voids before the sweep, unless a single consumer could then step over a position and, having no op
 * record, be taken for the owner of the buffer that was meant for it. */
#ifdef MUTATE_VOID_FIRST
#define VOID_LAST false
#else
#define VOID_LAST (!MULTI_CONSUMER)
#endif

#ifdef MUTATE_CONSUMER_ROLE_FIRST
#define SWEEP_FIRST recover_sweep_role
#define SWEEP_SECOND recover_sweep_look
#define SWEEP_THIRD recover_sweep_cons
#else
#define SWEEP_FIRST recover_sweep_cons
#define SWEEP_SECOND recover_sweep_role
#define SWEEP_THIRD recover_sweep_look
#endif
#ifdef MUTATE_SLOT_BEFORE_OPS
#define SWEEP_COVER recover_sweep_slot
#else
#define SWEEP_COVER sweep_cover_next
#endif

inline on(step)
{
	pc[me] = step
}

inline look()
{
	take = owner[d_b];
	if
	:: IS_TRANSIT(take) && take - 128 < seen_cons ->
		at = take - 128;
		if
		:: MULTI_CONSUMER -> on(seen_next)
		:: !MULTI_CONSUMER && (seen_role == 0 || IN_DEAD(seen_role)) -> next(recover_sweep_cas)
		:: else -> on(sweep_next)
		fi
	:: IS_TRANSIT(take) && take - 128 >= seen_cons ->
		at = take - 128;
		if
		:: MULTI_PRODUCER ->
			do :: i < MEMBERS && !COVERS(dead_op[i], ENQUEUE, at) -> i++ :: else -> break od;
			if :: i == MEMBERS -> on(sweep_next) :: else -> i = 0; on(SWEEP_COVER) fi
		:: else -> next(recover_sweep_cover)
		fi
	:: take < IN_RING && IN_DEAD(take) -> next(recover_sweep_cas)
	:: else -> on(sweep_next)
	fi
}

inline forget()
{
	i = 0;
	do :: i < MEMBERS -> dead_is[i] = 0; dead_op[i] = 0; seen_op[i] = 0; i++ :: else -> break od;
	i = 0; d_b = 0; at = 0; last = 0; word = 0; take = 0; seen_cons = 0; seen_role = 0; dead_tags = 0;
	covered = 0; m = 0
}


/* What follows a step at once: work on the recoverer's own variables, up to its next load or store. */
inline onward()
{
	if
	:: pc[me] >= voids_member ->
	do
	:: pc[me] == voids_member ->
		do
		:: i < MEMBERS && KIND(dead_op[i]) != ENQUEUE -> i++
		:: else -> break
		od;
		if
		:: i < MEMBERS -> at = POSITION(dead_op[i]); last = at + COUNT(dead_op[i]); next(recover_voids_prod)
		:: else -> i = 0; at = 0; last = 0; on(after_voids)
		fi
	:: pc[me] == voids_begin ->
		i = 0;
		if
#ifndef MUTATE_VOID_POSTPONED
		:: VOID_LAST && postponed -> on(after_voids)
#endif
		:: MULTI_PRODUCER -> on(voids_member)
#ifdef MUTATE_ROLE_FIRST
		:: !MULTI_PRODUCER -> next(recover_voids_role)
#else
		:: !MULTI_PRODUCER -> next(recover_voids_prod)
#endif
		fi
	:: pc[me] == voids_end ->
		at = 0;
		last = 0;
		if
		:: MULTI_PRODUCER -> i++; on(voids_member)
		:: else -> on(after_voids)
		fi
	:: pc[me] == voids_next ->
		word = 0;
		at++;
		if :: at >= last -> on(voids_end) :: else -> next(recover_voids_slot) fi
	:: pc[me] == after_voids ->
		if :: VOID_LAST -> on(finish_next) :: else -> next(SWEEP_FIRST) fi
	:: pc[me] == after_mark ->
		i = 0;
		if :: VOID_LAST -> next(SWEEP_FIRST) :: else -> on(voids_begin) fi
	:: pc[me] == after_sweep ->
		d_b = 0; take = 0; seen_cons = 0; seen_role = 0; i = 0;
		do :: i < MEMBERS -> seen_op[i] = 0; i++ :: else -> break od;
		i = 0;
		if :: VOID_LAST -> on(voids_begin) :: else -> on(finish_next) fi
	:: pc[me] == mark_next -> /* the next dead member's op record, or on to thieves */
		do :: i < MEMBERS && dead_is[i] == 0 -> i++ :: else -> break od;
		if
		:: i < MEMBERS -> next(recover_mark_op)
		:: else -> i = 0; on(thieves_next)
		fi
	:: pc[me] == thieves_next ->
		do :: i < MEMBERS && !IN_DEAD(thief[i]) -> i++ :: else -> break od;
		if :: i < MEMBERS -> next(recover_thieves_cas) :: else -> on(after_mark) fi
	:: pc[me] == sweep_next ->
		i = 0; at = 0; word = 0; covered = 0; take = 0;
		d_b++;
		if :: d_b == BUFFERS -> on(after_sweep) :: else -> next(recover_sweep_look) fi
	:: pc[me] == seen_next -> /* i = the next live member from i on whose dequeue covered at */
		do :: i < MEMBERS && !COVERS(seen_op[i], DEQUEUE, at) -> i++ :: else -> break od;
		if :: i < MEMBERS -> next(recover_sweep_second) :: else -> next(recover_sweep_cas) fi
	:: pc[me] == finish_next ->
		do :: i < MEMBERS && (dead_is[i] == 0 || postponed) -> i++ :: else -> break od;
		if
		:: i < MEMBERS -> next(recover_finish_cas)
		:: else -> forget(); next(at_rest)
		fi
	:: pc[me] == voids_cover_next -> /* i = the next member from i on whose record might be a live enqueue's */
		do :: i < MEMBERS && !MAY_ENQUEUE(i) -> i++ :: else -> break od;
		if :: i < MEMBERS && !covered -> next(recover_voids_cover) :: else -> i = 0; next(recover_voids_cas) fi
	:: pc[me] == sweep_cover_next ->
		do :: i < MEMBERS && !MAY_ENQUEUE(i) -> i++ :: else -> break od;
		if :: i < MEMBERS && !covered -> next(recover_sweep_cover) :: else -> i = 0; next(recover_sweep_slot) fi
	:: else -> break
	od
	:: else
	fi;
	skip /* a loop may not be the last in a d_step */
}

/* Every slot at once: a slot passed before its member died is one whose member is stopped till later. */
inline recover_mark()
{
	postponed = 0;
	locked = 0;
	i = 0;
	do
	:: i < MEMBERS ->
		if
		:: identity[i] != 0 && identity[i] < DEAD && GONE(identity[i]) ->
			identity[i] = identity[i] | DEAD
		:: else
		fi;
		if
		:: identity[i] & DEAD ->
			dead_is[i] = identity[i];
			dead_tags = dead_tags | BIT(dead_is[i] - DEAD)
		:: else
		fi;
		i++
	:: else -> break
	od;
	i = 0;
	on(mark_next);
	onward()
}

inline recover()
{
	if
	:: pc[me] == recover_mark_op ->
		dead_op[i] = op[i];
#ifdef MUTATE_NO_IDENTITY_CHECK
		i++;
		on(mark_next)
#else
		next(recover_mark_check)
#endif
	:: pc[me] == recover_mark_check -> /* it is that life's record if that life is still there */
		if :: identity[i] != dead_is[i] -> dead_op[i] = 0; dead_is[i] = 0 :: else fi;
		i++;
		on(mark_next)
	:: pc[me] == recover_thieves_cas ->
		if
		:: IN_DEAD(thief[i]) -> thief[i] = tag; next(recover_thieves_free)
		:: else -> i++; on(thieves_next)
		fi
	:: pc[me] == recover_thieves_free -> /* the cache itself: cache.pml */
		thief[i] = 0;
		i++;
		on(thieves_next)

	:: pc[me] == recover_voids_prod ->
		if
		:: MULTI_PRODUCER && last > prod -> last = prod
		:: MULTI_PRODUCER && last <= prod
		:: !MULTI_PRODUCER -> last = prod
		fi;
		if
		:: !MULTI_PRODUCER -> next(recover_voids_cons)
		:: MULTI_PRODUCER && at >= last -> on(voids_end)
		:: MULTI_PRODUCER && at < last -> next(recover_voids_slot)
		fi
	:: pc[me] == recover_voids_cons ->
		at = cons;
#ifdef MUTATE_ROLE_FIRST
		if :: at >= last -> on(voids_end) :: else -> next(recover_voids_slot) fi
#else
		next(recover_voids_role)
#endif
	:: pc[me] == recover_voids_role -> /* after prod: whoever takes the role next reserves behind last */
		if
		:: !IN_DEAD(producer) -> on(voids_end)
#ifdef MUTATE_ROLE_FIRST
		:: IN_DEAD(producer) -> next(recover_voids_prod)
#else
		:: IN_DEAD(producer) && at >= last -> on(voids_end)
		:: IN_DEAD(producer) && at < last -> next(recover_voids_slot)
#endif
		fi
	:: pc[me] == recover_voids_slot ->
		word = slot[at % SIZE];
		m = i;
		i = 0;
		if
		:: !PENDING(word, at) -> i = m; m = 0; on(voids_next)
#ifndef MUTATE_NO_OP_COVER
		:: PENDING(word, at) && MULTI_PRODUCER -> on(voids_cover_next)
#endif
		:: else -> next(recover_voids_cas)
		fi
	:: pc[me] == recover_voids_cover ->
		covered = (COVERS(op[i], ENQUEUE, at) && LIVE(i));
		i++;
		on(voids_cover_next)
	:: pc[me] == recover_voids_cas ->
		if
#ifndef MUTATE_VOID_FORGOTTEN
		:: covered -> postponed = 1
#else
		:: covered
#endif
#ifdef MUTATE_VOID_WITHOUT_CAS
		:: !covered -> slot[at % SIZE] = WORD(at, VOID)
#else
		:: !covered && slot[at % SIZE] == word -> slot[at % SIZE] = WORD(at, VOID)
		:: !covered && slot[at % SIZE] != word
#endif
		fi;
		covered = 0;
		i = m;
		m = 0;
		on(voids_next)

	:: pc[me] == recover_sweep_cons ->
#ifdef MUTATE_OPS_BEFORE_CONS
		if :: m == 0 -> m = 1; next(recover_sweep_ops) :: else -> m = 0; seen_cons = cons; next(recover_sweep_look) fi
#else
		seen_cons = cons;
		next((MULTI_CONSUMER -> recover_sweep_ops : SWEEP_SECOND))
#endif
	:: pc[me] == recover_sweep_role -> /* after cons: whoever takes the role next claims behind it */
		seen_role = consumer;
		next(SWEEP_THIRD)
	:: pc[me] == recover_sweep_ops -> /* a member a step */
		do :: i < MEMBERS && !MAY_DEQUEUE(i) -> i++ :: else -> break od;
		if
		:: i < MEMBERS ->
			seen_op[i] = (LIVE(i) && KIND(op[i]) == DEQUEUE -> op[i] : 0);
			i++
		:: else
		fi;
		do :: i < MEMBERS && !MAY_DEQUEUE(i) -> i++ :: else -> break od;
		if
		:: i < MEMBERS
#ifdef MUTATE_OPS_BEFORE_CONS
		:: i == MEMBERS -> i = 0; next(recover_sweep_cons)
#else
		:: i == MEMBERS -> i = 0; next(recover_sweep_look)
#endif
		fi
	:: pc[me] == recover_sweep_look ->
		look()
	:: pc[me] == recover_sweep_second ->
#ifdef MUTATE_NO_SECOND_LOOK
		i++;
		on(seen_next)
#else
		if
		:: op[i] == seen_op[i] -> postponed = 1; on(sweep_next)
		:: else -> i++; on(seen_next)
		fi
#endif
	:: pc[me] == recover_sweep_cover -> /* before the slot: who is not covered now will not publish */
		if
		:: MULTI_PRODUCER ->
			covered = (COVERS(op[i], ENQUEUE, at) && LIVE(i));
			i++;
			on(sweep_cover_next)
		:: !MULTI_PRODUCER && IN_DEAD(producer) -> next(recover_sweep_slot)
		:: else -> on(sweep_next)
		fi
	:: pc[me] == recover_sweep_slot ->
#ifdef MUTATE_SLOT_BEFORE_OPS
		if :: m == 0 -> word = slot[at % SIZE] :: else fi;
		if
		:: PENDING(word, at) && m == 0 -> m = 1; on(sweep_cover_next)
		:: PENDING(word, at) && m == 1 && !covered -> m = 0; next(recover_sweep_cas)
		:: PENDING(word, at) && m == 1 && covered -> m = 0; postponed = 1; on(sweep_next)
#else
		word = slot[at % SIZE];
		if
		:: PENDING(word, at) && !covered -> next(recover_sweep_cas)
		:: PENDING(word, at) && covered -> postponed = 1; on(sweep_next)
#endif
		:: VOIDED(word, at) -> next(recover_sweep_cas)
		:: PUBLISHED(word, at) -> on(sweep_next)
		:: word / 8 > LAP(at) -> /* void, stepped over and overwritten since seen_cons */
#ifndef MUTATE_LAPPED_FORGOTTEN
			postponed = 1;
#endif
			on(sweep_next)
		fi
	:: pc[me] == recover_sweep_cas ->
		if
		:: owner[d_b] == take ->
			assert(real[d_b] < IN_RING && GONE(real[d_b]));
			owner[d_b] = tag;
			real[d_b] = tag;
			first[d_b] = 0;
			next(recover_settle)
		:: else -> on(sweep_next)
		fi
	:: pc[me] == recover_settle ->
		settle(d_b);
		on(sweep_next)

	:: pc[me] == recover_finish_cas ->
		if
		:: thief[i] == 0 || IN_DEAD(thief[i]) -> thief[i] = tag; next(recover_finish_check)
		:: else -> locked = 1; i++; on(finish_next) /* another recoverer has it */
		fi
	:: pc[me] == recover_finish_check ->
		if
		:: identity[i] != dead_is[i] -> next(recover_finish_thief)
		:: else -> next((MULTI_PRODUCER && MULTI_CONSUMER -> recover_finish_op : recover_finish_role))
		fi
	:: pc[me] == recover_finish_role ->
		if
		:: producer == dead_is[i] - DEAD -> producer = 0
		:: consumer == dead_is[i] - DEAD -> consumer = 0
		:: else
		fi;
		next(recover_finish_op)
	:: pc[me] == recover_finish_op ->
		op[i] = 0;
		next(recover_finish_identity)
	:: pc[me] == recover_finish_identity ->
		identity[i] = 0;
		next(recover_finish_thief)
	:: pc[me] == recover_finish_thief ->
		thief[i] = 0;
		i++;
		on(finish_next)
	fi;
	onward()
}
