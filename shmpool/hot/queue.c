/* SPDX-License-Identifier: Apache-2.0
 *
 * queue.c - the base of shmpool.AlfQueue: put and get, one at a time.
 */
#include "parts.h"
#include "payload.h"

static PyObject *queue_hot_open(PyObject *object, PyObject *args)
{
	struct queue_object *self = (struct queue_object *)object;
	PyObject *pool, *empty;
	unsigned int number;
	if (!PyArg_ParseTuple(args, "O!IU", hot_pool_type, &pool, &number, &empty))
		return NULL;
	Py_XSETREF(self->empty_text, Py_NewRef(empty));
	Py_XSETREF(self->pool, (struct pool_object *)Py_NewRef(pool));
	hot_queue_open(self, self->pool->key | (uint64_t)number << KEY_QUEUE_SHIFT, 0);
	Py_RETURN_NONE;
}

static PyObject *queue_hot_close(PyObject *object, PyObject *Py_UNUSED(unused))
{
	hot_queue_open((struct queue_object *)object, 0, 0);
	Py_RETURN_NONE;
}

/* From now on a call that takes makes the waker's descriptor right. 0: there is none any more. */
static PyObject *queue_watch(PyObject *object, PyObject *waker)
{
	struct queue_object *self = (struct queue_object *)object;
	const long number = PyLong_AsLong(waker);
	if (number == -1 && PyErr_Occurred())
		return NULL;
	hot_queue_open(self, self->key, (int)number);
	Py_RETURN_NONE;
}

static int queue_traverse(PyObject *object, visitproc visit, void *arg)
{
	Py_VISIT(Py_TYPE(object));
	Py_VISIT(((struct queue_object *)object)->pool); /* the pool's dict has a tp_clear */
	return 0;
}

static void queue_dealloc(PyObject *object)
{
	PyTypeObject *type = Py_TYPE(object);
	PyObject_GC_UnTrack(object);
	Py_XDECREF(((struct queue_object *)object)->pool);
	Py_XDECREF(((struct queue_object *)object)->empty_text);
	type->tp_free(object);
	Py_DECREF(type);
}

static inline int put_once(const struct queue_object *self, const uint64_t *handle)
{
	struct lookup c;
	int error = lookup_queue_in(hot_queue_key(self), &c);
	return likely(!error) ? lookup_put(&c, handle, 1) : error;
}

/* Inline: the compiler leaves hot_queue_put() out of line, which costs put() a call. */
static inline int64_t put_or_wait(struct queue_object *self, struct buffer_object *buffer,
				  double timeout)
{
	int64_t code = put_once(self, &buffer->handle);
	if (unlikely(code)) {
		uint64_t handle = buffer->handle;
		struct hot_wait wait = { .operation = HOT_PUT,
					 .pool = self->pool,
					 .queue = self,
					 .handles = &handle,
					 .n = 1,
					 .timeout = timeout };
		code = hot_wait_moving(&wait, code, buffer);
	}
	return code;
}

int64_t hot_queue_put(struct queue_object *self, struct buffer_object *buffer, double timeout)
{
	return put_or_wait(self, buffer, timeout);
}

static PyObject *put_buffer(struct queue_object *self, PyObject *item, double timeout)
{
	struct buffer_object *buffer = (struct buffer_object *)item;
	if (unlikely(!Py_IS_TYPE(item, hot_buffer_type)))
		return PyErr_Format(PyExc_TypeError, "put() takes a shmpool.Buffer, not %.100s",
				    Py_TYPE(item)->tp_name);
	if (unlikely(hot_buffer_movable(buffer, "put")))
		return NULL;
	if (unlikely(buffer->pool != self->pool))
		return hot_queue_raise(self, -EPERM, item, 0);
	int64_t code = put_or_wait(self, buffer, timeout);
	if (unlikely(code < 0))
		return hot_queue_raise(self, code, item, 0);
	hot_buffer_release(buffer);
	Py_RETURN_NONE;
}

static PyObject *queue_put_method(PyObject *object, PyObject *const *args, Py_ssize_t n,
				  PyObject *names)
{
	struct hot_arguments given;
	if (hot_parse("put", "buf", args, n, names, &given))
		return NULL;
	return put_buffer((struct queue_object *)object, given.item, given.timeout);
}

/* put() of a Buffer that nobody else refers to: if it fails, the buffer is free. */
static PyObject *queue_put_or_free(PyObject *object, PyObject *args)
{
	PyObject *item, *given, *type, *value, *trace, *done = NULL;
	double timeout;
	if (!PyArg_ParseTuple(args, "O!O", hot_buffer_type, &item, &given))
		return NULL;
	if (!hot_timeout(given, &timeout))
		done = put_buffer((struct queue_object *)object, item, timeout);
	if (done)
		return done;
	PyErr_Fetch(&type, &value, &trace);
	hot_buffer_abandon((struct buffer_object *)item);
	PyErr_Restore(type, value, trace);
	return NULL;
}

static PyObject *queue_put_nowait(PyObject *object, PyObject *item)
{
	return put_buffer((struct queue_object *)object, item, 0);
}

int64_t hot_get_block(struct queue_object *self, double timeout, struct lookup *c, uint64_t *handle)
{
	struct hot_wait wait = { .operation = HOT_GET,
				 .pool = self->pool,
				 .queue = self,
				 .handles = handle,
				 .n = 1,
				 .timeout = timeout };
	int64_t got = hot_block(&wait);
	if (got <= 0)
		return got;
	int error = lookup_key(self->pool->key, c);
	return error ? error : got;
}

/* Takes the oldest buffer into a new Buffer. NULL with a negative *code. */
static inline PyObject *get_buffer(struct queue_object *self, double timeout, int64_t *code)
{
	struct buffer_object *buffer = hot_buffer_new();
	struct lookup c;
	uint64_t handle;
	*code = HOT_RAISED;
	if (unlikely(!buffer))
		return NULL;
	*code = hot_get_handle(self, timeout, &c, &handle);
	if (likely(*code > 0)) {
		PyObject *filled = hot_buffer_got(buffer, self->pool, &c, handle);
		if (unlikely(!filled))
			*code = HOT_RAISED;
		return filled;
	}
	hot_buffer_discard(buffer);
	return NULL;
}

PyObject *hot_queue_get(struct queue_object *self, double timeout)
{
	int64_t code;
	PyObject *buffer = get_buffer(self, timeout, &code);
	return likely(buffer) ? buffer : hot_queue_raise(self, code, NULL, 0);
}

static PyObject *queue_get_method(PyObject *object, PyObject *const *args, Py_ssize_t n,
				  PyObject *names)
{
	struct hot_arguments given;
	if (hot_parse("get", NULL, args, n, names, &given))
		return NULL;
	return hot_queue_get((struct queue_object *)object, given.timeout);
}

/* Takes the oldest message: a short one as bytes, its buffer is free then, else as a Buffer. */
static PyObject *queue_take(PyObject *object, PyObject *const *args, Py_ssize_t n, PyObject *names)
{
	struct queue_object *self = (struct queue_object *)object;
	struct hot_arguments given;
	struct lookup c;
	uint64_t handle;
	if (hot_parse("_take", NULL, args, n, names, &given))
		return NULL;
	struct buffer_object *buffer = hot_buffer_new();
	if (unlikely(!buffer))
		return NULL;
	const int64_t code = hot_get_handle(self, given.timeout, &c, &handle);
	if (likely(code > 0) && bytes_all(c.p, handle).length >= HOT_SHORT)
		return hot_buffer_got(buffer, self->pool, &c, handle);
	hot_buffer_discard(buffer);
	if (unlikely(code <= 0))
		return hot_queue_raise(self, code, NULL, 0);
	PyObject *bytes = payload_bytes(c.p, handle);
	qmempool_free(c.p, c.m, handle);
	return bytes;
}

static PyObject *queue_get_nowait(PyObject *object, PyObject *Py_UNUSED(unused))
{
	return hot_queue_get((struct queue_object *)object, 0);
}

static PyObject *queue_try_get(PyObject *object, PyObject *Py_UNUSED(unused))
{
	struct queue_object *self = (struct queue_object *)object;
	int64_t code;
	PyObject *buffer = get_buffer(self, 0, &code);
	if (likely(buffer))
		return buffer;
	if (code == -EAGAIN)
		Py_RETURN_NONE;
	return hot_queue_raise(self, code, NULL, 0);
}

static Py_ssize_t queue_len(PyObject *object)
{
	int64_t count = shmpool_queue_count(hot_queue_key((struct queue_object *)object));
	if (count < 0)
		hot_queue_raise((struct queue_object *)object, count, NULL, 0);
	return count < 0 ? -1 : (Py_ssize_t)count;
}

static PyObject *queue_empty_method(PyObject *object, PyObject *Py_UNUSED(unused))
{
	int64_t nothing = shmpool_queue_empty(hot_queue_key((struct queue_object *)object));
	return nothing < 0 ? hot_queue_raise((struct queue_object *)object, nothing, NULL, 0) :
			     PyBool_FromLong(nothing);
}

static int queue_true(PyObject *Py_UNUSED(object))
{
	return 1; /* an empty queue is still a queue */
}

#define TIMEOUT "Waits up to timeout seconds (None: as long as it takes, 0: not at all)"
#define RAISES_GET                                                                                 \
	"    Empty: the queue was empty for that long.\n"                                          \
	"    QueueBusy: the queue has a single consumer, and that is another thread.\n"            \
	"    PoolClosed, PoolReplaced: see Pool."
#define RAISES_PUT                                                                                 \
	"    Full: the queue was full for that long.\n"                                            \
	"    QueueBusy: the queue has a single producer, and that is another thread.\n"            \
	"    PoolClosed, PoolReplaced: see Pool."
#define RAISES_SEND                                                                                \
	"    PoolExhausted: no buffer was free for that long.\n"                                   \
	"    PayloadTooLarge: a payload has more bytes than a buffer holds.\n"                     \
	"    OutOfSharedMemory: the pool must grow and cannot.\n"

static PyMethodDef queue_methods[] = {
	{ "_hot_open", queue_hot_open, METH_VARARGS, NULL },
	{ "_move", hot_queue_move, METH_VARARGS, NULL },
	{ "_put_or_free", queue_put_or_free, METH_VARARGS, NULL },
	{ "_hand_over", (PyCFunction)(void (*)(void))hot_queue_hand_over, METH_FASTCALL, NULL },
	{ "_put_items", hot_put_items, METH_VARARGS, NULL },
	{ "_take", HOT_FAST(queue_take), NULL },
	{ "_hot_close", queue_hot_close, METH_NOARGS, NULL },
	{ "_watch", queue_watch, METH_O, NULL },
	{ "empty", queue_empty_method, METH_NOARGS,
	  "empty($self)\n--\n\nTrue if a get would find nothing now." },
	{ "put", HOT_FAST(queue_put_method),
	  "put($self, buf, timeout=None)\n--\n\nMoves a Buffer to the end of the queue; the Buffer "
	  "is then released.\n\n" TIMEOUT " for room.\n\nRaises:\n" RAISES_PUT "\n"
	  "    BufferInUse: a view of the buffer is alive.\n"
	  "    BufferReleased: the buffer was freed or put before.\n"
	  "    ForeignBuffer: it belongs to another pool or process." },
	{ "put_nowait", queue_put_nowait, METH_O,
	  "put_nowait($self, buf, /)\n--\n\nput(buf, timeout=0)." },
	{ "get", HOT_FAST(queue_get_method),
	  "get($self, timeout=None)\n--\n\nTakes the oldest Buffer.\n\n" TIMEOUT
	  " for one.\n\nRaises:\n" RAISES_GET },
	{ "get_array", HOT_FAST(hot_get_array),
	  "get_array($self, timeout=None)\n--\n\nTakes the oldest array that put_array() put: a "
	  "numpy array over the buffer, not a copy.\n\n" TIMEOUT
	  " for one. The buffer goes\nback to its pool with the last array or view of it. The "
	  "array may be put again.\n\nA message that is no array, or whose record of dtype and "
	  "shape is corrupted, goes back to\nthe queue as by Buffer.nack(); if that fails, as in a "
	  "queue with a single producer, the\nexception has it.\n\nRaises:\n"
	  "    NoArray: the message is no array.\n" RAISES_GET },
	{ "get_nowait", queue_get_nowait, METH_NOARGS, "get_nowait($self)\n--\n\nget(timeout=0)." },
	{ "send", HOT_FAST(hot_send),
	  "send($self, payload, timeout=None)\n--\n\nCopies a bytes-like object into a new buffer "
	  "and puts it.\n\n" TIMEOUT
	  " for a buffer and for room.\n\nRaises:\n" RAISES_SEND RAISES_PUT },
	{ "recv", HOT_FAST(hot_recv),
	  "recv($self, timeout=None)\n--\n\nTakes the oldest payload as bytes, and frees its "
	  "buffer.\n\n" TIMEOUT " for one.\n\nRaises:\n" RAISES_GET },
	{ "try_get", queue_try_get, METH_NOARGS,
	  "try_get($self)\n--\n\nget_nowait() that returns None instead of raising Empty: for "
	  "loops that poll." },
	{ "try_recv", hot_try_recv, METH_NOARGS,
	  "try_recv($self)\n--\n\nrecv(timeout=0) that returns None instead of raising Empty: for "
	  "loops that poll." },
	{ "send_many", HOT_FAST(hot_send_many),
	  "send_many($self, payloads, timeout=None)\n--\n\nSends each of the payloads, in order, "
	  "in bulks of up to 256 payloads or 256 KiB.\n\n" TIMEOUT
	  " until all are sent. Full and PoolExhausted say in their\n"
	  "attribute sent how many were.\n\nRaises:\n" RAISES_SEND RAISES_PUT },
	{ "recv_many", HOT_FAST(hot_recv_many),
	  "recv_many($self, n, timeout=None)\n--\n\nTakes the 1 to n oldest payloads as a list of "
	  "bytes.\n\n" TIMEOUT " for the first. Takes no\n"
	  "more than are there then, and stops at 16 MiB, after the bulk that reaches it.\n\n"
	  "Raises:\n    InvalidArgument: n is less than 1.\n" RAISES_GET },
	{ NULL, NULL, 0, NULL },
};

static PyType_Slot queue_type_slots[] = {
	{ Py_tp_methods, queue_methods },   { Py_tp_dealloc, queue_dealloc },
	{ Py_tp_traverse, queue_traverse }, { Py_sq_length, queue_len },
	{ Py_nb_bool, queue_true },         { 0, NULL },
};

PyType_Spec hot_queue_spec = { "shmpool._hot.QueueBase", sizeof(struct queue_object), 0,
			       Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
			       queue_type_slots };
