/* SPDX-License-Identifier: Apache-2.0
 *
 * steer_world.h - a small pool, its members under steer.h, and what must be true of them. Shared by
 * runs that a seed steers (steer_pool.c) and runs that a script steers (steer_script.h).
 *
 *     checked           that
 *     at each return    what is allocated or got was owned by no live member; a message of several
 *                       buffers is whole
 *     between steps     the audit is exact (in runs without store buffers)
 *     at idle           after recovery no member sleeps on a queue that has what it waits for, or
 *                       that has ended
 *     after shutdown    no later put succeeds; a get that finds the queue ended misses nothing
 *     at the end        one recovery leaves nothing to do; all messages came out once, except those
 *                       that dead members had got; every buffer can be allocated; no word names a
 *                       member; each death is counted once
 */
#ifndef STEER_WORLD_H
#define STEER_WORLD_H

#include "steer.h"

#include "audit.h"
#include "blocking.h"
#include "chain.h"
#include "check.h"
#include "member.h"
#include "pin.h"
#include "queue.h"
#include "slab.h"
#include "steer_kernel.h"

#define CAPACITY_MOST 64
#define MEMBERS 10u
#define QUEUES 3u
#define BULK_MOST 3u
#define DEADLINE_NS 2000000000ll /* of waiting */

/* What a thread does next. */
enum operation {
	ALLOC,
	FREE,
	PUT,
	GET,
	TRY, /* to allocate, also from behind suspended members */
	ALLOC_WAIT,
	PUT_WAIT,
	GET_WAIT,
	RECOVER,
	REQUEST,
	DRAIN,
	TRIM,
	REATTACH,
	CREATE,
	GIVE_UP,
	NACK,
	NACK_LATER,
	MOVE,
	PEEK,
	SEND,
	HAND_OVER,
	ADOPT,
	END,
	ATTACH,
	CHAIN,
	PIN, /* the pool, and register what exists; if it is pinned: unpin it */
	SHUTDOWN,
	PUBLISH, /* these of steer_topic.h */
	PUBLISH_WAIT,
	SUBSCRIBE,
	TAKE,
	TAKE_WAIT,
	LET_GO,
	LEAVE,
	END_TOPIC,
	CALL,
	OPERATIONS
};

#define REQUEUE { .what = ON_DEATH_REQUEUE }
#define SP ALF_SINGLE_PRODUCER
#define SC ALF_SINGLE_CONSUMER

#define DUELS 6
/* A pool, and for steer_pool.c what is done with it. */
struct profile {
	const char *name;
	uint32_t capacity, prealloc, cache, bulk, extent, ring;
	uint32_t threads, operations; /* of each thread */
	uint32_t deaths, mortal;
	uint32_t most; /* buffers at a time */
	bool same;     /* always that many, and on one queue */
	bool same_queue;
	bool one_process; /* the threads are of one process, and hand buffers to each other */
	bool peeked;      /* each header names the message it belongs to */
	bool chains;      /* threads that die are in the middle of a chain more often */
	bool lanes;       /* the same with queues that have lanes */
	bool topics;      /* the same of the topic */
	uint32_t members; /* number of slots, if not MEMBERS */
	uint32_t made;    /* lanes of the queue that threads create */
	uint32_t second;  /* capacity of a second size class; 0 for none */
	uint32_t warm;    /* slots of each side ring of each class; 0 for none */
	uint32_t sides;   /* how many side rings each class has, if not 1 */
	uint32_t topic;   /* depth of a topic; 0 for none */
	uint8_t policies[STEER_THREADS]; /* bits of those it subscribes with; 0: all */
	uint32_t each[STEER_THREADS];    /* the same as most, by thread */
	uint32_t flags[QUEUES];
	struct queue_on_death on_death[QUEUES];
	const char *duel[DUELS]; /* of steer.h */
	/* By thread; the last row that is given also counts for the threads after it. */
	uint8_t weight[STEER_THREADS][OPERATIONS];
};

enum fate { UNSENT, SENDING, SENT, RECEIVED, DONE };
struct message {
	enum fate fate;
	uint32_t producer, queue, bulk, n, taker;
	bool returned;
	uint32_t from; /* 1 + the queue that its buffer was got from before, 0 for none */
	bool back;     /* it went back there; then queue says so */
};

/* The state of a thread; the last one is of the checker. */
struct actor {
	struct qmempool pool;
	struct member *m;
	uint32_t tag;
	uint64_t hand[CAPACITY_MOST];
	bool got[CAPACITY_MOST]; /* got from a queue: a message */
	uint32_t held;
	uint32_t getting, getting_from; /* in the middle of getting that many at most */
	const struct alf_ring *waits_on;
	uint32_t waits_for;
	struct pin pin;
	uint32_t last[STEER_THREADS][QUEUES]; /* number of the last message seen */
};
#define LAST STEER_THREADS

extern const struct profile *world_profile;
extern struct segment world_segment;
extern struct actor world_actors[STEER_THREADS + 1];

#define DEMAND(condition)                                                                          \
	((condition) ? (void)0 : steer_failed("%s:%d: not so: %s", __FILE__, __LINE__, #condition))
#define SAME(expected, actual)                                                                     \
	do {                                                                                       \
		long long e_ = (long long)(expected), a_ = (long long)(actual);                    \
		if (e_ != a_)                                                                      \
			steer_failed("%s:%d: %s is %lld, not %lld", __FILE__, __LINE__, #actual,   \
				     a_, e_);                                                      \
	} while (0)

/* Creates a pool for the profile. */
void world_make(const struct profile *profile);
/* Makes the pool as it was when it was new. */
void world_begin(void);
/* Recovers once, and then checks what must be true when no thread makes steps any more. */
void world_end(void);
/* Operations of a thread. Each checks what it gets. All except world_alloc() of many take or give
 * as many of the n as they can. */
void world_attach(uint32_t me);
void world_reattach(uint32_t me);
void world_alloc(uint32_t me, uint32_t n, bool wait, int64_t most_ns);
void world_free(uint32_t me, uint32_t n);
void world_put(uint32_t me, uint32_t queue, uint32_t n, bool wait);
void world_get(uint32_t me, uint32_t queue, uint32_t n, bool wait);
void world_create(uint32_t me);
void world_shutdown(uint32_t me, uint32_t queue);
/* Returns the thread's newest buffer to its queue, if it came from one; with later also if there is
 * no room. */
void world_nack(uint32_t me, bool later);
/* Moves a dead letter back to the queue it came from. */
void world_move(uint32_t me, uint32_t queue);
void world_peek(uint32_t me, uint32_t queue);
/* Allocates, fills and puts n at once. */
void world_send(uint32_t me, uint32_t queue, uint32_t n);
/* Notes that the thread has freed all that it had. */
void world_forget(uint32_t me);
/* Makes a chain of the thread's newest n buffers, if it has just allocated so many; backwards: the
 * last of them is the head. */
void world_chain(uint32_t me, uint32_t n, bool backwards);
/* For threads of one process. What one thread hands over, any other may adopt, and frees at
 * once. */
void world_hand_over(uint32_t me);
void world_adopt(uint32_t me);
/* The thread ends, and another one begins in its place. */
void world_end_thread(uint32_t me);
/* Pins the pool; checks that what is registered keeps its memory until it is unpinned. */
void world_pin(uint32_t me);
void world_register(uint32_t me); /* what exists since */
void world_unpin(uint32_t me);
/* For steer_topic.c. None makes a step, but the check that a message is whole. */
uint32_t *world_text(uint64_t handle);
void world_number(uint64_t handle, uint32_t number); /* writes it into all buffers of a message */
uint32_t world_next_part(uint32_t index); /* 1 + the buffer that follows in a chain; 0 for none */
uint32_t world_parts(uint32_t index);     /* buffers of the message */
void world_check_whole(uint32_t me, uint64_t handle);
/* Notes that a thread no longer owns its newest n buffers, or that it still does. */
const uint64_t *world_part_with(uint32_t me, uint32_t n);
void world_keep(uint32_t me, uint32_t n);
/* Any of these, on a queue and with n buffers where that applies. *out gets a recovery's
 * result. */
void world_operate(uint32_t me, enum operation what, uint32_t queue, uint32_t n,
		   struct shmpool_recovery *out);

#endif
