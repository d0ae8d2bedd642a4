/* SPDX-License-Identifier: Apache-2.0
 *
 * columns.c - the base of shmpool.Burst: copies a field of every buffer to and from arrays. Returns
 * codes: Python words the exceptions (burst.py).
 */
#include "burst.h"

/* Opens the array's bytes. There must be as many as each, in bytes, times n, or times the buffers
 * of the burst if n is 0. 0, or -1 with an exception; the caller releases the view after 0. */
static int array_of(const struct burst_object *self, PyObject *array, int flags, uint64_t n,
		    uint64_t each, Py_buffer *view)
{
	if (PyObject_GetBuffer(array, view, flags))
		return -1;
	if (!burst_usable(self)) { /* after the exporter's code */
		unsigned __int128 need = (unsigned __int128)each * (n ? n : self->n);
		if (need == (unsigned __int128)view->len)
			return 0;
		PyErr_Format(PyExc_ValueError, "the array has %zd bytes", view->len);
	}
	PyBuffer_Release(view);
	return -1;
}

PyObject *burst_indices(PyObject *object, PyObject *Py_UNUSED(unused))
{
	struct burst_object *self = (struct burst_object *)object;
	if (burst_usable(self))
		return NULL;
	PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(self->n * sizeof(uint32_t)));
	for (uint32_t i = 0; bytes && i < self->n; i++)
		((uint32_t *)PyBytes_AS_STRING(bytes))[i] = handle_index(self->handle[i]);
	return bytes;
}

PyObject *burst_lengths(PyObject *object, PyObject *out)
{
	struct burst_object *self = (struct burst_object *)object;
	Py_buffer view;
	if (array_of(self, out, PyBUF_WRITABLE, 0, sizeof(uint32_t), &view))
		return NULL;
	int64_t code = shmpool_lengths(self->pool->key, self->handle, self->n, view.buf);
	PyBuffer_Release(&view);
	return PyLong_FromLongLong(code);
}

/* Updates an element's own copy of its length. */
static void element_length(struct buffer_object *element, uint32_t length)
{
	uint64_t room = element->pool->stride - element->headroom;
	element->length = length <= room ? length : 0; /* it fits a corrupted headroom only */
}

PyObject *burst_set_lengths(PyObject *object, PyObject *args)
{
	struct burst_object *self = (struct burst_object *)object;
	PyObject *array;
	Py_buffer view;
	int one;
	if (!PyArg_ParseTuple(args, "Op", &array, &one) ||
	    array_of(self, array, PyBUF_SIMPLE, one, sizeof(uint32_t), &view))
		return NULL;
	const uint32_t *length = view.buf;
	int64_t code = shmpool_set_lengths(self->pool->key, self->handle, self->n, length, !one);
	for (uint32_t i = 0; code >= 0 && self->element && i < self->n; i++)
		if (burst_has_element(self, i))
			element_length(self->element[i], load_relaxed(&length[one ? 0 : i]));
	PyBuffer_Release(&view);
	return PyLong_FromLongLong(code);
}

PyObject *burst_column(PyObject *object, PyObject *args)
{
	struct burst_object *self = (struct burst_object *)object;
	unsigned long long offset, width;
	PyObject *out;
	Py_buffer view;
	if (!PyArg_ParseTuple(args, "KKO", &offset, &width, &out) ||
	    array_of(self, out, PyBUF_WRITABLE, 0, width, &view))
		return NULL;
	int64_t code =
		shmpool_column(self->pool->key, self->handle, self->n, offset, width, view.buf);
	PyBuffer_Release(&view);
	return PyLong_FromLongLong(code);
}

PyObject *burst_set_column(PyObject *object, PyObject *args)
{
	struct burst_object *self = (struct burst_object *)object;
	unsigned long long offset, width;
	PyObject *array;
	Py_buffer view;
	int one;
	if (!PyArg_ParseTuple(args, "KKOp", &offset, &width, &array, &one) ||
	    array_of(self, array, PyBUF_SIMPLE, one, width, &view))
		return NULL;
	int64_t code = shmpool_set_column(self->pool->key, self->handle, self->n, offset, width,
					  view.buf, one ? 0 : width);
	PyBuffer_Release(&view);
	return PyLong_FromLongLong(code);
}
