/* SPDX-License-Identifier: Apache-2.0
 *
 * items.c - Buffers and Bursts that one call gives away together: AlfQueue.put_many of a list, and
 * Pool.burst.
 *
 * The call first collects the handles, and marks each object HOT_GIVEN, so that one that comes
 * twice is noticed. That runs no Python code. Then it either marks all of them released, or
 * gives all of them their state again.
 */
#include "burst.h"

struct items {
	PyObject *tuple;  /* keeps the objects, and so the states, where they are */
	uint64_t *handle; /* n of them */
	size_t n;
	uint32_t **state; /* of each Buffer and Burst that was marked */
	size_t marked;
	uint32_t before; /* the state that all of them had */
};

static void items_set(const struct items *items, uint32_t state)
{
	for (size_t i = 0; i < items->marked; i++)
		*items->state[i] = state;
}

static void items_close(struct items *items)
{
	PyMem_Free(items->handle);
	PyMem_Free(items->state);
	Py_XDECREF(items->tuple);
}

/* Marks all of them released: their buffers were given away. */
static void items_release(const struct items *items)
{
	items_set(items, HOT_RELEASED);
	for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(items->tuple); i++) {
		PyObject *item = PyTuple_GET_ITEM(items->tuple, i);
		if (!Py_IS_TYPE(item, hot_buffer_type))
			burst_release((struct burst_object *)item);
	}
}

static void mark(struct items *items, uint32_t *state)
{
	*state = HOT_GIVEN;
	items->state[items->marked++] = state;
}

/* Adds a Buffer of the pool. Returns it if it is refused, else NULL. */
static struct buffer_object *add_buffer(struct items *items, struct pool_object *pool,
					struct buffer_object *buffer)
{
	if (!hot_buffer_live(buffer) || buffer->pool != pool || buffer->exports)
		return buffer;
	mark(items, &buffer->state);
	items->handle[items->n++] = buffer->handle;
	return NULL;
}

/* Adds a Burst of the pool. Returns the item that is refused: it, an element of it, or NULL. */
static PyObject *add_burst(struct items *items, struct pool_object *pool,
			   struct burst_object *burst)
{
	if (!burst_live(burst) || burst->pool != pool)
		return (PyObject *)burst;
	for (uint32_t i = 0; i < burst->n; i++) {
		struct buffer_object *element = burst->element ? burst->element[i] : NULL;
		if (!element)
			items->handle[items->n++] = burst->handle[i];
		else if (element->state == HOT_GIVEN ||
			 (burst_has_element(burst, i) && add_buffer(items, pool, element)))
			return (PyObject *)element;
	}
	mark(items, &burst->state);
	return NULL;
}

/* Raises why item i, a Buffer or Burst or an element of it, is refused. owner is the Pool or
 * AlfQueue that takes the items; what names the call. Returns -1. */
static int refuse(PyObject *owner, struct pool_object *pool, PyObject *item, bool twice,
		  const char *what)
{
	struct buffer_object *buffer = (struct buffer_object *)item;
	const bool single = Py_IS_TYPE(item, hot_buffer_type);
	if (twice && single)
		hot_fail(-EDOM, "%s: buffer %u is given twice; each can be given once", what,
			 hot_buffer_index(buffer));
	else if (twice)
		hot_fail(-EDOM, "%s: %R is given twice; each can be given once", what, item);
	else if (!single && burst_usable((struct burst_object *)item))
		return -1;
	else if (single && hot_buffer_usable(buffer, what))
		return -1;
	else if ((single ? buffer->pool : ((struct burst_object *)item)->pool) != pool)
		Py_XDECREF(PyObject_CallMethod(owner, "_refuse_foreign", "O", item));
	else
		hot_buffer_in_use(buffer, what);
	return -1;
}

/* Counts the most handles that the items can have. -1 with a TypeError if one is neither a Buffer
 * nor a Burst. */
static Py_ssize_t items_count(PyObject *tuple, const char *what)
{
	Py_ssize_t n = 0;
	for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(tuple); i++) {
		PyObject *item = PyTuple_GET_ITEM(tuple, i);
		if (Py_IS_TYPE(item, hot_buffer_type)) {
			n++;
		} else if (PyObject_TypeCheck(item, hot_burst_type)) {
			n += ((struct burst_object *)item)->n;
		} else {
			PyErr_Format(PyExc_TypeError,
				     "%s(): item %zd is %R; it must be a shmpool.Buffer or a "
				     "shmpool.Burst",
				     what, i, item);
			return -1;
		}
	}
	return n;
}

/* Collects and marks the items. 0, or -1 with an exception; then nothing is marked. May run Python
 * code before anything is marked. */
static int items_open(struct items *items, PyObject *owner, struct pool_object *pool,
		      PyObject *sequence, const char *what)
{
	*items = (struct items) { .before = hot_process() };
	if (!Py_TYPE(sequence)->tp_iter && !PySequence_Check(sequence)) {
		PyErr_Format(PyExc_TypeError,
			     "%s() takes a shmpool.Burst or a list of Buffers and Bursts, not %R",
			     what, sequence);
		return -1;
	}
	items->tuple = PySequence_Tuple(sequence);
	if (!items->tuple)
		return -1;
	const Py_ssize_t most = items_count(items->tuple, what), n = PyTuple_GET_SIZE(items->tuple);
	PyObject *refused = NULL;
	if (most < 0)
		goto undo;
	items->handle = PyMem_New(uint64_t, (size_t)most);
	items->state = PyMem_New(uint32_t *, (size_t)(most + n));
	if (!items->handle || !items->state) {
		PyErr_NoMemory();
		goto undo;
	}
	for (Py_ssize_t i = 0; i < n && !refused; i++) {
		PyObject *item = PyTuple_GET_ITEM(items->tuple, i);
		refused =
			Py_IS_TYPE(item, hot_buffer_type) ?
				(PyObject *)add_buffer(items, pool, (struct buffer_object *)item) :
				add_burst(items, pool, (struct burst_object *)item);
	}
	if (likely(!refused))
		return 0;
	const bool twice = Py_IS_TYPE(refused, hot_buffer_type) ?
				   ((struct buffer_object *)refused)->state == HOT_GIVEN :
				   ((struct burst_object *)refused)->state == HOT_GIVEN;
	items_set(items, items->before);
	Py_INCREF(refused);
	refuse(owner, pool, refused, twice, what);
	Py_DECREF(refused);
undo:
	items_close(items);
	return -1;
}

PyObject *burst_take(PyObject *object, PyObject *sequence)
{
	struct burst_object *self = (struct burst_object *)object;
	struct items items;
	if (items_open(&items, (PyObject *)self->pool, self->pool, sequence, "burst"))
		return NULL;
	if (burst_empty(self)) { /* after the Python code of items_open() */
		items_set(&items, items.before);
		items_close(&items);
		return NULL;
	}
	PyMem_Free(self->handle);
	self->handle = items.handle;
	self->n = self->room = (uint32_t)items.n;
	self->state = items.before;
	items.handle = NULL;
	items_release(&items);
	items_close(&items);
	Py_RETURN_NONE;
}

PyObject *hot_put_items(PyObject *object, PyObject *args)
{
	struct queue_object *self = (struct queue_object *)object;
	PyObject *sequence, *timeout;
	struct items items;
	struct hot_wait wait = { .operation = HOT_PUT, .pool = self->pool, .queue = self };
	if (!PyArg_ParseTuple(args, "OO", &sequence, &timeout) ||
	    hot_timeout(timeout, &wait.timeout) ||
	    items_open(&items, object, self->pool, sequence, "put_many"))
		return NULL;
	wait.handles = items.handle;
	wait.n = items.n;
	items_set(&items, HOT_MOVING);
	int64_t code = -EINPROGRESS;
	if (items.n <= BURST_LOCKED_MAX || wait.timeout == 0)
		code = shmpool_put_many(hot_queue_key(self), items.handle, items.n);
	code = hot_wait(&wait, code);
	if (likely(code >= 0))
		items_release(&items);
	else
		items_set(&items, items.before);
	PyObject *done = code >= 0 ? Py_NewRef(Py_None) : NULL;
	if (code < 0 && code != HOT_RAISED) {
		PyObject *n =
			PyObject_CallFunction((PyObject *)&PyRange_Type, "n", (Py_ssize_t)items.n);
		if (n)
			hot_queue_raise(self, code, n, 0);
		Py_XDECREF(n);
	}
	items_close(&items);
	return done;
}
