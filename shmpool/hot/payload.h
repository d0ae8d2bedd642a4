/* SPDX-License-Identifier: Apache-2.0
 *
 * payload.h - a buffer's bytes as a Python object.
 */
#ifndef SHMPOOL_PAYLOAD_H
#define SHMPOOL_PAYLOAD_H

#include "hot.h"

/* Copies the buffer's bytes into a bytes object; NULL with an exception. Runs no Python code. */
static inline PyObject *payload_bytes(const struct qmempool *p, uint64_t handle)
{
	const struct shmpool_extent extent = header_extent(p, handle);
	const char *from = pool_data(p, handle_index(handle)) + extent.headroom;
	if (likely(extent.length < COPY_LARGE))
		return PyBytes_FromStringAndSize(from, (Py_ssize_t)extent.length);
	PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)extent.length);
	if (likely(bytes))
		copy_bytes(PyBytes_AS_STRING(bytes), from, extent.length);
	return bytes;
}

#endif
