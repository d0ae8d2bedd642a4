/* SPDX-License-Identifier: Apache-2.0
 *
 * layout.h - the layout of a segment.
 *
 *     header     struct segment_header          geometry, offsets, creator
 *     shared     struct pool_shared             words of the pool that change
 *     members    max_members x member_stride    struct member and its local cache
 *     queues     max_queues x struct queue_slot name, state and positions of each queue
 *     extents    one word each                  which parts of the slab exist
 *     free ring  capacity slots                 the ring of free buffers, queue number 0
 *     rings      max_queues x 65,536 slots      the slots of the named queues
 *     headers    capacity x struct buffer       one cache line a buffer
 *     data       capacity x stride              the bytes
 *
 * The file is sparse. Memory is reserved up to the end of the free ring at creation, for a queue's
 * ring when the queue is created, and for headers and data when the slab grows. The segment holds
 * offsets and never pointers; nothing in it depends on the process that maps it. Any change of this
 * file raises LAYOUT_VERSION.
 */
#ifndef SHMPOOL_LAYOUT_H
#define SHMPOOL_LAYOUT_H

#include "alf_queue.h"

#define LAYOUT_MAGIC 0x314c4f4f504d4853ull /* "SHMPOOL1" */
#define LAYOUT_VERSION 6u

#define CAPACITY_MAX (1u << ALF_INDEX_BITS)
#define BUFFER_SIZE_MAX (1u << 30) /* bytes; results carry a length in 31 bits */
#define MEMBERS_MAX 4095u          /* a wait word counts sleepers in 12 bits */
#define QUEUES_MAX 1023u /* an op record names a queue in 10 bits; number 0 is the free ring */
#define NAME_MAX_BYTES 63u
#define BULK_MAX 64u /* buffers moved at once between a local cache and the shared queue */

_Static_assert(CAPACITY_MAX - 1 <= ALF_INDEX_MASK, "a slot holds every index");
_Static_assert(BUFFER_SIZE_MAX <= INT32_MAX, "an answer holds every length");
_Static_assert(QUEUES_MAX == (1u << (ALF_OP_COUNT_SHIFT - ALF_OP_QUEUE_SHIFT)) - 1,
	       "an op record, and an owner word, names every queue");
_Static_assert(BULK_MAX <= ALF_OP_COUNT_MAX, "an op record counts every bulk");

struct segment_header {
	uint64_t magic;
	uint32_t version;
	uint32_t pad0;
	uint64_t
		layout_hash; /* of every size and offset below; differs for an incompatible build */
	uint64_t initialised; /* LAYOUT_MAGIC, written last, when everything else is complete */
	uint64_t pad1[2];
	uint64_t creator_pid; /* in its own PID namespace; shown to people, no code relies on it */
	uint64_t pad2;
	uint64_t created_ns; /* CLOCK_REALTIME */

	/* Geometry, validated at creation. */
	uint64_t buffer_size; /* bytes of data room, a multiple of the cache line */
	uint64_t capacity;
	uint64_t prealloc;
	uint64_t cache_size;
	uint64_t bulk;
	uint64_t refill_multiplier;
	uint64_t extent_buffers;
	uint64_t headroom;
	uint64_t max_members;
	uint64_t max_queues;

	/* Offsets: a function of the geometry, recomputed and compared by segment_check(). */
	uint64_t members_offset;
	uint64_t member_stride;
	uint64_t queues_offset;
	uint64_t extents_offset;
	uint64_t extents;
	uint64_t free_ring_offset;
	uint64_t rings_offset;
	uint64_t headers_offset;
	uint64_t data_offset;
	uint64_t size;

	uint64_t checksum; /* of all of the above except initialised; none of it changes later */
};
_Static_assert(sizeof(struct segment_header) <= 4 * CACHE_LINE, "before pool_shared");

/* A tag names one member: | epoch 19 | slot number + 1, 13 |. The epoch is raised when a dead
 * member has been recovered. A slot whose epochs are used up (524,288 deaths) gets no further
 * member. So a tag is never reused, however long a recoverer is suspended. */
#define TAG_NUMBER_BITS 13
#define TAG_EPOCH_MAX ((1u << (32 - TAG_NUMBER_BITS)) - 1)
#define TAG_NUMBER_MASK ((1u << TAG_NUMBER_BITS) - 1)

/* Counters of a member: plain increments by the member alone. They stay in its slot when it leaves,
 * and the pool's counters are the sums over all slots, so no count is ever moved. */
enum counter {
	COUNT_ALLOC,     /* buffers taken from the pool */
	COUNT_FREE,      /* buffers given back */
	COUNT_ENQUEUE,   /* buffers put into named queues */
	COUNT_DEQUEUE,   /* buffers got from named queues */
	COUNT_ADOPT,     /* buffers taken over from another thread of the process */
	COUNT_REFILL,    /* bulks from the shared queue into the local cache */
	COUNT_FLUSH,     /* bulks from the local cache into the shared queue */
	COUNT_FULL,      /* puts that found no room */
	COUNT_EMPTY,     /* gets that found nothing */
	COUNT_GROW,      /* extents added to the slab */
	COUNT_STEAL,     /* caches of other members stolen from when the pool ran dry */
	COUNT_SLEEP,     /* times it slept */
	COUNT_EXHAUSTED, /* allocations that found no buffer anywhere */
	COUNT_RECOVER,   /* buffers taken back from dead members */
	COUNTERS
};

/* As narrow as a ring's positions in tests; counters computed from them are then modulo 2^bits. */
typedef alf_position cache_position;
typedef alf_shared_position shared_cache_position;

/* A member: one thread that has attached. Lines 1 to 3 and the cache are written by the member
 * only, except for cache_bottom. */
struct member {
	/* Line 0: identity is | state 2 | token 62 |, 0 for a free slot (member.h). */
	uint64_t identity;
	uint64_t cleared;     /* nonzero: the epoch has been raised since its last member died */
	uint64_t attached_ns; /* CLOCK_MONOTONIC */
	uint64_t adopted;     /* buffers that other threads of its process took over from it */
	uint32_t ended;       /* nonzero: the thread has ended, other threads have its buffers */
	uint32_t tid;
	uint32_t
		barrier; /* nonzero: its process is registered for membarrier(2), so that others can
			     steal from its cache */
	/* Shown to people, as tid is; no code relies on them (process.h). */
	uint32_t pid;
	uint32_t start;
	uint32_t pid_namespace;
	uint32_t pad0[2];

	/* Lines 1 to 3: the operation it is in, and its counters. The local cache is a stack in a
	 * ring: the owner pushes and pops at the top, a thief takes from the bottom. */
	uint64_t op;                     /* op record: alf_op.h */
	shared_cache_position cache_top; /* handles pushed minus handles popped */
	uint64_t cache_bottom; /* handles stolen or flushed; with CACHE_LOCKED while it is locked */
	uint64_t cache_pushed; /* handles pushed, a counter */
	uint32_t tag;          /* names the member in owner words */
	uint32_t pad1;
	uint64_t counters[COUNTERS]; /* member_count() */
	uint64_t pad2[5];

	/* Lines 4 and 5 belong to the slot: its counters when its present member attached
	 * (member_counted()), and how many of its members have died, the epoch of its tag. */
	uint64_t base[COUNTERS];
	uint64_t deaths;
	uint64_t pad3;

	uint64_t cache[]; /* handles of free buffers */
};
_Static_assert(offsetof(struct member, op) == CACHE_LINE, "the owner's own lines");
_Static_assert(offsetof(struct member, base) == 4 * CACHE_LINE, "counters fill their lines");
_Static_assert(offsetof(struct member, cache) == 6 * CACHE_LINE, "the slot's words do too");
_Static_assert(MEMBERS_MAX < TAG_NUMBER_MASK, "a tag has room for every number");

/* cache_bottom, one word for the bottom position and the lock of a local cache:
 *
 *     word                              meaning                     a crash of the holder leaves
 *     position                          unlocked
 *     | 1 | thief's tag 32 | pos 31 |   locked by that member,      a locked cache, of which some
 *                                       which steals or flushes     entries are owned by the thief
 *     | 1 | CACHE_FLUSH_REQUESTED | pos 31 |  the owner is asked to       nothing
 *                                       flush it
 *
 *     from -> to              by                                   in
 *     unlocked -> locked      a thief                              lock()
 *     unlocked -> requested   a member that waits for a buffer     cache_request_flush()
 *     requested -> locked     the owner, to flush; a thief         cache_flush_if_asked(), lock()
 *     locked -> unlocked      that member, with the new bottom     steal_from(), cache_flush_if_asked()
 *     locked -> requested     that member, while others wait       steal_from(), cache_flush_if_asked()
 *     locked -> requested     a recoverer, if the thief is dead    recover_thieves()
 *
 * CACHE_LOCKED is the highest bit. For the owner a bottom with this bit is further below its top than
 * a cache can hold, so one comparison finds both "too few" and "locked". Entries that a dead thief
 * had taken are told by their owner words and generations (entry_valid()). */
#define CACHE_LOCKED (1ull << 63)
#define CACHE_POSITION_BITS 31
#define CACHE_FLUSH_REQUESTED UINT32_MAX

static inline uint64_t cache_locked_by(uint32_t thief, uint64_t bottom)
{
	return CACHE_LOCKED | (uint64_t)thief << CACHE_POSITION_BITS |
	       (bottom & ((1u << CACHE_POSITION_BITS) - 1));
}

/* Returns the tag of the member that has locked the cache, CACHE_FLUSH_REQUESTED, or 0 if unlocked. */
static inline uint32_t cache_holder(uint64_t bottom)
{
	return bottom & CACHE_LOCKED ? (uint32_t)(bottom >> CACHE_POSITION_BITS) : 0;
}

/* Returns the number of handles between bottom and top, locked or not. It is negative while the
 * owner tries to pop more than there are. */
static inline int64_t cache_between(uint64_t bottom, cache_position top)
{
	if (sizeof(top) < sizeof(bottom))
		return (alf_distance)(top - (cache_position)bottom);
	return (int64_t)((top - bottom) << (64 - CACHE_POSITION_BITS)) >>
	       (64 - CACHE_POSITION_BITS);
}

/* Returns the bottom position, locked or not. */
static inline cache_position cache_bottom_at(uint64_t bottom, cache_position top)
{
	return (cache_position)(top - (cache_position)cache_between(bottom, top));
}

/* cache_between() for the owner: larger than any cache if the cache is locked. */
static ALWAYS_INLINE uint64_t cache_between_own(uint64_t bottom, cache_position top)
{
	if (sizeof(top) < sizeof(bottom))
		return bottom & CACHE_LOCKED ? UINT64_MAX :
					       (cache_position)(top - (cache_position)bottom);
	return top - bottom;
}

struct pool_shared {
	uint32_t free_wait; /* members asleep until a buffer is free */
	uint32_t left;      /* nonzero: the creator has closed the pool and kept it on purpose */
	uint64_t tokens;    /* number of the newest token: token.h */
	uint64_t abandoned; /* buffers ever abandoned: OWNER_ABANDONED; only grows */
	uint64_t trims;     /* extents ever removed */
	alf_shared_position
		bypassed; /* free-ring slots before this position may be stale: bypass.c; 0 never */
	uint64_t swept;   /* abandoned buffers that sweeps have placed; only grows */
	uint32_t free_many; /* members that wait for many buffers sleep on this word instead */
	uint32_t free_want; /* the smallest number that one of them waits for: wait_want() */
	uint64_t inquired;  /* when to ask next which members are dead: recover_due.c */
};
#define SHARED_OFFSET (4 * CACHE_LINE)
#define SHARED_END (SHARED_OFFSET + sizeof(struct pool_shared))
_Static_assert(SHARED_END % CACHE_LINE == 0, "whole lines");

/* Where buffers go that a dead member had got from a queue and neither freed nor put. */
enum on_death { ON_DEATH_FREE, ON_DEATH_REQUEUE, ON_DEATH_DEAD_LETTER };

/* A named queue. state is 0 (free), QUEUE_READY, or the tag of the member that creates it, with
 * QUEUE_NAMED once the name is written. */
#define QUEUE_READY UINT64_MAX
#define QUEUE_NAMED (1ull << 32)
struct queue_slot {
	uint64_t state;
	char name[NAME_MAX_BYTES + 1];
	uint32_t on_death;
	uint32_t dead_letter;      /* number of the dead-letter queue, 0 for none */
	uint32_t max_redeliveries; /* after so many a buffer goes there; 0 for no limit */
	uint32_t pad0;
	uint64_t refused; /* buffers and payloads refused: no room, or no free buffer */
	uint64_t dropped; /* buffers freed because the consumer that had got them died */
	uint8_t pad1[24];
	struct alf_queue queue;
};
_Static_assert(sizeof(struct queue_slot) == 5 * CACHE_LINE, "whole lines");

/* A buffer's header. Only the buffer's holder writes owner and handle. */
struct buffer {
	uint64_t owner;
	uint32_t got; /* its generation when it was got from queue; differs if it was freed since */
	uint32_t length;   /* bytes in use, from headroom on */
	uint32_t headroom; /* bytes before them */
	uint32_t mark;     /* the user's */
	uint32_t flow_hash;
	uint32_t queue;     /* number of the queue it was last got from, 0 for none */
	uint64_t timestamp; /* ns, the user's clock */
	union {
		uint64_t failures; /* both fields in one word: */
		struct {
			uint32_t redelivered; /* times it was put back: its consumer died or
						 returned it (requeue.h) */
			uint32_t origin;      /* number of the queue from which it became a dead
						 letter, 0 for none */
		};
	};
	uint64_t since;  /* CLOCK_MONOTONIC, ns, some ms coarse: its holder allocated or got it */
	uint64_t handle; /* its present handle: handle_of(). Each free raises the generation */
};
_Static_assert(sizeof(struct buffer) == CACHE_LINE, "one cache line");
_Static_assert(offsetof(struct buffer, owner) == 0 && offsetof(struct buffer, length) == 12 &&
		       offsetof(struct buffer, headroom) == 16 &&
		       offsetof(struct buffer, mark) == 20 &&
		       offsetof(struct buffer, flow_hash) == 24 &&
		       offsetof(struct buffer, queue) == 28 &&
		       offsetof(struct buffer, timestamp) == 32,
	       "other languages read these");

/* An owner word tells for each buffer who owns it:
 *
 *     word                              owner                       owner crashes; repaired by
 *     | 1 | queue 10 | position 53 |    TRANSIT: the queue, or on   position reserved, unpublished:
 *                                       its way in or out of it     sweep_unreserve(); behind cons:
 *                                                                   sweep()
 *     | 0 | tag 32 |                    OWNED: that member, in      sweep(): freed, or as on_death
 *                                       hand or in its cache        of the queue it was got from
 *     | 0 | PUTTING | tag 32 |          OWNED, part of a bulk that  sweep(), the same
 *                                       the member is putting
 *     | 0 | PUTTING | queue | tag 32 |  OWNED by a recoverer, that  sweep(): goes to that queue, as
 *                                       moves it to that queue      was decided
 *     | 0 | ABANDONED | queue 10 |      none: any recoverer takes   sweep(): freed, or put into the
 *                                       it                          queue
 *     0                                 it has never existed
 *
 *     from -> to               by                            in
 *     0 -> OWNED               the member that grows         slab_grow()
 *     OWNED -> TRANSIT         its owner: put, free          transfer_mark()
 *     TRANSIT -> OWNED         the consumer that claimed it  transfer_take()
 *     TRANSIT(0) -> OWNED      a member that bypasses        bypass_take(), by CAS
 *     OWNED -> OWNED by other  a thief, by CAS; adoption     steal_from(), qmempool_adopt()
 *     OWNED -> ABANDONED       its owner, where no ring has  free_ring.c, requeue_later()
 *                              room
 *     any dead -> OWNED        a recoverer, by CAS           sweep.c take()
 *     any dead -> ABANDONED    a recoverer, by CAS           sweep.c abandon()
 *
 * The queue of the last two words is at OWNER_QUEUE_SHIFT, 0 for none. */
#define OWNER_TRANSIT (1ull << 63)
#define OWNER_PUTTING (1ull << 32)
#define OWNER_QUEUE_SHIFT 33
#define OWNER_ABANDONED (1ull << 43)
#define OWNER_POSITION_BITS 53

/* Returns the number of the member that an owner word, role, thief, extent or queue state names;
 * larger than every member's number if it names none. */
static inline uint32_t tag_number(uint64_t word)
{
	return ((uint32_t)word & TAG_NUMBER_MASK) - 1;
}

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

/* A handle names a buffer from one allocation to its free: | generation 32 | index 32 |. */
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

#endif
