/* SPDX-License-Identifier: Apache-2.0
 *
 * moves.c - the base of shmpool.Burst: takes buffers and puts them, all in one call.
 */
#include "burst.h"

int burst_empty(const struct burst_object *self)
{
	if (likely(self->state == HOT_RELEASED && self->handle && !self->n))
		return 0;
	PyErr_SetString(PyExc_ValueError, "the burst was filled before");
	return -1;
}

void burst_fill(struct burst_object *self, int64_t n)
{
	self->n = (uint32_t)n;
	self->state = hot_process();
	uint64_t *less = self->n < self->room / 2 ?
				 PyMem_Realloc(self->handle, self->n * sizeof(*self->handle)) :
				 NULL;
	if (less) {
		self->handle = less;
		self->room = self->n;
	}
}

PyObject *burst_alloc(PyObject *object, PyObject *args)
{
	struct burst_object *self = (struct burst_object *)object;
	struct hot_wait wait = {
		.operation = HOT_ALLOC, .pool = self->pool, .handles = self->handle, .n = self->room
	};
	PyObject *timeout, *size;
	int class;
	if (!PyArg_ParseTuple(args, "OO", &timeout, &size) || hot_timeout(timeout, &wait.timeout) ||
	    (class = hot_pool_class(self->pool, size)) < 0 || burst_empty(self))
		return NULL;
	wait.class = (uint32_t)class;
	hot_recover_if_due(self->pool);
	int64_t got = self->pool->key ? shmpool_alloc_cached(self->pool->key | wait.class,
							     self->handle, self->room) :
					-EBADF;
	got = hot_wait(&wait, got);
	if (unlikely(got < 0))
		return hot_pool_raise(self->pool, got);
	burst_fill(self, got);
	Py_RETURN_NONE;
}

struct queue_object *burst_queue(const struct burst_object *self, PyObject *queue)
{
	if (PyObject_TypeCheck(queue, hot_queue_type) &&
	    ((struct queue_object *)queue)->pool == self->pool)
		return (struct queue_object *)queue;
	PyErr_Format(PyExc_TypeError, "%R is not a queue of the burst's pool", queue);
	return NULL;
}

PyObject *burst_get(PyObject *object, PyObject *args)
{
	struct burst_object *self = (struct burst_object *)object;
	struct queue_object *queue;
	PyObject *of, *timeout;
	struct hot_wait wait = {
		.operation = HOT_GET, .pool = self->pool, .handles = self->handle, .n = self->room
	};
	if (!PyArg_ParseTuple(args, "OO", &of, &timeout) || !(queue = burst_queue(self, of)) ||
	    hot_timeout(timeout, &wait.timeout) || burst_empty(self))
		return NULL;
	hot_recover_if_due(self->pool);
	int64_t got = -EINPROGRESS;
	if (self->room <= BURST_LOCKED_MAX || wait.timeout == 0)
		got = shmpool_get_many(hot_take_key(queue), self->handle, self->room);
	wait.queue = queue;
	got = hot_wait(&wait, got);
	if (unlikely(got <= 0))
		return hot_queue_raise(queue, got, NULL, 0);
	burst_fill(self, got);
	Py_RETURN_NONE;
}

PyObject *burst_put(PyObject *object, PyObject *args)
{
	struct burst_object *self = (struct burst_object *)object;
	struct queue_object *queue;
	PyObject *of, *timeout;
	uint64_t *mine;
	int64_t n, code = -EINPROGRESS;
	struct hot_wait wait = { .operation = HOT_PUT, .pool = self->pool };
	if (!PyArg_ParseTuple(args, "OO", &of, &timeout) || !(queue = burst_queue(self, of)) ||
	    hot_timeout(timeout, &wait.timeout) || burst_usable(self) ||
	    (n = burst_handles(self, "put_many", &wait.handles, &mine)) < 0)
		return NULL;
	if (n <= BURST_LOCKED_MAX || wait.timeout == 0)
		code = shmpool_put_many(hot_queue_key(queue), wait.handles, (size_t)n);
	if (unlikely(code < 0)) {
		const uint32_t state = self->state;
		wait.queue = queue;
		wait.n = (size_t)n;
		burst_set_state(self, HOT_MOVING_BURST); /* as hot_wait_moving() */
		code = hot_wait(&wait, code);
		burst_set_state(self, state);
	}
	PyMem_Free(mine);
	if (unlikely(code < 0))
		return hot_queue_raise(queue, code, object, 0);
	burst_release(self);
	Py_RETURN_NONE;
}
