/* SPDX-License-Identifier: Apache-2.0
 *
 * bulk.c - the base of shmpool.AlfQueue: send_many, recv_many. Each payload is copied once, from
 * the object into its buffer, or from the buffer into its object.
 */
#include "payload.h"

#define RECV_MAX 256          /* payloads of one claim */
#define RECV_BYTES (16 << 20) /* of one call, after which it claims no more */
#define AHEAD 8               /* payloads whose lines are on their way while one is copied */
/* Copied out before their buffers are freed, still warm for the producers. */
#define FREE_BYTES (64u << 10)

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
	    (deadline = hot_deadline(given.timeout)) < 0 || outgoing_open(&out, given.item))
		return NULL;
	size_t total = (size_t)PyTuple_GET_SIZE(out.items);
	struct pool_object *pool = ((struct queue_object *)object)->pool;
	while (sent < total && (code >= 0 || hot_goes_on(pool, deadline, &code))) {
		uint64_t key = hot_queue_key((struct queue_object *)object);
		HOT_UNLOCKED(key, code,
			     shmpool_send_many_wait(key, out.slice + sent, total - sent, deadline));
		sent += code > 0 ? (size_t)code : 0;
	}
	if (likely(sent == total))
		done = Py_NewRef(Py_None);
	else if (!PyErr_Occurred())
		done = PyObject_CallMethod(object, "_send_many_failed", "LnO", (long long)code,
					   (Py_ssize_t)sent, out.items);
	outgoing_release(&out);
	return done;
}

/* Puts the payloads of n buffers just got into the list from its entry at on, and frees the
 * buffers. How many bytes, or -1 with an exception. */
static Py_ssize_t add_payloads(struct queue_object *self, PyObject *list, Py_ssize_t at,
			       const uint64_t *handle, Py_ssize_t n)
{
	struct call c;
	Py_ssize_t freed = 0, total = 0, kept = 0;
	int error = open_key(self->pool->key, &c);
	if (unlikely(error)) { /* closed meanwhile: they were given back */
		hot_fail(error, "recv_many");
		return -1;
	}
	for (Py_ssize_t i = 0; i < n; i++) {
		if (i + AHEAD < n)
			__builtin_prefetch(
				segment_data(&c.p->segment, handle_index(handle[i + AHEAD])) +
				c.p->segment.geometry.headroom);
		PyObject *bytes = payload_bytes(c.p, handle[i], extent_of(c.p, handle[i]));
		if (unlikely(!bytes)) {
			total = -1;
			break;
		}
		PyList_SET_ITEM(list, at + i, bytes);
		total += PyBytes_GET_SIZE(bytes);
		if (total - kept >= FREE_BYTES) {
			qmempool_free_bulk(c.p, c.m, handle + freed, (uint32_t)(i + 1 - freed));
			freed = i + 1;
			kept = total;
		}
	}
	qmempool_free_bulk(c.p, c.m, handle + freed, (uint32_t)(n - freed));
	return total;
}

/* How many, 1 to PY_SSIZE_T_MAX; -1 with an exception. */
static Py_ssize_t count_of(PyObject *n)
{
	PyObject *number = hot_int(n, "n");
	if (!number)
		return -1;
	Py_ssize_t most = PyNumber_AsSsize_t(number, NULL); /* the nearest, if it is beyond */
	Py_DECREF(number);
	if (most >= 1)
		return most;
	hot_fail(-EDOM, "n is %R; it must be at least 1", n);
	return -1;
}

/* Up to most handles, at once if there are some, else waited for: how many, a code, or HOT_RAISED.
 *  */
static int64_t get_first(struct queue_object *self, uint64_t *handle, size_t most,
			 PyObject *timeout)
{
	int64_t deadline, got = shmpool_get_many(hot_queue_key(self), handle, most);
	if (likely(got != -EAGAIN && !hot_stuck(got)))
		return got;
	if ((deadline = hot_deadline(timeout)) < 0)
		return HOT_RAISED;
	while (deadline || hot_stuck(got)) {
		uint64_t key = hot_queue_key(self);
		HOT_UNLOCKED(key, got, shmpool_get_many_wait(key, handle, most, deadline));
		if (!hot_goes_on(self->pool, deadline, &got))
			break;
	}
	return got == -EINTR ? HOT_RAISED : got;
}

/* The most payloads of one claim: RECV_BYTES of them at most, but one. */
static Py_ssize_t claim_most(const struct pool_object *pool)
{
	uint64_t n = pool->stride ? RECV_BYTES / pool->stride : 1;
	return n > RECV_MAX ? RECV_MAX : n ? (Py_ssize_t)n : 1;
}

/* Takes no more than was there when it was called, or than its first claim, so that producers who
 * keep up do not keep it; nor more than RECV_BYTES and a claim, so that signals and other threads
 * get in. */
PyObject *hot_recv_many(PyObject *object, PyObject *const *args, Py_ssize_t n, PyObject *names)
{
	struct queue_object *self = (struct queue_object *)object;
	uint64_t handle[RECV_MAX];
	struct hot_arguments given;
	Py_ssize_t most, done = 0, bytes = 0;
	if (hot_parse("recv_many", "n", args, n, names, &given) ||
	    (most = count_of(given.item)) < 0)
		return NULL;
	hot_tend(self->pool);
	const Py_ssize_t claim = self->pool ? claim_most(self->pool) : 1;
	const int64_t there = shmpool_queue_count(hot_queue_key(self));
	const Py_ssize_t bound = there > 0 ? (Py_ssize_t)there : claim;
	if (most > bound)
		most = bound;
	PyObject *list = PyList_New(most); /* before anything is taken: it may run Python code */
	if (!list)
		return NULL;
	int64_t got = get_first(self, handle, (size_t)(most < claim ? most : claim), given.timeout);
	while (got > 0) {
		Py_ssize_t added = add_payloads(self, list, done, handle, got);
		if (added < 0) {
			Py_DECREF(list);
			return NULL;
		}
		done += got;
		bytes += added;
		if (done == most || bytes >= RECV_BYTES)
			break;
		Py_ssize_t left = most - done;
		got = shmpool_get_many(hot_queue_key(self), handle,
				       (size_t)(left < claim ? left : claim));
	}
	if (likely(done && (done == most || !PyList_SetSlice(list, done, most, NULL))))
		return list;
	Py_DECREF(list);
	return done || got == HOT_RAISED ? NULL : hot_queue_fail(self, got, true);
}
