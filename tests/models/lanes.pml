/* SPDX-License-Identifier: Apache-2.0
 *
 * lanes.pml - a queue with lanes: in which lane a producer puts, how consumers of several lanes
 * sleep on one word, and how the queue ends.
 *
 * The steps are those of lanes_choose_in() and lanes_close() in lanes.c, of queue_get_lanes(),
 * get_elsewhere(), put_backed(), queue_reserve_back() and queue_shutdown() in queue.c, of
 * queue_see() and queue_drained() in queue.h, of blocking_data_sleep() and blocking_get() in
 * blocking.c, of requeue_put() and hand_on(), of ranges_collect(), and of wait.c. One step is one
 * load, store or read-modify-write on a shared word, or one system call. Steps that are larger:
 *
 *     a reservation   prod and cons are read, the op record is written, prod is moved
 *     a claim         cons and the slot are read, the op record is written, cons is moved
 *     a publication   the slot is written, the op record is cleared
 *     a recovery      finds all that the dead member left, and has the mark of its death
 *
 * Within a ring, queue.pml has each of these. Crashes are as in ring.pml.
 *
 * A slot is written with release. So it may be visible only after the load of the wait word that
 * follows (a store buffer): put_publish is before or after that load.
 *
 * Time passes only while no process can make a step. It ends a short sleep, and no long one: a
 * slice that ends a long sleep is not needed for what is claimed.
 *
 * A wait word is the set of the members that it counts, and for each of them whether the word is
 * still the same: turn.pml.
 *
 *     LANES, SIZE          lanes, and slots of each
 *     GROW                 1: begins with one lane, the others are added at any time
 *     PRODUCERS, PUTS      up to 2, messages of each
 *     FIRST, SECOND        their numbers, which decide to which lane they go
 *     HELD                 1: the first consumer begins with a message; PRODUCERS is at most 1
 *     CONSUMERS, GETS      up to 3, messages that each gets before it leaves; 0: any number
 *     NACKS                of each of the consumers: messages that it returns
 *     SHUTDOWNS            up to 2 members that end the queue
 *     CRASHES              at most
 *     FIFO                 1: the first to fall asleep is the first to be woken; 0: any
 */
#include "lanes_calls.pml"

#define MESSAGE (me * PUTS + my[me].k)
#define PUT_DONE (my[me].k == PUTS -> finished : at_rest)

proctype Producer(byte me; byte number)
{
	byte in = number % (GROW -> 1 : LANES);
end:
	do
	:: d_step {
		pc[me] == at_rest && GROW && lanes > 1 && !my[me].looks ->
		my[me].looks = 1;
		next(choose_active)
	   }
	:: d_step { pc[me] == at_rest -> my[me].looks = 0; next(put_reserve) }
#ifdef MUTATE_WORD_BEFORE_PROD
	:: d_step { pc[me] == put_reserve && !my[me].early -> read_early() }
	:: d_step {
		pc[me] == put_reserve && my[me].early && (closed[in] || ROOM(in)) ->
#else
	:: d_step {
		pc[me] == put_reserve && (closed[in] || ROOM(in)) ->
#endif
		if
		:: closed[in] -> next(finished)
		:: else ->
			assert(!shut); /* no put succeeds after the end */
			reserve(in, MESSAGE);
			my[me].k++;
			if :: my[me].moves -> my[me].moves = 0; in = number % lanes :: else fi
		fi
	   }
	:: d_step { MAY_BE_EARLY -> read_early() }
	:: d_step { PUTTING -> puts(PUT_DONE) }
	:: atomic { pc[me] == put_futex -> wake_one(); next(PUT_DONE) }
	:: d_step {
		pc[me] == choose_active ->
		my[me].n = number % lanes;
#ifdef MUTATE_MOVES_AT_ONCE
		in = my[me].n;
#else
		in = (my[me].k -> in : my[me].n); /* it has put nothing yet */
#endif
		next((my[me].n == in -> at_rest : choose_cons))
	   }
	:: d_step { pc[me] == choose_cons -> my[me].at = cons[in]; next(choose_prod) }
	:: d_step {
		pc[me] == choose_prod ->
		if
#ifdef MUTATE_MOVES_BY_HEAD
		:: !READY(in, my[me].at) -> in = my[me].n
#elif defined(MUTATE_EMPTY_BEFORE_ITS_OWN)
		:: prod[in] == my[me].at -> my[me].moves = 1
#else
		:: prod[in] == my[me].at -> in = my[me].n
#endif
		:: else
		fi;
		my[me].at = 0;
		my[me].n = 0;
		next(at_rest)
	   }
	od
}

proctype Consumer(byte me)
{
end:
	do
	:: atomic {
		(pc[me] == at_rest || pc[me] == get_own) && !asleep[me] ->
		if /* its own lane may be any that it knows */
		:: my[me].lane = 0
		:: LANES > 1 && lanes > 1 -> my[me].lane = 1
		:: LANES > 2 && lanes > 2 -> my[me].lane = 2
		fi;
		d_step {
			if
			:: READY(my[me].lane, cons[my[me].lane]) ->
				claim(my[me].lane);
				my[me].lane = 0
			:: else ->
#if GROW
				next(get_active)
#else
				my[me].n = LANES;
				other(0)
#endif
			fi
		}
	   }
	:: d_step {
		pc[me] >= get_active && !asleep[me] && pc[me] != get_own && pc[me] != get_settle &&
		pc[me] != back_reserve && pc[me] != put_futex -> gets()
	   }
	:: d_step { MAY_BE_EARLY -> read_early() }
	:: atomic { pc[me] == put_futex -> wake_one(); next((have[me] != NONE -> get_settle : GET_DONE)) }
	:: d_step {
		pc[me] == get_settle ->
		place[have[me]] = 3;
		have[me] = NONE;
		my[me].k = my[me].k + (GETS > 0);
		next(GET_DONE)
	   }
	:: d_step {
		pc[me] == get_settle && my[me].nacks < NACKS ->
		my[me].nacks++;
		my[me].k = my[me].k + (GETS > 0);
		next(back_reserve)
	   }
	:: d_step { pc[me] == back_reserve && SPACE(0) -> back(0) }
#if LANES > 1
	:: d_step { pc[me] == back_reserve && SPACE(1) -> back(1) }
#endif
#if LANES > 2
	:: d_step { pc[me] == back_reserve && SPACE(2) -> back(2) }
#endif
	od
}

proctype Shutter(byte me)
{
end:
	do
	:: d_step {
		pc[me] == at_rest ->
#ifdef MUTATE_SECOND_RETURNS
		if
		:: queue_closed -> shut = 1; next(finished)
		:: else -> queue_closed = 1; next(shutdown_ended)
		fi
#else
		queue_closed = 1;
		next(shutdown_ended)
#endif
	   }
	:: d_step {
		pc[me] == shutdown_ended ->
		ended = 1;
#ifdef MUTATE_SHUTDOWN_CLOSES_NO_LANES
		next(shutdown_add)
#else
		next(shutdown_lane)
#endif
	   }
	:: d_step {
		pc[me] == shutdown_lane ->
		closed[my[me].i] = 1;
		moved();
		my[me].i++;
		if :: my[me].i == LANES -> my[me].i = 0; next(shutdown_add) :: else fi
	   }
	:: d_step { pc[me] == shutdown_add -> CHANGED; next(shutdown_futex) }
	:: d_step {
		pc[me] == shutdown_futex ->
#ifndef MUTATE_SHUTDOWN_WAKES_NOBODY
		WAKE_ALL;
#endif
		shut = 1;
		next(finished)
	   }
	od
}

#define VICTIM(x) (pc[x] >= STORES)
#define VICTIMS                                                                                    \
	(VICTIM(0) || VICTIM(1) || VICTIM(2) || VICTIM(3) || VICTIM(4) || VICTIM(5) || VICTIM(6))
#define KILL(x)                                                                                    \
	victim = x;                                                                                \
	crashes++;                                                                                 \
	pc[x] = dead;                                                                              \
	AWAKE(x);                                                                                  \
	drained[x] = 0

inline clear(x)
{
	my[x].lane = 0;
	my[x].at = 0;
	my[x].n = 0;
	my[x].i = 0;
	my[x].k = 0;
	my[x].sum = 0;
	my[x].nacks = 0;
	my[x].looks = 0;
	my[x].early = 0;
	my[x].seen = 0;
	my[x].waits = 0;
	my[x].reserved = 0;
	my[x].moves = 0;
	my[x].over = 0
}

/* Recovers one dead member after the other, and does not die. */
proctype Recoverer(byte me)
{
	byte victim;
end:
	do
	:: atomic {
		pc[me] == at_rest && crashes < CRASHES && VICTIMS ->
		if
		:: VICTIM(0) -> KILL(0)
		:: VICTIM(1) -> KILL(1)
		:: VICTIM(2) -> KILL(2)
		:: VICTIM(3) -> KILL(3)
		:: VICTIM(4) -> KILL(4)
		:: VICTIM(5) -> KILL(5)
		:: VICTIM(6) -> KILL(6)
		fi;
		next((queue_closed -> recover_close : recover_bury))
	   }
	:: d_step {
		pc[me] == recover_close ->
		ended = 1;
#ifndef MUTATE_RECOVERY_CLOSES_NOTHING
		closed[my[me].i] = 1;
		moved();
#endif
		my[me].i++;
		if :: my[me].i == LANES -> my[me].i = 0; next(recover_bury) :: else fi
	   }
	:: d_step {
		pc[me] == recover_bury ->
		if
		:: op[victim] ->
			SLOT(op[victim] - 1, my[victim].at) = WORD(my[victim].at, TOMBSTONE);
			op[victim] = 0;
			moved()
		:: else
		fi;
		if
		:: have[victim] != NONE && (victim < CONSUMER) -> place[have[victim]] = 4; next(recover_reset)
		:: have[victim] != NONE && (victim >= CONSUMER) -> have[me] = have[victim]; next(recover_hand_on)
		:: else -> next(recover_reset)
		fi;
		have[victim] = NONE;
		clear(victim)
	   }
	:: d_step { pc[me] == recover_hand_on && SPACE(0) -> back(0) }
#if LANES > 1
	:: d_step { pc[me] == recover_hand_on && SPACE(1) -> back(1) }
#endif
#if LANES > 2
	:: d_step { pc[me] == recover_hand_on && SPACE(2) -> back(2) }
#endif
	:: d_step { pc[me] == recover_hand_on && NO_SPACE -> next(recover_reset) }
	:: d_step { MAY_BE_EARLY -> read_early() }
	:: d_step { PUTTING -> puts(recover_reset) }
	:: atomic { pc[me] == put_futex -> wake_one(); next(recover_reset) }
	:: d_step {
		pc[me] == recover_reset ->
		if
		:: SLEEPERS -> in_wait[2] = 0; in_wait[3] = 0; in_wait[4] = 0; CHANGED; next(recover_wake)
		:: else -> next((have[me] == NONE -> at_rest : recover_left))
		fi
	   }
	:: d_step {
		pc[me] == recover_wake ->
#ifndef MUTATE_DEAD_SLEEPERS_LEFT
		WAKE_ALL;
#endif
		next((have[me] == NONE -> at_rest : recover_left))
	   }
	:: d_step { pc[me] == recover_left && !NO_SPACE -> next(recover_hand_on) }
	od
}

/* Adds lanes: a producer that loses many compare-and-swaps. */
proctype Grower()
{
end:
	do
	:: atomic { lanes < LANES -> lanes = (2 * lanes < LANES -> 2 * lanes : LANES) }
	od
}

#define PUBLISHED(l) READY(l, cons[l])
#define ASLEEP (asleep[2] || asleep[3] || asleep[4])
#define NAPS (asleep[2] == 2 || asleep[3] == 2 || asleep[4] == 2)
#if LANES == 1
#define FULL (!ROOM(0))
#elif LANES == 2
#define FULL (!ROOM(0) && (lanes < 2 || !ROOM(1)))
#else
#define FULL (!ROOM(0) && (lanes < 2 || !ROOM(1)) && (lanes < 3 || !ROOM(2)))
#endif

/* Lets time pass, and checks the end of a run. */
proctype Monitor()
{
end:
	do
	:: atomic {
		timeout && NAPS ->
		assert(!late); /* short sleeps without end */
		late = 1;
		d_step {
			i = CONSUMER;
			do
			:: i < SHUTTER -> if :: asleep[i] == 2 -> AWAKE(i) :: else fi; i++
			:: else -> break
			od;
			i = 0
		}
	   }
	:: atomic {
		timeout && !NAPS ->
		d_step {
			i = 0;
			do
			:: i < LANES ->
				assert(EMPTY(i) || PUBLISHED(i));
				assert(EMPTY(i) || !ASLEEP);
				i++
			:: else -> break
			od;
			/* The end is complete, also if the member that shut the queue down died. */
			assert(!queue_closed || !ASLEEP);
			i = 0;
			do
			:: i < LANES -> assert(!queue_closed || closed[i]); i++
			:: else -> break
			od;
			i = 0;
			do /* what a member still owns has no room */
			:: i < 2 * PUTS -> assert(place[i] != 2 || FULL); i++
			:: else -> break
			od;
			i = 0
		};
		break
	   }
	od
}

init {
	atomic {
		i = 0;
		do
		:: i < LANES -> prod[i] = SIZE; cons[i] = SIZE; i++
		:: else -> break
		od;
		i = 0;
		do
		:: i < MEMBERS -> have[i] = NONE; pc[i] = finished; i++
		:: else -> break
		od;
		i = 0;
		if /* the final state of runs with fewer deaths is checked too */
		:: crashes = 0
		:: CRASHES > 1 -> crashes = 1
		fi;
		pc[RECOVERER] = at_rest;
		if :: !GROW -> lanes = LANES :: else fi;
		if
		:: HELD -> returned[PUTS] = 1; have[2] = PUTS; place[PUTS] = 2
		:: else
		fi;
		if :: PRODUCERS -> pc[0] = at_rest; run Producer(0, FIRST) :: else fi;
		if :: PRODUCERS > 1 -> pc[1] = at_rest; run Producer(1, SECOND) :: else fi;
		pc[2] = (HELD -> get_settle : at_rest);
		run Consumer(2);
		if :: CONSUMERS > 1 -> pc[3] = at_rest; run Consumer(3) :: else fi;
		if :: CONSUMERS > 2 -> pc[4] = at_rest; run Consumer(4) :: else fi;
		if :: SHUTDOWNS -> pc[5] = at_rest; run Shutter(5) :: else fi;
		if :: SHUTDOWNS > 1 -> pc[6] = at_rest; run Shutter(6) :: else fi;
		if :: CRASHES -> run Recoverer(RECOVERER) :: else fi;
		if :: GROW -> run Grower() :: else fi;
		run Monitor()
	}
}
