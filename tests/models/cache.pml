/* SPDX-License-Identifier: Apache-2.0
 *
 * cache.pml - a member's local cache (process 0), a thief (1), and two recoverers (2, 3).
 *
 * The steps are those of cache_pop(), the push in cache_free_one(), cache_steal(), steal_from() and
 * cache_flush_if_asked() (cache.h, cache.c), and of a recoverer (cache_recover.pml). One step is one
 * load, store or compare-and-swap. Steps and crashes are as in ring.pml.
 *
 * One store has no fence: that of cache_top in cache_pop(). It stays in a store buffer (top_waits)
 * until the buffer drains by itself, its owner makes its next store, or any process calls
 * membarrier(2).
 *
 * The word cache_bottom is two variables here, which change in one step: the position (bottom) and
 * the member that has locked the cache (holder). The free ring is a set: the owner word of a buffer
 * in it is FREE.
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
#define FLUSH_REQUESTED 100
#define BIT(t) (1 << (t))
#define GONE(t) ((gone >> (t)) & 1)
#define DEAD 32

byte top = 2, bottom; /* the positions of the cache */
bit top_waits;        /* the owner's top - 1 is not yet visible to other processes */
byte cache[CACHE];
byte holder;
byte owner[BUFFERS], generation[BUFFERS];
byte identity[MEMBERS], pc[MEMBERS];
byte gone, crashes;
byte real[BUFFERS]; /* ghost: the tag of its owner, IN_CACHE or FREE */
hidden byte h;

#define at_rest 0
#define finished 1
#define dead 2
#define cache_pop_bottom 3
#define cache_push_bottom 4
#define steal_from_top 5
#define purge_entry 6
#define sweep_owner 7
#define STORES 32
#define cache_pop_top 32
#define cache_pop_restore 33
#define qmempool_refill 34
#define qmempool_free 35
#define cache_push_entry 36
#define cache_push_top 37
#define free_ring_put 38
#define cache_flush_if_asked_cas 39
#define flush_entry 40
#define cache_flush_if_asked_done 42
#define cache_steal_cas 43
#define cache_steal_barrier 44
#define steal_from_owner 45
#define steal_from_done 46
#define cache_steal_done 47
#define recover_thieves_cas 48
#define recover_thieves_barrier 49
#define recover_thieves_bottom 50
#define recover_thieves_done 51
#define sweep_cas 52
#define sweep_generation 53
#define sweep_settle 54
#define recover_slots_cas 55
#define recover_slots_cache 56
#define recover_slots_identity 57
#define recover_slots_unlock 58

#define VICTIM(v) (crashes < CRASHES && (pc[v] >= STORES || pc[v] == at_rest || (v == 1 && pc[v] == finished)))

#ifdef TRACE /* what pan -r prints of a counterexample, one line a step */
#define SHOW(step)                                                                                 \
	printf("@%d %d %d top %d-%d bottom %d cache %d %d holder %d owners %d %d %d real %d %d %d\n", me,     \
	       pc[me], step, top, top_waits, bottom, cache[0], cache[1], holder, owner[0], owner[1], owner[2], \
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

/* A store may reach memory at any time. */
proctype StoreBuffer()
{
end:
	do
	:: d_step { top_waits -> drain() }
	od
}

#if defined MUTATE_FLUSH_UNCHECKED || defined MUTATE_PURGE_FROM_OUTSIDE
#define ENTRY_VALID(h) true
#elif defined MUTATE_NO_GENERATION
#define ENTRY_VALID(h) (owner[(h) % 8] == 1)
#else
#define ENTRY_VALID(h) (owner[(h) % 8] == 1 && generation[(h) % 8] == (h) / 8)
#endif

proctype Owner()
{
	byte me = 0, tag = 1, buf = NONE, ops, at, length, i;
end:
	do
	:: d_step { pc[me] == at_rest && ops < OPS && buf == NONE -> ops++; next(cache_pop_top) }
	:: d_step { pc[me] == at_rest && ops < OPS && buf != NONE -> ops++; next(qmempool_free) }
	:: d_step { pc[me] == at_rest && holder == FLUSH_REQUESTED -> next(cache_flush_if_asked_cas) }
	:: d_step {
		pc[me] > dead ->
		if
		:: pc[me] == cache_pop_top ->
			drain();
			at = top - 1;
			top_waits = 1;
			next(cache_pop_bottom)
		:: pc[me] == cache_pop_bottom ->
			length = at - bottom;
			if
			:: holder == 0 && length < CACHE ->
				h = cache[at % CACHE];
				buf = h % 8;
				take_ghost(buf, IN_CACHE);
				assert(owner[buf] == tag && generation[buf] == h / 8);
				next(at_rest)
			:: else -> next(cache_pop_restore)
			fi;
			length = 0;
			if :: pc[me] == at_rest -> at = 0 :: else fi
		:: pc[me] == cache_pop_restore ->
			drain();
			top = at + 1;
			at = 0;
			if :: holder == FLUSH_REQUESTED -> next(cache_flush_if_asked_cas) :: else -> next(qmempool_refill) fi
		:: pc[me] == qmempool_refill -> /* transfer_out from the free ring, as one step */
			i = 0;
			do
			:: i < BUFFERS && owner[i] != FREE -> i++
			:: else -> break
			od;
			if
			:: i < BUFFERS -> owner[i] = tag; buf = i; take_ghost(i, FREE)
			:: else
			fi;
			i = 0;
			next(at_rest)
		:: pc[me] == qmempool_free ->
			drain();
			generation[buf]++;
			next(cache_push_bottom)
		:: pc[me] == cache_push_bottom ->
			length = top - bottom;
			if :: holder == 0 && length < CACHE -> next(cache_push_entry) :: else -> next(free_ring_put) fi;
			length = 0
		:: pc[me] == cache_push_entry ->
			cache[top % CACHE] = buf + 8 * generation[buf];
			next(cache_push_top)
		:: pc[me] == cache_push_top ->
			top++;
			real[buf] = IN_CACHE;
			buf = NONE;
			next(at_rest)
		:: pc[me] == free_ring_put ->
			owner[buf] = FREE;
			real[buf] = FREE;
			buf = NONE;
			next(at_rest)
		:: pc[me] == cache_flush_if_asked_cas ->
			drain();
			if :: holder == FLUSH_REQUESTED -> holder = tag; length = top - bottom; next(flush_entry)
			   :: else -> next(at_rest) fi;
			if :: pc[me] == flush_entry && (length == 0 || length > CACHE) -> length = 0; next(cache_flush_if_asked_done) :: else fi
		:: pc[me] == flush_entry ->
			h = cache[(bottom + i) % CACHE];
			if
			:: ENTRY_VALID(h) ->
				take_ghost(h % 8, IN_CACHE);
				owner[h % 8] = FREE;
				real[h % 8] = FREE
			:: else /* stale: a thief took the buffer and died */
			fi;
			i++;
			if :: i == length -> i = 0; next(cache_flush_if_asked_done) :: else fi
		:: pc[me] == cache_flush_if_asked_done ->
			bottom = bottom + length;
			holder = 0;
			length = 0;
			next(at_rest)
		fi;
		h = 0
	   }
	:: atomic { pc[me] == dead && (buf != NONE || at || length || i) -> buf = NONE; at = 0; length = 0; i = 0 }
	od
}

#ifdef MUTATE_BOTTOM_BEFORE_OWNER
#define STEAL_FIRST steal_from_done
#else
#define STEAL_FIRST steal_from_owner
#endif

/* Reads the length of the cache, for the process that has locked it: no other may move bottom. */
inline measure(after)
{
	seen_bottom = bottom;
	length = top - seen_bottom;
	if :: length > CACHE -> length = 0 :: else fi;
	next(after)
}

proctype Thief()
{
	byte me = 1, tag = 2, seen, seen_bottom, length, got;
end:
	do
	:: d_step { pc[me] == at_rest && (holder == 0 || holder == FLUSH_REQUESTED) && identity[0] != 0 -> seen = holder; next(cache_steal_cas) }
	:: d_step {
		pc[me] > dead ->
		if
		:: pc[me] == cache_steal_cas ->
			if :: holder == seen -> holder = tag; next(cache_steal_barrier) :: else -> seen = 0; next(at_rest) fi
		:: pc[me] == cache_steal_barrier ->
#ifndef MUTATE_STEAL_NO_BARRIER
			drain();
#endif
			next(steal_from_top)
		:: pc[me] == steal_from_top ->
			measure(STEAL_FIRST);
			if :: length == 0 -> next(cache_steal_done) :: else fi
		:: pc[me] == steal_from_owner -> /* the owner word first, then bottom */
			h = cache[(seen_bottom + got) % CACHE];
			if
#ifdef MUTATE_STEAL_STORES
			:: true ->
#else
			:: owner[h % 8] == 1 && generation[h % 8] == h / 8 -> /* a CAS: member 0 may have died */
#endif
				owner[h % 8] = tag;
				take_ghost(h % 8, IN_CACHE)
#ifndef MUTATE_STEAL_STORES
			:: else
#endif
			fi;
			got++;
			if :: got == length -> next(cache_steal_done) :: else fi
#ifdef MUTATE_BOTTOM_BEFORE_OWNER
		:: pc[me] == steal_from_done ->
			bottom = seen_bottom + length;
			next(steal_from_owner)
#endif
		:: pc[me] == cache_steal_done ->
			bottom = seen_bottom + length;
			holder = seen;
			seen = 0; seen_bottom = 0; length = 0; got = 0;
			next(finished)
		fi;
		h = 0
	   }
	:: atomic { pc[me] == dead && (seen || seen_bottom || length || got) -> seen = 0; seen_bottom = 0; length = 0; got = 0 }
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
		assert(holder == 0 || holder == FLUSH_REQUESTED && pc[0] == dead);
		assert(!GONE(1) || identity[0] == 0);
		/* The cache has one entry for each buffer in it. */
		i = (real[0] == IN_CACHE) + (real[1] == IN_CACHE) + (real[2] == IN_CACHE);
		assert(top - bottom == i || (holder == FLUSH_REQUESTED && pc[0] == dead))
	}
}

init {
	atomic {
		if /* the final state of runs with fewer deaths is checked too */
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
