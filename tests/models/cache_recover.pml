/* SPDX-License-Identifier: Apache-2.0
 *
 * cache_recover.pml - a recoverer in cache.pml: recover_thieves(), sweep() and
 * member_take_slot().
 */
#define IN_DEAD(t) ((t) < 8 && ((dead_tags >> (t)) & 1))
#define MAY_START (VICTIM(0) || VICTIM(1) || (VICTIM(5 - me) && pc[5 - me] >= STORES) || RETRY)
#define RETRY (again && (holder == 0 || holder == FLUSH_REQUESTED || GONE(holder % 8)))

inline thieves()
{
	if :: IN_DEAD(holder) -> next(recover_thieves_cas) :: else -> next(sweep_owner) fi
}

inline finish()
{
	if :: IN_DEAD(1) && identity[0] != 0 -> next(recover_slots_cas) :: else -> next(recover_slots_identity) fi
}

inline sweep_next()
{
	b++;
	if :: b == BUFFERS -> b = 0; finish() :: else -> next(sweep_owner) fi
}

proctype Recoverer(byte me)
{
	byte tag = me + 1, seen, seen_bottom, length, got, b, dead_tags;
	bit again;
end:
	do
	:: atomic {
		pc[me] == at_rest && MAY_START ->
		if
		:: VICTIM(0) -> kill(0)
		:: VICTIM(1) -> kill(1)
		:: VICTIM(5 - me) && pc[5 - me] >= STORES -> kill(5 - me)
		:: RETRY
		fi;
		if :: VICTIM(0) -> kill(0) :: VICTIM(1) -> kill(1) :: true fi;
		again = 0;
		dead_tags = gone; /* recover_mark */
		d_step { thieves() }
	   }
	:: d_step {
		pc[me] > dead ->
		if
		:: pc[me] == recover_thieves_cas ->
			if
#ifdef MUTATE_PURGE_FROM_OUTSIDE
			:: IN_DEAD(holder) -> holder = tag; next(recover_thieves_barrier)
#else
			:: IN_DEAD(holder) -> holder = FLUSH_REQUESTED; next(sweep_owner)
#endif
			:: else -> next(sweep_owner)
			fi
#ifdef MUTATE_PURGE_FROM_OUTSIDE /* the recoverer drops the stale entries */
		:: pc[me] == recover_thieves_barrier ->
			drain();
			next(steal_from_top)
		:: pc[me] == steal_from_top ->
			measure(purge_entry);
			if :: length == 0 -> next(recover_thieves_done) :: else fi
		:: pc[me] == purge_entry -> /* drops each entry whose buffer the cache's owner no longer owns */
			h = cache[(seen_bottom + got) % CACHE];
			if
			:: owner[h % 8] != 1 || generation[h % 8] != h / 8 -> got++
			:: else -> length = got
			fi;
			if :: got == length -> next(recover_thieves_bottom) :: else fi
		:: pc[me] == recover_thieves_bottom ->
			bottom = seen_bottom + got;
			next(recover_thieves_done)
		:: pc[me] == recover_thieves_done ->
			holder = FLUSH_REQUESTED;
			seen_bottom = 0; length = 0; got = 0;
			next(sweep_owner)
#endif
		:: pc[me] == sweep_owner ->
			if
			:: IN_DEAD(owner[b]) -> seen = owner[b]; next(sweep_cas)
			:: else -> sweep_next()
			fi
		:: pc[me] == sweep_cas ->
			if
			:: owner[b] == seen ->
				assert(GONE(real[b] % 64) || (real[b] == IN_CACHE && GONE(1)));
				owner[b] = tag;
				real[b] = tag;
				next(sweep_generation)
			:: else -> sweep_next()
			fi;
			seen = 0
		:: pc[me] == sweep_generation ->
			generation[b]++;
			next(sweep_settle)
		:: pc[me] == sweep_settle ->
			owner[b] = FREE;
			real[b] = FREE;
			sweep_next()
		:: pc[me] == recover_slots_cas ->
			if
			:: holder == 0 || holder == FLUSH_REQUESTED || IN_DEAD(holder) -> holder = tag; next(recover_slots_cache)
			:: else -> again = 1; next(recover_slots_identity)
			fi
		:: pc[me] == recover_slots_cache ->
			if :: identity[0] != 0 -> bottom = top :: else fi;
			next(recover_slots_unlock)
		:: pc[me] == recover_slots_unlock ->
			identity[0] = 0;
			holder = 0;
			next(recover_slots_identity)
		:: pc[me] == recover_slots_identity -> /* of a dead member without a cache */
			if :: IN_DEAD(2) -> identity[1] = 0 :: else fi;
			dead_tags = 0;
			next(at_rest)
		fi;
		h = 0
	   }
	:: atomic {
		pc[me] == dead && dead_tags ->
		seen = 0; seen_bottom = 0; length = 0; got = 0; b = 0; dead_tags = 0; again = 0
	   }
	od
}
