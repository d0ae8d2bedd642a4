/* SPDX-License-Identifier: Apache-2.0
 *
 * queue.c - the base of shmpool.AlfQueue: put and get, one at a time.
 */
#include "hot.h"

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

static int queue_traverse(PyObject *object, visitproc visit, void *arg)
{
	Py_VISIT(Py_TYPE(object));
	Py_VISIT(((struct queue_object *)object)->pool); /* no tp_clear: the pool's dict has one */
	return 0;
}

static void queue_dealloc(PyObject *object)
{
	PyTypeObject *type = Py_TYPE(object);
	PyObject_GC_UnTrack(object);
	Py_XDECREF(((struct queue_object *)object)->pool);
	Py_XDECREF(((struct queue_object *)object)->empty);
	type->tp_free(object);
	Py_DECREF(type);
}

PyObject *hot_queue_fail(struct queue_object *self, int64_t code, bool empty)
{
	return PyObject_CallMethod((PyObject *)self, "_fail", "LO", (long long)code,
				   empty ? Py_True : Py_False);
}

static inline int put_once(const struct queue_object *self, const uint64_t *handle)
{
	struct call c;
	int error = open_queue(hot_queue_key(self), &c);
	return likely(!error) ? call_put(&c, handle, 1) : error;
}

/* After -ENOBUFS, or where it is stuck: waits for room. Meanwhile the buffer is released: nobody
 * may take a view of what is about to be somebody else's. 0, a code, or HOT_RAISED. */
static int64_t put_wait(struct queue_object *self, struct buffer_object *buffer, PyObject *timeout,
			int64_t code)
{
	const uint64_t handle = buffer->handle;
	int64_t deadline = hot_deadline(timeout);
	if (deadline < 0 || hot_buffer_movable(buffer, "put")) /* still: Python code may have run */
		return HOT_RAISED;
	if (deadline == 0 && !hot_stuck(code))
		return code;
	const uint32_t life = buffer->life;
	buffer->life = HOT_MOVING;
	do {
		uint64_t key = hot_queue_key(self);
		HOT_UNLOCKED(key, code, shmpool_put_many_wait(key, &handle, 1, deadline));
	} while (hot_goes_on(self->pool, deadline, &code));
	buffer->life = life;
	return code > 0 ? 0 : code == -EINTR ? HOT_RAISED : code;
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
	if (unlikely(buffer->pool != self->pool))
		return PyObject_CallMethod(object, "_put_foreign", "O", item);
	int64_t code = put_once(self, &buffer->handle);
	if (unlikely(code == -ENOBUFS || hot_stuck(code)))
		code = put_wait(self, buffer, timeout, code);
	if (likely(!code)) {
		hot_buffer_spend(buffer);
		Py_RETURN_NONE;
	}
	if (code == HOT_RAISED)
		return NULL;
	return PyObject_CallMethod(object, "_put_failed", "LI", (long long)code,
				   (unsigned int)hot_buffer_index(buffer));
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

int64_t hot_get_again(struct queue_object *self, struct shmpool_taken *out)
{
	int64_t got;
	uint64_t key = hot_queue_key(self);
	HOT_UNLOCKED(key, got, shmpool_get_wait(key, out, WAIT_NEVER));
	return got > 0 && !self->pool->key ? -EBADF : got; /* closed: it was given back */
}

int64_t hot_get_wait(struct queue_object *self, PyObject *timeout, struct shmpool_taken *out)
{
	int64_t got = -EAGAIN, deadline = hot_deadline(timeout);
	if (deadline < 0)
		return HOT_RAISED;
	while (deadline) {
		uint64_t key = hot_queue_key(self);
		HOT_UNLOCKED(key, got, shmpool_get_wait(key, out, deadline));
		if (!hot_goes_on(self->pool, deadline, &got))
			break;
	}
	if (got > 0)
		return self->pool->key ? got : -EBADF; /* closed: it was given back */
	if (got != -EAGAIN)
		return got == -EINTR ? HOT_RAISED : got;
	PyErr_SetObject(hot_empty_error, self->empty);
	return HOT_RAISED;
}

static inline int64_t get_once(struct queue_object *self, struct shmpool_taken *out)
{
	struct call c;
	int got = open_queue(hot_queue_key(self), &c);
	if (likely(!got))
		got = call_get(&c, &out->handle, 1);
	if (unlikely(got <= 0))
		return hot_stuck(got) ? hot_get_again(self, out) : got;
	held_since(&c, out->handle, wait_coarse());
	out->extent = extent_of(c.p, out->handle);
	return got;
}

static PyObject *queue_get_any(PyObject *object, PyObject *timeout)
{
	struct queue_object *self = (struct queue_object *)object;
	struct buffer_object *buffer = hot_buffer_make();
	struct shmpool_taken taken;
	if (unlikely(!buffer))
		return NULL;
	hot_tend(self->pool);
	int64_t got = get_once(self, &taken);
	if (got == -EAGAIN)
		got = hot_get_wait(self, timeout, &taken);
	if (likely(got > 0))
		return hot_buffer_own(buffer, self->pool, taken);
	hot_buffer_unmake(buffer);
	return got == HOT_RAISED ? NULL : hot_queue_fail(self, got, true);
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

static PyObject *queue_try_get(PyObject *object, PyObject *unused)
{
	struct queue_object *self = (struct queue_object *)object;
	struct buffer_object *buffer = hot_buffer_make();
	struct shmpool_taken taken;
	(void)unused;
	if (unlikely(!buffer))
		return NULL;
	hot_tend(self->pool);
	int64_t got = get_once(self, &taken);
	if (got > 0)
		return hot_buffer_own(buffer, self->pool, taken);
	hot_buffer_unmake(buffer);
	if (got == -EAGAIN)
		Py_RETURN_NONE;
	return hot_queue_fail(self, got, true);
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
	{ "_move", hot_queue_move, METH_VARARGS, NULL },
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
	{ "send", HOT_FAST(hot_send),
	  "send($self, payload, timeout=None)\n--\n\nCopies a bytes-like object into a new buffer "
	  "and "
	  "puts it.\n\nWaits up to timeout seconds for a buffer and for room, then PoolExhausted "
	  "or\n"
	  "Full. PayloadTooLarge if it does not fit into a buffer." },
	{ "recv", HOT_FAST(hot_recv),
	  "recv($self, timeout=None)\n--\n\nThe oldest payload in the queue, as bytes; its buffer "
	  "is "
	  "freed.\n\nWaits up to timeout seconds for one (None for ever, 0 not at all), then "
	  "Empty." },
	{ "try_get", queue_try_get, METH_NOARGS,
	  "try_get($self)\n--\n\nThe oldest Buffer in the queue, or None: for loops that poll." },
	{ "try_recv", hot_try_recv, METH_NOARGS,
	  "try_recv($self)\n--\n\nThe oldest payload in the queue as bytes, or None." },
	{ "send_many", HOT_FAST(hot_send_many),
	  "send_many($self, payloads, timeout=None)\n--\n\nsend() for each of the payloads, in "
	  "order, in bulks of up to 256 or 256 KiB.\n\nFull or PoolExhausted if not all could go "
	  "within timeout seconds; sent says how many did." },
	{ "recv_many", HOT_FAST(hot_recv_many),
	  "recv_many($self, n, timeout=None)\n--\n\nThe 1..n oldest payloads as bytes; Empty if "
	  "there is none within timeout seconds.\n\nOf those that are there when the first is: at "
	  "most "
	  "a bulk beyond 16 MiB." },
	{ NULL, NULL, 0, NULL },
};

static PyType_Slot queue_slots[] = {
	{ Py_tp_methods, queue_methods },   { Py_tp_dealloc, queue_dealloc },
	{ Py_tp_traverse, queue_traverse }, { Py_sq_length, queue_len },
	{ Py_nb_bool, queue_true },         { 0, NULL },
};

PyType_Spec hot_queue_spec = { "shmpool._hot.QueueBase", sizeof(struct queue_object), 0,
			       Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
			       queue_slots };
