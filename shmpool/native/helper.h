/* SPDX-License-Identifier: Apache-2.0
 *
 * helper.h - the threads that sleep on wait words (wait.h) for a process's event loops, and the
 * places where they do. For waker.c only.
 *
 * A thread takes up to 127 places, with futex_waitv(2); one place where that call does not exist or
 * is refused. It never ends; without places it sleeps until it gets one. It knows nothing of Python
 * and blocks all signals except those of faults. Decision:
 * docs/decisions/0026-waking-an-event-loop.md.
 *
 *     a place is           what it counts in the wait word       its thread
 *     armed                one sleeper for the whole process,    sleeps on the word
 *                          however many wants it has
 *     not armed: its       nothing                               sleeps on the word until the slice
 *       wants have fired,                                        ends, so that arming it again
 *       or it has none                                           costs no system call; passes on
 *                                                                wake-ups that reach it
 *
 * A process that is killed leaves a sleeper too many, as every sleeper does.
 *
 * Where io_uring(7) can wait on a futex (ring.h) an event loop needs no thread to be woken: then
 * the ring sleeps on the words, and the thread only inspects the places at each slice.
 *
 * A want fires when the thread finds after a wake-up that it may be had; also when the queue is
 * ended, the pool is closed in this process, its file is truncated, or its name stands for another
 * file. A missed wake-up costs one slice: then the thread inspects every place, and recovers dead
 * members as every sleeper does; for that it becomes a member. If a want has fired, nobody takes
 * what is there, and other sleepers are counted, the thread passes the wake-up on after 1 ms.
 *
 * Fork: threads and places stay with the parent. A child's first want starts a thread.
 *
 * Who may call what: one thread at a time, between helper_lock() and helper_unlock(), which has
 * Python's lock or is counted (opening.h). The threads here are counted while they access a
 * segment, and not while they sleep.
 *
 * Ordering: [WAIT] of wait.h. A place that is armed counts itself and then inspects the queue. The
 * thread reads the word, then inspects the queue, and sleeps only while the word is as it was.
 *
 * Progress: no call waits for another process. The mutex is held for microseconds.
 */
#ifndef SHMPOOL_HELPER_H
#define SHMPOOL_HELPER_H

#include "lookup.h"
#include "ring.h"

struct want; /* waker.c */

/* A wait word, and what is waited for there. */
struct place {
	struct place *next; /* of the same thread */
	struct helper *by;
	struct want *wants; /* while there are any, the place stays */
	uint32_t number;    /* of the pool */
	uint32_t index;     /* of the queue, or of the size class */
	enum shmpool_wanted what;
	uint32_t *word; /* NULL: the pool is closed */
	uint32_t armed; /* how many wants have not fired */
	bool counted;   /* in the word, as wait_enter() returned it: */
	uint32_t entered;
	struct ring *ring; /* sleeps on the word in place of the thread; NULL for none */
	bool listed;       /* the thread sleeps on the word, or is about to; it then was: */
	uint32_t slept;
	bool fresh; /* armed in the thread since the last slice began: the thread sleeps on it */
	bool used;  /* since the last slice began: the place stays */
	int64_t pass_at_ns; /* when to pass on a wake-up, 0 for never */
	int64_t pass_rest_ns;
};

/* A descriptor to make readable: waker.c. */
struct shown {
	int fd, always;
};

/* What waker.c sets. settle() fires the wants of a place that ask for up to most, and takes back
 * others that had fired. It appends descriptors to out, n of them, for show(), which is called
 * after helper_unlock(), so that whoever it wakes does not wait for the mutex. With out NULL it
 * shows them itself, except that of the waker with the ring taking, which is in
 * shmpool_waker_take(). */
#define HELPER_SHOWN_MAX 64u
struct helper_calls {
	void (*settle)(struct place *place, uint32_t most, struct shown *out, uint32_t *n,
		       const struct ring *taking);
	void (*show)(const struct shown *of, bool readable);
};
extern struct helper_calls helper_calls;

/* Returns 0, or -ENOMEM: then there is nothing to unlock. */
int helper_lock(void);
void helper_unlock(void);

/* Finds or makes the place. Returns 0, or a code of shmpool_waker_want(). */
int helper_place(uint32_t number, uint32_t index, enum shmpool_wanted what, struct place **out);

/* Counts a sleeper, if that is not done, and then inspects. Returns how many may be had: 0 for none,
 * UINT32_MAX where that is not known or the place is gone. */
uint32_t helper_count(struct place *place);

/* Begins to sleep for a place that has armed wants, if that is not done: in the ring, or in the
 * thread if ring is NULL or fails. After helper_count(). */
void helper_sleep(struct place *place, struct ring *ring);

/* A sleep in the ring has ended: inspects, and goes on to sleep if it must. */
void helper_woken(struct place *place);

/* Ends a sleep in a ring, if there is one. */
void helper_cancel(struct place *place);

/* Calls helper_cancel() for the places of a ring, before it is closed; the thread goes on. */
void helper_forget(const struct ring *ring);

/* Counts it no more. For a place without armed wants. */
void helper_leave(struct place *place);

/* Wakes another sleeper: a want that fired takes nothing. */
void helper_pass_on(struct place *place);

#endif
