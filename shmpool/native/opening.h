/* SPDX-License-Identifier: Apache-2.0
 *
 * opening.h - what belongs to one process: its open pools, by number, and the members that its
 * threads are.
 *
 * A thread becomes a member with its first call. It stops being one when it ends, when the process
 * closes the pool, or when the process exits. A forked child starts without members and tokens:
 * both tables are in memory that the kernel zeroes on fork (MADV_WIPEONFORK), also for a raw
 * fork(2). The child takes tokens of its own in the C library's fork handler, or with its first
 * call.
 *
 * Who may call what at the same time: opening_pool and opening_member any thread. A pool is closed in
 * two steps. opening_closing() is called with the interpreter's lock held; after it no look-up finds
 * the pool. opening_closed() waits for the calls that have found it before. Such a call either holds
 * the interpreter's lock from its look-up to its last access, or is counted, between opening_begin()
 * and opening_end().
 *
 *     a step of closing                a call that has found the pool before
 *     serial = OPENING_CLOSED            goes on
 *     closing = 1                      returns -ESHUTDOWN when it next polls
 *     wakes all sleepers, again and    sleeps no more, and returns
 *       again, until none is counted
 *     ends members, drops the token    there is none
 *
 * Ordering
 *     [CALLERS]  a caller adds itself, then looks up the pool. The closer removes the pool's
 *                serial, then reads the count. opening_begin() and opening_closing() are both called
 *                with the interpreter's lock held, so either the caller finds no pool, or the
 *                closer reads its count and waits. What a caller read or wrote is done when the
 *                closer reads 0.
 */
#ifndef SHMPOOL_OPENING_H
#define SHMPOOL_OPENING_H

#include "qmempool.h"

#define OPENING_POOLS_MAX 64u /* a key names a pool in 6 bits */

struct opening_thread {
	struct member *member[OPENING_POOLS_MAX];
};

#define OPENING_CLOSED UINT32_MAX /* a serial that no pool number has */

extern struct qmempool opening_pools[OPENING_POOLS_MAX];
/* By slot: the number of this process's threads that are in a counted call. Zeros in a forked
 * child. NULL before the first pool is opened. */
extern uint32_t *opening_callers;
extern _Thread_local struct opening_thread *opening_thread
	__attribute__((tls_model("initial-exec"), visibility("hidden")));

/* Opens a checked segment. Takes a token if it is opened for writing (segment.writes). made: this
 * process has just created the pool. Returns its number, | serial 16 | slot 6 |; -EXFULL if all
 * slots are taken; -ENOMEM; or what token_take() returns. */
int opening_open(const struct segment *s, bool made);

/* First step of closing: no look-up finds the pool any more. Wakes no thread. Returns false if the
 * pool is closed or being closed. */
bool opening_closing(uint32_t number);

/* Second step: waits for every counted call, frees all buffers that this process's members have,
 * ends the members, and drops the token. After it the process does not access the mapping. If the
 * pool was opened for reading only, nothing in the segment is accessed. */
void opening_closed(uint32_t number);

/* Both steps. Returns 0 or -EBADF. */
int opening_close(uint32_t number);

/* Records in a pool that this process has created that it leaves the pool on purpose. Call it
 * before closing. */
void opening_leave(uint32_t number);

/* Makes the calling thread a member. Returns 0; -EROFS if the pool was opened for reading only;
 * -EUSERS if all member slots are taken; -ENOMEM; or what token_take() returns. */
int opening_attach(uint32_t number);

/* token_hold() under the lock that keeps threads of this process from forking. */
int opening_hold(int fd, const char *path, void **page);

/* Returns this process's token in an open pool, 0 for none. */
uint64_t opening_token(uint32_t number);

/* Called, if set, by each thread that becomes a member for the first time. A library that learns of
 * a thread's end earlier than the C library's destructor then calls opening_thread_ends(). */
extern void (*opening_thread_begins)(struct opening_thread *t);

/* Ends the calling thread's members, if t is its table. */
void opening_thread_ends(struct opening_thread *t);

/* Counts the caller. Call it with the interpreter's lock held, before opening_pool(). Returns what
 * opening_end() needs. */
static inline uint32_t *opening_begin(uint32_t number)
{
	uint32_t *at = opening_callers ? &opening_callers[number % OPENING_POOLS_MAX] : NULL;
	if (at)
		add_seq_cst(at, 1); /* [CALLERS] */
	return at;
}

/* Call it after the last access to the segment. */
static inline void opening_end(uint32_t *at)
{
	if (at)
		add_seq_cst(at, -1u);
}

static inline struct qmempool *opening_pool(uint32_t number)
{
	struct qmempool *p = &opening_pools[number % OPENING_POOLS_MAX];
	return likely(p->buffers && p->serial == number / OPENING_POOLS_MAX) ? p : NULL;
}

/* Set in the serial of a pool whose file was truncated (guard.c). The pool's number then only
 * serves to close it. */
#define OPENING_GONE 0x10000u

/* Returns an open pool, also one whose file was truncated. NULL for none. */
static inline struct qmempool *opening_find(uint32_t number)
{
	struct qmempool *p = &opening_pools[number % OPENING_POOLS_MAX];
	uint32_t serial = load_relaxed(&p->serial) & ~OPENING_GONE;
	return p->buffers && serial == number / OPENING_POOLS_MAX ? p : NULL;
}

/* Returns why opening_pool() returned NULL: -EBADMSG if the file was truncated, -EBADF if the pool is
 * not open. */
static inline int opening_missing(uint32_t number)
{
	return opening_find(number) ? -EBADMSG : -EBADF;
}

/* Returns result, that of a call that has read the pool; or an error, if the file was truncated in
 * the course of the call. */
static inline int64_t opening_read(uint32_t number, int64_t result)
{
	return opening_pool(number) ? result : opening_missing(number);
}

/* Returns the calling thread's member of an open pool, NULL before its first call. */
static inline struct member *opening_member(uint32_t number)
{
	return likely(opening_thread) ? opening_thread->member[number % OPENING_POOLS_MAX] : NULL;
}

#endif
