/* SPDX-License-Identifier: Apache-2.0
 *
 * content.c - the bytes of a Buffer: written, read and viewed. A single buffer is one part, a chain
 * several.
 */
#include "parts.h"
#include "payload.h"

/* A chain of one part, for a single buffer. */
union single {
	struct hot_chain chain;
	char room[sizeof(struct hot_chain) + sizeof(struct hot_part)];
};

/* Returns the parts of a Buffer; those of a single one are made in *single. */
static const struct hot_chain *parts_of(const struct buffer_object *self, union single *single)
{
	if (self->chain)
		return self->chain;
	const uint64_t room = hot_buffer_stride(self) - self->headroom;
	single->chain = (struct hot_chain) { self->length, room, 1 };
	single->chain.part[0] = (struct hot_part) { hot_buffer_bytes(self), self->length, room,
						    hot_buffer_index(self) };
	return &single->chain;
}

/* Copies the slices, one after the other, to the begin of the parts, which have room. */
static void copy_in(const struct hot_chain *to, const struct shmpool_slice *slice, size_t n)
{
	const struct hot_part *part = to->part;
	uint64_t used = 0; /* of the part */
	for (size_t i = 0; i < n; i++)
		for (uint64_t done = 0; done < slice[i].length;) {
			if (used == part->room) {
				part++;
				used = 0;
				continue;
			}
			const uint64_t room = part->room - used, left = slice[i].length - done;
			const uint64_t k = left < room ? left : room;
			copy_bytes(part->data + used, slice[i].data + done, k);
			used += k;
			done += k;
		}
}

/* Copies up to n bytes in use, from offset on. Returns how many. */
static uint64_t copy_out(const struct hot_chain *from, uint64_t offset, char *to, uint64_t n)
{
	uint64_t done = 0;
	for (uint32_t i = 0; i < from->n && done < n; i++) {
		const struct hot_part *part = &from->part[i];
		if (offset >= part->length) {
			offset -= part->length;
			continue;
		}
		const uint64_t there = part->length - offset;
		const uint64_t k = there < n - done ? there : n - done;
		copy_bytes(to + done, part->data + offset, k);
		done += k;
		offset = 0;
	}
	return done;
}

int64_t hot_buffer_fill_bytes(struct buffer_object *self, const struct shmpool_slice *slice,
			      size_t n, uint64_t length)
{
	union single single;
	int error = hot_buffer_set_length(self, length);
	if (error)
		return error;
	const struct hot_chain *to = parts_of(self, &single);
	PyThreadState *state = hot_copy_begins(self, length);
	copy_in(to, slice, n);
	hot_copy_ends(self, state);
	return 0;
}

/* write() of n slices. The length, or NULL with an exception. */
static PyObject *write_slices(struct buffer_object *self, const struct shmpool_slice *slice,
			      size_t n)
{
	uint64_t length = 0;
	for (size_t i = 0; i < n; i++)
		length += slice[i].length;
	if (hot_buffer_usable(self, "write")) /* after the exporters' code */
		return NULL;
	int64_t error = hot_buffer_fill_bytes(self, slice, n, length);
	if (likely(!error))
		return PyLong_FromUnsignedLongLong(length);
	hot_buffer_length_refused(self, (int)error, PyLong_FromUnsignedLongLong(length));
	return NULL;
}

PyObject *hot_buffer_write(PyObject *object, PyObject *payload)
{
	Py_buffer from;
	if (PyObject_GetBuffer(payload, &from, PyBUF_SIMPLE))
		return NULL;
	const struct shmpool_slice slice = { from.buf, (size_t)from.len };
	PyObject *length = write_slices((struct buffer_object *)object, &slice, 1);
	PyBuffer_Release(&from);
	return length;
}

PyObject *hot_buffer_writelines(PyObject *object, PyObject *payloads)
{
	struct outgoing from;
	if (outgoing_open(&from, payloads))
		return NULL;
	PyObject *length = write_slices((struct buffer_object *)object, from.slice,
					(size_t)PyTuple_GET_SIZE(from.items));
	outgoing_release(&from);
	return length;
}

PyObject *hot_buffer_to_bytes(PyObject *object, PyObject *Py_UNUSED(unused))
{
	struct buffer_object *self = (struct buffer_object *)object;
	union single single;
	if (hot_buffer_usable(self, "bytes"))
		return NULL;
	PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)self->length);
	if (!bytes)
		return NULL;
	const struct hot_chain *from = parts_of(self, &single);
	PyThreadState *state = hot_copy_begins(self, self->length);
	copy_out(from, 0, PyBytes_AS_STRING(bytes), (uint64_t)PyBytes_GET_SIZE(bytes));
	hot_copy_ends(self, state);
	return bytes;
}

/* Reads the arguments of readinto(). 0, or -1 with an exception. */
static int parse_readinto(PyObject *const *args, Py_ssize_t n, Py_ssize_t *offset)
{
	*offset = 0;
	if (n < 1 || n > 2) {
		PyErr_SetString(PyExc_TypeError,
				"readinto() takes a target and one optional argument, offset");
		return -1;
	}
	PyObject *number = n > 1 ? hot_int(args[1], "offset") : NULL;
	if (n > 1 && !number)
		return -1;
	if (number)
		*offset = PyNumber_AsSsize_t(number, NULL); /* clamps what is out of range */
	Py_XDECREF(number);
	if (*offset >= 0)
		return 0;
	hot_fail(-EDOM, "offset is %R bytes; it must be 0 or more", args[1]);
	return -1;
}

PyObject *hot_buffer_readinto(PyObject *object, PyObject *const *args, Py_ssize_t n)
{
	struct buffer_object *self = (struct buffer_object *)object;
	union single single;
	Py_ssize_t offset;
	Py_buffer to;
	uint64_t done = 0;
	if (parse_readinto(args, n, &offset) || PyObject_GetBuffer(args[0], &to, PyBUF_WRITABLE))
		return NULL;
	int error = hot_buffer_usable(self, "readinto");
	if (!error) {
		const struct hot_chain *from = parts_of(self, &single);
		const uint64_t most =
			from->length < (uint64_t)to.len ? from->length : (uint64_t)to.len;
		PyThreadState *state = hot_copy_begins(self, most);
		done = copy_out(from, (uint64_t)offset, to.buf, (uint64_t)to.len);
		hot_copy_ends(self, state);
	}
	PyBuffer_Release(&to);
	return error ? NULL : PyLong_FromUnsignedLongLong(done);
}

PyObject *hot_part_view(struct buffer_object *self, uint32_t part)
{
	self->view_part = self->chain ? part + 1 : 0;
	PyObject *view = PyMemoryView_FromObject((PyObject *)self);
	self->view_part = 0;
	return view;
}

PyObject *hot_buffer_segments(PyObject *object, void *Py_UNUSED(unused))
{
	struct buffer_object *self = (struct buffer_object *)object;
	if (hot_buffer_usable(self, "segments"))
		return NULL;
	uint32_t n = 0;
	if (!self->chain)
		n = 1;
	else
		while (n < self->chain->n && self->chain->part[n].length)
			n++;
	PyObject *views = PyTuple_New(n);
	for (uint32_t i = 0; views && i < n; i++) {
		PyObject *view = hot_part_view(self, i);
		if (view)
			PyTuple_SET_ITEM(views, i, view);
		else
			Py_CLEAR(views);
	}
	return views;
}

PyObject *payload_chain(const struct qmempool *p, uint64_t handle)
{
	const uint64_t length = bytes_all(p, handle).length;
	PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)length);
	if (bytes) {
		char *to = PyBytes_AS_STRING(bytes);
		const uint64_t done = bytes_copy_out(p, handle, to, length);
		memset(to + done, 0, length - done); /* if the lengths have changed */
	}
	return bytes;
}
