/* SPDX-License-Identifier: Apache-2.0
 *
 * pool.c - the base of shmpool.Pool: opens it, allocates, and closes it.
 */
#include "parts.h"

#include <structmember.h>

static PyObject *pool_hot_open(PyObject *object, PyObject *args)
{
	struct pool_object *self = (struct pool_object *)object;
	PyObject *segment, *given;
	int created;
	if (!PyArg_ParseTuple(args, "OOp", &segment, &given, &created))
		return NULL;
	if (self->opened || !PyObject_TypeCheck(segment, hot_segment_type))
		return PyErr_Format(
			PyExc_TypeError,
			"Pool() takes a segment, not %R: call Pool.create or Pool.attach", segment);
	const char *path = PyUnicode_AsUTF8(given);
	if (!path)
		return NULL;
	int number = hot_segment_enter((struct segment_object *)segment, path, created);
	if (number < 0)
		return hot_fail_in(segment, number, "");
	const struct segment *s = &opening_pool((uint32_t)number)->segment;
	self->opened = true;
	self->segment = (struct segment_object *)Py_NewRef(segment);
	self->key = key_of((uint32_t)number, 0);
	self->classes = segment_classes(s);
	for (uint32_t i = 0; i < self->classes; i++) {
		const struct segment view = segment_view(s, i);
		const uint32_t end = view.first + (uint32_t)view.geometry.capacity;
		self->sizes[i] =
			(struct hot_sizes) { segment_data(&view, view.first), view.stride,
					     view.first, i + 1 < self->classes ? end : UINT32_MAX };
	}
	self->headroom = (uint64_t)s->geometry.headroom;
	return PyLong_FromLong(number);
}

/* Closes the object: no call finds the pool any more. Returns its segment, a reference that the
 * caller gets; NULL if it was closed before. */
static struct segment_object *pool_end(struct pool_object *self)
{
	struct segment_object *segment = self->segment;
	self->segment = NULL;
	self->key = 0;
	return segment;
}

static PyObject *pool_close(PyObject *object, PyObject *Py_UNUSED(unused))
{
	struct pool_object *self = (struct pool_object *)object;
	if (!self->segment)
		Py_RETURN_NONE;
	if (self->exports && hot_free_after_settle(self))
		return NULL;
	if (!self->segment) /* another thread has closed it since */
		Py_RETURN_NONE;
	if (self->exports) {
		PyObject *name = PyObject_GetAttrString(object, "name");
		PyObject *views = name ? hot_views_of(object, self->exports, NULL) : NULL;
		if (views)
			hot_fail(-ETXTBSY, "pool %R cannot be closed: %U", name, views);
		Py_XDECREF(views);
		Py_XDECREF(name);
		return NULL;
	}
	struct segment_object *segment = pool_end(self);
	hot_segment_close(segment);
	Py_DECREF(segment);
	Py_RETURN_NONE;
}

/* At the end of the process: closes the pool and keeps the mapping. If views are alive, the pool
 * stays open, since a daemon thread may still write through one, and another member would get the
 * buffer: the last view frees it, or the end of the process leaves it to recovery. */
static PyObject *pool_leave(PyObject *object, PyObject *Py_UNUSED(unused))
{
	struct pool_object *self = (struct pool_object *)object;
	if (self->exports && self->segment) {
		hot_segment_leave(self->segment, true);
		Py_RETURN_NONE;
	}
	struct segment_object *segment = pool_end(self);
	if (segment)
		hot_segment_leave(segment, false);
	Py_XDECREF(segment);
	Py_RETURN_NONE;
}

static PyObject *pool_enter(PyObject *object, PyObject *Py_UNUSED(unused))
{
	return ((struct pool_object *)object)->key ?
		       Py_NewRef(object) :
		       hot_pool_raise((struct pool_object *)object, -EBADF);
}

static PyObject *pool_exit(PyObject *object, PyObject *args)
{
	struct pool_object *self = (struct pool_object *)object;
	/* A refused close must not replace the exception that leaves the block. The pool is closed
	 * when the object is garbage-collected, after the last view. */
	if (self->exports && PyTuple_GET_SIZE(args) && PyTuple_GET_ITEM(args, 0) != Py_None)
		Py_RETURN_NONE;
	return pool_close(object, NULL);
}

static int pool_traverse(PyObject *object, visitproc visit, void *arg)
{
	Py_VISIT(Py_TYPE(object));
	Py_VISIT(((struct pool_object *)object)->segment);
	return 0;
}

static void pool_dealloc(PyObject *object)
{
	PyTypeObject *type = Py_TYPE(object);
	PyObject_GC_UnTrack(object);
	struct segment_object *segment = pool_end((struct pool_object *)object);
	if (segment)
		hot_segment_drop(segment);
	Py_XDECREF(segment);
	type->tp_free(object);
	Py_DECREF(type);
}

/* Takes a buffer from the thread's local cache, or refills that. 0, or a code. */
static inline int64_t alloc_once(uint64_t key, uint32_t class, uint64_t *handle)
{
	struct lookup c;
	int error = key ? lookup_key(key, &c) : -EBADF;
	if (unlikely(error))
		return error;
	return likely(!class) ? lookup_alloc(&c, handle, wait_coarse()) :
				lookup_alloc_class(&c, class, handle, wait_coarse());
}

/* Reads a number of bytes; 0 for NULL and None. 0, or -1 with InvalidArgument or TypeError. */
static int size_of(PyObject *size, uint64_t *bytes)
{
	*bytes = 0;
	if (!size || size == Py_None)
		return 0;
	PyObject *number = hot_int(size, "size");
	if (!number)
		return -1;
	const Py_ssize_t given = PyNumber_AsSsize_t(number, NULL); /* clamps what is out of range */
	Py_DECREF(number);
	*bytes = (uint64_t)given;
	if (given >= 0)
		return 0;
	hot_fail(-EDOM, "size is %R bytes; it must be 0 or more", size);
	return -1;
}

int hot_pool_class(struct pool_object *self, PyObject *size)
{
	uint64_t bytes;
	if (size_of(size, &bytes))
		return -1;
	const uint32_t class = hot_class_for(self, bytes);
	if (class < self->classes)
		return (int)class;
	const uint64_t most = self->classes ? self->sizes[self->classes - 1].stride : 0;
	hot_fail_in((PyObject *)self, -EMSGSIZE, "size is %R bytes; a buffer holds up to %llu in ",
		    size, (unsigned long long)(most - self->headroom));
	return -1;
}

/* alloc() of more bytes than any buffer has. */
static PyObject *alloc_chain(struct pool_object *self, PyObject *size, uint64_t bytes,
			     double timeout)
{
	int64_t code;
	PyObject *chain = hot_chain_alloc(self, bytes, timeout, &code);
	if (likely(chain))
		return chain;
	if (code == -EMSGSIZE)
		return hot_fail_in(
			(PyObject *)self, code,
			"size is %R bytes; that is more than all buffers together have of ", size);
	return hot_pool_raise(self, code);
}

static PyObject *pool_alloc(PyObject *object, PyObject *const *args, Py_ssize_t n, PyObject *names)
{
	struct pool_object *self = (struct pool_object *)object;
	struct hot_arguments given;
	uint64_t handle;
	struct buffer_object *buffer;
	uint64_t bytes;
	uint32_t class = 0;
	if (hot_parse_alloc(args, n, names, &given) || (given.size && size_of(given.size, &bytes)))
		return NULL;
	if (given.size && (class = hot_class_for(self, bytes)) == self->classes)
		return alloc_chain(self, given.size, bytes, given.timeout);
	if (!(buffer = hot_buffer_new()))
		return NULL;
	hot_recover_if_due(self);
	int64_t code = alloc_once(self->key, class, &handle);
	if (unlikely(code)) {
		struct hot_wait wait = { .operation = HOT_ALLOC,
					 .pool = self,
					 .handles = &handle,
					 .n = 1,
					 .class = class,
					 .timeout = given.timeout };
		code = hot_wait(&wait, code);
	}
	if (likely(code >= 0))
		return hot_buffer_fill(buffer, self, handle,
				       (struct shmpool_extent) { (uint32_t)self->headroom, 0 });
	hot_buffer_discard(buffer);
	return hot_pool_raise(self, code);
}

static PyMethodDef pool_methods[] = {
	{ "_hot_open", pool_hot_open, METH_VARARGS, NULL },
	{ "_leave", pool_leave, METH_NOARGS, NULL },
	{ "__enter__", pool_enter, METH_NOARGS, NULL },
	{ "__exit__", pool_exit, METH_VARARGS, NULL },
	{ "close", pool_close, METH_NOARGS,
	  "close($self)\n--\n\nCloses the pool in this process.\n\n"
	  "Buffers that its threads hold are freed, Buffers and Bursts are released, and calls of\n"
	  "other threads that wait raise PoolClosed. Other processes are not affected. May be\n"
	  "repeated. Waits for the events of Buffer.free_after.\n\nRaises:\n    BufferInUse: a "
	  "view of one of the buffers is alive." },
	{ "alloc", HOT_FAST(pool_alloc),
	  "alloc($self, timeout=None, size=None)\n--\n\nTakes a free buffer; its length is 0.\n\n"
	  "size: how many bytes it must have room for. The buffer is one of the smallest size "
	  "class\n"
	  "that has them or, while none of those is free, of a larger class. None: of any class, "
	  "the\n"
	  "smallest first.\n\n"
	  "Waits up to timeout seconds (None: as long as it takes, 0: not at all) for one.\n\n"
	  "Raises:\n    PoolExhausted: no buffer was free for that long.\n"
	  "    PayloadTooLarge: no buffer of the pool has size bytes.\n"
	  "    OutOfSharedMemory: the pool must grow and cannot.\n"
	  "    LimitReached: all member slots are taken.\n"
	  "    PoolClosed: the pool was closed, also by another thread during the call.\n"
	  "    PoolReplaced: the call waited, and the pool's name is another pool's now.\n"
	  "    AccessDenied: the pool was opened read-only." },
	{ NULL, NULL, 0, NULL },
};

static PyMemberDef pool_members[] = {
	{ "_segment", T_OBJECT, offsetof(struct pool_object, segment), READONLY, NULL },
	{ "_exports", T_ULONGLONG, offsetof(struct pool_object, exports), READONLY,
	  "How many views of its buffers are alive." },
	{ NULL, 0, 0, 0, NULL },
};

static PyType_Slot pool_slots[] = {
	{ Py_tp_methods, pool_methods },
	{ Py_tp_members, pool_members },
	{ Py_tp_traverse, pool_traverse },
	{ Py_tp_dealloc, pool_dealloc },
	{ 0, NULL },
};

PyType_Spec hot_pool_spec = { "shmpool._hot.PoolBase", sizeof(struct pool_object), 0,
			      Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
			      pool_slots };
