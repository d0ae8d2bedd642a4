/* SPDX-License-Identifier: Apache-2.0
 *
 * fields.c - attributes of shmpool.Buffer: its views, length, headroom, and the fields of its
 * header.
 *
 * headroom and length say where the bytes are, so they are the object's own copies and are never
 * read from the segment again. A setter converts its value first, which may run Python code, and
 * checks the Buffer afterwards.
 */
#include "parts.h"

static uint64_t room_of(const struct buffer_object *self)
{
	if (unlikely(self->chain))
		return self->chain->room;
	return hot_buffer_stride(self) - self->headroom;
}

static PyObject *buffer_view(PyObject *object, void *room)
{
	struct buffer_object *self = (struct buffer_object *)object;
	self->view_room = room;
	PyObject *view = PyMemoryView_FromObject(object);
	self->view_room = false;
	return view;
}

static PyObject *buffer_get_length(PyObject *object, void *Py_UNUSED(unused))
{
	struct buffer_object *self = (struct buffer_object *)object;
	return hot_buffer_usable(self, "len") ? NULL : PyLong_FromUnsignedLongLong(self->length);
}

int hot_buffer_set_length(struct buffer_object *self, uint64_t length)
{
	struct buffer *b;
	if (unlikely(self->chain))
		return hot_chain_set_length(self, length);
	if (unlikely(length > room_of(self)))
		return -EMSGSIZE;
	int error = hot_buffer_header(self, &b);
	if (unlikely(error))
		return error;
	store_relaxed(&b->length, (uint32_t)length);
	self->length = length;
	return 0;
}

int hot_buffer_length_refused(struct buffer_object *self, int error, PyObject *length)
{
	if (error != -EMSGSIZE)
		hot_buffer_raise(self, error, "length");
	else if (length)
		hot_fail(error, "length is %R bytes; the buffer has room for %llu", length,
			 (unsigned long long)room_of(self));
	Py_XDECREF(length);
	return -1;
}

static int buffer_set_length(PyObject *object, PyObject *value, void *Py_UNUSED(unused))
{
	struct buffer_object *self = (struct buffer_object *)object;
	if (!value) {
		PyErr_SetString(PyExc_AttributeError, "length cannot be deleted");
		return -1;
	}
	PyObject *number = hot_int(value, "length");
	if (!number)
		return -1;
	Py_ssize_t length = PyNumber_AsSsize_t(number, NULL); /* clamps what is out of range */
	int error = hot_buffer_usable(self, "length");
	if (!error && length < 0) {
		hot_fail(-EDOM, "length is %R bytes; it cannot be negative", number);
		error = -1;
	}
	if (!error && (error = hot_buffer_set_length(self, (uint64_t)length)))
		error = hot_buffer_length_refused(self, error, Py_NewRef(number));
	Py_DECREF(number);
	return error;
}

static PyObject *buffer_get_headroom(PyObject *object, void *Py_UNUSED(unused))
{
	struct buffer_object *self = (struct buffer_object *)object;
	return hot_buffer_usable(self, "headroom") ? NULL :
						     PyLong_FromUnsignedLongLong(self->headroom);
}

/* Stores the value as a number in *number, UINT64_MAX for one that is negative or larger. 0, or -1
 * with an exception. */
static int unsigned_of(PyObject *value, const char *name, uint64_t *number)
{
	if (!value) {
		PyErr_Format(PyExc_AttributeError, "%s cannot be deleted", name);
		return -1;
	}
	PyObject *given = hot_int(value, name);
	if (!given)
		return -1;
	*number = PyLong_AsUnsignedLongLong(given);
	if (*number == UINT64_MAX)
		PyErr_Clear();
	Py_DECREF(given);
	return 0;
}

static int out_of_range(const char *name, PyObject *value, uint64_t most)
{
	hot_fail(-EDOM, "%s is %R; allowed are 0 to %llu", name, value, (unsigned long long)most);
	return -1;
}

static int buffer_set_headroom(PyObject *object, PyObject *value, void *Py_UNUSED(unused))
{
	struct buffer_object *self = (struct buffer_object *)object;
	struct buffer *b;
	uint64_t number;
	if (unsigned_of(value, "headroom", &number) || hot_buffer_movable(self, "headroom"))
		return -1;
	if (self->chain)
		return hot_chain_refuse(self, "another headroom");
	if (number > hot_buffer_stride(self) - self->length)
		return out_of_range("headroom", value, hot_buffer_stride(self) - self->length);
	int error = hot_buffer_header(self, &b);
	if (error) {
		hot_buffer_raise(self, error, "headroom");
		return -1;
	}
	store_relaxed(&b->headroom, (uint32_t)number);
	self->headroom = number;
	return 0;
}

static uint64_t field_key(const struct buffer_object *self)
{
	uint64_t generation = handle_generation(self->handle) & KEY_GENERATION_MASK;
	return self->pool->key | generation << ALF_INDEX_BITS | hot_buffer_index(self);
}

static PyObject *buffer_get_field(PyObject *object, void *field)
{
	struct buffer_object *self = (struct buffer_object *)object;
	if (hot_buffer_usable(self, "header"))
		return NULL;
	int64_t value = shmpool_field(field_key(self), (int)(intptr_t)field);
	return value < 0 ? hot_buffer_raise(self, value, "header") : PyLong_FromLongLong(value);
}

static int buffer_set_field(PyObject *object, PyObject *value, void *field)
{
	struct buffer_object *self = (struct buffer_object *)object;
	static const char *const names[] = { "mark", "flow_hash", "timestamp" };
	const char *name = names[(intptr_t)field];
	const uint64_t most = (intptr_t)field == SHMPOOL_TIMESTAMP ? INT64_MAX : UINT32_MAX;
	uint64_t number;
	if (unsigned_of(value, name, &number) || hot_buffer_usable(self, name))
		return -1;
	if (number > most)
		return out_of_range(name, value, most);
	int64_t error = shmpool_set_field(field_key(self), (int)(intptr_t)field, number);
	if (error)
		hot_buffer_raise(self, error, name);
	return error ? -1 : 0;
}

static PyObject *buffer_get_index(PyObject *object, void *Py_UNUSED(unused))
{
	struct buffer_object *self = (struct buffer_object *)object;
	return hot_buffer_usable(self, "index") ? NULL :
						  PyLong_FromUnsignedLong(hot_buffer_index(self));
}

static PyObject *buffer_get_pool(PyObject *object, void *Py_UNUSED(unused))
{
	return Py_NewRef(((struct buffer_object *)object)->pool);
}

static PyObject *buffer_get_released(PyObject *object, void *Py_UNUSED(unused))
{
	return PyBool_FromLong(!hot_buffer_live((struct buffer_object *)object));
}

PyGetSetDef hot_buffer_getset[] = {
	{ "data", buffer_view, NULL, "All bytes behind headroom: a writable memoryview.",
	  (void *)1 },
	{ "view", buffer_view, NULL, "data[:length]: a writable memoryview.", NULL },
	{ "segments", hot_buffer_segments, NULL,
	  "The bytes in use as a tuple of writable memoryviews, one after the other, as\n"
	  "os.readv() and os.writev() take them: one view, or of a chain one of each buffer.\n"
	  "Set length before you write into those of a new Buffer.",
	  NULL },
	{ "length", buffer_get_length, buffer_set_length,
	  "Bytes in use. PayloadTooLarge if set to more than data has.", NULL },
	{ "index", buffer_get_index, NULL, "The buffer's number in its pool.", NULL },
	{ "pool", buffer_get_pool, NULL, "The pool that the buffer belongs to.", NULL },
	{ "released", buffer_get_released, NULL,
	  "True if it was freed or put, or its pool was closed.", NULL },
	{ "headroom", buffer_get_headroom, buffer_set_headroom,
	  "Bytes left free before data. Setting it moves data, not its bytes.", NULL },
	{ "mark", buffer_get_field, buffer_set_field, "32 bits for the application.",
	  (void *)SHMPOOL_MARK },
	{ "flow_hash", buffer_get_field, buffer_set_field, "32 bits: a hash of the packet's flow.",
	  (void *)SHMPOOL_FLOW_HASH },
	{ "timestamp", buffer_get_field, buffer_set_field,
	  "Nanoseconds, on the application's clock.", (void *)SHMPOOL_TIMESTAMP },
	{ "queue_number", buffer_get_field, NULL,
	  "Number of the queue that it was got from, 0 for none.", (void *)SHMPOOL_QUEUE },
	{ "redelivered", buffer_get_field, NULL,
	  "Times that it was returned to a queue: a consumer died, or called nack().",
	  (void *)SHMPOOL_REDELIVERED },
	{ "origin_number", buffer_get_field, NULL,
	  "Number of the queue from which it became a dead letter, 0 for none.",
	  (void *)SHMPOOL_ORIGIN },
	{ "generation", buffer_get_field, NULL, "Changes whenever the buffer is freed.",
	  (void *)SHMPOOL_GENERATION },
	{ NULL, NULL, NULL, NULL, NULL },
};
