/* SPDX-License-Identifier: Apache-2.0
 *
 * member.h - members of a pool: one for each thread that has attached.
 *
 *     member_attach      any thread at any time
 *     member_release     a thread of the member's own process, when its cache is empty and it
 *                        has no buffer
 *     member_take_slot   a recoverer of the dead member (recover.h)
 *     member_vacate,     the recoverer that has taken the slot
 *       member_use_slot
 *
 * A slot's identity is | state 2 | token 62 |, or 0:
 *
 *     state     meaning
 *     0         free
 *     ATTACHED  a member, of the process that has the token (token.h)
 *     DEAD      a dead member: its token was found free, or its socket was closed; in place of the
 *               token it has the number of the socket then (device.h)
 *     CLEARING  a dead member, recovered except for the slot, which the token's process resets
 *
 *     from -> to            by, in                            a crash then leaves; repaired by
 *     0 -> ATTACHED         the member, member_attach()       a dead member with nothing: recover()
 *     ATTACHED -> 0         a thread of its process,          nothing
 *                           member_release()
 *     ATTACHED -> DEAD      a recoverer, recover_mark(); the  nothing else has changed
 *                           owner, device_leave()
 *     DEAD -> CLEARING      a recoverer, member_take_slot()   CLEARING with a free token: the next
 *                                                             recoverer makes it DEAD
 *     CLEARING -> DEAD      a recoverer that finds its token  nothing else has changed
 *                           free; or the same one, because
 *                           of a thief, member_take_slot()
 *     CLEARING -> 0         the same one, member_vacate()     nothing
 *     CLEARING -> ATTACHED  the same one, member_use_slot()   a dead member with nothing: recover()
 *
 * A token names one opening of a pool by one process and is handed out once. Its process may be
 * several members after another in a slot, and clear the slot several times. But a DEAD identity
 * has the token of a process that is dead, or the number of a socket, and a socket is left once. So
 * an identity that is DEAD, or CLEARING with a free token, never comes back after its slot is free.
 *
 * Ordering
 *     [MEMBER]  identity: a member takes a free slot by compare-and-swap, and stores zero with
 *               release when it is done with all that the slot holds. The next member, and a
 *               recoverer, read it with acquire.
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

/* True if the member is dead: what its cache lists may be owned by others. */
static inline bool member_gone(uint64_t identity)
{
	return identity >= MEMBER_DEAD;
}

/* Returns the identity of the same member once its token is known to be free. */
static inline uint64_t member_as_dead(uint64_t identity)
{
	return MEMBER_DEAD | member_token(identity);
}

/* Returns how many of the slot's members died before the one that has the tag. */
static inline uint32_t member_epoch(uint32_t tag)
{
	return tag >> TAG_NUMBER_BITS;
}

/* Takes a slot for the calling thread, whose process has the token. Returns 0, or -EUSERS if all
 * slots are taken. */
int member_attach(const struct segment *s, uint64_t token, struct member **out);

/* True if a slot is free, or a dead member's that is not a socket's: a repeated attempt to attach
 * may succeed. */
bool member_room(const struct segment *s);

/* Releases all single-producer and single-consumer roles of m. */
void member_release_roles(const struct segment *s, const struct member *m);

/* Frees the slot. If the caller is killed in the middle, it is a dead member, and recovery resets
 * the slot again. */
void member_release(const struct segment *s, struct member *m);

/* Takes the slot of a dead member once all else of it is recovered, and resets it. The caller,
 * whose process has the token, then calls member_vacate() or member_use_slot(). alive tells whether
 * the member with a tag is alive. Returns 0; -EAGAIN if a live member has locked the dead one's
 * cache; -ESTALE if another recoverer has taken the slot. */
int member_take_slot(const struct segment *s, struct member *m, uint64_t dead, uint64_t token,
		     bool (*alive)(void *context, uint32_t tag), void *context);
void member_vacate(struct member *m);
void member_use_slot(struct member *m, uint64_t token);

/* Returns what all members of the slot have counted. Cache hits are not counted one by one:
 * cache_pushed - cache_top handles have been popped. What passes the cache for other reasons is
 * subtracted from the counter. In the middle of a pop or a push the result is too high by the
 * number of handles moved, never too low. */
static inline uint64_t member_count(const struct member *m, int counter)
{
	uint64_t n = load_relaxed(&m->counters[counter]);
	if (counter == COUNT_ALLOC)
		n += load_relaxed(&m->cache_pushed) - load_relaxed(&m->cache_top);
	if (counter == COUNT_FREE)
		n += load_relaxed(&m->cache_pushed);
	return n;
}

/* Returns what the slot's present member has counted. */
static inline uint64_t member_counted(const struct member *m, int counter)
{
	return member_count(m, counter) - load_relaxed(&m->base[counter]);
}

/* The same, of all its blocks: s and m are those of class 0. */
static inline uint64_t member_counted_all(const struct segment *s, const struct member *m,
					  int counter)
{
	uint64_t n = 0;
	for (uint32_t i = 0; i < segment_classes(s); i++)
		n += member_counted(segment_block(s, m, i), counter);
	return n;
}

/* Returns how many buffers the member owns, without those in its local caches and without the
 * segments of chains, which belong to their heads. s and m are those of
 * class 0, whose block counts what passes through queues. */
static inline uint64_t member_held(const struct segment *s, const struct member *m)
{
	uint64_t n = member_counted(m, COUNT_DEQUEUE) - member_counted(m, COUNT_ENQUEUE) -
		     load_seq_cst(&m->adopted); /* [ENDED] */
	for (uint32_t i = 0; i < segment_classes(s); i++) {
		const struct member *block = segment_block(s, m, i);
		/* cache_pushed is part of the counts of allocations and frees and cancels. It is
		 * left out, since it may grow between two reads. */
		n += load_relaxed(&block->counters[COUNT_ALLOC]) -
		     load_relaxed(&block->base[COUNT_ALLOC]) - load_relaxed(&block->cache_top);
		n -= load_relaxed(&block->counters[COUNT_FREE]) -
		     load_relaxed(&block->base[COUNT_FREE]);
		n += member_counted(block, COUNT_ADOPT) - member_counted(block, COUNT_CHAINED);
	}
	return (cache_position)n;
}

#endif
