/* SPDX-License-Identifier: Apache-2.0
 *
 * topic.pml - a topic: publishers, subscribers, and recoverers, any of which may die before each of
 * its stores and compare-and-swaps. A step is one of these on a shared word, with the loads before
 * it that nobody can tell apart, or one load whose value is used in a later step.
 *
 * The steps are those of reserve(), evict() and topic_publish() in topic.c; of topic_subscribe(),
 * acquire(), lapped() and let_go() in topic_subscriber.c; and of recovery: sweep_unreserve(),
 * ranges_bury() with topic_evict_for(), sweep() with topic_forsaken(), topic_vacate().
 *
 *     PUBLISHERS  1 or 2, each of which publishes MESSAGES one by one
 *     JOINS       how often a process subscribes: one after the other, all by the same bit
 *     RECOVERERS  1 or 2
 *     CRASHES     at most
 *     SIZE        slots of the ring
 *     BUFFERS     all buffers: SIZE, one for each publisher, one for what is held
 */
#define NONE 15
#define FREE 0
#define OWNED(m) (1 + (m))
#define TRANSIT(p) (32 + (p))
#define IS_TRANSIT(o) ((o) >= 32)
#define POSITION(o) ((o) - 32)
#define MEMBERS 5 /* publishers 0 and 1, the subscriber's process 2, recoverers 3 and 4 */

/* A holders word: | state | position | bit |, or FINAL and the tag. */
#define PUBLISHED(p) (64 + 2 * (p))
#define HELD(p) (128 + 2 * (p))
#define FINAL(m) (192 + (m))
#define TAG_OF(l) (8 + (l)) /* of the subscriber's process */
#define IS_FINAL(w) ((w) >= 192)

/* A slot: | position | buffer |. */
#define WORD(p, b) (16 * (p) + (b))

byte prod = SIZE, barred;
byte slot[SIZE], hold[BUFFERS], owner[BUFFERS];
byte op[MEMBERS];               /* the position that may be reserved, 0 for none */
bit dead[MEMBERS], recovered[MEMBERS], ended[MEMBERS];
#define SUB_FREE 0
#define SUB_LIVE 1
#define SUB_DEAD 2
byte sub;                       /* state of the subscriber's bit */
byte joins = JOINS, crashes;
bit reader[BUFFERS];            /* ghost: the subscriber is reading it */
byte life;                      /* how many have subscribed: its token */

/* The process may die here. */
#define MAY_DIE(m)                                                                                 \
	if                                                                                         \
	:: atomic { crashes > 0 -> crashes--; dead[m] = 1; goto gone }                             \
	:: true                                                                                    \
	fi

inline take(b)
{
	assert(!reader[b])
}

proctype Publisher(byte me)
{
	byte n = MESSAGES, b, at, word, e, w;
	do
	:: n > 0 ->
		/* allocates */
		atomic {
			b = 0;
			do
			:: b < BUFFERS && owner[b] != FREE -> b++
			:: else -> break
			od;
			if
			:: b < BUFFERS -> take(b); owner[b] = OWNED(me)
			:: else -> goto over /* none is free */
			fi
		}
		/* reserve() */
again:	skip;
		d_step { at = prod; word = slot[at % SIZE] }
#ifndef MUTATE_RESERVED_UNPUBLISHED
		if
		:: word / 16 + SIZE != at -> if :: prod != at -> goto again :: prod == at && slot[at % SIZE] != word -> goto again fi
		:: else
		fi;
#endif
		MAY_DIE(me);
		op[me] = at;
		MAY_DIE(me);
		if
		:: atomic { prod == at -> prod++ }
		:: prod != at -> goto again
		fi;
		/* evict() */
		e = NONE;
		word = slot[at % SIZE];
		if
		:: word / 16 + SIZE == at && word % 16 != NONE ->
evicting:	skip;
			w = hold[word % 16];
			if
			:: (w & ~1) == PUBLISHED(at - SIZE) ->
				MAY_DIE(me);
				if
#ifdef MUTATE_EVICTED_ALTHOUGH_HELD
				:: atomic { hold[word % 16] == w -> hold[word % 16] = FINAL(me); e = word % 16 }
#else
				:: atomic { hold[word % 16] == w && w & 1 -> hold[word % 16] = HELD(at - SIZE) | 1 }
				:: atomic { hold[word % 16] == w && !(w & 1) -> hold[word % 16] = FINAL(me); e = word % 16 }
#endif
				:: hold[word % 16] != w -> goto evicting
				fi
			:: else
			fi
		:: else
		fi;
		if
		:: e != NONE -> MAY_DIE(me); owner[e] = OWNED(me)
		:: else
		fi;
		MAY_DIE(me);
		hold[b] = PUBLISHED(at);
		MAY_DIE(me);
		owner[b] = TRANSIT(at);
		MAY_DIE(me);
		slot[at % SIZE] = WORD(at, b);
		MAY_DIE(me);
		op[me] = 0;
		if
		:: e != NONE -> MAY_DIE(me); atomic { take(e); owner[e] = FREE }
		:: else
		fi;
		n--
	:: else -> break
	od;
over:
	ended[me] = 1;
gone:	skip
}

/* Subscribes, gets up to two messages, and may hold them when it dies. */
proctype Subscriber()
{
	byte c, word, w, b, k, me; /* me: its tag, another one in each life */
	do
	:: atomic { joins > 0 && sub == SUB_FREE -> joins--; sub = SUB_LIVE; life++;
		me = TAG_OF(life); dead[2] = 0; recovered[2] = 0 }
		d_step {
			c = (prod > 2 * SIZE -> prod - SIZE : SIZE);
#ifndef MUTATE_NOT_BARRED
			if :: c < barred -> c = barred :: else fi
#endif
		}
		k = 0;
		do
		:: k < 2 ->
			word = slot[c % SIZE];
			if
			:: word / 16 == c && word % 16 != NONE ->
				b = word % 16;
acquiring:	skip;
				w = hold[b];
				if
				:: w == PUBLISHED(c) ->
					if
					:: atomic { crashes > 0 -> crashes--; goto died }
					:: true
					fi;
					if
					:: atomic { hold[b] == w -> hold[b] = w | 1 }
					:: hold[b] != w -> goto acquiring
					fi;
					assert(owner[b] == TRANSIT(c));
					reader[b] = 1;
					if
					:: atomic { crashes > 0 -> crashes--; reader[b] = 0; goto died }
					:: true
					fi;
					reader[b] = 0;
letting_go:	skip;
					w = hold[b];
					if
					:: w == (PUBLISHED(c) | 1) ->
						if
						:: atomic { hold[b] == w -> hold[b] = w - 1 }
						:: hold[b] != w -> goto letting_go
						fi
					:: w == (HELD(c) | 1) ->
						if
						:: atomic { hold[b] == w -> hold[b] = FINAL(me) }
						:: hold[b] != w -> goto letting_go
						fi;
						if
						:: atomic { crashes > 0 -> crashes--; goto died }
						:: true
						fi;
						owner[b] = OWNED(me);
						if
						:: atomic { crashes > 0 -> crashes--; goto died }
						:: true
						fi;
						atomic { take(b); owner[b] = FREE }
					:: else -> assert(false) /* the bit is gone while it is held */
					fi
				:: else /* evicted */
				fi;
				c++
			:: word / 16 == c -> c++
			:: word / 16 > c -> c++
			:: else -> break
			fi;
			k++
		:: else -> break
		od;
		sub = SUB_FREE
	:: atomic { joins == 0 -> break }
	:: atomic { false ->
died:
		dead[2] = 1 }
	od;
	ended[2] = 1
}

#define LEFT ((dead[0] && !recovered[0]) || (dead[1] && !recovered[1]) || (dead[2] && !recovered[2]) || (dead[3] && !recovered[3]))

/* Only the first recoverer dies: the other one recovers it. */
#define DIE_RECOVERING                                                                             \
	if                                                                                         \
	:: atomic { me == 3 && crashes > 0 -> crashes--; dead[me] = 1; goto gone }                 \
	:: true                                                                                    \
	fi

/* topic_vacate(), which compares a subscriber's state with its token: of a later one that has died
 * since, the sweep may have left a bit. */
#ifdef MUTATE_VACATED_ANY
#define SAME_DEAD (sub == SUB_DEAD)
#else
#define SAME_DEAD (sub == SUB_DEAD && life == gone_life)
#endif
inline vacate()
{
	if
	:: gone_sub && SAME_DEAD ->
		if :: atomic { barred < prod -> barred = prod } :: else fi;
		DIE_RECOVERING;
		if :: atomic { SAME_DEAD -> sub = SUB_FREE } :: else fi
	:: else
	fi
}

#define IS_DEAD(t) (((t) < 4 && is[((t) < 4 -> (t) : 0)] && (t) != 2) || ((t) > 8 && (t) <= TAG_OF(last)))

proctype Recoverer(byte me)
{
	byte b, o, w, i, word, p, last; /* last: of the subscriber's lives that have ended by death */
	byte seen_op[2];
	byte gone_life; /* of the subscriber that it has found dead */
	bit gone_sub, postponed, is[3 + 1];
end:
	do
	:: d_step { LEFT && !dead[me] ->
		is[0] = dead[0] && !recovered[0];
		is[1] = dead[1] && !recovered[1];
		is[2] = dead[2] && !recovered[2];
		is[3] = dead[3] && !recovered[3] && me == 4;
		seen_op[0] = op[0];
		seen_op[1] = op[1];
		last = (is[2] -> life : 0);
		gone_sub = 0;
		postponed = 0 }
		/* subscribers_mark() */
		if
		:: atomic { is[2] && dead[2] && sub == SUB_LIVE -> sub = SUB_DEAD; gone_sub = 1; gone_life = life }
		:: atomic { is[2] && sub == SUB_DEAD -> gone_sub = 1; gone_life = life }
		:: else
		fi;
#ifdef MUTATE_VACATED_FIRST
		vacate();
#endif
		/* sweep_unreserve(), then ranges_bury() */
		i = 0;
		do
		:: i < 2 ->
			p = seen_op[i];
			if
			:: is[i] && p && p < prod ->
				b = 0;
				do
				:: b < BUFFERS ->
					d_step { o = owner[b]; word = slot[p % SIZE] }
					if
					:: o == TRANSIT(p) && word / 16 + SIZE <= p || (o == TRANSIT(p) && word == WORD(p, NONE)) ->
						if
						:: atomic { op[1 - i] == p && !is[1 - i] -> postponed = 1 }
						:: else ->
							if
							:: atomic { owner[b] == o && slot[p % SIZE] == word ->
								take(b); owner[b] = FREE }
							:: else
							fi
						fi
					:: else
					fi;
					b++
				:: else -> break
				od;
				word = slot[p % SIZE];
				if
				:: word / 16 + SIZE == p && op[1 - i] == p && !is[1 - i] -> postponed = 1
				:: word / 16 + SIZE == p && !(op[1 - i] == p && !is[1 - i]) ->
#ifdef MUTATE_TOMBSTONE_FIRST
					if :: atomic { slot[p % SIZE] == word -> slot[p % SIZE] = WORD(p, NONE) } :: else fi;
					DIE_RECOVERING;
#endif
#ifndef MUTATE_NOT_EVICTED_FOR
					b = word % 16;
					if
					:: b != NONE ->
						w = hold[b];
						if
						:: (w & ~1) == PUBLISHED(p - SIZE) && owner[b] == TRANSIT(p - SIZE) ->
							DIE_RECOVERING;
							if
							:: atomic { hold[b] == w -> hold[b] = HELD(p - SIZE) | (w & 1) }
							:: else -> postponed = 1 /* a bit has changed: reads it again */
							fi
						:: else
						fi
					:: else
					fi;
#endif
					DIE_RECOVERING;
					if
					:: atomic { !postponed && slot[p % SIZE] == word -> slot[p % SIZE] = WORD(p, NONE) }
					:: else
					fi
				:: else
				fi
			:: else
			fi;
			i++
		:: else -> break
		od;
		/* sweep() */
		b = 0;
		do
		:: b < BUFFERS ->
			o = owner[b];
			if
			:: o > 0 && !IS_TRANSIT(o) && IS_DEAD(o - 1) ->
				DIE_RECOVERING;
				if :: atomic { owner[b] == o -> take(b); owner[b] = FREE } :: else fi
			:: IS_TRANSIT(o) ->
				w = hold[b];
				if
				:: IS_FINAL(w) && IS_DEAD(w - 192) ->
#ifndef MUTATE_FINAL_NOT_TAKEN
					DIE_RECOVERING;
					if :: atomic { owner[b] == o -> take(b); owner[b] = FREE } :: else fi
#endif
				:: !IS_FINAL(w) && ((w & ~1) == PUBLISHED(POSITION(o)) || (w & ~1) == HELD(POSITION(o))) ->
#ifdef MUTATE_NOT_STILL_DEAD
					if
					:: w & 1 && gone_sub ->
#else
					if
					:: w & 1 && gone_sub && sub == SUB_DEAD ->
#endif
						DIE_RECOVERING;
						if
						:: atomic { hold[b] == w -> hold[b] = w - 1; w = w - 1 }
						:: else -> postponed = 1
						fi
					:: else
					fi;
					if
					:: w == HELD(POSITION(o)) ->
						DIE_RECOVERING;
						if :: atomic { owner[b] == o -> take(b); owner[b] = FREE } :: else fi
					:: else
					fi
				:: else
				fi
			:: else
			fi;
			b++
		:: else -> break
		od;
		if
		:: !postponed ->
#ifndef MUTATE_VACATED_FIRST
			vacate();
#endif
			d_step {
				if :: is[0] -> recovered[0] = 1; op[0] = 0 :: else fi;
				if :: is[1] -> recovered[1] = 1; op[1] = 0 :: else fi;
				if :: is[2] && dead[2] && life == last && sub == SUB_FREE -> recovered[2] = 1 :: else fi;
				if :: is[3] -> recovered[3] = 1 :: else fi
			}
		:: else
		fi
	od;
gone:	skip
}

proctype Monitor()
{
	byte b, n;
	bit all;
end:	atomic {
		timeout && !LEFT ->
		do
		:: b < BUFFERS ->
			assert(!reader[b]);
			assert(owner[b] == FREE || IS_TRANSIT(owner[b]));
			if
			:: IS_TRANSIT(owner[b]) ->
				assert(hold[b] == PUBLISHED(POSITION(owner[b])));
				assert(slot[POSITION(owner[b]) % SIZE] == WORD(POSITION(owner[b]), b))
			:: else
			fi;
			b++
		:: else -> break
		od;
		b = 0;
		do
		:: b < SIZE ->
			n = slot[b] % 16;
			assert(n == NONE || owner[n] == TRANSIT(slot[b] / 16));
			b++
		:: else -> break
		od;
		assert(sub == SUB_FREE)
	}
}

init {
	atomic {
		byte i = 0;
		do
		:: i < SIZE -> slot[i] = WORD(i, NONE); i++
		:: else -> break
		od;
		crashes = CRASHES;
		run Publisher(0);
		if :: PUBLISHERS > 1 -> run Publisher(1) :: else -> ended[1] = 1 fi;
		run Subscriber();
		run Recoverer(4);
		if :: RECOVERERS > 1 -> run Recoverer(3) :: else fi;
		run Monitor()
	}
}
