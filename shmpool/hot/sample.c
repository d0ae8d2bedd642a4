/* SPDX-License-Identifier: Apache-2.0
 *
 * sample.c - shmpool.Sample: one message of a topic in the hands of a subscriber.
 */
#include "samples.h"

static bool sample_live(const struct sample_object *self)
{
	return self->state == *hot_process_number && samples_key(self->from);
}

static int sample_usable(const struct sample_object *self, const char *what)
{
	if (likely(sample_live(self)))
		return 0;
	struct pool_object *pool = self->from->topic->pool;
	hot_fail_in((PyObject *)pool, hot_not_live(pool, self->state), "%s: message %llu of ", what,
		    (unsigned long long)self->sequence);
	return -1;
}

static int sample_lookup(const struct sample_object *self, const char *what, struct lookup *c)
{
	if (sample_usable(self, what))
		return -1;
	int error = lookup_key(samples_key(self->from), c);
	if (error)
		hot_pool_raise(self->from->topic->pool, error);
	return error ? -1 : 0;
}

static void sample_let_go(struct sample_object *self)
{
	if (sample_live(self))
		shmpool_done(samples_key(self->from), &self->from->in, &self->handle, 1);
	self->state = HOT_RELEASED;
}

struct sample_object *samples_new(struct subscriber_object *from)
{
	struct sample_object *self = PyObject_GC_New(struct sample_object, hot_sample_type);
	if (!self)
		return NULL;
	self->from = (struct subscriber_object *)Py_NewRef(from);
	self->state = HOT_RELEASED;
	self->exports = self->part = 0;
	self->handle = self->sequence = 0;
	self->later = false;
	PyObject_GC_Track(self);
	return self;
}

static int sample_traverse(PyObject *object, visitproc visit, void *arg)
{
	Py_VISIT(Py_TYPE(object));
	Py_VISIT(((struct sample_object *)object)->from);
	return 0;
}

static void sample_dealloc(PyObject *object)
{
	struct sample_object *self = (struct sample_object *)object;
	PyTypeObject *type = Py_TYPE(object);
	PyObject_GC_UnTrack(object);
	if (self->from)
		sample_let_go(self);
	Py_XDECREF(self->from);
	type->tp_free(object);
	Py_DECREF(type);
}

/* Returns one part of the message; its n is 0 if it has no such part. */
static struct bytes_part part_at(const struct lookup *c, uint64_t handle, uint32_t number)
{
	struct bytes_part part = bytes_first(c->p, handle);
	while (part.n && part.n < number)
		part = bytes_next(c->p, handle, &part);
	return part;
}

static int sample_getbuffer(PyObject *object, Py_buffer *view, int flags)
{
	struct sample_object *self = (struct sample_object *)object;
	struct lookup c;
	view->obj = NULL;
	if (sample_lookup(self, "view", &c))
		return -1;
	if (!self->part && buffer_heads(pool_buffer(c.p, handle_index(self->handle)))) {
		PyErr_Format(
			PyExc_BufferError,
			"message %llu is a chain of buffers, whose bytes are not in one place: "
			"a view of all of it is not possible; use segments or bytes()",
			(unsigned long long)self->sequence);
		return -1;
	}
	const struct bytes_part part = part_at(&c, self->handle, self->part);
	if (PyBuffer_FillInfo(view, object, part.data, (Py_ssize_t)part.length, 1, flags))
		return -1;
	self->exports++;
	self->from->topic->pool->exports++;
	return 0;
}

static void sample_releasebuffer(PyObject *object, Py_buffer *Py_UNUSED(view))
{
	struct sample_object *self = (struct sample_object *)object;
	self->from->topic->pool->exports--;
	if (!--self->exports && self->later)
		sample_let_go(self);
}

static PyObject *sample_bytes(PyObject *object, PyObject *Py_UNUSED(unused))
{
	struct sample_object *self = (struct sample_object *)object;
	struct lookup c;
	if (sample_lookup(self, "bytes", &c))
		return NULL;
	const uint64_t length = bytes_all(c.p, self->handle).length;
	PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)length);
	if (bytes) {
		char *to = PyBytes_AS_STRING(bytes);
		const uint64_t done = bytes_copy_out(c.p, self->handle, to, length);
		memset(to + done, 0, length - done); /* if the lengths have changed: corrupted */
	}
	return bytes;
}

static Py_ssize_t sample_len(PyObject *object)
{
	struct sample_object *self = (struct sample_object *)object;
	struct lookup c;
	return sample_lookup(self, "len", &c) ? -1 :
						(Py_ssize_t)bytes_all(c.p, self->handle).length;
}

static PyObject *sample_view(PyObject *object, void *Py_UNUSED(unused))
{
	return PyMemoryView_FromObject(object);
}

static PyObject *sample_segments(PyObject *object, void *Py_UNUSED(unused))
{
	struct sample_object *self = (struct sample_object *)object;
	struct lookup c;
	if (sample_lookup(self, "segments", &c))
		return NULL;
	uint32_t n = 0;
	for (struct bytes_part part = bytes_first(c.p, self->handle);
	     part.n && (part.length || part.n == 1); part = bytes_next(c.p, self->handle, &part))
		n++;
	PyObject *views = PyTuple_New(n);
	for (uint32_t i = 0; views && i < n; i++) {
		self->part = i + 1;
		PyObject *view = PyMemoryView_FromObject(object);
		self->part = 0;
		if (view)
			PyTuple_SET_ITEM(views, i, view);
		else
			Py_CLEAR(views);
	}
	return views;
}

static PyObject *sample_free(PyObject *object, PyObject *Py_UNUSED(unused))
{
	struct sample_object *self = (struct sample_object *)object;
	if (sample_usable(self, "free"))
		return NULL;
	if (self->exports)
		return hot_fail(-ETXTBSY,
				"message %llu cannot be freed: %u of its views are alive; release "
				"them, or drop every reference to it and to them",
				(unsigned long long)self->sequence, self->exports);
	sample_let_go(self);
	Py_RETURN_NONE;
}

static PyObject *sample_enter(PyObject *object, PyObject *Py_UNUSED(unused))
{
	return sample_usable((struct sample_object *)object, "with") ? NULL : Py_NewRef(object);
}

static PyObject *sample_exit(PyObject *object, PyObject *args)
{
	struct sample_object *self = (struct sample_object *)object;
	if (!sample_live(self))
		Py_RETURN_NONE;
	if (!PyTuple_GET_SIZE(args) || PyTuple_GET_ITEM(args, 0) == Py_None)
		return sample_free(object, NULL);
	if (self->exports) /* an exception leaves the block already */
		self->later = true;
	else
		sample_let_go(self);
	Py_RETURN_NONE;
}

static PyObject *sample_get_sequence(PyObject *object, void *Py_UNUSED(unused))
{
	return PyLong_FromUnsignedLongLong(((struct sample_object *)object)->sequence);
}

static PyObject *sample_get_released(PyObject *object, void *Py_UNUSED(unused))
{
	return PyBool_FromLong(!sample_live((struct sample_object *)object));
}

enum { MARK, FLOW_HASH, TIMESTAMP, INDEX };

static PyObject *sample_get_field(PyObject *object, void *field)
{
	struct sample_object *self = (struct sample_object *)object;
	struct lookup c;
	if (sample_lookup(self, "header", &c))
		return NULL;
	const struct buffer *b = pool_buffer(c.p, handle_index(self->handle));
	switch ((intptr_t)field) {
	case MARK:
		return PyLong_FromUnsignedLong(load_relaxed(&b->mark));
	case FLOW_HASH:
		return PyLong_FromUnsignedLong(load_relaxed(&b->flow_hash));
	case TIMESTAMP:
		return PyLong_FromUnsignedLongLong(load_relaxed(&b->timestamp));
	}
	return PyLong_FromUnsignedLong(handle_index(self->handle));
}

static PyObject *sample_repr(PyObject *object)
{
	struct sample_object *self = (struct sample_object *)object;
	return PyUnicode_FromFormat("<shmpool.Sample %llu%s>", (unsigned long long)self->sequence,
				    sample_live(self) ? "" : " released");
}

static PyObject *sample_reduce(PyObject *object, PyObject *Py_UNUSED(unused))
{
	return PyErr_Format(PyExc_TypeError,
			    "%R cannot be pickled: subscribe in the other process too", object);
}

static PyMethodDef sample_methods[] = {
	{ "__bytes__", sample_bytes, METH_NOARGS, NULL },
	{ "free", sample_free, METH_NOARGS,
	  "free($self)\n--\n\nLets the message go; the Sample is then released.\n\nRaises:\n"
	  "    BufferInUse: a view of it is alive.\n"
	  "    BufferReleased: it was freed before.\n    PoolClosed: the pool is closed." },
	{ "__reduce__", sample_reduce, METH_NOARGS, NULL },
	{ "__enter__", sample_enter, METH_NOARGS, NULL },
	{ "__exit__", sample_exit, METH_VARARGS, NULL },
	{ NULL, NULL, 0, NULL },
};

static PyGetSetDef sample_getset[] = {
	{ "sequence", sample_get_sequence, NULL, "Its number in the topic, from 0 on.", NULL },
	{ "view", sample_view, NULL, "The bytes: a read-only memoryview.", NULL },
	{ "segments", sample_segments, NULL,
	  "The bytes as a tuple of read-only memoryviews, one for each buffer of the message.",
	  NULL },
	{ "released", sample_get_released, NULL, "True if it was let go, or its pool was closed.",
	  NULL },
	{ "mark", sample_get_field, NULL, "32 bits that its publisher set.", (void *)MARK },
	{ "flow_hash", sample_get_field, NULL, "32 bits that its publisher set.",
	  (void *)FLOW_HASH },
	{ "timestamp", sample_get_field, NULL, "Nanoseconds, on the publisher's clock.",
	  (void *)TIMESTAMP },
	{ "index", sample_get_field, NULL, "The buffer's number in its pool.", (void *)INDEX },
	{ NULL, NULL, NULL, NULL, NULL },
};

static PyType_Slot sample_slots[] = {
	{ Py_tp_doc,
	  "One message of a topic, read in place by this process and others.\n\n"
	  "Subscriber.get returns one. It exports its bytes for reading: bytes(sample),\n"
	  "memoryview(sample), numpy.frombuffer(sample). It is let go when it is freed, at the end "
	  "of a\nwith block, or when it and its views are garbage-collected; the buffer goes back "
	  "to "
	  "the\npool when the last holder lets it go and the topic does not keep it any more.\n\n"
	  "Any thread of the process may use a Sample. A forked child may not." },
	{ Py_tp_dealloc, sample_dealloc },
	{ Py_tp_traverse, sample_traverse },
	{ Py_tp_repr, sample_repr },
	{ Py_tp_methods, sample_methods },
	{ Py_tp_getset, sample_getset },
	{ Py_bf_getbuffer, sample_getbuffer },
	{ Py_bf_releasebuffer, sample_releasebuffer },
	{ Py_sq_length, sample_len },
	{ 0, NULL },
};

PyType_Spec hot_sample_spec = { "shmpool.Sample", sizeof(struct sample_object), 0,
				Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION |
					Py_TPFLAGS_HAVE_GC,
				sample_slots };
