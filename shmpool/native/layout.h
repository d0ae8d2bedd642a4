/* SPDX-License-Identifier: Apache-2.0
 *
 * layout.h - the layout of a segment.
 *
 *     header     struct segment_header          geometry, offsets, creator
 *     shared     classes x struct pool_shared   words of the pool that change
 *     members    max_members x member_stride    a block for each class: struct member, local cache
 *     queues     queue slots                    name, state and positions of each ring
 *     extents    one word each, by class        which parts of the slabs exist
 *     free rings one for each class             the rings of free buffers, each with the class's
 *                                               side rings behind it
 *     rings      max_queues x 2^20 slots        the slots of the named queues; of a topic, also its
 *                                               subscribers and their shelves, behind them; of a
 *                                               queue with lanes, a table of these
 *     headers    all buffers x struct buffer    one cache line a buffer
 *     data       by class: capacity x stride    the bytes
 *
 * A pool has one or more size classes, each with buffers of its own size, its own slab, free ring
 * and local caches. All buffers are numbered through: class 0 has the indices from 0 on, class 1
 * those after them. So queues, headers, handles and owner words are the same for all classes. Queue
 * slot 0 is the free ring of class 0, the slots from 1 to max_queues are the named queues, and slot
 * max_queues + k is the free ring of class k. The last slots are the side rings (side.h).
 *
 * The file is sparse. Memory is reserved up to the end of the free rings at creation, for a queue's
 * ring when the queue is created or as it fills (ALF_ON_DEMAND), and for headers and data when a
 * slab grows. With huge pages, headers and data begin at multiples of one. The segment holds
 * offsets and never pointers; nothing in it depends on the process
 * that maps it. Any change of this file raises LAYOUT_VERSION.
 *
 * What the words mean: owner words, tags and handles, owner.h; cache words, cache.h; identities,
 * member.h; op records, alf_op.h; wait words, wait.h; roles, role.h; holders words and the words of
 * subscribers, topic.h.
 */
#ifndef SHMPOOL_LAYOUT_H
#define SHMPOOL_LAYOUT_H

#include "alf_queue.h"

#define LAYOUT_MAGIC 0x314c4f4f504d4853ull /* "SHMPOOL1" */
#define LAYOUT_VERSION 12u

#define CAPACITY_MAX (1u << ALF_INDEX_BITS)
#define BUFFER_SIZE_MAX (1u << 30) /* bytes; results carry a length in 31 bits */
#define MEMBERS_MAX 4095u          /* a wait word counts sleepers in 12 bits */
#define QUEUES_MAX 1023u /* an op record names a queue slot in 10 bits; named queues: fewer */
#define CLASSES_MAX 8u
#define SIDES_MAX 32u /* side rings of a class */
#define NAME_MAX_BYTES 63u
#define CACHE_SIZE_MAX 4096u
#define BULK_MAX 64u /* buffers moved at once between a local cache and the free ring */

_Static_assert(CAPACITY_MAX - 1 <= ALF_INDEX_MASK, "a slot holds every index");
_Static_assert(BUFFER_SIZE_MAX <= INT32_MAX, "an answer holds every length");
_Static_assert(QUEUES_MAX == (1u << (ALF_OP_COUNT_SHIFT - ALF_OP_QUEUE_SHIFT)) - 1,
	       "an op record, and an owner word, names every queue");
_Static_assert(BULK_MAX <= ALF_OP_COUNT_MAX, "an op record counts every bulk");

struct segment_header {
	uint64_t magic;
	uint32_t version;
	uint32_t pad0;
	/* Hash of every size and offset below; differs for an incompatible build. */
	uint64_t layout_hash;
	uint64_t initialised; /* LAYOUT_MAGIC, written last, when everything else is complete */
	uint64_t pad1[2];
	uint64_t creator_pid; /* in its own PID namespace; shown to people, no code relies on it */
	uint64_t huge;        /* 1: laid out for huge pages (MEMORY_HUGE), else 0 */
	uint64_t created_ns;  /* CLOCK_REALTIME */

	/* Geometry, validated at creation. */
	struct segment_class {
		uint64_t buffer_size; /* bytes of data room, a multiple of the cache line */
		uint64_t capacity;
		uint64_t prealloc;
		uint64_t cache_size;
		uint64_t extent_buffers;
	} class[CLASSES_MAX]; /* zeros beyond the last one */
	uint64_t classes;
	uint64_t bulk;
	uint64_t refill_multiplier;
	uint64_t headroom;
	uint64_t max_members;
	uint64_t max_queues;
	uint64_t free_rings; /* side rings that a class of small buffers has */

	/* Offsets: a function of the geometry, recomputed and compared by segment_check(). */
	uint64_t members_offset;
	uint64_t member_stride;
	uint64_t queues_offset;
	uint64_t extents_offset;
	uint64_t free_ring_offset;
	uint64_t rings_offset;
	uint64_t headers_offset;
	uint64_t data_offset;
	uint64_t size;

	uint64_t checksum; /* of all of the above except initialised; none of it changes later */
};
_Static_assert(sizeof(struct segment_header) <= 9 * CACHE_LINE, "before pool_shared");

/* Counters of a member: plain increments by the member alone. They stay in its slot when it leaves,
 * and the pool's counters are the sums over all slots, so no count is ever moved. */
enum counter {
	COUNT_ALLOC,     /* buffers taken from the pool */
	COUNT_FREE,      /* buffers given back */
	COUNT_ENQUEUE,   /* buffers put into named queues */
	COUNT_DEQUEUE,   /* buffers got from named queues */
	COUNT_ADOPT,     /* buffers taken over from another thread of the process */
	COUNT_REFILL,    /* bulks from the free ring into the local cache */
	COUNT_FLUSH,     /* bulks from the local cache into the free ring */
	COUNT_FULL,      /* puts that found no room */
	COUNT_EMPTY,     /* gets that found nothing */
	COUNT_GROW,      /* extents added to the slab */
	COUNT_STEAL,     /* caches of other members stolen from when the pool ran dry */
	COUNT_SLEEP,     /* times it slept */
	COUNT_EXHAUSTED, /* allocations that found no buffer anywhere */
	COUNT_RECOVER,   /* buffers taken back from dead members */
	COUNT_CHAINED,   /* buffers made segments of chains, minus those taken out of them */
	COUNTERS
};

/* As narrow as a ring's positions in tests; counters computed from them are then modulo 2^bits. */
typedef alf_position cache_position;
typedef alf_shared_position shared_cache_position;

/* A member: one thread that has attached. It has a block for each class, one after the other, and
 * each block is a struct member with the cache of that class. Block 0 says who the member is; the
 * others use their op record, cache, tag (the same) and counters. Lines 1 to 3 and the cache are
 * written by the member only, except for cache_bottom. */
struct member {
	/* Line 0: identity is | state 2 | token 62 |, 0 for a free slot (member.h). */
	uint64_t identity;
	uint64_t cleared;     /* nonzero: the epoch has been raised since its last member died */
	uint64_t attached_ns; /* CLOCK_MONOTONIC */
	uint64_t adopted;     /* buffers that other threads of its process took over from it */
	uint32_t ended;       /* nonzero: the thread has ended: qmempool.h */
	uint32_t tid;
	/* Nonzero: its process is registered for membarrier(2), so that others can steal from its
	 * cache. */
	uint32_t barrier;
	/* Shown to people, as tid is; no code relies on them (process.h). */
	uint32_t pid;
	uint32_t start;
	uint32_t pid_namespace;
	uint32_t pad0[2];

	/* Lines 1 to 3: the operation it is in, and its counters. The local cache is a stack in a
	 * ring: the owner pushes and pops at the top, a thief takes from the bottom. */
	uint64_t op;                     /* op record: alf_op.h */
	shared_cache_position cache_top; /* handles pushed minus handles popped */
	uint64_t cache_bottom;       /* handles stolen or flushed, and the cache's lock: cache.h */
	uint64_t cache_pushed;       /* handles pushed, a counter */
	uint32_t tag;                /* names the member in owner words: owner.h */
	uint32_t side;               /* a hint: the side ring in which to search next: side.c */
	uint64_t counters[COUNTERS]; /* member_count() */
	/* Nonzero: the kernel may write to its buffers, and the place of the socket: device.h */
	uint64_t device;
	uint64_t device_space;
	uint32_t device_interface, device_queue;
	uint64_t pad2;

	/* Lines 4 and 5 belong to the slot: its counters when its present member attached
	 * (member_counted()), and how many of its members have died, the epoch of its tag. */
	uint64_t base[COUNTERS];
	uint64_t deaths;

	uint64_t cache[]; /* handles of free buffers */
};
_Static_assert(offsetof(struct member, op) == CACHE_LINE, "the owner's own lines");
_Static_assert(offsetof(struct member, base) == 4 * CACHE_LINE, "counters fill their lines");
_Static_assert(offsetof(struct member, cache) == 6 * CACHE_LINE, "the slot's words do too");

/* Words that change. There is one for each class; left, tokens, abandoned, swept and inquired are
 * those of the pool, and used in class 0 only. */
struct pool_shared {
	uint32_t free_wait; /* members asleep until a buffer is free */
	uint32_t left;      /* nonzero: the creator has closed the pool and kept it on purpose */
	uint64_t tokens;    /* number of the newest token: token.h */
	uint64_t abandoned; /* buffers ever abandoned: OWNER_ABANDONED; only grows */
	uint64_t trims;     /* extents ever removed */
	uint64_t pad;
	uint64_t swept;     /* abandoned buffers that sweeps have placed; only grows */
	uint32_t free_many; /* members that wait for many buffers sleep on this word instead */
	uint32_t free_want; /* the smallest number that one of them waits for: wait_want() */
	uint64_t inquired;  /* when to ask next which members are dead: recover_due.c */
};
#define SHARED_OFFSET (9 * CACHE_LINE)
#define SHARED_END (SHARED_OFFSET + CLASSES_MAX * sizeof(struct pool_shared))
_Static_assert(sizeof(struct pool_shared) % CACHE_LINE == 0, "whole lines");

/* Where buffers go that a dead member had got from a queue and neither freed nor put. */
enum on_death { ON_DEATH_FREE, ON_DEATH_REQUEUE, ON_DEATH_DEAD_LETTER };

/* A named queue. state is 0 (free), QUEUE_READY, or the tag of the member that creates it, with
 * QUEUE_NAMED once the name is written. A lane of a queue has the tag of its creator for good, with
 * QUEUE_LANE: lanes.h. */
#define QUEUE_READY UINT64_MAX
#define QUEUE_NAMED (1ull << 32)
#define QUEUE_LANE (1ull << 33)
struct queue_slot {
	uint64_t state;
	char name[NAME_MAX_BYTES + 1];
	uint32_t on_death;
	uint32_t dead_letter;      /* number of the dead-letter queue, 0 for none */
	uint32_t max_redeliveries; /* after so many a buffer goes there; 0 for no limit */
	uint32_t laned;            /* of a lane: the number of its queue */
	uint64_t refused;          /* buffers and payloads refused: no room, or no free buffer */
	uint64_t dropped;          /* buffers freed because the consumer that had got them died */
	uint32_t settled_wait;     /* members asleep until nothing is unfinished: unfinished.h */
	uint32_t pad1;
	/* Of a ring of free buffers: slots before this position may be stale (bypass.c). 0 for
	 * none. */
	alf_shared_position bypassed;
	uint64_t pad2;
	struct alf_queue queue;
};
_Static_assert(sizeof(struct queue_slot) == 5 * CACHE_LINE, "whole lines");

/* Queue slots are dealt out to pages, one after the other, so that the wait words of queues that
 * are used together lie in different pages: futex(2) writes a word of the kernel's that belongs to
 * the page (docs/tuning.md). There are QUEUE_PAGES of them; fewer if there are fewer slots, more if
 * these have no room for all. */
#define QUEUE_PAGE 4096u
#define QUEUE_PAGES 16u
#define QUEUES_IN_PAGE (QUEUE_PAGE / (uint32_t)sizeof(struct queue_slot))

/* A queue with the flag ALF_LANED has its messages in the rings of other queue slots, its lanes.
 * This table lies in place of its own slots. The first line does not change after creation. */
#define LANES_MAX 64u
struct lane_table {
	uint32_t lanes;
	uint16_t number[LANES_MAX]; /* of their queue slots */
	uint32_t pad0[15];
	shared64 active; /* lanes in use, the first ones; only raised */
	uint64_t pad1[7];
	shared64 producers; /* members that have put */
	shared64 consumers; /* members that have got */
	uint64_t pad2[6];
};
_Static_assert(sizeof(struct lane_table) % CACHE_LINE == 0, "whole lines");
_Static_assert(offsetof(struct lane_table, active) % CACHE_LINE == 0,
	       "read only, while it does not change");
#define LANE_TABLE_SLOTS ((uint32_t)(sizeof(struct lane_table) / sizeof(shared64)))

/* The addresses that each named queue has, in slots: for the largest ring; in tests with positions
 * of 8 bits, for a topic. */
#define RING_SLOTS (SHMPOOL_POSITION_BITS == 8 ? 2048u : ALF_CAPACITY_MAX)

/* A topic is a named queue with the flag ALF_TOPIC: each of its subscribers gets each buffer.
 * Behind the slots of its ring lie the words of its subscribers, and behind these SUBSCRIBERS_MAX
 * shelves, each with as many slots as the ring (topic.h). */
#define SUBSCRIBERS_MAX 24u /* of one topic: a holders word has a bit for each */
#define TOPIC_DEPTH_MAX (RING_SLOTS / 32)
struct topic_subscriber {
	uint64_t state;  /* | state 2 | token 62 |, 0 if it is free */
	uint64_t cursor; /* | keeps 16 | position 48 |: the next one that it gets */
	/* Only raised. When an earlier subscriber here was found dead, its topic was at this
	 * position: no later one gets a message before it. */
	alf_shared_position barred;
	uint32_t policy; /* enum topic_policy */
	/* Shown to people; no code relies on them. */
	uint32_t pid;  /* as that of a member */
	uint32_t held; /* messages that it has got and not let go */
	uint32_t pad;
	uint64_t gaps;    /* messages that it has lost */
	uint64_t name[2]; /* of the thread that has subscribed: process_name() */
};
struct topic {
	uint64_t gate; /* | joins 16 | position 48 |: publishers may reserve positions before it */
	/* The bits of subscribers for which evicted messages may be kept: hints. Each is changed by
	 * its subscriber alone. */
	uint64_t keepers;
	uint64_t pad[6];
	struct topic_subscriber subscriber[SUBSCRIBERS_MAX];
};
_Static_assert(sizeof(struct topic_subscriber) == CACHE_LINE, "a line for each");
_Static_assert(sizeof(struct topic) + (1 + SUBSCRIBERS_MAX) * TOPIC_DEPTH_MAX * sizeof(shared64) <=
		       RING_SLOTS * sizeof(shared64),
	       "a topic's shelves end before the next queue's slots");
#define TOPIC_SLOTS ((uint32_t)(sizeof(struct topic) / sizeof(shared64))) /* behind its ring */

#define BUFFER_PRODUCES (1u << 31)

/* A buffer's header. Only the buffer's holder writes owner and handle. */
struct buffer {
	uint64_t owner;
	uint32_t got; /* its generation when it was got from queue; differs if it was freed since */
	uint32_t length;   /* bytes in use, from headroom on */
	uint32_t headroom; /* bytes before them */
	uint32_t mark;     /* the user's */
	uint32_t flow_hash;
	uint32_t queue;     /* number of the queue it was last got from, 0 for none; with
			       BUFFER_PRODUCES: it stands for a producer (unfinished.h) */
	uint64_t timestamp; /* ns, the user's clock */
	union {
		uint64_t failures_link; /* the three fields in one word: */
		struct {
			uint16_t redelivered; /* times it was put back: its consumer died or
						 returned it (requeue.h); stays at 65,535 */
			uint16_t origin;      /* number of the queue from which it became a dead
						 letter, 0 for none */
			uint32_t link;        /* to the next segment: chain.h */
		};
	};
	/* CLOCK_MONOTONIC, ns, some ms coarse: its holder allocated or got it. In a topic and in
	 * the hands of its subscribers the holders word: topic.h */
	uint64_t since;
	uint64_t handle; /* its present handle: handle_of(). Each free raises the generation. With
			    HANDLE_CHAIN: chain.h */
};
_Static_assert(sizeof(struct buffer) == CACHE_LINE, "one cache line");
_Static_assert(offsetof(struct buffer, owner) == 0 && offsetof(struct buffer, length) == 12 &&
		       offsetof(struct buffer, headroom) == 16 &&
		       offsetof(struct buffer, mark) == 20 &&
		       offsetof(struct buffer, flow_hash) == 24 &&
		       offsetof(struct buffer, queue) == 28 &&
		       offsetof(struct buffer, timestamp) == 32,
	       "other languages read these");

#endif
