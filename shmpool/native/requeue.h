/* SPDX-License-Identifier: Apache-2.0
 *
 * requeue.h - buffers whose consumer failed: where they go, and calls for a consumer that is alive
 * and returns a buffer itself.
 *
 * Who may call what at the same time: any number of members.
 *
 * requeue() puts a buffer into the queue that it was got from, or into that queue's dead-letter
 * queue.
 *
 *     killed                           leaves                         repaired by
 *     before the position is reserved  the buffer OWNED(dead)         sweep(), as on_death says
 *     before the slot is published     as any producer (transfer.h)   ranges_bury(), sweep()
 *     in requeue_abandon(), before     the buffer ABANDONED, not      sweep() for the dead member
 *       it counts the buffer           counted
 *
 * Either way the buffer comes out once. redelivered is raised after the position is reserved; if
 * the member is killed between this and the publication, its death raises it again.
 *
 * If there is no room, requeue_abandon() leaves the buffer to the next recoverer, which puts it
 * into the queue, as the sweep does with a dead consumer's buffers. Waiting instead could block for
 * good: if all consumers of a full queue wait for room, none of them makes any.
 *
 * Progress: nothing here waits. blocking_requeue() waits for room.
 */
#ifndef SHMPOOL_REQUEUE_H
#define SHMPOOL_REQUEUE_H

#include "queue.h"

/* Returns the number of the queue to which a failed buffer goes that was got from queue from: from
 * itself, or its dead-letter queue, if its on_death says so or the buffer was put back
 * max_redeliveries times. ON_DEATH_FREE is the caller's to handle. */
static inline uint32_t requeue_to(const struct queue_slot *slot, uint32_t from,
				  uint32_t redelivered)
{
	uint32_t letter = load_relaxed(&slot->dead_letter);
	uint32_t most = load_relaxed(&slot->max_redeliveries);
	bool over = letter && most && redelivered >= most;
	return load_relaxed(&slot->on_death) == ON_DEATH_DEAD_LETTER || over ? letter : from;
}

/* Records in the header that a consumer of queue from failed. Call it before the buffer is
 * published in queue to. */
static inline void requeue_note(struct buffer *b, uint32_t from, uint32_t to)
{
	store_relaxed(&b->queue, from);
	store_relaxed(&b->got, buffer_generation(b));
	const uint16_t times = load_relaxed(&b->redelivered);
	store_relaxed(&b->redelivered, (uint16_t)(times + (times < UINT16_MAX)));
	if (to != from)
		store_relaxed(&b->origin, (uint16_t)from);
}

/* Puts a buffer of m back and stores the number of its queue in *to. Returns 0; -ENOBUFS if there
 * is no room; -EXDEV if the buffer was not got from a queue; -EOPNOTSUPP if the queue has a single
 * producer; -EBADMSG if the segment is corrupted; -EINVAL, -ESTALE, -EPERM as queue_put(). */
int requeue(struct qmempool *p, struct member *m, uint64_t handle, uint32_t *to);

/* The last step of requeue(): puts the buffer into ring r, which requeue() has chosen. Returns 0,
 * -ENOBUFS, or the code of a handle that m may not put. */
int requeue_put(struct qmempool *p, struct member *m, const struct alf_ring *r, uint64_t handle);

/* Abandons a buffer for which requeue() found no room. The next recoverer puts it into its queue,
 * once there is room. */
void requeue_abandon(struct qmempool *p, struct member *m, uint64_t handle);

/* Moves the oldest buffer of queue from to the end of queue number to; if to is 0, to the queue
 * from which it became a dead letter. reset sets its redelivered to 0. Takes none while a queue
 * that to names is full. Returns 0; -EAGAIN if from is empty; -EBUSY, -EBADMSG as queue_get(). If
 * the buffer cannot go there, it is put back at the end of from: -ENOBUFS no room, -ENOENT no such
 * queue, -EOPNOTSUPP that queue has a single producer. If from is full by then too, the buffer is
 * abandoned to it. */
int requeue_move(struct qmempool *p, struct member *m, const struct alf_ring *from, uint32_t to,
		 bool reset);

#endif
