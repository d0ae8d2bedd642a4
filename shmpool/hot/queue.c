/* SPDX-License-Identifier: Apache-2.0
 *
 * queue.c - the base of shmpool.AlfQueue: put, get, send, recv, one at a time.
 */
#include "hot.h"
#include "wait.h"

#define RAISED INT64_MIN /* in place of an answer: the exception is set */
#define COPY_UNLOCKED                                                                              \
	16384u /* bytes of a payload from which its copying is worth a release of the lock */

static PyObject *queue_hot_open(PyObject *object, PyObject *args)
{
	struct queue_object *self = (struct queue_object *)object;
	PyObject *pool, *empty;
	unsigned int number;
	if (!PyArg_ParseTuple(args, "O!IU", hot_pool_type, &pool, &number, &empty))
		return NULL;
	Py_XSETREF(self->empty, Py_NewRef(empty));
	Py_XSETREF(self->pool, (struct pool_object *)Py_NewRef(pool));
	self->key = self->pool->key | (uint64_t)number << 48;
	Py_RETURN_NONE;
}

static PyObject *queue_hot_close(PyObject *object, PyObject *unused)
{
	(void)unused;
	((struct queue_object *)object)->key = 0;
	Py_RETURN_NONE;
}

static void queue_dealloc(PyObject *object)
{
	PyTypeObject *type = Py_TYPE(object);
	Py_XDECREF(((struct queue_object *)object)->pool);
	Py_XDECREF(((struct queue_object *)object)->empty);
	type->tp_free(object);
	Py_DECREF(type);
}

static PyObject *queue_put_any(PyObject *object, PyObject *item, PyObject *timeout)
{
	struct queue_object *self = (struct queue_object *)object;
	struct buffer_object *buffer = (struct buffer_object *)item;
	if (unlikely(!Py_IS_TYPE(item, hot_buffer_type)))
		return PyErr_Format(PyExc_TypeError, "put() takes a shmpool.Buffer, not %.100s",
				    Py_TYPE(item)->tp_name);
	if (unlikely(hot_buffer_movable(buffer, "put")))
		return NULL;
	if (unlikely(buffer->pool->key != (self->key & ~(0x3ffull << 48))))
		return PyObject_CallMethod(object, "_put_foreign", "O", item);
	int64_t code = shmpool_put(hot_queue_key(self) | (uint32_t)buffer->key);
	if (likely(!code)) {
		hot_buffer_spend(buffer);
		Py_RETURN_NONE;
	}
	/* Spent while it waits: nobody may take a view of what is about to be somebody else's. */
	uint32_t life = buffer->life;
	hot_buffer_spend(buffer);
	PyObject *done = PyObject_CallMethod(object, "_put_slow", "LKO", (long long)code,
					     (unsigned long long)(uint32_t)buffer->key, timeout);
	if (!done)
		buffer->life = life;
	return done;
}

static PyObject *queue_put_method(PyObject *object, PyObject *const *args, Py_ssize_t n,
				  PyObject *names)
{
	struct hot_arguments given;
	return hot_parse("put", "buf", args, n, names, &given) ?
		       NULL :
		       queue_put_any(object, given.item, given.timeout);
}

static PyObject *queue_put_nowait(PyObject *object, PyObject *item)
{
	return queue_put_any(object, item, Py_False);
}

int64_t hot_deadline(PyObject *timeout)
{
	double seconds = -1;
	if (timeout == Py_None)
		return WAIT_FOREVER;
	if (timeout == Py_False)
		return 0;
	if (PyFloat_CheckExact(timeout))
		seconds = PyFloat_AS_DOUBLE(timeout);
	else if (PyLong_CheckExact(timeout))
		seconds = PyLong_AsDouble(timeout);
	PyErr_Clear(); /* an integer beyond any double */
	if (!(seconds >= 0 && seconds < 4294967296.))
		return -1;
	return seconds == 0 ? 0 : wait_now() + (int64_t)(seconds * 1e9);
}

/* A get that does not wait, to be repeated without the interpreter's lock: a producer may have died in the middle
 * of a put. */
static int64_t queue_get_stuck(const struct queue_object *self)
{
	uint64_t key = hot_queue_key(self);
	int64_t answer;
	Py_BEGIN_ALLOW_THREADS answer = shmpool_get_wait(key, 0);
	Py_END_ALLOW_THREADS return answer;
}

static int64_t queue_get_once(const struct queue_object *self)
{
	int64_t answer = shmpool_get(hot_queue_key(self));
	return likely(answer != -EINPROGRESS) ? answer : queue_get_stuck(self);
}

/* After -EAGAIN: the queue's answer, waited for without the interpreter's lock; RAISED; or a code, for Python. */
static int64_t queue_wait(struct queue_object *self, PyObject *timeout)
{
	int64_t answer = -EAGAIN, deadline = hot_deadline(timeout);
	if (deadline < 0)
		return answer;
	while (deadline) {
		uint64_t key = hot_queue_key(self);
		Py_BEGIN_ALLOW_THREADS answer = shmpool_get_wait(key, deadline);
		Py_END_ALLOW_THREADS if (answer != -EINTR) break;
		if (!hot_goes_on(answer))
			return RAISED;
	}
	if (answer != -EAGAIN)
		return answer;
	PyErr_SetObject(hot_empty_error, self->empty);
	return RAISED;
}

static PyObject *queue_get_any(PyObject *object, PyObject *timeout)
{
	struct queue_object *self = (struct queue_object *)object;
	int64_t answer = queue_get_once(self);
	if (answer == -EAGAIN)
		answer = queue_wait(self, timeout);
	if (likely(answer >= 0))
		return hot_buffer(self->pool, answer);
	if (answer == RAISED)
		return NULL;
	return PyObject_CallMethod(object, "_get_slow", "LO", (long long)answer, timeout);
}

static PyObject *queue_get_method(PyObject *object, PyObject *const *args, Py_ssize_t n,
				  PyObject *names)
{
	struct hot_arguments given;
	return hot_parse("get", NULL, args, n, names, &given) ?
		       NULL :
		       queue_get_any(object, given.timeout);
}

static PyObject *queue_get_nowait(PyObject *object, PyObject *unused)
{
	(void)unused;
	return queue_get_any(object, Py_False);
}

/* Waits, without the interpreter's lock, for a buffer and for room. 0, a code, or RAISED. */
static int64_t queue_send_wait(struct queue_object *self, const char *data, size_t length,
			       int64_t deadline)
{
	const struct shmpool_slice slice = { data, length };
	int64_t code;
	do {
		uint64_t key = hot_queue_key(self);
		Py_BEGIN_ALLOW_THREADS code = shmpool_send_many_wait(key, &slice, 1, deadline);
		Py_END_ALLOW_THREADS
	} while (hot_goes_on(code));
	return code > 0 ? 0 : code == -EINTR ? RAISED : code;
}

/* *timeout becomes False where the waiting is over. */
static int64_t queue_send_bytes(struct queue_object *self, const char *data, size_t length,
				PyObject **timeout)
{
	int64_t code = -EAGAIN;
	if (likely(length < COPY_UNLOCKED)) {
		code = shmpool_send(hot_queue_key(self), data, length);
		if (likely(code != -EAGAIN && code != -ENOBUFS && code != -EBUSY &&
			   code != -EINPROGRESS))
			return code;
	}
	int64_t deadline = hot_deadline(*timeout);
	if (deadline < 0 ||
	    (deadline == 0 && length < COPY_UNLOCKED && (code == -EAGAIN || code == -ENOBUFS)))
		return code;
	*timeout = Py_False;
	return queue_send_wait(self, data, length, deadline);
}

static PyObject *queue_send(PyObject *object, PyObject *const *args, Py_ssize_t n, PyObject *names)
{
	struct queue_object *self = (struct queue_object *)object;
	struct hot_arguments given;
	Py_buffer from;
	int64_t code;
	if (hot_parse("send", "payload", args, n, names, &given))
		return NULL;
	if (likely(PyBytes_CheckExact(given.item))) {
		code = queue_send_bytes(self, PyBytes_AS_STRING(given.item),
					(size_t)PyBytes_GET_SIZE(given.item), &given.timeout);
	} else {
		if (PyObject_GetBuffer(given.item, &from, PyBUF_SIMPLE))
			return NULL;
		code = queue_send_bytes(self, from.buf, (size_t)from.len, &given.timeout);
		PyBuffer_Release(&from);
	}
	if (likely(!code))
		Py_RETURN_NONE;
	if (code == RAISED)
		return NULL;
	return PyObject_CallMethod(object, "_send_slow", "LOO", (long long)code, given.item,
				   given.timeout);
}

/* The payload of an answer, whose buffer is freed. */
static PyObject *queue_payload(struct pool_object *pool, int64_t answer)
{
	uint32_t index = answer & ALF_INDEX_MASK;
	const struct qmempool *p = local_pool(key_pool(pool->key));
	if (unlikely(!p))
		return hot_fail(-EBADF, "recv");
	PyObject *bytes = hot_payload(pool, qmempool_buffer(p, index), index);
	shmpool_free(pool->key | (uint32_t)answer);
	return bytes;
}

/* The oldest payload, whose buffer is freed, or NULL without an exception and a code for Python. One look-up of
 * pool and member for both. */
static PyObject *queue_take(struct queue_object *self, int64_t *code)
{
	struct call c;
	uint64_t handle;
	int got = open_queue(hot_queue_key(self), &c);
	if (likely(!got))
		got = get_once(&c, &handle, 1);
	*code = got;
	if (unlikely(got == -EINPROGRESS)) {
		*code = queue_get_stuck(self);
		return *code >= 0 ? queue_payload(self->pool, *code) : NULL;
	}
	if (unlikely(got <= 0))
		return NULL;
	uint32_t index = handle_index(handle);
	held_since(&c, handle, wait_coarse()); /* in case it is stopped in here */
	PyObject *bytes = hot_payload(self->pool, qmempool_buffer(c.p, index), index);
	qmempool_free(c.p, c.m, handle);
	return bytes;
}

static PyObject *queue_recv(PyObject *object, PyObject *const *args, Py_ssize_t n, PyObject *names)
{
	struct queue_object *self = (struct queue_object *)object;
	struct hot_arguments given;
	PyObject *bytes;
	int64_t answer;
	if (hot_parse("recv", NULL, args, n, names, &given))
		return NULL;
	bytes = queue_take(self, &answer);
	if (likely(bytes))
		return bytes;
	if (answer > 0)
		return NULL; /* no memory for it */
	if (answer == -EAGAIN)
		answer = queue_wait(self, given.timeout);
	if (likely(answer >= 0))
		return queue_payload(self->pool, answer);
	if (answer == RAISED)
		return NULL;
	return PyObject_CallMethod(object, "_recv_slow", "LO", (long long)answer, given.timeout);
}

static PyObject *queue_try_get(PyObject *object, PyObject *unused)
{
	struct queue_object *self = (struct queue_object *)object;
	int64_t answer = queue_get_once(self);
	(void)unused;
	if (answer >= 0)
		return hot_buffer(self->pool, answer);
	if (answer == -EAGAIN)
		Py_RETURN_NONE;
	return PyObject_CallMethod(object, "_get_slow", "LO", (long long)answer, Py_False);
}

static PyObject *queue_try_recv(PyObject *object, PyObject *unused)
{
	struct queue_object *self = (struct queue_object *)object;
	int64_t code;
	PyObject *bytes = queue_take(self, &code);
	(void)unused;
	if (bytes || code > 0)
		return bytes;
	if (code == -EAGAIN)
		Py_RETURN_NONE;
	return PyObject_CallMethod(object, "_recv_slow", "LO", (long long)code, Py_False);
}

static Py_ssize_t queue_len(PyObject *object)
{
	int64_t count = shmpool_queue_count(hot_queue_key((struct queue_object *)object));
	if (count < 0)
		Py_XDECREF(hot_fail(count, "len"));
	return count < 0 ? -1 : (Py_ssize_t)count;
}

static PyObject *queue_empty(PyObject *object, PyObject *unused)
{
	(void)unused;
	int64_t nothing = shmpool_queue_empty(hot_queue_key((struct queue_object *)object));
	return nothing < 0 ? hot_fail(nothing, "empty") : PyBool_FromLong(nothing);
}

static int queue_true(PyObject *object)
{
	(void)object;
	return 1; /* an empty queue is still a queue */
}

static PyMethodDef queue_methods[] = {
	{ "_hot_open", queue_hot_open, METH_VARARGS, NULL },
	{ "_hot_close", queue_hot_close, METH_NOARGS, NULL },
	{ "empty", queue_empty, METH_NOARGS,
	  "empty($self)\n--\n\nWhether a get would find nothing just now." },
	{ "put", HOT_FAST(queue_put_method),
	  "put($self, buf, timeout=None)\n--\n\nMoves a Buffer into the queue; buf is "
	  "spent.\n\nWaits "
	  "up to timeout seconds for room (None for ever, 0 not at all), then Full." },
	{ "put_nowait", queue_put_nowait, METH_O,
	  "put_nowait($self, buf, /)\n--\n\nput(buf, timeout=0)." },
	{ "get", HOT_FAST(queue_get_method),
	  "get($self, timeout=None)\n--\n\nThe oldest Buffer in the queue.\n\nWaits up to timeout "
	  "seconds for one (None for ever, 0 not at all), then Empty." },
	{ "get_nowait", queue_get_nowait, METH_NOARGS, "get_nowait($self)\n--\n\nget(timeout=0)." },
	{ "send", HOT_FAST(queue_send),
	  "send($self, payload, timeout=None)\n--\n\nCopies a bytes-like object into a new buffer "
	  "and "
	  "puts it.\n\nWaits up to timeout seconds for a buffer and for room, then PoolExhausted "
	  "or\n"
	  "Full. PayloadTooLarge if it does not fit into a buffer." },
	{ "recv", HOT_FAST(queue_recv),
	  "recv($self, timeout=None)\n--\n\nThe oldest payload in the queue, as bytes; its buffer "
	  "is "
	  "freed.\n\nWaits up to timeout seconds for one (None for ever, 0 not at all), then "
	  "Empty." },
	{ "try_get", queue_try_get, METH_NOARGS,
	  "try_get($self)\n--\n\nThe oldest Buffer in the queue, or None: for loops that poll." },
	{ "try_recv", queue_try_recv, METH_NOARGS,
	  "try_recv($self)\n--\n\nThe oldest payload in the queue as bytes, or None." },
	{ "send_many", HOT_FAST(hot_send_many),
	  "send_many($self, payloads, timeout=None)\n--\n\nsend() for each of the payloads, in "
	  "order, in bulks of up to 256 or 256 KiB.\n\nFull or PoolExhausted if not all could go "
	  "within timeout seconds; sent says how many did." },
	{ "recv_many", HOT_FAST(hot_recv_many),
	  "recv_many($self, n, timeout=None)\n--\n\nThe 1..n oldest payloads as bytes; Empty if "
	  "there is none within timeout seconds." },
	{ NULL, NULL, 0, NULL },
};

static PyType_Slot queue_slots[] = {
	{ Py_tp_methods, queue_methods },
	{ Py_tp_dealloc, queue_dealloc },
	{ Py_sq_length, queue_len },
	{ Py_nb_bool, queue_true },
	{ 0, NULL },
};

PyType_Spec hot_queue_spec = { "shmpool._hot.QueueBase", sizeof(struct queue_object), 0,
			       Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, queue_slots };
