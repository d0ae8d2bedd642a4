/* SPDX-License-Identifier: Apache-2.0
 *
 * layout.h - what lies in a segment, and where.
 *
 *     header     struct segment_header          geometry, offsets, who made it
 *     shared     struct pool_shared             words of the pool that change
 *     members    max_members x member_stride    struct member and its local cache
 *     queues     max_queues x struct queue_slot name, state and positions of each queue
 *     extents    one word each                  which parts of the slab exist
 *     free ring  capacity slots                 the ring of free buffers, queue number 0
 *     rings      max_queues x 65,536 slots      the slots of the named queues
 *     headers    capacity x struct buffer       one cache line a buffer
 *     data       capacity x stride              the bytes
 *
 * The file is sparse: up to the end of the free ring it is reserved at creation, a queue's ring
 * when the queue is created, headers and data as the slab grows. Offsets, never pointers; nothing
 * in here depends on the process that maps it. A change of anything in here is a change of
 * LAYOUT_VERSION.
 */
#ifndef SHMPOOL_LAYOUT_H
#define SHMPOOL_LAYOUT_H

#include "alf_queue.h"

#define LAYOUT_MAGIC 0x314c4f4f504d4853ull /* "SHMPOOL1" */
#define LAYOUT_VERSION 6u

#define CAPACITY_MAX (1u << ALF_INDEX_BITS)
#define BUFFER_SIZE_MAX (1u << 30) /* bytes: a length travels in 31 bits */
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
		layout_hash; /* of every size and offset below: another build of the same version */
	uint64_t initialised; /* LAYOUT_MAGIC, written last: everything else is in place */
	uint64_t pad1[2];
	uint64_t creator_pid; /* in its own PID namespace: for people, nothing is decided by it */
	uint64_t pad2;
	uint64_t created_ns; /* CLOCK_REALTIME */

	/* Geometry, as validated at creation. */
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

	/* Where things lie: a function of the geometry, checked against it. */
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

	uint64_t
		checksum; /* of all of the above but initialised: nothing of it changes afterwards */
};
_Static_assert(sizeof(struct segment_header) <= 4 * CACHE_LINE, "before pool_shared");

/* A tag names one life of a member slot: | epoch 19 | the slot's number + 1, 13 |. The epoch is raised when a
 * dead member has been recovered, and a slot whose epochs are used up gets no further member, so
 * that a tag is never used again: no delay of a suspended recoverer is too long. That is 524,288
 * deaths a slot. */
#define TAG_NUMBER_BITS 13
#define TAG_EPOCH_MAX ((1u << (32 - TAG_NUMBER_BITS)) - 1)
#define TAG_NUMBER_MASK ((1u << TAG_NUMBER_BITS) - 1)

/* What a member counts: plain increments by the member alone. They stay in its slot for ever, the
 * pool's are the sums over all slots, and nothing is moved that could be moved twice. */
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
	COUNT_STEAL,     /* other members' caches emptied when the pool ran dry */
	COUNT_SLEEP,     /* times it slept */
	COUNT_EXHAUSTED, /* allocations that found no buffer anywhere */
	COUNT_RECOVER,   /* buffers taken back from dead members */
	COUNTERS
};

/* Narrow where those of a ring are, for tests; then counters that are made of them are right modulo
 * 2^bits. */
typedef alf_position cache_position;
typedef alf_shared_position shared_cache_position;

/* A member: one thread that has attached. The other lines are written by their owner only, but
 * for cache_bottom. */
struct member {
	/* Line 0: who this is. identity is | state 2 | token 62 |, 0 for a free slot (member.h). */
	uint64_t identity;
	uint64_t cleared;     /* nonzero: the tag has been raised since its last member died */
	uint64_t attached_ns; /* CLOCK_MONOTONIC */
	uint64_t adopted;     /* buffers that other threads of its process took over from it */
	uint32_t ended; /* nonzero: the thread is gone, others of its process have its buffers */
	uint32_t tid;
	uint32_t barrier; /* nonzero: its process is registered for membarrier(2), so that its cache
			     can be emptied from outside */
	/* For people, as tid: nothing is decided by these (process.h). */
	uint32_t pid;
	uint32_t start;
	uint32_t pid_namespace;
	uint32_t pad0[2];

	/* Lines 1 to 3: what it is doing, and what it counts. The local cache is a stack in a ring:
	 * the owner pushes and pops at its top, a thief takes from its bottom. */
	uint64_t op;                     /* alf_op(): what it may have reserved or claimed */
	shared_cache_position cache_top; /* handles pushed less those popped: from 0 on */
	uint64_t
		cache_bottom; /* how far thieves have come; with CACHE_HELD while somebody is at it */
	uint64_t cache_pushed; /* handles pushed: only counted */
	uint32_t tag; /* | epoch 19 | its own number + 1, 13 |: what names it in owner words */
	uint32_t pad1;
	uint64_t counters[COUNTERS]; /* member_count() */
	uint64_t pad2[5];

	/* Lines 4 and 5: what concerns the slot. What it had counted when this life of it began
	 * (member_counted()); how many of its members died, which is the epoch of its tag. */
	uint64_t base[COUNTERS];
	uint64_t deaths;
	uint64_t pad3;

	uint64_t cache[]; /* handles of free buffers */
};
_Static_assert(offsetof(struct member, op) == CACHE_LINE, "the owner's own lines");
_Static_assert(offsetof(struct member, base) == 4 * CACHE_LINE, "counters fill their lines");
_Static_assert(offsetof(struct member, cache) == 6 * CACHE_LINE, "the slot's words do too");
_Static_assert(MEMBERS_MAX < TAG_NUMBER_MASK, "a tag has room for every number");

/* cache_bottom while somebody empties the cache or asks its owner to: | 1 | thief 32 | position 31 |, where
 * thief is the tag of the member that empties it, or CACHE_REQUESTED. No position is that high: for
 * the owner it is further below its top than a cache can hold, so that one look tells it both. */
#define CACHE_HELD (1ull << 63)
#define CACHE_POSITION_BITS 31
#define CACHE_REQUESTED UINT32_MAX

static inline uint64_t cache_held(uint32_t thief, uint64_t bottom)
{
	return CACHE_HELD | (uint64_t)thief << CACHE_POSITION_BITS |
	       (bottom & ((1u << CACHE_POSITION_BITS) - 1));
}

/* Who is at the cache: 0 for nobody. */
static inline uint32_t cache_thief(uint64_t bottom)
{
	return bottom & CACHE_HELD ? (uint32_t)(bottom >> CACHE_POSITION_BITS) : 0;
}

/* The handles between bottom and top, whoever is at them: less than none in an attempt to pop more.
 *  */
static inline int64_t cache_between(uint64_t bottom, cache_position top)
{
	if (sizeof(top) < sizeof(bottom))
		return (alf_distance)(top - (cache_position)bottom);
	return (int64_t)((top - bottom) << (64 - CACHE_POSITION_BITS)) >>
	       (64 - CACHE_POSITION_BITS);
}

/* Where the bottom is, whoever is at it. */
static inline cache_position cache_bottom_at(uint64_t bottom, cache_position top)
{
	return (cache_position)(top - (cache_position)cache_between(bottom, top));
}

/* cache_between() for the owner: more than there can be if somebody is at them. */
static ALWAYS_INLINE uint64_t cache_between_own(uint64_t bottom, cache_position top)
{
	if (sizeof(top) < sizeof(bottom))
		return bottom & CACHE_HELD ? UINT64_MAX :
					     (cache_position)(top - (cache_position)bottom);
	return top - bottom;
}

struct pool_shared {
	uint32_t free_wait; /* members asleep until a buffer is free */
	uint32_t left;   /* nonzero: whoever made the pool has closed it, and left it on purpose */
	uint64_t tokens; /* the newest token's number: token.h */
	uint64_t abandoned; /* buffers ever abandoned: OWNER_ABANDONED */
	uint64_t trims;     /* extents taken away */
	/* 0 until there is one. */
	alf_shared_position
		bypassed; /* slots of the free ring before this position may be hollow: bypass.c */
	uint64_t swept;   /* how many of the abandoned a sweep has placed: both counts only grow */
	uint32_t free_many; /* those asleep on free_wait who wait for many at once sleep here */
	uint32_t free_want; /* free buffers that one of those waits for, the least: wait_want() */
	uint64_t inquired;  /* when who is dead may be asked again: stuck.c */
};
#define SHARED_OFFSET (4 * CACHE_LINE)
#define SHARED_END (SHARED_OFFSET + sizeof(struct pool_shared))
_Static_assert(SHARED_END % CACHE_LINE == 0, "whole lines");

/* What becomes of the buffers that a dead member had got from a queue and neither freed nor put. */
enum on_death { ON_DEATH_FREE, ON_DEATH_REQUEUE, ON_DEATH_DEAD_LETTER };

/* A named queue. state is 0, QUEUE_READY, or the tag of the member that makes it, with QUEUE_NAMED
 * once the name stands. */
#define QUEUE_READY UINT64_MAX
#define QUEUE_NAMED (1ull << 32)
struct queue_slot {
	uint64_t state;
	char name[NAME_MAX_BYTES + 1];
	uint32_t on_death;
	uint32_t dead_letter;      /* number of the queue for what nobody survives, 0 for none */
	uint32_t max_redeliveries; /* after which it goes there; 0 for any number */
	uint32_t pad0;
	uint64_t refused; /* buffers that found no room, or that no buffer was free for */
	uint64_t dropped; /* buffers freed because the consumer that had got them died */
	uint8_t pad1[24];
	struct alf_queue queue;
};
_Static_assert(sizeof(struct queue_slot) == 5 * CACHE_LINE, "whole lines");

/* A buffer's header. owner and handle are written only by whoever holds the buffer. */
struct buffer {
	uint64_t owner;
	uint32_t
		got; /* generation it was got from queue with: another one and it was freed since */
	uint32_t length;   /* bytes in use, from headroom on */
	uint32_t headroom; /* bytes before them */
	uint32_t mark;     /* the user's */
	uint32_t flow_hash;
	uint32_t queue;     /* the queue it was last got from: its number, 0 for none yet */
	uint64_t timestamp; /* ns, the user's clock */
	union {
		uint64_t failures; /* both of: */
		struct {
			uint32_t redelivered; /* times it was put back: its consumer died, or
						 returned it (requeue.h) */
			uint32_t origin;      /* the queue from which it became a dead letter, 0 for
						 none */
		};
	};
	uint64_t since; /* CLOCK_MONOTONIC, ns, to some ms: when its holder allocated or got it */
	uint64_t
		handle; /* what names it now: handle_of(). The generation changes whenever it is freed */
};
_Static_assert(sizeof(struct buffer) == CACHE_LINE, "one cache line");
_Static_assert(offsetof(struct buffer, owner) == 0 && offsetof(struct buffer, length) == 12 &&
		       offsetof(struct buffer, headroom) == 16 &&
		       offsetof(struct buffer, mark) == 20 &&
		       offsetof(struct buffer, flow_hash) == 24 &&
		       offsetof(struct buffer, queue) == 28 &&
		       offsetof(struct buffer, timestamp) == 32,
	       "other languages read these");

/* An owner word:
 *
 *     | 1 | queue 10 | position 53 |   TRANSIT: in a queue, or between it and a member
 *     | 0 | ... | tag 32 |             OWNED: a member has it, in hand or in its local cache
 *           with OWNER_PUTTING         and puts a bulk that it is part of
 *           with a queue               and takes it from a dead member that had it from there (recover.h)
 *     | 0 | ABANDONED | queue 10 |     nobody has it: any recoverer takes it, and frees it or hands it
 *                                      on as that queue says
 *     0                                never existed
 *
 * The queue of the last two stands at OWNER_QUEUE_SHIFT, 0 for none. */
#define OWNER_TRANSIT (1ull << 63)
#define OWNER_PUTTING (1ull << 32)
#define OWNER_QUEUE_SHIFT 33
#define OWNER_ABANDONED (1ull << 43)
#define OWNER_POSITION_BITS 53

/* The number of the member that an owner word, role, thief, extent or queue state names; a number
 * beyond every member's if it names none. */
static inline uint32_t tag_number(uint64_t word)
{
	return ((uint32_t)word & TAG_NUMBER_MASK) - 1;
}

/* The low bits of the position in a queue. */
static inline uint64_t owner_position(uint64_t owner)
{
	return owner & ((1ull << OWNER_POSITION_BITS) - 1);
}

/* How far that lies behind another position, as far as the word tells: negative if it lies before.
 *  */
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

/* A handle names a buffer as it is between one allocation and its free: | generation 32 | index 32 |. */
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
