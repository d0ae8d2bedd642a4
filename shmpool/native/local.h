/* SPDX-License-Identifier: Apache-2.0
 *
 * local.h - what one process knows: the pools it has open, by number, and the member that each of its
 * threads is in each of them.
 *
 * A thread becomes a member with its first call and ceases to be one when it ends, when the process
 * closes the pool, or when the process exits. A forked child begins with no members and no tokens: the
 * tables of both lie in memory that the kernel wipes on fork (MADV_WIPEONFORK), whoever calls fork. It
 * takes tokens of its own in the C library's fork handler, or, past that, with its first call.
 *
 * Who may call what at the same time: local_pool and local_member any thread; local_close when no
 * other thread is inside a short call on that pool (Python's lock sees to it); threads that sleep in
 * it are woken and waited for.
 */
#ifndef SHMPOOL_LOCAL_H
#define SHMPOOL_LOCAL_H

#include "qmempool.h"

#define LOCAL_POOLS_MAX 64u /* a key names a pool in 6 bits */

struct local_thread {
	struct member *member[LOCAL_POOLS_MAX];
};

extern struct qmempool local_pools[LOCAL_POOLS_MAX];
extern _Thread_local struct local_thread *local_thread
	__attribute__((tls_model("initial-exec"), visibility("hidden")));

/* Opens a checked segment: its number, | serial 16 | slot 6 |. One that is opened to change it (segment.writes)
 * gets a token; made says that this process has just made it. -EXFULL if all numbers are taken, -ENOMEM, and
 * what token_take() says. */
int local_open(const struct segment *s, bool made);

/* Gives back all that this process's members hold and ends them. 0, -EBADF. */
int local_close(uint32_t number);

/* Ends an opening that never had a member, without a look at the segment. 0, -EBADF. */
int local_forget(uint32_t number);

/* Makes the calling thread a member: 0, -EUSERS, -ENOMEM, and what token_take() says. */
int local_attach(uint32_t number);

/* token_hold(), while no thread of this process forks. */
int local_hold(int fd, const char *path, void **page);

/* The number of this process's token in an open pool, 0 if it has none. */
uint64_t local_token(uint32_t number);

static inline struct qmempool *local_pool(uint32_t number)
{
	struct qmempool *p = &local_pools[number % LOCAL_POOLS_MAX];
	return likely(p->buffers && p->serial == number / LOCAL_POOLS_MAX) ? p : NULL;
}

/* The calling thread's member of an open pool, NULL before its first call. */
static inline struct member *local_member(uint32_t number)
{
	return likely(local_thread) ? local_thread->member[number % LOCAL_POOLS_MAX] : NULL;
}

#endif
