/* SPDX-License-Identifier: Apache-2.0
 *
 * hot.h - the calls that are made once a packet, as Python objects: Buffer, and the bases of Pool and
 * AlfQueue. Compiled into shmpool._native beside the cffi functions, with the same core under it.
 *
 * What is in here: one attempt that does not wait, for arguments of the usual kind; get, recv and send
 * also wait, because that is on the way of every message that is waited for, or that finds no room.
 * Everything else, other waiting and every other error, is Python's: the attempt's code goes to the method
 * _alloc_slow, _put_slow, ... of the object, or to what turns codes into exceptions (hot_fail).
 *
 * Why not cffi for these: docs/decisions/0003-hot-calls.md. Thread safety: the interpreter's lock.
 */
#ifndef SHMPOOL_HOT_H
#define SHMPOOL_HOT_H

#include <Python.h>

#include "call.h"
#include "copy.h"

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
	PyObject *empty; /* what Empty says */
};

struct buffer_object {
	PyObject_HEAD struct pool_object *pool;
	uint64_t key;     /* slot, serial, generation, index */
	uint32_t life;    /* hot_life when it was made, or HOT_SPENT */
	uint32_t exports; /* views that are alive */
	uint64_t headroom;
	uint64_t length;
	bool whole; /* the next view is of the whole room */
};

extern PyTypeObject *hot_pool_type, *hot_queue_type, *hot_buffer_type;
extern PyType_Spec hot_pool_spec, hot_queue_spec, hot_buffer_spec;
extern PyObject *hot_empty_error; /* errors.Empty */

/* Tells a process from those it is forked from: a parent's Buffer is not the child's. The word lies in
 * memory that the kernel wipes on fork, whoever calls it: there it is 0 until the child's first Buffer. */
#define HOT_SPENT UINT32_MAX
extern uint32_t *hot_life;
extern uint32_t hot_lives;

static inline uint32_t hot_this_life(void)
{
	if (unlikely(!*hot_life))
		*hot_life = ++hot_lives;
	return *hot_life;
}

/* Raises the exception for a negative code; NULL. What happened is formatted by PyUnicode_FromFormat(). */
PyObject *hot_fail(int64_t code, const char *what, ...);

/* What a call was given. */
struct hot_arguments {
	PyObject *item; /* what it is about */
	PyObject *timeout;
};

/* Takes the arguments of the method name: the one called first, unless that is NULL, and timeout. 0, or -1 with
 * an exception. */
int hot_parse_all(const char *name, const char *first, PyObject *const *args, Py_ssize_t n,
		  PyObject *names, struct hot_arguments *out);

/* The same, quicker where there is no timeout. */
static inline int hot_parse(const char *name, const char *first, PyObject *const *args,
			    Py_ssize_t n, PyObject *names, struct hot_arguments *out)
{
	if (names || n != (first != NULL))
		return hot_parse_all(name, first, args, n, names, out);
	*out = (struct hot_arguments) { first ? args[0] : NULL, Py_None };
	return 0;
}

/* What a message's timeout means: the CLOCK_MONOTONIC deadline, 0 if it does not wait, -1 if Python must look
 * at it. */
int64_t hot_deadline(PyObject *timeout);

/* Whether a wait goes on after a signal; if not, the handler has raised. */
static inline bool hot_goes_on(int64_t code)
{
	return code == -EINTR && !PyErr_CheckSignals();
}

/* queue.c's methods that are in bulk.c. */
PyObject *hot_send_many(PyObject *object, PyObject *const *args, Py_ssize_t n, PyObject *names);
PyObject *hot_recv_many(PyObject *object, PyObject *const *args, Py_ssize_t n, PyObject *names);

static inline uint64_t hot_queue_key(const struct queue_object *self)
{
	return self->pool && self->pool->key ? self->key : 0;
}

/* The bytes in a buffer; what somebody scribbled over the header is taken for nothing. */
static inline PyObject *hot_payload(const struct pool_object *pool, const struct buffer *b,
				    uint32_t index)
{
	uint64_t head = load_relaxed(&b->headroom), length = load_relaxed(&b->length);
	if (unlikely(head > pool->stride || length > pool->stride - head))
		head = length = 0;
	const char *from = pool->data + index * pool->stride + head;
	if (likely(length < COPY_LARGE))
		return PyBytes_FromStringAndSize(from, (Py_ssize_t)length);
	PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)length);
	if (likely(bytes))
		copy_bytes(PyBytes_AS_STRING(bytes), from, length);
	return bytes;
}

/* The Buffer of an answer (shmpool.h). */
PyObject *hot_buffer(struct pool_object *pool, int64_t answer);

/* 0 if the buffer can be given away: it is not spent, and no view of it is alive. */
int hot_buffer_movable(struct buffer_object *self, const char *what);

/* buffer.c's method that is in requeue.c. */
PyObject *hot_buffer_nack(PyObject *object, PyObject *const *args, Py_ssize_t n, PyObject *names);
extern const char HOT_NACK_DOC[];

/* It was given away. Its key still says which one it was. */
static inline void hot_buffer_spend(struct buffer_object *self)
{
	self->life = HOT_SPENT;
}

/* Makes the module shmpool._hot. fail is the address of the function that raises, which stays alive
 * with its module. Returns 0, or 1 with the exception printed. */
uint64_t hot_install(uint64_t fail);

#define HOT_FAST(f) (PyCFunction)(void (*)(void)) f, METH_FASTCALL | METH_KEYWORDS

#endif
