/* SPDX-License-Identifier: Apache-2.0
 *
 * lanes.h - queues with lanes: several rings behind one queue, so that many members on many cores
 * do not share one position. Chooses the lane of each put and get. Moves no buffer.
 *
 * A queue with lanes (ALF_LANED) has a name, on_death, one word on which consumers sleep, and
 * ALF_CLOSED. Its messages are in its lanes (ALF_LANE). A lane is a queue slot with a ring of its
 * own and no name, so op records, owner words, recovery and audits treat it as any queue. A buffer
 * that was got from a lane has the number of the queue in its header.
 *
 *     who         where
 *     a producer  always in the same lane, so its messages keep their order. If lanes are added it
 *                 may go to another one, once it finds its own empty: all that it has put there was
 *                 taken. It looks for new lanes every LANES_PUTS puts, and at each put while it
 *                 has to go to another one. If it finds no room, it learns its lane's share.
 *     a consumer  from its own lane; if that is empty, from the others. Every LANES_STAY messages
 *                 it looks at one other lane; if nobody has taken the message at its head since it
 *                 looked the last time, it stays there for as many. So a message at the head of its
 *                 lane waits for 2 x LANES_STAY x lanes gets of each consumer at most.
 *     recovery    what comes back goes to any lane with room; a nack() that waits for room waits
 *                 for that of its own lane
 *
 * Full is said when the producer's lane is full; the lanes share out the queue's capacity.
 *
 * A queue with ALF_LANES_GROW begins with one lane. A producer doubles them if producers lose a
 * compare-and-swap on its lane for every LANES_LOSS of its puts. Each lane then has a smaller share
 * of the capacity; until each producer knows it and the first lane has no more than that, they may
 * hold more than it together.
 *
 *     creation: a crash of the creator leaves        repaired by
 *     before the queue is QUEUE_READY: slots with    recover_makers() frees them
 *       its tag, lanes with its tag and QUEUE_LANE
 *     after it: nothing. Lanes keep that tag; they are in use if a queue that is QUEUE_READY lists
 *       them in its table (queue_listed())
 *
 *     shutdown: a crash between the queue and one    the next member that gets from the queue, or
 *       of its lanes leaves that one open            recovers: lanes_close(). A get says that
 *                                                    the queue has ended once all are closed
 *
 * Ordering
 *     [LANES]  the table: written before the queue is QUEUE_READY. active is raised by
 *              compare-and-swap; a lane is complete before, so a member that reads
 *              it may use the new or the old value. producers and consumers are counters that
 *              deal out lanes.
 *
 * What one process remembers of its members' lanes (struct lane_user) is only used by the thread
 * that is that member. A process that is forked gets a copy of what other threads have written so
 * far: the counts `puts` and `left` are written after the lanes that they let it use.
 */
#ifndef SHMPOOL_LANES_H
#define SHMPOOL_LANES_H

#include "qmempool.h"

#define LANES_SHIFT 16 /* queue_create(): flags have the number of lanes here */
#ifndef LANES_STAY     /* steer.h has fewer of each */
#define LANES_STAY 32
#define LANES_LOSS 16u
#define LANES_PUTS 64u /* puts between two looks at new lanes and lost compare-and-swaps */
#endif

/* What a process remembers of one of its members. */
struct lane_user {
	const struct alf_ring *in;  /* the lane into which it puts */
	const struct alf_ring *out; /* the lane that it takes from first */
	int32_t puts;               /* until it chooses `in` again; 0 before its first put */
	int32_t left;      /* messages until it looks at another lane; 0 before its first */
	uint32_t producer; /* its number among the producers + 1; 0 before its first put */
	uint32_t consumer;
	uint32_t in_lane; /* the numbers of both lanes */
	uint32_t out_lane;
	uint32_t lanes; /* that were in use when it chose `out` */
	uint32_t found; /* the lane in which it last found something while `out` was empty */
	uint32_t look;  /* the lane that it looks at next */
	uint32_t given; /* what `puts` was when it last chose `in` */
	uint32_t done;  /* puts since it looked at the lost compare-and-swaps */
	uint32_t lost;  /* as many were lost then */
	alf_position seen[LANES_MAX]; /* cons of each lane when it looked at it */
};

/* One process's view of a queue with lanes. */
struct lanes {
	struct alf_ring ring; /* the queue: it has no positions of its own */
	struct lane_table *table;
	uint32_t n;
	uint32_t active; /* as many share the capacity here; 0: not shared out yet */
	uint32_t users;  /* of user, less one: 2^k - 1 */
	struct alf_ring *lane[LANES_MAX];
	struct lane_user user[]; /* by the number in the member's tag */
};

static inline bool lanes_are(const struct alf_ring *r)
{
	return r->flags & ALF_LANED;
}

static inline struct lane_user *lanes_user(struct lanes *l, const struct member *m)
{
	return &l->user[m->tag & l->users]; /* inside, whatever a corrupted tag says */
}

/* Returns how many messages each lane of a queue holds. */
uint32_t lanes_room(uint32_t capacity, uint32_t lanes);

/* Returns how many lanes are in use: at least one, whatever a corrupted word says. */
uint32_t lanes_active(const struct lanes *l);

/* Shares the capacity of a queue with ALF_LANES_GROW out to the lanes in use, for this process, if
 * it has not been. Returns how many they are. */
uint32_t lanes_know(struct lanes *l);

/* Chooses the lane into which u puts now, and `puts` times more. Returns it. */
const struct alf_ring *lanes_choose_in(struct lanes *l, struct lane_user *u);

/* Chooses the lane that u takes from first, until it has got `left` messages. Returns it. */
const struct alf_ring *lanes_choose_out(struct lanes *l, struct lane_user *u);

/* Returns the lane into which m puts. */
static inline const struct alf_ring *lanes_in(const struct member *m, const struct alf_ring *r)
{
	struct lane_user *u = lanes_user(r->lanes, m);
	return likely(--u->puts >= 0) ? u->in : lanes_choose_in(r->lanes, u);
}

/* Returns the lane that u takes from first. */
static inline const struct alf_ring *lanes_out(struct lanes *l, struct lane_user *u)
{
	return likely(u->left > 0) ? u->out : lanes_choose_out(l, u);
}

/* The other lanes in which a get looks, one after the other. */
struct lanes_walk {
	uint32_t n; /* lanes in use */
	uint32_t step;
	uint32_t at; /* the lane that was returned last */
};

/* Returns the next lane but u->out that has a message, from u->found on, or NULL. */
const struct alf_ring *lanes_other(const struct lanes *l, const struct lane_user *u,
				   struct lanes_walk *w);

/* Closes the lanes of a queue that is closed. May be repeated. Returns false if one of them could
 * not be closed now. */
bool lanes_close(const struct alf_ring *r);

#endif
