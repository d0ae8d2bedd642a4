/* SPDX-License-Identifier: Apache-2.0
 *
 * payload.c - the base of shmpool.AlfQueue: send and recv, one payload at a time.
 */
#include "payload.h"

#include "parts.h"

/* Payloads of so many bytes are copied without the interpreter's lock: then copying takes longer
 * than releasing the lock does. */
#define COPY_UNLOCKED 16384u

static int64_t send_bytes(struct queue_object *self, const char *data, size_t length,
			  double timeout)
{
	const struct shmpool_slice slice = { data, length };
	int64_t code = -EINPROGRESS;
	if (likely(length < COPY_UNLOCKED)) {
		code = shmpool_send(hot_queue_key(self), data, length);
		if (likely(!code))
			return code;
	}
	struct hot_wait wait = { .operation = HOT_SEND,
				 .pool = self->pool,
				 .queue = self,
				 .slices = &slice,
				 .n = 1,
				 .timeout = timeout };
	code = hot_wait(&wait, code);
	if (unlikely(code == -EMSGSIZE))
		code = hot_chain_send(self, data, length, timeout);
	return code > 0 ? 0 : code;
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
	return hot_queue_raise(self, code, given.item, 0);
}

/* Takes the oldest payload and frees its buffer. NULL with *code if the queue is empty or the call
 * failed; NULL with an exception and *code = HOT_RAISED without memory. */
static PyObject *recv_bytes(struct queue_object *self, double timeout, int64_t *code)
{
	struct lookup c;
	uint64_t handle;
	*code = hot_get_handle(self, timeout, &c, &handle);
	if (unlikely(*code <= 0))
		return NULL;
	PyObject *bytes = payload_bytes(c.p, handle);
	qmempool_free(c.p, c.m, handle);
	if (unlikely(!bytes))
		*code = HOT_RAISED;
	return bytes;
}

PyObject *hot_recv(PyObject *object, PyObject *const *args, Py_ssize_t n, PyObject *names)
{
	struct hot_arguments given;
	int64_t code;
	if (hot_parse("recv", NULL, args, n, names, &given))
		return NULL;
	PyObject *bytes = recv_bytes((struct queue_object *)object, given.timeout, &code);
	return likely(bytes) ? bytes :
			       hot_queue_raise((struct queue_object *)object, code, NULL, 0);
}

PyObject *hot_try_recv(PyObject *object, PyObject *Py_UNUSED(unused))
{
	int64_t code;
	PyObject *bytes = recv_bytes((struct queue_object *)object, 0, &code);
	if (likely(bytes))
		return bytes;
	if (code == -EAGAIN)
		Py_RETURN_NONE;
	return hot_queue_raise((struct queue_object *)object, code, NULL, 0);
}
