/* SPDX-License-Identifier: Apache-2.0
 *
 * columns.c - the base of shmpool.Burst: copies a field of every buffer to and from arrays. Returns
 * codes: Python words the exceptions (burst.py).
 */
#include "burst.h"
#include "parts.h"

int burst_array(const struct burst_object *self, PyObject *array, int flags, uint64_t n,
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
	if (burst_array(self, out, PyBUF_WRITABLE, 0, sizeof(uint32_t), &view))
		return NULL;
	int64_t code = shmpool_lengths(self->pool->key, self->handle, self->n, view.buf);
	PyBuffer_Release(&view);
	return PyLong_FromLongLong(code);
}

/* Updates an element's own copy of its length. */
static void element_length(struct buffer_object *element, uint32_t length)
{
	if (element->chain) {
		hot_chain_note(element, length);
		return;
	}
	uint64_t room = hot_buffer_stride(element) - element->headroom;
	element->length = length <= room ? length : 0; /* it fits a corrupted headroom only */
}

PyObject *burst_set_lengths(PyObject *object, PyObject *args)
{
	struct burst_object *self = (struct burst_object *)object;
	PyObject *array;
	Py_buffer view;
	int one;
	if (!PyArg_ParseTuple(args, "Op", &array, &one) ||
	    burst_array(self, array, PyBUF_SIMPLE, one, sizeof(uint32_t), &view))
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
	    burst_array(self, out, PyBUF_WRITABLE, 0, width, &view))
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
	    burst_array(self, array, PyBUF_SIMPLE, one, width, &view))
		return NULL;
	int64_t code = shmpool_set_column(self->pool->key, self->handle, self->n, offset, width,
					  view.buf, one ? 0 : width);
	PyBuffer_Release(&view);
	return PyLong_FromLongLong(code);
}

/* A field of the header. shmpool_field() has each of them too, but looks up the pool and the buffer
 * for one value: a burst does so once, and needs to know where the fields are. */
struct field {
	const char *name;
	size_t offset;
	size_t width; /* bytes in a column, 4 or 8 */
	bool half;    /* the header has half as many */
	bool writable;
};

/* Returns the field of that name, or NULL with an exception. */
static const struct field *field_named(const char *name)
{
	static const struct field fields[] = {
		{ "mark", offsetof(struct buffer, mark), 4, false, true },
		{ "flow_hash", offsetof(struct buffer, flow_hash), 4, false, true },
		{ "timestamp", offsetof(struct buffer, timestamp), 8, false, true },
		{ "redelivered", offsetof(struct buffer, redelivered), 4, true, false },
	};
	for (size_t i = 0; i < sizeof(fields) / sizeof(*fields); i++)
		if (!strcmp(name, fields[i].name))
			return &fields[i];
	PyErr_Format(PyExc_ValueError, "a header has no field %s", name);
	return NULL;
}

/* Returns the field's place in the header of the burst's buffer i, which the caller owns. */
static void *place(const struct burst_object *self, const struct lookup *c, uint32_t i,
		   const struct field *field)
{
	return (char *)pool_buffer(c->p, handle_index(self->handle[i])) + field->offset;
}

PyObject *burst_field(PyObject *object, PyObject *args)
{
	struct burst_object *self = (struct burst_object *)object;
	const struct field *field;
	const char *name;
	PyObject *out;
	Py_buffer view;
	if (!PyArg_ParseTuple(args, "sO", &name, &out) || !(field = field_named(name)) ||
	    burst_array(self, out, PyBUF_WRITABLE, 0, field->width, &view))
		return NULL;
	struct lookup c;
	int error = lookup_key(self->pool->key, &c);
	char *to = view.buf;
	for (uint32_t i = 0; !error && i < self->n; i++, to += field->width) {
		error = qmempool_check(c.p, c.m, self->handle[i]);
		if (unlikely(error))
			break;
		if (field->width == 4) {
			const void *from = place(self, &c, i, field);
			const uint32_t value = field->half ? load_relaxed((uint16_t *)from) :
							     load_relaxed((uint32_t *)from);
			memcpy(to, &value, sizeof(value));
		} else { /* up to INT64_MAX, as shmpool_field() */
			const uint64_t value =
				load_relaxed((uint64_t *)place(self, &c, i, field)) & INT64_MAX;
			memcpy(to, &value, sizeof(value));
		}
	}
	PyBuffer_Release(&view);
	return PyLong_FromLong(error);
}

PyObject *burst_set_field(PyObject *object, PyObject *args)
{
	struct burst_object *self = (struct burst_object *)object;
	const struct field *field;
	const char *name;
	PyObject *array;
	Py_buffer view;
	int one;
	if (!PyArg_ParseTuple(args, "sOp", &name, &array, &one) || !(field = field_named(name)))
		return NULL;
	if (!field->writable)
		return PyErr_Format(PyExc_AttributeError, "%s cannot be set", name);
	if (burst_array(self, array, PyBUF_SIMPLE, one, field->width, &view))
		return NULL;
	struct lookup c;
	int error = lookup_key(self->pool->key, &c);
	for (uint32_t i = 0; !error && i < self->n; i++) /* all of them, before one is written */
		error = qmempool_check(c.p, c.m, self->handle[i]);
	const char *from = view.buf;
	for (uint32_t i = 0; !error && i < self->n; i++, from += one ? 0 : field->width) {
		uint64_t wide;
		uint32_t narrow;
		if (field->width == 4) {
			memcpy(&narrow, from, sizeof(narrow));
			store_relaxed((uint32_t *)place(self, &c, i, field), narrow);
		} else {
			memcpy(&wide, from, sizeof(wide));
			store_relaxed((uint64_t *)place(self, &c, i, field), wide & INT64_MAX);
		}
	}
	PyBuffer_Release(&view);
	return PyLong_FromLong(error);
}
