/* SPDX-License-Identifier: Apache-2.0
 *
 * requeue.h - buffers whose consumer failed: where they go, and the consumer that lives to say so
 * itself.
 *
 * Who may call what at the same time: any number of members.
 *
 * requeue() is a put into the queue that the buffer was got from, or into that queue's dead-letter
 * queue. Killed before the position is reserved, the member dies with the buffer in its hands;
 * killed between that and the published slot, it dies as any producer (transfer.h). Either way the
 * buffer comes out once. redelivered is raised once the position is reserved: whoever is killed
 * between the two is counted again for its death.
 *
 * If there is no room, requeue_abandon() leaves the buffer to the next recoverer, in its queue's
 * name, as the sweep does with a dead consumer's: if all consumers of a full queue waited for room,
 * none would make any.
 *
 * Progress: nothing here waits. blocking_requeue() waits for room.
 */
#ifndef SHMPOOL_REQUEUE_H
#define SHMPOOL_REQUEUE_H

#include "queue.h"

/* Where a failed buffer that was got from the queue goes: to the queue's own end, or to its
 * dead-letter queue if it was put back max_redeliveries times. What on_death "free" does with a
 * dead consumer's is not asked here. */
static inline uint32_t requeue_to(const struct queue_slot *slot, uint32_t from,
				  uint32_t redelivered)
{
	uint32_t letter = load_relaxed(&slot->dead_letter);
	uint32_t most = load_relaxed(&slot->max_redeliveries);
	bool over = letter && most && redelivered >= most;
	return load_relaxed(&slot->on_death) == ON_DEATH_DEAD_LETTER || over ? letter : from;
}

/* Says in the header that a consumer of queue from failed, before the buffer is published in queue
 * to. */
static inline void requeue_note(struct buffer *b, uint32_t from, uint32_t to)
{
	store_relaxed(&b->queue, from);
	store_relaxed(&b->got, buffer_generation(b));
	store_relaxed(&b->redelivered, load_relaxed(&b->redelivered) + 1);
	if (to != from)
		store_relaxed(&b->origin, from);
}

/* Puts a buffer of m back into queue *to. Returns 0; -ENOBUFS no room; -EXDEV it was not got from a
 * queue; -EOPNOTSUPP its queue has a single producer; -EBADMSG; -EINVAL, -ESTALE, -EPERM as
 * queue_put(). */
int requeue(struct qmempool *p, struct member *m, uint64_t handle, uint32_t *to);

/* Its last step: puts the buffer into ring r, which requeue() has chosen. 0, -ENOBUFS. */
int requeue_put(struct qmempool *p, struct member *m, const struct alf_ring *r, uint64_t handle);

/* Abandons a buffer for which requeue() found no room to its queue, which gets it from the next
 * recoverer once there is room. */
void requeue_abandon(struct qmempool *p, struct member *m, uint64_t handle);

/* Moves the oldest buffer of a queue to the end of queue number to, or for 0 to that of the queue
 * from which it became a dead letter. reset forgets how often it was put back. 0; -EAGAIN from is
 * empty; -EBUSY, -EBADMSG as queue_get(). What cannot go there is at the end of from again:
 * -ENOBUFS no room, -ENOENT no such queue,
 * -EOPNOTSUPP that has a single producer; but where that has filled up meanwhile too, 1: *handle is
 * m's. */
int requeue_move(struct qmempool *p, struct member *m, const struct alf_ring *from, uint32_t to,
		 bool reset, uint64_t *handle);

#endif
