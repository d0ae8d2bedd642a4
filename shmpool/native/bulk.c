/* SPDX-License-Identifier: Apache-2.0
 *
 * bulk.c - the calls of binding.h that move many buffers, or bytes in and out of them.
 */
#include <string.h>

#include "blocking.h"
#include "copy.h"
#include "lookup.h"
#include "wait.h"

/* Payloads that send_many copies before it puts them: so many, or so many bytes. The first of them
 * are still in the processor's caches when a consumer reads them. */
#define SEND_MAX 256u
#define SEND_BYTES (256u << 10)

/* header_reset() for n buffers just allocated. 0; or -EBADMSG if one is refused: then all are free
 * again. */
static int reset_headers(const struct lookup *c, uint32_t class, uint64_t *handles, uint32_t n,
			 int64_t now)
{
	for (uint32_t i = 0; i < n; i++)
		if (unlikely(header_reset(c, class, handles[i], now))) {
			n = pool_filter(c->p, handles, n);
			for (i = 0; i < n; i++)
				qmempool_free(c->p, c->m, handles[i]);
			return -EBADMSG;
		}
	return 0;
}

int64_t shmpool_alloc_cached(uint64_t key, uint64_t *handles, size_t n)
{
	struct lookup c;
	int error = lookup_key(key, &c);
	if (unlikely(error))
		return error;
	if (unlikely(key_class(key) >= segment_classes(&c.p->segment)))
		return -EINVAL;
	struct qmempool *of = pool_class(c.p, key_class(key));
	if (n > of->cache_size || !cache_pop(of, pool_block(of, c.m), handles, (uint32_t)n))
		return -EINPROGRESS;
	error = reset_headers(&c, key_class(key), handles, (uint32_t)n, wait_coarse());
	return likely(!error) ? (int64_t)n : error;
}

int64_t shmpool_alloc_many_wait(uint64_t key, uint64_t *handles, size_t n, int64_t deadline,
				struct shmpool_turn *turn)
{
	struct lookup c;
	int error = lookup_key(key, &c);
	if (error)
		return error;
	const uint32_t class = key_class(key);
	if (pool_class_for(c.p, class, n) >= segment_classes(&c.p->segment))
		return -EMSGSIZE;
	int64_t end = wait_slice_end(deadline);
	error = blocking_alloc_turns(c.p, c.m, class, handles, (uint32_t)n, end, deadline, turn);
	if (!error)
		error = reset_headers(&c, class, handles, (uint32_t)n, wait_coarse());
	return error ? wait_slice_result(error, end, deadline) : (int64_t)n;
}

int64_t shmpool_free_many(uint64_t key, const uint64_t *handles, size_t n)
{
	struct lookup c;
	int error = lookup_key(key, &c);
	if (error)
		return error;
	return n > c.p->total ? -EMSGSIZE : qmempool_free_bulk(c.p, c.m, handles, (uint32_t)n);
}

/* Looks the queue up. -EMSGSIZE if no put can be of n. */
static int lookup_for(uint64_t key, size_t n, struct lookup *c)
{
	int error = lookup_queue_in(key, c);
	return error ? error : n > c->ring->bulk ? -EMSGSIZE : 0;
}

int64_t shmpool_put_many(uint64_t key, const uint64_t *handles, size_t n)
{
	struct lookup c;
	int error = lookup_for(key, n, &c);
	if (!error && n)
		error = lookup_put(&c, handles, (uint32_t)n);
	return error ? error : (int64_t)n;
}

int64_t shmpool_put_many_wait(uint64_t key, const uint64_t *handles, size_t n, int64_t deadline)
{
	struct lookup c;
	int64_t end = wait_slice_end(deadline);
	int error = lookup_for(key, n, &c);
	if (!error && n)
		error = blocking_put(c.p, c.m, c.ring, handles, (uint32_t)n, end);
	return error ? wait_slice_result(error, end, deadline) : (int64_t)n;
}

static int set_since(const struct lookup *c, const uint64_t *handles, int got)
{
	int64_t now = got > 0 ? wait_coarse() : 0;
	for (int i = 0; i < got; i++)
		header_set_since(c, handles[i], now);
	return got;
}

int64_t shmpool_get_many(uint64_t key, uint64_t *handles, size_t n)
{
	struct lookup c;
	int error = lookup_queue(key, &c);
	if (error)
		return error;
	n = queue_most(c.ring, n);
	return n ? set_since(&c, handles, lookup_get(&c, handles, (uint32_t)n)) : 0;
}

int64_t shmpool_get_many_wait(uint64_t key, uint64_t *handles, size_t n, int64_t deadline)
{
	struct lookup c;
	int64_t end = wait_slice_end(deadline);
	int got = lookup_queue(key, &c);
	if (got)
		return got;
	n = queue_most(c.ring, n);
	if (n)
		got = blocking_get(c.p, c.m, c.ring, handles, (uint32_t)n, end);
	return wait_slice_result(set_since(&c, handles, got), end, deadline);
}

/* Copies a payload into a new buffer. */
static inline void fill(const struct lookup *c, uint64_t handle, const char *data, size_t length)
{
	store_relaxed(&pool_buffer(c->p, handle_index(handle))->length, (uint32_t)length);
	copy_bytes(pool_data(c->p, handle_index(handle)) + c->p->segment.geometry.headroom, data,
		   length);
}

int64_t shmpool_send(uint64_t key, const char *data, size_t length)
{
	struct lookup c;
	uint64_t handle;
	int error = lookup_queue_in(key, &c);
	if (unlikely(error))
		return error;
	const uint32_t class = lookup_class(c.p, length);
	if (unlikely(class == segment_classes(&c.p->segment)))
		return -EMSGSIZE;
	/* 0: nobody reads since before it is put. */
	error = unlikely(class) ? lookup_alloc_class(&c, class, &handle, 0) :
				  lookup_alloc(&c, &handle, 0);
	if (unlikely(error))
		return error;
	fill(&c, handle, data, length);
	error = lookup_put(&c, &handle, 1);
	if (unlikely(error))
		qmempool_free(c.p, c.m, handle);
	return error;
}

/* Returns how many of the payloads go in one bulk, all of one class: at least one. */
static uint32_t bulk_of(const struct lookup *c, const struct shmpool_slice *slices, size_t n)
{
	const uint32_t class = lookup_class(c->p, slices[0].length);
	uint64_t bytes = slices[0].length;
	uint32_t k = 1;
	while (k < n && k < SEND_MAX && (bytes += slices[k].length) <= SEND_BYTES &&
	       lookup_class(c->p, slices[k].length) == class)
		k++;
	return k;
}

/* Puts n buffers, in order, in bulks as large as there is room for. Returns how many were put;
 * *error says why not all. */
static uint32_t put_parts(const struct lookup *c, const uint64_t *handle, uint32_t n,
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
	struct lookup c;
	uint64_t handle[SEND_MAX];
	int error = lookup_queue_in(key, &c);
	size_t sent = 0;
	if (error)
		return error;
	for (size_t i = 0; i < n; i++)
		if (lookup_class(c.p, slices[i].length) == segment_classes(&c.p->segment))
			return -EMSGSIZE;
	const int64_t end = wait_slice_end(deadline);
	while (sent < n && !error) {
		if (load_relaxed(&c.p->closing)) {
			error = -ESHUTDOWN;
			break;
		}
		uint32_t k = bulk_of(&c, slices + sent, n - sent);
		if (k > c.ring->bulk)
			k = c.ring->bulk;
		/* Take what is free: waiting for a whole bulk would starve others. */
		const uint32_t class = lookup_class(c.p, slices[sent].length);
		int got = blocking_alloc_some(c.p, c.m, class, handle, k, end);
		error = got < 0 ? got : reset_headers(&c, class, handle, (uint32_t)got, 0);
		if (error)
			break;
		for (int i = 0; i < got; i++)
			fill(&c, handle[i], slices[sent + i].data, slices[sent + i].length);
		uint32_t put = put_parts(&c, handle, (uint32_t)got, end, &error);
		if (error)
			qmempool_free_bulk(c.p, c.m, handle + put, (uint32_t)got - put);
		sent += put;
	}
	return sent ? (int64_t)sent : wait_slice_result(error, end, deadline);
}

/* copy_bytes() that the compiler unrolls for the usual widths. */
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

/* Returns the address of width bytes at offset of a buffer's data; NULL with a code in *error. */
static inline char *place(const struct lookup *c, uint64_t handle, size_t offset, size_t width,
			  int *error)
{
	*error = qmempool_check(c->p, c->m, handle);
	if (unlikely(*error))
		return NULL;
	/* Check step by step: no difference may wrap. */
	const uint64_t room = pool_stride(c->p, handle_index(handle));
	const uint64_t head = load_relaxed(&pool_buffer(c->p, handle_index(handle))->headroom);
	if (unlikely(head > room || offset > room - head || width > room - head - offset)) {
		*error = -ERANGE;
		return NULL;
	}
	return pool_data(c->p, handle_index(handle)) + head + offset;
}

int64_t shmpool_column(uint64_t key, const uint64_t *handles, size_t n, size_t offset, size_t width,
		       char *out)
{
	struct lookup c;
	int error = lookup_key(key, &c);
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
	struct lookup c;
	int error = lookup_key(key, &c);
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

/* A chain may have more bytes than a length can say. */
static uint32_t clamped(uint64_t length)
{
	return length < UINT32_MAX ? (uint32_t)length : UINT32_MAX;
}

int64_t shmpool_lengths(uint64_t key, const uint64_t *handles, size_t n, uint32_t *out)
{
	struct lookup c;
	int error = lookup_key(key, &c);
	for (size_t i = 0; !error && i < n; i++) {
		error = qmempool_check(c.p, c.m, handles[i]);
		if (likely(!error))
			out[i] = clamped(bytes_all(c.p, handles[i]).length);
	}
	return error ? error : (int64_t)n;
}

int64_t shmpool_set_lengths(uint64_t key, const uint64_t *handles, size_t n, const uint32_t *from,
			    size_t step)
{
	struct lookup c;
	int error = lookup_key(key, &c);
	for (size_t i = 0; !error && i < n; i++) {
		error = qmempool_check(c.p, c.m, handles[i]);
		if (likely(!error) &&
		    load_relaxed(&from[i * step]) > bytes_all(c.p, handles[i]).room)
			error = -EMSGSIZE;
	}
	if (error)
		return error;
	/* The lengths may lie in shared memory and change after the check above. */
	for (size_t i = 0; i < n; i++)
		bytes_set_length(c.p, handles[i], load_relaxed(&from[i * step]));
	return (int64_t)n;
}
