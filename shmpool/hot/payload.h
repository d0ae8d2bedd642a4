/* SPDX-License-Identifier: Apache-2.0
 *
 * payload.h - a buffer's bytes as a Python object, and Python objects as bytes.
 */
#ifndef SHMPOOL_PAYLOAD_H
#define SHMPOOL_PAYLOAD_H

#include "hot.h"

/* Payloads that are being sent, and the references that keep their bytes in place. */
struct outgoing {
	PyObject *items; /* a tuple */
	struct shmpool_slice *slice;
	Py_buffer *view; /* of those that are not bytes; NULL if all are */
};

/* Collects the payloads. 0, or -1 with an exception. May run Python code. */
int outgoing_open(struct outgoing *out, PyObject *payloads);
void outgoing_release(struct outgoing *out);

/* Copies a chain's bytes into a bytes object; NULL with an exception. Runs no Python code. */
PyObject *payload_chain(const struct qmempool *p, uint64_t handle);

/* The same for any buffer. */
static inline PyObject *payload_bytes(const struct qmempool *p, uint64_t handle)
{
	const struct shmpool_extent extent = bytes_extent(p, handle);
	const char *from = pool_data(p, handle_index(handle)) + extent.headroom;
	if (unlikely(buffer_heads(pool_buffer(p, handle_index(handle)))))
		return payload_chain(p, handle);
	if (likely(extent.length < COPY_LARGE))
		return PyBytes_FromStringAndSize(from, (Py_ssize_t)extent.length);
	PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)extent.length);
	if (likely(bytes))
		copy_bytes(PyBytes_AS_STRING(bytes), from, extent.length);
	return bytes;
}

#endif
