/* SPDX-License-Identifier: Apache-2.0
 *
 * opening.h - the pools that one process has open, by number, and the members that its threads are.
 *
 *     event                    what becomes of the members and tokens of the process
 *     first call of a thread   the thread becomes a member; a process without a token takes one
 *     end of a thread          its members end
 *     close of the pool        pinned memory is unregistered; all members of the process end; its
 *                              token is dropped
 *     exit, kill               the kernel drops the token; the members are dead
 *     fork                     the child has no members, tokens and pins: the memory of both
 *                              tables is zeros there (forked.h). The C library's
 *                              fork handler takes tokens for the child. If fork(2) was called past
 *                              the C library, the child's first call takes them.
 *
 * Who may call what at the same time: any thread anything, except opening_closed(), which one
 * thread calls. A pool is closed in two steps. opening_closing() runs with Python's lock held: from
 * then on no look-up finds the pool. opening_closed() waits for the calls that found it before.
 * Such a call either holds Python's lock from its look-up to its last access, or is counted between
 * opening_begin() and opening_end().
 *
 * Ordering
 *     [CALLERS]  callers and serial: a caller adds itself to callers, with Python's lock held, and
 *                then looks the pool up. A closer takes the serial away, with Python's lock held,
 *                and then reads callers. The lock orders the two: either the caller finds no pool,
 *                or the closer waits for it. opening_end() is the caller's last access to the
 *                segment; the closer that reads zero unmaps the segment after it.
 */
#ifndef SHMPOOL_OPENING_H
#define SHMPOOL_OPENING_H

#include "pin.h"
#include "qmempool.h"

/* A pool's number is | serial 14 | slot 8 |. */
#define OPENING_SLOT_BITS 8u
#define OPENING_SERIAL_MAX 0x3fffu
#define OPENING_POOLS_MAX (1u << OPENING_SLOT_BITS)

struct opening_thread {
	struct member *member[OPENING_POOLS_MAX];
};

#define OPENING_CLOSED UINT32_MAX /* a serial that is in no number */

extern struct qmempool opening_pools[OPENING_POOLS_MAX];
/* By slot: how many threads of this process are in a counted call. Zero in a forked child. NULL
 * before the first pool is opened. */
extern uint32_t *opening_callers;
extern _Thread_local struct opening_thread *opening_thread
	__attribute__((tls_model("initial-exec"), visibility("hidden")));

/* Opens a checked segment. Takes a token if it is opened for writing (segment.writes). made is true
 * if this process has just made the segment. Returns the pool's number;
 * -EXFULL if all numbers are taken; -ENOMEM; or an error of token_take(). */
int opening_open(const struct segment *s, bool made);

/* True if a pool can be opened: not all numbers are taken. */
bool opening_room(void);

/* First step of a close: no look-up finds the pool any more. Wakes no sleeper. Returns false if the
 * pool is closed or being closed. */
bool opening_closing(uint32_t number);

/* Second step: wakes sleepers and waits for every counted call, then frees all buffers of this
 * process's members and ends them. No thread of this process accesses the mapping afterwards. For
 * an opening that only reads, this function does not access it either. */
void opening_closed(uint32_t number);

/* Both steps. Returns 0 or -EBADF. */
int opening_close(uint32_t number);

/* Records in the segment that its creator, this process, closes the pool and keeps the file. Call
 * it before the close. */
void opening_leave(uint32_t number);

/* Makes the calling thread a member. Waits for slots of dead members that are being recovered, for
 * WAIT_TRIES_NS at most. Returns 0; -EROFS if the opening only reads; -EUSERS; -EINPROGRESS if a
 * call without the lock of opening_locked may wait on; -ESHUTDOWN if this process closes the pool;
 * -ENOMEM; or an error of token_take(). */
int opening_attach(uint32_t number);

/* If set, tells whether the calling thread has a lock that all others of the process need. Then
 * opening_attach() keeps it for OPENING_LOCKED_NS at most. */
extern bool (*opening_locked)(void);
#define OPENING_LOCKED_NS 20000000ll

/* token_hold(). No thread of this process forks during the call. */
int opening_hold(int fd, const char *path, void **page);

/* Pins an open pool: pin_begin(), or pin_retry() if it is pinned. Returns 0; -EROFS if the opening
 * only reads; -ENOMEM; or an error of token_take(). */
int opening_pin(uint32_t number, const struct shmpool_driver *driver);

/* populate_step() of an open pool, while nobody can trim it. Or -EROFS if the opening only reads;
 * an error of token_take(). */
int opening_populate(uint32_t number, uint64_t *at);

/* Attaches a member for the buffers of a socket (device.h), whose socket is yet to be set. While
 * this process has one, no extent is removed. Returns as opening_attach(). */
int opening_device(uint32_t number, struct member **out);

/* Ends it. If the socket is gone, frees the buffers that the member owns, and its slot; if not, the
 * member is dead from now on. */
void opening_device_ends(uint32_t number, struct member *m, bool gone);

/* Returns the pin of an open pool. */
struct pin *opening_pinned(uint32_t number);

/* Returns the number of this process's token in an open pool, 0 if it has none. */
uint64_t opening_token(uint32_t number);

/* If set, called by each thread when it makes its table. The one who is told calls
 * opening_thread_ends() when the thread ends, before the C library does. */
extern void (*opening_thread_begins)(struct opening_thread *t);

/* If set, called by the second step of a close, while the pool is still mapped. */
extern void (*opening_pool_ends)(uint32_t number);

/* If set, called when a subscriber of this process was closed: its index is that of
 * SHMPOOL_MESSAGE. */
extern void (*opening_subscriber_ends)(uint32_t number, uint32_t index);

/* Makes the calling thread's table now. Python can be told of it only with its lock held, so this
 * goes before a call without the lock. Without memory the call makes the table, or fails. */
void opening_thread_make(void);
static inline void opening_thread_ready(void)
{
	if (unlikely(!opening_thread))
		opening_thread_make();
}

/* Ends the calling thread's members, if t is its table. */
void opening_thread_ends(struct opening_thread *t);

/* Begins a counted call; goes before its look-up. Returns the argument of opening_end(). */
static inline uint32_t *opening_begin(uint32_t number)
{
	uint32_t *at = opening_callers ? &opening_callers[number % OPENING_POOLS_MAX] : NULL;
	if (at)
		add_seq_cst(at, 1); /* [CALLERS] */
	return at;
}

/* Ends a counted call, after its last access to the segment. */
static inline void opening_end(uint32_t *at)
{
	if (at)
		add_seq_cst(at, -1u); /* [CALLERS] */
}

/* Returns an open pool, or NULL. The serial is read after the call was counted, and before anything
 * else of the pool: a close changes it before it waits for the calls that are counted. */
static inline struct qmempool *opening_pool(uint32_t number)
{
	struct qmempool *p = &opening_pools[number % OPENING_POOLS_MAX];
	uint32_t serial = load_seq_cst(&p->serial); /* [CALLERS] */
	return likely(serial == number / OPENING_POOLS_MAX && p->buffers) ? p : NULL;
}

/* Set in the serial of a pool whose file was found truncated (guard.c). No number names the pool
 * any more, except to close it. */
#define OPENING_GONE 0x10000u

/* Returns an open pool, also one whose file was found truncated; NULL if it is not open. */
static inline struct qmempool *opening_find(uint32_t number)
{
	struct qmempool *p = &opening_pools[number % OPENING_POOLS_MAX];
	uint32_t serial = load_relaxed(&p->serial) & ~OPENING_GONE;
	return serial == number / OPENING_POOLS_MAX && p->buffers ? p : NULL;
}

/* Returns why opening_pool() is NULL: -EBADMSG if the file was found truncated, -EBADF if the pool
 * is not open. */
static inline int opening_missing(uint32_t number)
{
	return opening_find(number) ? -EBADMSG : -EBADF;
}

/* Returns result, the result of a call that read the pool, or an error if its file was found
 * truncated in the meantime: then zeros were read. */
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
