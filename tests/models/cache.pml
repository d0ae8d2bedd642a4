/* SPDX-License-Identifier: Apache-2.0
 *
 * cache.pml - a member's cache (0), a thief (1), and two recoverers (2, 3) at any time.
 *
 * The steps of cache_pop, the push in qmempool_free, steal, steal_from and cache_flush_if_asked (qmempool.h,
 * cache.c), and of a recoverer (cache_recover.pml). One step is one load, store or
 * compare-and-swap, as in ring.pml, and crashes are as there. The only store without a fence, that
 * of cache_top in cache_pop, waits in a store buffer (top_waits) until the buffer drains by itself,
 * its owner makes its next store, or any process calls membarrier(2). cache_bottom is two variables
 * here, stolen and thief, which change in one step. The free ring is a set here: the owner word of
 * a buffer in it is FREE.
 *
 * A handle is index + 8 * generation.
 */
#ifndef OPS
#define OPS 4 /* allocations and frees of the owner */
#endif
#ifndef CRASHES
#define CRASHES 2
#endif
#define BUFFERS 3
#define CACHE 2
#define MEMBERS 4
#define NONE 255
#define FREE 127
#define IN_CACHE 126 /* ghost */
#define REQUESTED 100
#define BIT(t) (1 << (t))
#define GONE(t) ((gone >> (t)) & 1)
#define DEAD 32

byte top = 2, stolen; /* the positions of the cache */
bit top_waits;        /* the owner's top - 1 is not yet visible to others */
byte cache[CACHE];
byte thief;
byte owner[BUFFERS], generation[BUFFERS];
byte identity[MEMBERS], pc[MEMBERS];
byte gone, crashes;
byte real[BUFFERS]; /* ghost: tag of the member that owns it, IN_CACHE, FREE */
hidden byte h;

#define at_rest 0
#define finished 1
#define dead 2
#define cache_pop_bottom 3
#define cache_push_bottom 4
#define steal_from_top 5
#define purge_entry 6
#define sweep_look 7
#define STORES 32
#define cache_pop_top 32
#define cache_pop_restore 33
#define alloc_shared 34
#define qmempool_free 35
#define cache_push_entry 36
#define cache_push_top 37
#define free_ring_put 38
#define flush_if_asked_cas 39
#define flush_entry 40
#define flush_if_asked_done 42
#define steal_cas 43
#define steal_barrier 44
#define steal_from_owner 45
#define steal_from_done 46
#define steal_done 47
#define recover_thieves_cas 48
#define recover_thieves_barrier 49
#define recover_thieves_stolen 50
#define recover_thieves_done 51
#define recover_sweep_cas 52
#define recover_sweep_generation 53
#define recover_settle 54
#define recover_finish_cas 55
#define recover_finish_cache 56
#define recover_finish_identity 57
#define recover_finish_thief 58

#define VICTIM(v) (crashes < CRASHES && (pc[v] >= STORES || pc[v] == at_rest || (v == 1 && pc[v] == finished)))

#ifdef TRACE /* what pan -r prints of a counterexample, one line a step */
#define SHOW(step)                                                                                 \
	printf("@%d %d %d top %d-%d stolen %d cache %d %d thief %d owners %d %d %d real %d %d %d\n", me,     \
	       pc[me], step, top, top_waits, stolen, cache[0], cache[1], thief, owner[0], owner[1], owner[2], \
	       real[0], real[1], real[2]);
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
	gone = gone | BIT(v + 1);
	pc[v] = dead;
	if :: v == 0 && top_waits -> top--; top_waits = 0 :: else fi /* the store becomes visible */
}

inline drain()
{
	if :: top_waits -> top--; top_waits = 0 :: else fi
}

inline take_ghost(b, from)
{
	assert(real[b] == from);
	real[b] = tag
}

/* Every store reaches memory at some time. */
proctype StoreBuffer()
{
end:
	do
	:: d_step { top_waits -> drain() }
	od
}

#if defined MUTATE_FLUSH_UNCHECKED || defined MUTATE_PURGE_FROM_OUTSIDE
#define FLUSHES(h) true
#elif defined MUTATE_NO_GENERATION
#define FLUSHES(h) (owner[(h) % 8] == 1)
#else
#define FLUSHES(h) (owner[(h) % 8] == 1 && generation[(h) % 8] == (h) / 8)
#endif

proctype Owner()
{
	byte me = 0, tag = 1, hand = NONE, ops, at, length, i;
end:
	do
	:: d_step { pc[me] == at_rest && ops < OPS && hand == NONE -> ops++; next(cache_pop_top) }
	:: d_step { pc[me] == at_rest && ops < OPS && hand != NONE -> ops++; next(qmempool_free) }
	:: d_step { pc[me] == at_rest && thief == REQUESTED -> next(flush_if_asked_cas) }
	:: d_step {
		pc[me] > dead ->
		if
		:: pc[me] == cache_pop_top ->
			drain();
			at = top - 1;
			top_waits = 1;
			next(cache_pop_bottom)
		:: pc[me] == cache_pop_bottom ->
			length = at - stolen;
			if
			:: thief == 0 && length < CACHE ->
				h = cache[at % CACHE];
				hand = h % 8;
				take_ghost(hand, IN_CACHE);
				assert(owner[hand] == tag && generation[hand] == h / 8);
				next(at_rest)
			:: else -> next(cache_pop_restore)
			fi;
			length = 0;
			if :: pc[me] == at_rest -> at = 0 :: else fi
		:: pc[me] == cache_pop_restore ->
			drain();
			top = at + 1;
			at = 0;
			if :: thief == REQUESTED -> next(flush_if_asked_cas) :: else -> next(alloc_shared) fi
		:: pc[me] == alloc_shared -> /* transfer_out from the free ring, as one step */
			i = 0;
			do
			:: i < BUFFERS && owner[i] != FREE -> i++
			:: else -> break
			od;
			if
			:: i < BUFFERS -> owner[i] = tag; hand = i; take_ghost(i, FREE)
			:: else
			fi;
			i = 0;
			next(at_rest)
		:: pc[me] == qmempool_free ->
			drain();
			generation[hand]++;
			next(cache_push_bottom)
		:: pc[me] == cache_push_bottom ->
			length = top - stolen;
			if :: thief == 0 && length < CACHE -> next(cache_push_entry) :: else -> next(free_ring_put) fi;
			length = 0
		:: pc[me] == cache_push_entry ->
			cache[top % CACHE] = hand + 8 * generation[hand];
			next(cache_push_top)
		:: pc[me] == cache_push_top ->
			top++;
			real[hand] = IN_CACHE;
			hand = NONE;
			next(at_rest)
		:: pc[me] == free_ring_put ->
			owner[hand] = FREE;
			real[hand] = FREE;
			hand = NONE;
			next(at_rest)
		:: pc[me] == flush_if_asked_cas ->
			drain();
			if :: thief == REQUESTED -> thief = tag; length = top - stolen; next(flush_entry)
			   :: else -> next(at_rest) fi;
			if :: pc[me] == flush_entry && (length == 0 || length > CACHE) -> length = 0; next(flush_if_asked_done) :: else fi
		:: pc[me] == flush_entry ->
			h = cache[(stolen + i) % CACHE];
			if
			:: FLUSHES(h) ->
				take_ghost(h % 8, IN_CACHE);
				owner[h % 8] = FREE;
				real[h % 8] = FREE
			:: else /* stale: a thief that died had taken it */
			fi;
			i++;
			if :: i == length -> i = 0; next(flush_if_asked_done) :: else fi
		:: pc[me] == flush_if_asked_done ->
			stolen = stolen + length;
			thief = 0;
			length = 0;
			next(at_rest)
		fi;
		h = 0
	   }
	:: atomic { pc[me] == dead && (hand != NONE || at || length || i) -> hand = NONE; at = 0; length = 0; i = 0 }
	od
}

#ifdef MUTATE_STOLEN_BEFORE_OWNER
#define STEAL_FIRST steal_from_done
#else
#define STEAL_FIRST steal_from_owner
#endif

/* Reads what is in the cache, for a thief or a recoverer. Only that one may move the bottom. */
inline measure(after)
{
	bottom = stolen;
	length = top - bottom;
	if :: length > CACHE -> length = 0 :: else fi;
	next(after)
}

proctype Thief()
{
	byte me = 1, tag = 2, seen, bottom, length, got;
end:
	do
	:: d_step { pc[me] == at_rest && (thief == 0 || thief == REQUESTED) && identity[0] != 0 -> seen = thief; next(steal_cas) }
	:: d_step {
		pc[me] > dead ->
		if
		:: pc[me] == steal_cas ->
			if :: thief == seen -> thief = tag; next(steal_barrier) :: else -> seen = 0; next(at_rest) fi
		:: pc[me] == steal_barrier ->
#ifndef MUTATE_STEAL_NO_BARRIER
			drain();
#endif
			next(steal_from_top)
		:: pc[me] == steal_from_top ->
			measure(STEAL_FIRST);
			if :: length == 0 -> next(steal_done) :: else fi
		:: pc[me] == steal_from_owner -> /* the owner word first, then stolen */
			h = cache[(bottom + got) % CACHE];
			if
#ifdef MUTATE_STEAL_STORES
			:: true ->
#else
			:: owner[h % 8] == 1 && generation[h % 8] == h / 8 -> /* by CAS: member 0 may have died */
#endif
				owner[h % 8] = tag;
				take_ghost(h % 8, IN_CACHE)
#ifndef MUTATE_STEAL_STORES
			:: else
#endif
			fi;
			got++;
			if :: got == length -> next(steal_done) :: else fi
#ifdef MUTATE_STOLEN_BEFORE_OWNER
		:: pc[me] == steal_from_done ->
			stolen = bottom + length;
			next(steal_from_owner)
#endif
		:: pc[me] == steal_done ->
			stolen = bottom + length;
			thief = seen;
			seen = 0; bottom = 0; length = 0; got = 0;
			next(finished)
		fi;
		h = 0
	   }
	:: atomic { pc[me] == dead && (seen || bottom || length || got) -> seen = 0; bottom = 0; length = 0; got = 0 }
	od
}

#include "cache_recover.pml"

proctype Monitor()
{
	byte i;
end:	atomic {
		timeout ->
		do
		:: i < BUFFERS ->
			assert(real[i] == FREE || (real[i] == IN_CACHE && !GONE(1)) || (real[i] < 8 && !GONE(real[i])));
			assert(real[i] >= IN_CACHE || owner[i] == real[i]);
			assert(real[i] != IN_CACHE || owner[i] == 1);
			i++
		:: else -> break
		od;
		assert(thief == 0 || thief == REQUESTED && pc[0] == dead);
		assert(!GONE(1) || identity[0] == 0);
		/* the cache lists exactly what is in it */
		i = (real[0] == IN_CACHE) + (real[1] == IN_CACHE) + (real[2] == IN_CACHE);
		assert(top - stolen == i || (thief == REQUESTED && pc[0] == dead))
	}
}

init {
	atomic {
		if /* runs with fewer deaths end too, and are checked at the end */
		:: crashes = 0
		:: CRASHES > 1 -> crashes = 1
		:: CRASHES > 2 -> crashes = 2
		fi;
		identity[0] = 1; identity[1] = 2; identity[2] = 3; identity[3] = 4;
		owner[0] = 1; owner[1] = 1; owner[2] = FREE;
		real[0] = IN_CACHE; real[1] = IN_CACHE; real[2] = FREE;
		cache[0] = 0; cache[1] = 1;
		run Owner();
		run Thief();
		run Recoverer(2);
		run Recoverer(3);
		run StoreBuffer();
		run Monitor()
	}
}
