/* SPDX-License-Identifier: Apache-2.0
 *
 * bbq.h - the block-based bounded queue of J. Wang et al., "BBQ: A Block-based Bounded Queue for
 * Exchanging Data and Profiling" (USENIX ATC 2022), a new implementation, as a baseline. In its
 * retry-new mode: a full queue refuses.
 *
 * The slots are in blocks. Each side has a head, the number of the block that it works in, and each
 * block has cursors of its own: what producers have allocated and committed, what consumers have
 * reserved and consumed. Producers and consumers in different blocks share no line, and a producer
 * allocates by an addition that cannot fail. A head and a cursor go from one block, or from one
 * round, to the next by whichever member finds the end.
 *
 * In return a queue counts as full when the next block is not wholly consumed, and a member that is
 * suspended in the middle of a put blocks the consumers of its block.
 *
 * Any number of producers and consumers; with single=true one at a time on that side.
 *
 * Ordering
 *     [COMMIT]   committed: a producer adds to it after it has written its slots. A consumer reads
 *                it before allocated: if both are equal, no slot below is being written.
 *     [RESERVE]  reserved: a compare-and-swap of the whole cursor, so that a consumer that was
 *                suspended since an earlier round fails.
 *     [CONSUME]  consumed: a consumer adds to it after it has read its slots. A producer that finds
 *                the whole block consumed may overwrite it.
 *     [BLOCK]    a head, and allocated: raised after the other cursors of the block.
 */
#ifndef BENCH_BBQ_H
#define BENCH_BBQ_H

#include "queue_loops.h"

/* By the paper's rule for 4,096 slots: 2^(12 / 4) blocks. */
#define BBQ_BLOCKS 8u
#define BBQ_SLOTS (BENCH_RING / BBQ_BLOCKS) /* of a block */

/* A cursor is | round of the blocks 32 | slots 32 |. allocated may count more slots than there are.
 * Heads begin in round 1, so that every block but the first is one that was consumed in round 0. */
#define BBQ_ROUND 32
struct bbq_block {
	_Alignas(CACHE_LINE) uint64_t allocated;
	_Alignas(CACHE_LINE) uint64_t committed;
	_Alignas(CACHE_LINE) uint64_t reserved;
	_Alignas(CACHE_LINE) uint64_t consumed;
	_Alignas(CACHE_LINE) uint64_t slot[BBQ_SLOTS];
};

struct bbq {
	_Alignas(CACHE_LINE) uint64_t prod; /* heads: numbers of blocks */
	_Alignas(CACHE_LINE) uint64_t cons;
	_Alignas(CACHE_LINE) struct bbq_block block[BBQ_BLOCKS];
};

static inline uint32_t bbq_slots(uint64_t cursor)
{
	return (uint32_t)cursor;
}

static inline void bbq_init(struct bbq *q)
{
	q->prod = q->cons = BBQ_BLOCKS;
	for (uint32_t i = 0; i < BBQ_BLOCKS; i++) {
		struct bbq_block *b = &q->block[i];
		b->allocated = b->committed = b->reserved = b->consumed =
			i ? BBQ_SLOTS : 1ull << BBQ_ROUND;
	}
}

/* Returns an empty queue of BENCH_RING slots. */
static inline struct bbq *bbq_create(struct bench_run *run)
{
	struct bbq *q = bench_memory(run, sizeof(*q));
	bbq_init(q);
	return q;
}

static inline struct bbq_block *bbq_block(struct bbq *q, uint64_t head)
{
	return &q->block[head % BBQ_BLOCKS];
}

/* Raises a head or a cursor to at least least. */
static inline void bbq_raise(uint64_t *word, uint64_t least)
{
	uint64_t now = load_acquire(word);                     /* [BLOCK] */
	while (now < least && !cas_seq_cst(word, &now, least)) /* [BLOCK] */
		;
}

/* Adds to a cursor; returns its value before. */
static ALWAYS_INLINE uint64_t bbq_add(uint64_t *cursor, uint32_t n, bool single)
{
	if (!single)
		return add_seq_cst(cursor, n); /* [COMMIT] [CONSUME] */
	const uint64_t before = load_relaxed(cursor);
	store_release(cursor, before + n); /* [COMMIT] [CONSUME] */
	return before;
}

/* Moves the producers' head to the block after head. Returns false if consumers have not consumed
 * all of that block. */
static __attribute__((noinline)) bool bbq_next_prod(struct bbq *q, uint64_t head)
{
	struct bbq_block *b = bbq_block(q, head + 1);
	const uint64_t round = (head + 1) / BBQ_BLOCKS << BBQ_ROUND;
	if (load_acquire(&b->consumed) < round - (1ull << BBQ_ROUND) + BBQ_SLOTS) /* [CONSUME] */
		return false;
	bbq_raise(&b->committed, round);
	bbq_raise(&b->allocated, round);
	bbq_raise(&q->prod, head + 1);
	return true;
}

/* Moves the consumers' head to the block after head. Returns false if producers have not begun
 * it. */
static __attribute__((noinline)) bool bbq_next_cons(struct bbq *q, uint64_t head)
{
	struct bbq_block *b = bbq_block(q, head + 1);
	const uint64_t round = (head + 1) / BBQ_BLOCKS << BBQ_ROUND;
	if (load_acquire(&b->committed) < round) /* [COMMIT] */
		return false;
	bbq_raise(&b->consumed, round);
	bbq_raise(&b->reserved, round);
	bbq_raise(&q->cons, head + 1);
	return true;
}

/* Appends up to n words, as many as there is room for. Returns how many. */
static ALWAYS_INLINE uint32_t bbq_put(struct bbq *q, const uint64_t *word, uint32_t n, bool single)
{
	uint32_t done = 0;
	while (done < n) {
		const uint64_t head = load_acquire(&q->prod); /* [BLOCK] */
		struct bbq_block *b = bbq_block(q, head);
		uint32_t at = bbq_slots(load_acquire(&b->allocated)), k = n - done; /* [BLOCK] */
		if (at < BBQ_SLOTS) {
			if (single && k > BBQ_SLOTS - at)
				k = BBQ_SLOTS - at;
			at = bbq_slots(bbq_add(&b->allocated, k, single));
		}
		if (at >= BBQ_SLOTS) {
			if (!bbq_next_prod(q, head))
				break;
			continue;
		}
		k = k < BBQ_SLOTS - at ? k : BBQ_SLOTS - at;
		for (uint32_t i = 0; i < k; i++)
			b->slot[at + i] = word[done + i];
		bbq_add(&b->committed, k, single);
		done += k;
	}
	return done;
}

/* Takes up to n words, oldest first. Returns how many. */
static ALWAYS_INLINE uint32_t bbq_get(struct bbq *q, uint64_t *word, uint32_t n, bool single)
{
	uint32_t done = 0;
	while (done < n) {
		const uint64_t head = load_acquire(&q->cons); /* [BLOCK] */
		struct bbq_block *b = bbq_block(q, head);
		uint64_t reserved = load_acquire(&b->reserved); /* [RESERVE] */
		const uint32_t at = bbq_slots(reserved);
		if (at >= BBQ_SLOTS) {
			if (!bbq_next_cons(q, head))
				break;
			continue;
		}
		const uint64_t committed = load_acquire(&b->committed); /* [COMMIT] */
		uint32_t k = bbq_slots(committed) - at;
		if (committed <= reserved)
			break; /* empty */
		if (bbq_slots(committed) < BBQ_SLOTS &&
		    load_acquire(&b->allocated) != committed) /* [COMMIT] */
			break;                                /* a producer is writing */
		k = k < n - done ? k : n - done;
		if (single)
			store_relaxed(&b->reserved, reserved + k);
		else if (!cas_seq_cst(&b->reserved, &reserved, reserved + k)) /* [RESERVE] */
			continue;
		for (uint32_t i = 0; i < k; i++)
			word[done + i] = b->slot[at + i];
		bbq_add(&b->consumed, k, single);
		done += k;
	}
	return done;
}

#endif
