/* SPDX-License-Identifier: Apache-2.0
 *
 * objects.c - objects as messages: pickled, by picklers of Python's that are used again. What a
 * pickler is, and the form of a message of several parts, say shmpool/mp/objects.py.
 */
#include "hot.h"

/* A pickler is a tuple of these. */
enum {
	DUMP, /* dump(obj) appends the pickle to PARTS, and memory that is out of band to BLOCKS */
	FORGET, /* forget() lets the pickler forget the object */
	PARTS,
	BLOCKS
};

static PyObject *make_pickler; /* make_pickler() returns one */
static PyObject *lay_out;      /* lay_out(parts, blocks) returns the parts of the message */
static PyObject *spare; /* one to use again: making it costs more than to pickle a small object */

PyObject *hot_use_pickler(PyObject *Py_UNUSED(module), PyObject *args)
{
	PyObject *make, *lay;
	if (!PyArg_ParseTuple(args, "OO", &make, &lay))
		return NULL;
	Py_XSETREF(make_pickler, Py_NewRef(make));
	Py_XSETREF(lay_out, Py_NewRef(lay));
	Py_RETURN_NONE;
}

/* Pickles the object. Returns the message, and leaves nothing of it in the pickler, which may be
 * used again if *again; NULL with an exception. Not after a long pickle: the table of the objects
 * in it never shrinks, and is cleared each time. */
static PyObject *message_of(PyObject *pickler, PyObject *obj, bool *again)
{
	PyObject *parts = PyTuple_GET_ITEM(pickler, PARTS);
	PyObject *blocks = PyTuple_GET_ITEM(pickler, BLOCKS), *message;
	PyObject *done = PyObject_CallOneArg(PyTuple_GET_ITEM(pickler, DUMP), obj);
	*again = done && PyList_GET_SIZE(parts) == 1 &&
		 PyObject_Size(PyList_GET_ITEM(parts, 0)) < HOT_SHORT;
	if (*again)
		Py_SETREF(done, PyObject_CallNoArgs(PyTuple_GET_ITEM(pickler, FORGET)));
	if (!done)
		return NULL;
	Py_DECREF(done);
	if (PyList_GET_SIZE(parts) == 1 && !PyList_GET_SIZE(blocks))
		message = Py_NewRef(PyList_GET_ITEM(parts, 0));
	else
		message = PyObject_CallFunctionObjArgs(lay_out, parts, blocks, NULL);
	if (message && (PyList_SetSlice(parts, 0, PY_SSIZE_T_MAX, NULL) ||
			PyList_SetSlice(blocks, 0, PY_SSIZE_T_MAX, NULL)))
		Py_CLEAR(message);
	return message;
}

PyObject *hot_pickled(PyObject *Py_UNUSED(module), PyObject *obj)
{
	PyObject *pickler = spare;
	spare = NULL; /* while it is used: other threads may run, and the object may pickle too */
	if (!pickler)
		pickler = PyObject_CallNoArgs(make_pickler);
	bool again = false;
	PyObject *message = pickler ? message_of(pickler, obj, &again) : NULL;
	if (message && again && !spare)
		spare = pickler;
	else
		Py_XDECREF(pickler); /* after an exception it may be half used */
	return message;
}
