/* SPDX-License-Identifier: Apache-2.0
 *
 * burst.c - the base of shmpool.Burst: owns 1..n buffers.
 *
 * It is made empty, with room for the handles, and then filled (moves.c). burst[i] makes a Buffer
 * that owns that one from then on, and that the burst keeps: an element. What is no element is
 * freed with the burst.
 */
#include "burst.h"

static PyObject *burst_new(PyTypeObject *type, PyObject *args, PyObject *named)
{
	PyObject *pool;
	unsigned int room;
	(void)named;
	if (!PyArg_ParseTuple(args, "O!I", hot_pool_type, &pool, &room))
		return NULL;
	struct burst_object *self = (struct burst_object *)type->tp_alloc(type, 0);
	if (!self)
		return NULL;
	self->pool = (struct pool_object *)Py_NewRef(pool);
	self->life = HOT_SPENT;
	self->room = room;
	self->handle = PyMem_New(uint64_t, room);
	if (self->handle)
		return (PyObject *)self;
	Py_DECREF(self);
	return PyErr_NoMemory();
}

static PyObject *burst_fail(const struct burst_object *self, int64_t code, const char *what)
{
	PyObject *name = PyObject_GetAttrString((PyObject *)self->pool, "name");
	if (name)
		hot_fail(code, "%s of pool %R", what, name);
	Py_XDECREF(name);
	return NULL;
}

int burst_usable(const struct burst_object *self)
{
	if (likely(burst_live(self)))
		return 0;
	burst_fail(self,
		   !self->pool->key          ? -EBADF :
		   self->life >= HOT_LEAVING ? -ESTALE :
					       -ECHILD,
		   "a burst");
	return -1;
}

int64_t burst_handles(const struct burst_object *self, const char *what, const uint64_t **handle,
		      uint64_t **mine)
{
	uint32_t n = 0;
	*handle = self->handle;
	*mine = NULL;
	if (likely(!self->element))
		return self->n;
	for (uint32_t i = 0; i < self->n; i++)
		if (burst_part(self, i) && self->element[i]->exports) {
			hot_buffer_in_use(self->element[i], what);
			return -1;
		}
	*handle = *mine = PyMem_New(uint64_t, self->n);
	if (!*mine) {
		PyErr_NoMemory();
		return -1;
	}
	for (uint32_t i = 0; i < self->n; i++)
		if (!self->element[i] || burst_part(self, i))
			(*mine)[n++] = self->handle[i];
	return n;
}

void burst_becomes(struct burst_object *self, uint32_t life)
{
	for (uint32_t i = 0; self->element && i < self->n; i++)
		if (burst_part(self, i))
			self->element[i]->life = life;
	self->life = life;
}

/* Lets go of the handles and of the elements, which own what is still theirs. */
static void burst_clear(struct burst_object *self)
{
	struct buffer_object **element = self->element;
	uint32_t n = self->n;
	PyMem_Free(self->handle);
	self->element = NULL;
	self->handle = NULL;
	self->n = self->room = 0;
	for (uint32_t i = 0; element && i < n; i++)
		Py_XDECREF(element[i]);
	PyMem_Free(element);
}

void burst_spend(struct burst_object *self)
{
	burst_becomes(self, HOT_SPENT);
	burst_clear(self);
}

static int burst_traverse(PyObject *object, visitproc visit, void *arg)
{
	struct burst_object *self = (struct burst_object *)object;
	Py_VISIT(Py_TYPE(object));
	Py_VISIT(self->pool); /* no tp_clear: the pool's dict has one */
	for (uint32_t i = 0; self->element && i < self->n; i++)
		Py_VISIT(self->element[i]);
	return 0;
}

static void burst_dealloc(PyObject *object)
{
	struct burst_object *self = (struct burst_object *)object;
	PyTypeObject *type = Py_TYPE(object);
	PyObject_GC_UnTrack(object);
	for (uint32_t i = 0, end; self->pool && burst_live(self) && i < self->n; i = end + 1) {
		for (end = i; end < self->n && !(self->element && self->element[end]);)
			end++;
		if (end > i && shmpool_free_many(self->pool->key, self->handle + i, end - i) < 0)
			for (; i < end; i++) /* one is none of ours: the others are */
				shmpool_free_many(self->pool->key, self->handle + i, 1);
	}
	burst_clear(self);
	Py_XDECREF(self->pool);
	type->tp_free(object);
	Py_DECREF(type);
}

/* Frees what is in the burst: 0, a code, or HOT_RAISED. */
static int64_t free_all(struct burst_object *self)
{
	const uint64_t *handle;
	uint64_t *mine;
	int64_t code, n = burst_handles(self, "free", &handle, &mine);
	if (n < 0)
		return HOT_RAISED;
	code = shmpool_free_many(self->pool->key, handle, (size_t)n);
	PyMem_Free(mine);
	if (likely(!code))
		burst_spend(self);
	return code;
}

static PyObject *burst_free(PyObject *object, PyObject *unused)
{
	struct burst_object *self = (struct burst_object *)object;
	(void)unused;
	if (burst_usable(self))
		return NULL;
	int64_t code = free_all(self);
	if (likely(!code))
		Py_RETURN_NONE;
	return code == HOT_RAISED ? NULL : burst_fail(self, code, "burst");
}

/* Raises BufferInUse if a view of one is alive. */
static PyObject *burst_movable(PyObject *object, PyObject *what)
{
	const uint64_t *handle;
	uint64_t *mine;
	const char *name = PyUnicode_AsUTF8(what);
	if (!name || burst_usable((struct burst_object *)object) ||
	    burst_handles((struct burst_object *)object, name, &handle, &mine) < 0)
		return NULL;
	PyMem_Free(mine);
	Py_RETURN_NONE;
}

static PyObject *burst_enter(PyObject *object, PyObject *unused)
{
	(void)unused;
	return burst_usable((struct burst_object *)object) ? NULL : Py_NewRef(object);
}

static PyObject *burst_exit(PyObject *object, PyObject *args)
{
	struct burst_object *self = (struct burst_object *)object;
	if (!burst_live(self))
		Py_RETURN_NONE;
	if (likely(!PyTuple_GET_SIZE(args) || PyTuple_GET_ITEM(args, 0) == Py_None))
		return burst_free(object, NULL);
	/* An exception in flight stays the one that is raised: what has views goes home with the
	 * last. */
	for (uint32_t i = 0; self->element && i < self->n; i++)
		if (burst_part(self, i) && self->element[i]->exports)
			hot_buffer_leave(self->element[i]);
	if (free_all(self) == HOT_RAISED)
		PyErr_Clear();
	Py_RETURN_NONE;
}

static Py_ssize_t burst_len(PyObject *object)
{
	struct burst_object *self = (struct burst_object *)object;
	return burst_usable(self) ? -1 : (Py_ssize_t)self->n;
}

/* The element at i, which is in range. */
static PyObject *burst_element(struct burst_object *self, uint32_t i, struct buffer_object *buffer)
{
	struct call c;
	struct shmpool_taken taken = { .handle = self->handle[i] };
	int error = open_key(self->pool->key, &c);
	if (!error)
		error = qmempool_check(c.p, c.m, taken.handle);
	if (error) {
		PyObject *name = PyObject_GetAttrString((PyObject *)self->pool, "name");
		if (name)
			hot_fail(error, "buffer %u of pool %R", handle_index(taken.handle), name);
		Py_XDECREF(name);
		return NULL;
	}
	if (!self->element && !(self->element = PyMem_Calloc(self->n, sizeof(*self->element))))
		return PyErr_NoMemory();
	taken.extent = extent_of(c.p, taken.handle);
	self->element[i] = (struct buffer_object *)hot_buffer_own(buffer, self->pool, taken);
	return Py_NewRef(self->element[i]);
}

static PyObject *burst_subscript(PyObject *object, PyObject *index)
{
	struct burst_object *self = (struct burst_object *)object;
	PyObject *number = hot_int(index, "burst index"), *element = NULL;
	/* Both may run Python code. */
	struct buffer_object *buffer = number ? hot_buffer_make() : NULL;
	if (!buffer || burst_usable(self))
		goto undo;
	Py_ssize_t given = PyNumber_AsSsize_t(number, NULL), n = (Py_ssize_t)self->n;
	Py_ssize_t i = given < 0 ? given + n : given;
	if (i < 0 || i >= n) {
		PyErr_Format(PyExc_IndexError, "burst index is %R; allowed are %zd to %zd", number,
			     -n, n - 1);
	} else if (self->element && self->element[i]) {
		element = Py_NewRef(self->element[i]);
	} else if ((element = burst_element(self, (uint32_t)i, buffer))) {
		buffer = NULL;
	}
undo:
	Py_XDECREF(number);
	if (buffer)
		hot_buffer_unmake(buffer);
	return element;
}

static PyObject *burst_repr(PyObject *object)
{
	struct burst_object *self = (struct burst_object *)object;
	if (!burst_live(self))
		return PyUnicode_FromString("<shmpool.Burst released>");
	return PyUnicode_FromFormat("<shmpool.Burst of %u buffers>", self->n);
}

static PyObject *burst_reduce(PyObject *object, PyObject *unused)
{
	(void)unused;
	return PyErr_Format(PyExc_TypeError, "%R cannot be pickled: pass it by queue.put_many()",
			    object);
}

static PyObject *burst_get_pool(PyObject *object, void *unused)
{
	(void)unused;
	return Py_NewRef(((struct burst_object *)object)->pool);
}

static PyMethodDef burst_methods[] = {
	{ "free", burst_free, METH_NOARGS,
	  "free($self)\n--\n\nGives every buffer back to the pool. BufferInUse while a view of one "
	  "is alive." },
	{ "_movable", burst_movable, METH_O, NULL },
	{ "_alloc", burst_alloc, METH_O, NULL },
	{ "_get", burst_get, METH_VARARGS, NULL },
	{ "_put", burst_put, METH_VARARGS, NULL },
	{ "_indices", burst_indices, METH_NOARGS, NULL },
	{ "_lengths", burst_lengths, METH_O, NULL },
	{ "_set_lengths", burst_set_lengths, METH_VARARGS, NULL },
	{ "_column", burst_column, METH_VARARGS, NULL },
	{ "_set_column", burst_set_column, METH_VARARGS, NULL },
	{ "__reduce__", burst_reduce, METH_NOARGS, NULL },
	{ "__enter__", burst_enter, METH_NOARGS, NULL },
	{ "__exit__", burst_exit, METH_VARARGS, NULL },
	{ NULL, NULL, 0, NULL },
};

static PyGetSetDef burst_getset[] = {
	{ "pool", burst_get_pool, NULL, "The pool that its buffers are of.", NULL },
	{ NULL, NULL, NULL, NULL, NULL },
};

static PyType_Slot burst_slots[] = {
	{ Py_tp_new, burst_new },
	{ Py_tp_dealloc, burst_dealloc },
	{ Py_tp_traverse, burst_traverse },
	{ Py_tp_repr, burst_repr },
	{ Py_tp_methods, burst_methods },
	{ Py_tp_getset, burst_getset },
	{ Py_mp_length, burst_len },
	{ Py_mp_subscript, burst_subscript },
	{ 0, NULL },
};

PyType_Spec hot_burst_spec = { "shmpool._hot.BurstBase", sizeof(struct burst_object), 0,
			       Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
			       burst_slots };
