/* SPDX-License-Identifier: Apache-2.0
 *
 * abandon.pml - buffers without an owner, and the two counters that say whether a sweep is needed.
 * The owner word of such a buffer is ABANDONED, with or without the number of a queue. The queue is
 * full. It has two consumers, of which the first returns NACKS buffers. Recoverers are members,
 * except a newcomer, which recovers before it is one (recover_slot).
 *
 * The steps are those of requeue_abandon() and requeue_put() in requeue.c, of pass() in recover.c, and
 * of sweep_one(), hand_on(), abandon() and unreserve() in sweep.c. One step is one store or
 * compare-and-swap on a shared word, with the loads before it, or one load whose value is used in a
 * later step. Crashes are as in ring.pml.
 *
 * Each of these is one step here, and several in queue.pml: an op record and the compare-and-swap
 * that it covers; publishing a slot and clearing the record; reading an owner word, cons and the op
 * records; marking all dead members; clearing a slot.
 *
 *     ON_FREE     1: the queue's on_death is "free", 0: "requeue"
 *     RECOVERERS  members that recover, 4 and 5
 *     NEWCOMER    1: process 6 recovers without being a member, and then as a member
 *     NACKS       how many buffers the first consumer returns
 *     PASSES      of each recoverer while other processes can make a step
 *     CRASHES     at most
 */
#ifndef SIZE
#define SIZE 1
#endif
#define BUFFERS 2
#define MEMBERS 7
#define NONE 255

#define BIT(t) (1 << (t))
#define GONE(t) ((gone >> (t)) & 1)
#define TAG(v) ((v) + 1)

/* An owner word: a tag; DECIDED, which is a tag with PUTTING and the queue; ABANDONED; TRANSIT. */
#define DECIDED(t) (16 + (t))
#define ABANDONED 32
#define ABANDONED_QUEUE 33
#define FREE 62
#define TRANSIT(p) (64 + (p))
#define IS_ABANDONED(o) ((o) == ABANDONED || (o) == ABANDONED_QUEUE)
#define IS_TRANSIT(o) ((o) >= 64)
#define IN_DEAD(o) ((o) < 32 && ((dead_tags >> ((o) % 16)) & 1))

/* A slot: | lap | TOMBSTONE, or a buffer |. */
#define TOMBSTONE 4
#define WORD(p, v) (((p) / SIZE) * 8 + (v))
#define PENDING(p) (slot[(p) % SIZE] / 8 != (p) / SIZE)

#define ENQUEUE 64
#define DEQUEUE 128
#define OP(kind, p) ((kind) + (p))
#define AT(o) ((o) % 64)
#define COVERS(o, kind, p) ((o) == OP(kind, p))

byte prod = SIZE, cons = SIZE, slot[SIZE];
byte owner[BUFFERS], op[MEMBERS];
byte abandoned, swept;
bit identity[MEMBERS];
byte pc[MEMBERS], gone, crashes, passes[MEMBERS];
byte real[BUFFERS];     /* ghost: tag of its owner, IN_RING, FREE, NOBODY */
bit returned[BUFFERS];  /* ghost: nack() has returned it */
#define IN_RING 60
#define NOBODY 61
hidden byte i;

#define at_rest 0
#define finished 1
#define dead 2
#define pass_swept 3
#define pass_abandoned 4
#define sweep_owner 5
#define pass_left 6
#define recover_mark 7
#define STORES 32
#define alf_claim_cas 32
#define transfer_take_owner 33
#define alf_done_out 34
#define free_ring_put 35
#define transfer_mark 37
#define alf_publish 38
#define requeue_abandon_owner 39
#define requeue_abandon_count 40
#define sweep_unreserve_cas 41
#define ranges_bury_cas 43
#define hand_on_cas 44
#define hand_on_tombstone 45
#define hand_on_mark 47
#define hand_on_publish 48
#define abandon_cas 49
#define take_cas 51
#define take_free 52
#define pass_count 53
#define pass_swept_cas 54
#define recover_slots_cas 55
#define requeue_put_reserve 56

#define VICTIM(v) (crashes < CRASHES && (pc[v] >= STORES || pc[v] == at_rest))
#define ROOM (prod - cons < SIZE)
#define HAS_DATA (slot[cons % SIZE] / 8 == cons / SIZE)

#ifdef TRACE /* what pan -r prints of a counterexample, one line a step */
#define SHOW(step)                                                                                  \
	printf("@%d %d %d prod %d cons %d slot %d owners %d %d abandoned %d swept %d ops %d %d %d %d\n", me, \
	       pc[me], step, prod, cons, slot[0], owner[0], owner[1], abandoned, swept, op[0], op[1], op[4],  \
	       op[5]);
#else
#define SHOW(step)
#endif
inline next(step)
{
	SHOW(step)
	pc[me] = step
}

inline kill(v)
{
	crashes++;
	gone = gone | BIT(v);
	pc[v] = dead
}

proctype Consumer(byte me; byte buf)
{
	byte tag = me + 1, at, nacks;
end:
	do
	:: d_step { pc[me] == at_rest && buf == NONE && HAS_DATA -> next(alf_claim_cas) }
	:: d_step { pc[me] == at_rest && buf != NONE && (me == 1 || nacks == NACKS) -> next(free_ring_put) }
	:: d_step { pc[me] == at_rest && buf != NONE && me == 0 && nacks < NACKS -> nacks++; next(requeue_put_reserve) }
	:: d_step {
		pc[me] > dead ->
		if
		:: pc[me] == alf_claim_cas ->
			if
			:: !HAS_DATA -> next(at_rest)
			:: else ->
				op[me] = OP(DEQUEUE, cons);
				buf = slot[cons % SIZE] % 8;
				cons++;
				if
				:: buf == TOMBSTONE -> buf = NONE; next(alf_done_out)
				:: else ->
					assert(real[buf] == IN_RING);
					real[buf] = tag;
					returned[buf] = 0;
					next(transfer_take_owner)
				fi
			fi
		:: pc[me] == transfer_take_owner -> owner[buf] = tag; next(alf_done_out)
		:: pc[me] == alf_done_out -> op[me] = 0; next(at_rest)
		:: pc[me] == free_ring_put ->
			owner[buf] = FREE;
			real[buf] = FREE;
			buf = NONE;
			next(at_rest)
		:: pc[me] == requeue_put_reserve ->
			if
			:: ROOM -> op[me] = OP(ENQUEUE, prod); at = prod; prod++; next(transfer_mark)
			:: else -> next(requeue_abandon_owner)
			fi
		:: pc[me] == transfer_mark -> owner[buf] = TRANSIT(at); next(alf_publish)
		:: pc[me] == alf_publish ->
			slot[at % SIZE] = WORD(at, buf);
			real[buf] = IN_RING;
			returned[buf] = 1;
			op[me] = 0;
			at = 0;
			buf = NONE;
			next(at_rest)
#ifdef MUTATE_COUNTED_BEFORE
		:: pc[me] == requeue_abandon_owner -> abandoned++; next(requeue_abandon_count)
		:: pc[me] == requeue_abandon_count -> owner[buf] = ABANDONED_QUEUE; real[buf] = NOBODY; returned[buf] = 1; buf = NONE; next(at_rest)
#else
		:: pc[me] == requeue_abandon_owner ->
#ifdef MUTATE_WITHOUT_QUEUE
			owner[buf] = ABANDONED;
#else
			owner[buf] = ABANDONED_QUEUE;
#endif
			real[buf] = NOBODY;
			returned[buf] = 1;
			buf = NONE;
			next(requeue_abandon_count)
		:: pc[me] == requeue_abandon_count -> abandoned++; next(at_rest)
#endif
		fi
	   }
	:: atomic { pc[me] == dead && (buf != NONE || at || nacks) -> buf = NONE; at = 0; nacks = 0 }
	od
}

#define OTHER (9 - me)
#define NEEDED (abandoned != swept)
#define UNRECOVERED(v) (identity[v] && GONE(v))
#define LEFT                                                                                        \
	(UNRECOVERED(0) || UNRECOVERED(1) || UNRECOVERED(4) || UNRECOVERED(5) || UNRECOVERED(6))
#define KILLABLE (VICTIM(0) || VICTIM(1) || (me != 4 && pc[4] >= STORES && VICTIM(4)) || \
		  (me != 6 && identity[6] && pc[6] >= STORES && VICTIM(6)))

/* True if the owner word says that the buffer goes back, whatever on_death is. */
#define DECISION(b) (take == ABANDONED_QUEUE || (take >= 16 && take < 32))

inline taken(word)
{
	assert(real[b] == NOBODY || (real[b] < IN_RING && GONE(real[b] - 1)));
	owner[b] = word;
	real[b] = tag
}

inline forget()
{
	dead_tags = 0; b = 0; v = 0; at = 0; take = 0; counted = 0; was = 0; left = 0;
	do :: v < MEMBERS -> dead_op[v] = 0; v++ :: else -> break od;
	v = 0
}

#define DEAD_OP(v, kind, p) (((dead_tags >> TAG(v)) & 1) && COVERS(dead_op[v], kind, p))
#define OF_DEAD_PRODUCER(p)                                                                         \
	((PENDING(p) || slot[(p) % SIZE] == WORD(p, TOMBSTONE)) &&                                        \
	 (DEAD_OP(0, ENQUEUE, p) || DEAD_OP(4, ENQUEUE, p) || DEAD_OP(5, ENQUEUE, p) || DEAD_OP(6, ENQUEUE, p)))

/* Goes to the next buffer, or after the last one to the next part of the pass. */
inline unreserve_next(from)
{
	b = from;
	do
	:: b < BUFFERS && !(IS_TRANSIT(owner[b]) && OF_DEAD_PRODUCER(owner[b] - 64)) -> b++
	:: else -> break
	od;
	if
	:: b < BUFFERS -> take = owner[b]; next(sweep_unreserve_cas)
	:: else -> b = 0; take = 0; bury_next(0)
	fi
}
inline bury_next(from)
{
	v = from;
	do
	:: v < MEMBERS && !(dead_op[v] >= ENQUEUE && dead_op[v] < DEQUEUE && PENDING(AT(dead_op[v])) && AT(dead_op[v]) < cons + SIZE) -> v++
	:: else -> break
	od;
	if
	:: v < MEMBERS -> next(ranges_bury_cas)
	:: else -> v = 0; left = 0; next(sweep_owner)
	fi
}

#define LIVE_CLAIM(p)                                                                               \
	((!((dead_tags >> 1) & 1) && COVERS(op[0], DEQUEUE, p)) || (!((dead_tags >> 2) & 1) && COVERS(op[1], DEQUEUE, p)))
#define DEAD_HAS(o)                                                                                 \
	(IN_DEAD(o) || IS_ABANDONED(o) || (IS_TRANSIT(o) && (o) - 64 < cons && !LIVE_CLAIM((o) - 64)))

#ifdef MUTATE_LEFT_BY_OTHERS /* what is left is counted only if the counters are equal */
#define AFTER_SWEEP if :: left -> next(pass_left) :: else -> next(pass_swept_cas) fi
#elif defined MUTATE_LEFT_UNCOUNTED
#define AFTER_SWEEP next((left -> recover_slots_cas : pass_swept_cas))
#else
#define AFTER_SWEEP next((left -> pass_count : pass_swept_cas))
#endif

inline sweep_next()
{
	take = 0;
	at = 0;
	b++;
	if
	:: b == BUFFERS -> b = 0; AFTER_SWEEP
	:: else -> next(sweep_owner)
	fi
}
#ifdef MUTATE_LOST_NOT_READ_AGAIN
#define LOST sweep_next()
#else
#define LOST next(sweep_owner) /* it may have been abandoned and not counted */
#endif

proctype Recoverer(byte me)
{
	byte tag = me + 1, b, v, take, at, counted, was, dead_tags, dead_op[MEMBERS];
	bit left, member = (me != 6);
end:
	do
	:: atomic {
		pc[me] == at_rest && passes[me] < PASSES && (KILLABLE || NEEDED || LEFT) && (me != 6 || member || KILLABLE || LEFT) ->
		if
		:: VICTIM(0) -> kill(0)
		:: VICTIM(1) -> kill(1)
		:: me != 4 && pc[4] >= STORES && VICTIM(4) -> kill(4)
		:: me != 6 && identity[6] && pc[6] >= STORES && VICTIM(6) -> kill(6)
		:: NEEDED || LEFT
		fi;
		passes[me]++;
		next(pass_swept)
	   }
	:: atomic {
		timeout && pc[me] == at_rest && member && (LEFT || (NEEDED && ROOM)) -> next(pass_swept)
	   }
	:: atomic { !member && pc[me] >= STORES && crashes < CRASHES -> kill(me) } /* no other process has to notice it */
	:: d_step {
		pc[me] > dead ->
		if
		:: pc[me] == pass_swept -> was = swept; next(pass_abandoned)
		:: pc[me] == pass_abandoned ->
			counted = abandoned;
			next(recover_mark)
		:: pc[me] == recover_mark ->
			v = 0;
			do
			:: v < MEMBERS ->
				if :: UNRECOVERED(v) -> dead_tags = dead_tags | BIT(TAG(v)); dead_op[v] = op[v] :: else fi;
				v++
			:: else -> break
			od;
			v = 0;
			if
			:: !dead_tags && counted == was -> forget(); next(at_rest)
			:: else -> unreserve_next(0)
			fi

		:: pc[me] == sweep_unreserve_cas ->
			if
			:: owner[b] == take ->
				assert(real[b] != IN_RING && GONE(real[b] - 1));
				real[b] = NOBODY;
#ifdef MUTATE_NAME_FORGOTTEN
				owner[b] = ABANDONED;
#else
				owner[b] = ABANDONED_QUEUE; /* the header says that the buffer was being returned */
#endif
				unreserve_next(b + 1)
			:: else -> unreserve_next(b + 1)
			fi
		:: pc[me] == ranges_bury_cas ->
			if :: PENDING(AT(dead_op[v])) -> slot[AT(dead_op[v]) % SIZE] = WORD(AT(dead_op[v]), TOMBSTONE) :: else fi;
			bury_next(v + 1)

		:: pc[me] == sweep_owner ->
			take = owner[b];
			if
			:: !DEAD_HAS(take) -> sweep_next()
			:: DEAD_HAS(take) && member && ON_FREE && !DECISION(b) -> next(take_cas)
			:: DEAD_HAS(take) && member && !(ON_FREE && !DECISION(b)) ->
				if
				:: ROOM -> op[me] = OP(ENQUEUE, prod); at = prod; prod++; next(hand_on_cas)
				:: !ROOM && IS_ABANDONED(take) -> left = 1; sweep_next()
				:: !ROOM && !IS_ABANDONED(take) -> next(abandon_cas)
				fi
			:: DEAD_HAS(take) && !member && IS_ABANDONED(take) -> left = 1; sweep_next()
			:: DEAD_HAS(take) && !member && !IS_ABANDONED(take) -> next(abandon_cas)
			fi
		:: pc[me] == hand_on_cas ->
			if
			:: owner[b] == take -> taken(DECIDED(tag)); next(hand_on_mark)
			:: else -> next(hand_on_tombstone)
			fi
		:: pc[me] == hand_on_tombstone -> /* another recoverer was first */
			slot[at % SIZE] = WORD(at, TOMBSTONE);
			op[me] = 0;
			at = 0;
			LOST
		:: pc[me] == hand_on_mark -> owner[b] = TRANSIT(at); next(hand_on_publish)
		:: pc[me] == hand_on_publish ->
			assert(PENDING(at));
			slot[at % SIZE] = WORD(at, b);
			real[b] = IN_RING;
			op[me] = 0;
			sweep_next()
		:: pc[me] == abandon_cas ->
			if
			:: owner[b] == take ->
				assert(real[b] != IN_RING && GONE(real[b] - 1));
				real[b] = NOBODY;
				/* With the queue, if the buffer goes there. */
				owner[b] = (ON_FREE && !DECISION(b) -> ABANDONED : ABANDONED_QUEUE);
				left = 1;
				sweep_next()
			:: else -> LOST
			fi
		:: pc[me] == take_cas ->
			if
			:: owner[b] == take ->
				assert(!returned[b]); /* nack() returned it: a consumer must get it again */
				taken(DECIDED(tag));
				next(take_free)
			:: else -> LOST
			fi
		:: pc[me] == take_free -> owner[b] = FREE; real[b] = FREE; sweep_next()

		:: pc[me] == pass_left ->
			next((swept == abandoned -> pass_count : recover_slots_cas))
		:: pc[me] == pass_count ->
			abandoned++;
#ifdef MUTATE_LEFT_BY_OTHERS
			next(recover_slots_cas)
#else
			next(pass_swept_cas)
#endif
		:: pc[me] == pass_swept_cas -> /* swept never moves back */
			if
			:: counted > was && swept == was -> swept = counted; next(recover_slots_cas)
			:: counted > was && swept != was -> was = swept
			:: else -> next(recover_slots_cas)
			fi
		:: pc[me] == recover_slots_cas -> /* a newcomer takes a slot and becomes a member */
			v = 0;
			do
			:: v < MEMBERS ->
				if
				:: (dead_tags >> TAG(v)) & 1 && identity[v] && (member || !identity[6]) ->
					identity[v] = 0;
					op[v] = 0;
					if :: me == 6 && !member -> identity[6] = 1 :: else fi
				:: else
				fi;
				v++
			:: else -> break
			od;
			if :: me == 6 && !member && identity[6] -> member = 1; passes[6] = 0 :: else fi;
			forget(); next(at_rest)
		fi
	   }
	:: atomic { pc[me] == dead && (dead_tags || b || at || take || counted || was || left) -> forget() }
	od
}

proctype Monitor()
{
end:	atomic {
		timeout && !LEFT && !(NEEDED && ROOM) ->
		do
		:: i < BUFFERS ->
			assert(real[i] != IN_RING || IS_TRANSIT(owner[i]));
			assert(real[i] == IN_RING || real[i] == NOBODY || owner[i] == real[i]);
			assert(real[i] >= IN_RING || !GONE(real[i] - 1));
			assert(real[i] != NOBODY || (IS_ABANDONED(owner[i]) && NEEDED));
			i++
		:: else -> break
		od;
		i = 0;
		do
		:: i < MEMBERS -> assert(pc[i] <= dead && op[i] == 0); i++
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
		identity[0] = 1; identity[1] = 1; identity[4] = 1; identity[5] = 1;
		owner[0] = TAG(0); real[0] = TAG(0);
		owner[1] = TRANSIT(prod); real[1] = IN_RING;
		slot[0] = WORD(prod, 1);
		prod++;
		pc[2] = finished; pc[3] = finished;
		run Consumer(0, 0);
		run Consumer(1, NONE);
		run Recoverer(4);
		if :: RECOVERERS > 1 -> run Recoverer(5) :: else -> pc[5] = finished fi;
		if :: NEWCOMER -> run Recoverer(6) :: else -> pc[6] = finished fi;
		run Monitor()
	}
}
