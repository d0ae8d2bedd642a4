/* SPDX-License-Identifier: Apache-2.0
 *
 * qmempool.h - a pool of buffers: local caches over a free ring over a slab. Allocation and free.
 *
 * After the qmempool of J. D. Brouer's Linux RFC of December 2014. A member allocates from and
 * frees into a small cache of its own and touches nothing shared. The cache is refilled from, and
 * flushed into, a multi-producer multi-consumer ring in bulks. When that ring is empty the slab
 * grows. When the slab is at its capacity, buffers are stolen from the caches of other members.
 * Unlike the original, the caches lie in the segment, so that other members can reach them.
 *
 * Who may call what at the same time: any number of members, each with its own struct member. Two
 * threads must not use one member at once.
 *
 * Size classes: a function that allocates takes a class and the member's block in that class
 * (pool_class(), pool_block()). One that frees takes class 0 and the member's block there, and
 * buffers of any class; or another class and buffers of that class.
 *
 * When a thread ends while buffers it allocated are in the hands of other threads of its process,
 * its slot must stay until they have adopted the last one. member.ended:
 *
 *     value   meaning                                    a crash then leaves
 *     0       the thread runs, or another thread of the  a dead member
 *             process has taken the slot over (opening.c)
 *     1       the thread has ended                       a dead member, whose buffers sweep() frees
 *     2       one thread of the process frees the slot   the same
 *
 * Ordering
 *     [ENDED]  ended and adopted of a member whose thread has ended: qmempool_end() sets ended and
 *              then counts the member's buffers; qmempool_adopt() counts one buffer less and then
 *              reads ended. All four are seq_cst, so at least one of the two finds that the last
 *              buffer is gone. A compare-and-swap of ended decides which of them frees the slot. A
 *              thread that finds no free slot takes an ended one over: it swaps 1 for 0.
 *
 * Progress: an allocation takes what it can have in a bounded number of steps. It never waits for
 * another member and never asks which members are dead. blocking_alloc() does both.
 *
 * Misuse: a handle carries the generation of its buffer, and a free changes the generation. A
 * second free, a stale handle and a buffer of another member are errors.
 */
#ifndef SHMPOOL_QMEMPOOL_H
#define SHMPOOL_QMEMPOOL_H

#include "cache.h"
#include "slab.h"

/* Slow paths of the functions below. */
int qmempool_alloc_slow(struct qmempool *p, struct member *m, uint64_t *handle, uint32_t n);
int qmempool_refill(struct qmempool *p, struct member *m, uint64_t *handle);
int qmempool_free_slow(struct qmempool *p, struct member *m, const uint64_t *handle, uint32_t n);
int qmempool_free_one(struct qmempool *p, struct member *m, uint64_t handle);

/* qmempool_alloc_slow(), also from behind a suspended member: reads up to looks headers there. */
int qmempool_alloc_hard(struct qmempool *p, struct member *m, uint64_t *handle, uint32_t n,
			uint32_t looks);

/* Takes 1 to max buffers for m from the free ring, the slab or the caches of other members, without
 * counting them as allocated. Returns how many, or -EAGAIN, -ENOSPC. */
int qmempool_obtain(struct qmempool *p, struct member *m, uint64_t *handle, uint32_t max);

/* Returns how many buffers count as free, at most most. */
uint64_t qmempool_count(struct qmempool *p, uint64_t most);

/* Makes a buffer of another thread of m's process m's own. Returns 0; -ESTALE if the buffer was
 * freed or put since the handle was made; -EPERM if another process owns it. */
int qmempool_adopt(struct qmempool *p, struct member *m, uint64_t handle);

/* Moves the buffers in m's caches, of all classes, to the free rings. */
void qmempool_drain(struct qmempool *p, struct member *m);

/* Ends the member of a thread that ends. Its slot is free at once, or when other threads of the
 * process have adopted the last buffer that m still owns. Called by one thread of the
 * process at a time. */
void qmempool_end(struct qmempool *p, struct member *m);

/* Returns 0 if m owns the buffer that handle names, so that it may free or put it. Adopts a buffer
 * of another thread of m's process. Otherwise returns -EINVAL if handle names no buffer, or what
 * qmempool_adopt() returns. */
static inline int qmempool_check(struct qmempool *p, struct member *m, uint64_t handle)
{
	if (unlikely(handle_index(handle) >= p->total))
		return -EINVAL;
	if (unlikely(!owner_is(pool_buffer(p, handle_index(handle)), m->tag, handle)))
		return qmempool_adopt(p, m, handle);
	return 0;
}

/* Restores the owner words of n buffers that qmempool_mark() has marked. */
static inline void qmempool_unmark(const struct qmempool *p, const struct member *m,
				   const uint64_t *handle, uint32_t n)
{
	while (n--)
		store_relaxed(&pool_buffer(p, handle_index(handle[n]))->owner, m->tag);
}

/* Checks that m owns each of n buffers and that none of them is named twice. Marks each one: m does
 * not own a marked buffer, so a second handle of it fails. Returns 0, or an error of
 * qmempool_check() and marks none. */
static ALWAYS_INLINE int qmempool_mark(struct qmempool *p, struct member *m, const uint64_t *handle,
				       uint32_t n)
{
	/* Read once: the compiler cannot know that the stores of owner words below do not change
	 * it. */
	struct buffer *const buffers = p->buffers;
	const uint64_t mine = m->tag, marked = mine | OWNER_PUTTING, capacity = p->total;
#pragma GCC unroll 4
	for (uint32_t i = 0; i < n; i++) {
		const uint64_t h = handle[i];
		struct buffer *b = &buffers[handle_index(h)];
		if (unlikely(handle_index(h) >= capacity) || !owner_is_each(b, mine, h)) {
			int error = qmempool_check(p, m, h);
			if (error) {
				qmempool_unmark(p, m, handle, i);
				return error;
			}
		}
		store_relaxed(&b->owner, marked);
	}
	return 0;
}

/* Allocates n buffers, all or none. Returns 0; -EAGAIN if there are fewer; -ENOSPC if the slab may
 * grow and the file system has no room. User fields of headers keep what their last user wrote. */
static inline int qmempool_alloc_bulk(struct qmempool *p, struct member *m, uint64_t *handle,
				      uint32_t n)
{
	if (likely(cache_pop(p, m, handle, n)))
		return 0;
	return qmempool_alloc_slow(p, m, handle, n);
}

/* Frees n buffers, all or none. Returns 0, or what qmempool_check() returns for one of them. */
static inline int qmempool_free_bulk(struct qmempool *p, struct member *m, const uint64_t *handle,
				     uint32_t n)
{
	return likely(cache_free(p, m, handle, n)) ? 0 : qmempool_free_slow(p, m, handle, n);
}

static ALWAYS_INLINE int qmempool_alloc(struct qmempool *p, struct member *m, uint64_t *handle)
{
	uint64_t slow; /* so that *handle may stay in a register */
	if (likely(cache_pop(p, m, handle, 1)))
		return 0;
	int error = qmempool_alloc_slow(p, m, &slow, 1);
	*handle = slow;
	return error;
}

/* The same, from m's cache and the free ring only: makes no system call except to wake sleepers,
 * and scans neither buffers nor members. Returns -EAGAIN if neither has a buffer. */
static ALWAYS_INLINE int qmempool_alloc_quick(struct qmempool *p, struct member *m,
					      uint64_t *handle)
{
	uint64_t slow; /* so that *handle may stay in a register */
	if (likely(cache_pop(p, m, handle, 1)))
		return 0;
	int error = qmempool_refill(p, m, &slow);
	*handle = slow;
	return error;
}

/* Frees one buffer, whose handle stays in a register. Returns as qmempool_free_bulk(). */
static ALWAYS_INLINE int qmempool_free(struct qmempool *p, struct member *m, uint64_t handle)
{
	return likely(cache_free_one(p, m, handle)) ? 0 : qmempool_free_one(p, m, handle);
}

#endif
