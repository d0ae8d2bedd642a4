/* SPDX-License-Identifier: Apache-2.0
 *
 * queue.h - the named queues of a pool: created and found by name; members put and get.
 *
 * Who may call what at the same time: any number of members. In a queue with a single producer
 * (consumer) the first member that puts (gets) takes the role, until it detaches or releases it.
 * All others get -EBUSY, and nothing has changed.
 *
 *     a queue slot's state    meaning                           a crash of that member leaves;
 *                                                               repaired by
 *     0                       free
 *     tag                     that member creates a queue       a slot that no member uses:
 *                                                               recover_makers() frees it
 *     tag | QUEUE_NAMED       the same; the name is written     the same
 *     QUEUE_READY             a queue, for the pool's life
 *
 *     from -> to              by                                              in
 *     0 -> tag                the creator, by CAS                             make()
 *     tag -> tag | NAMED      the creator                                     make()
 *     tag | NAMED -> tag      a creator of the same name with a lower number  outranked()
 *     tag | NAMED -> READY    the creator, by CAS                             make()
 *     tag -> 0                the creator, if it fails                        make()
 *     any tag -> 0            a recoverer, if that member is dead, by CAS     recover_makers()
 *
 * With ALF_ON_DEMAND a ring gets its memory as it fills: a put that reaches the end of what has
 * memory reserves the next part, without a lock. Reserving a part twice changes nothing, also if
 * one of two members that do so fails or is killed: tmpfs takes back no page that another call has
 * reserved or passed.
 *
 *     killed                        leaves                       repaired by
 *     before the part is reserved   nothing
 *     before `backed` is raised     memory that no member uses   the next put that reaches the end:
 *                                                                it reserves the part again
 *
 * Ordering
 *     [QUEUE]  a queue slot's state: the member that creates the queue writes QUEUE_READY by
 *              compare-and-swap. A member that reads QUEUE_READY, with acquire, sees its name,
 *              geometry and empty ring. Two that create the same name each write QUEUE_NAMED and
 *              then read the states of others, all seq_cst, so at least one sees the other.
 *
 * Progress: nothing here waits, or asks which members are dead. blocking.h does.
 */
#ifndef SHMPOOL_QUEUE_H
#define SHMPOOL_QUEUE_H

#include "lanes.h"

/* Where a dead consumer's buffers go: the fields of struct queue_slot. */
struct queue_on_death {
	uint32_t what; /* enum on_death */
	uint32_t dead_letter;
	uint32_t max_redeliveries;
};

/* Creates a queue. flags are those of alf_queue.h; with ALF_LANED, and the number of lanes at
 * LANES_SHIFT, a queue with lanes, each of which takes a number too. Returns its number, from
 * 1 on; -EEXIST; -EINVAL for a bad name or capacity; -EDOM if recovery could not put buffers back,
 * into this queue or its dead-letter queue: the queue has a single producer, or does not exist;
 * -ENFILE if too few numbers are left; -ENOMEM; or what segment_reserve() returns. One attempt:
 * queue_create_again() tells whether another one is due. */
int queue_create(struct qmempool *p, struct member *m, const char *name, uint32_t capacity,
		 uint32_t flags, const struct queue_on_death *on_death);

/* True if a repeated creation may succeed, or tell more exactly why not, after one that needed so
 * many numbers and failed with -EEXIST or -ENFILE: another member is creating a queue, of the same
 * name or in a slot that is missing, or has just given up, or died. */
bool queue_create_again(const struct qmempool *p, const char *name, uint32_t numbers, int error);

/* Returns the number of a queue, or -ENOENT. */
int queue_find(const struct qmempool *p, const char *name);

/* Returns the ring of a queue. Returns NULL if there is no such queue, if its slot is corrupted, or
 * if there is no memory. */
const struct alf_ring *queue_ring(struct qmempool *p, uint32_t number);

/* The same of a lane of that queue; also NULL if that slot is none. */
struct alf_ring *queue_lane(struct qmempool *p, uint32_t number, uint32_t queue);

/* Returns how many messages a slot's ring holds, 0 if it is corrupted. */
uint32_t queue_room(const struct queue_slot *slot);

/* Returns the slots of the ring of any number. */
static inline uint64_t *queue_slots(const struct qmempool *p, uint32_t number)
{
	return (uint64_t *)(p->segment.base + p->segment.rings_offset) +
	       (uint64_t)(number - 1) * RING_SLOTS;
}

/* Returns the table of a queue with lanes. */
static inline struct lane_table *queue_lanes(const struct qmempool *p, uint32_t number)
{
	return (struct lane_table *)queue_slots(p, number);
}

/* Reserves the memory of n slots of a ring, from slot first on. Returns what segment_reserve()
 * returns. */
int queue_reserve(const struct qmempool *p, const struct alf_ring *r, uint32_t first, uint32_t n);

/* True if a queue lists the slot with that number as its lane. */
bool queue_listed(const struct qmempool *p, uint32_t number);

/* True if there is a queue with that number. Then queue_ring() returns NULL only for want of
 * memory. */
bool queue_exists(struct qmempool *p, uint32_t number);

/* Returns why queue_ring() returned NULL: -ENOMEM or -ENOENT. */
int queue_missing(struct qmempool *p, uint32_t number);

/* Returns the ring into which m puts: its lane, or the queue itself if it has no lanes. */
static inline const struct alf_ring *queue_in(const struct member *m, const struct alf_ring *r)
{
	return likely(!lanes_are(r)) ? r : lanes_in(m, r);
}

/* Returns the k-th ring that has messages of the queue, or NULL. */
static inline const struct alf_ring *queue_part(const struct alf_ring *r, uint32_t k)
{
	if (likely(!lanes_are(r)))
		return k ? NULL : r;
	return k < r->lanes->n ? r->lanes->lane[k] : NULL;
}

/* Returns how many messages a queue or a lane holds now. */
uint32_t queue_share(struct qmempool *p, const struct alf_ring *r);

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
	struct queue_seen seen = { false, false };
	seen.closed = load_seq_cst(&r->q->prod) & ALF_CLOSED; /* [WAIT] */
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

/* Releases m's single-producer and single-consumer role, if it has one. */
void queue_release(const struct alf_ring *r, const struct member *m);

/* Ends the queue: from now on puts return -EPIPE, and so do gets once it is empty. What comes back
 * (requeue.h) still enters it. Wakes all that wait. May be repeated. Returns 0, or -EBUSY if
 * another member has the single-producer role. */
int queue_shutdown(const struct alf_ring *r, const struct member *m);

/* Puts n buffers, all or none. r is what queue_in() returned. Returns 0; -ENOBUFS if there is no
 * room; -EPIPE after queue_shutdown(); -EMSGSIZE if n is over r->bulk; what segment_reserve()
 * returns if there is no memory for the ring; -EBUSY if another member has the single-producer
 * role; -EINVAL, -ESTALE, -EPERM for a handle that m may not put (qmempool_check()). */
int queue_put(struct qmempool *p, struct member *m, const struct alf_ring *r,
	      const uint64_t *handle, uint32_t n);

/* queue_get() of each kind of queue. */
int queue_get_multi(struct qmempool *p, struct member *m, const struct alf_ring *r,
		    uint64_t *handle, uint32_t n);
int queue_get_single(struct qmempool *p, struct member *m, const struct alf_ring *r,
		     uint64_t *handle, uint32_t n);
int queue_get_lanes(struct qmempool *p, struct member *m, const struct alf_ring *r,
		    uint64_t *handle, uint32_t n);

/* Gets 1 to n buffers, n at most queue_most(). Returns how many; -EAGAIN if the queue is empty;
 * -EPIPE if it is and was ended; -EBUSY if another member has the single-consumer role; -EBADMSG if
 * the ring is corrupted. */
static inline int queue_get(struct qmempool *p, struct member *m, const struct alf_ring *r,
			    uint64_t *handle, uint32_t n)
{
	if (likely(!(r->flags & (ALF_SINGLE_CONSUMER | ALF_LANED))))
		return queue_get_multi(p, m, r, handle, n);
	return lanes_are(r) ? queue_get_lanes(p, m, r, handle, n) :
			      queue_get_single(p, m, r, handle, n);
}

/* alf_reserve_back() for m of one position of *r, which gets more memory if it must. If *r is a
 * queue with lanes, changes *r to the one that has the position. Returns 0, or -ENOBUFS also if
 * there is no memory. */
int queue_reserve_back(const struct qmempool *p, struct member *m, const struct alf_ring **r,
		       alf_position *at);

/* alf_most() of a queue with or without lanes. */
static inline uint32_t queue_most(const struct alf_ring *r, uint64_t n)
{
	if (likely(!lanes_are(r)))
		return alf_most(r, n);
	return n < r->bulk ? (uint32_t)n : r->bulk;
}

/* True if a get that found nothing should be repeated by blocking_get(): a position is reserved and
 * not published, and its producer may be dead. True once in QUEUE_EMPTIES times only, since the
 * test reads the producers' cache line. */
#define QUEUE_EMPTIES 256
static inline bool queue_stuck(const struct alf_ring *r, const struct member *m)
{
	return load_relaxed(&m->counters[COUNT_EMPTY]) % QUEUE_EMPTIES == 0 && !queue_empty(r);
}

#endif
