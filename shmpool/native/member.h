/* SPDX-License-Identifier: Apache-2.0
 *
 * member.h - members of a pool: one for each thread that has attached.
 *
 * member_attach may be called by anybody at any time; member_release only by a thread of the
 * member's own process, when the member's cache is empty and it holds nothing; member_take_slot and
 * member_vacate by whoever has recovered a dead one (recover.h).
 *
 * An identity is | state 2 | token 62 |, or 0 for a free slot:
 *
 *     ATTACHED  a member of the process that holds the token (token.h)
 *     DEAD      somebody has seen that the token is free; until it is recovered
 *     CLEARING  all but the slot has been recovered; the holder of this token resets it
 *
 *     from -> to            by                               if that one is killed here
 *     0 -> ATTACHED         the member                       it is a dead member with nothing
 *     ATTACHED -> 0         the member, its thread's end     the same
 *     ATTACHED -> DEAD      anybody who saw its token free   nothing else has changed
 *     DEAD -> CLEARING      a recoverer, at the end          CLEARING -> DEAD by the next one
 *     CLEARING -> DEAD      anybody who saw its token free
 *     CLEARING -> 0         that recoverer
 *     CLEARING -> ATTACHED  that recoverer, for itself       it is a dead member with nothing
 *
 * A token names one opening of a pool by one process and is never handed out twice, so an identity
 * that is dead or being cleared never comes back.
 *
 * Ordering
 *     [MEMBER]  identity: a member takes a free slot by compare-and-swap, and stores zero with
 *               release when it is done with all that the slot holds. The next member, and everybody
 *               who looks for dead members, reads it with acquire.
 *     [BARRIER]  barrier: the owner stores it with release once its process is registered for
 *                membarrier(2). A thief that reads it as nonzero may steal from the cache.
 *     [CLEARED]  cleared, and then tag: stored with release by the one that takes the slot. A
 *                recoverer that reads cleared as zero, and the same dead identity before and after,
 *                has read the tag and op record of that member. If it reads the next tag, it reads
 *                cleared as nonzero.
 */
#ifndef SHMPOOL_MEMBER_H
#define SHMPOOL_MEMBER_H

#include "cache.h"
#include "process.h"
#include "token.h"

#define MEMBER_ATTACHED (1ull << TOKEN_BITS)
#define MEMBER_DEAD (2ull << TOKEN_BITS)
#define MEMBER_CLEARING (3ull << TOKEN_BITS)
#define MEMBER_STATE_MASK (3ull << TOKEN_BITS)

static inline uint64_t member_token(uint64_t identity)
{
	return identity & ~MEMBER_STATE_MASK;
}

static inline bool member_attached(uint64_t identity)
{
	return (identity & MEMBER_STATE_MASK) == MEMBER_ATTACHED;
}

static inline bool member_dead(uint64_t identity)
{
	return (identity & MEMBER_STATE_MASK) == MEMBER_DEAD;
}

static inline bool member_clearing(uint64_t identity)
{
	return (identity & MEMBER_STATE_MASK) == MEMBER_CLEARING;
}

/* Whether the member is dead: what its cache lists is not all its own any more. */
static inline bool member_gone(uint64_t identity)
{
	return identity >= MEMBER_DEAD;
}

/* The same member once its token is known to be free. */
static inline uint64_t member_as_dead(uint64_t identity)
{
	return MEMBER_DEAD | member_token(identity);
}

/* How many of the slot's members died before the one that has the tag. */
static inline uint32_t member_epoch(uint32_t tag)
{
	return tag >> TAG_NUMBER_BITS;
}

/* The calling thread takes a slot for a process that holds the token. -EUSERS if all are taken. */
int member_attach(const struct segment *s, uint64_t token, struct member **out);

/* Releases all single-producer and single-consumer roles of m. */
void member_release_roles(const struct segment *s, const struct member *m);

/* Gives the slot back. Who is killed in the middle of it leaves something that the next one begins
 * anew. */
void member_release(const struct segment *s, struct member *m);

/* Resets the slot of a dead member of which nothing else is left. It is then the token holder's to
 * vacate or to use. 0; -EAGAIN if a live member is at its cache; -ESTALE if somebody else has done
 * it. */
int member_take_slot(const struct segment *s, struct member *m, uint64_t dead, uint64_t token,
		     bool (*alive)(void *context, uint32_t tag), void *context);
void member_vacate(struct member *m);
void member_use_slot(struct member *m, uint64_t token);

/* What the slot has counted in all its lives. Allocations from the local cache are counted by what
 * was pushed and is not there any more; what passes the cache for other reasons is taken off again.
 * In the middle of a pop or a push that count can be too high by as many as are moved, never too
 * low. */
static inline uint64_t member_count(const struct member *m, int counter)
{
	uint64_t n = load_relaxed(&m->counters[counter]);
	if (counter == COUNT_ALLOC)
		n += load_relaxed(&m->cache_pushed) - load_relaxed(&m->cache_top);
	if (counter == COUNT_FREE)
		n += load_relaxed(&m->cache_pushed);
	return n;
}

/* What the member has counted in this one. */
static inline uint64_t member_counted(const struct member *m, int counter)
{
	return member_count(m, counter) - load_relaxed(&m->base[counter]);
}

/* How many buffers the member has in hand, its local cache not counted. */
static inline uint64_t member_in_hand(const struct member *m)
{
	/* What was pushed counts in both and is left out: it may grow between two looks. */
	uint64_t allocated = load_relaxed(&m->counters[COUNT_ALLOC]) -
			     load_relaxed(&m->base[COUNT_ALLOC]) - load_relaxed(&m->cache_top);
	uint64_t freed =
		load_relaxed(&m->counters[COUNT_FREE]) - load_relaxed(&m->base[COUNT_FREE]);
	return (cache_position)(allocated + member_counted(m, COUNT_DEQUEUE) +
				member_counted(m, COUNT_ADOPT) - freed -
				member_counted(m, COUNT_ENQUEUE) -
				load_seq_cst(&m->adopted)); /* [ENDED] */
}

#endif
