/* SPDX-License-Identifier: Apache-2.0
 *
 * raising.c - a negative code becomes an exception. Which one, and its reason, is Python's to say
 * (shmpool/codes.py); pools and queues add what they know in their method _fail.
 */
#include "hot.h"

static PyObject *fail_function; /* codes.fail(code, what), which raises */
static PyObject *empty_error;   /* errors.Empty */

static PyObject *fail_text(int64_t code, PyObject *text)
{
	if (text)
		Py_XDECREF(PyObject_CallFunction(fail_function, "LO", (long long)code, text));
	Py_XDECREF(text);
	return NULL;
}

PyObject *hot_fail(int64_t code, const char *what, ...)
{
	va_list values;
	va_start(values, what);
	PyObject *text = PyUnicode_FromFormatV(what, values);
	va_end(values);
	return fail_text(code, text);
}

PyObject *hot_fail_in(PyObject *owner, int64_t code, const char *what, ...)
{
	va_list values;
	va_start(values, what);
	PyObject *text = PyUnicode_FromFormatV(what, values);
	va_end(values);
	PyObject *name = text ? PyObject_GetAttrString(owner, "name") : NULL;
	if (name)
		fail_text(code, PyUnicode_FromFormat("%Upool %R", text, name));
	Py_XDECREF(name);
	Py_XDECREF(text);
	return NULL;
}

PyObject *hot_pool_raise(struct pool_object *self, int64_t code)
{
	return code == HOT_RAISED ?
		       NULL :
		       PyObject_CallMethod((PyObject *)self, "_fail", "L", (long long)code);
}

PyObject *hot_queue_raise(struct queue_object *self, int64_t code, PyObject *items, Py_ssize_t sent)
{
	if (code == HOT_RAISED)
		return NULL;
	if (code == -EAGAIN && !items) { /* quicker than by Python: loops that poll get it often */
		PyErr_SetObject(empty_error, self->empty_text);
		return NULL;
	}
	return PyObject_CallMethod((PyObject *)self, "_fail", "LOn", (long long)code,
				   items ? items : Py_None, sent);
}

PyObject *hot_views_of(PyObject *owner, uint64_t n, PyObject *put)
{
	Py_INCREF(owner); /* other threads run in between */
	PyObject *module = PyImport_ImportModule("shmpool.live_views");
	PyObject *text = module ? PyObject_CallMethod(module, "text_of", "OKO", owner,
						      (unsigned long long)n, put ? put : Py_None) :
				  NULL;
	Py_XDECREF(module);
	Py_DECREF(owner);
	return text;
}

/* A name of a module, a new reference. */
static PyObject *imported(const char *module, const char *name)
{
	PyObject *from = PyImport_ImportModule(module);
	PyObject *found = from ? PyObject_GetAttrString(from, name) : NULL;
	Py_XDECREF(from);
	return found;
}

int hot_raising_init(void)
{
	fail_function = imported("shmpool.codes", "fail");
	empty_error = fail_function ? imported("shmpool.errors", "Empty") : NULL;
	return empty_error ? 0 : -1;
}
