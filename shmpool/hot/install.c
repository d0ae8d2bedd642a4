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

PyObject *hot_fail(int64_t code, const char *what)
{
	return PyObject_CallFunction(fail_function, "Ls", (long long)code, what);
}

/* Whether the only argument is timeout, or none is given: 0 and *timeout, or -1 with an exception. */
int hot_parse_timeout(const char *name, PyObject *const *args, Py_ssize_t n, PyObject *names,
		      Py_ssize_t at, PyObject **timeout)
{
	Py_ssize_t named = names ? PyTuple_GET_SIZE(names) : 0;
	*timeout = Py_None;
	if (n + named > at + 1 || n < at || (named == 1 && n > at)) {
		PyErr_Format(PyExc_TypeError, "%s() takes %zd argument%s and timeout", name, at,
			     at == 1 ? "" : "s");
		return -1;
	}
	if (named && PyUnicode_Compare(PyTuple_GET_ITEM(names, 0), timeout_name) != 0) {
		PyErr_Format(PyExc_TypeError, "%s() has no argument %R; it has timeout", name,
			     PyTuple_GET_ITEM(names, 0));
		return -1;
	}
	if (n + named == at + 1)
		*timeout = args[at];
	if (*timeout == Py_None ||
	    (PyFloat_CheckExact(*timeout) && PyFloat_AS_DOUBLE(*timeout) >= 0))
		return 0;
	/* An attempt that succeeds at once must refuse a wrong timeout too. */
	double seconds = PyFloat_AsDouble(*timeout);
	if (seconds == -1.0 && PyErr_Occurred()) {
		PyErr_Format(PyExc_TypeError, "timeout is %R; it is a number of seconds, or None",
			     *timeout);
		return -1;
	}
	if (seconds >= 0)
		return 0;
	PyObject *what =
		PyUnicode_FromFormat("timeout is %R seconds; it cannot be negative", *timeout);
	if (what)
		Py_XDECREF(hot_fail(-EDOM, PyUnicode_AsUTF8(what)));
	Py_XDECREF(what);
	return -1;
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
