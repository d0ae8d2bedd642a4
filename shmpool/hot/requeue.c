/* SPDX-License-Identifier: Apache-2.0
 *
 * requeue.c - Buffer.nack(), one step of AlfQueue.redrive(), and what is unfinished of a queue.
 */
#include "parts.h"

#include "unfinished.h"

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
	const int64_t code = shmpool_move(hot_queue_key(self), to, reset);
	if (self->waker)
		shmpool_taken(self->waker);
	return PyLong_FromLongLong(code);
}

/* The message is done: frees the buffer, with its last view if there are views, and wakes those
 * that wait for the queue to be done. */
PyObject *hot_buffer_settle(PyObject *object, PyObject *Py_UNUSED(unused))
{
	struct buffer_object *self = (struct buffer_object *)object;
	struct buffer *b;
	struct lookup c;
	if (hot_buffer_usable(self, "free"))
		return NULL;
	int error = lookup_key(self->pool->key, &c);
	if (likely(!error))
		error = hot_buffer_header(self, &b);
	if (unlikely(error))
		return hot_buffer_raise(self, error, "free");
	const uint32_t number = load_relaxed(&b->queue);
	if (self->exports)
		unfinished_settle(b);
	hot_buffer_abandon(self);
	unfinished_wake(c.p, number);
	Py_RETURN_NONE;
}

/* Keeps the buffer until the end of the process, which is its owner's death: makes a view that is
 * never released. */
PyObject *hot_buffer_outlive(PyObject *object, PyObject *Py_UNUSED(unused))
{
	struct buffer_object *self = (struct buffer_object *)object;
	if (hot_buffer_usable(self, "view"))
		return NULL;
	if (!hot_part_view(self, 0))
		return NULL;
	Py_RETURN_NONE;
}

/* The buffer stands for a producer of the queue, until it is settled or its owner dies. */
PyObject *hot_buffer_declare(PyObject *object, PyObject *queue)
{
	struct buffer_object *self = (struct buffer_object *)object;
	struct buffer *b;
	struct lookup c;
	if (!PyObject_TypeCheck(queue, hot_queue_type))
		return PyErr_Format(PyExc_TypeError, "%R is no queue", queue);
	if (hot_buffer_movable(self, "declare"))
		return NULL;
	int error = lookup_queue(hot_queue_key((struct queue_object *)queue), &c);
	if (likely(!error))
		error = hot_buffer_header(self, &b);
	if (unlikely(error))
		return hot_buffer_raise(self, error, "declare");
	unfinished_declare(b, c.ring);
	Py_RETURN_NONE;
}
