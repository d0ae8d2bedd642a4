/* SPDX-License-Identifier: Apache-2.0
 *
 * helper.h - the threads that sleep on wait words (wait.h) for a process's event loops. For waker.c
 * only.
 *
 * A thread takes up to 127 places, with futex_waitv(2); one place where that call does not exist or
 * is refused. It never ends; without places it sleeps until it gets one. It knows nothing of Python
 * and blocks all signals except those of faults. Decision:
 * docs/decisions/0026-waking-an-event-loop.md.
 *
 * Fork: threads and places stay with the parent. A child's first want starts a thread.
 *
 * Who may call what: one thread at a time, between helper_lock() and helper_unlock(), which has
 * Python's lock or is counted (opening.h). The threads here are counted while they access a
 * segment, and not while they sleep.
 *
 * Progress: no call waits for another process. The mutex is held for microseconds.
 */
#ifndef SHMPOOL_HELPER_H
#define SHMPOOL_HELPER_H

#include "place.h"

/* Makes a descriptor readable, without the mutex. Afterwards, with the mutex, hides it again if all
 * that had fired was taken in between; and closes one that has ended. waker.c sets them. */
extern void (*helper_show)(const struct shown *of);
extern void (*helper_correct)(const struct shown *of);
extern void (*helper_close)(const struct shown *of);

/* Closes a descriptor, after a thread that may be about to make it readable: another one could have
 * got its number. */
void helper_end(const struct shown *of);

/* Returns 0, or -ENOMEM: then there is nothing to unlock. */
int helper_lock(void);
void helper_unlock(void);

/* Finds or makes the place. Returns 0, or a code of shmpool_waker_want(). */
int helper_place(uint32_t number, uint32_t index, enum shmpool_wanted what, struct place **out);

/* place_count(); the thread looks again soon if a member may have missed this sleeper. */
uint32_t helper_count(struct place *place);

/* Begins to sleep for a place that has armed wants, if that is not done: in the ring, or in the
 * thread if ring is NULL or fails. After helper_count(). */
void helper_sleep(struct place *place, struct uring *ring);

/* A sleep in the ring has ended: inspects, and goes on to sleep if it must. */
void helper_woken(struct place *place);

/* Ends a sleep in a ring, if there is one. */
void helper_cancel(struct place *place);

/* Calls helper_cancel() for the places of a ring, before it is closed; the thread goes on. */
void helper_forget(const struct uring *ring);

#endif
