/* SPDX-License-Identifier: Apache-2.0
 *
 * requeue.c - Buffer.nack(), and a step of AlfQueue.redrive().
 */
#include "hot.h"
#include "wait.h"

const char HOT_NACK_DOC[] =
	"nack($self, timeout=None)\n--\n\n"
	"Returns the buffer to the end of the queue it was got from: the work failed.\n\n"
	"redelivered goes up by one. A buffer that was put back max_redeliveries times goes to\n"
	"the queue's dead-letter queue, as does any from a queue with on_death=\"dead-letter\".\n"
	"Never waits without a timeout: where there is no room, the buffer is kept for that queue\n"
	"and put as soon as there is. With one, waits up to timeout seconds for room (0 not at\n"
	"all), then Full, and the buffer stays the caller's. InvalidArgument if it was not got\n"
	"from a queue, or from one with a single producer.";

PyObject *hot_buffer_nack(PyObject *object, PyObject *const *args, Py_ssize_t n, PyObject *names)
{
	struct buffer_object *self = (struct buffer_object *)object;
	struct hot_arguments given;
	int64_t code, deadline;
	if (hot_parse("nack", NULL, args, n, names, &given) ||
	    (deadline = hot_deadline(given.timeout)) < 0 || hot_buffer_movable(self, "nack"))
		return NULL;
	/* Released before it waits: nobody may take a view of what is about to be somebody else's.
	 *  */
	const uint32_t life = self->life;
	self->life = HOT_MOVING;
	do {
		uint64_t key = self->pool->key;
		HOT_UNLOCKED(key, code, shmpool_requeue_wait(key, self->handle, deadline));
	} while (hot_goes_on(self->pool, deadline, &code));
	self->life = life;
	if (likely(!code)) {
		hot_buffer_spend(self);
		Py_RETURN_NONE;
	}
	return code == -EINTR ? NULL : hot_buffer_fail(self, code, "nack");
}

PyObject *hot_queue_move(PyObject *object, PyObject *args)
{
	struct queue_object *self = (struct queue_object *)object;
	struct shmpool_taken taken;
	unsigned int to;
	int reset;
	struct buffer_object *buffer;
	if (!PyArg_ParseTuple(args, "Ip", &to, &reset) || !(buffer = hot_buffer_make()))
		return NULL;
	int64_t code = shmpool_move(hot_queue_key(self), to, reset, &taken);
	if (unlikely(code == 1))
		return hot_buffer_own(buffer, self->pool, taken);
	hot_buffer_unmake(buffer);
	return PyLong_FromLongLong(code);
}
