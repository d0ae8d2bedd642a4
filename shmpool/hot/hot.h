/* SPDX-License-Identifier: Apache-2.0
 *
 * hot.h - what Python holds, as C types: the mapping of a pool, Buffer, and the bases of Pool,
 * AlfQueue and Burst. Compiled into shmpool._native beside the cffi functions, with the same core
 * under it.
 *
 * What is in here: every call that takes buffers or gives them away, and the end of the mapping.
 * Python runs a signal handler between any two bytecodes, and the handler may raise. So one C call
 * both does a thing and records it in the object that owns it:
 *
 *     take      the object is made, with room for the handles, before anything is taken
 *     give      the object is marked released in the call that gives
 *     wait      handlers run inside the loop of the wait (hot_goes_on), when nothing is taken and not recorded
 *     close     the exports are checked, the pool is closed, unmapped and its file closed in one call
 *
 * What only describes things or raises exceptions is Python's: a code goes to the method _fail,
 * _put_failed, ... of the object, or to what turns codes into exceptions (hot_fail).
 *
 * Why not cffi for these: docs/decisions/0003-hot-calls.md. Thread safety: the interpreter's lock.
 * Where a call releases it, the call is counted from before to after (opening.h): HOT_UNLOCKED.
 */
#ifndef SHMPOOL_HOT_H
#define SHMPOOL_HOT_H

#include <Python.h>

#ifdef Py_GIL_DISABLED
#error "shmpool's C types rely on the interpreter's lock: no free-threaded Python"
#endif

#include "call.h"
#include "copy.h"

/* A pool's file in this process: its descriptor, its mapping, and the number of its opening. */
struct segment_object {
	PyObject_HEAD int fd; /* -1 for none */
	uint32_t number;      /* of the opening, 0 for none */
	bool read_only;       /* its mapping: the opening has no token and no members */
	char *base;           /* NULL while it is not mapped */
	uint64_t size;
	uint64_t device, inode; /* of the mapped file */
	/* Of a file that is being made: its name, and what keeps others from removing it
	 * (shmpool_hold), in the process of that life. */
	char *temporary;
	char *ending; /* the path that ends with it */
	void *hold;
	uint32_t life;
};

struct pool_object {
	PyObject_HEAD uint64_t key; /* slot and serial; 0 when it is closed */
	char *data;                 /* the first buffer's room */
	uint64_t stride;
	uint64_t headroom;
	uint64_t exports;               /* views of its buffers that are alive */
	struct segment_object *segment; /* NULL when it is closed */
	bool opened;                    /* it was once */
};

struct queue_object {
	PyObject_HEAD struct pool_object *pool;
	uint64_t key;    /* 0 when it is closed */
	PyObject *empty; /* what Empty says */
};

/* headroom and length are the object's own copies, checked when they were read: headroom + length
 * <= stride. */
struct buffer_object {
	PyObject_HEAD struct pool_object *pool;
	uint64_t handle;
	uint32_t life;    /* hot_life when it was made, or HOT_SPENT, ... */
	uint32_t was;     /* with HOT_LEAVING: its life before */
	uint32_t exports; /* views that are alive */
	bool whole;       /* the next view is of the whole room */
	uint64_t headroom;
	uint64_t length;
};

struct burst_object {
	PyObject_HEAD struct pool_object *pool;
	uint64_t *handle; /* n of them, in memory of its own */
	struct buffer_object *
		*element; /* the Buffers that burst[i] gave out; NULL before the first */
	uint32_t n;
	uint32_t room; /* how many handles fit */
	uint32_t life; /* as a Buffer's; HOT_SPENT before anything is taken */
};

extern PyTypeObject *hot_segment_type, *hot_pool_type, *hot_queue_type, *hot_buffer_type,
	*hot_burst_type;
extern PyType_Spec hot_segment_spec, hot_pool_spec, hot_queue_spec, hot_buffer_spec, hot_burst_spec;
extern PyObject *hot_empty_error; /* errors.Empty */

/* Tells a process from those it is forked from: a parent's Buffer is not the child's. The word lies
 * in memory that the kernel wipes on fork, whoever calls it: there it is 0 until the child's first
 * Buffer. */
#define HOT_SPENT UINT32_MAX /* freed or put */
#define HOT_MOVING                                                                                 \
	(UINT32_MAX - 1) /* its put waits: it is nobody's to use, and comes back if the put fails */
#define HOT_LEAVING (UINT32_MAX - 2) /* freed with its last view */
extern uint32_t *hot_life;
extern uint32_t hot_lives;

static inline uint32_t hot_this_life(void)
{
	if (unlikely(!*hot_life))
		*hot_life = ++hot_lives;
	return *hot_life;
}

/* Raises the exception for a negative code; NULL. What happened is formatted by
 * PyUnicode_FromFormat(). */
PyObject *hot_fail(int64_t code, const char *what, ...);

/* result = expression, without the interpreter's lock, as a counted call on the pool that key
 * names; -EBADF for key 0, that of a closed one. The count ends before the lock is taken again,
 * which a thread may not survive when the interpreter ends. */
#define HOT_UNLOCKED(key, result, expression)                                                      \
	do {                                                                                       \
		uint32_t *counted_ = opening_begin(key_pool(key));                                 \
		PyThreadState *state_ = PyEval_SaveThread();                                       \
		(result) = (key) ? (expression) : -EBADF;                                          \
		opening_end(counted_);                                                             \
		PyEval_RestoreThread(state_);                                                      \
	} while (0)

/* Looks for dead members if it is time to, without the interpreter's lock: at the begin of a call,
 * when nothing has been taken yet. */
void hot_tend_now(uint64_t key);
static inline void hot_tend(const struct pool_object *pool)
{
	if (unlikely(pool && load_relaxed(&opening_pools[pool->key >> 58].tend_due)))
		hot_tend_now(pool->key);
}

/* What a call was given. */
struct hot_arguments {
	PyObject *item; /* what it is about */
	PyObject *timeout;
};

/* Takes the arguments of the method name: the one called first, unless that is NULL, and timeout.
 * 0, or -1 with an exception. */
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

/* The CLOCK_MONOTONIC deadline of a timeout in seconds: WAIT_FOREVER for None, 0 for none; -1 with
 * an exception. Runs Python code if the timeout is neither float nor int. */
int64_t hot_deadline(PyObject *timeout);

/* What an argument that is an int, or can be one (numpy's are), says: a new reference, or NULL with
 * a TypeError that calls it what. Runs Python code if it is no int. */
PyObject *hot_int(PyObject *value, const char *what);

/* Whether a wait goes on after a call that ended with *code: after a signal, or a slice of the
 * wait. If not, and *code is -EINTR then, an exception is set: the handler's, or PoolReplaced,
 * which a wait that has timed out ends with too. */
bool hot_goes_on(struct pool_object *pool, int64_t deadline, int64_t *code);

/* queue.c's methods that are in payload.c and bulk.c. */
PyObject *hot_send(PyObject *object, PyObject *const *args, Py_ssize_t n, PyObject *names);
PyObject *hot_recv(PyObject *object, PyObject *const *args, Py_ssize_t n, PyObject *names);
PyObject *hot_try_recv(PyObject *object, PyObject *unused);
PyObject *hot_send_many(PyObject *object, PyObject *const *args, Py_ssize_t n, PyObject *names);
PyObject *hot_recv_many(PyObject *object, PyObject *const *args, Py_ssize_t n, PyObject *names);

static inline uint64_t hot_queue_key(const struct queue_object *self)
{
	return self->pool && self->pool->key ? self->key : 0;
}

#define HOT_RAISED INT64_MIN /* in place of a code: the exception is set */

/* Whether a call that keeps the interpreter's lock is to be made once more without it, also where
 * there is no time to wait: then it asks who is dead. */
static inline bool hot_stuck(int64_t code)
{
	return unlikely(code == -EINPROGRESS || code == -EBUSY);
}

/* The same get as one that was stuck, once. */
int64_t hot_get_again(struct queue_object *self, struct shmpool_taken *out);

/* After -EAGAIN of a get: 1 with what was got, HOT_RAISED, or another code. */
int64_t hot_get_wait(struct queue_object *self, PyObject *timeout, struct shmpool_taken *out);

/* Raises what a queue's code means: its method _fail(code, empty). NULL. */
PyObject *hot_queue_fail(struct queue_object *self, int64_t code, bool empty);

/* A released Buffer to take something into, before it is taken; NULL without memory. May run Python
 * code (a collection), and so may hot_buffer_unmake(), for one that got nothing. */
struct buffer_object *hot_buffer_make(void);
void hot_buffer_unmake(struct buffer_object *self);

/* Makes it the owner of a buffer just taken from the pool. */
PyObject *hot_buffer_own(struct buffer_object *self, struct pool_object *pool,
			 struct shmpool_taken taken);

static inline uint32_t hot_buffer_index(const struct buffer_object *self)
{
	return handle_index(self->handle);
}

/* Whether it is neither released, nor another process's, nor of a pool that was closed. */
static inline bool hot_buffer_live(const struct buffer_object *self)
{
	return likely(self->pool && self->life == *hot_life && self->pool->key);
}

/* 0 if the caller may use the buffer, else -1 with an exception. */
int hot_buffer_usable(struct buffer_object *self, const char *what);

/* Raises an exception that says which buffer it was; NULL. */
PyObject *hot_buffer_fail(const struct buffer_object *self, int64_t code, const char *what);

/* 0 if the buffer can be given away: it is not spent, and no view of it is alive. */
int hot_buffer_movable(struct buffer_object *self, const char *what);
void hot_buffer_in_use(const struct buffer_object *self,
		       const char *what); /* the exception for that */

/* Methods of Buffer and of the base of AlfQueue that are in requeue.c. */
PyObject *hot_buffer_nack(PyObject *object, PyObject *const *args, Py_ssize_t n, PyObject *names);
PyObject *hot_queue_move(PyObject *object, PyObject *args);
extern const char HOT_NACK_DOC[];

/* It is free when its last view is gone. */
void hot_buffer_leave(struct buffer_object *self);

/* It was given away. Its handle still says which one it was. */
static inline void hot_buffer_spend(struct buffer_object *self)
{
	self->life = HOT_SPENT;
}

/* fields.c: the fields of its header. */
extern PyGetSetDef hot_buffer_getset[];
extern PyObject *hot_buffer_write(PyObject *object, PyObject *payload);

/* What a fork's child finds there: the same bytes, in a process that the buffer is not. */
static inline char *hot_buffer_bytes(const struct buffer_object *self)
{
	return self->pool->data + hot_buffer_index(self) * self->pool->stride + self->headroom;
}

/* Ends the opening of the pool, if there is one: waits for calls of other threads without the
 * interpreter's lock. */
void hot_segment_leave(struct segment_object *self);

/* After it, or with it: unmaps, and closes the file. */
void hot_segment_close(struct segment_object *self);

/* The same for one that nobody refers to any more: a pool that this process has made is not said to
 * be left on purpose. */
void hot_segment_drop(struct segment_object *self);

/* Opens the pool that it maps, as shmpool_open(), without the path if it is mapped read-only: the
 * number, or a code. */
int hot_segment_enter(struct segment_object *self, const char *path, bool made);

/* Makes the module shmpool._hot. fail is the address of the function that raises, which stays alive
 * with its module. Returns 0, or 1 with the exception printed, or 2 in an interpreter that is not
 * the main one. */
uint64_t hot_install(uint64_t fail);

#define HOT_FAST(f) (PyCFunction)(void (*)(void)) f, METH_FASTCALL | METH_KEYWORDS

#endif
