/* SPDX-License-Identifier: Apache-2.0
 *
 * moves.c - the base of shmpool.Burst: takes buffers and puts them, each in one call.
 */
#include "burst.h"

#define LOCKED_MAX 1024u /* buffers that one attempt moves without a release of the lock */

/* 0 if it can be filled, else -1 with an exception. */
static int burst_empty(const struct burst_object *self)
{
	if (likely(self->life == HOT_SPENT && self->handle && !self->n))
		return 0;
	PyErr_SetString(PyExc_ValueError, "the burst was filled before");
	return -1;
}

/* It owns the first n handles from now on. */
static void burst_own(struct burst_object *self, int64_t n)
{
	self->n = (uint32_t)n;
	self->life = hot_this_life();
	uint64_t *less = self->n < self->room / 2 ?
				 PyMem_Realloc(self->handle, self->n * sizeof(*self->handle)) :
				 NULL;
	if (less) {
		self->handle = less;
		self->room = self->n;
	}
}

/* After a take: whether it owns what was got. *got is a code if not. */
static bool burst_filled(struct burst_object *self, int64_t *got)
{
	if (*got > 0 && !self->pool->key)
		*got = -EBADF; /* closed: they were given back */
	if (unlikely(*got <= 0))
		return false;
	burst_own(self, *got);
	return true;
}

PyObject *burst_alloc(PyObject *object, PyObject *timeout)
{
	struct burst_object *self = (struct burst_object *)object;
	int64_t got, deadline = hot_deadline(timeout);
	if (deadline < 0 || burst_empty(self))
		return NULL;
	hot_tend(self->pool);
	got = self->pool->key ? shmpool_alloc_cached(self->pool->key, self->handle, self->room) :
				-EBADF;
	if (got == -EAGAIN)
		do {
			uint64_t key = self->pool->key;
			HOT_UNLOCKED(
				key, got,
				shmpool_alloc_many_wait(key, self->handle, self->room, deadline));
		} while (hot_goes_on(self->pool, deadline, &got));
	if (likely(burst_filled(self, &got)))
		Py_RETURN_NONE;
	if (got == -EINTR)
		return NULL;
	return PyObject_CallMethod((PyObject *)self->pool, "_fail", "L", (long long)got);
}

/* The queue, if it is an open one of the burst's pool; NULL with an exception. */
static struct queue_object *queue_of(const struct burst_object *self, PyObject *queue)
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
	int64_t got = -EAGAIN, deadline;
	if (!PyArg_ParseTuple(args, "OO", &of, &timeout) || !(queue = queue_of(self, of)) ||
	    (deadline = hot_deadline(timeout)) < 0 || burst_empty(self))
		return NULL;
	hot_tend(self->pool);
	if (self->room <= LOCKED_MAX || !deadline)
		got = shmpool_get_many(hot_queue_key(queue), self->handle, self->room);
	if ((got == -EAGAIN && deadline) || hot_stuck(got))
		do {
			uint64_t key = hot_queue_key(queue);
			HOT_UNLOCKED(
				key, got,
				shmpool_get_many_wait(key, self->handle, self->room, deadline));
		} while (hot_goes_on(self->pool, deadline, &got));
	if (likely(burst_filled(self, &got)))
		Py_RETURN_NONE;
	return got == -EINTR ? NULL : hot_queue_fail(queue, got, true);
}

PyObject *burst_put(PyObject *object, PyObject *args)
{
	struct burst_object *self = (struct burst_object *)object;
	struct queue_object *queue;
	PyObject *of, *timeout;
	const uint64_t *handle;
	uint64_t *mine;
	int64_t n, code = -ENOBUFS, deadline;
	if (!PyArg_ParseTuple(args, "OO", &of, &timeout) || !(queue = queue_of(self, of)) ||
	    (deadline = hot_deadline(timeout)) < 0 || burst_usable(self) ||
	    (n = burst_handles(self, "put_many", &handle, &mine)) < 0)
		return NULL;
	if (n <= LOCKED_MAX || !deadline)
		code = shmpool_put_many(hot_queue_key(queue), handle, (size_t)n);
	if ((code == -ENOBUFS && deadline) || hot_stuck(code)) {
		/* Released before it waits: nobody may take a view of what is about to be somebody
		 * else's. */
		const uint32_t life = self->life;
		burst_becomes(self, HOT_MOVING);
		do {
			uint64_t key = hot_queue_key(queue);
			HOT_UNLOCKED(key, code,
				     shmpool_put_many_wait(key, handle, (size_t)n, deadline));
		} while (hot_goes_on(self->pool, deadline, &code));
		burst_becomes(self, life);
	}
	PyMem_Free(mine);
	if (likely(code >= 0)) {
		burst_spend(self);
		Py_RETURN_NONE;
	}
	return code == -EINTR ? NULL :
				PyObject_CallMethod(of, "_put_many_failed", "LL", (long long)code,
						    (long long)n);
}
