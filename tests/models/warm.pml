/* SPDX-License-Identifier: Apache-2.0
 *
 * warm.pml - free buffers in two rings, the free ring and the warm ring: members that allocate and
 * free, take what lies behind a suspended member, and may die before each of their stores and
 * compare-and-swaps; and recoverers. A step is one of these on a shared word, with the loads before
 * it that nobody can tell apart, or one load whose value is used in a later step.
 *
 * The steps are those of free_ring_take() and free_ring_put() with side_take() and side_put(); of
 * transfer_in() and transfer_any(); of bypass_take() and bypass_check_claim(); and of recovery:
 * sweep_unreserve(), ranges_bury(), sweep().
 *
 *     ROUNDS, OTHER_ROUNDS
 *                 how often each of two members allocates a buffer and frees it
 *     BUFFERS     all buffers
 *     WARM_SIZE   slots of the warm ring
 *     RECOVERERS  1 or 2; of two the first one may die
 *     CRASHES     at most
 *     CHOICE      1: a member may put into the free ring although the warm ring has room
 */
#define COLD 0
#define WARM 1
#define COLD_SIZE 4 /* more than buffers and tombstones */
#define SIZE(r) ((r) == COLD -> COLD_SIZE : WARM_SIZE)
#define AT(r, p) ((r) * COLD_SIZE + (p) % SIZE(r))
#define MEMBERS 4 /* 2 and 3 recover */
#define NONE 15

/* A slot: | position | buffer, NONE for a tombstone |. */
#define WORD(p, b) (16 * (p) + (b))

#define OWNED(m) (1 + (m))
#define ABANDONED 8
#define TRANSIT(r, p) (32 + 16 * (r) + (p))
#define IS_TRANSIT(o) ((o) >= 32)
#define RING(o) (((o) - 32) / 16)
#define POSITION(o) (((o) - 32) % 16)

#define ENQUEUE 1
#define DEQUEUE 2
#define OP(kind, r, p) (32 * (kind) + 16 * (r) + (p))
#define KIND(op) ((op) / 32)
#define OP_RING(op) ((op) / 16 % 2)
#define OP_POSITION(op) ((op) % 16)

byte prod[2], cons[2], limit[2]; /* limit: bypassed, 0 for none */
byte slot[2 * COLD_SIZE];
byte owner[BUFFERS];
byte op[MEMBERS];
bit dead[MEMBERS], recovered[MEMBERS];
byte crashes;
byte has[BUFFERS]; /* ghost: 1 + the member that uses it, 0 for none */

#define MAY_DIE                                                                                    \
	if                                                                                         \
	:: atomic { crashes > 0 && me != 3 && (me < 2 || RECOVERERS > 1) ->                        \
		crashes--; dead[me] = 1; goto gone }                                               \
	:: true                                                                                    \
	fi

/* Notes that a member has a buffer: no live one has it. */
inline take(b)
{
	assert(has[b] == 0 || dead[has[b] - 1]);
	has[b] = 1 + me
}

/* The limit by which a claim from ring r is checked. */
#ifdef MUTATE_OTHER_LIMIT
#define LIMIT(r) limit[1 - (r)]
#else
#define LIMIT(r) limit[r]
#endif

/* The ring whose cons tells whether a buffer was claimed. */
#ifdef MUTATE_OTHER_CONS
#define CONS_OF(o) (1 - RING(o))
#else
#define CONS_OF(o) RING(o)
#endif
#ifdef MUTATE_OTHER_OP
#define OP_OF(o) (1 - RING(o))
#else
#define OP_OF(o) RING(o)
#endif

/* Takes a buffer from ring r: transfer_any(), bypass_check_claim(). */
inline take_from(r)
{
	do
	:: got == NONE ->
		d_step { p = cons[r]; w = slot[AT(r, p)] }
		if
		:: w / 16 != p -> break
		:: else
		fi;
		MAY_DIE;
		op[me] = OP(DEQUEUE, r, p);
		MAY_DIE;
		if
		:: atomic { cons[r] == p -> cons[r] = p + 1 }
		:: cons[r] != p -> w = WORD(p, NONE) /* lost: goes on as after a tombstone */
		fi;
		b = w % 16;
		if
		:: b == NONE
		:: b != NONE ->
			l = LIMIT(r);
			if
			:: p >= l -> MAY_DIE; atomic { owner[b] = OWNED(me); take(b); got = b }
			:: else ->
				o = owner[b];
				if
				:: o == TRANSIT(r, p) ->
					MAY_DIE;
					if
					:: atomic { owner[b] == o -> owner[b] = OWNED(me); take(b); got = b }
					:: owner[b] != o
					fi
				:: else /* a stale slot */
				fi
			fi
		fi;
		MAY_DIE;
		op[me] = 0
	:: else -> break
	od
}

/* Announces that slots of ring r may be stale, and reads which ones: open_window(). */
inline open_window(r)
{
#ifdef MUTATE_CONS_FIRST
	from[r] = cons[r];
#endif
	l = prod[r];
	MAY_DIE;
#ifndef MUTATE_NOT_ANNOUNCED
	atomic { if :: limit[r] < l -> limit[r] = l :: else fi };
#endif
	upto[r] = l;
#ifndef MUTATE_CONS_FIRST
	from[r] = cons[r]
#endif
}

/* Takes a buffer from behind a suspended member: bypass_take(). */
inline bypass()
{
	open_window(COLD);
	open_window(WARM);
	b = 0;
	do
	:: b < BUFFERS && got == NONE ->
		o = owner[b];
		if
		:: (o == ABANDONED || (IS_TRANSIT(o) && from[RING(o)] <= POSITION(o) &&
		    POSITION(o) < upto[RING(o)] &&
		    slot[AT(RING(o), POSITION(o))] == WORD(POSITION(o), b))) ->
			MAY_DIE;
			if
			:: atomic { owner[b] == o -> owner[b] = OWNED(me); take(b); got = b }
			:: owner[b] != o
			fi
		:: else
		fi;
		b++
	:: else -> break
	od;
	from[0] = 0; from[1] = 0; upto[0] = 0; upto[1] = 0
}

/* Puts the buffer `got` into ring r, unless that is full: transfer_in(). */
inline put_into(r)
{
	do
	:: got != NONE ->
		d_step { p = prod[r]; l = cons[r] }
		if
		:: p - l >= SIZE(r) -> break
		:: else
		fi;
		MAY_DIE;
		op[me] = OP(ENQUEUE, r, p);
		MAY_DIE;
		if
		:: atomic { prod[r] == p -> prod[r] = p + 1; assert(p < 15) }
		:: prod[r] != p -> lost = 1
		fi;
		if
		:: lost -> lost = 0
		:: else ->
			MAY_DIE;
			atomic { has[got] = 0; owner[got] = TRANSIT(r, p) };
			MAY_DIE;
			atomic { slot[AT(r, p)] = WORD(p, got); got = NONE }
		fi;
		MAY_DIE;
		op[me] = 0
	:: else -> break
	od
}

/* A trim puts into the free ring only. */
inline free_it()
{
	if
	:: put_into(WARM)
	:: CHOICE
	fi;
	put_into(COLD);
	assert(got == NONE)
}

proctype Member(byte me)
{
	byte n = (me == 0 -> ROUNDS : OTHER_ROUNDS), got = NONE, p, w, b, o, l, from[2], upto[2];
	bit lost;
	do
	:: n > 0 ->
		take_from(WARM);
		take_from(COLD);
		if
		:: got == NONE -> bypass()
		:: else
		fi;
		if
		:: got != NONE -> MAY_DIE; free_it()
		:: else
		fi;
		n--;
		d_step { p = 0; w = 0; b = 0; o = 0; l = 0 }
	:: else -> break
	od;
gone:	skip
}

#define TO_RECOVER(m) (dead[m] && !recovered[m])
#define LEFT                                                                                       \
	(TO_RECOVER(0) || TO_RECOVER(1) || TO_RECOVER(2) || owner[0] == ABANDONED ||               \
	 owner[BUFFERS - 1] == ABANDONED)

/* True if a member that this run does not know to be dead may have done the operation. */
#define LIVE_OP(x)                                                                                 \
	((op[0] == (x) && !is[0]) || (op[1] == (x) && !is[1]) || (op[2] == (x) && !is[2]) ||       \
	 (op[3] == (x) && !is[3]))

proctype Recoverer(byte me)
{
	byte got = NONE, p, w, b, o, l, i, r, seen_op[3], seen_cons[2];
	bit lost, postponed, is[MEMBERS];
end:
	do
	:: d_step { LEFT && (me == 2 || dead[2]) ->
		is[0] = TO_RECOVER(0);
		is[1] = TO_RECOVER(1);
		is[2] = TO_RECOVER(2);
		seen_op[0] = op[0];
		seen_op[1] = op[1];
		seen_op[2] = op[2];
		postponed = 0 }
		/* sweep_unreserve(), then ranges_bury() */
		i = 0;
		do
		:: i < 3 ->
			r = OP_RING(seen_op[i]);
			p = OP_POSITION(seen_op[i]);
			if
			:: is[i] && KIND(seen_op[i]) == ENQUEUE && p < prod[r] ->
				b = 0;
				do
				:: b < BUFFERS ->
					d_step { o = owner[b]; w = slot[AT(r, p)] }
					if
					:: o == TRANSIT(r, p) && (w / 16 + SIZE(r) == p || w == WORD(p, NONE)) ->
						if
						:: LIVE_OP(seen_op[i]) -> postponed = 1
						:: else ->
							if
							:: slot[AT(r, p)] == w ->
								MAY_DIE;
								if :: atomic { owner[b] == o -> owner[b] = ABANDONED } :: else fi
							:: else
							fi
						fi
					:: else
					fi;
					b++
				:: else -> break
				od;
				w = slot[AT(r, p)];
				if
				:: w / 16 + SIZE(r) == p ->
					if
					:: postponed || LIVE_OP(seen_op[i]) -> postponed = 1
					:: else ->
						MAY_DIE;
						if
						:: atomic { slot[AT(r, p)] == w -> slot[AT(r, p)] = WORD(p, NONE) }
						:: else
						fi
					fi
				:: else
				fi
			:: else
			fi;
			i++
		:: else -> break
		od;
		/* sweep() */
		seen_cons[COLD] = cons[COLD];
		seen_cons[WARM] = cons[WARM];
		b = 0;
		do
		:: b < BUFFERS ->
			o = owner[b];
			l = 0; /* 1: takes it */
			if
			:: o == ABANDONED || (o > 0 && o <= 3 && is[(o > 0 && o <= 3 -> o - 1 : 0)]) -> l = 1
			:: IS_TRANSIT(o) && POSITION(o) < seen_cons[(IS_TRANSIT(o) -> CONS_OF(o) : 0)] ->
				if
				:: LIVE_OP(OP(DEQUEUE, OP_OF(o), POSITION(o))) -> postponed = 1
				:: else -> l = 1
				fi
			:: else
			fi;
			if
			:: l ->
				MAY_DIE;
				if
				:: atomic { owner[b] == o -> owner[b] = OWNED(me); take(b); got = b }
				:: owner[b] != o -> b-- /* reads it again */
				fi;
				w = b;
				if
				:: got != NONE -> free_it()
				:: else
				fi;
				b = w
			:: else
			fi;
			b++
		:: else -> break
		od;
		skip; /* a break may not jump into a d_step */
		d_step {
			if
			:: !postponed ->
				if :: is[0] -> recovered[0] = 1; op[0] = 0 :: else fi;
				if :: is[1] -> recovered[1] = 1; op[1] = 0 :: else fi;
				if :: is[2] -> recovered[2] = 1; op[2] = 0 :: else fi
			:: else
			fi;
			is[0] = 0; is[1] = 0; is[2] = 0; seen_op[0] = 0; seen_op[1] = 0; seen_op[2] = 0;
			p = 0; w = 0; b = 0; o = 0; l = 0; i = 0; r = 0; seen_cons[0] = 0; seen_cons[1] = 0
		}
	od;
gone:	skip
}

/* Each buffer is published once, and can be taken. */
proctype Monitor()
{
	byte b;
end:	atomic {
		timeout && !LEFT ->
		do
		:: b < BUFFERS ->
			assert(has[b] == 0 || dead[has[b] - 1]);
			assert(IS_TRANSIT(owner[b]));
			assert(POSITION(owner[b]) >= cons[RING(owner[b])]);
			assert(slot[AT(RING(owner[b]), POSITION(owner[b]))] == WORD(POSITION(owner[b]), b));
			b++
		:: else -> break
		od
	}
}

init {
	atomic {
		byte i = 0;
		prod[COLD] = COLD_SIZE;
		cons[COLD] = COLD_SIZE;
		prod[WARM] = WARM_SIZE;
		cons[WARM] = WARM_SIZE;
		do
		:: i < COLD_SIZE -> slot[i] = WORD(i, NONE); slot[COLD_SIZE + i] = WORD(i, NONE); i++
		:: else -> break
		od;
		i = 0;
		do
		:: i < BUFFERS ->
			owner[i] = TRANSIT(COLD, prod[COLD]);
			slot[AT(COLD, prod[COLD])] = WORD(prod[COLD], i);
			prod[COLD]++;
			i++
		:: else -> break
		od;
		crashes = CRASHES;
		run Member(0);
		run Member(1);
		run Recoverer(2);
		if :: RECOVERERS > 1 -> run Recoverer(3) :: else fi;
		run Monitor()
	}
}
