/* SPDX-License-Identifier: Apache-2.0
 *
 * owner.h - tags, which name members; owner words, which name the owner of each buffer; and
 * handles, which name a buffer from one allocation to its free.
 *
 * Who may call what at the same time: any thread anything. Only a buffer's owner writes its owner
 * word; a thief, a member that bypasses and a recoverer take the buffer by compare-and-swap.
 *
 * Ordering
 *     [OWNER]  an owner word. The consumer that takes a buffer and the member that abandons one
 *              store it with release; thieves, recoverers and members that bypass take a buffer by
 *              compare-and-swap. All of these, and audits, read it with acquire. So a reader sees
 *              the header as the last owner left it: its generation, and from which queue it was
 *              got. Where a buffer passes through a ring or a cache, [SLOT] or [CACHE] orders its
 *              header, and its owner word is written relaxed.
 *     [ABANDONED]  abandoned and swept of struct pool_shared: a member abandons buffers and then
 *                  raises abandoned. A recoverer reads swept, then abandoned, sweeps, and then
 *                  raises swept to what it read. So the counts differ until a sweep has seen every
 *                  buffer that was counted.
 */
#ifndef SHMPOOL_OWNER_H
#define SHMPOOL_OWNER_H

#include "layout.h"

/* A tag names one member: | epoch 19 | slot number + 1, 13 |. The epoch is raised when a dead
 * member has been recovered. A slot whose epochs are used up (524,288 deaths) gets no further
 * member. So a tag is never reused, however long a recoverer is suspended. */
#define TAG_NUMBER_BITS 13
#define TAG_EPOCH_MAX ((1u << (32 - TAG_NUMBER_BITS)) - 1)
#define TAG_NUMBER_MASK ((1u << TAG_NUMBER_BITS) - 1)
_Static_assert(MEMBERS_MAX < TAG_NUMBER_MASK, "a tag has room for every number");

/* Returns the number of the member that an owner word, role, thief, extent or queue state names;
 * larger than every member's number if it names none. */
static inline uint32_t tag_number(uint64_t word)
{
	return ((uint32_t)word & TAG_NUMBER_MASK) - 1;
}

/* An owner word tells for each buffer who owns it:
 *
 *     word                              owner                       owner crashes; repaired by
 *     | 1 | queue 10 | position 53 |    TRANSIT: the queue, or on   position reserved, unpublished:
 *                                       its way in or out of it     sweep_unreserve(); behind cons:
 *                                                                   sweep()
 *                                       a topic: also while subscribers  topic_forsaken(), sweep()
 *                                       hold it (topic.h)
 *     | 0 | tag 32 |                    OWNED: that member, in      sweep(): freed, or as on_death
 *                                       hand or in its cache        of the queue it was got from
 *     | 0 | PUTTING | tag 32 |          OWNED, part of a bulk that  sweep(), the same
 *                                       the member is putting
 *     | 0 | PUTTING | queue | tag 32 |  OWNED by a recoverer, that  sweep(): goes to that queue, as
 *                                       moves it to that queue      was decided
 *     | 0 | ABANDONED | queue 10 |      none: any recoverer takes   sweep(): freed, or put into the
 *                                       it                          queue
 *     | 0 | CHAINED | head 24 |         the owner of the head, as   sweep(): freed once the head's
 *         generation 32 |               a segment of its chain      generation is another
 *     0                                 it has never existed
 *
 *     from -> to               by                            in
 *     0 -> OWNED               the member that grows         slab_grow()
 *     OWNED -> TRANSIT         its owner: put, free          transfer_mark()
 *     TRANSIT -> OWNED         the consumer that claimed it  transfer_take()
 *     TRANSIT(topic) -> OWNED  the last holder               topic_own()
 *     TRANSIT(0) -> OWNED      a member that bypasses        bypass_take(), by CAS
 *     OWNED -> OWNED by other  a thief, by CAS; adoption     cache_steal(), qmempool_adopt()
 *     OWNED -> ABANDONED       its owner, where no ring has  free_ring_put(),
 *                              room                          requeue_abandon()
 *     OWNED -> CHAINED         its owner                     chain_make()
 *     CHAINED -> OWNED         the owner of the head         free_chain()
 *     any dead -> OWNED        a recoverer, by CAS           sweep.c take()
 *     any dead -> ABANDONED    a recoverer, by CAS           sweep.c abandon()
 *
 * The queue of PUTTING and ABANDONED is at OWNER_QUEUE_SHIFT, 0 for none. */
#define OWNER_TRANSIT (1ull << 63)
#define OWNER_PUTTING (1ull << 32)
#define OWNER_QUEUE_SHIFT 33
#define OWNER_ABANDONED (1ull << 61)
#define OWNER_CHAINED (1ull << 62)
#define OWNER_HEAD_SHIFT 32
#define OWNER_POSITION_BITS 53

/* Returns the low 53 bits of a TRANSIT word's position. */
static inline uint64_t owner_position(uint64_t owner)
{
	return owner & ((1ull << OWNER_POSITION_BITS) - 1);
}

/* Returns how far a TRANSIT word's position lies behind another one, modulo 2^53; negative if it
 * lies before. */
static inline int64_t owner_behind(uint64_t owner, alf_position position)
{
	uint64_t distance =
		(uint64_t)(alf_distance)((alf_position)owner_position(owner) - position);
	return (int64_t)(distance << (64 - OWNER_POSITION_BITS)) >> (64 - OWNER_POSITION_BITS);
}

static inline uint32_t owner_queue(uint64_t owner)
{
	return owner & OWNER_TRANSIT ? owner >> OWNER_POSITION_BITS & QUEUES_MAX :
				       owner >> OWNER_QUEUE_SHIFT & QUEUES_MAX;
}

static inline uint64_t owner_transit(uint32_t queue, alf_position position)
{
	return OWNER_TRANSIT | (uint64_t)queue << OWNER_POSITION_BITS |
	       (position & ((1ull << OWNER_POSITION_BITS) - 1));
}

/* Returns the word of a segment of the chain that has this head. */
static inline uint64_t owner_chained(uint32_t head, uint32_t generation)
{
	return OWNER_CHAINED | (uint64_t)head << OWNER_HEAD_SHIFT | generation;
}

static inline bool owner_is_chained(uint64_t owner)
{
	return !(owner & OWNER_TRANSIT) && owner & OWNER_CHAINED;
}

/* Returns the index of the head of a CHAINED word. */
static inline uint32_t owner_head(uint64_t owner)
{
	return owner >> OWNER_HEAD_SHIFT & ALF_INDEX_MASK;
}

/* A handle is | generation 32 | index 32 |. A free raises the generation, so it ends the handle.
 * The header of a chain's head has HANDLE_CHAIN in its handle, a bit that no index has. Handles in
 * hand do not have it, so every comparison of a fast path fails, and the slow path asks. */
#define GENERATION_ONE (1ull << 32)
#define HANDLE_CHAIN (1ull << 31)
_Static_assert(HANDLE_CHAIN > ALF_INDEX_MASK, "no index has the bit");

static inline uint64_t handle_of(uint32_t index, uint32_t generation)
{
	return (uint64_t)generation << 32 | index;
}

static inline uint32_t handle_index(uint64_t handle)
{
	return (uint32_t)handle;
}

static inline uint32_t handle_generation(uint64_t handle)
{
	return (uint32_t)(handle >> 32);
}

static inline uint32_t buffer_generation(const struct buffer *b)
{
	return handle_generation(load_relaxed(&b->handle));
}

/* True if the buffer is the head of a chain. */
static inline bool buffer_heads(const struct buffer *b)
{
	return load_relaxed(&b->handle) & HANDLE_CHAIN;
}

/* True if the buffer is owned by the member whose tag is mine, and handle is its present handle. */
static ALWAYS_INLINE bool owner_is(const struct buffer *b, uint64_t mine, uint64_t handle)
{
	return likely(load_relaxed(&b->owner) == mine) &&
	       likely(load_relaxed(&b->handle) == handle);
}

/* The same in a loop over a bulk, where instructions count: 0.08 to 0.15 ns less each. For a single
 * buffer it takes 0.1 ns more. */
static ALWAYS_INLINE bool owner_is_each(const struct buffer *b, uint64_t mine, uint64_t handle)
{
	return likely(equals_relaxed(&b->owner, mine)) &&
	       likely(equals_relaxed(&b->handle, handle));
}

#endif
