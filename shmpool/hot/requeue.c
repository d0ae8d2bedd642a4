/* SPDX-License-Identifier: Apache-2.0
 *
 * requeue.c - Buffer.nack(), and one step of AlfQueue.redrive().
 */
#include "hot.h"

const char HOT_NACK_DOC[] =
	"nack($self, timeout=None)\n--\n\n"
	"Returns the buffer to the end of the queue that it was got from: the work failed.\n\n"
	"redelivered goes up by one. A buffer that was returned max_redeliveries times goes to\n"
	"the queue's dead-letter queue instead, and so does any buffer of a queue with\n"
	"on_death=\"dead-letter\". Without a timeout the call never waits: if there is no room,\n"
	"the pool keeps the buffer for that queue and puts it as soon as there is room. With a\n"
	"timeout it waits up to that many seconds for room (0 not at all).\n\n"
	"Raises:\n"
	"    Full: there was no room in time; the caller still owns the buffer.\n"
	"    InvalidArgument: it was not got from a queue, or from one with a single producer.\n"
	"    BufferInUse: a view of it is alive.\n"
	"    BufferReleased: this process does not own it any more.\n"
	"    PoolClosed, PoolReplaced: see Pool.";

PyObject *hot_buffer_nack(PyObject *object, PyObject *const *args, Py_ssize_t n, PyObject *names)
{
	struct buffer_object *self = (struct buffer_object *)object;
	struct hot_arguments given;
	if (hot_parse("nack", NULL, args, n, names, &given) || hot_buffer_movable(self, "nack"))
		return NULL;
	struct hot_wait wait = { .operation = HOT_REQUEUE,
				 .pool = self->pool,
				 .handles = &self->handle,
				 .n = 1,
				 .timeout = given.timeout };
	int64_t code = hot_wait_moving(&wait, -EINPROGRESS, self);
	if (unlikely(code))
		return hot_buffer_raise(self, code, "nack");
	hot_buffer_release(self);
	Py_RETURN_NONE;
}

PyObject *hot_queue_move(PyObject *object, PyObject *args)
{
	struct queue_object *self = (struct queue_object *)object;
	unsigned int to;
	int reset;
	if (!PyArg_ParseTuple(args, "Ip", &to, &reset))
		return NULL;
	return PyLong_FromLongLong(shmpool_move(hot_queue_key(self), to, reset));
}
