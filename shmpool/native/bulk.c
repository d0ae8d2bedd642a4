/* SPDX-License-Identifier: Apache-2.0
 *
 * bulk.c - the calls of shmpool.h that move many buffers, or bytes in and out of them.
 */
#include <string.h>

#include "blocking.h"
#include "call.h"
#include "copy.h"
#include "transfer.h"
#include "wait.h"

/* What of one send_many is copied before it is put: so many messages, or so many bytes that the
 * first of them are still in the processor's caches when they come out. */
#define SEND_MAX 256u
#define SEND_BYTES (256u << 10)

/* fresh() for buffers just allocated: all, or -EBADMSG, and what of them are buffers is free again.
 *  */
static int all_fresh(const struct call *c, uint64_t *handles, uint32_t n, int64_t now)
{
	for (uint32_t i = 0; i < n; i++)
		if (unlikely(fresh(c, handles[i], now))) {
			n = pool_filter(c->p, handles, n);
			for (i = 0; i < n; i++)
				qmempool_free(c->p, c->m, handles[i]);
			return -EBADMSG;
		}
	return 0;
}

int64_t shmpool_alloc_cached(uint64_t key, uint64_t *handles, size_t n)
{
	struct call c;
	int error = open_key(key, &c);
	if (unlikely(error))
		return error;
	if (n > c.p->cache_size || !cache_pop(c.p, c.m, handles, (uint32_t)n))
		return -EAGAIN;
	error = all_fresh(&c, handles, (uint32_t)n, wait_coarse());
	return likely(!error) ? (int64_t)n : error;
}

int64_t shmpool_alloc_many_wait(uint64_t key, uint64_t *handles, size_t n, int64_t deadline)
{
	struct call c;
	int error = open_key(key, &c);
	if (error)
		return error;
	if (n > c.p->capacity)
		return -EMSGSIZE;
	int64_t end = wait_slice_end(deadline);
	error = blocking_alloc(c.p, c.m, handles, (uint32_t)n, end);
	if (!error)
		error = all_fresh(&c, handles, (uint32_t)n, wait_coarse());
	return error ? waits_on(error, end, deadline) : (int64_t)n;
}

int64_t shmpool_free_many(uint64_t key, const uint64_t *handles, size_t n)
{
	struct call c;
	int error = open_key(key, &c);
	if (error)
		return error;
	return n > c.p->capacity ? -EMSGSIZE : qmempool_free_bulk(c.p, c.m, handles, (uint32_t)n);
}

/* 0, or -EMSGSIZE if there is never room for n. */
static int open_for(uint64_t key, size_t n, struct call *c)
{
	int error = open_queue(key, c);
	return error ? error : n > alf_capacity(c->ring) ? -EMSGSIZE : 0;
}

int64_t shmpool_put_many(uint64_t key, const uint64_t *handles, size_t n)
{
	struct call c;
	int error = open_for(key, n, &c);
	if (!error && n)
		error = call_put(&c, handles, (uint32_t)n);
	return error ? error : (int64_t)n;
}

int64_t shmpool_put_many_wait(uint64_t key, const uint64_t *handles, size_t n, int64_t deadline)
{
	struct call c;
	int64_t end = wait_slice_end(deadline);
	int error = open_for(key, n, &c);
	if (!error && n)
		error = blocking_put(c.p, c.m, c.ring, handles, (uint32_t)n, end);
	return error ? waits_on(error, end, deadline) : (int64_t)n;
}

static int all_held(const struct call *c, const uint64_t *handles, int got)
{
	int64_t now = got > 0 ? wait_coarse() : 0;
	for (int i = 0; i < got; i++)
		held_since(c, handles[i], now);
	return got;
}

int64_t shmpool_get_many(uint64_t key, uint64_t *handles, size_t n)
{
	struct call c;
	int error = open_queue(key, &c);
	if (error)
		return error;
	if (n > alf_capacity(c.ring))
		n = alf_capacity(c.ring);
	return n ? all_held(&c, handles, call_get(&c, handles, (uint32_t)n)) : 0;
}

int64_t shmpool_get_many_wait(uint64_t key, uint64_t *handles, size_t n, int64_t deadline)
{
	struct call c;
	int64_t end = wait_slice_end(deadline);
	int got = open_queue(key, &c);
	if (got)
		return got;
	if (n > alf_capacity(c.ring))
		n = alf_capacity(c.ring);
	if (n)
		got = blocking_get(c.p, c.m, c.ring, handles, (uint32_t)n, end);
	return waits_on(all_held(&c, handles, got), end, deadline);
}

int64_t shmpool_get_wait(uint64_t key, struct shmpool_taken *out, int64_t deadline)
{
	struct call c;
	int64_t end = wait_slice_end(deadline);
	int got = open_queue(key, &c);
	if (!got)
		got = blocking_get(c.p, c.m, c.ring, &out->handle, 1, end);
	if (got <= 0)
		return waits_on(got, end, deadline);
	held_since(&c, out->handle, wait_coarse());
	out->extent = extent_of(c.p, out->handle);
	return got;
}

/* Copies a message into a new buffer. */
static inline void fill(const struct call *c, uint64_t handle, const char *data, size_t length)
{
	store_relaxed(&pool_buffer(c->p, handle_index(handle))->length, (uint32_t)length);
	copy_bytes(segment_data(&c->p->segment, handle_index(handle)) +
			   c->p->segment.geometry.headroom,
		   data, length);
}

static inline uint64_t room(const struct call *c)
{
	return c->p->segment.stride - c->p->segment.geometry.headroom;
}

int64_t shmpool_send(uint64_t key, const char *data, size_t length)
{
	struct call c;
	uint64_t handle;
	int error = open_queue(key, &c);
	if (unlikely(error))
		return error;
	if (unlikely(length > room(&c)))
		return -EMSGSIZE;
	error = qmempool_alloc_quick(c.p, c.m, &handle);
	if (likely(!error))
		error = fresh(&c, handle, 0); /* it is in a queue before anybody could ask */
	if (unlikely(error))
		return error;
	fill(&c, handle, data, length);
	error = call_put(&c, &handle, 1);
	if (unlikely(error))
		qmempool_free(c.p, c.m, handle);
	return error;
}

/* How many of the messages go in one bulk: at least one. */
static uint32_t bulk_of(const struct shmpool_slice *slices, size_t n)
{
	uint64_t bytes = slices[0].length;
	uint32_t k = 1;
	while (k < n && k < SEND_MAX && (bytes += slices[k].length) <= SEND_BYTES)
		k++;
	return k;
}

/* Puts n buffers in as many bulks as there is room for, in order. How many went; *error is why not
 * all. */
static uint32_t put_parts(const struct call *c, const uint64_t *handle, uint32_t n,
			  int64_t deadline, int *error)
{
	uint32_t done = 0;
	while (done < n) {
		uint32_t room = alf_avail_space(c->ring), part = n - done;
		part = room < part ? room + (room == 0) : part;
		*error = blocking_put(c->p, c->m, c->ring, handle + done, part, deadline);
		if (*error)
			break;
		done += part;
	}
	return done;
}

int64_t shmpool_send_many_wait(uint64_t key, const struct shmpool_slice *slices, size_t n,
			       int64_t deadline)
{
	struct call c;
	uint64_t handle[SEND_MAX];
	int error = open_queue(key, &c);
	size_t sent = 0;
	if (error)
		return error;
	for (size_t i = 0; i < n; i++)
		if (slices[i].length > room(&c))
			return -EMSGSIZE;
	const int64_t end = wait_slice_end(deadline);
	while (sent < n && !error) {
		if (load_relaxed(&c.p->closing)) {
			error = -ESHUTDOWN;
			break;
		}
		uint32_t k = bulk_of(slices + sent, n - sent);
		if (k > alf_capacity(c.ring))
			k = alf_capacity(c.ring);
		/* As many as there are: nobody goes without while it waits for a bulk. */
		int got = blocking_alloc_some(c.p, c.m, handle, k, end);
		error = got < 0 ? got : all_fresh(&c, handle, (uint32_t)got, 0);
		if (error)
			break;
		for (int i = 0; i < got; i++)
			fill(&c, handle[i], slices[sent + i].data, slices[sent + i].length);
		uint32_t put = put_parts(&c, handle, (uint32_t)got, end, &error);
		if (error)
			qmempool_free_bulk(c.p, c.m, handle + put, (uint32_t)got - put);
		sent += put;
	}
	return sent ? (int64_t)sent : waits_on(error, end, deadline);
}

/* copy_bytes() that the compiler unfolds for the usual widths. */
static inline void copy_field(char *to, const char *from, size_t width)
{
	if (width == 8)
		memcpy(to, from, 8);
	else if (width == 4)
		memcpy(to, from, 4);
	else if (width == 2)
		memcpy(to, from, 2);
	else if (width == 64)
		memcpy(to, from, 64);
	else
		copy_bytes(to, from, width);
}

/* Where width bytes at offset of a buffer's data lie; NULL with the error in *error. */
static inline char *place(const struct call *c, uint64_t handle, size_t offset, size_t width,
			  int *error)
{
	*error = qmempool_check(c->p, c->m, handle);
	if (unlikely(*error))
		return NULL;
	const uint64_t room =
		c->p->segment.stride; /* room - headroom - offset - width >= 0, step by step */
	const uint64_t head = load_relaxed(&pool_buffer(c->p, handle_index(handle))->headroom);
	if (unlikely(head > room || offset > room - head || width > room - head - offset)) {
		*error = -ERANGE;
		return NULL;
	}
	return segment_data(&c->p->segment, handle_index(handle)) + head + offset;
}

int64_t shmpool_column(uint64_t key, const uint64_t *handles, size_t n, size_t offset, size_t width,
		       char *out)
{
	struct call c;
	int error = open_key(key, &c);
	if (error)
		return error;
	for (size_t i = 0; i < n; i++, out += width) {
		const char *from = place(&c, handles[i], offset, width, &error);
		if (unlikely(!from))
			return error;
		copy_field(out, from, width);
	}
	return (int64_t)n;
}

int64_t shmpool_set_column(uint64_t key, const uint64_t *handles, size_t n, size_t offset,
			   size_t width, const char *from, size_t step)
{
	struct call c;
	int error = open_key(key, &c);
	if (error)
		return error;
	for (size_t i = 0; i < n; i++, from += step) {
		char *to = place(&c, handles[i], offset, width, &error);
		if (unlikely(!to))
			return error;
		copy_field(to, from, width);
	}
	return (int64_t)n;
}

int64_t shmpool_lengths(uint64_t key, const uint64_t *handles, size_t n, uint32_t *out)
{
	struct call c;
	int error = open_key(key, &c);
	for (size_t i = 0; !error && i < n; i++) {
		error = qmempool_check(c.p, c.m, handles[i]);
		if (likely(!error))
			out[i] = extent_of(c.p, handles[i]).length;
	}
	return error ? error : (int64_t)n;
}

int64_t shmpool_set_lengths(uint64_t key, const uint64_t *handles, size_t n, const uint32_t *from,
			    size_t step)
{
	struct call c;
	int error = open_key(key, &c);
	for (size_t i = 0; !error && i < n; i++)
		place(&c, handles[i], 0, load_relaxed(&from[i * step]), &error);
	if (error)
		return error == -ERANGE ? -EMSGSIZE : error;
	/* The lengths may lie in shared memory too: whoever reads them from a header checks them.
	 *  */
	for (size_t i = 0; i < n; i++)
		store_relaxed(&pool_buffer(c.p, handle_index(handles[i]))->length,
			      load_relaxed(&from[i * step]));
	return (int64_t)n;
}
