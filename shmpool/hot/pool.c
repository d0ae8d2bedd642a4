/* SPDX-License-Identifier: Apache-2.0
 *
 * pool.c - the base of shmpool.Pool: opening, alloc, and the end.
 */
#include "hot.h"

static PyObject *pool_fail(PyObject *object, int64_t code)
{
	PyObject *name = PyObject_GetAttrString(object, "name");
	if (name)
		hot_fail(code, "pool %R", name);
	Py_XDECREF(name);
	return NULL;
}

bool hot_goes_on(struct pool_object *pool, int64_t deadline, int64_t *code)
{
	const bool signalled = *code == -EINTR;
	const bool timed_out = deadline && (*code == -EAGAIN || *code == -ENOBUFS);
	if (signalled ? PyErr_CheckSignals() : !timed_out)
		return false;
	if (pool->segment) {
		PyObject *done = PyObject_CallMethod((PyObject *)pool, "_refuse_replaced", NULL);
		Py_XDECREF(done);
		if (!done) {
			*code = -EINTR;
			return false;
		}
	}
	return signalled;
}

static PyObject *pool_hot_open(PyObject *object, PyObject *args)
{
	struct pool_object *self = (struct pool_object *)object;
	PyObject *segment, *given;
	int made;
	if (!PyArg_ParseTuple(args, "OOp", &segment, &given, &made))
		return NULL;
	if (self->opened || !PyObject_TypeCheck(segment, hot_segment_type))
		return PyErr_Format(
			PyExc_TypeError,
			"Pool() takes a segment, not %R: call Pool.create or Pool.attach", segment);
	const char *path = PyUnicode_AsUTF8(given);
	if (!path)
		return NULL;
	int number = hot_segment_enter((struct segment_object *)segment, path, made);
	if (number < 0)
		return pool_fail(segment, number); /* it has the name already */
	const struct segment *s = &opening_pool((uint32_t)number)->segment;
	self->opened = true;
	self->segment = (struct segment_object *)Py_NewRef(segment);
	self->key = ((uint64_t)number % OPENING_POOLS_MAX) << 58 |
		    ((uint64_t)number / OPENING_POOLS_MAX) << 32;
	self->data = segment_data(s, 0);
	self->stride = s->stride;
	self->headroom = (uint64_t)s->geometry.headroom;
	return PyLong_FromLong(number);
}

/* After it nobody finds the pool. Its segment, whose reference is the caller's; NULL if it was
 * closed before. */
static struct segment_object *pool_end(struct pool_object *self)
{
	struct segment_object *segment = self->segment;
	self->segment = NULL;
	self->key = 0;
	return segment;
}

static PyObject *pool_close(PyObject *object, PyObject *unused)
{
	struct pool_object *self = (struct pool_object *)object;
	(void)unused;
	if (!self->segment)
		Py_RETURN_NONE;
	if (self->exports) {
		PyObject *name = PyObject_GetAttrString(object, "name");
		if (name)
			hot_fail(
				-ETXTBSY,
				"pool %R cannot be closed: %llu memoryviews or numpy arrays of its "
				"buffers are alive; delete them first",
				name, (unsigned long long)self->exports);
		Py_XDECREF(name);
		return NULL;
	}
	struct segment_object *segment = pool_end(self);
	hot_segment_close(segment);
	Py_DECREF(segment);
	Py_RETURN_NONE;
}

/* At the end of the process: views may still be in use. */
static PyObject *pool_leave(PyObject *object, PyObject *unused)
{
	struct segment_object *segment = pool_end((struct pool_object *)object);
	(void)unused;
	if (segment)
		hot_segment_leave(segment);
	Py_XDECREF(segment);
	Py_RETURN_NONE;
}

static PyObject *pool_enter(PyObject *object, PyObject *unused)
{
	(void)unused;
	return ((struct pool_object *)object)->key ? Py_NewRef(object) : pool_fail(object, -EBADF);
}

static PyObject *pool_exit(PyObject *object, PyObject *args)
{
	struct pool_object *self = (struct pool_object *)object;
	/* An exception in flight stays the one: the pool is closed when it goes, after the last
	 * view. */
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

static inline int64_t alloc_once(uint64_t key, uint64_t *handle)
{
	struct call c;
	int error = key ? open_key(key, &c) : -EBADF;
	if (likely(!error))
		error = qmempool_alloc_quick(c.p, c.m, handle);
	return likely(!error) ? fresh(&c, *handle, wait_coarse()) : error;
}

void hot_tend_now(uint64_t key)
{
	int ignored;
	HOT_UNLOCKED(key, ignored, shmpool_tend_wait(key));
	(void)ignored;
}

/* After -EAGAIN: the same, from wherever there is one, waited for. 0, a code, or HOT_RAISED. */
static int64_t alloc_wait(struct pool_object *self, PyObject *timeout, uint64_t *handle)
{
	int64_t code, deadline = hot_deadline(timeout);
	if (deadline < 0)
		return HOT_RAISED;
	do {
		uint64_t key = self->key;
		HOT_UNLOCKED(key, code, shmpool_alloc_many_wait(key, handle, 1, deadline));
	} while (hot_goes_on(self, deadline, &code));
	if (code == -EINTR)
		return HOT_RAISED;
	return code < 0 ? code : self->key ? 0 : -EBADF; /* closed: it was given back */
}

static PyObject *pool_alloc(PyObject *object, PyObject *const *args, Py_ssize_t n, PyObject *names)
{
	struct pool_object *self = (struct pool_object *)object;
	struct hot_arguments given;
	struct shmpool_taken taken;
	struct buffer_object *buffer;
	if (hot_parse("alloc", NULL, args, n, names, &given) || !(buffer = hot_buffer_make()))
		return NULL;
	hot_tend(self);
	int64_t code = alloc_once(self->key, &taken.handle);
	if (unlikely(code == -EAGAIN))
		code = alloc_wait(self, given.timeout, &taken.handle);
	if (likely(!code)) {
		taken.extent = (struct shmpool_extent) { (uint32_t)self->headroom, 0 };
		return hot_buffer_own(buffer, self, taken);
	}
	hot_buffer_unmake(buffer);
	return code == HOT_RAISED ? NULL :
				    PyObject_CallMethod(object, "_fail", "L", (long long)code);
}

static PyObject *pool_get_exports(PyObject *object, void *unused)
{
	(void)unused;
	return PyLong_FromUnsignedLongLong(((struct pool_object *)object)->exports);
}

static PyObject *pool_get_segment(PyObject *object, void *unused)
{
	PyObject *segment = (PyObject *)((struct pool_object *)object)->segment;
	(void)unused;
	return Py_NewRef(segment ? segment : Py_None);
}

static PyMethodDef pool_methods[] = {
	{ "_hot_open", pool_hot_open, METH_VARARGS, NULL },
	{ "_leave", pool_leave, METH_NOARGS, NULL },
	{ "__enter__", pool_enter, METH_NOARGS, NULL },
	{ "__exit__", pool_exit, METH_VARARGS, NULL },
	{ "close", pool_close, METH_NOARGS,
	  "close($self)\n--\n\nDetaches this process: what its threads hold goes back, its Buffers "
	  "are released.\n\nMay be repeated. BufferInUse while a view of one of its buffers is "
	  "alive." },
	{ "alloc", HOT_FAST(pool_alloc),
	  "alloc($self, timeout=None)\n--\n\nA free buffer of length 0.\n\nWaits up to timeout "
	  "seconds for one (None for ever, 0 not at all), then\nPoolExhausted. OutOfSharedMemory "
	  "if "
	  "the pool must grow and cannot." },
	{ NULL, NULL, 0, NULL },
};

static PyGetSetDef pool_getset[] = {
	{ "_exports", pool_get_exports, NULL, NULL, NULL },
	{ "_segment", pool_get_segment, NULL, NULL, NULL },
	{ NULL, NULL, NULL, NULL, NULL },
};

static PyType_Slot pool_slots[] = {
	{ Py_tp_methods, pool_methods },
	{ Py_tp_getset, pool_getset },
	{ Py_tp_traverse, pool_traverse },
	{ Py_tp_dealloc, pool_dealloc },
	{ 0, NULL },
};

PyType_Spec hot_pool_spec = { "shmpool._hot.PoolBase", sizeof(struct pool_object), 0,
			      Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
			      pool_slots };
