/* SPDX-License-Identifier: Apache-2.0
 *
 * free_after.c - Buffer.free_after(): a buffer is freed when a device's event has completed.
 *
 * The event has a view of the buffer, and the buffer is freed with its last view. Which events have
 * completed, Python asks (shmpool/free_after.py). One call takes the view, records it and gives the
 * buffer up, so no exception of a signal handler gets in between.
 */
#include "parts.h"

const char HOT_FREE_AFTER_DOC[] =
	"free_after($self, event, /)\n--\n\nFrees the buffer when a device's event has completed, "
	"without waiting for it.\n\nFor a copy that a device makes on its own: record an event "
	"behind "
	"the copy, then call this.\nThe Buffer is released at once. If views of it are alive, it "
	"is "
	"freed with the last of them.\nPool.close waits for the event, and so does the end of the "
	"process, for some seconds.\n\n"
	"event: has query(), as torch.cuda.Event, or done, as cupy.cuda.Event; or only "
	"synchronize(),\n"
	"which a background thread then calls. If that raises, the buffer is freed.\n\nRaises:\n"
	"    BufferReleased: it was freed or put before.\n    PoolClosed: the pool is closed.\n"
	"    TypeError: event is no event.";

/* What free_after.py records events in. A reference that stays: the end of the interpreter does not
 * free buffers whose events have not completed. */
static PyObject *kept;

static PyObject *call(const char *function, PyObject *argument)
{
	PyObject *module = PyImport_ImportModule("shmpool.free_after");
	PyObject *done = module ? PyObject_CallMethod(module, function, "O", argument) : NULL;
	Py_XDECREF(module);
	return done;
}

PyObject *hot_buffer_free_after(PyObject *object, PyObject *event)
{
	struct buffer_object *self = (struct buffer_object *)object;
	PyObject *pending = NULL, *view = NULL, *key = NULL, *item = NULL, *done = NULL;
	if (hot_buffer_usable(self, "free_after"))
		return NULL;
	pending = call("begin", event); /* runs Python code */
	if (!pending || hot_buffer_usable(self, "free_after") || !(view = hot_part_view(self, 0)) ||
	    !(key = PyLong_FromVoidPtr(view)) || !(item = PyTuple_Pack(3, event, view, object)) ||
	    PyDict_SetItem(pending, key, item))
		goto undo;
	if (!kept)
		kept = Py_NewRef(pending);
	hot_buffer_free_later(self);
	done = call("wake", Py_None);
undo:
	Py_XDECREF(pending);
	Py_XDECREF(key);
	Py_XDECREF(item);
	Py_XDECREF(view);
	return done;
}

int hot_free_after_settle(struct pool_object *pool)
{
	PyObject *done = call("settle", (PyObject *)pool);
	Py_XDECREF(done);
	return done ? 0 : -1;
}
