/* SPDX-License-Identifier: Apache-2.0
 *
 * lanes_calls.pml - the shared words of lanes.pml, and the steps of its puts, gets and returns.
 */
#define MEMBERS 8
#define CONSUMER 2 /* the first one */
#define SHUTTER 5
#define RECOVERER 7
#define NONE 15
#define TOMBSTONE 14

#define LAP(p) ((p) / SIZE)
#define WORD(p, v) (LAP(p) * 16 + (v))
#define SLOT(l, p) slot[(l) * SIZE + (p) % SIZE]
#define READY(l, p) (SLOT(l, p) / 16 == LAP(p))
#define ROOM(l) (prod[l] - cons[l] < SIZE)
#define EMPTY(l) (prod[l] == cons[l])

byte prod[LANES], cons[LANES], slot[LANES * SIZE];
bit closed[LANES]; /* ALF_CLOSED in prod */
byte lanes = 1;
bit queue_closed, ended;
bit in_wait[MEMBERS], same_wait[MEMBERS];
byte asleep[MEMBERS]; /* 1: a slice, 2: a short time */
byte ahead[MEMBERS];  /* with FIFO: by bit, those that sleep and fell asleep earlier */
byte op[MEMBERS];     /* 1 + the lane, while it covers a reserved position */
byte have[MEMBERS];   /* the message that a member owns */
byte pc[MEMBERS];

typedef Own {
	byte lane, at, n, i, k, sum, nacks;
	bit looks, early, seen, waits, reserved, moves, over
}
Own my[MEMBERS];

/* Ghosts. */
byte crashes;
bit shut;                 /* a shutdown has returned */
bit late;                 /* time has passed, and no position has moved since */
bit drained[MEMBERS];     /* all lanes were closed and empty since this get asked */
bit returned[2 * PUTS];
byte place[2 * PUTS];     /* 0 not put, 1 in a lane, 2 owned, 3 settled, 4 its producer died */
byte claimed[2];          /* messages of each producer */
hidden byte i, v;

#define at_rest 0
#define finished 1
#define dead 2
#define choose_active 3
#define choose_cons 4
#define choose_prod 5
#define get_active 6
#define put_word 7
#define get_cons 8
#define get_slot 9
#define get_ended 10
#define drained_prod 11
#define drained_cons 12
#define drained_count 13
#define drained_again 14
#define see_closed 15
#define see_prod 16
#define see_cons 17
#define pass_word 18
#define pass_ready 19
#define STORES 32
#define put_reserve 32
#define put_publish 33
#define put_add 34
#define put_futex 35
#define get_own 36
#define get_claim 37
#define get_close 39
#define wait_enter 40
#define wait_sleep 41
#define wait_leave 42
#define get_settle 43
#define back_reserve 44
#define shutdown_queue 45
#define shutdown_ended 46
#define shutdown_lane 47
#define shutdown_add 48
#define shutdown_futex 49
#define recover_close 50
#define recover_bury 51
#define recover_hand_on 52
#define recover_reset 53
#define recover_wake 54
#define recover_left 55

#ifdef TRACE /* what pan -r prints of a counterexample, one line a step */
#define SHOW(step)                                                                                 \
	printf("@%d %d %d active %d lanes %d-%d%c %d-%d%c asleep %d %d %d have %d %d %d %d\n", me, pc[me], \
	       step, lanes, cons[0], prod[0], (closed[0] -> 'c' : ' '), cons[1], prod[1],          \
	       (closed[1] -> 'c' : ' '), asleep[2], asleep[3], asleep[4], have[2], have[3], have[4], have[7]);
#else
#define SHOW(step)
#endif
inline next(step)
{
	SHOW(step)
	pc[me] = step
}

#define SLEEPERS (in_wait[2] + in_wait[3] + in_wait[4])
#define CHANGED same_wait[2] = 0; same_wait[3] = 0; same_wait[4] = 0
#define WAKE_ALL AWAKE(2); AWAKE(3); AWAKE(4)
#if FIFO
#define AWAKE(x)                                                                                   \
	asleep[x] = 0;                                                                             \
	ahead[x] = 0;                                                                              \
	ahead[2] = ahead[2] & ~(1 << (x));                                                         \
	ahead[3] = ahead[3] & ~(1 << (x));                                                         \
	ahead[4] = ahead[4] & ~(1 << (x))
#define BEFORE(x) ((asleep[x] > 0) << (x))
#define FALLS_ASLEEP ahead[me] = BEFORE(2) | BEFORE(3) | BEFORE(4)
#else
#define AWAKE(x) asleep[x] = 0
#define FALLS_ASLEEP skip
#endif

inline wake_one()
{
	if
	:: asleep[2] && !ahead[2] -> AWAKE(2)
	:: asleep[3] && !ahead[3] -> AWAKE(3)
	:: asleep[4] && !ahead[4] -> AWAKE(4)
	:: !asleep[2] && !asleep[3] && !asleep[4]
	fi
}

#if LANES == 1
#define DRAINED (closed[0] && EMPTY(0))
#elif LANES == 2
#define DRAINED (closed[0] && EMPTY(0) && closed[1] && EMPTY(1))
#else
#define DRAINED (closed[0] && EMPTY(0) && closed[1] && EMPTY(1) && closed[2] && EMPTY(2))
#endif
#define DRAINS(v) (pc[v] >= drained_prod && pc[v] <= drained_again)

/* Ghost: a position was moved, a slot written or a lane closed. */
inline moved()
{
	late = 0;
	if
	:: DRAINED ->
		drained[2] = DRAINS(2) || drained[2];
		drained[3] = DRAINS(3) || drained[3];
		drained[4] = DRAINS(4) || drained[4]
	:: else
	fi
}

/* Reserves a position of a lane for the message. */
inline reserve(which, message)
{
	my[me].lane = which;
	my[me].at = prod[which];
	have[me] = message;
	prod[which]++;
	op[me] = 1 + which;
	moved();
	next(put_publish)
}

/* What follows a reservation. Ends at done. */
inline puts(done)
{
	if
	:: pc[me] == put_publish ->
		assert(!READY(my[me].lane, my[me].at));
		SLOT(my[me].lane, my[me].at) = WORD(my[me].at, have[me]);
		place[have[me]] = 1;
		have[me] = NONE;
		op[me] = 0;
		moved();
		my[me].lane = 0;
		my[me].at = 0;
		if
		:: my[me].early && my[me].seen -> next(put_add)
		:: my[me].early && !my[me].seen -> next(done)
		:: else -> next(put_word)
		fi;
		my[me].early = 0;
		my[me].seen = 0
	:: pc[me] == put_word -> next((SLEEPERS -> put_add : done))
	:: pc[me] == put_add -> CHANGED; next(put_futex)
	fi
}
#define PUTTING (pc[me] == put_publish || pc[me] == put_word || pc[me] == put_add)

/* The slot is visible only after the load of the wait word. */
#ifdef MUTATE_WORD_BEFORE_PROD
#define MAY_BE_EARLY false
#else
#define MAY_BE_EARLY (pc[me] == put_publish && !my[me].early)
#endif
inline read_early()
{
	my[me].early = 1;
	my[me].seen = SLEEPERS > 0
}

#ifdef MUTATE_BACK_NOT_INTO_CLOSED
#define SPACE(l) (lanes > (l) && ROOM(l) && !closed[l])
#else
#define SPACE(l) (lanes > (l) && ROOM(l))
#endif
#if LANES == 1
#define NO_SPACE (!SPACE(0))
#elif LANES == 2
#define NO_SPACE (!SPACE(0) && !SPACE(1))
#else
#define NO_SPACE (!SPACE(0) && !SPACE(1) && !SPACE(2))
#endif

/* Puts a message back into any lane with room, closed or not. */
inline back(which)
{
	v = have[me];
	returned[v] = 1;
	reserve(which, v);
	v = 0
}

#ifdef MUTATE_KNOWN_LANES
#define FORGET_LANES skip
#else
#define FORGET_LANES my[me].n = 0
#endif
#define AGAIN (my[me].waits -> wait_sleep : wait_enter)
#define GOT (my[me].waits -> wait_leave : get_settle)
#define GET_DONE (my[me].k == GETS && GETS -> finished : at_rest)

/* Takes the message at the head of a lane, or steps over a tombstone. */
inline claim(which)
{
	v = SLOT(which, cons[which]) % 16;
	cons[which]++;
	moved();
	if
	:: v == TOMBSTONE -> next(pc[me])
	:: else ->
		have[me] = v;
		assert(place[v] == 1); /* once */
		place[v] = 2;
		if
		:: !returned[v] ->
			assert(v % PUTS == claimed[v / PUTS]); /* in order */
			claimed[v / PUTS]++
		:: else
		fi;
		my[me].i = 0;
		my[me].lane = 0;
		FORGET_LANES;
		my[me].reserved = 0;
		next(GOT)
	fi;
	v = 0
}

/* The next lane after a lane that has nothing. */
#define OTHER ((my[me].lane + 1 + my[me].i) % my[me].n)
/* It looks there next, or has found nothing. */
inline other(k)
{
	my[me].i = k;
	if
	:: my[me].i + 1 < my[me].n -> next(get_cons)
	:: else ->
		my[me].i = 0;
		my[me].lane = 0;
		FORGET_LANES;
		next((SHUTDOWNS -> get_ended : AGAIN))
	fi
}
inline enter()
{
	CHANGED;
	in_wait[me] = 1;
	same_wait[me] = 1
}

/* One call of a get that waits. */
inline gets()
{
	if
	:: pc[me] == get_active ->
#ifdef MUTATE_KNOWN_LANES
		my[me].n = (my[me].n -> my[me].n : lanes);
#else
		my[me].n = lanes;
#endif
		other(0)
	:: pc[me] == get_cons -> my[me].at = cons[OTHER]; next(get_slot)
	:: pc[me] == get_slot ->
		if
		:: READY(OTHER, my[me].at) -> next(get_claim)
		:: else -> other(my[me].i + 1)
		fi;
		my[me].at = 0
	:: pc[me] == get_claim ->
		if
		:: READY(OTHER, cons[OTHER]) -> claim(OTHER)
		:: else -> other(my[me].i + 1)
		fi
	:: pc[me] == get_ended ->
#ifdef MUTATE_GET_CLOSES_NOTHING
		drained[me] = DRAINED;
		next((ended -> drained_prod : AGAIN))
#else
		next((ended -> get_close : AGAIN))
#endif
	:: pc[me] == get_close ->
		closed[my[me].i] = 1;
		moved();
		my[me].i++;
		if
		:: my[me].i == LANES -> my[me].i = 0; drained[me] = DRAINED; next(drained_prod)
		:: else
		fi
	:: pc[me] == drained_prod ->
		my[me].sum = my[me].sum + prod[my[me].i];
		my[me].i++;
		if :: my[me].i == LANES -> my[me].i = 0; next(drained_cons) :: else fi
	:: pc[me] == drained_cons -> my[me].at = cons[my[me].i]; next(drained_count)
	:: pc[me] == drained_count ->
		my[me].i++;
		if
		:: prod[my[me].i - 1] != my[me].at -> my[me].i = 0; my[me].sum = 0; drained[me] = 0; next(AGAIN)
		:: my[me].i == LANES && prod[my[me].i - 1] == my[me].at ->
			my[me].i = 0;
#ifdef MUTATE_PROD_READ_ONCE
			my[me].sum = 0;
			assert(drained[me]);
			drained[me] = 0;
			my[me].over = 1;
			next((my[me].waits -> wait_leave : finished))
#else
			next(drained_again)
#endif
		:: else -> next(drained_cons)
		fi;
		my[me].at = 0
	:: pc[me] == drained_again ->
		my[me].sum = my[me].sum - prod[my[me].i];
		my[me].i++;
		if
		:: my[me].i == LANES ->
			my[me].i = 0;
			assert(my[me].sum || drained[me]); /* the end */
			drained[me] = 0;
			if
			:: my[me].sum -> my[me].sum = 0; next(AGAIN)
			:: !my[me].sum && my[me].waits -> my[me].over = 1; next(wait_leave)
			:: else -> next(finished)
			fi
		:: else
		fi
	:: pc[me] == wait_enter ->
#ifndef MUTATE_COUNTED_LATE
		enter();
#endif
		my[me].waits = 1;
		next((SHUTDOWNS -> see_closed : see_prod))
	:: pc[me] == see_closed ->
		if :: queue_closed -> ended = 1 :: else fi;
		next(see_prod)
	:: pc[me] == see_prod -> my[me].at = prod[my[me].i]; next(see_cons)
	:: pc[me] == see_cons ->
		my[me].reserved = cons[my[me].i] != my[me].at;
		my[me].i++;
#ifdef MUTATE_SEES_ONE_LANE
		next(get_own);
#else
		next((my[me].reserved || my[me].i == LANES -> get_own : see_prod));
#endif
		if :: pc[me] == get_own -> my[me].i = 0 :: else fi;
		my[me].at = 0
	:: pc[me] == wait_sleep ->
#ifdef MUTATE_COUNTED_LATE
		enter();
#endif
		if :: same_wait[me] -> FALLS_ASLEEP; asleep[me] = 1 + my[me].reserved :: else fi;
#ifdef MUTATE_NO_SHORT_SLEEP
		if :: asleep[me] -> asleep[me] = 1 :: else fi;
#endif
		my[me].reserved = 0;
		next(wait_leave)
	:: pc[me] == wait_leave ->
		if :: in_wait[me] -> in_wait[me] = 0; CHANGED :: else fi;
		same_wait[me] = 0;
		my[me].waits = 0;
		if
		:: have[me] != NONE -> next(pass_word)
		:: have[me] == NONE && !my[me].over -> next(wait_enter)
		:: else -> my[me].over = 0; next(finished)
		fi
	:: pc[me] == pass_word -> next((SLEEPERS -> pass_ready : get_settle))
	:: pc[me] == pass_ready -> /* queue_ready() */
		my[me].i++;
#ifdef MUTATE_WAKE_NOT_PASSED_ON
		next(get_settle);
#else
		if
		:: READY(my[me].i - 1, cons[my[me].i - 1]) -> next(put_add)
		:: !READY(my[me].i - 1, cons[my[me].i - 1]) && my[me].i == LANES -> next(get_settle)
		:: else
		fi;
#endif
		if :: pc[me] != pass_ready -> my[me].i = 0 :: else fi
	:: else -> puts((have[me] != NONE -> get_settle : GET_DONE))
	fi
}
