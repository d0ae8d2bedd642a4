/* SPDX-License-Identifier: Apache-2.0
 *
 * buffer.c - shmpool.Buffer: one buffer in this process's hands. Exports its bytes and counts the
 * views, so that a view keeps it from being freed or put.
 */
#include "hot.h"

PyObject *hot_buffer(struct pool_object *pool, int64_t answer)
{
	struct buffer_object *self = PyObject_New(struct buffer_object, hot_buffer_type);
	if (!self)
		return NULL;
	Py_INCREF(pool);
	self->pool = pool;
	self->key = pool->key | (uint32_t)answer;
	self->life = hot_this_life();
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

static inline uint32_t buffer_index(const struct buffer_object *self)
{
	return self->key & ALF_INDEX_MASK;
}

/* Raises an exception that says which buffer it was; NULL. */
static PyObject *buffer_fail(const struct buffer_object *self, int64_t code, const char *what)
{
	PyObject *name = PyObject_GetAttrString((PyObject *)self->pool, "name");
	if (name)
		hot_fail(code, "%s: buffer %u of pool %R", what, buffer_index(self), name);
	Py_XDECREF(name);
	return NULL;
}

/* Whether it is neither spent, nor another process's, nor of a pool that was closed. */
static inline bool buffer_live(const struct buffer_object *self)
{
	return likely(self->life == *hot_life && self->pool->key);
}

/* 0 if the caller may use the buffer. */
static inline int buffer_usable(struct buffer_object *self, const char *what)
{
	if (buffer_live(self))
		return 0;
	buffer_fail(self,
		    !self->pool->key        ? -EBADF :
		    self->life == HOT_SPENT ? -ESTALE :
					      -ECHILD,
		    what);
	return -1;
}

static inline char *buffer_bytes(const struct buffer_object *self)
{
	return self->pool->data + buffer_index(self) * self->pool->stride + self->headroom;
}

static void in_use(const struct buffer_object *self, const char *what)
{
	const char *rest = self->exports == 1 ? " or numpy array of it is alive; delete it" :
						"s or numpy arrays of it are alive; delete them";
	hot_fail(-ETXTBSY, "buffer %u cannot be %s: %u memoryview%s first (del img)",
		 buffer_index(self), *what == 'f' ? "freed" : "put", self->exports, rest);
}

/* Gives the buffer away: nothing may look at it any more. */
int hot_buffer_movable(struct buffer_object *self, const char *what)
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
	if (buffer_live(self))
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

static inline int64_t set_length(struct buffer_object *self, uint64_t length)
{
	int64_t error = shmpool_set_length(self->key, length);
	if (likely(!error))
		self->length = length;
	return error;
}

/* After set_length(): -1 with an exception. Takes over the reference to the length. */
static int length_refused(struct buffer_object *self, int64_t error, PyObject *length)
{
	if (error != -EMSGSIZE)
		buffer_fail(self, error, "length");
	else if (length)
		hot_fail(error, "length is %R bytes; the buffer has room for %llu", length,
			 (unsigned long long)(self->pool->stride - self->headroom));
	Py_XDECREF(length);
	return -1;
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
	Py_ssize_t length = PyNumber_AsSsize_t(value, NULL); /* the nearest, if it is beyond */
	if (length == -1 && PyErr_Occurred()) {
		PyErr_Format(PyExc_TypeError, "length is %R; it must be an int", value);
		return -1;
	}
	if (length < 0) {
		hot_fail(-EDOM, "length is %R bytes; it cannot be negative", value);
		return -1;
	}
	int64_t error = set_length(self, (uint64_t)length);
	return likely(!error) ? 0 : length_refused(self, error, Py_NewRef(value));
}

static PyObject *buffer_get_field(PyObject *object, void *field)
{
	struct buffer_object *self = (struct buffer_object *)object;
	if (buffer_usable(self, "header"))
		return NULL;
	int64_t value = shmpool_field(self->key, (int)(intptr_t)field);
	return value < 0 ? buffer_fail(self, value, "header") : PyLong_FromLongLong(value);
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
		if (PyErr_ExceptionMatches(PyExc_TypeError)) {
			PyErr_Format(PyExc_TypeError, "%s is %R; it must be an int", name, value);
			return -1;
		}
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
		hot_fail(-EDOM, "%s is %R; allowed are 0 to %llu", name, value,
			 (unsigned long long)most);
		return -1;
	}
	int64_t error = shmpool_set_field(self->key, (int)(intptr_t)field, number);
	if (error) {
		buffer_fail(self, error, name);
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
	return buffer_usable(self, "index") ? NULL : PyLong_FromUnsignedLong(buffer_index(self));
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
	return PyBool_FromLong(!buffer_live(self));
}

static PyObject *buffer_write(PyObject *object, PyObject *payload)
{
	struct buffer_object *self = (struct buffer_object *)object;
	Py_buffer from;
	if (buffer_usable(self, "write") || PyObject_GetBuffer(payload, &from, PyBUF_SIMPLE))
		return NULL;
	int64_t error = set_length(self, (uint64_t)from.len);
	if (likely(!error))
		copy_bytes(buffer_bytes(self), from.buf, (size_t)from.len);
	else
		length_refused(self, error, PyLong_FromSsize_t(from.len));
	PyBuffer_Release(&from);
	return error ? NULL : PyLong_FromUnsignedLongLong(self->length);
}

static PyObject *buffer_free(PyObject *object, PyObject *unused)
{
	struct buffer_object *self = (struct buffer_object *)object;
	(void)unused;
	if (hot_buffer_movable(self, "free"))
		return NULL;
	int64_t error = shmpool_free(self->key);
	if (unlikely(error))
		return buffer_fail(self, error, "free");
	hot_buffer_spend(self);
	Py_RETURN_NONE;
}

/* For a Burst that takes its element back: what _restore() takes; the buffer is spent then. */
static PyObject *buffer_reclaim(PyObject *object, PyObject *unused)
{
	struct buffer_object *self = (struct buffer_object *)object;
	(void)unused;
	if (hot_buffer_movable(self, "free"))
		return NULL;
	PyObject *life = PyLong_FromUnsignedLong(self->life);
	if (life)
		hot_buffer_spend(self);
	return life;
}

/* For a Burst that could not be put: with what _reclaim() gave. */
static PyObject *buffer_restore(PyObject *object, PyObject *life)
{
	((struct buffer_object *)object)->life = (uint32_t)PyLong_AsUnsignedLong(life);
	Py_RETURN_NONE;
}

static PyObject *buffer_get_exports(PyObject *object, void *unused)
{
	(void)unused;
	return PyLong_FromUnsignedLong(((struct buffer_object *)object)->exports);
}

static PyObject *buffer_reduce(PyObject *object, PyObject *unused)
{
	(void)unused;
	return PyErr_Format(PyExc_TypeError, "%R cannot be pickled: put it into a queue", object);
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
	if (!buffer_live(self))
		Py_RETURN_NONE; /* put into a queue, or freed, inside the block */
	return buffer_free(object, NULL);
}

static PyObject *buffer_repr(PyObject *object)
{
	struct buffer_object *self = (struct buffer_object *)object;
	if (!buffer_live(self))
		return PyUnicode_FromString("<shmpool.Buffer released>");
	return PyUnicode_FromFormat("<shmpool.Buffer %u, %llu of %llu bytes>", buffer_index(self),
				    (unsigned long long)self->length,
				    (unsigned long long)(self->pool->stride - self->headroom));
}

static PyMethodDef buffer_methods[] = {
	{ "write", buffer_write, METH_O,
	  "write($self, payload, /)\n--\n\nCopies any bytes-like object to the start of data and "
	  "sets length.\n\nReturns the length in bytes. PayloadTooLarge if it does not fit." },
	{ "free", buffer_free, METH_NOARGS,
	  "free($self)\n--\n\nReturns the buffer to its pool. BufferInUse while a view is alive." },
	{ "_reclaim", buffer_reclaim, METH_NOARGS, NULL },
	{ "_restore", buffer_restore, METH_O, NULL },
	{ "__reduce__", buffer_reduce, METH_NOARGS, NULL },
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
	{ Py_tp_doc,
	  "One buffer of a pool, in this process's hands.\n\n"
	  "Made by Pool.alloc and AlfQueue.get. It ends when it is freed, put or dropped; any "
	  "later\n"
	  "use is BufferReleased, also while its put waits. It exports its bytes (bytes(buf),\n"
	  "memoryview(buf), numpy.frombuffer(buf)); while such a view is alive it can be neither\n"
	  "freed nor put. Any thread may use it, one at a time; a forked child may not." },
	{ Py_tp_dealloc, buffer_dealloc },
	{ Py_tp_repr, buffer_repr },
	{ Py_tp_methods, buffer_methods },
	{ Py_tp_getset, buffer_getset },
	{ Py_bf_getbuffer, buffer_getbuffer },
	{ Py_bf_releasebuffer, buffer_releasebuffer },
	{ Py_sq_length, buffer_len },
	{ 0, NULL },
};

PyType_Spec hot_buffer_spec = { "shmpool.Buffer", sizeof(struct buffer_object), 0,
				Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
				buffer_slots };
