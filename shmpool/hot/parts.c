/* SPDX-License-Identifier: Apache-2.0
 *
 * parts.c - see parts.h: chains are made, sent, and found.
 *
 * The parts of a chain are read from the headers once, when the Buffer is made, and checked. As
 * with a single buffer, no later use reads from the segment where the bytes are.
 */
#include "parts.h"

int hot_chain_read(struct buffer_object *self, const struct qmempool *p, uint64_t handle)
{
	const uint32_t n = chain_count(p, handle);
	if (n < 2)
		return 0; /* corrupted */
	struct hot_chain *chain = PyMem_Malloc(sizeof(*chain) + n * sizeof(*chain->part));
	if (!chain) {
		PyErr_NoMemory();
		return -1;
	}
	*chain = (struct hot_chain) { 0 };
	for (struct bytes_part part = bytes_first(p, handle); part.n && chain->n < n;
	     part = bytes_next(p, handle, &part)) {
		chain->part[chain->n++] =
			(struct hot_part) { part.data, part.length, part.room, part.index };
		chain->length += part.length;
		chain->room += part.room;
	}
	self->chain = chain;
	return 0;
}

int hot_chain_refuse(const struct buffer_object *self, const char *what)
{
	PyErr_Format(
		PyExc_BufferError,
		"buffer %u is a chain of %u buffers, whose bytes are not in one place: %s is not "
		"possible; use segments, bytes() or readinto()",
		hot_buffer_index(self), self->chain->n, what);
	return -1;
}

void hot_chain_note(struct buffer_object *self, uint64_t length)
{
	struct hot_chain *chain = self->chain;
	self->length = chain->length = length < chain->room ? length : chain->room;
	for (uint32_t i = 0; i < chain->n; i++) {
		struct hot_part *part = &chain->part[i];
		part->length = length < part->room ? length : part->room;
		length -= part->length;
	}
}

int hot_chain_set_length(struct buffer_object *self, uint64_t length)
{
	struct lookup c;
	if (length > self->chain->room)
		return -EMSGSIZE;
	int error = lookup_key(self->pool->key, &c);
	if (!error)
		error = qmempool_check(c.p, c.m, self->handle);
	if (error)
		return error;
	hot_chain_note(self, length);
	for (uint32_t i = 0; i < self->chain->n; i++)
		store_relaxed(&pool_buffer(c.p, self->chain->part[i].index)->length,
			      (uint32_t)self->chain->part[i].length);
	return 0;
}

/* ---- made ---- */

/* Takes buffers with room for so many bytes, by the plan in counts, all or none. Stores their
 * handles. How many, a code, or HOT_RAISED. */
static int64_t take_planned(struct hot_wait *wait, const uint32_t *counts, uint64_t *handles)
{
	struct pool_object *pool = wait->pool;
	uint32_t have = 0;
	int64_t code = 0;
	for (uint32_t i = pool->classes; i-- && code >= 0;) {
		if (!counts[i])
			continue;
		wait->handles = handles + have;
		wait->n = counts[i];
		wait->class = i;
		wait->turn = (struct shmpool_turn) { 0 };
		code = hot_block(wait);
		have += code >= 0 ? counts[i] : 0;
	}
	if (code < 0 && have && pool->key)
		shmpool_free_many(pool->key, handles, have);
	return code < 0 ? code : have;
}

/* Takes the buffers of a chain: from those that are free now, or else waits for those that the pool
 * can have. The handles are in *handles, which the caller frees with PyMem_Free(). */
static int64_t take_chain(struct hot_wait *wait, uint64_t bytes, uint64_t **handles)
{
	uint32_t counts[CLASSES_MAX];
	const uint64_t key = wait->pool->key;
	const double timeout = wait->timeout;
	*handles = NULL;
	for (int now = 1; now >= 0; now--) {
		int64_t n = key ? shmpool_chain_plan(key, bytes, now, counts) : -EBADF;
		if (n == -EAGAIN)
			continue;
		if (n < 0)
			return n;
		PyMem_Free(*handles);
		*handles = PyMem_New(uint64_t, (size_t)n);
		if (!*handles) {
			PyErr_NoMemory();
			return HOT_RAISED;
		}
		wait->timeout = now ? 0 : timeout;
		wait->deadline = 0;
		n = take_planned(wait, counts, *handles);
		if (n != -EAGAIN)
			return n;
	}
	return -EAGAIN;
}

/* Returns a Buffer that is a chain with room for so many bytes, or NULL with a code. */
static PyObject *new_chain(struct hot_wait *wait, uint64_t bytes, int64_t *code)
{
	struct lookup c = { 0 };
	uint64_t *handles;
	struct buffer_object *buffer = hot_buffer_new();
	*code = HOT_RAISED;
	if (!buffer)
		return NULL;
	hot_recover_if_due(wait->pool);
	*code = take_chain(wait, bytes, &handles);
	if (*code > 0) {
		const uint64_t head = handles[0];
		const size_t n = (size_t)*code;
		*code = shmpool_chain(wait->pool->key, handles, n);
		if (!*code)
			*code = lookup_key(wait->pool->key, &c);
		if (!*code) {
			PyMem_Free(handles);
			return hot_buffer_got(buffer, wait->pool, &c, head);
		}
		/* A signal handler has forked: the child owns what it took since. */
		for (size_t i = 0; i < n && wait->pool->key; i++)
			shmpool_free_many(wait->pool->key, &handles[i], 1);
	}
	PyMem_Free(handles);
	hot_buffer_discard(buffer);
	return NULL;
}

PyObject *hot_chain_alloc(struct pool_object *self, uint64_t bytes, double timeout, int64_t *code)
{
	struct hot_wait wait = { .operation = HOT_ALLOC, .pool = self, .timeout = timeout };
	return new_chain(&wait, bytes, code);
}

int64_t hot_chain_send(struct queue_object *self, const char *data, size_t length, double timeout)
{
	const struct shmpool_slice slice = { data, length };
	struct hot_wait wait = { .operation = HOT_ALLOC, .pool = self->pool, .timeout = timeout };
	int64_t code;
	struct buffer_object *buffer = (struct buffer_object *)new_chain(&wait, length, &code);
	if (!buffer)
		return code;
	code = hot_buffer_fill_bytes(buffer, &slice, 1, length);
	wait.timeout = timeout;
	if (!code)
		code = hot_queue_put(self, buffer, hot_time_left(&wait));
	if (code >= 0)
		hot_buffer_release(buffer);
	Py_DECREF(buffer); /* freed if it was not put */
	return code;
}
