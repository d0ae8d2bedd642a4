/* SPDX-License-Identifier: Apache-2.0
 *
 * cache_recover.pml - what a recoverer does with the cache of cache.pml and the buffers of dead
 * members: recover_thieves, sweep and member_take_slot.
 */
#define IN_DEAD(t) ((t) < 8 && ((dead_tags >> (t)) & 1))
#define MAY_START (VICTIM(0) || VICTIM(1) || (VICTIM(5 - me) && pc[5 - me] >= STORES) || RETRY)
#define RETRY (again && (thief == 0 || thief == REQUESTED || GONE(thief % 8)))

inline thieves()
{
	if :: IN_DEAD(thief) -> next(recover_thieves_cas) :: else -> next(sweep_look) fi
}

inline finish()
{
	if :: IN_DEAD(1) && identity[0] != 0 -> next(recover_finish_cas) :: else -> next(recover_finish_identity) fi
}

inline sweep_next()
{
	b++;
	if :: b == BUFFERS -> b = 0; finish() :: else -> next(sweep_look) fi
}

proctype Recoverer(byte me)
{
	byte tag = me + 1, seen, bottom, length, got, b, dead_tags;
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
			:: IN_DEAD(thief) -> thief = tag; next(recover_thieves_barrier)
#else
			:: IN_DEAD(thief) -> thief = REQUESTED; next(sweep_look)
#endif
			:: else -> next(sweep_look)
			fi
#ifdef MUTATE_PURGE_FROM_OUTSIDE /* the recoverer drops what the thief had taken */
		:: pc[me] == recover_thieves_barrier ->
			drain();
			next(steal_from_top)
		:: pc[me] == steal_from_top ->
			measure(purge_entry);
			if :: length == 0 -> next(recover_thieves_done) :: else fi
		:: pc[me] == purge_entry -> /* drops what the victim does not own any more */
			h = cache[(bottom + got) % CACHE];
			if
			:: owner[h % 8] != 1 || generation[h % 8] != h / 8 -> got++
			:: else -> length = got
			fi;
			if :: got == length -> next(recover_thieves_stolen) :: else fi
		:: pc[me] == recover_thieves_stolen ->
			stolen = bottom + got;
			next(recover_thieves_done)
		:: pc[me] == recover_thieves_done ->
			thief = REQUESTED;
			bottom = 0; length = 0; got = 0;
			next(sweep_look)
#endif
		:: pc[me] == sweep_look ->
			if
			:: IN_DEAD(owner[b]) -> seen = owner[b]; next(recover_sweep_cas)
			:: else -> sweep_next()
			fi
		:: pc[me] == recover_sweep_cas ->
			if
			:: owner[b] == seen ->
				assert(GONE(real[b] % 64) || (real[b] == IN_CACHE && GONE(1)));
				owner[b] = tag;
				real[b] = tag;
				next(recover_sweep_generation)
			:: else -> sweep_next()
			fi;
			seen = 0
		:: pc[me] == recover_sweep_generation ->
			generation[b]++;
			next(recover_settle)
		:: pc[me] == recover_settle ->
			owner[b] = FREE;
			real[b] = FREE;
			sweep_next()
		:: pc[me] == recover_finish_cas ->
			if
			:: thief == 0 || thief == REQUESTED || IN_DEAD(thief) -> thief = tag; next(recover_finish_cache)
			:: else -> again = 1; next(recover_finish_identity)
			fi
		:: pc[me] == recover_finish_cache ->
			if :: identity[0] != 0 -> stolen = top :: else fi;
			next(recover_finish_thief)
		:: pc[me] == recover_finish_thief ->
			identity[0] = 0;
			thief = 0;
			next(recover_finish_identity)
		:: pc[me] == recover_finish_identity -> /* of members without a cache */
			if :: IN_DEAD(2) -> identity[1] = 0 :: else fi;
			dead_tags = 0;
			next(at_rest)
		fi;
		h = 0
	   }
	:: atomic {
		pc[me] == dead && dead_tags ->
		seen = 0; bottom = 0; length = 0; got = 0; b = 0; dead_tags = 0; again = 0
	   }
	od
}
