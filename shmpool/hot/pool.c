/* SPDX-License-Identifier: Apache-2.0
 *
 * pool.c - the base of shmpool.Pool: alloc.
 */
#include "hot.h"

static PyObject *pool_hot_open(PyObject *object, PyObject *args)
{
	struct pool_object *self = (struct pool_object *)object;
	unsigned long long key, data, stride, headroom;
	if (!PyArg_ParseTuple(args, "KKKK", &key, &data, &stride, &headroom))
		return NULL;
	self->key = key;
	self->data = (char *)(uintptr_t)data;
	self->stride = stride;
	self->headroom = headroom;
	Py_RETURN_NONE;
}

static PyObject *pool_alloc(PyObject *object, PyObject *const *args, Py_ssize_t n, PyObject *names)
{
	struct pool_object *self = (struct pool_object *)object;
	struct hot_arguments given;
	if (hot_parse("alloc", NULL, args, n, names, &given))
		return NULL;
	int64_t answer = self->key ? shmpool_alloc(self->key) : -EBADF;
	if (likely(answer >= 0))
		return hot_buffer(self, answer);
	return PyObject_CallMethod(object, "_alloc_slow", "LO", (long long)answer, given.timeout);
}

static PyObject *pool_wrap(PyObject *object, PyObject *answer)
{
	int64_t number = PyLong_AsLongLong(answer);
	if (number == -1 && PyErr_Occurred())
		return NULL;
	return hot_buffer((struct pool_object *)object, number);
}

static PyObject *pool_get_exports(PyObject *object, void *unused)
{
	(void)unused;
	return PyLong_FromUnsignedLongLong(((struct pool_object *)object)->exports);
}

static PyMethodDef pool_methods[] = {
	{ "_hot_open", pool_hot_open, METH_VARARGS, NULL },
	{ "_wrap", pool_wrap, METH_O, NULL },
	{ "alloc", (PyCFunction)(void (*)(void))pool_alloc, METH_FASTCALL | METH_KEYWORDS,
	  "alloc($self, timeout=None)\n--\n\nA free buffer of length 0.\n\nWaits up to timeout "
	  "seconds for one (None for ever, 0 not at all), then\nPoolExhausted. OutOfSharedMemory "
	  "if "
	  "the pool must grow and cannot." },
	{ NULL, NULL, 0, NULL },
};

static PyGetSetDef pool_getset[] = {
	{ "_exports", pool_get_exports, NULL, NULL, NULL },
	{ NULL, NULL, NULL, NULL, NULL },
};

static PyType_Slot pool_slots[] = {
	{ Py_tp_methods, pool_methods },
	{ Py_tp_getset, pool_getset },
	{ 0, NULL },
};

PyType_Spec hot_pool_spec = { "shmpool._hot.PoolBase", sizeof(struct pool_object), 0,
			      Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, pool_slots };
