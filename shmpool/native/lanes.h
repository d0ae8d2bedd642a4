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
 *                 taken.
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
 * of the capacity; until the first one has no more than that, they may hold more than it together.
 *
 *     creation: a crash of the creator leaves        repaired by
 *     before the queue is QUEUE_READY: slots with    recover_makers() frees them
 *       its tag, lanes with its tag and QUEUE_LANE
 *     after it: nothing. Lanes keep that tag; they are in use if a queue that is QUEUE_READY lists
 *       them in its table (lanes_listed())
 *
 *     shutdown: a crash between the queue and one    the next member that gets from the queue, or
 *       of its lanes leaves that one open            recovers: lanes_close(). A get says that
 *                                                    the queue has ended once all are closed
 *
 * Ordering
 *     [LANES]  the table: written before the queue is QUEUE_READY. active is raised by
 *              compare-and-swap; a lane is complete before, so a member may use the new or the
 *              old value. producers and consumers are counters that deal out lanes.
 *
 * What one process remembers of its members' lanes (struct lane_user) is only used by the thread
 * that is that member.
 */
#ifndef SHMPOOL_LANES_H
#define SHMPOOL_LANES_H

#include "qmempool.h"

#define LANES_SHIFT 16 /* queue_create(): flags have the number of lanes here */
#ifndef LANES_STAY     /* steer.h has fewer of each */
#define LANES_STAY 32u
#define LANES_LOSS 16u
#define LANES_PUTS 64u /* puts between two looks at the lost compare-and-swaps */
#endif

/* What a process remembers of one of its members. */
struct lane_user {
	uint32_t producer; /* its number among the producers + 1; 0 before its first put */
	uint32_t consumer;
	uint32_t lanes; /* that were in use when it chose out */
	uint32_t in;    /* the lane into which it puts */
	uint32_t out;   /* the lane that it takes from first */
	uint32_t found; /* the one in which it last found something while that was empty */
	uint32_t left;  /* messages until it looks at another one */
	uint32_t look;  /* that one */
	uint32_t puts;  /* until it looks at the lost compare-and-swaps */
	uint32_t lost;  /* as many were lost then */
	alf_position seen[LANES_MAX]; /* cons of each lane when it looked at it */
};

/* One process's view of a queue with lanes. */
struct lanes {
	struct alf_ring ring; /* the queue: it has no positions of its own */
	struct lane_table *table;
	uint32_t n;
	uint32_t active;  /* as many share the capacity here; 0: not shared out yet */
	uint32_t members; /* of user */
	struct alf_ring *lane[LANES_MAX];
	struct lane_user user[]; /* by slot number of the member */
};

static inline bool lanes_are(const struct alf_ring *r)
{
	return r->flags & ALF_LANED;
}

/* Returns how many messages each lane of a queue holds. */
uint32_t lanes_room(uint32_t capacity, uint32_t lanes);

/* Makes the lanes of a queue that m creates: queue slots and table. Returns 0, -ENFILE if too few
 * numbers are left, or what segment_reserve() returns; then it leaves none. */
int lanes_make(struct qmempool *p, struct member *m, uint32_t queue, uint32_t capacity,
	       uint32_t lanes, uint32_t flags);

/* Frees the lanes that m has made for a queue that did not become QUEUE_READY. */
void lanes_unmake(struct qmempool *p, struct member *m, uint32_t queue);

/* True if a queue lists the slot with that number as its lane. */
bool lanes_listed(const struct qmempool *p, uint32_t number);

/* True if each slot that the table of a queue names is a lane of it. */
bool lanes_whole(const struct qmempool *p, uint32_t queue);

/* Returns a view of a queue with lanes. NULL without memory, or if its table is corrupted. */
struct lanes *lanes_bind(struct qmempool *p, uint32_t queue);

/* Returns how many messages a queue or a lane holds now. */
uint32_t lanes_share(struct qmempool *p, const struct alf_ring *r);

/* Returns how many lanes are in use: at least one, whatever a corrupted word says. */
uint32_t lanes_active(const struct lanes *l);

/* Gives a lane's ring what it has of its queue. */
void lanes_belong(const struct qmempool *p, struct alf_ring *r);

/* Returns the lane into which m puts. */
const struct alf_ring *lanes_in(const struct member *m, const struct alf_ring *r);

/* The same, or the queue itself if it has no lanes. */
static inline const struct alf_ring *queue_in(const struct member *m, const struct alf_ring *r)
{
	return likely(!lanes_are(r)) ? r : lanes_in(m, r);
}

/* The lanes in which a get looks, one after the other. */
struct lanes_walk {
	const struct lanes *l;
	struct lane_user *u;
	uint32_t n; /* lanes in use */
	uint32_t step;
	uint32_t at; /* the lane that was returned last */
};
struct lanes_walk lanes_begin(const struct member *m, const struct alf_ring *r);
const struct alf_ring *lanes_next(struct lanes_walk *w); /* NULL after the last one */
void lanes_got(struct lanes_walk *w, uint32_t n);        /* n from the lane returned last */

/* Closes the lanes of a queue that is closed. May be repeated. Returns false if one of them could
 * not be closed now. */
bool lanes_close(const struct alf_ring *r);

/* The next ones are questions to a queue with or without lanes. */

/* Returns the k-th ring that has messages of the queue, or NULL. */
static inline const struct alf_ring *queue_part(const struct alf_ring *r, uint32_t k)
{
	if (likely(!lanes_are(r)))
		return k ? NULL : r;
	return k < r->lanes->n ? r->lanes->lane[k] : NULL;
}

/* Returns how many messages there are, reserved positions included. */
static inline uint64_t queue_count(const struct alf_ring *r)
{
	const struct alf_ring *part;
	uint64_t n = 0;
	for (uint32_t k = 0; (part = queue_part(r, k)); k++)
		n += alf_count(part);
	return n;
}

static inline bool queue_empty(const struct alf_ring *r)
{
	const struct alf_ring *part;
	for (uint32_t k = 0; (part = queue_part(r, k)); k++)
		if (!alf_empty(part))
			return false;
	return true;
}

/* Returns the sum of the positions that were reserved. Each of them only grows, so if the sum has
 * not changed, none has. */
static inline alf_position queue_reserved(const struct alf_ring *r)
{
	const struct alf_ring *part;
	alf_position n = 0;
	for (uint32_t k = 0; (part = queue_part(r, k)); k++)
		n += alf_end(load_acquire(&part->q->prod)); /* [PROD] */
	return n;
}

/* True if all lanes were empty at the same time. queue_empty() may miss a message that was taken
 * from a lane that it has not read yet and put back into one that it has. */
static inline bool queue_drained(const struct alf_ring *r)
{
	const alf_position before = queue_reserved(r);
	return queue_empty(r) && queue_reserved(r) == before;
}

/* What a sleeper that is counted sees: whether positions are reserved that no consumer has taken,
 * and whether the queue is closed. Then it also makes that known, since the member that closed it
 * may have been killed before. */
struct queue_seen {
	bool reserved;
	bool closed;
};
static inline struct queue_seen queue_see(const struct alf_ring *r)
{
	struct queue_seen seen = { false, load_seq_cst(&r->q->prod) & ALF_CLOSED }; /* [WAIT] */
	const struct alf_ring *part;
	for (uint32_t k = 0; !seen.reserved && (part = queue_part(r, k)); k++)
		seen.reserved = alf_end(load_seq_cst(&part->q->prod)) != /* [WAIT] */
				load_seq_cst(&part->q->cons);            /* [WAIT] */
	if (unlikely(seen.closed))
		store_relaxed(&r->q->ended, 1);
	return seen;
}

/* True if a message is published at the head of one of them. */
static inline bool queue_ready(const struct alf_ring *r)
{
	const struct alf_ring *part;
	for (uint32_t k = 0; (part = queue_part(r, k)); k++)
		if (alf_ready(part, 0))
			return true;
	return false;
}

#endif
