/* SPDX-License-Identifier: Apache-2.0
 *
 * bulk.c - the base of shmpool.AlfQueue: send_many, recv_many. Each payload is copied once, from
 * the object into its buffer, or from the buffer into its object.
 */
#include "payload.h"

#include "parts.h"

#define RECV_MAX 256           /* payloads of one claim */
#define RECV_BYTES (16 << 20)  /* a call that has copied so many claims no more */
#define AHEAD 8                /* payloads prefetched while one is copied */
#define FREE_BYTES (64u << 10) /* copied before buffers are freed: they are in the caches still */

void outgoing_release(struct outgoing *out)
{
	Py_ssize_t n = out->view ? PyTuple_GET_SIZE(out->items) : 0;
	for (Py_ssize_t i = 0; i < n; i++)
		PyBuffer_Release(&out->view[i]); /* a zeroed view is ignored */
	PyMem_Free(out->view);
	PyMem_Free(out->slice);
	Py_XDECREF(out->items);
}

int outgoing_open(struct outgoing *out, PyObject *payloads)
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

/* Returns how many of the payloads, from the first on, have room in a single buffer each. */
static size_t singles(const struct pool_object *pool, const struct shmpool_slice *slice, size_t n)
{
	size_t k = 0;
	while (k < n && hot_class_for(pool, slice[k].length) < pool->classes)
		k++;
	return k;
}

static size_t longest(const struct shmpool_slice *slice, size_t n)
{
	size_t most = 0;
	for (size_t i = 0; i < n; i++)
		most = slice[i].length > most ? slice[i].length : most;
	return most;
}

/* Sends the next payloads, of which some need chains if chained: how many, a code, or
 * HOT_RAISED. */
static int64_t send_next(struct hot_wait *wait, struct queue_object *self, size_t left,
			 bool chained)
{
	wait->n = unlikely(chained) ? singles(self->pool, wait->slices, left) : left;
	if (likely(wait->n))
		return hot_wait(wait, -EINPROGRESS);
	const int64_t code =
		hot_chain_send(self, wait->slices->data, wait->slices->length, hot_time_left(wait));
	return code < 0 ? code : 1;
}

PyObject *hot_send_many(PyObject *object, PyObject *const *args, Py_ssize_t n, PyObject *names)
{
	struct queue_object *self = (struct queue_object *)object;
	struct outgoing out;
	struct hot_arguments given;
	PyObject *done = NULL;
	if (hot_parse("send_many", "payloads", args, n, names, &given) ||
	    outgoing_open(&out, given.item))
		return NULL;
	const Py_ssize_t total = PyTuple_GET_SIZE(out.items);
	struct hot_wait wait = { .operation = HOT_SEND,
				 .pool = self->pool,
				 .queue = self,
				 .slices = out.slice,
				 .timeout = given.timeout };
	const size_t most = longest(out.slice, (size_t)total);
	const bool open = self->pool && self->pool->key;
	const bool chained = open && hot_class_for(self->pool, most) == self->pool->classes;
	uint32_t counts[CLASSES_MAX];
	/* Refuses all if one has no room in the whole pool. */
	int64_t code = unlikely(chained) ? shmpool_chain_plan(self->pool->key, most, 0, counts) : 0;
	Py_ssize_t sent = 0;
	while (code >= 0 && sent < total) {
		code = send_next(&wait, self, (size_t)(total - sent), chained);
		wait.slices += code > 0 ? code : 0;
		sent += code > 0 ? code : 0;
	}
	if (likely(sent == total))
		done = Py_NewRef(Py_None);
	else
		hot_queue_raise(self, code, out.items, sent);
	outgoing_release(&out);
	return done;
}

/* The handle may be corrupted. */
static inline void prefetch_payload(const struct qmempool *p, uint32_t index)
{
	if (likely(index < p->total))
		__builtin_prefetch(pool_data(p, index) + p->segment.geometry.headroom);
}

/* Stores the payloads of n buffers just taken in the list, from entry at on, and frees the buffers.
 * Returns their bytes, or -1 with an exception. */
static Py_ssize_t add_payloads(struct queue_object *self, PyObject *list, Py_ssize_t at,
			       const uint64_t *handle, Py_ssize_t n)
{
	struct lookup c;
	Py_ssize_t freed = 0, total = 0, kept = 0;
	int error = lookup_key(self->pool->key, &c);
	if (unlikely(error)) { /* another thread closed the pool, which freed the buffers */
		hot_queue_raise(self, error, NULL, 0);
		return -1;
	}
	for (Py_ssize_t i = 0; i < n; i++) {
		if (i + AHEAD < n)
			prefetch_payload(c.p, handle_index(handle[i + AHEAD]));
		PyObject *bytes = payload_bytes(c.p, handle[i]);
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

/* Reads the argument n: 1 to PY_SSIZE_T_MAX; -1 with an exception. */
static Py_ssize_t count_of(PyObject *n)
{
	PyObject *number = hot_int(n, "n");
	if (!number)
		return -1;
	Py_ssize_t most = PyNumber_AsSsize_t(number, NULL); /* clamps what is out of range */
	Py_DECREF(number);
	if (most >= 1)
		return most;
	hot_fail(-EDOM, "n is %R; it must be at least 1", n);
	return -1;
}

/* Takes up to most buffers, and waits for the first. How many, a code, or HOT_RAISED. */
static int64_t get_first(struct queue_object *self, uint64_t *handle, size_t most, double timeout)
{
	struct hot_wait wait = { .operation = HOT_GET,
				 .pool = self->pool,
				 .queue = self,
				 .handles = handle,
				 .n = most,
				 .timeout = timeout };
	return hot_wait(&wait, shmpool_get_many(hot_take_key(self), handle, most));
}

/* The most payloads that one claim takes: at most RECV_BYTES, at least one. */
static Py_ssize_t claim_most(const struct pool_object *pool)
{
	const uint64_t stride = pool->classes ? pool->sizes[pool->classes - 1].stride : 0;
	const uint64_t n = stride ? RECV_BYTES / stride : 1;
	return n > RECV_MAX ? RECV_MAX : n ? (Py_ssize_t)n : 1;
}

/* Takes at most what was in the queue at the start (at least one claim), so that it ends although
 * producers go on; and stops at RECV_BYTES, so that signal handlers and other threads run. */
PyObject *hot_recv_many(PyObject *object, PyObject *const *args, Py_ssize_t n, PyObject *names)
{
	struct queue_object *self = (struct queue_object *)object;
	uint64_t handle[RECV_MAX];
	struct hot_arguments given;
	Py_ssize_t most, done = 0, bytes = 0;
	if (hot_parse("recv_many", "n", args, n, names, &given) ||
	    (most = count_of(given.item)) < 0)
		return NULL;
	hot_recover_if_due(self->pool);
	const Py_ssize_t claim = self->pool ? claim_most(self->pool) : 1;
	const int64_t there = shmpool_queue_count(hot_queue_key(self));
	const Py_ssize_t bound = there > 0 ? (Py_ssize_t)there : claim;
	if (most > bound)
		most = bound;
	PyObject *list = PyList_New(most); /* may run Python code: before anything is taken */
	if (!list)
		return NULL;
	PyObject_GC_UnTrack(list); /* no other thread finds it before it is filled */
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
		got = shmpool_get_many(hot_take_key(self), handle,
				       (size_t)(left < claim ? left : claim));
	}
	if (likely(done && (done == most || !PyList_SetSlice(list, done, most, NULL)))) {
		PyObject_GC_Track(list);
		return list;
	}
	Py_DECREF(list);
	return done ? NULL : hot_queue_raise(self, got, NULL, 0);
}
