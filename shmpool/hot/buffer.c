/* SPDX-License-Identifier: Apache-2.0
 *
 * buffer.c - shmpool.Buffer: owns one buffer. Exports its bytes and counts the views: while a view
 * is live, the buffer can be neither freed nor put.
 */
#include "parts.h"

static struct buffer_object *spare; /* a released Buffer to use again: allocating one takes 10 ns */

struct buffer_object *hot_buffer_new(void)
{
	struct buffer_object *self = spare;
	spare = NULL;
	if (self)
		return self;
	self = PyObject_GC_New(struct buffer_object, hot_buffer_type);
	if (unlikely(!self))
		return NULL;
	self->pool = NULL;
	self->state = HOT_RELEASED;
	self->exports = 0;
	self->view_room = false;
	self->view_part = 0;
	self->chain = NULL;
	return self;
}

void hot_buffer_discard(struct buffer_object *self)
{
	PyMem_Free(self->chain);
	self->chain = NULL;
	if (spare)
		Py_DECREF(self);
	else
		spare = self;
}

PyObject *hot_buffer_fill(struct buffer_object *self, struct pool_object *pool, uint64_t handle,
			  struct shmpool_extent extent)
{
	self->pool = (struct pool_object *)Py_NewRef(pool);
	self->handle = handle;
	self->headroom = extent.headroom;
	self->length = unlikely(self->chain) ? self->chain->length : extent.length;
	self->state = hot_process();
	PyObject_GC_Track(self);
	return (PyObject *)self;
}

PyObject *hot_buffer_raise(const struct buffer_object *self, int64_t code, const char *what)
{
	return code == HOT_RAISED ? NULL :
				    hot_fail_in((PyObject *)self->pool, code, "%s: buffer %u of ",
						what, hot_buffer_index(self));
}

int hot_buffer_usable(struct buffer_object *self, const char *what)
{
	if (hot_buffer_live(self))
		return 0;
	hot_buffer_raise(self, hot_not_live(self->pool, self->state), what);
	return -1;
}

void hot_buffer_in_use(struct buffer_object *self, const char *what)
{
	const char *done = *what == 'f' ? "freed" : *what == 'p' ? "put" : "moved";
	const uint32_t index = hot_buffer_index(self);
	PyObject *views = hot_views_of((PyObject *)self, self->exports, NULL);
	if (views)
		hot_fail(-ETXTBSY, "buffer %u cannot be %s: %U", index, done, views);
	Py_XDECREF(views);
}

int hot_buffer_movable(struct buffer_object *self, const char *what)
{
	if (unlikely(hot_buffer_usable(self, what)))
		return -1;
	if (likely(!self->exports))
		return 0;
	hot_buffer_in_use(self, what);
	return -1;
}

/* Frees the buffer. The pool is open. 0, or a code. */
static int free_buffer(const struct buffer_object *self)
{
	struct lookup c;
	int error = lookup_key(self->pool->key, &c);
	return likely(!error) ? qmempool_free(c.p, c.m, self->handle) : error;
}

void hot_buffer_free_later(struct buffer_object *self)
{
	self->freed_state = self->state;
	self->state = HOT_FREED_LATER;
}

static int buffer_traverse(PyObject *object, visitproc visit, void *arg)
{
	Py_VISIT(Py_TYPE(object));
	Py_VISIT(((struct buffer_object *)object)->pool); /* the pool's dict has a tp_clear */
	return 0;
}

static void buffer_dealloc(PyObject *object)
{
	struct buffer_object *self = (struct buffer_object *)object;
	PyTypeObject *type = Py_TYPE(object);
	PyObject_GC_UnTrack(object);
	if (hot_buffer_live(self))
		free_buffer(self);
	if (unlikely(self->chain)) {
		PyMem_Free(self->chain);
		self->chain = NULL;
	}
	struct pool_object *pool = self->pool;
	self->pool = NULL;
	self->state = HOT_RELEASED;
	if (!spare) {
		Py_SET_REFCNT(object, 1);
		spare = self;
	} else {
		PyObject_GC_Del(object);
		Py_DECREF(type);
	}
	Py_XDECREF(pool);
}

static int buffer_getbuffer(PyObject *object, Py_buffer *view, int flags)
{
	struct buffer_object *self = (struct buffer_object *)object;
	view->obj = NULL;
	if (hot_buffer_usable(self, "view"))
		return -1;
	char *data = hot_buffer_bytes(self);
	uint64_t size = self->view_room ? hot_buffer_stride(self) - self->headroom : self->length;
	if (unlikely(self->chain)) {
		if (!self->view_part)
			return hot_chain_refuse(self, "a view of all of it");
		data = self->chain->part[self->view_part - 1].data;
		size = self->chain->part[self->view_part - 1].length;
	}
	if (PyBuffer_FillInfo(view, object, data, (Py_ssize_t)size, 0, flags))
		return -1;
	hot_buffer_view_begun(self);
	return 0;
}

void hot_buffer_view_ended(struct buffer_object *self)
{
	self->exports--;
	self->pool->exports--;
	if (likely(self->state != HOT_FREED_LATER || self->exports))
		return;
	self->state = self->freed_state;
	/* If it cannot be freed now, since this thread finds no member slot, the object's end frees
	 * it. */
	if (!hot_buffer_live(self) || !free_buffer(self))
		hot_buffer_release(self);
}

static void buffer_releasebuffer(PyObject *object, Py_buffer *Py_UNUSED(view))
{
	hot_buffer_view_ended((struct buffer_object *)object);
}

static Py_ssize_t buffer_len(PyObject *object)
{
	struct buffer_object *self = (struct buffer_object *)object;
	return hot_buffer_usable(self, "len") ? -1 : (Py_ssize_t)self->length;
}

static PyObject *buffer_free(PyObject *object, PyObject *Py_UNUSED(unused))
{
	struct buffer_object *self = (struct buffer_object *)object;
	if (hot_buffer_movable(self, "free"))
		return NULL;
	int error = free_buffer(self);
	if (unlikely(error))
		return hot_buffer_raise(self, error, "free");
	hot_buffer_release(self);
	Py_RETURN_NONE;
}

static PyObject *buffer_reduce(PyObject *object, PyObject *Py_UNUSED(unused))
{
	return PyErr_Format(PyExc_TypeError, "%R cannot be pickled: pass it by queue.put()",
			    object);
}

static PyObject *buffer_enter(PyObject *object, PyObject *Py_UNUSED(unused))
{
	return hot_buffer_usable((struct buffer_object *)object, "with") ? NULL : Py_NewRef(object);
}

void hot_buffer_abandon(struct buffer_object *self)
{
	if (!hot_buffer_live(self))
		return;
	if (self->exports)
		hot_buffer_free_later(self);
	else if (!free_buffer(self))
		hot_buffer_release(self);
}

static PyObject *buffer_exit(PyObject *object, PyObject *args)
{
	struct buffer_object *self = (struct buffer_object *)object;
	if (!hot_buffer_live(self))
		Py_RETURN_NONE; /* put into a queue, or freed, inside the block */
	if (likely(!PyTuple_GET_SIZE(args) || PyTuple_GET_ITEM(args, 0) == Py_None))
		return buffer_free(object, NULL);
	hot_buffer_abandon(self); /* raises nothing: an exception leaves the block already */
	Py_RETURN_NONE;
}

static PyObject *buffer_repr(PyObject *object)
{
	struct buffer_object *self = (struct buffer_object *)object;
	if (!hot_buffer_live(self))
		return PyUnicode_FromString("<shmpool.Buffer released>");
	if (self->chain)
		return PyUnicode_FromFormat(
			"<shmpool.Buffer %u, a chain of %u, %llu of %llu bytes>",
			hot_buffer_index(self), self->chain->n, (unsigned long long)self->length,
			(unsigned long long)self->chain->room);
	return PyUnicode_FromFormat("<shmpool.Buffer %u, %llu of %llu bytes>",
				    hot_buffer_index(self), (unsigned long long)self->length,
				    (unsigned long long)(hot_buffer_stride(self) - self->headroom));
}

static PyMethodDef buffer_methods[] = {
	{ "write", hot_buffer_write, METH_O,
	  "write($self, payload, /)\n--\n\nCopies a bytes-like object to the start of data and "
	  "sets length. Of a chain: to\nall its segments, one after the other.\n\nReturns the "
	  "length in bytes.\n\nRaises:\n"
	  "    PayloadTooLarge: payload has more bytes than data.\n"
	  "    BufferReleased: this process does not own the buffer any more.\n"
	  "    PoolClosed: the pool is closed." },
	{ "writelines", hot_buffer_writelines, METH_O,
	  "writelines($self, payloads, /)\n--\n\nwrite() of several bytes-like objects, one after "
	  "the other.\n\nReturns the length in bytes." },
	{ "readinto", (PyCFunction)(void (*)(void))hot_buffer_readinto, METH_FASTCALL,
	  "readinto($self, target, offset=0, /)\n--\n\nCopies the bytes from offset on into a "
	  "writable bytes-like object, as many as it has room for.\n\nReturns how many." },
	{ "__bytes__", hot_buffer_to_bytes, METH_NOARGS, NULL },
	{ "free", buffer_free, METH_NOARGS,
	  "free($self)\n--\n\nReturns the buffer to its pool; the Buffer is then released.\n\n"
	  "Raises:\n    BufferInUse: a memoryview or numpy array of it is alive.\n"
	  "    BufferReleased: it was freed or put before.\n    PoolClosed: the pool is closed." },
	{ "nack", HOT_FAST(hot_buffer_nack), HOT_NACK_DOC },
	{ "free_after", hot_buffer_free_after, METH_O, HOT_FREE_AFTER_DOC },
	{ "_array", hot_buffer_array, METH_VARARGS, NULL },
	{ "_settle", hot_buffer_settle, METH_NOARGS, NULL },
	{ "_outlive", hot_buffer_outlive, METH_NOARGS, NULL },
	{ "_declare", hot_buffer_declare, METH_O, NULL },
	{ "__dlpack__", (PyCFunction)(void (*)(void))hot_buffer_dlpack,
	  METH_VARARGS | METH_KEYWORDS, NULL },
	{ "__dlpack_device__", hot_buffer_dlpack_device, METH_NOARGS, NULL },
	{ "__reduce__", buffer_reduce, METH_NOARGS, NULL },
	{ "__enter__", buffer_enter, METH_NOARGS, NULL },
	{ "__exit__", buffer_exit, METH_VARARGS, NULL },
	{ NULL, NULL, 0, NULL },
};

static PyType_Slot buffer_slots[] = {
	{ Py_tp_doc,
	  "One buffer of a pool, owned by this process.\n\n"
	  "Pool.alloc and AlfQueue.get return one. It is released when it is freed, put into a\n"
	  "queue, or garbage-collected; any later use raises BufferReleased, and so does any use\n"
	  "while a put of it waits. It exports its bytes: bytes(buf), memoryview(buf),\n"
	  "numpy.frombuffer(buf). While such a view is alive the buffer can be neither freed nor\n"
	  "put. At the end of a with block the buffer is freed. If an exception leaves the block\n"
	  "and views are alive, it is freed with the last of them.\n\n"
	  "A Buffer for more bytes than any single buffer has is a chain: several buffers that "
	  "are\n"
	  "one. It has no view of all its bytes; segments has one for each of them. All else is\n"
	  "the same for both.\n\n"
	  "Any thread of the process may use a Buffer, one thread at a time. A forked child may\n"
	  "not: it gets BufferReleased." },
	{ Py_tp_dealloc, buffer_dealloc },
	{ Py_tp_traverse, buffer_traverse },
	{ Py_tp_repr, buffer_repr },
	{ Py_tp_methods, buffer_methods },
	{ Py_tp_getset, hot_buffer_getset },
	{ Py_bf_getbuffer, buffer_getbuffer },
	{ Py_bf_releasebuffer, buffer_releasebuffer },
	{ Py_sq_length, buffer_len },
	{ 0, NULL },
};

PyType_Spec hot_buffer_spec = { "shmpool.Buffer", sizeof(struct buffer_object), 0,
				Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION |
					Py_TPFLAGS_HAVE_GC,
				buffer_slots };
