/* SPDX-License-Identifier: Apache-2.0
 *
 * topic.c - shmpool.Sample, one message of a topic in the hands of a subscriber, and the bases of
 * Topic and Subscriber.
 *
 * A Sample is read-only: other subscribers read the same bytes. It keeps its Subscriber alive, which
 * keeps its topic and pool. The struct subscriber of a Subscriber points into the opened pool, so it
 * is used only while the pool has a key; a forked child, which has its parent's objects and not its
 * subscriptions, is told by hot_process().
 */
#include "topic.h"
#include "burst.h"
#include "parts.h"

#define TAKE_MAX 1024 /* messages of one call */

struct subscriber_object {
	PyObject_HEAD
	struct queue_object *topic;
	struct subscriber in;
	uint32_t process; /* hot_process() of the owner, HOT_RELEASED before it is open */
};

struct sample_object {
	PyObject_HEAD
	struct subscriber_object *from;
	uint64_t handle;
	uint64_t sequence;
	uint32_t state;   /* hot_process(), or HOT_RELEASED */
	uint32_t exports; /* live views */
	bool later;       /* let go with the last view */
	uint32_t part;    /* 1 + the part of a chain that the next view covers, or 0 */
};

/* ---- Topic ---- */

static PyObject *topic_hot_open(PyObject *object, PyObject *args)
{
	struct queue_object *self = (struct queue_object *)object;
	PyObject *pool;
	unsigned int number;
	if (!PyArg_ParseTuple(args, "O!I", hot_pool_type, &pool, &number))
		return NULL;
	Py_XSETREF(self->pool, (struct pool_object *)Py_NewRef(pool));
	self->key = self->pool->key | (uint64_t)number << 48;
	Py_RETURN_NONE;
}

static PyObject *topic_hot_close(PyObject *object, PyObject *Py_UNUSED(unused))
{
	((struct queue_object *)object)->key = 0;
	Py_RETURN_NONE;
}

static int topic_traverse(PyObject *object, visitproc visit, void *arg)
{
	Py_VISIT(Py_TYPE(object));
	Py_VISIT(((struct queue_object *)object)->pool);
	return 0;
}

static void topic_dealloc(PyObject *object)
{
	PyTypeObject *type = Py_TYPE(object);
	PyObject_GC_UnTrack(object);
	Py_XDECREF(((struct queue_object *)object)->pool);
	type->tp_free(object);
	Py_DECREF(type);
}

static int64_t publish(const struct hot_wait *wait)
{
	return shmpool_publish(hot_queue_key(wait->queue), wait->handles, wait->n);
}

static PyObject *publish_buffer(struct queue_object *self, PyObject *item, double timeout)
{
	struct buffer_object *buffer = (struct buffer_object *)item;
	uint64_t handle;
	if (hot_buffer_movable(buffer, "put"))
		return NULL;
	if (buffer->pool != self->pool)
		return hot_queue_raise(self, -EPERM, item, 0);
	handle = buffer->handle;
	struct hot_wait wait = { .operation = HOT_PUBLISH,
				 .pool = self->pool,
				 .queue = self,
				 .handles = &handle,
				 .n = 1,
				 .timeout = timeout };
	int64_t code = publish(&wait);
	if (unlikely(code))
		code = hot_wait_moving(&wait, code, buffer);
	if (unlikely(code < 0))
		return hot_queue_raise(self, code, item, 0);
	hot_buffer_release(buffer);
	Py_RETURN_NONE;
}

static PyObject *publish_burst(struct queue_object *self, PyObject *item, double timeout)
{
	struct burst_object *burst = (struct burst_object *)item;
	struct hot_wait wait = {
		.operation = HOT_PUBLISH, .pool = self->pool, .queue = self, .timeout = timeout
	};
	uint64_t *mine;
	int64_t n;
	if (burst_usable(burst))
		return NULL;
	if (burst->pool != self->pool)
		return hot_queue_raise(self, -EPERM, item, 0);
	n = burst_handles(burst, "put_many", &wait.handles, &mine);
	if (n < 0)
		return NULL;
	wait.n = (size_t)n;
	int64_t code = publish(&wait);
	if (unlikely(code < 0)) {
		const uint32_t state = burst->state;
		burst_set_state(burst, HOT_MOVING_BURST);
		code = hot_wait(&wait, code);
		burst_set_state(burst, state);
	}
	PyMem_Free(mine);
	if (unlikely(code < 0))
		return hot_queue_raise(self, code, item, 0);
	burst_release(burst);
	Py_RETURN_NONE;
}

static PyObject *topic_publish_method(PyObject *object, PyObject *const *args, Py_ssize_t n,
				      PyObject *names)
{
	struct hot_arguments given;
	if (hot_parse("publish", "item", args, n, names, &given))
		return NULL;
	if (Py_IS_TYPE(given.item, hot_buffer_type))
		return publish_buffer((struct queue_object *)object, given.item, given.timeout);
	if (PyObject_TypeCheck(given.item, hot_burst_type))
		return publish_burst((struct queue_object *)object, given.item, given.timeout);
	return PyErr_Format(PyExc_TypeError,
			    "publish() takes a shmpool.Buffer or a shmpool.Burst, not %.100s",
			    Py_TYPE(given.item)->tp_name);
}

static PyMethodDef topic_methods[] = {
	{ "_hot_open", topic_hot_open, METH_VARARGS, NULL },
	{ "_hot_close", topic_hot_close, METH_NOARGS, NULL },
	{ "publish", HOT_FAST(topic_publish_method),
	  "publish($self, item, timeout=None)\n--\n\nPublishes a Buffer, or all buffers of a "
	  "Burst, "
	  "which is then released. Every subscriber sees\nthem in place.\n\nWaits up to timeout "
	  "seconds (None: as long as it takes, 0: not at all) for subscribers\nwith the policy "
	  "\"block\".\n\nRaises:\n    Full: such a subscriber was a whole depth behind for that "
	  "long; nothing was published.\n    ShutDown: the topic was shut down.\n"
	  "    BufferInUse: a view of one of the buffers is alive.\n"
	  "    BufferReleased: it was freed, put or published before.\n"
	  "    ForeignBuffer: it belongs to another pool or process.\n"
	  "    PoolClosed, PoolReplaced: see Pool." },
	{ NULL, NULL, 0, NULL },
};

static PyType_Slot topic_slots[] = {
	{ Py_tp_methods, topic_methods },
	{ Py_tp_dealloc, topic_dealloc },
	{ Py_tp_traverse, topic_traverse },
	{ 0, NULL },
};

PyType_Spec hot_topic_spec = { "shmpool._hot.TopicBase", sizeof(struct queue_object), 0,
			       Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
			       topic_slots };

/* ---- Sample ---- */

/* The key of the topic, 0 if the pool is closed. A closed Topic object does not end subscriptions. */
static uint64_t topic_key(const struct subscriber_object *self)
{
	return self->topic && self->topic->pool && self->topic->pool->key && self->in.r ?
		       self->topic->pool->key | (uint64_t)self->in.r->id << 48 :
		       0;
}

static bool subscriber_mine(const struct subscriber_object *self)
{
	return self->process == *hot_process_number;
}

static bool sample_live(const struct sample_object *self)
{
	return self->state == *hot_process_number && topic_key(self->from);
}

static int sample_usable(const struct sample_object *self, const char *what)
{
	if (likely(sample_live(self)))
		return 0;
	struct pool_object *pool = self->from->topic->pool;
	hot_fail_in((PyObject *)pool, hot_not_live(pool, self->state), "%s: message %llu of ", what,
		    (unsigned long long)self->sequence);
	return -1;
}

static int sample_lookup(const struct sample_object *self, const char *what, struct lookup *c)
{
	if (sample_usable(self, what))
		return -1;
	int error = lookup_key(topic_key(self->from), c);
	if (error)
		hot_pool_raise(self->from->topic->pool, error);
	return error ? -1 : 0;
}

static void sample_let_go(struct sample_object *self)
{
	if (sample_live(self))
		shmpool_done(topic_key(self->from), &self->from->in, &self->handle, 1);
	self->state = HOT_RELEASED;
}

static int sample_traverse(PyObject *object, visitproc visit, void *arg)
{
	Py_VISIT(Py_TYPE(object));
	Py_VISIT(((struct sample_object *)object)->from);
	return 0;
}

static void sample_dealloc(PyObject *object)
{
	struct sample_object *self = (struct sample_object *)object;
	PyTypeObject *type = Py_TYPE(object);
	PyObject_GC_UnTrack(object);
	if (self->from)
		sample_let_go(self);
	Py_XDECREF(self->from);
	type->tp_free(object);
	Py_DECREF(type);
}

/* Returns one part of the message; its n is 0 if it has no such part. */
static struct bytes_part part_at(const struct lookup *c, uint64_t handle, uint32_t number)
{
	struct bytes_part part = bytes_first(c->p, handle);
	while (part.n && part.n < number)
		part = bytes_next(c->p, handle, &part);
	return part;
}

static int sample_getbuffer(PyObject *object, Py_buffer *view, int flags)
{
	struct sample_object *self = (struct sample_object *)object;
	struct lookup c;
	view->obj = NULL;
	if (sample_lookup(self, "view", &c))
		return -1;
	if (!self->part && buffer_heads(pool_buffer(c.p, handle_index(self->handle)))) {
		PyErr_Format(
			PyExc_BufferError,
			"message %llu is a chain of buffers, whose bytes are not in one place: "
			"a view of all of it is not possible; use segments or bytes()",
			(unsigned long long)self->sequence);
		return -1;
	}
	const struct bytes_part part = part_at(&c, self->handle, self->part);
	if (PyBuffer_FillInfo(view, object, part.data, (Py_ssize_t)part.length, 1, flags))
		return -1;
	self->exports++;
	self->from->topic->pool->exports++;
	return 0;
}

static void sample_releasebuffer(PyObject *object, Py_buffer *Py_UNUSED(view))
{
	struct sample_object *self = (struct sample_object *)object;
	self->from->topic->pool->exports--;
	if (!--self->exports && self->later)
		sample_let_go(self);
}

static PyObject *sample_bytes(PyObject *object, PyObject *Py_UNUSED(unused))
{
	struct sample_object *self = (struct sample_object *)object;
	struct lookup c;
	if (sample_lookup(self, "bytes", &c))
		return NULL;
	const uint64_t length = bytes_all(c.p, self->handle).length;
	PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)length);
	if (bytes) {
		char *to = PyBytes_AS_STRING(bytes);
		const uint64_t done = bytes_copy_out(c.p, self->handle, to, length);
		memset(to + done, 0, length - done); /* if the lengths have changed: corrupted */
	}
	return bytes;
}

static Py_ssize_t sample_len(PyObject *object)
{
	struct sample_object *self = (struct sample_object *)object;
	struct lookup c;
	return sample_lookup(self, "len", &c) ? -1 :
						(Py_ssize_t)bytes_all(c.p, self->handle).length;
}

static PyObject *sample_view(PyObject *object, void *Py_UNUSED(unused))
{
	return PyMemoryView_FromObject(object);
}

static PyObject *sample_segments(PyObject *object, void *Py_UNUSED(unused))
{
	struct sample_object *self = (struct sample_object *)object;
	struct lookup c;
	if (sample_lookup(self, "segments", &c))
		return NULL;
	uint32_t n = 0;
	for (struct bytes_part part = bytes_first(c.p, self->handle);
	     part.n && (part.length || part.n == 1); part = bytes_next(c.p, self->handle, &part))
		n++;
	PyObject *views = PyTuple_New(n);
	for (uint32_t i = 0; views && i < n; i++) {
		self->part = i + 1;
		PyObject *view = PyMemoryView_FromObject(object);
		self->part = 0;
		if (view)
			PyTuple_SET_ITEM(views, i, view);
		else
			Py_CLEAR(views);
	}
	return views;
}

static PyObject *sample_free(PyObject *object, PyObject *Py_UNUSED(unused))
{
	struct sample_object *self = (struct sample_object *)object;
	if (sample_usable(self, "free"))
		return NULL;
	if (self->exports)
		return hot_fail(-ETXTBSY,
				"message %llu cannot be freed: %u of its views are alive; release "
				"them, or drop every reference to it and to them",
				(unsigned long long)self->sequence, self->exports);
	sample_let_go(self);
	Py_RETURN_NONE;
}

static PyObject *sample_enter(PyObject *object, PyObject *Py_UNUSED(unused))
{
	return sample_usable((struct sample_object *)object, "with") ? NULL : Py_NewRef(object);
}

static PyObject *sample_exit(PyObject *object, PyObject *args)
{
	struct sample_object *self = (struct sample_object *)object;
	if (!sample_live(self))
		Py_RETURN_NONE;
	if (!PyTuple_GET_SIZE(args) || PyTuple_GET_ITEM(args, 0) == Py_None)
		return sample_free(object, NULL);
	if (self->exports) /* an exception leaves the block already */
		self->later = true;
	else
		sample_let_go(self);
	Py_RETURN_NONE;
}

static PyObject *sample_get_sequence(PyObject *object, void *Py_UNUSED(unused))
{
	return PyLong_FromUnsignedLongLong(((struct sample_object *)object)->sequence);
}

static PyObject *sample_get_released(PyObject *object, void *Py_UNUSED(unused))
{
	return PyBool_FromLong(!sample_live((struct sample_object *)object));
}

enum { MARK, FLOW_HASH, TIMESTAMP, INDEX };

static PyObject *sample_get_field(PyObject *object, void *field)
{
	struct sample_object *self = (struct sample_object *)object;
	struct lookup c;
	if (sample_lookup(self, "header", &c))
		return NULL;
	const struct buffer *b = pool_buffer(c.p, handle_index(self->handle));
	switch ((intptr_t)field) {
	case MARK:
		return PyLong_FromUnsignedLong(load_relaxed(&b->mark));
	case FLOW_HASH:
		return PyLong_FromUnsignedLong(load_relaxed(&b->flow_hash));
	case TIMESTAMP:
		return PyLong_FromUnsignedLongLong(load_relaxed(&b->timestamp));
	}
	return PyLong_FromUnsignedLong(handle_index(self->handle));
}

static PyObject *sample_repr(PyObject *object)
{
	struct sample_object *self = (struct sample_object *)object;
	return PyUnicode_FromFormat("<shmpool.Sample %llu%s>", (unsigned long long)self->sequence,
				    sample_live(self) ? "" : " released");
}

static PyObject *sample_reduce(PyObject *object, PyObject *Py_UNUSED(unused))
{
	return PyErr_Format(PyExc_TypeError,
			    "%R cannot be pickled: subscribe in the other process too", object);
}

static PyMethodDef sample_methods[] = {
	{ "__bytes__", sample_bytes, METH_NOARGS, NULL },
	{ "free", sample_free, METH_NOARGS,
	  "free($self)\n--\n\nLets the message go; the Sample is then released.\n\nRaises:\n"
	  "    BufferInUse: a view of it is alive.\n"
	  "    BufferReleased: it was freed before.\n    PoolClosed: the pool is closed." },
	{ "__reduce__", sample_reduce, METH_NOARGS, NULL },
	{ "__enter__", sample_enter, METH_NOARGS, NULL },
	{ "__exit__", sample_exit, METH_VARARGS, NULL },
	{ NULL, NULL, 0, NULL },
};

static PyGetSetDef sample_getset[] = {
	{ "sequence", sample_get_sequence, NULL, "Its number in the topic, from 0 on.", NULL },
	{ "view", sample_view, NULL, "The bytes: a read-only memoryview.", NULL },
	{ "segments", sample_segments, NULL,
	  "The bytes as a tuple of read-only memoryviews, one for each buffer of the message.",
	  NULL },
	{ "released", sample_get_released, NULL, "True if it was let go, or its pool was closed.",
	  NULL },
	{ "mark", sample_get_field, NULL, "32 bits that its publisher set.", (void *)MARK },
	{ "flow_hash", sample_get_field, NULL, "32 bits that its publisher set.",
	  (void *)FLOW_HASH },
	{ "timestamp", sample_get_field, NULL, "Nanoseconds, on the publisher's clock.",
	  (void *)TIMESTAMP },
	{ "index", sample_get_field, NULL, "The buffer's number in its pool.", (void *)INDEX },
	{ NULL, NULL, NULL, NULL, NULL },
};

static PyType_Slot sample_slots[] = {
	{ Py_tp_doc,
	  "One message of a topic, read in place by this process and others.\n\n"
	  "Subscriber.get returns one. It exports its bytes for reading: bytes(sample),\n"
	  "memoryview(sample), numpy.frombuffer(sample). It is let go when it is freed, at the end "
	  "of a\nwith block, or when it and its views are garbage-collected; the buffer goes back "
	  "to "
	  "the\npool when the last holder lets it go and the topic does not keep it any more.\n\n"
	  "Any thread of the process may use a Sample. A forked child may not." },
	{ Py_tp_dealloc, sample_dealloc },
	{ Py_tp_traverse, sample_traverse },
	{ Py_tp_repr, sample_repr },
	{ Py_tp_methods, sample_methods },
	{ Py_tp_getset, sample_getset },
	{ Py_bf_getbuffer, sample_getbuffer },
	{ Py_bf_releasebuffer, sample_releasebuffer },
	{ Py_sq_length, sample_len },
	{ 0, NULL },
};

PyType_Spec hot_sample_spec = { "shmpool.Sample", sizeof(struct sample_object), 0,
				Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION |
					Py_TPFLAGS_HAVE_GC,
				sample_slots };

/* ---- Subscriber ---- */

static PyObject *subscriber_hot_open(PyObject *object, PyObject *args)
{
	struct subscriber_object *self = (struct subscriber_object *)object;
	PyObject *topic;
	unsigned int policy, start;
	if (!PyArg_ParseTuple(args, "O!II", hot_topic_type, &topic, &policy, &start))
		return NULL;
	if (self->topic) {
		PyErr_SetString(PyExc_ValueError, "the subscriber was opened before");
		return NULL;
	}
	self->topic = (struct queue_object *)Py_NewRef(topic);
	self->process = HOT_RELEASED;
	/* Not without the lock: it asks for dead members only if the topic has no place left. */
	const int64_t code =
		shmpool_subscribe_wait(hot_queue_key(self->topic), policy, start, &self->in);
	if (code)
		return hot_queue_raise(self->topic, code, NULL, 0);
	self->process = hot_process();
	Py_RETURN_NONE;
}

static PyObject *subscriber_hot_close(PyObject *object, PyObject *Py_UNUSED(unused))
{
	struct subscriber_object *self = (struct subscriber_object *)object;
	if (topic_key(self) && subscriber_mine(self))
		shmpool_unsubscribe(topic_key(self), &self->in);
	Py_RETURN_NONE;
}

static int subscriber_traverse(PyObject *object, visitproc visit, void *arg)
{
	Py_VISIT(Py_TYPE(object));
	Py_VISIT(((struct subscriber_object *)object)->topic);
	return 0;
}

static void subscriber_dealloc(PyObject *object)
{
	PyTypeObject *type = Py_TYPE(object);
	PyObject_GC_UnTrack(object);
	Py_XDECREF(subscriber_hot_close(object, NULL));
	Py_XDECREF(((struct subscriber_object *)object)->topic);
	type->tp_free(object);
	Py_DECREF(type);
}

/* Gets up to n messages. How many, a code, or HOT_RAISED. */
static int64_t take(struct subscriber_object *self, uint64_t *handles, uint64_t *sequences,
		    size_t n, double timeout)
{
	const uint64_t key = topic_key(self);
	if (!key)
		return -EBADF;
	if (!subscriber_mine(self))
		return -ECHILD;
	struct queue_object named = { .pool = self->topic->pool, .key = key };
	struct hot_wait wait = { .operation = HOT_TAKE,
				 .pool = self->topic->pool,
				 .queue = &named,
				 .handles = handles,
				 .n = n,
				 .timeout = timeout,
				 .subscriber = &self->in,
				 .sequences = sequences };
	hot_recover_if_due(self->topic->pool);
	return hot_wait(&wait, shmpool_take(key, &self->in, handles, sequences, n));
}

static PyObject *subscriber_raise(struct subscriber_object *self, int64_t code)
{
	return code == HOT_RAISED ?
		       NULL :
		       PyObject_CallMethod((PyObject *)self, "_fail", "L", (long long)code);
}

static struct sample_object *sample_new(struct subscriber_object *from)
{
	struct sample_object *self = PyObject_GC_New(struct sample_object, hot_sample_type);
	if (!self)
		return NULL;
	self->from = (struct subscriber_object *)Py_NewRef(from);
	self->state = HOT_RELEASED;
	self->exports = self->part = 0;
	self->handle = self->sequence = 0;
	self->later = false;
	PyObject_GC_Track(self);
	return self;
}

/* Gets one message, or NULL with a negative *code; -1 for an exception. */
static PyObject *take_one(struct subscriber_object *self, double timeout, int64_t *code)
{
	struct sample_object *sample = sample_new(self);
	*code = HOT_RAISED;
	if (!sample)
		return NULL;
	*code = take(self, &sample->handle, &sample->sequence, 1, timeout);
	if (likely(*code > 0)) {
		sample->state = hot_process();
		return (PyObject *)sample;
	}
	if (!*code)
		*code = -EAGAIN;
	Py_DECREF(sample);
	return NULL;
}

static PyObject *subscriber_get(PyObject *object, PyObject *const *args, Py_ssize_t n,
				PyObject *names)
{
	struct subscriber_object *self = (struct subscriber_object *)object;
	struct hot_arguments given;
	int64_t code;
	if (hot_parse("get", NULL, args, n, names, &given))
		return NULL;
	PyObject *sample = take_one(self, given.timeout, &code);
	return likely(sample) ? sample : subscriber_raise(self, code);
}

static PyObject *subscriber_try_get(PyObject *object, PyObject *Py_UNUSED(unused))
{
	struct subscriber_object *self = (struct subscriber_object *)object;
	int64_t code;
	PyObject *sample = take_one(self, 0, &code);
	if (sample)
		return sample;
	if (code == -EAGAIN)
		Py_RETURN_NONE;
	return subscriber_raise(self, code);
}

/* Fills a list of n new Samples, none of them filled before: no exception can lose a message. */
static PyObject *subscriber_take_many(PyObject *object, PyObject *args)
{
	struct subscriber_object *self = (struct subscriber_object *)object;
	uint64_t handle[TAKE_MAX], sequence[TAKE_MAX];
	PyObject *list, *given;
	Py_ssize_t most;
	double timeout;
	if (!PyArg_ParseTuple(args, "O!nO", &PyList_Type, &list, &most, &given) ||
	    hot_timeout(given, &timeout))
		return NULL;
	if (most > TAKE_MAX)
		most = TAKE_MAX;
	if (most < 1 || PyList_GET_SIZE(list)) {
		PyErr_SetString(PyExc_ValueError, "an empty list, and 1 or more");
		return NULL;
	}
	PyObject *fresh = PyList_New(most);
	for (Py_ssize_t i = 0; fresh && i < most; i++) {
		struct sample_object *sample = sample_new(self);
		if (sample)
			PyList_SET_ITEM(fresh, i, (PyObject *)sample);
		else
			Py_CLEAR(fresh);
	}
	if (!fresh)
		return NULL;
	const int64_t got = take(self, handle, sequence, (size_t)most, timeout);
	if (got <= 0) {
		Py_DECREF(fresh);
		return subscriber_raise(self, got ? got : -EAGAIN);
	}
	for (Py_ssize_t i = 0; i < got; i++) {
		struct sample_object *sample = (struct sample_object *)PyList_GET_ITEM(fresh, i);
		sample->handle = handle[i];
		sample->sequence = sequence[i];
		sample->state = hot_process();
	}
	int error = PyList_SetSlice(fresh, (Py_ssize_t)got, most, NULL) ||
		    PyList_SetSlice(list, 0, 0, fresh);
	Py_DECREF(fresh);
	if (error)
		return NULL;
	Py_RETURN_NONE;
}

static PyObject *subscriber_get_gaps(PyObject *object, void *Py_UNUSED(unused))
{
	return PyLong_FromUnsignedLongLong(
		load_relaxed(&((struct subscriber_object *)object)->in.gaps));
}

static PyObject *subscriber_get_lag(PyObject *object, void *Py_UNUSED(unused))
{
	struct subscriber_object *self = (struct subscriber_object *)object;
	if (!topic_key(self) || !subscriber_mine(self) || self->in.closed)
		return PyLong_FromLong(0);
	return PyLong_FromUnsignedLongLong(topic_lag(&self->in));
}

static PyObject *subscriber_get_closed(PyObject *object, void *Py_UNUSED(unused))
{
	struct subscriber_object *self = (struct subscriber_object *)object;
	return PyBool_FromLong(!topic_key(self) || !subscriber_mine(self) || self->in.closed);
}

static PyObject *subscriber_reduce(PyObject *object, PyObject *Py_UNUSED(unused))
{
	return PyErr_Format(PyExc_TypeError,
			    "%R cannot be pickled: pass the topic, and subscribe in the other "
			    "process",
			    object);
}

static PyMethodDef subscriber_methods[] = {
	{ "_hot_open", subscriber_hot_open, METH_VARARGS, NULL },
	{ "_hot_close", subscriber_hot_close, METH_NOARGS, NULL },
	{ "_take_many", subscriber_take_many, METH_VARARGS, NULL },
	{ "get", HOT_FAST(subscriber_get),
	  "get($self, timeout=None)\n--\n\nGets the next message as a Sample: the oldest that this "
	  "subscriber has not got, or with\nthe policy \"latest\" the newest.\n\nWaits up to "
	  "timeout "
	  "seconds (None: as long as it takes, 0: not at all) for one.\n\nRaises:\n"
	  "    Empty: there was none for that long.\n"
	  "    ShutDown: there is none, and the topic was shut down.\n"
	  "    PoolClosed, PoolReplaced: the subscriber or its pool is closed; see Pool." },
	{ "try_get", subscriber_try_get, METH_NOARGS,
	  "try_get($self)\n--\n\nget(timeout=0) that returns None instead of raising Empty: for "
	  "loops "
	  "that poll." },
	{ "__reduce__", subscriber_reduce, METH_NOARGS, NULL },
	{ NULL, NULL, 0, NULL },
};

static PyGetSetDef subscriber_getset[] = {
	{ "gaps", subscriber_get_gaps, NULL, "How many messages it has missed.", NULL },
	{ "lag", subscriber_get_lag, NULL, "How many messages it has not got yet.", NULL },
	{ "closed", subscriber_get_closed, NULL, "True if it gets no more messages.", NULL },
	{ NULL, NULL, NULL, NULL, NULL },
};

static PyType_Slot subscriber_slots[] = {
	{ Py_tp_methods, subscriber_methods },
	{ Py_tp_getset, subscriber_getset },
	{ Py_tp_dealloc, subscriber_dealloc },
	{ Py_tp_traverse, subscriber_traverse },
	{ 0, NULL },
};

PyType_Spec hot_subscriber_spec = { "shmpool._hot.SubscriberBase", sizeof(struct subscriber_object),
				    0,
				    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
				    subscriber_slots };
