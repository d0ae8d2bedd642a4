/* SPDX-License-Identifier: Apache-2.0
 *
 * turn.pml - members that wait for one buffer, and members that wait for many: how they sleep, are
 * woken, and how a member that waits for many gets its turn.
 *
 * The steps are those of sleep_for_one(), sleep_for_many(), sleep_until_free() and take_turn() in
 * blocking_alloc.c, of wake_free() in free_ring.c and of wait.c. With ROOM they are those of
 * blocking_retry(), room_sleep() and wake_room(), which use their wait words in the same way: free
 * is then the room, and no member has a turn. One step is one load, store or read-modify-write on a
 * shared word, or one system call. The buffers are a number. There is no time: no slice ends a
 * sleep. So a member that sleeps when no process can make a step is never woken.
 *
 * A wait word is the set of the members that it counts (in_wait, in_many), and for each of them
 * whether the word is still the same (same_wait, same_many), which is what futex(2) compares.
 *
 *     ONES     members that wait for one buffer, at most 3: processes 0, 1, 2
 *     MANYS    members that wait for WANT buffers, 1 or 2: processes 3 and 4
 *     BUFFERS  all buffers
 *     ROUNDS   of each of the ONES; 0: any number, which FAIR needs
 *     KEEPER   1: process 2 keeps its buffer
 *     CRASHES  of the ONES. Each is recovered by a process that wakes all (pool_wake_sleepers)
 *     TURNS    number of turns that end before there are enough buffers. The next one lasts
 *     AFTER    buffers that the ONES get before one of the MANYS has a turn
 *     FAIR     1: check that a member that waits for many gets its buffers
 */
#define WANT 2
#define WAITERS 5
#define NOBODY 255

byte free;
bit in_wait[WAITERS], in_many[WAITERS], same_wait[WAITERS], same_many[WAITERS];
byte asleep[WAITERS]; /* 1 on free_wait, 2 on free_many */
byte want;
byte have[WAITERS], pc[WAITERS], crashes;
byte taken;           /* buffers that the ONES got since the last turn, up to AFTER */
bit had, lucky, other_has;
hidden byte i;
hidden byte won;

#define COUNT(in) (in[0] + in[1] + in[2] + in[3] + in[4])
#define FORGET(in) in[0] = 0; in[1] = 0; in[2] = 0; in[3] = 0; in[4] = 0

#define at_rest 0
#define finished 1
#define dead 2
#define recovered 3
#define one_first 4
#define one_enter 5
#define one_again 6
#define one_sleep 7
#define one_asleep 8
#define one_leave 9
#define give 10
#define wake_free_any 11
#define wake_free_wait 12
#define wake_free_many 13
#define wake_ones_add 14
#define wake_ones_futex 15
#define wake_free_want 16
#define wake_wanted_cas 17
#define wake_wanted_add 18
#define wake_wanted_futex 19
#define many_poll 20
#define many_take 21
#define many_turn 22
#define many_count 23
#define many_enter 24
#define many_enter_many 25
#define many_want 26
#define many_again 27
#define many_sleep 28
#define many_asleep 29
#define many_leave_many 30
#define many_leave 31
#define turn_enter 32
#define turn_take 33
#define turn_sleep 34
#define turn_asleep 35
#define turn_leave 36
#define many_pass_wait 37
#define many_pass_many 38
#define many_pass_add 39
#define many_pass_futex 40

#ifdef TRACE
#define SHOW(step)                                                                                  \
	printf("@%d %d %d free %d wait %d many %d want %d asleep %d %d %d %d have %d %d %d %d taken %d\n", me, pc[me], \
	       step, free, COUNT(in_wait), COUNT(in_many), want, asleep[0], asleep[1], asleep[2], asleep[3],     \
	       have[0], have[1], have[2], have[3], taken);
#else
#define SHOW(step)
#endif
inline next(step)
{
	SHOW(step)
	lucky = 0;
	pc[me] = step
}

#define CHANGED(same) same[0] = 0; same[1] = 0; same[2] = 0; same[3] = 0; same[4] = 0
#define ENTER(in, same) CHANGED(same); in[me] = 1; same[me] = 1
#define LEAVE(in, same)                                                                              \
	if :: in[me] -> in[me] = 0; CHANGED(same) :: else fi;                                        \
	same[me] = 0

inline wake_all(word)
{
	i = 0;
	do :: i < WAITERS -> if :: asleep[i] == word -> asleep[i] = 0 :: else fi; i++ :: else -> break od;
	i = 0
}

inline take(n)
{
	i = n;
	free = free - i;
	have[me] = have[me] + i;
	i = 0;
	if :: me < 3 && taken < AFTER -> taken++ :: else fi;
	if :: me < 3 -> other_has = 1 :: else fi
}

#define WAIT_ONES (seen > COUNT(in_many))

/* A free, from the moment that prod has moved: it wakes sleepers. Begins at give, ends at after. */
inline gives(after)
{
	if
	:: pc[me] == give -> free = free + have[me]; gave = have[me]; have[me] = 0; next(wake_free_any)
	:: pc[me] == wake_free_any ->
		if :: COUNT(in_wait) -> next(wake_free_wait) :: else -> gave = 0; next(after) fi
	:: pc[me] == wake_free_wait -> seen = COUNT(in_wait); next(wake_free_many)
	:: pc[me] == wake_free_many -> /* wait_ones() */
#ifdef MUTATE_ONES_NOT_WOKEN
		gave = 0;
		next(wake_free_want);
#else
		if :: WAIT_ONES -> next(wake_ones_add) :: else -> gave = 0; next(wake_free_want) fi;
#endif
		seen = 0
	:: pc[me] == wake_ones_add -> CHANGED(same_wait); next(wake_ones_futex)
	:: pc[me] == wake_free_want ->
		seen = want;
		if :: seen && free >= seen -> next(wake_wanted_cas) :: else -> seen = 0; next(after) fi
	:: pc[me] == wake_wanted_cas ->
		if :: want == seen -> want = 0; next(wake_wanted_add) :: else -> next(after) fi;
		seen = 0
	:: pc[me] == wake_wanted_add -> CHANGED(same_many); next(wake_wanted_futex)
	:: pc[me] == wake_wanted_futex -> wake_all(2); next(after)
	:: else
	fi
}
/* FUTEX_WAKE of that many: any of those that sleep on free_wait. */
inline wake_some()
{
	do
	:: gave && asleep[0] == 1 -> asleep[0] = 0; gave--
	:: gave && asleep[1] == 1 -> asleep[1] = 0; gave--
	:: gave && asleep[2] == 1 -> asleep[2] = 0; gave--
	:: gave && asleep[3] == 1 -> asleep[3] = 0; gave--
	:: gave && asleep[4] == 1 -> asleep[4] = 0; gave--
	:: !gave || (asleep[0] != 1 && asleep[1] != 1 && asleep[2] != 1 && asleep[3] != 1 && asleep[4] != 1) -> break
	od;
	gave = 0
}

proctype One(byte me)
{
	byte rounds, seen, gave;
end:
	do
	:: d_step {
		pc[me] == at_rest && have[me] == 0 && (FAIR || rounds < ROUNDS) ->
		if :: !FAIR -> rounds++ :: else fi;
		next(one_first)
	   }
	:: d_step { pc[me] == at_rest && have[me] && !(KEEPER && me == 2) -> next(give) }
	:: atomic { pc[me] == wake_ones_futex -> wake_some(); next(wake_free_want) }
	:: d_step {
		pc[me] >= one_first && pc[me] != wake_ones_futex && !asleep[me] ->
		if
		:: pc[me] == one_first -> if :: free -> take(1); next(at_rest) :: else -> next(one_enter) fi
		:: pc[me] == one_enter -> ENTER(in_wait, same_wait); next(one_again)
		:: pc[me] == one_again -> if :: free -> take(1); next(one_leave) :: else -> next(one_sleep) fi
		:: pc[me] == one_sleep -> if :: same_wait[me] -> asleep[me] = 1 :: else fi; next(one_asleep)
		:: pc[me] == one_asleep -> next(one_leave)
		:: pc[me] == one_leave ->
			LEAVE(in_wait, same_wait);
			next((have[me] -> at_rest : one_enter))
		:: else -> gives(at_rest)
		fi
	   }
	od
}

inline many_steps()
{
	if
	:: pc[me] == many_poll -> /* qmempool_alloc_hard(): all or none */
		if
		:: free >= WANT -> next(many_take)
		:: else -> next((ROOM -> many_enter : many_turn))
		fi
	:: pc[me] == many_take -> /* another member may have been first */
		if
		:: free >= WANT -> take(WANT); next(finished)
		:: free < WANT && free && !ROOM -> take(free); next(give)
		:: else -> next(many_poll)
		fi
	:: pc[me] == many_turn -> /* turn_due() */
		won = (COUNT(in_wait) > COUNT(in_many) && other_has);
		other_has = 0;
#ifdef MUTATE_NO_TURN
		next(many_count)
#else
		if
		:: COUNT(in_wait) > COUNT(in_many) && taken == AFTER -> next(turn_enter)
		:: else ->
#ifdef MUTATE_COUNTED_FROM_EACH_POLL
			taken = 0;
#endif
			next(many_count)
		fi
#endif
	:: pc[me] == many_count -> next((free < WANT -> many_enter : many_poll)) /* or sleep_alone(), for some time */
#ifdef MUTATE_WAIT_FIRST
	:: pc[me] == many_enter -> ENTER(in_wait, same_wait); next(many_enter_many)
	:: pc[me] == many_enter_many -> ENTER(in_many, same_many); next(many_want)
#else
	:: pc[me] == many_enter -> ENTER(in_many, same_many); next(many_enter_many)
	:: pc[me] == many_enter_many -> ENTER(in_wait, same_wait); next(many_want)
#endif
	:: pc[me] == many_want ->
#ifndef MUTATE_WANT_NOT_WRITTEN
		if :: want == 0 || want > WANT -> want = WANT :: else fi;
#endif
		next(many_again)
	:: pc[me] == many_again ->
#ifdef MUTATE_NO_POLL_BEFORE_SLEEP
		next(many_sleep)
#else
		if
		:: ROOM && free >= WANT -> take(WANT); next(many_leave_many)
		:: !ROOM && free >= WANT -> next(many_leave_many)
#ifdef MUTATE_NOT_PASSED_ON
		:: else -> next(many_sleep)
#else
		:: free < WANT && free -> gave = free; next(many_pass_wait)
		:: !free -> next(many_sleep)
#endif
		fi
#endif
	:: pc[me] == many_pass_wait -> seen = COUNT(in_wait); next(many_pass_many)
	:: pc[me] == many_pass_many -> /* wait_ones() */
		if :: seen > COUNT(in_many) -> next(many_pass_add) :: else -> gave = 0; next(many_sleep) fi;
		seen = 0
	:: pc[me] == many_pass_add -> CHANGED(same_wait); next(many_pass_futex)
	:: pc[me] == many_sleep -> if :: same_many[me] -> asleep[me] = 2 :: else fi; next(many_asleep)
	:: pc[me] == many_asleep -> next(many_leave_many)
	:: pc[me] == many_leave_many -> LEAVE(in_many, same_many); next(many_leave)
	:: pc[me] == many_leave ->
		LEAVE(in_wait, same_wait);
		next((have[me] -> finished : many_poll))
	:: pc[me] == turn_enter -> ENTER(in_wait, same_wait); next(turn_take)
	:: pc[me] == turn_take ->
		won = free > 0;
		if
		:: free && free <= WANT - have[me] -> take(free); next(turn_leave)
		:: free && free > WANT - have[me] -> take(WANT - have[me]); next(turn_leave)
		:: else -> next(turn_sleep)
		fi
	:: pc[me] == turn_sleep -> if :: same_wait[me] -> asleep[me] = 1 :: else fi; next(turn_asleep)
	:: pc[me] == turn_asleep -> next(turn_leave)
	:: pc[me] == turn_leave ->
		LEAVE(in_wait, same_wait);
#ifdef MUTATE_NOTHING_KEPT
		if :: have[me] == WANT -> next(finished) :: have[me] && have[me] < WANT -> next(give) :: else -> next(turn_enter) fi
#else
		next((have[me] == WANT -> finished : turn_enter))
#endif
	:: else -> gives((served -> dead : many_poll))
	fi;
	lucky = won;
	won = 0;
	if :: pc[me] == finished -> had = 1; served = 1 :: else fi
}

/* Takes WANT once, and gives them back in the end, except with FAIR. */
proctype Many(byte me)
{
	byte turns, seen, gave;
	bit served;
end:
	do
	:: d_step { pc[me] == at_rest -> next(many_poll) }
	:: atomic { pc[me] == wake_ones_futex -> wake_some(); next(wake_free_want) }
	:: atomic { pc[me] == many_pass_futex -> wake_some(); next(many_sleep) }
	:: d_step { pc[me] > recovered && pc[me] != wake_ones_futex && pc[me] != many_pass_futex && !asleep[me] -> many_steps() }
	:: d_step { /* the turn has ended: gives back what it has */
		turns < TURNS && (pc[me] == turn_asleep || pc[me] == turn_enter) ->
		turns++;
		asleep[me] = 0;
		if :: pc[me] == turn_asleep -> LEAVE(in_wait, same_wait) :: else fi;
		taken = 0;
		next((have[me] -> give : many_poll))
	   }
	:: d_step { pc[me] == finished && have[me] && !FAIR -> next(give) }
	od
}

#define VICTIM(v) (pc[v] > recovered || (pc[v] == at_rest && have[v]))

/* The last part of recover(), for each member that died: frees its buffer, pool_wake_sleepers(). */
proctype Recoverer()
{
	byte v;
end:
	do
	:: atomic {
		crashes < CRASHES && (VICTIM(0) || VICTIM(1)) ->
		if
		:: VICTIM(0) -> v = 0
		:: VICTIM(1) -> v = 1
		fi;
		crashes++;
		pc[v] = dead;
		asleep[v] = 0
	   };
	d_step { free = free + have[v]; have[v] = 0 };
#ifndef MUTATE_SLEEPERS_LEFT
	d_step { if :: COUNT(in_wait) -> FORGET(in_wait); CHANGED(same_wait) :: else fi };
	d_step { wake_all(1) };
	d_step { if :: COUNT(in_many) -> FORGET(in_many); CHANGED(same_many) :: else fi };
	d_step { wake_all(2) };
#endif
	pc[v] = recovered;
	v = 0
	od
}

/* No member sleeps while what it waits for is there. No member sleeps when all buffers are free. */
proctype Monitor()
{
end:	atomic {
		timeout ->
		do
		:: i < WAITERS ->
			assert(!(asleep[i] == 1 && free) && !(asleep[i] == 2 && free >= WANT));
			assert(KEEPER || (!asleep[i] && pc[i] <= recovered));
			i++
		:: else -> break
		od;
		i = 0;
		assert(free + have[0] + have[1] + have[2] + have[3] + have[4] == BUFFERS)
	}
}

init {
	atomic {
		free = BUFFERS;
		pc[3] = finished; pc[4] = finished;
		run One(0);
		if :: ONES > 1 -> run One(1) :: else fi;
		if :: ONES > 2 -> run One(2) :: else fi;
		if :: MANYS -> pc[3] = at_rest; run Many(3) :: else fi;
		if :: MANYS > 1 -> pc[4] = at_rest; run Many(4) :: else fi;
		if :: CRASHES -> run Recoverer() :: else fi;
		if :: !FAIR -> run Monitor() :: else fi
	}
}

#if FAIR
/* A member that waits for many gets its buffers if it is lucky again and again. It is lucky if it
 * finds other members waiting that got a buffer since it last polled, or a buffer in its turn. */
ltl served { ([]<> lucky) -> <> had }
#endif
