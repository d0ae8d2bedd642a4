/* SPDX-License-Identifier: Apache-2.0
 *
 * hot.h - the C types that Python programs hold: Buffer, and the bases of Pool, AlfQueue, Burst and
 * Segment. They are the module shmpool._hot. One file: all C files of this folder share these
 * types, and half of its lines are the contracts of their functions.
 *
 * Two ways lead from Python into the core. Methods of these types call it directly
 * (native/binding.h): whatever takes buffers or gives them away, which is called once per packet or
 * per burst, and whatever opens or ends a mapping. Everything else creates, describes, counts or
 * recovers; it goes through cffi (native/shmpool.h, called as lib.shmpool_... in shmpool/). There
 * are two reasons to have C types at all. Speed: a cffi call with two arguments and the Python
 * method around it cost 85 to 135 ns, a method here 20 to 30. Safety: Python runs a signal handler
 * between any two bytecodes, and the handler may raise. So one C call both does a thing and records
 * it in the object that owns it:
 *
 *     take      the object is allocated before the buffers are taken, with room for their handles
 *     give      the call that gives the buffers away marks the object released
 *     divide    the new Burst has room for its part before anything moves
 *     wait      handlers run between two blocking calls (waiting.c), when nothing is half done
 *     close     one call checks for views, closes the pool, unmaps it and closes its file
 *
 * A call has three steps: the arguments (arguments.c), one attempt with the interpreter's lock
 * held, and the wait (waiting.c) if the attempt did not settle the matter. Then it returns, or
 * raises (raising.c). Decision: docs/decisions/0003-hot-calls.md.
 *
 * Thread safety: the interpreter's lock. A call that releases it is counted (native/opening.h), so
 * that no other thread unmaps the pool in that time.
 */
#ifndef SHMPOOL_HOT_H
#define SHMPOOL_HOT_H

#include <Python.h>

#ifdef Py_GIL_DISABLED
#error "shmpool's C types rely on the interpreter's lock: no free-threaded Python"
#endif

#include "binding.h"
#include "copy.h"
#include "lookup.h"

/* A pool's file in this process: its descriptor, its mapping, and the number of the opened pool. */
struct segment_object {
	PyObject_HEAD
	int fd;          /* -1 for none */
	uint32_t number; /* of the opened pool, 0 for none */
	bool read_only;  /* mapped for reading: the opened pool has no token and no members */
	char *base;      /* NULL while it is not mapped */
	uint64_t size;   /* bytes */
	uint64_t device, inode; /* of the mapped file */
	/* A file that is being created: its temporary name, and the page that keeps others from
	 * removing it (shmpool_hold). Valid in the process that created it. */
	char *temporary;
	void *hold;
	char *unlink_path; /* the name to remove together with the object, or NULL */
	uint32_t process;  /* hot_process() of the creator */
};

struct pool_object {
	PyObject_HEAD
	uint64_t key; /* slot and serial of the opened pool; 0 when it is closed */
	struct hot_sizes {
		char *data;      /* of the first buffer of the class */
		uint64_t stride; /* bytes from one buffer's data to the next */
		uint32_t first;  /* index of its first buffer, and one beyond that of its last */
		uint32_t end;
	} sizes[CLASSES_MAX]; /* by size class */
	uint32_t classes;
	uint64_t headroom;
	uint64_t exports;               /* live views of its buffers */
	struct segment_object *segment; /* NULL when it is closed */
	bool opened;                    /* it was opened once; an object is opened at most once */
};

struct queue_object {
	PyObject_HEAD
	struct pool_object *pool;
	uint64_t key; /* 0 when it is closed */
	/* The key of attempts to take; 0 also while it has a descriptor, so that a call which takes
	 * leaves the quick way, and hot_block() makes that descriptor right after it. */
	uint64_t take_key;
	int waker;            /* of that descriptor, 0 for none */
	PyObject *empty_text; /* the message of Empty */
};

/* State of a Buffer or Burst: the number of the process that owns the buffers (hot_process()), or
 * one of these. */
#define HOT_RELEASED UINT32_MAX /* owns nothing: freed, put, or not filled yet */
/* A call that waits is giving it away: hot_wait_moving(). */
#define HOT_MOVING (UINT32_MAX - 1)
#define HOT_FREED_LATER (UINT32_MAX - 2) /* freed when its last view is released */
/* The same as HOT_MOVING for a Burst and its elements, of which one may be moving by itself. */
#define HOT_MOVING_BURST (UINT32_MAX - 3)
#define HOT_GIVEN (UINT32_MAX - 4) /* is among the items that a call collects: items.c */
#define HOT_NOT_OWNED(state) ((state) >= HOT_GIVEN)

/* headroom and length are the object's own copies. They were read from the header once and checked:
 * headroom + length <= stride. */
struct buffer_object {
	PyObject_HEAD
	struct pool_object *pool;
	uint64_t handle;
	uint32_t state;
	uint32_t freed_state; /* with HOT_FREED_LATER: the state before */
	uint32_t exports;     /* live views */
	bool view_room;       /* the next view covers all the room, not only length */
	uint64_t headroom;
	uint64_t length;
	struct hot_chain *chain; /* NULL for a single buffer: parts.h */
	uint32_t view_part;      /* 1 + the part of the chain that the next view covers, or 0 */
};

struct burst_object {
	PyObject_HEAD
	struct pool_object *pool;
	uint64_t *handle;               /* n of them, in memory of its own */
	struct buffer_object **element; /* Buffers that burst[i] returned; NULL before the first */
	uint32_t n;
	uint32_t room; /* how many handles fit */
	uint32_t state;
};

extern PyTypeObject *hot_segment_type, *hot_pool_type, *hot_queue_type, *hot_buffer_type,
	*hot_burst_type, *hot_topic_type, *hot_subscriber_type, *hot_sample_type;
extern PyType_Spec hot_topic_spec, hot_subscriber_spec, hot_sample_spec;
extern PyType_Spec hot_segment_spec, hot_pool_spec, hot_queue_spec, hot_buffer_spec, hot_burst_spec;

/* The number of this process, which its forked children do not have: a Buffer of the parent is not
 * the child's. The word lies in a page that the kernel wipes on any fork, so a child
 * reads 0 until its first Buffer. */
extern uint32_t *hot_process_number;
extern uint32_t hot_process_numbers;

static inline uint32_t hot_process(void)
{
	if (unlikely(!*hot_process_number))
		*hot_process_number = ++hot_process_numbers;
	return *hot_process_number;
}

/* ---- arguments.c ---- */

#define HOT_FOREVER Py_HUGE_VAL /* seconds: no timeout */

/* The arguments of a call. */
struct hot_arguments {
	PyObject *item; /* the first one: a Buffer, a payload, a count; NULL if the call has none */
	double timeout; /* seconds, 0 or more */
	PyObject *size; /* of hot_parse_alloc(): bytes; NULL or None if it is not given */
};

/* Reads a timeout: None is HOT_FOREVER; else whatever float() accepts, except text and bytes. A
 * number that no float holds is HOT_FOREVER too. Returns 0, or -1 with a TypeError or
 * InvalidArgument. May run Python code. */
int hot_timeout(PyObject *timeout, double *seconds);

/* Reads the arguments of the method name: the one called first, unless that is NULL, and timeout.
 * Returns 0, or -1 with an exception. May run Python code. */
int hot_parse_all(const char *name, const char *first, PyObject *const *args, Py_ssize_t n,
		  PyObject *names, struct hot_arguments *out);

/* The same, quicker where there is no timeout. */
static inline int hot_parse(const char *name, const char *first, PyObject *const *args,
			    Py_ssize_t n, PyObject *names, struct hot_arguments *out)
{
	if (names || n != (first != NULL))
		return hot_parse_all(name, first, args, n, names, out);
	*out = (struct hot_arguments) { first ? args[0] : NULL, HOT_FOREVER, NULL };
	return 0;
}

/* The same for a call with the arguments timeout and size. */
int hot_parse_alloc(PyObject *const *args, Py_ssize_t n, PyObject *names,
		    struct hot_arguments *out);

/* Returns value as an int, a new reference, if it is one or has __index__ (numpy's integers have).
 * NULL with a TypeError that calls the value what. May run Python code unless it is an int. */
PyObject *hot_int(PyObject *value, const char *what);

int hot_arguments_init(PyObject *module);

/* ---- waiting.c ---- */

#define HOT_RAISED INT64_MIN /* in place of a code: an exception is set */

/* The call that a wait repeats. */
enum hot_operation {
	HOT_ALLOC,   /* handles, n: all of them */
	HOT_GET,     /* handles, n: up to n */
	HOT_PUT,     /* handles, n: all of them */
	HOT_SEND,    /* slices, n: as many as there was time for */
	HOT_REQUEUE, /* handles, 1 */
	HOT_RECOVER, /* nothing: recovers dead members */
	HOT_PUBLISH, /* handles, n: all of them */
	HOT_TAKE,    /* subscriber, sequences; handles, n: up to n */
};

struct hot_wait {
	enum hot_operation operation;
	struct pool_object *pool;
	const struct queue_object *queue; /* NULL for HOT_ALLOC, HOT_REQUEUE, HOT_RECOVER */
	union {
		uint64_t *handles;
		const struct shmpool_slice *slices;
	};
	size_t n;
	uint32_t class;                /* of HOT_ALLOC: the smallest size class that serves */
	double timeout;                /* seconds */
	int64_t deadline;              /* CLOCK_MONOTONIC in ns; 0 until the first wait sets it */
	struct shmpool_turn turn;      /* of HOT_ALLOC */
	struct subscriber *subscriber; /* of HOT_TAKE */
	uint64_t *sequences;
};

/* True if a call whose attempt returned code goes on to block. */
static inline bool hot_must_block(int64_t code, double timeout)
{
	return code == -EAGAIN || code == -ENOBUFS ?
		       timeout != 0 :
		       code == -EINPROGRESS || code == -EBUSY || code == -EBADF;
}

/* Returns the deadline, of CLOCK_MONOTONIC in ns, of a wait that begins now. */
int64_t hot_deadline(double seconds);

/* Returns the seconds that a call has left after waits that used *wait. */
double hot_time_left(const struct hot_wait *wait);

/* Blocks without the interpreter's lock, until the call succeeds or the deadline comes; with a
 * timeout of 0 tries once. Runs signal handlers between two blocking calls. */
int64_t hot_block(struct hot_wait *wait);

/* Completes a call whose attempt returned code; a call without an attempt passes -EINPROGRESS.
 *
 *     code                   meaning             timeout 0       another timeout
 *     0 or more              done                returned        returned
 *     -EAGAIN, -ENOBUFS      empty, full         returned        hot_block()
 *     -EINPROGRESS, -EBUSY   recovery may help   hot_block()     hot_block()
 *     -EBADF                 no key: take_key    hot_block()     hot_block()
 *     other                  failed              returned        returned
 *
 * Returns what the core returned; -EBADF if another thread closed the pool (buffers just taken were
 * freed then); or HOT_RAISED with the exception of a signal handler, or with PoolReplaced. */
static inline int64_t hot_wait(struct hot_wait *wait, int64_t code)
{
	return hot_must_block(code, wait->timeout) ? hot_block(wait) : code;
}

/* Around a copy of so many bytes in or out of a live Buffer: releases the interpreter's lock if
 * they are many. The copy counts as a view then, so the buffer cannot go away. */
PyThreadState *hot_copy_begins(struct buffer_object *buffer, uint64_t bytes);
void hot_copy_ends(struct buffer_object *buffer, PyThreadState *state);

/* hot_wait() for a call that gives a Buffer away. The Buffer is HOT_MOVING while it blocks, so that
 * no other thread can take a view of memory that we are handing over. Afterwards it has its state
 * again: the caller releases it if the call succeeded. */
int64_t hot_wait_moving(struct hot_wait *wait, int64_t code, struct buffer_object *buffer);

/* Recovers dead members if it is time to. For the begin of a call, before anything is taken. */
void hot_recover(struct pool_object *pool);
static inline void hot_recover_if_due(struct pool_object *pool)
{
	if (unlikely(pool && load_relaxed(&opening_pools[pool->key >> KEY_SLOT_SHIFT].tend_due)))
		hot_recover(pool);
}

/* ---- raising.c: a code becomes an exception ---- */

/* Raises the exception for a negative code with a message: what, formatted as by
 * PyUnicode_FromFormat(), and the reason. Returns NULL. */
PyObject *hot_fail(int64_t code, const char *what, ...);

/* The same with "pool NAME" after what: the name of owner, a Pool or a Segment. */
PyObject *hot_fail_in(PyObject *owner, int64_t code, const char *what, ...);

/* Reads a number of bytes, and finds the smallest size class whose buffers have room for it behind
 * the pool's headroom. size may be NULL or None: the smallest class. Returns the class, or -1 with
 * PayloadTooLarge, InvalidArgument or TypeError. */
int hot_pool_class(struct pool_object *self, PyObject *size);

/* Returns the same for a number of bytes; the number of classes if no buffer has room. */
static inline uint32_t hot_class_for(const struct pool_object *self, uint64_t bytes)
{
	uint32_t i = 0;
	while (i < self->classes && bytes + self->headroom > self->sizes[i].stride)
		i++;
	return i;
}

/* Raises the exception for the code that a call of the pool ended with: its method _fail. Nothing
 * to do for HOT_RAISED. Returns NULL. */
PyObject *hot_pool_raise(struct pool_object *self, int64_t code);

/* The same of a queue. items is what was to go into it: a Buffer, a Burst, a payload, or a tuple of
 * payloads, of which sent went; NULL for a call that takes. */
PyObject *hot_queue_raise(struct queue_object *self, int64_t code, PyObject *items,
			  Py_ssize_t sent);

/* Returns which views of a Buffer, or of a Pool's buffers, are alive and what to do, as a str; n is
 * how many. put is the array that was to be put, or NULL. NULL with an exception. Runs Python
 * code. */
PyObject *hot_views_of(PyObject *owner, uint64_t n, PyObject *put);

int hot_raising_init(void);

/* Makes the members of a thread end with it (ending.c). -1 with an exception. */
int hot_ending_init(void);

/* ---- queue.c ---- */

static inline uint64_t hot_queue_key(const struct queue_object *self)
{
	return self->pool && self->pool->key ? self->key : 0;
}

static inline uint64_t hot_take_key(const struct queue_object *self)
{
	return self->pool && self->pool->key ? self->take_key : 0;
}

/* Gives the object a key, or none, and a descriptor, or none. */
static inline void hot_queue_open(struct queue_object *self, uint64_t key, int waker)
{
	self->key = key;
	self->waker = waker;
	self->take_key = waker ? 0 : key;
}

/* Takes the oldest buffer, without waiting. 1, or a code. *c has the pool and the member for what
 * the caller does next: get and recv look them up once. */
static inline int hot_get_once(const struct queue_object *self, struct lookup *c, uint64_t *handle)
{
	int got = lookup_queue(hot_take_key(self), c);
	if (likely(!got))
		got = lookup_get(c, handle, 1);
	if (likely(got > 0))
		header_set_since(c, *handle, wait_coarse());
	return got;
}

/* Blocks for one buffer, after hot_get_once(). 1, a code, or HOT_RAISED. Reads *c again: a
 * signal handler may have forked during the wait, and a child has another member. */
int64_t hot_get_block(struct queue_object *self, double timeout, struct lookup *c,
		      uint64_t *handle);

/* Takes the oldest buffer, and waits for one. 1, a code, or HOT_RAISED. */
static inline int64_t hot_get_handle(struct queue_object *self, double timeout, struct lookup *c,
				     uint64_t *handle)
{
	hot_recover_if_due(self->pool);
	int64_t code = hot_get_once(self, c, handle);
	if (unlikely(code <= 0) && hot_must_block(code, timeout))
		code = hot_get_block(self, timeout, c, handle);
	return code;
}

/* get() and put() of one Buffer, for arrays.c too. hot_queue_get() returns a new Buffer, or raises.
 * hot_queue_put() returns a code, HOT_RAISED for an exception. The caller has checked that the
 * Buffer may go, and releases it. */
PyObject *hot_queue_get(struct queue_object *self, double timeout);
int64_t hot_queue_put(struct queue_object *self, struct buffer_object *buffer, double timeout);

#define HOT_SHORT 4096 /* bytes: _take() copies a message that has less, instead of a Buffer */

/* Methods of AlfQueue's base that are in payload.c, bulk.c, requeue.c, arrays.c and items.c. */
PyObject *hot_send(PyObject *object, PyObject *const *args, Py_ssize_t n, PyObject *names);
PyObject *hot_recv(PyObject *object, PyObject *const *args, Py_ssize_t n, PyObject *names);
PyObject *hot_try_recv(PyObject *object, PyObject *unused);
PyObject *hot_send_many(PyObject *object, PyObject *const *args, Py_ssize_t n, PyObject *names);
PyObject *hot_recv_many(PyObject *object, PyObject *const *args, Py_ssize_t n, PyObject *names);
PyObject *hot_queue_move(PyObject *object, PyObject *args);
PyObject *hot_get_array(PyObject *object, PyObject *const *args, Py_ssize_t n, PyObject *names);
PyObject *hot_queue_hand_over(PyObject *object, PyObject *const *args, Py_ssize_t n);
PyObject *hot_put_items(PyObject *object, PyObject *args);

/* ---- buffer.c, fields.c ---- */

/* Returns a released Buffer, to be filled with one that is yet to be taken; NULL without memory.
 * May run Python code (a collection). */
struct buffer_object *hot_buffer_new(void);

/* Drops a Buffer that was not filled. May run Python code. */
void hot_buffer_discard(struct buffer_object *self);

/* Makes the Buffer the owner of a buffer just taken from the pool. Returns it. */
PyObject *hot_buffer_fill(struct buffer_object *self, struct pool_object *pool, uint64_t handle,
			  struct shmpool_extent extent);

static inline uint32_t hot_buffer_index(const struct buffer_object *self)
{
	return handle_index(self->handle);
}

/* True if the Buffer owns a buffer: it is not released, belongs to this process, and its pool is
 * open. */
static inline bool hot_buffer_live(const struct buffer_object *self)
{
	return likely(self->pool && self->state == *hot_process_number && self->pool->key);
}

/* 0 if the caller may use the buffer in the call what, else -1 with an exception. */
int hot_buffer_usable(struct buffer_object *self, const char *what);

/* 0 if the buffer can be given away: it is usable, and no view of it is live. */
int hot_buffer_movable(struct buffer_object *self, const char *what);

/* The code for an object that is not live: why not. */
static inline int hot_not_live(const struct pool_object *pool, uint32_t state)
{
	return !pool->key ? -EBADF : HOT_NOT_OWNED(state) ? -ESTALE : -ECHILD;
}

/* Raises an exception that names the call and the buffer. Returns NULL. */
PyObject *hot_buffer_raise(const struct buffer_object *self, int64_t code, const char *what);

/* Raises BufferInUse: views keep it from what ("free", "put", ...). Runs Python code. */
void hot_buffer_in_use(struct buffer_object *self, const char *what);

/* Counts a view. The last one that ends frees a Buffer that hot_buffer_free_later() has marked. */
static inline void hot_buffer_view_begun(struct buffer_object *self)
{
	self->exports++;
	self->pool->exports++;
}
void hot_buffer_view_ended(struct buffer_object *self);

/* Frees a live Buffer, with its last view if there are views. Raises nothing. */
void hot_buffer_abandon(struct buffer_object *self);

/* Frees the buffer when its last view is released. */
void hot_buffer_free_later(struct buffer_object *self);

/* Marks the Buffer released: its buffer was given away. Its handle still says which one it was. */
static inline void hot_buffer_release(struct buffer_object *self)
{
	self->state = HOT_RELEASED;
}

PyObject *hot_buffer_nack(PyObject *object, PyObject *const *args, Py_ssize_t n, PyObject *names);
extern const char HOT_NACK_DOC[];
PyObject *hot_buffer_settle(PyObject *object, PyObject *unused);
PyObject *hot_buffer_outlive(PyObject *object, PyObject *unused);
PyObject *hot_buffer_declare(PyObject *object, PyObject *queue);
extern PyGetSetDef hot_buffer_getset[];

/* Finds the header of a buffer that the caller owns. 0, or a code. */
static inline int hot_buffer_header(const struct buffer_object *self, struct buffer **b)
{
	struct lookup c;
	int error = lookup_key(self->pool->key, &c);
	if (likely(!error))
		error = qmempool_check(c.p, c.m, self->handle);
	if (likely(!error))
		*b = pool_buffer(c.p, hot_buffer_index(self));
	return error;
}

/* Returns the size class of a buffer. */
static inline const struct hot_sizes *hot_buffer_sizes(const struct buffer_object *self)
{
	const struct hot_sizes *sizes = self->pool->sizes;
	while (unlikely(hot_buffer_index(self) >= sizes->end))
		sizes++;
	return sizes;
}

/* The bytes that the buffer has, headroom included. */
static inline uint64_t hot_buffer_stride(const struct buffer_object *self)
{
	return hot_buffer_sizes(self)->stride;
}

/* The buffer's bytes. A forked child reads the same memory, although the buffer is not its own. */
static inline char *hot_buffer_bytes(const struct buffer_object *self)
{
	const struct hot_sizes *sizes = hot_buffer_sizes(self);
	return sizes->data + (hot_buffer_index(self) - sizes->first) * sizes->stride +
	       self->headroom;
}

/* ---- arrays.c ---- */

extern PyTypeObject *hot_memory_type;
extern PyType_Spec hot_memory_spec;
PyObject *hot_use_numpy(PyObject *module, PyObject *args);
PyObject *hot_buffer_array(PyObject *object, PyObject *args);
PyObject *hot_buffer_dlpack(PyObject *object, PyObject *args, PyObject *named);
PyObject *hot_buffer_dlpack_device(PyObject *object, PyObject *unused);

/* ---- turns.c ---- */

extern PyTypeObject *hot_line_type, *hot_turns_type;
extern PyType_Spec hot_line_spec, hot_turns_spec;
int hot_turns_init(void);

/* ---- objects.c ---- */

PyObject *hot_use_pickler(PyObject *module, PyObject *args);
PyObject *hot_pickled(PyObject *module, PyObject *obj);

/* ---- free_after.c ---- */

PyObject *hot_buffer_free_after(PyObject *object, PyObject *event);
extern const char HOT_FREE_AFTER_DOC[];

/* Waits until the events have completed that keep buffers of the pool (free_after). Runs Python
 * code. 0, or -1 with an exception. */
int hot_free_after_settle(struct pool_object *pool);

/* ---- segment.c ---- */

/* Opens the pool that the segment maps, as shmpool_open(); without the path if it is mapped
 * read-only. Returns the pool's number, or a code. */
int hot_segment_enter(struct segment_object *self, const char *path, bool created);

/* For the end of the process: closes the opened pool, if there is one, and keeps the mapping.
 * Waits, without the interpreter's lock, for calls of other threads. If buffers are viewed, leaves
 * the pool open: the end of the process ends its members. */
void hot_segment_leave(struct segment_object *self, bool viewed);

/* Closes the opened pool, if there is one, then unmaps and closes the file. Waits, without the
 * interpreter's lock, for calls of other threads. */
void hot_segment_close(struct segment_object *self);

/* The same for an object that nobody refers to any more: does not mark the pool as left on purpose
 * (shmpool_leave). */
void hot_segment_drop(struct segment_object *self);

#define HOT_FAST(f) (PyCFunction)(void (*)(void)) f, METH_FASTCALL | METH_KEYWORDS

#endif
