/* SPDX-License-Identifier: Apache-2.0
 *
 * binding.h - what the C code of a language's binding calls directly (../hot): opening and closing,
 * and every call that takes buffers or gives them away.
 *
 * Results: 0 or a count, or -errno; out-parameters only on success. Pools are numbers, as in
 * shmpool.h. A call that is made once per packet or per burst takes one 64-bit key, which the
 * caller puts together (lookup.h takes it apart); an element that it does not need is 0:
 *
 *     | slot 8 | queue 10 | serial 14 | 0 1 | generation 7 | index 24 |
 *
 * An allocation has the number of a size class in the place of the index.
 * A buffer that the caller owns is a handle, | generation 32 | index 32 |.
 *
 * Attempts and waits. A call without wait in its name is an attempt: it neither sleeps nor recovers
 * dead members nor scans all buffers, so it may be made with the language's lock held. It returns
 *
 *     -EAGAIN        there is nothing to take
 *     -ENOBUFS       there is no room
 *     -EINPROGRESS   neither is settled: the call with wait in its name may succeed, also with
 *                    deadline 0
 *     -EBUSY         another member has the queue's single side; the same, if that member is dead
 *
 * A call with wait in its name may sleep and recovers dead members. The caller releases the
 * language's lock for it, and counts it: opening_begin() before that, opening_end() after it
 * (opening.h). deadline is CLOCK_MONOTONIC in ns, INT64_MAX for none, 0 to try once. It returns
 * -EINTR after a signal, and at the end of each slice (WAIT_SLICE_NS): run the signal handlers and
 * call it again.
 */
#ifndef SHMPOOL_BINDING_H
#define SHMPOOL_BINDING_H

#include "shmpool.h"

/* ---- opening and closing ---- */

/* Opens a mapped pool; returns its number. path is the one that the file was opened by, "" for a
 * file without a name. NULL opens the pool for reading only: it has no token, and every call that
 * would change it returns -EROFS. created is nonzero in the process that just created the pool. */
int shmpool_open(void *base, uint64_t size, int fd, const char *path, int created);
int shmpool_close_wait(int pool);

/* Marks a pool as left on purpose by the process that created it: before that process closes it. */
void shmpool_leave(int pool);

/* Keeps every process from removing a file that is being created, as a token does, until
 * shmpool_let_go(*page). */
int shmpool_hold(int fd, const char *path, void **page);
void shmpool_let_go(void *page);

/* ---- one queue ---- */

int64_t shmpool_queue_count(uint64_t key);
int64_t shmpool_queue_empty(uint64_t key); /* 1 or 0 */

/* ---- one buffer ---- */

/* Where a buffer's payload lies, in bytes from the start of its room. */
struct shmpool_extent {
	uint32_t headroom;
	uint32_t length;
};

enum shmpool_field {
	SHMPOOL_MARK,
	SHMPOOL_FLOW_HASH,
	SHMPOOL_TIMESTAMP,
	SHMPOOL_QUEUE,
	SHMPOOL_REDELIVERED,
	SHMPOOL_GENERATION,
	SHMPOOL_ORIGIN
};
int64_t shmpool_field(uint64_t key, int field);
int64_t shmpool_set_field(uint64_t key, int field, uint64_t value);

/* ---- payloads ---- */

struct shmpool_slice {
	const char *data;
	size_t length;
};

/* Copies a payload into a new buffer and puts it. -EINPROGRESS if the local cache has no buffer. */
int64_t shmpool_send(uint64_t key, const char *data, size_t length);

/* Sends n payloads. Returns how many were sent: fewer than n if the deadline came. */
int64_t shmpool_send_many_wait(uint64_t key, const struct shmpool_slice *slices, size_t n,
			       int64_t deadline);

/* ---- buffers: a new one has length 0, the pool's headroom, and its other fields 0 ---- */

/* -EINPROGRESS if there are not n in the caller's local cache. */
int64_t shmpool_alloc_cached(uint64_t key, uint64_t *handles, size_t n);
/* What an allocation that waits keeps from one call to the next: zero at first. After -EINTR the
 * caller owns the first have handles: it calls again, or frees them. */
struct shmpool_turn {
	int64_t end_ns;    /* of the present turn (blocking_alloc.c), 0 for none */
	int64_t length_ns; /* of the next one */
	uint64_t since;    /* what others had got at the end of the last one */
	uint32_t have;     /* collected in the present one */
};
int64_t shmpool_alloc_many_wait(uint64_t key, uint64_t *handles, size_t n, int64_t deadline,
				struct shmpool_turn *turn);
int64_t shmpool_free_many(uint64_t key, const uint64_t *handles, size_t n);
int64_t shmpool_put_many(uint64_t key, const uint64_t *handles, size_t n);
int64_t shmpool_put_many_wait(uint64_t key, const uint64_t *handles, size_t n, int64_t deadline);
int64_t shmpool_get_many(uint64_t key, uint64_t *handles, size_t n);
int64_t shmpool_get_many_wait(uint64_t key, uint64_t *handles, size_t n, int64_t deadline);

/* ---- chains: chain.h ---- */

/* Says how many buffers of each class have room for length bytes as one message: large ones first.
 * Returns how many in all. now: of the buffers that are free now; else of those that the pool can
 * ever have. -EAGAIN, or -EMSGSIZE, if they have less room. */
int64_t shmpool_chain_plan(uint64_t key, uint64_t length, int now, uint32_t *counts);

/* Makes n buffers, just allocated, one message; handles[0] is its handle. */
int64_t shmpool_chain(uint64_t key, const uint64_t *handles, size_t n);

/* ---- a field of many buffers; -ERANGE if it lies outside one of them ---- */

int64_t shmpool_column(uint64_t key, const uint64_t *handles, size_t n, size_t offset, size_t width,
		       char *out);
int64_t shmpool_set_column(uint64_t key, const uint64_t *handles, size_t n, size_t offset,
			   size_t width, const char *from, size_t step);
int64_t shmpool_lengths(uint64_t key, const uint64_t *handles, size_t n, uint32_t *out);
int64_t shmpool_set_lengths(uint64_t key, const uint64_t *handles, size_t n, const uint32_t *from,
			    size_t step);

/* ---- buffers whose consumer failed: requeue.h ---- */

/* Returns a buffer to its queue. Without a deadline it never waits. A buffer for which there is no
 * room is counted as refused. */
int64_t shmpool_requeue_wait(uint64_t key, uint64_t handle, int64_t deadline);

/* Moves the oldest buffer of a queue to another one: requeue_move(). */
int64_t shmpool_move(uint64_t key, uint32_t to, int reset);

/* ---- wakers: shmpool.h ---- */

/* Ends up to n wants that have fired, and stores their numbers. The descriptor is not readable once
 * there are no more. Returns how many. */
int shmpool_waker_take(int waker, int *wants, size_t n);
/* Goes after a call that takes: the waker's descriptor is readable then only if something is
 * left. */
void shmpool_taken(int waker);

/* ---- topics: topic.h ---- */

struct subscriber;

/* Publishes n buffers, all or none: -EMSGSIZE if they are more than the topic keeps, or 1,024. */
int64_t shmpool_publish(uint64_t key, const uint64_t *handles, size_t n);
int64_t shmpool_publish_wait(uint64_t key, const uint64_t *handles, size_t n, int64_t deadline);

/* Fills in a subscriber. -ENOTEMPTY if the topic has as many as it can, dead ones included. */
int64_t shmpool_subscribe(uint64_t key, uint32_t policy, uint32_t start, struct subscriber *s);
/* Gets up to n messages of a subscriber of that topic: topic_get(). */
int64_t shmpool_take(uint64_t key, struct subscriber *s, uint64_t *handles, uint64_t *sequences,
		     size_t n);
int64_t shmpool_take_wait(uint64_t key, struct subscriber *s, uint64_t *handles,
			  uint64_t *sequences, size_t n, int64_t deadline);
int64_t shmpool_done(uint64_t key, struct subscriber *s, const uint64_t *handles, size_t n);
int64_t shmpool_unsubscribe(uint64_t key, struct subscriber *s);

/* ---- recovery ---- */

/* Recovers dead members, if any, as a member does that waits. 0, or -errno. */
int shmpool_tend_wait(uint64_t key);

#endif
