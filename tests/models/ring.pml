/* SPDX-License-Identifier: Apache-2.0
 *
 * ring.pml - the shared words, and the steps of alf_queue.h and transfer.h.
 *
 * A member is a state machine. Its pc names the C function and the next step in it. One step is one
 * load, one store or one compare-and-swap on a shared word. The work on the member's own variables
 * that follows is part of the step. Memory is sequentially consistent.
 *
 * A crash: a dead process makes no further step, and no other process knows of its death before
 * recover_mark() asks the kernel. Until then a dead process is the same as a suspended one. So a
 * process runs until a recoverer kills it (kill() below). Steps from STORES on write. A load leaves
 * nothing behind: a crash before a load is the same as one before the next store. So a process is
 * killed only before a store, or at rest.
 *
 * Ghosts (gone, crashes, real, delivered) record facts for the assertions. The C code learns of
 * gone only from the kernel.
 *
 * MERGED 1: consecutive loads of a call are one step, and so are those of recover_mark() and
 * recovery_read_ops(), so that models with more members can be searched completely.
 *
 * The including model sets SIZE, BUFFERS, MEMBERS, CRASHES, MULTI_PRODUCER, MULTI_CONSUMER.
 */
#include "steps.pml"

#ifndef MERGED
#define MERGED 0
#endif
#define NONE 255
#define TOMBSTONE 4

#define LAP(p) ((p) / SIZE)
#define WORD(p, v) (LAP(p) * 8 + (v))
#define PUBLISHED(w, p) ((w) / 8 == LAP(p) && (w) % 8 < TOMBSTONE)
#define IS_TOMBSTONE(w, p) ((w) == WORD(p, TOMBSTONE))
#define PENDING(w, p) ((w) / 8 == LAP(p) - 1)

/* Owner words: a member's tag, or TRANSIT. A tag is the member's number + 1, and + 8 for the second
 * member of the slot. */
#define TRANSIT(p) (128 + (p))
#define IS_TRANSIT(o) ((o) >= 128 && (o) < NONE)
#define FREE 127      /* settled */
#define IN_RING 126   /* ghost: published, not claimed */
#define ABANDONED 125 /* no owner: any recoverer takes it */
#define BIT(t) (1 << (t))
#define GONE(t) ((gone >> (t)) & 1)
#define DEAD 32 /* in identity: the tag, with DEAD once recover_mark() has marked it */

#define ENQUEUE 1
#define DEQUEUE 2
#define PUBLISH 3 /* an enqueue; its positions are reserved, with certainty */
#define OP(kind, n, p) ((kind) * 64 + ((n) - 1) * 16 + (p))
#define KIND(o) ((o) / 64)
#define POSITION(o) ((o) % 16)
#define COUNT(o) ((o) / 16 % 4 + 1)
#define COVERS(o, kind, p)                                                                         \
	((KIND(o) == (kind) || (KIND(o) == PUBLISH && (kind) == ENQUEUE)) && POSITION(o) <= (p) && \
	 (p) < POSITION(o) + COUNT(o))

byte prod = SIZE, cons = SIZE;
byte slot[SIZE];
byte owner[BUFFERS];
byte op[MEMBERS];
byte identity[MEMBERS];
byte holder[MEMBERS];
byte producer, consumer; /* role words */

byte pc[MEMBERS];
short gone;          /* tags whose processes have died */
byte crashes;
byte real[BUFFERS];  /* tag of its owner, IN_RING or FREE */
byte delivered;      /* by bit: which buffers of the first producer's bulk were claimed */

typedef Own {
	byte at, k, n, span, h[2]
}
Own my[MEMBERS]; /* variables of producers and consumers */
hidden byte seen;

#define VICTIM(v) (crashes < CRASHES && (pc[v] >= STORES || pc[v] == at_rest))

inline kill(v)
{
	crashes++;
	gone = gone | BIT(identity[v]);
	pc[v] = dead;
	my[v].at = 0;
	my[v].k = 0;
	my[v].n = 0;
	my[v].span = 0;
	my[v].h[0] = 0;
	my[v].h[1] = 0
}

#ifdef TRACE /* what pan -r prints of a counterexample, one line a step */
#define SHOW(step)                                                                                 \
	printf("@%d %d %d prod %d cons %d slots %d %d owners %d %d %d ops %d %d %d\n", me, pc[me], step, \
	       prod, cons, slot[0], slot[1], owner[0], owner[1], owner[BUFFERS - 1], op[0], op[1], op[2]);
#else
#define SHOW(step)
#endif
inline next(step)
{
	SHOW(step)
	pc[me] = step
}

/* Whether the op record says PUBLISH: before the first owner word, or (mutation) after the first
 * slot. */
#ifdef MUTATE_PUBLISHING_LATE
#define PUBLISHING(m) false
#define PUBLISHED_FIRST(m) (MULTI_PRODUCER && my[m].n > 1 && my[m].k == 1)
#else
#define PUBLISHING(m) (MULTI_PRODUCER && my[m].n > 1)
#define PUBLISHED_FIRST(m) false
#endif

/* The step that follows a reservation, a published bulk and a claim. Mutations reverse the order. */
#ifdef MUTATE_OP_AFTER_CAS
#define RESERVE_FIRST alf_reserve_cas
#define RESERVED alf_reserve_op_late
#else
#define RESERVE_FIRST (MULTI_PRODUCER -> alf_reserve_op : alf_reserve_cas)
#define RESERVED (PUBLISHING(me) -> alf_publishing : TRANSFER_FIRST)
#endif
#ifdef MUTATE_OWNER_AFTER_PUBLISH
#define TRANSFER_FIRST alf_publish
#define MARKED alf_done_in
#define FILLED transfer_in_owner
#else
#define TRANSFER_FIRST transfer_in_owner
#define MARKED alf_publish
#define FILLED alf_done_in
#endif
#ifdef MUTATE_DONE_BEFORE_OWNER
#define CLAIMED (MULTI_CONSUMER -> alf_done_out : transfer_out_owner)
#define TAKEN at_rest
#else
#define CLAIMED transfer_out_owner
#define TAKEN (MULTI_CONSUMER -> alf_done_out : at_rest)
#endif

#define PUT_FIRST (MULTI_PRODUCER -> alf_reserve_prod : role_take_producer)
#define GET_FIRST (MULTI_CONSUMER -> alf_claim_cons : role_take_consumer)

/* Puts h[0..n). Begins at PUT_FIRST; ends finished, or at_rest if the ring was full. */
inline transfer_in()
{
	if
	:: pc[me] == role_take_producer ->
		if :: producer == 0 || producer == tag -> producer = tag; next(alf_reserve_prod) :: else -> next(at_rest) fi
	:: pc[me] == queue_release ->
		producer = 0;
		next(finished)
	:: pc[me] == alf_reserve_prod ->
		my[me].at = prod;
#if MERGED
		if
		:: cons + SIZE - my[me].at >= my[me].n -> next(RESERVE_FIRST)
		:: else -> my[me].at = NONE; next(alf_done_in)
		fi
#else
		next(alf_reserve_cons)
#endif
	:: pc[me] == alf_reserve_cons ->
		if
		:: cons + SIZE - my[me].at >= my[me].n -> next(RESERVE_FIRST)
		:: else -> next((MULTI_PRODUCER -> alf_reserve_again : alf_done_in))
		fi;
		if :: pc[me] == alf_done_in -> my[me].at = NONE :: else fi
	:: pc[me] == alf_reserve_again ->
		if
		:: prod == my[me].at -> my[me].at = NONE; next(alf_done_in)
		:: else -> my[me].at = prod; next(alf_reserve_cons)
		fi
	:: pc[me] == alf_reserve_op ->
		op[me] = OP(ENQUEUE, my[me].n, my[me].at);
		next(alf_reserve_cas)
	:: pc[me] == alf_reserve_cas ->
		if
		:: !MULTI_PRODUCER || prod == my[me].at -> prod = my[me].at + my[me].n; next(RESERVED)
		:: else -> next(alf_reserve_prod)
		fi;
		my[me].k = 0
	:: pc[me] == alf_reserve_op_late ->
		op[me] = OP(ENQUEUE, my[me].n, my[me].at);
		next(TRANSFER_FIRST)
	:: pc[me] == alf_publishing ->
		op[me] = OP(PUBLISH, my[me].n, my[me].at);
		next((my[me].k -> alf_publish : TRANSFER_FIRST))
	:: pc[me] == transfer_in_owner ->
		owner[my[me].h[my[me].k]] = TRANSIT(my[me].at + my[me].k);
		my[me].k++;
		if :: my[me].k == my[me].n -> my[me].k = 0; next(MARKED) :: else fi
	:: pc[me] == alf_publish -> /* the first slot of a bulk is written last */
		my[me].k++;
		assert(PENDING(slot[(my[me].at + my[me].n - my[me].k) % SIZE], my[me].at + my[me].n - my[me].k));
		slot[(my[me].at + my[me].n - my[me].k) % SIZE] = WORD(my[me].at + my[me].n - my[me].k, my[me].h[my[me].n - my[me].k]);
		real[my[me].h[my[me].n - my[me].k]] = IN_RING;
		if
		:: my[me].k == my[me].n -> my[me].k = 0; next(FILLED)
		:: my[me].k < my[me].n && PUBLISHED_FIRST(me) -> next(alf_publishing)
		:: else
		fi
	:: pc[me] == alf_done_in ->
		if :: MULTI_PRODUCER -> op[me] = 0 :: else fi;
		if :: my[me].at == NONE -> next(at_rest) :: else -> next((MULTI_PRODUCER -> finished : queue_release)); my[me].h[0] = 0; my[me].h[1] = 0; my[me].n = 0 fi;
		my[me].at = 0
	fi
}

/* Ghost: a claimed buffer was in the ring. Buffers of one producer are claimed in its order, and of
 * a bulk all or none. */
inline claimed(b)
{
	assert(real[b] == IN_RING);
	real[b] = tag;
	if
	:: N0 == 2 && b < 2 ->
		delivered = delivered | BIT(b);
		assert(b == 0 || delivered & 1);
		assert((delivered >> (1 - b)) & 1 || real[1 - b] == IN_RING)
	:: else
	fi
}

/* With MERGED, alf_read in one step: all slots at once. */
inline read_all()
{
	do
	:: my[me].k == 0 && my[me].n < 2 && my[me].span < SIZE ->
		seen = slot[(my[me].at + my[me].span) % SIZE];
		if
		:: PUBLISHED(seen, my[me].at + my[me].span) -> my[me].h[my[me].n] = seen % 8; my[me].n++; my[me].span++
		:: IS_TOMBSTONE(seen, my[me].at + my[me].span) -> my[me].span++
		:: else -> my[me].k = 1
		fi;
		seen = 0
	:: else -> break
	od;
	my[me].k = 0;
	if
	:: my[me].span == 0 -> next((MULTI_CONSUMER -> alf_done_out : at_rest))
	:: else -> next((MULTI_CONSUMER -> alf_claim_op : alf_claim_cas))
	fi
}

/* Takes up to 2. Begins at GET_FIRST, ends at_rest. */
inline transfer_out()
{
	if
	:: pc[me] == role_take_consumer ->
		if :: consumer == 0 || consumer == tag -> consumer = tag; next(alf_claim_cons) :: else -> next(at_rest) fi
	:: pc[me] == alf_claim_cons ->
		my[me].at = cons;
		my[me].span = 0;
		my[me].n = 0;
#if MERGED
		read_all()
	:: pc[me] == alf_read -> read_all()
#else
		next(alf_read)
	:: pc[me] == alf_read -> /* alf_read_each: one slot a step, stepping over tombstones */
		seen = slot[(my[me].at + my[me].span) % SIZE];
		if
		:: PUBLISHED(seen, my[me].at + my[me].span) -> my[me].h[my[me].n] = seen % 8; my[me].n++; my[me].span++
		:: IS_TOMBSTONE(seen, my[me].at + my[me].span) -> my[me].span++
		:: else -> my[me].k = 1
		fi;
		seen = 0;
		if
		:: my[me].k || my[me].n == 2 || my[me].span == SIZE ->
			my[me].k = 0;
			if
			:: my[me].span == 0 -> next((MULTI_CONSUMER -> alf_claim_again : at_rest))
			:: else -> next((MULTI_CONSUMER -> alf_claim_op : alf_claim_cas))
			fi
		:: else
		fi
#endif
	:: pc[me] == alf_claim_again ->
		if :: cons == my[me].at -> next(alf_done_out) :: else -> my[me].at = cons; next(alf_read) fi
	:: pc[me] == alf_claim_op ->
		op[me] = OP(DEQUEUE, my[me].span, my[me].at);
		next(alf_claim_cas)
	:: pc[me] == alf_claim_cas ->
		if
		:: !MULTI_CONSUMER || cons == my[me].at ->
			cons = my[me].at + my[me].span;
			if :: my[me].n > 0 -> claimed(my[me].h[0]) :: else fi;
			if :: my[me].n > 1 -> claimed(my[me].h[1]) :: else fi;
			if :: my[me].n > 0 -> next(CLAIMED) :: else -> my[me].at = my[me].at + my[me].span; next(alf_read) fi
		:: else -> my[me].n = 0; my[me].h[0] = 0; my[me].h[1] = 0; next(alf_claim_cons)
		fi;
		my[me].span = 0
	:: pc[me] == transfer_out_owner ->
		owner[my[me].h[my[me].k]] = tag;
		my[me].h[my[me].k] = 0;
		my[me].k++;
		if :: my[me].k == my[me].n -> my[me].k = 0; my[me].n = 0; my[me].at = 0; next(TAKEN) :: else fi
	:: pc[me] == alf_done_out ->
		op[me] = 0;
#ifdef MUTATE_DONE_BEFORE_OWNER
		if :: my[me].n > 0 -> next(transfer_out_owner) :: else -> next(at_rest) fi
#else
		next(at_rest)
#endif
		;
		if :: my[me].n == 0 -> my[me].at = 0 :: else fi
	fi
}
