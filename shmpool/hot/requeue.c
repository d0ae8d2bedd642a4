/* SPDX-License-Identifier: Apache-2.0
 *
 * requeue.c - Buffer.nack(): one C call returns the buffer and marks the Buffer released, so that no signal handler
 * runs between the two.
 */
#include "hot.h"
#include "wait.h"

const char HOT_NACK_DOC[] =
	"nack($self, timeout=None)\n--\n\nReturns the buffer to the end of the queue it was got "
	"from: "
	"the work failed.\n\nredelivered goes up by one. A buffer that was put back "
	"max_redeliveries "
	"times goes to the\nqueue's dead-letter queue, as does any from a queue with "
	"on_death=\"dead-letter\". Waits up to timeout\nseconds for room (None for ever, 0 not at "
	"all), then Full, and the buffer stays the caller's.\nInvalidArgument if it was not got "
	"from "
	"a queue, or from one with a single producer.";

/* hot_deadline() of a timeout that hot_parse() has checked, numbers of any kind included. */
static int64_t deadline_of(PyObject *timeout)
{
	int64_t deadline = hot_deadline(timeout);
	if (likely(deadline >= 0))
		return deadline;
	double seconds = PyFloat_AsDouble(timeout);
	PyErr_Clear(); /* an integer beyond any double */
	return seconds >= 0 && seconds < 4294967296. ? wait_now() + (int64_t)(seconds * 1e9) :
						       WAIT_FOREVER;
}

PyObject *hot_buffer_nack(PyObject *object, PyObject *const *args, Py_ssize_t n, PyObject *names)
{
	struct buffer_object *self = (struct buffer_object *)object;
	struct hot_arguments given;
	if (hot_parse("nack", NULL, args, n, names, &given) || hot_buffer_movable(self, "nack"))
		return NULL;
	int64_t code, deadline = deadline_of(given.timeout);
	/* Released before it waits: no other thread may take a view of what is being handed over. */
	uint32_t life = self->life;
	hot_buffer_spend(self);
	do {
		uint64_t key = self->pool->key ? self->key : 0;
		Py_BEGIN_ALLOW_THREADS code = shmpool_requeue_wait(key, deadline);
		Py_END_ALLOW_THREADS
	} while (hot_goes_on(code));
	if (likely(!code))
		Py_RETURN_NONE;
	self->life = life;
	if (PyErr_Occurred())
		return NULL;
	PyObject *pool = PyObject_GetAttrString((PyObject *)self->pool, "name");
	if (pool)
		hot_fail(code, "nack: buffer %u of pool %R",
			 (unsigned int)(self->key & ALF_INDEX_MASK), pool);
	Py_XDECREF(pool);
	return NULL;
}
