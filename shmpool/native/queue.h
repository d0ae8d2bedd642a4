/* SPDX-License-Identifier: Apache-2.0
 *
 * queue.h - the named queues of a pool: made and found by name, put and got by members.
 *
 * Who may call what at the same time: any number of members. Of a queue made for a single producer
 * (consumer) the first member to put (get) is it, until it detaches or gives the role up; everybody
 * else gets -EBUSY and has changed nothing.
 *
 * Ordering
 *     [QUEUE]  a queue slot's state: the member that creates the queue writes QUEUE_READY by
 *              compare-and-swap. Whoever reads QUEUE_READY, with acquire, sees its name, geometry
 *              and empty ring. Two that create the same name each write QUEUE_NAMED and then read
 *              the states of others, all seq_cst, so at least one sees the other.
 *
 * Progress: nothing here waits, or asks which members are dead. blocking.h does.
 */
#ifndef SHMPOOL_QUEUE_H
#define SHMPOOL_QUEUE_H

#include "qmempool.h"

/* What a queue is made with besides its capacity: struct queue_slot. */
struct queue_on_death {
	uint32_t what; /* enum on_death */
	uint32_t dead_letter;
	uint32_t max_redeliveries;
};

/* Makes a queue; flags are ALF_SINGLE_PRODUCER and ALF_SINGLE_CONSUMER. Its number (from 1 on);
 * -EEXIST; -EINVAL name or capacity; -EDOM what would go back to it, or to the dead-letter queue,
 * meets a single producer there, or nothing can (SHMPOOL_CHECK=0); -ENFILE no number is left;
 * -ENOMEM; and what segment_reserve() says. */
int queue_create(struct qmempool *p, struct member *m, const char *name, uint32_t capacity,
		 uint32_t flags, const struct queue_on_death *on_death);

/* Its number, -ENOENT. */
int queue_find(struct qmempool *p, const char *name);

/* The ring of a queue that exists, NULL for any other number; -EBADMSG never: what does not fit is
 * as good as not there. */
const struct alf_ring *queue_ring(struct qmempool *p, uint32_t number);

/* Whether a queue has that number: then queue_ring() gives no NULL but for want of memory. */
bool queue_exists(struct qmempool *p, uint32_t number);

/* Why queue_ring() has given NULL: -ENOMEM, -ENOENT. */
int queue_missing(struct qmempool *p, uint32_t number);

/* Gives up m's single-producer and single-consumer role, if it has one. */
void queue_release(const struct alf_ring *r, const struct member *m);

/* Puts n buffers: all, or -ENOBUFS no room, -EMSGSIZE more than the capacity, -EBUSY the role is
 * another's, -EINVAL, -ESTALE, -EPERM a handle that is not m's to put (qmempool_check). */
int queue_put(struct qmempool *p, struct member *m, const struct alf_ring *r,
	      const uint64_t *handle, uint32_t n);

/* Gets 1..n buffers: how many, or -EAGAIN nothing there, -EBUSY, -EBADMSG. */
int queue_get(struct qmempool *p, struct member *m, const struct alf_ring *r, uint64_t *handle,
	      uint32_t n);

/* True if a get that found nothing should be repeated by blocking_get(): now and then, if something
 * is reserved and not published, perhaps by a dead member. Seldom, because it reads the producers'
 * line. */
#define QUEUE_EMPTIES 256
static inline bool queue_stuck(const struct alf_ring *r, const struct member *m)
{
	return load_relaxed(&m->counters[COUNT_EMPTY]) % QUEUE_EMPTIES == 0 && !alf_empty(r);
}

#endif
