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

PyTypeObject *hot_pool_type, *hot_queue_type, *hot_buffer_type;

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

/* An attempt that succeeds at once must refuse a wrong timeout too. */
static int check_timeout(PyObject *timeout)
{
	bool negative;
	if (PyLong_Check(timeout)) {
		int beyond;
		long long seconds = PyLong_AsLongLongAndOverflow(timeout, &beyond);
		negative = beyond ? beyond < 0 : seconds < 0;
	} else if (PyFloat_Check(timeout)) {
		negative = !(PyFloat_AS_DOUBLE(timeout) >= 0);
	} else {
		PyErr_Format(PyExc_TypeError,
			     "timeout is %R; it must be a number of seconds, or None", timeout);
		return -1;
	}
	if (likely(!negative))
		return 0;
	hot_fail(-EDOM, "timeout is %R seconds; it cannot be negative", timeout);
	return -1;
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
	if (out->timeout == Py_None ||
	    (PyFloat_CheckExact(out->timeout) && PyFloat_AS_DOUBLE(out->timeout) >= 0))
		return 0;
	return check_timeout(out->timeout);
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

uint64_t hot_install(uint64_t fail)
{
	fail_function = Py_NewRef((PyObject *)(uintptr_t)fail);
	timeout_name = PyUnicode_InternFromString("timeout");
	PyObject *errors = PyImport_ImportModule("shmpool.errors");
	hot_empty_error = errors ? PyObject_GetAttrString(errors, "Empty") : NULL;
	Py_XDECREF(errors);
	hot_pool_type = (PyTypeObject *)PyType_FromSpec(&hot_pool_spec);
	hot_queue_type = (PyTypeObject *)PyType_FromSpec(&hot_queue_spec);
	hot_buffer_type = (PyTypeObject *)PyType_FromSpec(&hot_buffer_spec);
	PyObject *module = PyImport_AddModule("shmpool._hot");
	if ((!hot_life && !make_life()) || !timeout_name || !hot_empty_error || !hot_pool_type ||
	    !hot_queue_type || !hot_buffer_type || !module ||
	    PyModule_AddObjectRef(module, "PoolBase", (PyObject *)hot_pool_type) ||
	    PyModule_AddObjectRef(module, "QueueBase", (PyObject *)hot_queue_type) ||
	    PyModule_AddObjectRef(module, "Buffer", (PyObject *)hot_buffer_type)) {
		PyErr_Print();
		return 1;
	}
	return 0;
}
