/* SPDX-License-Identifier: Apache-2.0
 *
 * member.pml - the states of one member slot: attached, dead, being cleared, free. Processes: the
 * first member (0); recoverers (1 and 2); newcomers (3 and 4), which attach, or recover the slot if
 * it is taken; a live thief, which may have locked the cache (5).
 *
 * The steps are those of member_attach(), introduce(), member_release(), member_take_slot(),
 * raise_epoch(), member_vacate() and member_use_slot() in member.c, and of recover_mark(),
 * recover_slots() and recover_slot() in recover.c. One step is one load, store or compare-and-swap
 * on a shared word. Crashes are as in ring.pml: a process dies when another one asks the
 * kernel for its token.
 *
 * A member has one buffer (owner), one role and an op record. The sweep and recover_roles() are one
 * compare-and-swap each; queue.pml has their steps. The last epoch is EPOCH_MAX.
 *
 *     RECOVERERS  1 or 2, which are members with other slots
 *     NEWCOMERS   1 or 2
 *     SAME        1: the first newcomer is another thread of the first member's process
 *     THIEF       1: there is a thief
 *     EPOCH_MAX   deaths after which the slot gets no further member
 *     RUNS        of each recoverer, and attempts of each newcomer, while other processes can make a step
 *     CRASHES     at most
 */
#define PROCESSES 6
#define BIT(t) (1 << (t))
#define GONE(t) ((gone >> (t)) & 1)

/* identity: | state | token |. */
#define ATTACHED(t) (16 + (t))
#define DEAD(t) (32 + (t))
#define CLEARING(t) (48 + (t))
#define TOKEN(w) ((w) % 16)
#define IS_DEAD(w) ((w) / 16 == 2)

#define FREE 0 /* of owner, role and op: otherwise a tag, which is epoch + 1 */
#define THIEF_AT 8 /* bottom: | thief | position | */

byte identity = ATTACHED(1), tag = 1, cleared, deaths;
byte owner = 1, role = 1, op = 1;
byte bottom, top = 1;
byte pc[PROCESSES], gone, crashes;
byte user[EPOCH_MAX + 2]; /* ghost: by tag, the process that was a member with it */
bit lives = 1;            /* ghost: the slot has a member whose death is not counted yet */
byte died, lost;          /* ghost: counted deaths; those of members that had something */

#define at_rest 0
#define finished 1
#define dead 2
#define mark_identity 3
#define mark_ask 4
#define mark_op 5
#define mark_tag 6
#define mark_cleared 7
#define mark_again 8
#define take_slot_bottom 9
#define member_attach_identity 10
#define member_attach_again 11
#define member_use_epoch 12
#define steal_bottom 13
#define STORES 32
#define mark_cas 32
#define sweep_cas 33
#define recover_roles_cas 34
#define take_slot_cas 35
#define reset_op 36
#define take_slot_bottom_cas 37
#define take_slot_back 38
#define raise_deaths 39
#define raise_cleared 40
#define raise_tag 41
#define member_vacate 42
#define introduce_cleared 43
#define member_use_identity 44
#define member_attach_cas 45
#define member_attach_back 46
#define introduce_attached 47
#define work_owner 48
#define work_role 49
#define work_op 50
#define working 51
#define release_owner 52
#define release_role 53
#define release_op 54
#define release_identity 55
#define steal_cas 56
#define steal_done 57

#define TOKEN_OF(p) ((p) == 3 && SAME -> 1 : (p) + 1)
#define VICTIM(p) (pc[p] >= STORES)

#ifdef TRACE
#define SHOW(step)                                                                                  \
	printf("@%d %d %d identity %d tag %d cleared %d deaths %d owner %d role %d op %d bottom %d top %d\n", \
	       me, pc[me], step, identity, tag, cleared, deaths, owner, role, op, bottom, top);
#else
#define SHOW(step)
#endif
inline next(step)
{
	SHOW(step)
	pc[me] = step
}

/* Kills every thread of the process. */
inline kill(t)
{
	crashes++;
	gone = gone | BIT(t);
	if :: t == 1 && pc[0] != finished -> pc[0] = dead :: else fi;
	if :: t == 1 && SAME && pc[3] != finished -> pc[3] = dead :: else fi;
	if :: t > 1 -> pc[t - 1] = dead :: else fi
}
#define KILLABLE(t)                                                                                  \
	(crashes < CRASHES && !GONE(t) && (((t) == 1 && (VICTIM(0) || (SAME && VICTIM(3)))) ||        \
					   ((t) > 1 && VICTIM((t) - 1))))

/* True if no other process may write into the slot. */
#define MINE(word) (identity == word)

inline member_steps()
{
	if
	:: pc[me] == work_owner -> /* a member takes a buffer, a role and an op record */
		assert(MINE(ATTACHED(my)) && tag <= EPOCH_MAX && (user[tag] == 0 || (user[tag] == me + 1)));
		user[tag] = me + 1;
		if :: owner == FREE -> owner = tag :: else fi;
		next(work_role)
	:: pc[me] == work_role -> if :: role == FREE -> role = tag :: else fi; next(work_op)
	:: pc[me] == work_op -> assert(op == 0); op = tag; next(working)
	:: pc[me] == release_owner ->
		assert(MINE(ATTACHED(my)));
		if :: owner == tag -> owner = FREE :: else fi;
		next(release_role)
	:: pc[me] == release_role -> if :: role == tag -> role = FREE :: else fi; next(release_op)
	:: pc[me] == release_op -> assert(MINE(ATTACHED(my))); op = 0; next(release_identity)
	:: pc[me] == release_identity -> assert(MINE(ATTACHED(my))); user[tag] = 0; lives = 0; identity = 0; next(finished)
	fi
}

proctype First()
{
	byte me = 0, my = 1;
end:
	do
	:: d_step { pc[0] > dead && pc[0] != working -> member_steps() }
	:: d_step { pc[0] == working -> next(release_owner) }
	od
}

proctype Thief()
{
	byte me = 5, seen;
end:
	do
	:: d_step {
		pc[me] >= STORES || pc[me] == steal_bottom ->
		if
		:: pc[me] == steal_bottom -> seen = bottom; next((top != seen % THIEF_AT -> steal_cas : finished))
		:: pc[me] == steal_cas ->
			if :: bottom == seen && seen < THIEF_AT -> bottom = seen + THIEF_AT; next(steal_done) :: else -> next(finished) fi
		:: pc[me] == steal_done ->
			assert(bottom == seen + THIEF_AT);
			bottom = top;
			next(finished)
		fi
	   }
	od
}

inline forget()
{
	seen = 0; d_op = 0; d_tag = 0; d_cleared = 0; was = 0
}

inline pass_ends()
{
	forget();
	next(at_rest)
}

#ifdef MUTATE_CLEARED_FIRST
#define RAISE (cleared -> raise_tag : raise_cleared)
#define DEATHS_NEXT raise_tag
#define CLEARED_NEXT raise_deaths
#elif defined MUTATE_RAISED_AGAIN
#define RAISE raise_deaths
#define DEATHS_NEXT raise_cleared
#define CLEARED_NEXT raise_tag
#else
#define RAISE (cleared -> raise_tag : raise_deaths)
#define DEATHS_NEXT raise_cleared
#define CLEARED_NEXT raise_tag
#endif
#ifdef MUTATE_FREE_BEFORE_TAG
#define BOTTOM_NEXT member_vacate
#define TAG_NEXT at_rest
#define VACATE_NEXT RAISE
#else
#define BOTTOM_NEXT RAISE
#define TAG_NEXT (newcomer -> member_use_epoch : member_vacate)
#define VACATE_NEXT at_rest
#endif

proctype Recoverer(byte me; byte my; bit newcomer)
{
	byte runs, seen, d_op, d_tag, was;
	bit d_cleared;
end:
	do
	:: atomic {
		pc[me] == at_rest && !newcomer && identity != 0 && (runs < RUNS || (timeout && (IS_DEAD(identity) || GONE(TOKEN(identity))))) ->
		if :: runs < RUNS -> runs++ :: else fi;
		next(mark_identity)
	   }
	:: atomic { pc[me] == at_rest && newcomer && runs < RUNS -> runs++; next(member_attach_identity) }
	:: atomic { pc[me] == mark_ask && KILLABLE(TOKEN(seen)) && TOKEN(seen) != my -> kill(TOKEN(seen)) }
	:: d_step { pc[me] == working -> next(release_owner) }
	:: d_step {
		pc[me] > dead && pc[me] != working ->
		if
		:: pc[me] == mark_identity ->
			seen = identity;
			if :: seen == 0 -> pass_ends() :: else -> next(mark_ask) fi
		:: pc[me] == mark_ask ->
			if
			:: IS_DEAD(seen) -> next(mark_op)
			:: !IS_DEAD(seen) && GONE(TOKEN(seen)) -> next(mark_cas)
			:: else -> pass_ends()
			fi
		:: pc[me] == mark_cas ->
#ifdef MUTATE_DEAD_STORED
			identity = DEAD(TOKEN(seen));
			seen = identity;
			next(mark_op)
#else
			if
			:: identity == seen -> identity = DEAD(TOKEN(seen)); seen = identity; next(mark_op)
			:: identity != seen && identity == DEAD(TOKEN(seen)) -> seen = identity; next(mark_op)
			:: else -> pass_ends() /* another recoverer was first */
			fi
#endif
		:: pc[me] == mark_op -> d_op = op; next(mark_tag)
		:: pc[me] == mark_tag -> d_tag = tag; next(mark_cleared)
		:: pc[me] == mark_cleared -> d_cleared = cleared; next(mark_again)
		:: pc[me] == mark_again ->
#ifdef MUTATE_IDENTITY_ONCE
			if
			:: true ->
#else
			if
			:: identity != seen -> pass_ends()
			:: else ->
#endif
#ifndef MUTATE_CLEARED_IGNORED
				if :: d_cleared -> d_op = 0; d_tag = 0 :: else fi;
#endif
				/* The tag and the op record are the dead member's, not those of a later member. */
				assert(d_tag == 0 || user[d_tag] == 0 || pc[user[d_tag] - 1] == dead);
				assert(d_op == 0 || d_op == d_tag);
				next(sweep_cas)
			fi
		:: pc[me] == sweep_cas ->
			if
			:: d_tag && owner == d_tag -> assert(pc[user[d_tag] - 1] == dead); owner = FREE
			:: else
			fi;
			next(recover_roles_cas)
		:: pc[me] == recover_roles_cas ->
			if :: d_tag && role == d_tag -> role = FREE :: else fi;
			d_op = 0; d_tag = 0; d_cleared = 0;
			next(take_slot_bottom)

		:: pc[me] == take_slot_bottom ->
			was = bottom;
			if :: was >= THIEF_AT -> pass_ends() :: else -> next(take_slot_cas) fi
		:: pc[me] == take_slot_cas ->
#ifdef MUTATE_CLEARING_STORED
			identity = CLEARING(my);
			next(reset_op)
#else
			if
			:: identity == seen -> identity = CLEARING(my); next(reset_op)
			:: else -> pass_ends()
			fi
#endif
		:: pc[me] == reset_op ->
			assert(MINE(CLEARING(my)));
			op = 0;
			next(take_slot_bottom_cas)
		:: pc[me] == take_slot_bottom_cas ->
			assert(MINE(CLEARING(my)));
#ifdef MUTATE_BOTTOM_STORED
			bottom = top;
			next(BOTTOM_NEXT)
#else
			if
			:: bottom == was -> bottom = top; next(BOTTOM_NEXT)
			:: else -> next(take_slot_back)
			fi
#endif
		:: pc[me] == take_slot_back ->
			assert(MINE(CLEARING(my)));
			identity = seen;
			pass_ends()
		:: pc[me] == raise_deaths ->
			assert(MINE(CLEARING(my)));
			deaths = tag; /* the epoch + 1 */
			next(DEATHS_NEXT)
		:: pc[me] == raise_cleared ->
			assert(MINE(CLEARING(my)));
			cleared = 1;
			died = died + lives;
			lost = lost + (lives && user[tag] != 0);
			lives = 0;
			next(CLEARED_NEXT)
		:: pc[me] == raise_tag ->
			assert(MINE(CLEARING(my)));
			/* No word names the dead member. */
			assert(owner != tag && role != tag || tag == deaths + 1);
#ifndef MUTATE_TAG_KEPT
			tag = deaths + 1;
#endif
			next(TAG_NEXT)
		:: pc[me] == member_vacate ->
			lives = 0;
			identity = 0;
			next(VACATE_NEXT);
			if :: pc[me] == at_rest -> forget() :: else fi

		:: pc[me] == member_use_epoch ->
#ifdef MUTATE_LAST_EPOCH_USED
			next(introduce_cleared)
#else
			next((tag == EPOCH_MAX + 1 -> member_vacate : introduce_cleared))
#endif
		:: pc[me] == introduce_cleared ->
			assert(MINE(CLEARING(my)));
#ifndef MUTATE_STILL_CLEARED
			cleared = 0;
#endif
			lives = 1;
			next(member_use_identity)
		:: pc[me] == member_use_identity ->
			assert(MINE(CLEARING(my)));
			identity = ATTACHED(my);
			forget();
			next(work_owner)
		:: pc[me] == member_attach_identity ->
			if
			:: identity != 0 -> next(mark_identity) /* recover_slot() */
			:: identity == 0 && tag == EPOCH_MAX + 1 -> next(finished)
			:: else -> next(member_attach_cas)
			fi
		:: pc[me] == member_attach_cas ->
			if
			:: identity == 0 -> identity = ATTACHED(my); lives = 1; next(member_attach_again)
			:: else -> next(mark_identity)
			fi
		:: pc[me] == member_attach_again ->
#ifdef MUTATE_EPOCH_ONCE
			next(introduce_attached)
#else
			next((tag == EPOCH_MAX + 1 -> member_attach_back : introduce_attached))
#endif
		:: pc[me] == member_attach_back -> assert(MINE(ATTACHED(my))); lives = 0; identity = 0; next(finished)
		:: pc[me] == introduce_attached ->
			assert(MINE(ATTACHED(my)));
#ifndef MUTATE_STILL_CLEARED
			cleared = 0;
#endif
			next(work_owner)
		:: else -> member_steps()
		fi
	   }
	:: atomic { pc[me] == dead && (runs || seen || d_op || d_tag || was || d_cleared) -> forget(); runs = 0 }
	od
}

proctype Monitor()
{
	byte i;
end:	atomic {
		timeout && (identity == 0 || !(IS_DEAD(identity) || GONE(TOKEN(identity))) || (pc[1] == dead && pc[2] == dead)) ->
		if
		:: pc[1] == dead && pc[2] == dead
		:: else ->
			/* The slot has a live member or none. No word names a dead member. */
			assert(identity == 0 || identity / 16 == 1);
			assert(owner == FREE || (pc[user[owner] - 1] != dead && owner == tag));
			assert(role == FREE || (pc[user[role] - 1] != dead && role == tag));
			assert(identity != 0 || op == 0);
			/* Each death is counted once. A death in member_attach() may stay uncounted. */
			assert(lost <= deaths && deaths <= died && tag == deaths + 1);
			assert(bottom < THIEF_AT)
		fi;
		i = 0;
		do
		:: i < PROCESSES -> assert(pc[i] <= dead || pc[i] == working); i++
		:: else -> break
		od;
		i = 0
	}
}

init {
	atomic {
		if /* the final state of runs with fewer deaths is checked too */
		:: crashes = 0
		:: CRASHES > 1 -> crashes = 1
		:: CRASHES > 2 -> crashes = 2
		fi;
		user[1] = 1;
		pc[0] = working;
		run First();
		run Recoverer(1, 2, 0);
		if :: RECOVERERS > 1 -> run Recoverer(2, 3, 0) :: else -> pc[2] = dead fi;
		run Recoverer(3, (SAME -> 1 : 4), 1);
		if :: NEWCOMERS > 1 -> run Recoverer(4, 5, 1) :: else -> pc[4] = finished fi;
		if :: THIEF -> pc[5] = steal_bottom; run Thief() :: else -> pc[5] = finished fi;
		run Monitor()
	}
}
