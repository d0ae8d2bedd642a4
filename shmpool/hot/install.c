/* SPDX-License-Identifier: Apache-2.0
 *
 * install.c - makes the module shmpool._hot, and what its types share.
 */
#define _GNU_SOURCE
#include "hot.h"

#include <sys/mman.h>

static PyObject *fail_function; /* fail(code, what): raises */
static PyObject *timeout_name;
uint32_t *hot_life;
uint32_t hot_lives;
PyObject *hot_empty_error;

PyTypeObject *hot_segment_type, *hot_pool_type, *hot_queue_type, *hot_buffer_type, *hot_burst_type;

PyObject *hot_fail(int64_t code, const char *what, ...)
{
	va_list values;
	va_start(values, what);
	PyObject *text = PyUnicode_FromFormatV(what, values);
	va_end(values);
	if (text)
		Py_XDECREF(PyObject_CallFunction(fail_function, "LO", (long long)code, text));
	Py_XDECREF(text);
	return NULL;
}

static int wrong_call(const char *name, const char *first)
{
	PyErr_Format(PyExc_TypeError,
		     "%s() takes %s%sone optional argument, timeout; there is no block", name,
		     first ? first : "", first ? " and " : "");
	return -1;
}

/* Adds the arguments that were given by name. */
static int parse_named(const char *name, const char *first, PyObject *const *values,
		       PyObject *names, struct hot_arguments *out)
{
	for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(names); i++) {
		PyObject *key = PyTuple_GET_ITEM(names, i), **to = NULL;
		if (key == timeout_name || PyUnicode_Compare(key, timeout_name) == 0)
			to = &out->timeout;
		else if (first && PyUnicode_CompareWithASCIIString(key, first) == 0)
			to = &out->item;
		if (!to || *to)
			return wrong_call(name, first);
		*to = values[i];
	}
	return 0;
}

PyObject *hot_int(PyObject *value, const char *what)
{
	if (likely(PyLong_Check(value)))
		return Py_NewRef(value);
	if (PyIndex_Check(value))
		return PyNumber_Index(value);
	return PyErr_Format(PyExc_TypeError, "%s is %R; it must be an int", what, value);
}

/* The number of seconds; NaN with an exception. */
static double seconds_of(PyObject *timeout)
{
	if (likely(PyFloat_Check(timeout)))
		return PyFloat_AS_DOUBLE(timeout);
	PyObject *number = PyLong_Check(timeout)  ? Py_NewRef(timeout) :
			   PyIndex_Check(timeout) ? PyNumber_Index(timeout) :
						    NULL;
	if (!number) {
		if (!PyErr_Occurred())
			PyErr_Format(PyExc_TypeError,
				     "timeout is %R; it must be a number of seconds, or None",
				     timeout);
		return Py_NAN;
	}
	int beyond;
	long long whole = PyLong_AsLongLongAndOverflow(number, &beyond);
	Py_DECREF(number);
	return beyond ? beyond * Py_HUGE_VAL : (double)whole;
}

/* An attempt that succeeds at once must refuse a wrong timeout too. The seconds; negative with an
 * exception. */
static double timeout_of(PyObject *timeout)
{
	double seconds = seconds_of(timeout);
	if (likely(seconds >= 0))
		return seconds;
	if (!PyErr_Occurred())
		hot_fail(-EDOM, "timeout is %R seconds; it cannot be negative", timeout);
	return -1;
}

int64_t hot_deadline(PyObject *timeout)
{
	if (timeout == Py_None)
		return WAIT_FOREVER;
	double seconds = timeout_of(timeout);
	if (seconds < 0)
		return -1;
	if (seconds > 4294967296.)
		return WAIT_FOREVER;
	return seconds == 0 ? 0 : wait_now() + (int64_t)(seconds * 1e9);
}

int hot_parse_all(const char *name, const char *first, PyObject *const *args, Py_ssize_t n,
		  PyObject *names, struct hot_arguments *out)
{
	Py_ssize_t at = first != NULL;
	out->item = first && n ? args[0] : NULL;
	out->timeout = n > at ? args[at] : NULL;
	if (names && parse_named(name, first, args + n, names, out))
		return -1;
	if (unlikely(n > at + 1 || (first && !out->item)))
		return wrong_call(name, first);
	if (!out->timeout)
		out->timeout = Py_None;
	return out->timeout == Py_None || timeout_of(out->timeout) >= 0 ? 0 : -1;
}

static bool make_life(void)
{
	void *page = mmap(NULL, sizeof(*hot_life), PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (page == MAP_FAILED || madvise(page, sizeof(*hot_life), MADV_WIPEONFORK))
		return false;
	hot_life = page;
	return true;
}

static void thread_ends(PyObject *capsule)
{
	opening_thread_ends(PyCapsule_GetPointer(capsule, NULL));
}

/* Python drops what it keeps for a thread before join() returns; the C library ends the thread some
 * time later. */
static void thread_begins(struct opening_thread *t)
{
	PyObject *kept = PyGILState_Check() ? PyThreadState_GetDict() : NULL;
	if (!kept)
		return;
	PyObject *type, *value, *trace, *capsule;
	PyErr_Fetch(&type, &value, &trace);
	capsule = PyCapsule_New(t, NULL, NULL);
	if (capsule && !PyDict_SetItemString(kept, "shmpool", capsule))
		PyCapsule_SetDestructor(capsule, thread_ends);
	Py_XDECREF(capsule);
	PyErr_Clear(); /* no memory: then the C library does it */
	PyErr_Restore(type, value, trace);
}

uint64_t hot_install(uint64_t fail)
{
	if (PyInterpreterState_Get() != PyInterpreterState_Main())
		return 2; /* the types, and what they know, are one for the process */
	opening_thread_begins = thread_begins;
	fail_function = Py_NewRef((PyObject *)(uintptr_t)fail);
	timeout_name = PyUnicode_InternFromString("timeout");
	PyObject *errors = PyImport_ImportModule("shmpool.errors");
	hot_empty_error = errors ? PyObject_GetAttrString(errors, "Empty") : NULL;
	Py_XDECREF(errors);
	hot_segment_type = (PyTypeObject *)PyType_FromSpec(&hot_segment_spec);
	hot_burst_type = (PyTypeObject *)PyType_FromSpec(&hot_burst_spec);
	hot_pool_type = (PyTypeObject *)PyType_FromSpec(&hot_pool_spec);
	hot_queue_type = (PyTypeObject *)PyType_FromSpec(&hot_queue_spec);
	hot_buffer_type = (PyTypeObject *)PyType_FromSpec(&hot_buffer_spec);
	PyObject *module = PyImport_AddModule("shmpool._hot");
	if ((!hot_life && !make_life()) || !timeout_name || !hot_empty_error || !hot_pool_type ||
	    !hot_queue_type || !hot_buffer_type || !hot_segment_type || !hot_burst_type ||
	    !module || PyModule_AddObjectRef(module, "SegmentBase", (PyObject *)hot_segment_type) ||
	    PyModule_AddObjectRef(module, "BurstBase", (PyObject *)hot_burst_type) ||
	    PyModule_AddObjectRef(module, "PoolBase", (PyObject *)hot_pool_type) ||
	    PyModule_AddObjectRef(module, "QueueBase", (PyObject *)hot_queue_type) ||
	    PyModule_AddObjectRef(module, "Buffer", (PyObject *)hot_buffer_type)) {
		PyErr_Print();
		return 1;
	}
	return 0;
}
