/* SPDX-License-Identifier: Apache-2.0
 *
 * uring.h - sleeping on wait words without a thread: futex waits of io_uring(7), from Linux 6.7 on,
 * where it is allowed. The ring's descriptor is readable once a wait has ended.
 *
 * Who may call what: one thread at a time. A wait belongs to the thread that began it; if that ends
 * the wait ends too.
 *
 * Ordering: head and tail of both queues are shared with the kernel: each side stores its own with
 * release and loads the other's with acquire.
 */
#ifndef SHMPOOL_URING_H
#define SHMPOOL_URING_H

#include <stdbool.h>

#include "atomic.h"

struct uring;

/* Returns NULL where io_uring, or its futex wait, does not exist or is refused, and without memory
 * or descriptors. */
struct uring *uring_make(void);

int uring_fd(const struct uring *r);

/* Begins a wait until a wake-up on word, which has that value; if it has another one the wait ends
 * at once. False if none can begin. */
bool uring_wait(struct uring *r, uint32_t *word, uint32_t value, void *name);

/* Ends a wait; uring_ended() returns it too. */
void uring_cancel(struct uring *r, void *name);

/* Returns the name of a wait that has ended, NULL if there is none. */
void *uring_ended(struct uring *r);

/* Ends all waits. closes: the descriptor too. */
void uring_close(struct uring *r, bool closes);

#endif
