/* SPDX-License-Identifier: Apache-2.0
 *
 * ending.c - see hot.h: the end of a Python thread.
 *
 * A thread's members end before join() returns, so that the next thread finds their slots free.
 * Python drops a thread's objects in this order: its dict, where threading.local keeps its values;
 * its context; then join() returns; the C library ends the thread some time later. A capsule in the
 * dict is told of the first. If the members own buffers then, these may be in a threading.local and
 * freed next, so a capsule in the context ends the members. What a thread frees after that, from a
 * context variable, makes it a member until the C library ends it.
 */
#include "hot.h"

#include "member.h"

static PyObject *context_variable;
static _Thread_local bool dropped; /* by Python: a new dict or context would never be cleared */

static void context_ends(PyObject *capsule)
{
	dropped = true;
	opening_thread_ends(PyCapsule_GetPointer(capsule, NULL));
}

static bool owns_buffers(const struct opening_thread *t)
{
	for (uint32_t i = 0; i < OPENING_POOLS_MAX; i++)
		if (t->member[i] && opening_pools[i].buffers &&
		    member_held(&opening_pools[i].segment, t->member[i]))
			return true;
	return false;
}

/* Ends the members with the thread's context. False without memory. */
static bool end_with_context(struct opening_thread *t)
{
	PyObject *type, *value, *trace;
	PyErr_Fetch(&type, &value, &trace);
	PyObject *capsule = PyCapsule_New(t, NULL, NULL);
	PyObject *token = capsule ? PyContextVar_Set(context_variable, capsule) : NULL;
	if (token)
		PyCapsule_SetDestructor(capsule, context_ends);
	Py_XDECREF(token);
	Py_XDECREF(capsule);
	PyErr_Restore(type, value, trace);
	return token != NULL;
}

static void dict_ends(PyObject *capsule)
{
	struct opening_thread *t = PyCapsule_GetPointer(capsule, NULL);
	if (opening_thread != t)
		return;
	if (!owns_buffers(t) || !end_with_context(t))
		opening_thread_ends(t);
}

static void thread_begins(struct opening_thread *t)
{
	PyObject *dict = !dropped && PyGILState_Check() ? PyThreadState_GetDict() : NULL;
	if (!dict)
		return;
	PyObject *type, *value, *trace, *capsule;
	PyErr_Fetch(&type, &value, &trace);
	capsule = PyCapsule_New(t, NULL, NULL);
	if (capsule && !PyDict_SetItemString(dict, "shmpool", capsule))
		PyCapsule_SetDestructor(capsule, dict_ends);
	Py_XDECREF(capsule);
	PyErr_Clear(); /* no memory: then the members end with the C library's thread */
	PyErr_Restore(type, value, trace);
}

static bool locked(void)
{
	return PyGILState_Check();
}

int hot_ending_init(void)
{
	opening_locked = locked;
	opening_thread_begins = thread_begins;
	context_variable = PyContextVar_New("shmpool", NULL);
	return context_variable ? 0 : -1;
}
