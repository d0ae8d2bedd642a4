/* SPDX-License-Identifier: Apache-2.0
 *
 * payload.c - the base of shmpool.AlfQueue: send and recv, one payload at a time.
 */
#include "payload.h"

/* Bytes of a payload from which its copying is worth a release of the interpreter's lock. */
#define COPY_UNLOCKED 16384u

/* Waits, without the interpreter's lock, for a buffer and for room. 0, a code, or HOT_RAISED. */
static int64_t send_wait(struct queue_object *self, const char *data, size_t length,
			 int64_t deadline)
{
	const struct shmpool_slice slice = { data, length };
	int64_t code;
	do {
		uint64_t key = hot_queue_key(self);
		HOT_UNLOCKED(key, code, shmpool_send_many_wait(key, &slice, 1, deadline));
	} while (hot_goes_on(self->pool, deadline, &code));
	return code > 0 ? 0 : code == -EINTR ? HOT_RAISED : code;
}

static int64_t send_bytes(struct queue_object *self, const char *data, size_t length,
			  PyObject *timeout)
{
	int64_t code = -EAGAIN;
	if (likely(length < COPY_UNLOCKED)) {
		code = shmpool_send(hot_queue_key(self), data, length);
		if (likely(code != -EAGAIN && code != -ENOBUFS && !hot_stuck(code)))
			return code;
	}
	int64_t deadline = hot_deadline(timeout);
	if (deadline < 0)
		return HOT_RAISED;
	return code == -ENOBUFS && deadline == 0 ? code : send_wait(self, data, length, deadline);
}

PyObject *hot_send(PyObject *object, PyObject *const *args, Py_ssize_t n, PyObject *names)
{
	struct queue_object *self = (struct queue_object *)object;
	struct hot_arguments given;
	Py_buffer from;
	int64_t code;
	if (hot_parse("send", "payload", args, n, names, &given))
		return NULL;
	if (likely(PyBytes_CheckExact(given.item))) {
		code = send_bytes(self, PyBytes_AS_STRING(given.item),
				  (size_t)PyBytes_GET_SIZE(given.item), given.timeout);
	} else {
		if (PyObject_GetBuffer(given.item, &from, PyBUF_SIMPLE))
			return NULL;
		code = send_bytes(self, from.buf, (size_t)from.len, given.timeout);
		PyBuffer_Release(&from);
	}
	if (likely(!code))
		Py_RETURN_NONE;
	if (code == HOT_RAISED)
		return NULL;
	return PyObject_CallMethod(object, "_send_failed", "LO", (long long)code, given.item);
}

/* The payload of a buffer that was waited for, which is freed. */
static PyObject *recv_taken(struct queue_object *self, const struct shmpool_taken *taken)
{
	struct call c;
	int error = open_key(self->pool->key, &c);
	if (unlikely(error))
		return hot_fail(error, "recv");
	PyObject *bytes = payload_bytes(c.p, taken->handle, taken->extent);
	qmempool_free(c.p, c.m, taken->handle);
	return bytes;
}

/* The oldest payload, whose buffer is freed, or NULL: without an exception where *code is negative.
 * One look-up of pool and member for both. */
static PyObject *recv_once(struct queue_object *self, int64_t *code)
{
	struct call c;
	uint64_t handle;
	int got = open_queue(hot_queue_key(self), &c);
	if (likely(!got))
		got = call_get(&c, &handle, 1);
	*code = got;
	if (hot_stuck(got)) {
		struct shmpool_taken taken;
		*code = hot_get_again(self, &taken);
		return *code > 0 ? recv_taken(self, &taken) : NULL;
	}
	if (unlikely(got <= 0))
		return NULL;
	held_since(&c, handle, wait_coarse()); /* in case it is stopped in here */
	PyObject *bytes = payload_bytes(c.p, handle, extent_of(c.p, handle));
	qmempool_free(c.p, c.m, handle);
	return bytes;
}

PyObject *hot_recv(PyObject *object, PyObject *const *args, Py_ssize_t n, PyObject *names)
{
	struct queue_object *self = (struct queue_object *)object;
	struct hot_arguments given;
	struct shmpool_taken taken;
	PyObject *bytes;
	int64_t got;
	if (hot_parse("recv", NULL, args, n, names, &given))
		return NULL;
	hot_tend(self->pool);
	bytes = recv_once(self, &got);
	if (likely(bytes || got > 0))
		return bytes;
	if (got == -EAGAIN)
		got = hot_get_wait(self, given.timeout, &taken);
	if (likely(got > 0))
		return recv_taken(self, &taken);
	return got == HOT_RAISED ? NULL : hot_queue_fail(self, got, true);
}

PyObject *hot_try_recv(PyObject *object, PyObject *unused)
{
	struct queue_object *self = (struct queue_object *)object;
	int64_t got;
	(void)unused;
	hot_tend(self->pool);
	PyObject *bytes = recv_once(self, &got);
	if (bytes || got > 0)
		return bytes;
	if (got == -EAGAIN)
		Py_RETURN_NONE;
	return hot_queue_fail(self, got, true);
}
