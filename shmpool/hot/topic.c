/* SPDX-License-Identifier: Apache-2.0
 *
 * topic.c - the base of shmpool.Topic: publishes.
 */
#include "burst.h"

static PyObject *topic_hot_open(PyObject *object, PyObject *args)
{
	struct queue_object *self = (struct queue_object *)object;
	PyObject *pool;
	unsigned int number;
	if (!PyArg_ParseTuple(args, "O!I", hot_pool_type, &pool, &number))
		return NULL;
	Py_XSETREF(self->pool, (struct pool_object *)Py_NewRef(pool));
	hot_queue_open(self, self->pool->key | (uint64_t)number << KEY_QUEUE_SHIFT, 0);
	Py_RETURN_NONE;
}

static PyObject *topic_hot_close(PyObject *object, PyObject *Py_UNUSED(unused))
{
	hot_queue_open((struct queue_object *)object, 0, 0);
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
