/* SPDX-License-Identifier: Apache-2.0
 *
 * chain.pml - chains: the head is owned like any buffer, the words of its segments name the head and
 * its generation. Processes: a member that makes a chain of all buffers, and puts it into a queue or
 * frees it (0); a consumer, which gets it and frees it (1); a member that allocates what is free and
 * makes a chain with the same head (2); recoverers (3 and 4), which are members.
 *
 * The steps are those of chain_make() in chain.c, of free_chain() and raise_generations() in
 * qmempool.c, and of sweep(), sweep_one(), orphan(), take() and hand_on() in sweep.c. One step is one
 * store or compare-and-swap on a shared word, with the loads before it, or one load whose value is
 * used in a later step. A process can die before each of its stores, while it owns a chain, and at
 * rest.
 *
 *     BUFFERS     2 or more
 *     HEAD        index of the head: a sweep visits the buffers from 0 on
 *     QUEUE       1: the chain passes a queue whose on_death is "requeue"; 0: its maker frees it
 *     RECOVERERS  1 or 2
 *     CRASHES     at most; Spin tries every smaller number too
 */
#define MEMBERS 5
#define BIT(t) (1 << (t))
#define GONE(t) ((gone >> (t)) & 1)
#define TAG(v) ((v) + 1)
#define MEMBER(t) ((t) - 1)

/* An owner word: a tag; DECIDED, which is a tag with the queue to which the buffer goes; TRANSIT, in
 * the queue; FREE, in the free ring; CHAINED, with the head's generation. */
#define DECIDED(t) (8 + (t))
#define TRANSIT 20
#define FREE 21
#define NOBODY 22
#define CHAINED(g) (32 + (g))
#define IS_CHAINED(o) ((o) >= 32)
#define IS_TAG(o) ((o) < 20)
#define IN_DEAD(o) (IS_TAG(o) && ((dead_set >> MEMBER((o) % 8)) & 1))
#define MINE CHAINED(generation[HEAD]) /* of the segments of the present chain */

byte owner[BUFFERS], generation[BUFFERS];
bit marked[BUFFERS], got[BUFFERS];
byte pc[MEMBERS], gone, recovered, crashes, most;
byte real[BUFFERS]; /* ghost: tag of the process that has it, TRANSIT, FREE, NOBODY */
hidden byte i;

#define at_rest 0
#define finished 1
#define dead 2
#define sweep_owner 3
#define orphan_generation 4
#define STORES 16
#define make_mark 16
#define make_word 17
#define queue_put_head 18
#define free_chain_got 19
#define free_chain_word 20
#define free_segment 21
#define free_segment_put 22
#define free_chain_mark 23
#define raise_head 24
#define free_head_put 25
#define alloc_second 26
#define keep 27
#define take_cas 28
#define hand_on_cas 29
#define hand_on_publish 30
#define sweep_handle 31
#define sweep_put 32
#define recover_slots 33

#ifdef MUTATE_MARKED_LATE
#define MAKE_BEGIN make_word
#define MAKE_END make_mark
#else
#define MAKE_BEGIN make_mark
#define MAKE_END made
#endif
#define made 40 /* no step */

#define VICTIM(v) (pc[v] >= STORES || (((v) == 1 || (v) == 2) && pc[v] == at_rest))
#define LEFT (gone & ~recovered)

inline next(step)
{
	pc[me] = step
}

/* Notes who has the chain: its head and what its word names. */
inline give(who)
{
	i = 0;
	do
	:: i < BUFFERS ->
		if :: i == HEAD || owner[i] == MINE -> real[i] = who :: else fi;
		i++
	:: else -> break
	od;
	i = 0
}

/* A message is whole when it comes out. Only chains with all buffers are put. */
inline check_whole()
{
	i = 0;
	do
	:: i < BUFFERS -> assert(i == HEAD || owner[i] == MINE); i++
	:: else -> break
	od;
	i = 0
}

/* Collects the segments of the chain as chain_next() finds them. */
inline follow()
{
	segments = 0;
	b = 0;
	do
	:: b < BUFFERS ->
		if :: b != HEAD && owner[b] == MINE -> segments = segments | BIT(b) :: else fi;
		b++
	:: else -> break
	od;
	b = 0
}

/* Sets b to the first segment from b on; BUFFERS if there is none. */
inline seek()
{
	do
	:: b < BUFFERS && !((segments >> b) & 1) -> b++
	:: else -> break
	od
}

inline after_make()
{
	if
	:: me == 0 && QUEUE -> next(queue_put_head)
	:: me == 0 && !QUEUE -> follow(); next(free_chain_got)
	:: else -> next(keep)
	fi
}

inline after_got()
{
#ifdef MUTATE_RAISED_FIRST
	next(raise_head)
#elif defined MUTATE_UNMARKED_FIRST
	next(free_chain_mark)
#else
	b = 0;
	seek();
	next(free_chain_word)
#endif
}

inline after_segments()
{
	b = 0;
#ifdef MUTATE_RAISED_FIRST
	next(free_head_put)
#elif defined MUTATE_UNMARKED_FIRST
	next(raise_head)
#else
	next(free_chain_mark)
#endif
}

inline member_step()
{
	if
	:: pc[me] == make_mark ->
		marked[HEAD] = 1;
#ifdef MUTATE_MARKED_LATE
		after_make()
#else
		b = 0;
		seek();
		next(make_word)
#endif
	:: pc[me] == make_word ->
		owner[b] = MINE;
		b++;
		seek();
		if
		:: b < BUFFERS -> next(make_word)
#ifdef MUTATE_MARKED_LATE
		:: else -> b = 0; next(make_mark)
#else
		:: else -> b = 0; after_make()
#endif
		fi
	:: pc[me] == queue_put_head -> owner[HEAD] = TRANSIT; give(TRANSIT); next(finished)
	:: pc[me] == free_chain_got ->
#ifndef MUTATE_GOT_KEPT
		got[HEAD] = 0;
#endif
		after_got()
	:: pc[me] == free_chain_word ->
		owner[b] = TAG(me);
		real[b] = TAG(me);
		b++;
		seek();
		if
		:: b < BUFFERS -> next(free_chain_word)
		:: else -> b = 0; seek(); next(free_segment)
		fi
	:: pc[me] == free_segment -> generation[b]++; next(free_segment_put)
	:: pc[me] == free_segment_put ->
		owner[b] = FREE;
		real[b] = FREE;
		b++;
		seek();
		if :: b < BUFFERS -> next(free_segment) :: else -> after_segments() fi
	:: pc[me] == free_chain_mark ->
		marked[HEAD] = 0;
#ifdef MUTATE_UNMARKED_FIRST
		b = 0;
		seek();
		next(free_chain_word)
#else
		next(raise_head)
#endif
	:: pc[me] == raise_head ->
		generation[HEAD]++;
		marked[HEAD] = 0;
#ifdef MUTATE_RAISED_FIRST
		b = 0;
		seek();
		next(free_chain_word)
#else
		next(free_head_put)
#endif
	:: pc[me] == free_head_put -> owner[HEAD] = FREE; real[HEAD] = FREE; next(finished)
	fi
}

proctype Member(byte me)
{
	byte b, segments;
	d_step {
		if
		:: me == 0 -> segments = (BIT(BUFFERS) - 1) & ~BIT(HEAD); pc[me] = MAKE_BEGIN
		:: else
		fi;
		if :: me == 0 && MAKE_BEGIN == make_word -> seek() :: else fi
	}
end:
	do
	:: d_step { pc[me] >= make_mark && pc[me] <= free_head_put -> member_step() }
	:: d_step { me == 1 && pc[me] == at_rest && owner[HEAD] == TRANSIT ->
		check_whole();
		owner[HEAD] = TAG(me);
		got[HEAD] = 1;
		give(TAG(me));
		follow();
		next(free_chain_got) }
	:: d_step { me == 2 && pc[me] == at_rest && owner[HEAD] == FREE ->
		assert(real[HEAD] == FREE && !marked[HEAD]);
		owner[HEAD] = TAG(me);
		got[HEAD] = 0;
		real[HEAD] = TAG(me);
		next(alloc_second) }
	:: d_step { me == 2 && pc[me] == alloc_second ->
		b = 0;
		do :: b < BUFFERS && (owner[b] != FREE || b == HEAD) -> b++ :: else -> break od;
		if
		:: b < BUFFERS ->
			owner[b] = TAG(me);
			real[b] = TAG(me);
			segments = BIT(b);
			next(MAKE_BEGIN);
			if :: MAKE_BEGIN == make_mark -> b = 0 :: else fi
		:: else -> b = 0; next(keep) /* none is free now */
		fi }
	:: pc[me] == finished -> break
	od
}

proctype Recoverer(byte me)
{
	byte b, o, dead_set;
	bit orphans, second;
end:
	do
	:: d_step { pc[me] == at_rest && LEFT -> dead_set = LEFT; next(sweep_owner) }
	:: d_step { pc[me] == sweep_owner && b < BUFFERS ->
		o = owner[b];
		if
		:: IN_DEAD(o) && ((got[b] && b == HEAD) || o >= 8) -> next(hand_on_cas)
		:: IN_DEAD(o) && !((got[b] && b == HEAD) || o >= 8) -> next(take_cas)
		:: IS_CHAINED(o) -> next(orphan_generation)
		:: else -> o = 0; b++
		fi }
	:: d_step { pc[me] == sweep_owner && b == BUFFERS ->
		b = 0;
		if
#ifndef MUTATE_ONE_SWEEP
		:: orphans && !second -> second = 1
		:: !(orphans && !second) ->
#else
		:: true ->
#endif
			orphans = 0; second = 0; next(recover_slots)
		fi }
	:: d_step { pc[me] == orphan_generation ->
		if
#ifdef MUTATE_ORPHAN_BY_MARK
		:: !marked[HEAD] -> next(take_cas)
#elif defined MUTATE_ORPHAN_BY_OWNER
		:: IN_DEAD(owner[HEAD]) || owner[HEAD] == FREE -> next(take_cas)
#elif defined MUTATE_ORPHAN_OF_THE_DEAD
		:: o != MINE || IN_DEAD(owner[HEAD]) -> next(take_cas)
#else
		:: o != MINE -> next(take_cas)
#endif
		:: else -> o = 0; b++; next(sweep_owner)
		fi }
	:: d_step { pc[me] == take_cas ->
		if
#ifdef MUTATE_TAKE_STORED
		:: true ->
#else
		:: owner[b] == o ->
#endif
			assert(real[b] == NOBODY || (real[b] < 20 && GONE(MEMBER(real[b]))));
			owner[b] = TAG(me);
			real[b] = TAG(me);
			if :: b == HEAD && marked[b] -> give(TAG(me)) :: else fi;
#ifndef MUTATE_MARK_READ_LATE
			orphans = orphans | marked[b];
#endif
			next(sweep_handle)
#ifndef MUTATE_TAKE_STORED
		:: else -> next(sweep_owner)
#endif
		fi }
	:: d_step { pc[me] == sweep_handle ->
		if :: marked[b] -> give(NOBODY); real[b] = TAG(me) :: else fi;
		generation[b]++;
		marked[b] = 0;
#ifdef MUTATE_MARK_READ_LATE
		orphans = orphans | marked[b];
#endif
		next(sweep_put) }
	:: d_step { pc[me] == sweep_put ->
		owner[b] = FREE;
		real[b] = FREE;
		o = 0;
		b++;
		next(sweep_owner) }
	:: d_step { pc[me] == hand_on_cas ->
		if
		:: owner[b] == o ->
			assert(real[b] < 20 && GONE(MEMBER(real[b])));
			owner[b] = DECIDED(TAG(me));
			give(TAG(me));
			next(hand_on_publish)
		:: else -> next(sweep_owner)
		fi }
	:: d_step { pc[me] == hand_on_publish ->
		owner[b] = TRANSIT;
		give(TRANSIT);
		o = 0;
		b++;
		next(sweep_owner) }
	:: d_step { pc[me] == recover_slots -> recovered = recovered | dead_set; dead_set = 0; next(at_rest) }
	od
}

/* Any process may die before each of its stores. */
proctype Kills()
{
	byte v;
end:
	do
	:: d_step { crashes < most && VICTIM(0) -> v = 0; crashes++; gone = gone | BIT(v); pc[v] = dead }
	:: d_step { crashes < most && VICTIM(1) -> v = 1; crashes++; gone = gone | BIT(v); pc[v] = dead }
	:: d_step { crashes < most && VICTIM(2) -> v = 2; crashes++; gone = gone | BIT(v); pc[v] = dead }
	:: d_step { crashes < most && VICTIM(3) -> v = 3; crashes++; gone = gone | BIT(v); pc[v] = dead }
	:: d_step { crashes < most && VICTIM(4) -> v = 4; crashes++; gone = gone | BIT(v); pc[v] = dead }
	od
}

/* When no process can make a step any more and a recoverer lives, each buffer is free, in the queue or
 * a living member's, and so is each segment by its head. A chain in the queue is whole. */
proctype Check()
{
	byte b;
	timeout;
	d_step {
		if
		:: LEFT == 0 ->
			do
			:: b < BUFFERS ->
				assert(owner[b] == FREE || owner[b] == TRANSIT ||
				       (IS_TAG(owner[b]) && owner[b] < 8 && !GONE(MEMBER(owner[b]))) ||
				       (owner[b] == MINE && b != HEAD && owner[HEAD] != FREE));
				assert(owner[b] != FREE || real[b] == FREE);
				assert(owner[HEAD] != TRANSIT || b == HEAD || owner[b] == MINE);
				b++
			:: else -> break
			od
		:: else -> assert(GONE(3) && (RECOVERERS == 1 || GONE(4)))
		fi
	}
}

init {
	select(most : 0 .. CRASHES);
	atomic {
		d_step {
			i = 0;
			do
			:: i < BUFFERS -> owner[i] = TAG(0); real[i] = TAG(0); i++
			:: else -> break
			od;
			i = 0
		}
		run Member(0);
		run Member(1);
		run Member(2);
		run Recoverer(3);
		if :: RECOVERERS == 2 -> run Recoverer(4) :: else fi;
		run Kills();
		run Check()
	}
}
