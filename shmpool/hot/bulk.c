/* SPDX-License-Identifier: Apache-2.0
 *
 * bulk.c - the base of shmpool.AlfQueue: send_many, recv_many. Each payload is copied once, from the
 * object into its buffer, or from the buffer into its object.
 */
#include "hot.h"

#define RECV_MAX 256 /* payloads of one claim */
#define AHEAD 8      /* payloads whose lines are on their way while one is copied */
#define FREE_BYTES                                                                                 \
	(64u << 10) /* copied out before their buffers are freed: warm for the producers */

/* hot_deadline(), with Python's help: -1 with an exception. */
static int64_t deadline_of(PyObject *object, PyObject *timeout)
{
	int64_t deadline = hot_deadline(timeout);
	if (likely(deadline >= 0))
		return deadline;
	PyObject *said = PyObject_CallMethod(object, "_until", "O", timeout);
	deadline = said ? PyLong_AsLongLong(said) : -1;
	Py_XDECREF(said);
	return deadline;
}

/* Payloads that are being sent, and what keeps their bytes where they are. */
struct outgoing {
	PyObject *items; /* a tuple */
	struct shmpool_slice *slice;
	Py_buffer *view; /* of what is not bytes, if anything */
};

static void outgoing_release(struct outgoing *out)
{
	Py_ssize_t n = out->view ? PyTuple_GET_SIZE(out->items) : 0;
	for (Py_ssize_t i = 0; i < n; i++)
		PyBuffer_Release(&out->view[i]); /* nothing where none was got */
	PyMem_Free(out->view);
	PyMem_Free(out->slice);
	Py_XDECREF(out->items);
}

/* 0, or -1 with an exception. */
static int outgoing_open(struct outgoing *out, PyObject *payloads)
{
	*out = (struct outgoing) { .items = PySequence_Tuple(payloads) };
	if (!out->items)
		return -1;
	size_t n = (size_t)PyTuple_GET_SIZE(out->items);
	out->slice = PyMem_New(struct shmpool_slice, n);
	if (!out->slice)
		goto undo;
	for (size_t i = 0; i < n; i++) {
		PyObject *item = PyTuple_GET_ITEM(out->items, i);
		if (likely(PyBytes_CheckExact(item))) {
			out->slice[i] = (struct shmpool_slice) { PyBytes_AS_STRING(item),
								 (size_t)PyBytes_GET_SIZE(item) };
			continue;
		}
		if (!out->view && !(out->view = PyMem_Calloc(n, sizeof(*out->view))))
			goto undo;
		if (PyObject_GetBuffer(item, &out->view[i], PyBUF_SIMPLE)) {
			outgoing_release(out);
			return -1;
		}
		out->slice[i] =
			(struct shmpool_slice) { out->view[i].buf, (size_t)out->view[i].len };
	}
	return 0;
undo:
	outgoing_release(out);
	PyErr_NoMemory();
	return -1;
}

PyObject *hot_send_many(PyObject *object, PyObject *const *args, Py_ssize_t n, PyObject *names)
{
	struct outgoing out;
	struct hot_arguments given;
	PyObject *done = NULL;
	int64_t deadline, code = 0;
	size_t sent = 0;
	if (hot_parse("send_many", "payloads", args, n, names, &given) ||
	    (deadline = deadline_of(object, given.timeout)) < 0 || outgoing_open(&out, given.item))
		return NULL;
	size_t total = (size_t)PyTuple_GET_SIZE(out.items);
	while (sent < total && (code >= 0 || hot_goes_on(code))) {
		uint64_t key = hot_queue_key((struct queue_object *)object);
		Py_BEGIN_ALLOW_THREADS code =
			shmpool_send_many_wait(key, out.slice + sent, total - sent, deadline);
		Py_END_ALLOW_THREADS sent += code > 0 ? (size_t)code : 0;
	}
	if (likely(sent == total))
		done = Py_NewRef(Py_None);
	else if (!PyErr_Occurred())
		done = PyObject_CallMethod(object, "_send_many_failed", "LnO", (long long)code,
					   (Py_ssize_t)sent, out.items);
	outgoing_release(&out);
	return done;
}

/* The payloads of buffers just got, which are freed. */
static PyObject *payloads_of(const struct queue_object *self, const uint64_t *handle, Py_ssize_t n)
{
	const struct pool_object *pool = self->pool;
	PyObject *list = PyList_New(n); /* before p: a collection might close the pool */
	const struct qmempool *p = local_pool(key_pool(pool->key));
	Py_ssize_t freed = 0;
	size_t copied = 0;
	if (unlikely(!p)) {
		Py_XDECREF(list);
		return hot_fail(-EBADF, "recv_many");
	}
	for (Py_ssize_t i = 0; list && i < n; i++) {
		if (i + AHEAD < n)
			__builtin_prefetch(pool->data +
					   handle_index(handle[i + AHEAD]) * pool->stride +
					   pool->headroom);
		uint32_t index = handle_index(handle[i]);
		PyObject *bytes = hot_payload(pool, qmempool_buffer(p, index), index);
		if (unlikely(!bytes)) {
			Py_CLEAR(list);
			break;
		}
		PyList_SET_ITEM(list, i, bytes);
		copied += (size_t)PyBytes_GET_SIZE(bytes);
		if (copied >= FREE_BYTES) {
			shmpool_free_many(pool->key, handle + freed, (size_t)(i + 1 - freed));
			freed = i + 1;
			copied = 0;
		}
	}
	shmpool_free_many(pool->key, handle + freed, (size_t)(n - freed));
	return list;
}

/* How many, 1 to PY_SSIZE_T_MAX; -1 with an exception. */
static Py_ssize_t count_of(PyObject *n)
{
	if (!PyLong_Check(n)) {
		PyErr_Format(PyExc_TypeError, "n is %R; it is an int", n);
		return -1;
	}
	int beyond;
	long long most = PyLong_AsLongLongAndOverflow(n, &beyond);
	if (beyond > 0)
		return PY_SSIZE_T_MAX;
	if (most >= 1)
		return most;
	hot_fail(-EDOM, "n is %R; it is at least 1", n);
	return -1;
}

static inline size_t claim_of(Py_ssize_t n)
{
	return n < RECV_MAX ? (size_t)n : RECV_MAX;
}

PyObject *hot_recv_many(PyObject *object, PyObject *const *args, Py_ssize_t n, PyObject *names)
{
	struct queue_object *self = (struct queue_object *)object;
	uint64_t handle[RECV_MAX];
	struct hot_arguments given;
	PyObject *list, *more;
	Py_ssize_t most;
	int64_t got, deadline;
	if (hot_parse("recv_many", "n", args, n, names, &given) ||
	    (most = count_of(given.item)) < 0)
		return NULL;
	got = shmpool_get_many(hot_queue_key(self), handle, claim_of(most));
	if (got == -EAGAIN || got == -EINPROGRESS) {
		bool once = got == -EINPROGRESS;
		if ((deadline = deadline_of(object, given.timeout)) < 0)
			return NULL;
		while (deadline || once) {
			once = false;
			uint64_t key = hot_queue_key(self);
			Py_BEGIN_ALLOW_THREADS got =
				shmpool_get_many_wait(key, handle, claim_of(most), deadline);
			Py_END_ALLOW_THREADS if (got != -EINTR) break;
			if (!hot_goes_on(got))
				return NULL;
		}
	}
	if (got < 0)
		return PyObject_CallMethod(object, "_recv_many_failed", "L", (long long)got);
	list = payloads_of(self, handle, got);
	while (list && PyList_GET_SIZE(list) < most) {
		got = shmpool_get_many(hot_queue_key(self), handle,
				       claim_of(most - PyList_GET_SIZE(list)));
		if (got <= 0)
			break;
		more = payloads_of(self, handle, got);
		if (!more ||
		    PyList_SetSlice(list, PyList_GET_SIZE(list), PyList_GET_SIZE(list), more))
			Py_CLEAR(list);
		Py_XDECREF(more);
	}
	return list;
}
