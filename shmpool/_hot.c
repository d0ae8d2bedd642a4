/* SPDX-License-Identifier: Apache-2.0
 *
 * _hot.c - the calls that are made once a packet, as Python objects: Buffer, and the bases of Pool and
 * AlfQueue. Compiled into shmpool._native beside the cffi functions, with the same core under it.
 *
 * What is in here: one attempt that does not wait, for arguments of the usual kind. Everything else,
 * waiting and every error, is Python's: the attempt's code goes to the method _alloc_slow, _put_slow,
 * ... of the object, or to the function that turns codes into exceptions (fail).
 *
 * Why not cffi for these: its two-argument call costs 55 to 75 ns and a Python method around it 30 to
 * 60, more than the operation; and before Python 3.12 only a C type can export a buffer, which is
 * what makes "a view keeps its buffer" exact (docs/decisions/0003-hot-calls.md).
 *
 * Thread safety: the interpreter's lock.
 */
#include <Python.h>
#include <pthread.h>
#include <structmember.h>

#include "call.h"

#define NO_BUFFER UINT32_MAX

static PyObject *fail_function; /* fail(code, what): raises */
static PyObject *timeout_name;
static uint32_t forks; /* times this process was forked: what a parent made is not the child's */

struct pool_object {
	PyObject_HEAD uint64_t key; /* slot and serial */
	char *data;                 /* the first buffer's room */
	uint64_t stride;
	uint64_t headroom;
	uint64_t exports; /* views of its buffers that are alive */
};

struct queue_object {
	PyObject_HEAD struct pool_object *pool;
	uint64_t key;
};

struct buffer_object {
	PyObject_HEAD struct pool_object *pool;
	uint64_t key; /* slot, serial, generation, index; 0 when spent */
	uint32_t forks;
	uint32_t exports; /* views that are alive */
	uint64_t headroom;
	uint64_t length;
	bool whole; /* the next view is of the whole room */
};

static PyTypeObject *pool_type, *queue_type, *buffer_type;

static PyObject *fail(int64_t code, const char *what)
{
	return PyObject_CallFunction(fail_function, "Ls", (long long)code, what);
}

/* Whether the only argument is timeout, or none is given: 0 and *timeout, or -1 with an exception. */
static int parse_timeout(const char *name, PyObject *const *args, Py_ssize_t n, PyObject *names,
			 Py_ssize_t at, PyObject **timeout)
{
	Py_ssize_t named = names ? PyTuple_GET_SIZE(names) : 0;
	*timeout = Py_None;
	if (n + named > at + 1 || n < at || (named == 1 && n > at)) {
		PyErr_Format(PyExc_TypeError, "%s() takes %zd argument%s and timeout", name, at,
			     at == 1 ? "" : "s");
		return -1;
	}
	if (named && PyUnicode_Compare(PyTuple_GET_ITEM(names, 0), timeout_name) != 0) {
		PyErr_Format(PyExc_TypeError, "%s() has no argument %R; it has timeout", name,
			     PyTuple_GET_ITEM(names, 0));
		return -1;
	}
	if (n + named == at + 1)
		*timeout = args[at];
	return 0;
}

/* ---- Buffer ---- */

static PyObject *buffer_make(struct pool_object *pool, int64_t answer)
{
	struct buffer_object *self = PyObject_New(struct buffer_object, buffer_type);
	if (!self)
		return NULL;
	Py_INCREF(pool);
	self->pool = pool;
	self->key = pool->key | (uint32_t)answer;
	self->forks = forks;
	self->exports = 0;
	self->headroom = pool->headroom;
	self->length = (uint64_t)answer >> 32;
	self->whole = false;
	if (unlikely(answer & (int64_t)ANSWER_MOVED))
		self->headroom = (uint64_t)shmpool_field(self->key, SHMPOOL_HEADROOM);
	if (self->headroom > pool->stride || self->length > pool->stride - self->headroom)
		self->headroom = self->length = 0; /* somebody scribbled over the header */
	return (PyObject *)self;
}

/* 0 if the caller may use the buffer. */
static inline int buffer_usable(struct buffer_object *self, const char *what)
{
	if (likely(self->key && self->forks == forks && self->pool->key))
		return 0;
	Py_XDECREF(fail(self->pool->key ? -ESTALE : -EBADF, what));
	return -1;
}

static inline char *buffer_bytes(const struct buffer_object *self)
{
	return self->pool->data + (self->key & ALF_INDEX_MASK) * self->pool->stride +
	       self->headroom;
}

static void in_use(const struct buffer_object *self, const char *what)
{
	char text[96];
	snprintf(text, sizeof(text), "%s: buffer %u still has %u exported view%s", what,
		 (uint32_t)(self->key & ALF_INDEX_MASK), self->exports,
		 self->exports == 1 ? "" : "s (memoryviews, numpy arrays)");
	Py_XDECREF(fail(-ETXTBSY, text));
}

/* Gives the buffer away: nothing may look at it any more. */
static inline int buffer_movable(struct buffer_object *self, const char *what)
{
	if (unlikely(buffer_usable(self, what)))
		return -1;
	if (likely(!self->exports))
		return 0;
	in_use(self, what);
	return -1;
}

static void buffer_dealloc(PyObject *object)
{
	struct buffer_object *self = (struct buffer_object *)object;
	PyTypeObject *type = Py_TYPE(object);
	if (self->key && self->forks == forks && self->pool->key)
		shmpool_free(self->key);
	Py_DECREF(self->pool);
	PyObject_Free(object);
	Py_DECREF(type);
}

static int buffer_getbuffer(PyObject *object, Py_buffer *view, int flags)
{
	struct buffer_object *self = (struct buffer_object *)object;
	view->obj = NULL;
	if (buffer_usable(self, "view"))
		return -1;
	uint64_t size = self->whole ? self->pool->stride - self->headroom : self->length;
	if (PyBuffer_FillInfo(view, object, buffer_bytes(self), (Py_ssize_t)size, 0, flags))
		return -1;
	self->exports++;
	self->pool->exports++;
	return 0;
}

static void buffer_releasebuffer(PyObject *object, Py_buffer *view)
{
	struct buffer_object *self = (struct buffer_object *)object;
	(void)view;
	self->exports--;
	self->pool->exports--;
}

static PyObject *buffer_view(PyObject *object, void *whole)
{
	struct buffer_object *self = (struct buffer_object *)object;
	self->whole = whole;
	PyObject *view = PyMemoryView_FromObject(object);
	self->whole = false;
	return view;
}

static Py_ssize_t buffer_len(PyObject *object)
{
	struct buffer_object *self = (struct buffer_object *)object;
	return buffer_usable(self, "len") ? -1 : (Py_ssize_t)self->length;
}

static PyObject *buffer_get_length(PyObject *object, void *unused)
{
	(void)unused;
	Py_ssize_t length = buffer_len(object);
	return length < 0 ? NULL : PyLong_FromSsize_t(length);
}

static int set_length(struct buffer_object *self, uint64_t length)
{
	int64_t error = shmpool_set_length(self->key, length);
	if (unlikely(error)) {
		char what[96];
		snprintf(what, sizeof(what),
			 "%llu bytes do not fit into a buffer with room for %llu",
			 (unsigned long long)length,
			 (unsigned long long)(self->pool->stride - self->headroom));
		Py_XDECREF(fail(error, what));
		return -1;
	}
	self->length = length;
	return 0;
}

static int buffer_set_length(PyObject *object, PyObject *value, void *unused)
{
	struct buffer_object *self = (struct buffer_object *)object;
	(void)unused;
	if (!value) {
		PyErr_SetString(PyExc_AttributeError, "length cannot be deleted");
		return -1;
	}
	if (buffer_usable(self, "length"))
		return -1;
	Py_ssize_t length = PyNumber_AsSsize_t(value, PyExc_OverflowError);
	if (length == -1 && PyErr_Occurred())
		return -1;
	if (length < 0) {
		PyErr_Format(PyExc_ValueError, "length is %zd bytes; it cannot be negative",
			     length);
		return -1;
	}
	return set_length(self, (uint64_t)length);
}

static PyObject *buffer_get_field(PyObject *object, void *field)
{
	struct buffer_object *self = (struct buffer_object *)object;
	if (buffer_usable(self, "header"))
		return NULL;
	int64_t value = shmpool_field(self->key, (int)(intptr_t)field);
	return value < 0 ? fail(value, "header") : PyLong_FromLongLong(value);
}

static int buffer_set_field(PyObject *object, PyObject *value, void *field)
{
	struct buffer_object *self = (struct buffer_object *)object;
	static const char *const names[] = { "headroom", "mark", "flow_hash", "timestamp" };
	const char *name = names[(intptr_t)field];
	uint64_t most = (intptr_t)field == SHMPOOL_TIMESTAMP ? INT64_MAX : UINT32_MAX;
	if (!value) {
		PyErr_Format(PyExc_AttributeError, "%s cannot be deleted", name);
		return -1;
	}
	if (buffer_usable(self, name))
		return -1;
	unsigned long long number = PyLong_AsUnsignedLongLong(value);
	if (number == (unsigned long long)-1 && PyErr_Occurred()) {
		if (PyErr_ExceptionMatches(PyExc_TypeError))
			return -1;
		number = UINT64_MAX;
		PyErr_Clear();
	}
	if ((intptr_t)field == SHMPOOL_HEADROOM) {
		most = self->pool->stride - self->length;
		if (self->exports) {
			in_use(self, name);
			return -1;
		}
	}
	if (number > most) {
		PyErr_Format(PyExc_ValueError, "%s is %R; allowed are 0 to %llu", name, value,
			     (unsigned long long)most);
		return -1;
	}
	int64_t error = shmpool_set_field(self->key, (int)(intptr_t)field, number);
	if (error) {
		Py_XDECREF(fail(error, name));
		return -1;
	}
	if ((intptr_t)field == SHMPOOL_HEADROOM)
		self->headroom = number;
	return 0;
}

static PyObject *buffer_get_index(PyObject *object, void *unused)
{
	struct buffer_object *self = (struct buffer_object *)object;
	(void)unused;
	return buffer_usable(self, "index") ?
		       NULL :
		       PyLong_FromUnsignedLongLong(self->key & ALF_INDEX_MASK);
}

static PyObject *buffer_get_pool(PyObject *object, void *unused)
{
	(void)unused;
	return Py_NewRef(((struct buffer_object *)object)->pool);
}

static PyObject *buffer_get_released(PyObject *object, void *unused)
{
	struct buffer_object *self = (struct buffer_object *)object;
	(void)unused;
	return PyBool_FromLong(!(self->key && self->forks == forks && self->pool->key));
}

static PyObject *buffer_write(PyObject *object, PyObject *payload)
{
	struct buffer_object *self = (struct buffer_object *)object;
	Py_buffer from;
	if (buffer_usable(self, "write") || PyObject_GetBuffer(payload, &from, PyBUF_SIMPLE))
		return NULL;
	int error = set_length(self, (uint64_t)from.len);
	if (likely(!error))
		memcpy(buffer_bytes(self), from.buf, (size_t)from.len);
	PyBuffer_Release(&from);
	return error ? NULL : PyLong_FromUnsignedLongLong(self->length);
}

static PyObject *buffer_free(PyObject *object, PyObject *unused)
{
	struct buffer_object *self = (struct buffer_object *)object;
	(void)unused;
	if (buffer_movable(self, "free"))
		return NULL;
	int64_t error = shmpool_free(self->key);
	if (unlikely(error))
		return fail(error, "free");
	self->key = 0;
	Py_RETURN_NONE;
}

/* For a Burst that takes its element back: 0 if it can, the buffer is spent then. */
static PyObject *buffer_reclaim(PyObject *object, PyObject *unused)
{
	struct buffer_object *self = (struct buffer_object *)object;
	(void)unused;
	if (buffer_movable(self, "burst"))
		return NULL;
	self->key = 0;
	Py_RETURN_NONE;
}

static PyObject *buffer_get_exports(PyObject *object, void *unused)
{
	(void)unused;
	return PyLong_FromUnsignedLong(((struct buffer_object *)object)->exports);
}

static PyObject *buffer_enter(PyObject *object, PyObject *unused)
{
	(void)unused;
	return buffer_usable((struct buffer_object *)object, "with") ? NULL : Py_NewRef(object);
}

static PyObject *buffer_exit(PyObject *object, PyObject *args)
{
	struct buffer_object *self = (struct buffer_object *)object;
	(void)args;
	if (!self->key || !self->pool->key || self->forks != forks)
		Py_RETURN_NONE; /* put into a queue, or freed, inside the block */
	return buffer_free(object, NULL);
}

static PyObject *buffer_repr(PyObject *object)
{
	struct buffer_object *self = (struct buffer_object *)object;
	if (!self->key || !self->pool->key || self->forks != forks)
		return PyUnicode_FromString("<shmpool.Buffer released>");
	return PyUnicode_FromFormat("<shmpool.Buffer %llu, %llu of %llu bytes>",
				    (unsigned long long)(self->key & ALF_INDEX_MASK),
				    (unsigned long long)self->length,
				    (unsigned long long)(self->pool->stride - self->headroom));
}

static PyMethodDef buffer_methods[] = {
	{ "write", buffer_write, METH_O,
	  "write(payload, /)\n--\n\nCopies payload, any bytes-like object, to the start of data "
	  "and "
	  "sets length.\n\nReturns the length in bytes. PayloadTooLarge if it does not fit." },
	{ "free", buffer_free, METH_NOARGS,
	  "free()\n--\n\nGives the buffer back to its pool.\n\nBufferError while a view of it is "
	  "alive, BufferReleased if it is spent." },
	{ "_reclaim", buffer_reclaim, METH_NOARGS, NULL },
	{ "__enter__", buffer_enter, METH_NOARGS, NULL },
	{ "__exit__", buffer_exit, METH_VARARGS, NULL },
	{ NULL, NULL, 0, NULL },
};

static PyGetSetDef buffer_getset[] = {
	{ "data", buffer_view, NULL, "The room for data, a writable memoryview.", (void *)1 },
	{ "view", buffer_view, NULL, "data[:length], a writable memoryview.", NULL },
	{ "_exports", buffer_get_exports, NULL, NULL, NULL },
	{ "length", buffer_get_length, buffer_set_length, "Bytes in use.", NULL },
	{ "index", buffer_get_index, NULL, "The buffer's number in its pool.", NULL },
	{ "pool", buffer_get_pool, NULL, "The pool it belongs to.", NULL },
	{ "released", buffer_get_released, NULL, "Whether it was freed or put.", NULL },
	{ "headroom", buffer_get_field, buffer_set_field, "Bytes before data.",
	  (void *)SHMPOOL_HEADROOM },
	{ "mark", buffer_get_field, buffer_set_field, "32 bits for the user.",
	  (void *)SHMPOOL_MARK },
	{ "flow_hash", buffer_get_field, buffer_set_field, "32 bits, the packet's flow.",
	  (void *)SHMPOOL_FLOW_HASH },
	{ "timestamp", buffer_get_field, buffer_set_field, "ns, on the user's clock.",
	  (void *)SHMPOOL_TIMESTAMP },
	{ "queue_number", buffer_get_field, NULL, "The queue it came from, 0 for none.",
	  (void *)SHMPOOL_QUEUE },
	{ "redelivered", buffer_get_field, NULL, "Times it was put back after a consumer's death.",
	  (void *)SHMPOOL_REDELIVERED },
	{ "generation", buffer_get_field, NULL, "Changes whenever the buffer is freed.",
	  (void *)SHMPOOL_GENERATION },
	{ NULL, NULL, NULL, NULL, NULL },
};

static PyType_Slot buffer_slots[] = {
	{ Py_tp_doc, "One buffer of a pool, in this process's hands.\n\nMade by Pool.alloc and "
		     "AlfQueue.get. It "
		     "ends when it is freed, put into a\nqueue, or dropped; any later use is "
		     "BufferReleased. It "
		     "exports its bytes\n(bytes(buf), memoryview(buf), numpy.frombuffer(buf)); "
		     "while such a view "
		     "is\nalive the buffer can be neither freed nor put. Any thread of the process "
		     "may\nuse it, "
		     "one at a time; a forked child may not." },
	{ Py_tp_dealloc, buffer_dealloc },
	{ Py_tp_repr, buffer_repr },
	{ Py_tp_methods, buffer_methods },
	{ Py_tp_getset, buffer_getset },
	{ Py_bf_getbuffer, buffer_getbuffer },
	{ Py_bf_releasebuffer, buffer_releasebuffer },
	{ Py_sq_length, buffer_len },
	{ 0, NULL },
};

static PyType_Spec buffer_spec = { "shmpool.Buffer", sizeof(struct buffer_object), 0,
				   Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
				   buffer_slots };

/* ---- the base of Pool ---- */

static PyObject *pool_hot_open(PyObject *object, PyObject *args)
{
	struct pool_object *self = (struct pool_object *)object;
	unsigned long long key, data, stride, headroom;
	if (!PyArg_ParseTuple(args, "KKKK", &key, &data, &stride, &headroom))
		return NULL;
	self->key = key;
	self->data = (char *)(uintptr_t)data;
	self->stride = stride;
	self->headroom = headroom;
	Py_RETURN_NONE;
}

static PyObject *pool_alloc(PyObject *object, PyObject *const *args, Py_ssize_t n, PyObject *names)
{
	struct pool_object *self = (struct pool_object *)object;
	PyObject *timeout;
	if (parse_timeout("alloc", args, n, names, 0, &timeout))
		return NULL;
	int64_t answer = self->key ? shmpool_alloc(self->key) : -EBADF;
	if (likely(answer >= 0))
		return buffer_make(self, answer);
	return PyObject_CallMethod(object, "_alloc_slow", "LO", (long long)answer, timeout);
}

static PyObject *pool_wrap(PyObject *object, PyObject *answer)
{
	int64_t number = PyLong_AsLongLong(answer);
	if (number == -1 && PyErr_Occurred())
		return NULL;
	return buffer_make((struct pool_object *)object, number);
}

static PyObject *pool_get_exports(PyObject *object, void *unused)
{
	(void)unused;
	return PyLong_FromUnsignedLongLong(((struct pool_object *)object)->exports);
}

static PyMethodDef pool_methods[] = {
	{ "_hot_open", pool_hot_open, METH_VARARGS, NULL },
	{ "_wrap", pool_wrap, METH_O, NULL },
	{ "alloc", (PyCFunction)(void (*)(void))pool_alloc, METH_FASTCALL | METH_KEYWORDS,
	  "alloc($self, timeout=None)\n--\n\nA free buffer of length 0.\n\nWaits up to timeout "
	  "seconds for one (None for ever, 0 not at all), then\nPoolExhausted. OutOfSharedMemory "
	  "if "
	  "the pool must grow and cannot." },
	{ NULL, NULL, 0, NULL },
};

static PyGetSetDef pool_getset[] = {
	{ "_exports", pool_get_exports, NULL, NULL, NULL },
	{ NULL, NULL, NULL, NULL, NULL },
};

static PyType_Slot pool_slots[] = {
	{ Py_tp_methods, pool_methods },
	{ Py_tp_getset, pool_getset },
	{ 0, NULL },
};

static PyType_Spec pool_spec = { "shmpool._hot.PoolBase", sizeof(struct pool_object), 0,
				 Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, pool_slots };

/* ---- the base of AlfQueue ---- */

static PyObject *queue_hot_open(PyObject *object, PyObject *args)
{
	struct queue_object *self = (struct queue_object *)object;
	PyObject *pool;
	unsigned int number;
	if (!PyArg_ParseTuple(args, "O!I", pool_type, &pool, &number))
		return NULL;
	Py_XSETREF(self->pool, (struct pool_object *)Py_NewRef(pool));
	self->key = self->pool->key | (uint64_t)number << 48;
	Py_RETURN_NONE;
}

static void queue_dealloc(PyObject *object)
{
	PyTypeObject *type = Py_TYPE(object);
	Py_XDECREF(((struct queue_object *)object)->pool);
	type->tp_free(object);
	Py_DECREF(type);
}

static inline uint64_t queue_key(const struct queue_object *self)
{
	return self->pool && self->pool->key ? self->key : 0;
}

static PyObject *queue_put_any(PyObject *object, PyObject *item, PyObject *timeout)
{
	struct queue_object *self = (struct queue_object *)object;
	struct buffer_object *buffer = (struct buffer_object *)item;
	if (unlikely(!Py_IS_TYPE(item, buffer_type)))
		return PyErr_Format(PyExc_TypeError, "put() takes a shmpool.Buffer, not %.100s",
				    Py_TYPE(item)->tp_name);
	if (unlikely(buffer_movable(buffer, "put")))
		return NULL;
	int64_t code = unlikely(buffer->pool->key != (self->key & ~(0x3ffull << 48))) ?
			       -EXDEV :
			       shmpool_put(queue_key(self) | (uint32_t)buffer->key);
	if (likely(!code)) {
		buffer->key = 0;
		Py_RETURN_NONE;
	}
	PyObject *done = PyObject_CallMethod(object, "_put_slow", "LKO", (long long)code,
					     (unsigned long long)(uint32_t)buffer->key, timeout);
	if (done)
		buffer->key = 0;
	return done;
}

static PyObject *queue_put_method(PyObject *object, PyObject *const *args, Py_ssize_t n,
				  PyObject *names)
{
	PyObject *timeout;
	return parse_timeout("put", args, n, names, 1, &timeout) ?
		       NULL :
		       queue_put_any(object, args[0], timeout);
}

static PyObject *queue_put_nowait(PyObject *object, PyObject *item)
{
	return queue_put_any(object, item, Py_False);
}

static PyObject *queue_get_any(PyObject *object, PyObject *timeout)
{
	struct queue_object *self = (struct queue_object *)object;
	int64_t answer = shmpool_get(queue_key(self));
	if (likely(answer >= 0))
		return buffer_make(self->pool, answer);
	return PyObject_CallMethod(object, "_get_slow", "LO", (long long)answer, timeout);
}

static PyObject *queue_get_method(PyObject *object, PyObject *const *args, Py_ssize_t n,
				  PyObject *names)
{
	PyObject *timeout;
	return parse_timeout("get", args, n, names, 0, &timeout) ? NULL :
								   queue_get_any(object, timeout);
}

static PyObject *queue_get_nowait(PyObject *object, PyObject *unused)
{
	(void)unused;
	return queue_get_any(object, Py_False);
}

static PyObject *queue_send(PyObject *object, PyObject *const *args, Py_ssize_t n, PyObject *names)
{
	struct queue_object *self = (struct queue_object *)object;
	PyObject *timeout;
	Py_buffer from;
	int64_t code;
	if (parse_timeout("send", args, n, names, 1, &timeout))
		return NULL;
	if (likely(PyBytes_CheckExact(args[0]))) {
		code = shmpool_send(queue_key(self), PyBytes_AS_STRING(args[0]),
				    (size_t)PyBytes_GET_SIZE(args[0]));
	} else {
		if (PyObject_GetBuffer(args[0], &from, PyBUF_SIMPLE))
			return NULL;
		code = shmpool_send(queue_key(self), from.buf, (size_t)from.len);
		PyBuffer_Release(&from);
	}
	if (likely(!code))
		Py_RETURN_NONE;
	return PyObject_CallMethod(object, "_send_slow", "LOO", (long long)code, args[0], timeout);
}

static PyObject *queue_recv(PyObject *object, PyObject *const *args, Py_ssize_t n, PyObject *names)
{
	struct queue_object *self = (struct queue_object *)object;
	PyObject *timeout;
	if (parse_timeout("recv", args, n, names, 0, &timeout))
		return NULL;
	int64_t answer = shmpool_get(queue_key(self));
	if (unlikely(answer < 0))
		return PyObject_CallMethod(object, "_recv_slow", "LO", (long long)answer, timeout);
	struct pool_object *pool = self->pool;
	uint64_t index = (uint64_t)answer & ALF_INDEX_MASK, length = (uint64_t)answer >> 32;
	uint64_t head = pool->headroom;
	if (unlikely(answer & (int64_t)ANSWER_MOVED))
		head = (uint64_t)shmpool_field(pool->key | (uint32_t)answer, SHMPOOL_HEADROOM);
	if (unlikely(head > pool->stride || length > pool->stride - head))
		head = length = 0; /* somebody scribbled over the header */
	PyObject *bytes = PyBytes_FromStringAndSize(pool->data + index * pool->stride + head,
						    (Py_ssize_t)length);
	shmpool_free(pool->key | (uint32_t)answer);
	return bytes;
}

static Py_ssize_t queue_len(PyObject *object)
{
	int64_t count = shmpool_queue_count(queue_key((struct queue_object *)object));
	if (count < 0)
		Py_XDECREF(fail(count, "len"));
	return count < 0 ? -1 : (Py_ssize_t)count;
}

static int queue_true(PyObject *object)
{
	(void)object;
	return 1; /* an empty queue is still a queue */
}

#define FAST(f) (PyCFunction)(void (*)(void)) f, METH_FASTCALL | METH_KEYWORDS
static PyMethodDef queue_methods[] = {
	{ "_hot_open", queue_hot_open, METH_VARARGS, NULL },
	{ "put", FAST(queue_put_method),
	  "put($self, buf, timeout=None)\n--\n\nMoves a Buffer into the queue; buf is "
	  "spent.\n\nWaits "
	  "up to timeout seconds for room (None for ever, 0 not at all), then Full." },
	{ "put_nowait", queue_put_nowait, METH_O,
	  "put_nowait($self, buf, /)\n--\n\nput(buf, timeout=0)." },
	{ "get", FAST(queue_get_method),
	  "get($self, timeout=None)\n--\n\nThe oldest Buffer in the queue.\n\nWaits up to timeout "
	  "seconds for one (None for ever, 0 not at all), then Empty." },
	{ "get_nowait", queue_get_nowait, METH_NOARGS, "get_nowait($self)\n--\n\nget(timeout=0)." },
	{ "send", FAST(queue_send),
	  "send($self, payload, timeout=None)\n--\n\nCopies a bytes-like object into a new buffer "
	  "and "
	  "puts it.\n\nWaits up to timeout seconds for a buffer and for room, then PoolExhausted "
	  "or\n"
	  "Full. PayloadTooLarge if it does not fit into a buffer." },
	{ "recv", FAST(queue_recv),
	  "recv($self, timeout=None)\n--\n\nThe oldest payload in the queue, as bytes; its buffer "
	  "is "
	  "freed.\n\nWaits up to timeout seconds for one (None for ever, 0 not at all), then "
	  "Empty." },
	{ NULL, NULL, 0, NULL },
};

static PyType_Slot queue_slots[] = {
	{ Py_tp_methods, queue_methods },
	{ Py_tp_dealloc, queue_dealloc },
	{ Py_sq_length, queue_len },
	{ Py_nb_bool, queue_true },
	{ 0, NULL },
};

static PyType_Spec queue_spec = { "shmpool._hot.QueueBase", sizeof(struct queue_object), 0,
				  Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, queue_slots };

/* ---- the module ---- */

static void forked(void)
{
	forks++;
}

/* Makes the module shmpool._hot. fail is the address of the function that raises, which stays alive
 * with its module. Returns 0, or 1 with the exception printed. */
static uint64_t hot_install(uint64_t fail)
{
	static int registered;
	fail_function = Py_NewRef((PyObject *)(uintptr_t)fail);
	timeout_name = PyUnicode_InternFromString("timeout");
	pool_type = (PyTypeObject *)PyType_FromSpec(&pool_spec);
	queue_type = (PyTypeObject *)PyType_FromSpec(&queue_spec);
	buffer_type = (PyTypeObject *)PyType_FromSpec(&buffer_spec);
	PyObject *module = PyImport_AddModule("shmpool._hot");
	if (!registered++)
		pthread_atfork(NULL, NULL, forked);
	if (!timeout_name || !pool_type || !queue_type || !buffer_type || !module ||
	    PyModule_AddObjectRef(module, "PoolBase", (PyObject *)pool_type) ||
	    PyModule_AddObjectRef(module, "QueueBase", (PyObject *)queue_type) ||
	    PyModule_AddObjectRef(module, "Buffer", (PyObject *)buffer_type)) {
		PyErr_Print();
		return 1;
	}
	return 0;
}
