/* SPDX-License-Identifier: Apache-2.0
 *
 * parts.h - a Buffer that is a chain (native/chain.h), and what a Buffer and a chain have in
 * common: their bytes as segments.
 */
#ifndef SHMPOOL_PARTS_H
#define SHMPOOL_PARTS_H

#include "hot.h"

/* The parts of a chain, the head first: the object's own copy, which was read from the headers once
 * and checked. */
struct hot_chain {
	uint64_t length; /* bytes in use, of all parts */
	uint64_t room;   /* bytes of all parts */
	uint32_t n;
	struct hot_part {
		char *data;
		uint64_t length; /* bytes in use */
		uint64_t room;
		uint32_t index; /* of the buffer */
	} part[];
};

/* Reads the parts of the chain that a buffer heads into a Buffer that is to be filled with it. 0,
 * or -1 with MemoryError. Runs no Python code. */
int hot_chain_read(struct buffer_object *self, const struct qmempool *p, uint64_t handle);

/* hot_buffer_fill() for a buffer that was got, which may head a chain. NULL with MemoryError: the
 * message is free again. */
static inline PyObject *hot_buffer_got(struct buffer_object *buffer, struct pool_object *pool,
				       const struct lookup *c, uint64_t handle)
{
	int error = 0;
	if (unlikely(buffer_heads(pool_buffer(c->p, handle_index(handle)))))
		error = hot_chain_read(buffer, c->p, handle);
	PyObject *filled = hot_buffer_fill(buffer, pool, handle, bytes_extent(c->p, handle));
	if (unlikely(error))
		Py_CLEAR(filled);
	return filled;
}

/* Returns a Buffer with room for so many bytes, more than one buffer has: a chain. NULL with a
 * code, or HOT_RAISED: -EMSGSIZE if the whole pool has less room. */
PyObject *hot_chain_alloc(struct pool_object *self, uint64_t bytes, double timeout, int64_t *code);

/* Sends a payload of more bytes than one buffer has, as a chain. 0, a code, or HOT_RAISED. */
int64_t hot_chain_send(struct queue_object *self, const char *data, size_t length, double timeout);

/* Raises BufferError for a use that needs all bytes in one place. Returns -1. */
int hot_chain_refuse(const struct buffer_object *self, const char *what);

/* Says that the first length bytes of the chain are in use: in the headers, 0 or a code; or in the
 * object only, whose headers the caller has written. */
int hot_chain_set_length(struct buffer_object *self, uint64_t length);
void hot_chain_note(struct buffer_object *self, uint64_t length);

/* Says how many bytes of a Buffer are in use. 0, or a code: -EMSGSIZE if it has less room. */
int hot_buffer_set_length(struct buffer_object *self, uint64_t length);

/* Raises what that returned. Steals the reference to length. Returns -1. */
int hot_buffer_length_refused(struct buffer_object *self, int error, PyObject *length);

/* Sets the length, and copies n slices that have so many bytes. 0, or a code. Releases the
 * interpreter's lock while it copies much. */
int64_t hot_buffer_fill_bytes(struct buffer_object *self, const struct shmpool_slice *slice,
			      size_t n, uint64_t length);

/* Returns a memoryview of a part's bytes in use, which keeps the buffer; a single buffer is one
 * part. NULL with an exception. */
PyObject *hot_part_view(struct buffer_object *self, uint32_t part);

/* Methods and attributes of Buffer. */
PyObject *hot_buffer_to_bytes(PyObject *object, PyObject *unused);
PyObject *hot_buffer_write(PyObject *object, PyObject *payload);
PyObject *hot_buffer_writelines(PyObject *object, PyObject *payloads);
PyObject *hot_buffer_readinto(PyObject *object, PyObject *const *args, Py_ssize_t n);
PyObject *hot_buffer_segments(PyObject *object, void *unused);

#endif
