/* SPDX-License-Identifier: Apache-2.0
 *
 * queue.pml - a queue, its producers and consumers, and recoverers. The options are set with -D:
 *
 *     MULTI_PRODUCER, MULTI_CONSUMER  0: one at a time. The second begins when the first has
 *                                     released the role or died
 *     N0, N1      buffers in the bulk of the first and of the second producer
 *     BUFFERS     all buffers. Those that no producer owns are in the ring at the beginning
 *     CONSUMERS   up to 2. Each takes up to 2 at a time
 *     RECOVERERS  1 or 2. The second runs at any time, beside the first or after its death
 *     CRASHES     at most
 *     SIZE        slots of the ring
 *     HAND_ON     1: the destination of a recovered buffer may have no room, as for a requeue
 *     SEQUENTIAL  1: the second recoverer begins when the first has died
 *     REUSE       1: a new member attaches to the first producer's slot once that is free
 *
 * Members: 0 and 1 produce, 2 and 3 consume, 4 and 5 recover.
 */
#define MEMBERS 6
#define MAY_ENQUEUE(v) ((v) < 2)
#define MAY_DEQUEUE(v) ((v) == 2 || (v) == 3)
#include "ring.pml"
bit alone; /* a recoverer works after all others have ended */
#include "recover.pml"

inline settle(b)
{
	owner[b] = FREE;
	real[b] = FREE
}

#define UNRECOVERED(v) (identity[v] != 0 && GONE(identity[v] % DEAD))

/* A call that finds the ring full or empty, or the role taken, changes nothing, so only other calls
 * are modelled. */
#define CAN_PUT                                                                                    \
	(cons + SIZE - prod >= my[me].n && (MULTI_PRODUCER || producer == 0 || producer == tag))
#define CAN_GET                                                                                    \
	(slot[cons % SIZE] / 8 == LAP(cons) && (MULTI_CONSUMER || consumer == 0 || consumer == tag))

proctype Producer(byte me; byte tag)
{
end:
	do
	:: d_step { pc[me] > dead -> transfer_in() }
	:: d_step { pc[me] == at_rest && CAN_PUT -> next(PUT_FIRST) }
	od
}

/* Takes the free slot and a free buffer, if there are any. */
proctype Newcomer(byte me; byte tag)
{
end:
	if
	:: d_step {
		identity[me] == 0 && real[0] == FREE ->
		identity[me] = tag;
		alone = 0;
		owner[0] = tag;
		real[0] = tag;
		my[me].n = 1;
		my[me].h[0] = 0;
		next(PUT_FIRST)
	   }
	fi;
end_put:
	do
	:: d_step { pc[me] > dead -> transfer_in() }
	:: d_step { pc[me] == at_rest && CAN_PUT -> next(PUT_FIRST) }
	:: atomic { pc[me] <= dead && pc[me] != at_rest -> break }
	od
}

proctype Consumer(byte me)
{
	byte tag = me + 1;
end:
	do
	:: d_step { pc[me] > dead -> transfer_out() }
	:: d_step { pc[me] == at_rest && CAN_GET -> next(GET_FIRST) }
	od
}

#define OTHER (9 - me)
#ifndef SEQUENTIAL
#define SEQUENTIAL 0
#endif
#define MAY_BEGIN (!SEQUENTIAL || me == 4 || pc[4] == dead)
#define BESIDE (!SEQUENTIAL && pc[OTHER] > dead && !alone && LEFT)
#define LEFT (UNRECOVERED(0) || UNRECOVERED(1) || UNRECOVERED(2) || UNRECOVERED(3) || UNRECOVERED(4) || \
	 owner[0] == ABANDONED || owner[1] == ABANDONED || owner[BUFFERS - 1] == ABANDONED)
#define KILL_RECOVERER (me == 5 && pc[4] >= STORES && VICTIM(4))
#define KILLABLE                                                                                   \
	((MAY_BEGIN && (VICTIM(0) || VICTIM(1) || VICTIM(2) || (VICTIM(3) && pc[2] == dead))) ||   \
	 KILL_RECOVERER)

/* A recoverer begins when a member has died, or beside another recoverer. It begins alone when no
 * other process can make a step and something is left to recover; then it must leave nothing. */
proctype Recoverer(byte me)
{
	byte tag = me + 1, at, word, i, j, d_b, take, seen_cons, seen_role, postponed, certain, passed;
	byte dead_is[MEMBERS], dead_op[MEMBERS], seen_op[2], from[RANGES], n[RANGES], by[RANGES];
	short dead_tags;
	bit covered, locked;
end:
	do
#if HAND_ON
	:: d_step { pc[me] > dead && pc[me] != sweep_hand_on -> recover() }
	:: d_step { pc[me] == sweep_hand_on -> next(sweep_cas) }
	:: d_step { pc[me] == sweep_hand_on && !alone -> next(sweep_abandon) }
#else
	:: d_step { pc[me] > dead -> recover() }
#endif
	:: atomic {
		pc[me] == at_rest && (KILLABLE || BESIDE) ->
		if
		:: MAY_BEGIN && VICTIM(0) -> kill(0)
		:: MAY_BEGIN && VICTIM(1) -> kill(1)
		:: MAY_BEGIN && VICTIM(2) -> kill(2)
		:: MAY_BEGIN && VICTIM(3) && pc[2] == dead -> kill(3) /* consumers are alike */
		:: KILL_RECOVERER -> kill(4)
		:: BESIDE
		fi;
		if
		:: VICTIM(0) -> kill(0)
		:: VICTIM(1) -> kill(1)
		:: VICTIM(2) -> kill(2)
		:: VICTIM(3) && pc[2] == dead -> kill(3)
		:: true
		fi;
		alone = 0;
		d_step { recover_mark(); onward() }
	   }
	:: atomic { timeout && MAY_BEGIN && pc[me] == at_rest && LEFT -> alone = 1; d_step { recover_mark(); onward() } }
	:: atomic { pc[me] == dead && dead_tags -> forget(); postponed = 0; locked = 0 }
	od
}

proctype Monitor()
{
	byte i;
end:	atomic {
		timeout && !LEFT ->
		do
		:: i < BUFFERS ->
			assert(real[i] == FREE || real[i] == IN_RING || !GONE(real[i]));
			assert(real[i] >= IN_RING || owner[i] == real[i]);
			i++
		:: else -> break
		od;
		i = 0;
		do
		:: i < MEMBERS -> assert(pc[i] <= dead && op[i] == 0 && holder[i] == 0 && !UNRECOVERED(i)); i++
		:: else -> break
		od;
		assert(cons == prod || (pc[2] != at_rest && pc[3] != at_rest))
	}
}

init {
	atomic {
		if /* the final state of runs with fewer deaths is checked too */
		:: crashes = 0
		:: CRASHES > 1 -> crashes = 1
		:: CRASHES > 2 -> crashes = 2
		fi;
		byte i = 0;
		do
		:: i < MEMBERS -> identity[i] = i + 1; i++
		:: else -> break
		od;
		i = 0;
		do
		:: i < N0 -> owner[i] = 1; real[i] = 1; my[0].h[i] = i; i++
		:: i >= N0 && i < N0 + N1 -> owner[i] = 2; real[i] = 2; my[1].h[i - N0] = i; i++
		:: i >= N0 + N1 && i < BUFFERS ->
			owner[i] = TRANSIT(prod);
			real[i] = IN_RING;
			slot[prod % SIZE] = WORD(prod, i);
			prod++;
			i++
		:: else -> break
		od;
		i = 0;
		my[0].n = N0;
		my[1].n = N1;
		if :: N0 -> run Producer(0, 1) :: else -> pc[0] = finished fi;
		if :: N1 -> run Producer(1, 2) :: else -> pc[1] = finished fi;
		if :: CONSUMERS -> run Consumer(2) :: else -> pc[2] = finished fi;
		if :: CONSUMERS > 1 -> run Consumer(3) :: else -> pc[3] = finished fi;
#if REUSE
		run Newcomer(0, 9);
#endif
		run Recoverer(4);
		if :: RECOVERERS > 1 -> run Recoverer(5) :: else -> pc[5] = finished fi;
		run Monitor()
	}
}
