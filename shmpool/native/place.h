/* SPDX-License-Identifier: Apache-2.0
 *
 * place.h - a wait word (wait.h) at which a process waits for its event loops.
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
 * Where io_uring(7) can wait on a futex (uring.h) an event loop needs no thread to be woken: then
 * the ring sleeps on the words, and the thread only inspects the places at each slice.
 *
 * A want fires when the thread finds after a wake-up that it may be had; also when the queue or
 * topic is ended, the subscriber that waits is closed, the pool is closed in this process, its file
 * is truncated, or its name stands for another file. A missed wake-up costs one slice: then the
 * thread inspects every place, and recovers dead members as every sleeper does (tend.h). If a want
 * has fired, nobody takes what is there, and other sleepers are counted, the thread passes the
 * wake-up on after 1 ms. Not in a topic, where each wake-up reaches all sleepers.
 *
 * Who may call what: one thread at a time, between helper_lock() and helper_unlock(), which has
 * Python's lock or is counted (opening.h).
 *
 * Ordering: [WAIT] of wait.h. A place that is armed counts itself and then inspects the queue. The
 * thread reads the word, then inspects the queue, and sleeps only while the word is as it was.
 */
#ifndef SHMPOOL_PLACE_H
#define SHMPOOL_PLACE_H

#include "lookup.h"
#include "uring.h"

struct want; /* waker.c */

/* A wait word, and what is waited for there. */
struct place {
	struct place *next; /* of the same thread */
	struct helper *by;
	struct want *wants; /* while there are any, the place stays */
	uint32_t number;    /* of the pool */
	uint32_t index;     /* of the queue, or of the size class */
	enum shmpool_wanted what;
	bool all;       /* of a topic: each wake-up reaches all sleepers */
	uint32_t *word; /* NULL: the pool is closed, or the subscriber */
	uint32_t armed; /* how many wants have not fired */
	bool counted;   /* in the word, as wait_enter() returned it: */
	uint32_t entered;
	struct uring *ring; /* sleeps on the word in place of the thread; NULL for none */
	bool several;       /* loops wait here: one may be busy, so the thread sleeps on the word */
	bool listed;        /* the thread sleeps on the word, or is about to; it then was: */
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

#define SHOWN_MAX 64u
struct shown_list {
	uint32_t n;
	struct shown of[SHOWN_MAX];
};

/* Fires the wants of a place that ask for up to most, and takes back others that had fired. Appends
 * descriptors that become readable to out, for after helper_unlock(), so that the thread that is
 * woken does not wait for the mutex. With out NULL it makes them readable itself, except that of
 * the waker with the ring taking, which is in shmpool_waker_take(). waker.c sets it. */
extern void (*place_settle)(struct place *place, uint32_t most, struct shown_list *out,
			    const struct uring *taking);

/* Returns the word to wait at, NULL if there is none. */
uint32_t *place_word(struct qmempool *p, uint32_t index, enum shmpool_wanted what);

/* Counts the caller on the place's pool, and returns the pool; NULL if it is gone. opening_end()
 * follows. */
struct qmempool *place_begin(const struct place *place, uint32_t **at);

/* Counts a sleeper, if that is not done, and then inspects. Returns how many may be had: 0 for
 * none, UINT32_MAX where that is not known or the place is gone. *unsure: place_uncertain(). */
uint32_t place_count(struct place *place, bool *unsure);

/* Counts it no more. For a place without armed wants. place_uncount(): its pool is not gone. */
void place_leave(struct place *place);
void place_uncount(struct place *place);

/* Wakes another sleeper: a want that fired takes nothing. */
void place_pass_on(struct place *place);

/* Fires all wants: the pool is closed, its file was truncated, or the subscriber is closed. */
void place_gone(struct place *place, struct shown_list *out);

/* True if a member may have missed this sleeper: it has reserved a position and not published it,
 * or it was in the middle of a free and did not see that its cache is wanted. The thread then
 * sleeps for a short time, and longer and longer. */
bool place_uncertain(struct qmempool *p, const struct place *place);

/* True if a publisher waits here for room in a topic: a dead subscriber may hold it up. */
bool place_publishes(struct qmempool *p, const struct place *place);

/* Inspects a place before a sleep. Whatever the word becomes after it was read here ends that sleep
 * at once. */
struct place_visit {
	int64_t now;
	bool slice, late; /* a slice has ended; a sleep has ended that was short or a slice */
	struct shown_list *out;
	const struct uring *taking;
};
void place_visit(struct qmempool *p, struct place *place, const struct place_visit *v);

#endif
