/* SPDX-License-Identifier: Apache-2.0
 *
 * turns.c - what an event loop calls when its descriptor is readable: gives turns to waiters
 * (../awaiting.py). In C because it is a third of what Python does between a wake-up and the task.
 *
 * A Turns object belongs to one waker and knows which line has which want. A line with a single
 * waiter names that one's future as `alone`, and gets its turn here. All else is in _Line.fired().
 */
#include "hot.h"

#include <structmember.h>

#define TAKE_MAX 64

struct line_object {
	PyObject_HEAD
	int want;         /* at the waker, 0 for none */
	Py_ssize_t turns; /* waiters that have a turn and have not tried yet */
	PyObject *alone;  /* the future of the only waiter, or None */
};

struct turns_object {
	PyObject_HEAD
	int waker;
	int room;
	struct line_object **line; /* by number of the want, or NULL */
};

static PyObject *done_name, *fired_name, *set_result_name;

static int line_traverse(PyObject *object, visitproc visit, void *arg)
{
	Py_VISIT(Py_TYPE(object));
	Py_VISIT(((struct line_object *)object)->alone);
	return 0;
}

static int line_clear(PyObject *object)
{
	Py_CLEAR(((struct line_object *)object)->alone);
	return 0;
}

static void line_dealloc(PyObject *object)
{
	PyTypeObject *type = Py_TYPE(object);
	PyObject_GC_UnTrack(object);
	line_clear(object);
	type->tp_free(object);
	Py_DECREF(type);
}

static PyMemberDef line_members[] = {
	{ "want", T_INT, offsetof(struct line_object, want), 0, NULL },
	{ "turns", T_PYSSIZET, offsetof(struct line_object, turns), 0, NULL },
	{ "alone", T_OBJECT, offsetof(struct line_object, alone), 0, NULL },
	{ NULL, 0, 0, 0, NULL },
};

static PyType_Slot line_slots[] = {
	{ Py_tp_members, line_members },
	{ Py_tp_traverse, line_traverse },
	{ Py_tp_clear, line_clear },
	{ Py_tp_dealloc, line_dealloc },
	{ 0, NULL },
};

PyType_Spec hot_line_spec = { "shmpool._hot.LineBase", sizeof(struct line_object), 0,
			      Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
			      line_slots };

int hot_turns_init(void)
{
	done_name = PyUnicode_InternFromString("done");
	fired_name = PyUnicode_InternFromString("fired");
	set_result_name = PyUnicode_InternFromString("set_result");
	return done_name && fired_name && set_result_name ? 0 : -1;
}

static int turns_init(PyObject *object, PyObject *args, PyObject *Py_UNUSED(names))
{
	return PyArg_ParseTuple(args, "i", &((struct turns_object *)object)->waker) ? 0 : -1;
}

static int turns_traverse(PyObject *object, visitproc visit, void *arg)
{
	struct turns_object *self = (struct turns_object *)object;
	Py_VISIT(Py_TYPE(object));
	for (int i = 0; i < self->room; i++)
		Py_VISIT(self->line[i]);
	return 0;
}

static int turns_clear(PyObject *object)
{
	struct turns_object *self = (struct turns_object *)object;
	for (int i = 0; i < self->room; i++)
		Py_CLEAR(self->line[i]);
	return 0;
}

static void turns_dealloc(PyObject *object)
{
	PyTypeObject *type = Py_TYPE(object);
	PyObject_GC_UnTrack(object);
	turns_clear(object);
	PyMem_Free(((struct turns_object *)object)->line);
	type->tp_free(object);
	Py_DECREF(type);
}

/* Records that the line has the want that its attribute names. */
static PyObject *turns_expect(PyObject *object, PyObject *line)
{
	struct turns_object *self = (struct turns_object *)object;
	if (!PyObject_TypeCheck(line, hot_line_type))
		return PyErr_Format(PyExc_TypeError, "%R is no line", line);
	const int want = ((struct line_object *)line)->want;
	if (want < 1)
		return PyErr_Format(PyExc_ValueError, "want is %d", want);
	if (want >= self->room) {
		const int room = want < 8 ? 8 : 2 * want;
		struct line_object **more =
			PyMem_Realloc(self->line, (size_t)room * sizeof(struct line_object *));
		if (!more)
			return PyErr_NoMemory();
		for (int i = self->room; i < room; i++)
			more[i] = NULL;
		self->line = more;
		self->room = room;
	}
	Py_XSETREF(self->line[want], (struct line_object *)Py_NewRef(line));
	Py_RETURN_NONE;
}

/* Returns the line of a want that has fired, a new reference, or NULL. */
static struct line_object *line_of(struct turns_object *self, int want)
{
	if (want < 1 || want >= self->room)
		return NULL;
	struct line_object *line = self->line[want];
	self->line[want] = NULL;
	return line;
}

static PyObject *turns_forget(PyObject *object, PyObject *want)
{
	const long number = PyLong_AsLong(want);
	if (number == -1 && PyErr_Occurred())
		return NULL;
	Py_XDECREF(line_of((struct turns_object *)object,
			   number > 0 && number < INT_MAX ? (int)number : 0));
	Py_RETURN_NONE;
}

/* Gives the only waiter its turn. NULL with an exception. */
static PyObject *give(struct line_object *line, PyObject *future)
{
	PyObject *done = PyObject_CallMethodNoArgs(future, done_name);
	if (done == Py_False) {
		Py_DECREF(done);
		line->turns++;
		return PyObject_CallMethodOneArg(future, set_result_name, Py_None);
	}
	return done; /* it was cancelled, and leaves the line soon */
}

/* The callback of the loop. What it takes it passes on: an exception concerns one line. */
static PyObject *turns_call(PyObject *object, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(names))
{
	struct turns_object *self = (struct turns_object *)object;
	int wants[TAKE_MAX];
	const int n = shmpool_waker_take(self->waker, wants, TAKE_MAX);
	for (int i = 0; i < n; i++) {
		struct line_object *line = line_of(self, wants[i]);
		if (!line)
			continue;
		PyObject *future = line->alone;
		line->alone = NULL;
		line->want = 0;
		PyObject *done = future && future != Py_None ?
					 give(line, future) :
					 PyObject_CallMethodNoArgs((PyObject *)line, fired_name);
		if (!done)
			PyErr_WriteUnraisable(object);
		Py_XDECREF(done);
		Py_XDECREF(future);
		Py_DECREF(line);
	}
	Py_RETURN_NONE;
}

static PyMethodDef turns_methods[] = {
	{ "expect", turns_expect, METH_O,
	  "expect($self, line, /)\n--\n\nThe line has the want that it names." },
	{ "forget", turns_forget, METH_O,
	  "forget($self, want, /)\n--\n\nNo line has that want any more." },
	{ NULL, NULL, 0, NULL },
};

static PyType_Slot turns_slots[] = {
	{ Py_tp_methods, turns_methods },
	{ Py_tp_init, turns_init },
	{ Py_tp_call, turns_call },
	{ Py_tp_clear, turns_clear },
	{ Py_tp_traverse, turns_traverse },
	{ Py_tp_dealloc, turns_dealloc },
	{ 0, NULL },
};

PyType_Spec hot_turns_spec = { "shmpool._hot.Turns", sizeof(struct turns_object), 0,
			       Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, turns_slots };
