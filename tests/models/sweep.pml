/* SPDX-License-Identifier: Apache-2.0
 *
 * sweep.pml - the steps of sweep.c: sweep_unreserve() and sweep(). Part of recover.pml, which
 * declares their variables.
 */
#ifdef MUTATE_UNRESERVE_TO_DEAD_MEMBER
#define UNRESERVED by[j]
#else
#define UNRESERVED ABANDONED
#endif
/* With HAND_ON a buffer's destination may have no room: queue.pml chooses at sweep_hand_on. */
#if HAND_ON
#define SWEEP_TAKE sweep_hand_on
#else
#define SWEEP_TAKE sweep_cas
#endif

inline postpone_claimant()
{
#ifndef MUTATE_CLAIM_FORGOTTEN
	if :: COVERS(dead_op[2], DEQUEUE, at) -> postponed = postponed | BIT(2) :: else fi;
	if :: COVERS(dead_op[3], DEQUEUE, at) -> postponed = postponed | BIT(3) :: else fi;
#endif
	if :: !MULTI_CONSUMER && IN_DEAD(seen_role) -> postponed = postponed | BIT(MEMBER(seen_role)) :: else fi
}

inline sweep_steps()
{
	if
	:: pc[me] == sweep_unreserve_owner ->
		take = owner[d_b];
		if
		:: IS_TRANSIT(take) -> at = take - 128; j = 0; on(unreserve_range)
		:: else -> on(unreserve_next)
		fi
	:: pc[me] == sweep_unreserve_slot -> /* unreserve_one() */
		word = slot[at % SIZE];
		if
		:: IS_TOMBSTONE(word, at) -> next(sweep_unreserve_cas)
		:: PUBLISHED(word, at) && CERTAIN -> next(sweep_unreserve_tombstone)
		:: PENDING(word, at) && CERTAIN -> next(sweep_unreserve_cas)
#ifdef MUTATE_NO_OP_COVER
		:: PENDING(word, at) && !CERTAIN -> next(sweep_unreserve_again)
#else
		:: PENDING(word, at) && !CERTAIN -> on(unreserve_cover)
#endif
		:: else -> j++; on(unreserve_range)
		fi
	:: pc[me] == sweep_unreserve_tombstone -> /* in a bulk that is not whole */
		if
		:: slot[at % SIZE] == word ->
			assert(real[word % 8] == IN_RING);
			real[word % 8] = by[j];
			slot[at % SIZE] = WORD(at, TOMBSTONE)
		:: else
		fi;
		next(sweep_unreserve_cas)
	:: pc[me] == sweep_unreserve_live ->
		covered = (COVERS(op[i], ENQUEUE, at) && LIVE(i));
		i++;
		on(unreserve_cover)
	:: pc[me] == sweep_unreserve_again ->
#ifdef MUTATE_NO_SECOND_READ
		next(sweep_unreserve_cas)
#else
		if
		:: slot[at % SIZE] == word -> next(sweep_unreserve_cas)
		:: else -> j++; on(unreserve_range)
		fi
#endif
	:: pc[me] == sweep_unreserve_cas ->
		if
		:: owner[d_b] == take -> assert(real[d_b] < IN_RING && GONE(real[d_b])); owner[d_b] = UNRESERVED
		:: else
		fi;
		on(unreserve_next)

	:: pc[me] == sweep_cons ->
		seen_cons = cons;
#if defined MUTATE_CONSUMER_ROLE_FIRST || defined MUTATE_OPS_BEFORE_CONS
		next(sweep_owner)
#else
		next((MULTI_CONSUMER -> sweep_live : sweep_role))
#endif
	:: pc[me] == sweep_role -> /* after cons: the next member with the role claims behind it */
		seen_role = consumer;
#ifdef MUTATE_CONSUMER_ROLE_FIRST
		next(sweep_cons)
#else
		next(sweep_owner)
#endif
#if MERGED
	:: pc[me] == sweep_live ->
		seen_op[0] = (LIVE(2) && KIND(op[2]) == DEQUEUE -> op[2] : 0);
		seen_op[1] = (LIVE(3) && KIND(op[3]) == DEQUEUE -> op[3] : 0);
		next(sweep_owner)
#else
	:: pc[me] == sweep_live -> /* recovery_read_ops: one member a step */
		seen_op[i] = (LIVE(i + 2) && KIND(op[i + 2]) == DEQUEUE -> op[i + 2] : 0);
		i++;
		if
		:: i >= CONSUMERS ->
			i = 0;
#ifdef MUTATE_OPS_BEFORE_CONS
			next(sweep_cons)
#else
			next(sweep_owner)
#endif
		:: else
		fi
#endif
	:: pc[me] == sweep_owner -> /* dead_has, dead_claim */
		take = owner[d_b];
		at = (IS_TRANSIT(take) -> take - 128 : 0);
		if
		:: take == ABANDONED || IN_DEAD(take) -> next(SWEEP_TAKE)
		:: IS_TRANSIT(take) && at < seen_cons ->
			if
			:: !MULTI_CONSUMER && (seen_role == 0 || IN_DEAD(seen_role)) -> next(SWEEP_TAKE)
			:: MULTI_CONSUMER && !COVERS(seen_op[0], DEQUEUE, at) && !COVERS(seen_op[1], DEQUEUE, at) ->
				next(SWEEP_TAKE)
			:: else -> postpone_claimant(); on(sweep_next)
			fi
		:: else -> on(sweep_next)
		fi
	:: pc[me] == sweep_abandon -> /* abandon(): the destination has no room */
		if
		:: take == ABANDONED -> on(sweep_next)
		:: take != ABANDONED && owner[d_b] == take ->
			assert(real[d_b] < IN_RING && GONE(real[d_b]));
			owner[d_b] = ABANDONED;
			on(sweep_next)
		:: else -> next(sweep_owner)
		fi
	:: pc[me] == sweep_cas ->
		if
		:: owner[d_b] == take ->
			assert(real[d_b] < IN_RING && GONE(real[d_b]));
			assert(N0 < 2 || d_b > 1 || (delivered >> d_b) & 1 || !((delivered >> (1 - d_b)) & 1));
			owner[d_b] = tag;
			real[d_b] = tag;
			next(sweep_settle)
#if HAND_ON
		:: else -> next(sweep_owner) /* another recoverer has taken or abandoned it */
#else
		:: else -> on(sweep_next)
#endif
		fi
	:: pc[me] == sweep_settle ->
		settle(d_b);
		on(sweep_next)
	fi
}
