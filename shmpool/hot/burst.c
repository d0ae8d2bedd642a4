/* SPDX-License-Identifier: Apache-2.0
 *
 * burst.c - the base of shmpool.Burst: owns 1 to n buffers.
 *
 * A burst is allocated empty, with room for the handles, and then filled (moves.c). burst[i]
 * returns a Buffer, the element i. From then on the element owns that buffer, and the burst refers
 * to the element. The burst frees the buffers that have no element.
 */
#include "burst.h"
#include "parts.h"

#include <structmember.h>

struct burst_object *burst_make(PyTypeObject *type, struct pool_object *pool, uint32_t room)
{
	struct burst_object *self = (struct burst_object *)type->tp_alloc(type, 0);
	if (!self)
		return NULL;
	self->pool = (struct pool_object *)Py_NewRef(pool);
	self->state = HOT_RELEASED;
	self->room = room;
	self->handle = PyMem_Calloc(room, sizeof *self->handle);
	if (self->handle)
		return self;
	Py_DECREF(self);
	return (struct burst_object *)PyErr_NoMemory();
}

static PyObject *burst_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(named))
{
	PyObject *pool;
	unsigned int room;
	if (!PyArg_ParseTuple(args, "O!I", hot_pool_type, &pool, &room))
		return NULL;
	return (PyObject *)burst_make(type, (struct pool_object *)pool, room);
}

int burst_usable(const struct burst_object *self)
{
	if (likely(burst_live(self)))
		return 0;
	hot_fail_in((PyObject *)self->pool, hot_not_live(self->pool, self->state), "a burst of ");
	return -1;
}

int64_t burst_handles(const struct burst_object *self, const char *what, uint64_t **handle,
		      uint64_t **mine)
{
	uint32_t n = 0;
	*handle = self->handle;
	*mine = NULL;
	if (likely(!self->element))
		return self->n;
	for (uint32_t i = 0; i < self->n; i++)
		if (burst_has_element(self, i) && self->element[i]->exports) {
			hot_buffer_in_use(self->element[i], what);
			return -1;
		}
	*handle = *mine = PyMem_New(uint64_t, self->n);
	if (!*mine) {
		PyErr_NoMemory();
		return -1;
	}
	for (uint32_t i = 0; i < self->n; i++)
		if (!self->element[i] || burst_has_element(self, i))
			(*mine)[n++] = self->handle[i];
	return n;
}

void burst_set_state(struct burst_object *self, uint32_t state)
{
	for (uint32_t i = 0; self->element && i < self->n; i++)
		if (burst_has_element(self, i))
			self->element[i]->state = state;
	self->state = state;
}

/* Drops the handles and the references to the elements. An element goes on owning its buffer if it
 * is live. */
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

void burst_release(struct burst_object *self)
{
	burst_set_state(self, HOT_RELEASED);
	burst_clear(self);
}

static int burst_traverse(PyObject *object, visitproc visit, void *arg)
{
	struct burst_object *self = (struct burst_object *)object;
	Py_VISIT(Py_TYPE(object));
	Py_VISIT(self->pool); /* the pool's dict has a tp_clear */
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
			for (; i < end; i++) /* refused because of one: free the others */
				shmpool_free_many(self->pool->key, self->handle + i, 1);
	}
	burst_clear(self);
	Py_XDECREF(self->pool);
	type->tp_free(object);
	Py_DECREF(type);
}

/* Frees the buffers in the burst. 0, a code, or HOT_RAISED. */
static int64_t free_all(struct burst_object *self)
{
	uint64_t *handle, *mine;
	int64_t code, n = burst_handles(self, "free", &handle, &mine);
	if (n < 0)
		return HOT_RAISED;
	code = shmpool_free_many(self->pool->key, handle, (size_t)n);
	PyMem_Free(mine);
	if (likely(!code))
		burst_release(self);
	return code;
}

static PyObject *burst_free(PyObject *object, PyObject *Py_UNUSED(unused))
{
	struct burst_object *self = (struct burst_object *)object;
	if (burst_usable(self))
		return NULL;
	int64_t code = free_all(self);
	if (likely(!code))
		Py_RETURN_NONE;
	return code == HOT_RAISED ? NULL : hot_fail_in((PyObject *)self->pool, code, "burst of ");
}

/* Raises what would keep the burst from the call what: BufferInUse, or it is not live. */
static PyObject *burst_check_movable(PyObject *object, PyObject *what)
{
	uint64_t *handle, *mine;
	const char *name = PyUnicode_AsUTF8(what);
	if (!name || burst_usable((struct burst_object *)object) ||
	    burst_handles((struct burst_object *)object, name, &handle, &mine) < 0)
		return NULL;
	PyMem_Free(mine);
	Py_RETURN_NONE;
}

static PyObject *burst_enter(PyObject *object, PyObject *Py_UNUSED(unused))
{
	return burst_usable((struct burst_object *)object) ? NULL : Py_NewRef(object);
}

static PyObject *burst_exit(PyObject *object, PyObject *args)
{
	struct burst_object *self = (struct burst_object *)object;
	if (!burst_live(self))
		Py_RETURN_NONE;
	if (likely(!PyTuple_GET_SIZE(args) || PyTuple_GET_ITEM(args, 0) == Py_None))
		return burst_free(object, NULL);
	/* A failure to free must not replace the exception that leaves the block. Buffers with
	 * views are freed with the last view. */
	for (uint32_t i = 0; self->element && i < self->n; i++)
		if (burst_has_element(self, i) && self->element[i]->exports)
			hot_buffer_free_later(self->element[i]);
	if (free_all(self) == HOT_RAISED)
		PyErr_Clear();
	Py_RETURN_NONE;
}

static Py_ssize_t burst_len(PyObject *object)
{
	struct burst_object *self = (struct burst_object *)object;
	return burst_usable(self) ? -1 : (Py_ssize_t)self->n;
}

/* Makes buffer the element i, which is in range and has no element yet. A new reference, or NULL
 * with an exception. */
static PyObject *burst_element(struct burst_object *self, uint32_t i, struct buffer_object *buffer)
{
	struct lookup c;
	const uint64_t handle = self->handle[i];
	int error = lookup_key(self->pool->key, &c);
	if (!error)
		error = qmempool_check(c.p, c.m, handle);
	if (error)
		return hot_fail_in((PyObject *)self->pool, error, "buffer %u of ",
				   handle_index(handle));
	if (!self->element && !(self->element = PyMem_Calloc(self->n, sizeof(*self->element))))
		return PyErr_NoMemory();
	if (unlikely(buffer_heads(pool_buffer(c.p, handle_index(handle)))) &&
	    hot_chain_read(buffer, c.p, handle))
		return NULL;
	self->element[i] = (struct buffer_object *)hot_buffer_fill(buffer, self->pool, handle,
								   bytes_extent(c.p, handle));
	return Py_NewRef(self->element[i]);
}

void burst_no_index(PyObject *index, uint32_t n)
{
	if (n)
		PyErr_Format(PyExc_IndexError, "burst index is %R; allowed are -%u to %u", index, n,
			     n - 1);
	else
		PyErr_Format(PyExc_IndexError, "burst index is %R; the burst is empty", index);
}

static PyObject *burst_subscript(PyObject *object, PyObject *index)
{
	struct burst_object *self = (struct burst_object *)object;
	PyObject *number = NULL, *element = NULL;
	/* An array has __index__ too, which refuses arrays of more than one integer. */
	if (likely(PyLong_Check(index)))
		number = Py_NewRef(index);
	else if (!PyIndex_Check(index) || !(number = PyNumber_Index(index))) {
		if (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_TypeError))
			return NULL;
		PyErr_Clear();
		return burst_divide(object, index);
	}
	struct buffer_object *buffer = hot_buffer_new(); /* may run Python code, as the above */
	if (!buffer || burst_usable(self))
		goto undo;
	Py_ssize_t given = PyNumber_AsSsize_t(number, NULL), n = (Py_ssize_t)self->n;
	Py_ssize_t i = given < 0 ? given + n : given;
	if (i < 0 || i >= n) {
		burst_no_index(number, self->n);
	} else if (self->element && self->element[i]) {
		element = Py_NewRef(self->element[i]);
	} else if ((element = burst_element(self, (uint32_t)i, buffer))) {
		buffer = NULL;
	}
undo:
	Py_DECREF(number);
	if (buffer)
		hot_buffer_discard(buffer);
	return element;
}

static PyObject *burst_repr(PyObject *object)
{
	struct burst_object *self = (struct burst_object *)object;
	if (!burst_live(self))
		return PyUnicode_FromString("<shmpool.Burst released>");
	return PyUnicode_FromFormat("<shmpool.Burst of %u buffers>", self->n);
}

static PyObject *burst_reduce(PyObject *object, PyObject *Py_UNUSED(unused))
{
	return PyErr_Format(PyExc_TypeError, "%R cannot be pickled: pass it by queue.put_many()",
			    object);
}

static PyMethodDef burst_methods[] = {
	{ "free", burst_free, METH_NOARGS,
	  "free($self)\n--\n\nReturns every buffer to the pool; the Burst is then released.\n\n"
	  "Raises:\n    BufferInUse: a view of one of the buffers is alive; none was freed.\n"
	  "    BufferReleased: it was freed or put before.\n    PoolClosed: the pool is closed." },
	{ "_check_movable", burst_check_movable, METH_O, NULL },
	{ "_alloc", burst_alloc, METH_VARARGS, NULL },
	{ "_get", burst_get, METH_VARARGS, NULL },
	{ "_put", burst_put, METH_VARARGS, NULL },
	{ "_take", burst_take, METH_O, NULL },
	{ "_spread", burst_spread, METH_VARARGS, NULL },
	{ "_indices", burst_indices, METH_NOARGS, NULL },
	{ "_lengths", burst_lengths, METH_O, NULL },
	{ "_set_lengths", burst_set_lengths, METH_VARARGS, NULL },
	{ "_column", burst_column, METH_VARARGS, NULL },
	{ "_set_column", burst_set_column, METH_VARARGS, NULL },
	{ "_field", burst_field, METH_VARARGS, NULL },
	{ "_set_field", burst_set_field, METH_VARARGS, NULL },
	{ "__reduce__", burst_reduce, METH_NOARGS, NULL },
	{ "__enter__", burst_enter, METH_NOARGS, NULL },
	{ "__exit__", burst_exit, METH_VARARGS, NULL },
	{ NULL, NULL, 0, NULL },
};

static PyMemberDef burst_members[] = {
	{ "pool", T_OBJECT, offsetof(struct burst_object, pool), READONLY,
	  "The pool that the buffers belong to." },
	{ NULL, 0, 0, 0, NULL },
};

static PyType_Slot burst_slots[] = {
	{ Py_tp_new, burst_new },
	{ Py_tp_dealloc, burst_dealloc },
	{ Py_tp_traverse, burst_traverse },
	{ Py_tp_repr, burst_repr },
	{ Py_tp_methods, burst_methods },
	{ Py_tp_members, burst_members },
	{ Py_mp_length, burst_len },
	{ Py_mp_subscript, burst_subscript },
	{ 0, NULL },
};

PyType_Spec hot_burst_spec = { "shmpool._hot.BurstBase", sizeof(struct burst_object), 0,
			       Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
			       burst_slots };
