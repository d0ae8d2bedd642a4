/* SPDX-License-Identifier: Apache-2.0
 *
 * bytes.h - where a buffer's bytes are, by its header; for a chain, all its buffers' bytes, one
 * after the other.
 *
 * Who may call what at the same time: the owner of the buffer anything; others only read, and what
 * they get may be that of the buffer's next use (letters.c checks). Every word is read once, and
 * nothing here leads outside a buffer, whatever a header says.
 */
#ifndef SHMPOOL_BYTES_H
#define SHMPOOL_BYTES_H

#include "binding.h"
#include "chain.h"

/* Reads from the header where a buffer's payload lies. Each word is read once. Returns zeros if
 * they lead outside the buffer. */
static inline struct shmpool_extent bytes_extent(const struct qmempool *p, uint64_t handle)
{
	const struct buffer *b = pool_buffer(p, handle_index(handle));
	const uint32_t headroom = load_relaxed(&b->headroom), length = load_relaxed(&b->length);
	const uint64_t stride = pool_stride(p, handle_index(handle));
	if (unlikely(headroom > stride || length > stride - headroom))
		return (struct shmpool_extent) { 0, 0 };
	return (struct shmpool_extent) { headroom, length };
}

/* One buffer of a message. Begin with bytes_first(); there is no more when n is 0. */
struct bytes_part {
	char *data;      /* behind the headroom */
	uint64_t length; /* in use */
	uint64_t room;   /* at most */
	uint32_t index;
	uint32_t n;    /* 1 for the first part, 2 for the second, ... */
	uint32_t mark; /* chain_walk() */
};

static inline struct bytes_part bytes_at(const struct qmempool *p, uint32_t index, uint32_t n)
{
	const struct shmpool_extent extent = bytes_extent(p, index);
	return (struct bytes_part) { pool_data(p, index) + extent.headroom,
				     extent.length,
				     pool_stride(p, index) - extent.headroom,
				     index,
				     n,
				     index };
}

static inline struct bytes_part bytes_first(const struct qmempool *p, uint64_t handle)
{
	return bytes_at(p, handle_index(handle), 1);
}

/* Returns the part after one of the message with that handle. */
static inline struct bytes_part bytes_next(const struct qmempool *p, uint64_t handle,
					   const struct bytes_part *part)
{
	struct bytes_part next = { 0 };
	uint32_t mark = part->mark;
	if (likely(!buffer_heads(pool_buffer(p, handle_index(handle)))))
		return next;
	const uint32_t index = chain_walk(p, handle, part->index, part->n, &mark);
	if (index == part->index)
		return next;
	next = bytes_at(p, index, part->n + 1);
	next.mark = mark;
	return next;
}

/* Returns the sums of the lengths and rooms of all parts of a chain; n is how many there are. */
struct bytes_part bytes_sum(const struct qmempool *p, uint64_t handle);

/* Returns the same for any message: the bytes in use, and at most. A single buffer is one part. */
static inline struct bytes_part bytes_all(const struct qmempool *p, uint64_t handle)
{
	return unlikely(buffer_heads(pool_buffer(p, handle_index(handle)))) ?
		       bytes_sum(p, handle) :
		       bytes_first(p, handle);
}

/* Shares length out to the parts of a chain, as much as they have room for. */
void bytes_share_out(const struct qmempool *p, uint64_t handle, uint64_t length);

/* Says that the first length bytes of the message are in use. The caller has compared it with the
 * room; if both change since, that is no harm: every reader of a header checks it. */
static inline void bytes_set_length(const struct qmempool *p, uint64_t handle, uint32_t length)
{
	struct buffer *b = pool_buffer(p, handle_index(handle));
	if (likely(!buffer_heads(b)))
		store_relaxed(&b->length, length);
	else
		bytes_share_out(p, handle, length);
}

/* Copies up to n bytes of the message, from its begin. Returns how many. */
uint64_t bytes_copy_out(const struct qmempool *p, uint64_t handle, char *to, uint64_t n);

#endif
