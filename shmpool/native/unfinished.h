/* SPDX-License-Identifier: Apache-2.0
 *
 * unfinished.h - what is not done of a queue: its messages until a consumer has settled them, and
 * its producers until they are gone. Counted from the headers of the buffers, so that no crash
 * falsifies the count, and no put or get pays for it.
 *
 *     a header says                             it counts as
 *     TRANSIT to the queue                      a message: in the queue, or on its way in or out
 *     OWNED, got from the queue                 a message: a consumer has it (a lease)
 *     OWNED by a recoverer, or ABANDONED,       a message: its consumer died
 *       with the queue in its owner word
 *     OWNED, "got from" BUFFER_PRODUCES |       a producer: unfinished_declare()
 *       the queue
 *
 * A consumer settles a message when it frees its buffer, or with unfinished_settle(). A dead
 * member's leases are freed or go back as on_death says, and its buffers that stand for a producer
 * are freed: sweep.c. So each count changes only with the buffers themselves.
 *
 * Who may call what at the same time: any number of members.
 *
 * Ordering: [OWNER] of owner.h, [PROD] of alf_queue.h, [WAIT] of wait.h: a sleeper adds itself to
 * settled_wait and then reads the headers; a member that settles changes a header and then adds 0
 * to the word, which reads it.
 *
 * Progress: a wait ends when the count is 0, at its deadline, on a signal (-EINTR), and when this
 * process closes the pool (-ESHUTDOWN). While dead members may be why it is not 0, it recovers
 * them, as every member does that sleeps for a slice.
 */
#ifndef SHMPOOL_UNFINISHED_H
#define SHMPOOL_UNFINISHED_H

#include "queue.h"

enum unfinished { UNFINISHED_MESSAGES, UNFINISHED_PRODUCERS };

/* Returns how many of them the queue has. Messages: returns 0 only if there was a moment during the
 * call at which there were none. */
uint64_t unfinished_count(struct qmempool *p, const struct alf_ring *r, enum unfinished what);

/* Waits until there are none. Returns 0, or more at the deadline: with WAIT_NEVER how many there
 * are; or -EINTR, -ESHUTDOWN. */
int64_t unfinished_wait(struct qmempool *p, struct member *m, const struct alf_ring *r,
			enum unfinished what, int64_t deadline_ns);

/* Makes a buffer that the caller owns stand for a producer of the queue, until it is freed. */
void unfinished_declare(struct buffer *b, const struct alf_ring *r);

/* Settles a message without freeing its buffer, which views still use. The caller owns it. */
void unfinished_settle(struct buffer *b);

/* Wakes those that wait, after a message was settled or a producer is gone. number may be that of
 * no queue. */
void unfinished_wake(struct qmempool *p, uint32_t number);

#endif
