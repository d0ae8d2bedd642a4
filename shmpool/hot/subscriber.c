/* SPDX-License-Identifier: Apache-2.0
 *
 * subscriber.c - the base of shmpool.Subscriber: gets messages.
 */
#include "samples.h"

#define TAKE_MAX 1024 /* messages of one call */

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
	self->process = self->quick = HOT_RELEASED;
	const uint64_t key = hot_queue_key(self->topic);
	int64_t code = shmpool_subscribe(key, policy, start, &self->in);
	if (code == -EINPROGRESS) { /* no member slot yet: waits for one without the lock */
		hot_recover(self->topic->pool);
		code = shmpool_subscribe(hot_queue_key(self->topic), policy, start, &self->in);
	}
	if (code)
		return hot_queue_raise(self->topic, code, NULL, 0);
	self->process = self->quick = hot_process();
	Py_RETURN_NONE;
}

/* As that of a queue. */
static PyObject *subscriber_watch(PyObject *object, PyObject *waker)
{
	struct subscriber_object *self = (struct subscriber_object *)object;
	const long number = PyLong_AsLong(waker);
	if (number == -1 && PyErr_Occurred())
		return NULL;
	self->waker = (int)number;
	self->quick = number ? HOT_RELEASED : self->process;
	Py_RETURN_NONE;
}

static PyObject *subscriber_hot_close(PyObject *object, PyObject *Py_UNUSED(unused))
{
	struct subscriber_object *self = (struct subscriber_object *)object;
	if (samples_key(self) && samples_mine(self))
		shmpool_unsubscribe(samples_key(self), &self->in);
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
	free(((struct subscriber_object *)object)->in.backlog);
	Py_XDECREF(((struct subscriber_object *)object)->topic);
	type->tp_free(object);
	Py_DECREF(type);
}

/* Gets up to n messages. How many, a code, or HOT_RAISED. */
static int64_t take(struct subscriber_object *self, uint64_t *handles, uint64_t *sequences,
		    size_t n, double timeout)
{
	const uint64_t key = samples_key(self);
	if (!key)
		return -EBADF;
	const bool quick = likely(self->quick == *hot_process_number);
	if (!quick && !samples_mine(self))
		return -ECHILD;
	struct queue_object named = { .pool = self->topic->pool, .key = key, .waker = self->waker };
	struct hot_wait wait = { .operation = HOT_TAKE,
				 .pool = self->topic->pool,
				 .queue = &named,
				 .handles = handles,
				 .n = n,
				 .timeout = timeout,
				 .subscriber = &self->in,
				 .sequences = sequences };
	hot_recover_if_due(self->topic->pool);
	return hot_wait(&wait,
			quick ? shmpool_take(key, &self->in, handles, sequences, n) : -EBADF);
}

static PyObject *subscriber_raise(struct subscriber_object *self, int64_t code)
{
	return code == HOT_RAISED ?
		       NULL :
		       PyObject_CallMethod((PyObject *)self, "_fail", "L", (long long)code);
}

/* Gets one message, or NULL with a negative *code; -1 for an exception. */
static PyObject *take_one(struct subscriber_object *self, double timeout, int64_t *code)
{
	struct sample_object *sample = samples_new(self);
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

/* True if a get need not wait. */
static PyObject *subscriber_may_take(PyObject *object, PyObject *Py_UNUSED(unused))
{
	struct subscriber_object *self = (struct subscriber_object *)object;
	bool unsure;
	if (!samples_key(self) || !samples_mine(self) || self->in.closed)
		return subscriber_raise(self, !samples_key(self)  ? -EBADF :
					      !samples_mine(self) ? -ECHILD :
								    -ENOTCONN);
	return PyBool_FromLong(topic_ready(self->in.r, self->in.number, self->in.token, &unsure));
}

static uint64_t subscriber_lag(struct subscriber_object *self)
{
	return samples_key(self) && samples_mine(self) ? topic_lag(&self->in) : 0;
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
	const uint64_t there = subscriber_lag(self);
	if (there && there < (uint64_t)most)
		most = (Py_ssize_t)there; /* so that few are made in vain */
	PyObject *fresh = PyList_New(most);
	for (Py_ssize_t i = 0; fresh && i < most; i++) {
		struct sample_object *sample = samples_new(self);
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
	return PyLong_FromUnsignedLongLong(subscriber_lag((struct subscriber_object *)object));
}

static PyObject *subscriber_get_closed(PyObject *object, void *Py_UNUSED(unused))
{
	struct subscriber_object *self = (struct subscriber_object *)object;
	return PyBool_FromLong(!samples_key(self) || !samples_mine(self) || self->in.closed);
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
	{ "_watch", subscriber_watch, METH_O, NULL },
	{ "_may_take", subscriber_may_take, METH_NOARGS, NULL },
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

static PyObject *subscriber_get_where(PyObject *object, void *Py_UNUSED(unused))
{
	struct subscriber_object *self = (struct subscriber_object *)object;
	const uint32_t number = self->in.number << SHMPOOL_SUBSCRIBER_SHIFT;
	return PyLong_FromUnsignedLong(samples_key(self) ? self->in.r->id | number : 0);
}

static PyGetSetDef subscriber_getset[] = {
	{ "_where", subscriber_get_where, NULL, NULL, NULL }, /* what waits are told */
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
