/* SPDX-License-Identifier: Apache-2.0
 *
 * blocking.h - calls that wait: for a buffer, for room in a queue, for data in a queue.
 *
 * The pool and the queue below only try, and return -EAGAIN or -ENOBUFS. Everything that follows a
 * failed attempt is in blocking_retry(), in one place: polling, sleeping, and asking which members
 * are dead.
 *
 * Who may call what at the same time: any number of members. Each call is made by one thread for
 * its own member.
 *
 * Deadlines are CLOCK_MONOTONIC in ns; WAIT_FOREVER for none. With WAIT_NEVER a call does not
 * sleep, but if a dead or suspended member may be the reason why it finds nothing, it recovers dead
 * members once and tries again.
 *
 * Progress: a call sleeps only while nothing is there, and ends at its deadline, on a signal
 * (-EINTR), and when this process closes the pool (-ESHUTDOWN). A put of many waits until there is
 * room for all and holds no position before. Puts of fewer go ahead of it while they find room,
 * so it may wait for as long as producers of fewer keep the queue fuller than that. What an
 * allocation of many does for fairness: blocking_alloc.c.
 */
#ifndef SHMPOOL_BLOCKING_H
#define SHMPOOL_BLOCKING_H

#include "binding.h"
#include "recover.h"
#include "requeue.h"
#include "topic.h"
#include "wait.h"

/* qmempool_alloc_bulk(), waiting for buffers of a size class. Takes them from a larger class if
 * that has them, or is the first that can have n. p and m are those of class 0, here and below.
 * Also -EINTR, -ESHUTDOWN. Returns -EAGAIN at once if no class can have n. */
int blocking_alloc_class(struct qmempool *p, struct member *m, uint32_t class, uint64_t *handle,
			 uint32_t n, int64_t deadline_ns);
static inline int blocking_alloc(struct qmempool *p, struct member *m, uint64_t *handle, uint32_t n,
				 int64_t deadline_ns)
{
	return blocking_alloc_class(p, m, 0, handle, n, deadline_ns);
}

/* The same for a wait until until_ns that is made in slices, each of which ends at deadline_ns:
 * *turn goes from one to the next. After -EINTR, m owns the first turn->have buffers. */
int blocking_alloc_turns(struct qmempool *p, struct member *m, uint32_t class, uint64_t *handle,
			 uint32_t n, int64_t deadline_ns, int64_t until_ns,
			 struct shmpool_turn *turn);

/* The same for 1 to n buffers, as many as are free. Returns how many, or -errno. */
int blocking_alloc_some(struct qmempool *p, struct member *m, uint32_t class, uint64_t *handle,
			uint32_t n, int64_t deadline_ns);

/* queue_put() and queue_get(), waiting for room and for data. Also -EINTR, -ESHUTDOWN. */
int blocking_put(struct qmempool *p, struct member *m, const struct alf_ring *r,
		 const uint64_t *handle, uint32_t n, int64_t deadline_ns);
int blocking_get(struct qmempool *p, struct member *m, const struct alf_ring *r, uint64_t *handle,
		 uint32_t n, int64_t deadline_ns);

/* True if this thread's last wait ended while nothing had come. A long wait is made in slices: the
 * next one does not poll first, 100 times for nothing 5 times a second. Used by blocking.c, and by
 * a scheduler of tests that runs several threads in one. */
extern _Thread_local bool blocking_idle __attribute__((tls_model("initial-exec")));

/* A publisher without room asks so often whether the subscribers that hold it up are dead. */
#define BLOCKING_ASK_NS 20000000ll

/* topic_publish() and topic_get(), waiting for room and for messages. Also -EINTR, -ESHUTDOWN. A
 * publisher that a dead subscriber holds up recovers it within about 20 ms. */
int blocking_publish(struct qmempool *p, struct member *m, const struct alf_ring *r,
		     const uint64_t *handle, uint32_t n, int64_t deadline_ns);
int blocking_take(struct qmempool *p, struct member *m, struct subscriber *s, uint64_t *handle,
		  uint64_t *position, uint32_t n, int64_t deadline_ns);

/* requeue(), waiting for room in the queue *to. Also -EINTR, -ESHUTDOWN. */
int blocking_requeue(struct qmempool *p, struct member *m, uint64_t handle, int64_t deadline_ns,
		     uint32_t *to);

/* One call that waits. For blocking.c and blocking_alloc.c. */
struct blocking {
	struct qmempool *p;
	struct member *m;
	const struct alf_ring *r; /* NULL for an allocation */
	struct qmempool *of;      /* for an allocation: the smallest class that serves */
	struct member *block;     /* m's block in that class */
	uint64_t *handle;
	uint32_t n;
	int64_t deadline_ns;
	const struct blocking_kind *kind;
	int64_t most_ns;  /* length of the next sleep */
	int64_t alone_ns; /* the others are those of an allocation of many */
	int64_t until_ns; /* of the whole wait, in whatever slices it is made */
	struct shmpool_turn *turn;
};

struct blocking_kind {
	int nothing; /* the result of an attempt that is worth repeating */
	int (*attempt)(struct blocking *b);
	int (*attempt_hard)(struct blocking *b); /* the same, also where it takes long */
	/* True if a dead or suspended member may be why there is nothing. */
	bool (*obstructed)(const struct blocking *b);
	uint32_t (*yields)(const struct blocking *b); /* between two polls */
	/* Announces a sleeper, tries once more, and sleeps. Returns what wait_sleep() does, or 0
	 * with another *result than nothing. */
	int (*sleep)(struct blocking *b, int *result);
};

/* The sleep of a kind that waits for data_wait; obstructed: something is reserved. */
int blocking_data_sleep(struct blocking *b, int *result);

/* Goes on after an attempt that ended with result. Returns the last attempt's result, -EINTR or
 * -ESHUTDOWN. */
int blocking_retry(struct blocking *b, int result);

#endif
