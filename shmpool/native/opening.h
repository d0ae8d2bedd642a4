/* SPDX-License-Identifier: Apache-2.0
 *
 * opening.h - what one process knows: the pools it has open, by number, and the member that each
 * of its threads is in each of them.
 *
 * A thread becomes a member with its first call and ceases to be one when it ends, when the process
 * closes the pool, or when the process exits. A forked child begins with no members and no tokens:
 * the tables of both lie in memory that the kernel wipes on fork (MADV_WIPEONFORK), whoever calls
 * fork. It takes tokens of its own in the C library's fork handler, or, past that, with its first
 * call.
 *
 * Who may call what at the same time: opening_pool and opening_member any thread. A pool is closed
 * in two steps. opening_closing() is called with Python's lock held: from then on no look-up finds
 * the pool. opening_closed() waits for the calls that had found it. Such a call either holds
 * Python's lock from its look-up to its last access, or is counted: between opening_begin() and
 * opening_end().
 *
 * Ordering
 *     [CALLERS]  a caller adds itself, then looks the pool up; who closes it takes the pool's
 *                serial away, then reads the count. All four are seq_cst or under Python's lock, so
 *                that either the caller finds no pool, or it is waited for.
 */
#ifndef SHMPOOL_OPENING_H
#define SHMPOOL_OPENING_H

#include "qmempool.h"

#define OPENING_POOLS_MAX 64u /* a key names a pool in 6 bits */

struct opening_thread {
	struct member *member[OPENING_POOLS_MAX];
};

#define OPENING_CLOSED UINT32_MAX /* a serial that no number has */

extern struct qmempool opening_pools[OPENING_POOLS_MAX];
/* By slot, how many threads of this process are in a counted call: zeros in a forked child. NULL
 * before the first pool. */
extern uint32_t *opening_callers;
extern _Thread_local struct opening_thread *opening_thread
	__attribute__((tls_model("initial-exec"), visibility("hidden")));

/* Opens a checked segment: its number, | serial 16 | slot 6 |. One that is opened to change it
 * (segment.writes) gets a token; made says that this process has just made it. -EXFULL if all
 * numbers are taken, -ENOMEM, and what token_take() says. */
int opening_open(const struct segment *s, bool made);

/* From now on nobody finds the pool; wakes nobody. False if it is closed, or being closed. */
bool opening_closing(uint32_t number);

/* After it: waits for every counted call, gives back all that this process's members hold and ends
 * them. Nothing of this process looks at the mapping afterwards. Of an opening that only reads,
 * nothing in the segment is looked at. */
void opening_closed(uint32_t number);

/* Both. 0, -EBADF. */
int opening_close(uint32_t number);

/* Says in a pool that this process has made that it is left on purpose: before its end. */
void opening_leave(uint32_t number);

/* Makes the calling thread a member: 0, -EROFS for an opening that only reads, -EUSERS, -ENOMEM,
 * and what token_take() says. */
int opening_attach(uint32_t number);

/* token_hold(), while no thread of this process forks. */
int opening_hold(int fd, const char *path, void **page);

/* The number of this process's token in an open pool, 0 if it has none. */
uint64_t opening_token(uint32_t number);

/* Called by each thread that makes its first table, if it is set: who knows when that thread ends
 * says so with opening_thread_ends(), before the C library does. */
extern void (*opening_thread_begins)(struct opening_thread *t);

/* Ends the calling thread's members, if t is its table. */
void opening_thread_ends(struct opening_thread *t);

/* Counts the caller in, before its look-up. What to give to opening_end(). */
static inline uint32_t *opening_begin(uint32_t number)
{
	uint32_t *at = opening_callers ? &opening_callers[number % OPENING_POOLS_MAX] : NULL;
	if (at)
		add_seq_cst(at, 1); /* [CALLERS] */
	return at;
}

/* After its last access to the segment. */
static inline void opening_end(uint32_t *at)
{
	if (at)
		add_seq_cst(at, -1u); /* [CALLERS] */
}

static inline struct qmempool *opening_pool(uint32_t number)
{
	struct qmempool *p = &opening_pools[number % OPENING_POOLS_MAX];
	return likely(p->buffers && p->serial == number / OPENING_POOLS_MAX) ? p : NULL;
}

/* In the serial of a pool whose file turned out to be truncated (guard.c): no number names it any
 * more, but for its end. */
#define OPENING_GONE 0x10000u

/* An open pool, also one that is gone. */
static inline struct qmempool *opening_find(uint32_t number)
{
	struct qmempool *p = &opening_pools[number % OPENING_POOLS_MAX];
	uint32_t serial = load_relaxed(&p->serial) & ~OPENING_GONE;
	return p->buffers && serial == number / OPENING_POOLS_MAX ? p : NULL;
}

/* Why opening_pool() is NULL: -EBADMSG if the pool is gone, -EBADF if it is not open. */
static inline int opening_missing(uint32_t number)
{
	return opening_find(number) ? -EBADMSG : -EBADF;
}

/* The result of a call that read the pool: what was read of one that is gone by now is nothing. */
static inline int64_t opening_read(uint32_t number, int64_t result)
{
	return opening_pool(number) ? result : opening_missing(number);
}

/* The calling thread's member of an open pool, NULL before its first call. */
static inline struct member *opening_member(uint32_t number)
{
	return likely(opening_thread) ? opening_thread->member[number % OPENING_POOLS_MAX] : NULL;
}

#endif
