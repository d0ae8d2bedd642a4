/* SPDX-License-Identifier: Apache-2.0
 *
 * arguments.c - what a hot call was given: its item, its timeout, and integers. Also exports the
 * reader of timeouts to Python (_hot.timeout_seconds), for calls that wait in Python.
 */
#include "hot.h"

static PyObject *timeout_name, *size_name, *zero;

static int wrong_call(const char *name, const char *first)
{
	PyErr_Format(PyExc_TypeError,
		     "%s() takes %s%sone optional argument, timeout; there is no block", name,
		     first ? first : "", first ? " and " : "");
	return -1;
}

PyObject *hot_int(PyObject *value, const char *what)
{
	if (likely(PyLong_Check(value)))
		return Py_NewRef(value);
	/* numpy's bools and arrays have __index__ too, which raises TypeError. */
	PyObject *number = PyIndex_Check(value) ? PyNumber_Index(value) : NULL;
	if (number || (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_TypeError)))
		return number;
	return PyErr_Format(PyExc_TypeError, "%s is %R; it must be an int", what, value);
}

/* True for types that float() parses, or that numpy gives a __float__ that parses. */
static bool is_text(PyObject *value)
{
	return PyUnicode_Check(value) || PyBytes_Check(value) || PyByteArray_Check(value);
}

/* The timeout as a float, which may be NaN or negative. 0, or -1 with an exception. */
static int to_float(PyObject *timeout, double *seconds)
{
	if (!is_text(timeout)) {
		*seconds = PyLong_CheckExact(timeout) ? PyLong_AsDouble(timeout) :
							PyFloat_AsDouble(timeout);
		if (likely(*seconds != -1 || !PyErr_Occurred()))
			return 0;
		if (PyErr_ExceptionMatches(PyExc_OverflowError)) { /* an int, or a Fraction */
			PyErr_Clear();
			const int negative = PyObject_RichCompareBool(timeout, zero, Py_LT);
			*seconds = negative ? -Py_HUGE_VAL : Py_HUGE_VAL;
			return negative < 0 ? -1 : 0;
		}
		if (!PyErr_ExceptionMatches(PyExc_TypeError))
			return -1;
	}
	PyErr_Format(PyExc_TypeError, "timeout is %R; it must be a number of seconds, or None",
		     timeout);
	return -1;
}

int hot_timeout(PyObject *timeout, double *seconds)
{
	if (timeout == Py_None) {
		*seconds = HOT_FOREVER;
		return 0;
	}
	if (PyFloat_CheckExact(timeout))
		*seconds = PyFloat_AS_DOUBLE(timeout);
	else if (to_float(timeout, seconds))
		return -1;
	if (likely(*seconds >= 0))
		return 0;
	hot_fail(-EDOM, "timeout is %R seconds; it must be 0 or more, or None", timeout);
	return -1;
}

/* Adds the arguments that were given by name. */
static int parse_named(const char *name, const char *first, PyObject *const *values,
		       PyObject *names, PyObject **item, PyObject **timeout)
{
	for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(names); i++) {
		PyObject *key = PyTuple_GET_ITEM(names, i), **to = NULL;
		if (key == timeout_name || PyUnicode_Compare(key, timeout_name) == 0)
			to = timeout;
		else if (first && PyUnicode_CompareWithASCIIString(key, first) == 0)
			to = item;
		if (!to || *to)
			return wrong_call(name, first);
		*to = values[i];
	}
	return 0;
}

int hot_parse_all(const char *name, const char *first, PyObject *const *args, Py_ssize_t n,
		  PyObject *names, struct hot_arguments *out)
{
	const Py_ssize_t at = first != NULL;
	PyObject *timeout = n > at ? args[at] : NULL;
	out->item = first && n ? args[0] : NULL;
	if (names && parse_named(name, first, args + n, names, &out->item, &timeout))
		return -1;
	if (unlikely(n > at + 1 || (first && !out->item)))
		return wrong_call(name, first);
	return hot_timeout(timeout ? timeout : Py_None, &out->timeout);
}

int hot_parse_alloc(PyObject *const *args, Py_ssize_t n, PyObject *names, struct hot_arguments *out)
{
	PyObject *given[2] = { n > 0 ? args[0] : NULL, n > 1 ? args[1] : NULL };
	*out = (struct hot_arguments) { NULL, HOT_FOREVER, NULL };
	if (likely(!n && !names))
		return 0;
	for (Py_ssize_t i = 0; n <= 2 && names && i < PyTuple_GET_SIZE(names); i++) {
		PyObject *key = PyTuple_GET_ITEM(names, i), **to = NULL;
		if (key == timeout_name || PyUnicode_Compare(key, timeout_name) == 0)
			to = &given[0];
		else if (key == size_name || PyUnicode_Compare(key, size_name) == 0)
			to = &given[1];
		if (!to || *to) {
			n = 3;
			break;
		}
		*to = args[n + i];
	}
	if (n > 2) {
		PyErr_SetString(PyExc_TypeError,
				"alloc() takes two optional arguments, timeout and "
				"size; there is no block");
		return -1;
	}
	out->size = given[1];
	return hot_timeout(given[0] ? given[0] : Py_None, &out->timeout);
}

static PyObject *timeout_seconds(PyObject *Py_UNUSED(module), PyObject *timeout)
{
	double seconds;
	return hot_timeout(timeout, &seconds) ? NULL : PyFloat_FromDouble(seconds);
}

static PyMethodDef functions[] = {
	{ "timeout_seconds", timeout_seconds, METH_O,
	  "timeout_seconds($module, timeout, /)\n--\n\nReads a timeout as every call does that "
	  "waits.\n\n"
	  "Returns seconds, inf for None. Accepts what float() accepts, except text and bytes.\n\n"
	  "Raises:\n    TypeError: it is no number.\n    InvalidArgument: it is negative or NaN." },
	{ NULL, NULL, 0, NULL },
};

int hot_arguments_init(PyObject *module)
{
	timeout_name = PyUnicode_InternFromString("timeout");
	size_name = PyUnicode_InternFromString("size");
	zero = PyLong_FromLong(0);
	return timeout_name && size_name && zero ? PyModule_AddFunctions(module, functions) : -1;
}
