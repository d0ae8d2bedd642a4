/* SPDX-License-Identifier: Apache-2.0
 *
 * waiting.c - the only place where a hot call blocks, or copies much: without the interpreter's
 * lock. It blocks in slices (WAIT_SLICE_NS), between which signal handlers run.
 */
#include "hot.h"

#define FOREVER_S 4294967296.      /* a longer timeout never ends */
#define COPY_UNLOCKED (256u << 10) /* bytes from which a copy releases the interpreter's lock */

int64_t hot_deadline(double seconds)
{
	if (seconds > FOREVER_S)
		return WAIT_FOREVER;
	return seconds == 0 ? WAIT_NEVER : wait_now() + (int64_t)(seconds * 1e9);
}

double hot_time_left(const struct hot_wait *wait)
{
	if (!wait->deadline || wait->deadline == WAIT_FOREVER)
		return wait->timeout;
	const int64_t left = wait->deadline - wait_now();
	return left > 0 ? (double)left / 1e9 : 0;
}

static int64_t call_core(struct hot_wait *wait, uint64_t key)
{
	switch (wait->operation) {
	case HOT_ALLOC:
		return shmpool_alloc_many_wait(key | wait->class, wait->handles, wait->n,
					       wait->deadline, &wait->turn);
	case HOT_GET:
		return shmpool_get_many_wait(key, wait->handles, wait->n, wait->deadline);
	case HOT_PUT:
		return shmpool_put_many_wait(key, wait->handles, wait->n, wait->deadline);
	case HOT_SEND:
		return shmpool_send_many_wait(key, wait->slices, wait->n, wait->deadline);
	case HOT_REQUEUE:
		return shmpool_requeue_wait(key, *wait->handles, wait->deadline);
	case HOT_PUBLISH:
		return shmpool_publish_wait(key, wait->handles, wait->n, wait->deadline);
	case HOT_TAKE:
		return shmpool_take_wait(key, wait->subscriber, wait->handles, wait->sequences,
					 wait->n, wait->deadline);
	case HOT_RECOVER:
		return shmpool_tend_wait(key);
	}
	return -EINVAL;
}

/* One blocking call without the interpreter's lock; -EBADF if the pool or the queue is closed. The
 * call is counted on the pool (native/opening.h): from before the lock is released, until before it
 * is taken again, because a thread may not survive taking it when the interpreter ends. */
static int64_t call_unlocked(struct hot_wait *wait)
{
	const uint64_t key = wait->queue ? hot_queue_key(wait->queue) : wait->pool->key;
	if (!key)
		return -EBADF;
	opening_thread_ready(); /* with the lock: module.c records the thread in Python */
	uint32_t *counted = opening_begin(key_pool(key));
	PyThreadState *state = PyEval_SaveThread();
	const int64_t code = call_core(wait, key);
	opening_end(counted);
	PyEval_RestoreThread(state);
	return code;
}

PyThreadState *hot_copy_begins(struct buffer_object *buffer, uint64_t bytes)
{
	if (likely(bytes < COPY_UNLOCKED))
		return NULL;
	hot_buffer_view_begun(buffer);
	return PyEval_SaveThread();
}

void hot_copy_ends(struct buffer_object *buffer, PyThreadState *state)
{
	if (likely(!state))
		return;
	PyEval_RestoreThread(state);
	hot_buffer_view_ended(buffer);
}

/* 0, or -1 with PoolReplaced. */
static int refuse_replaced(struct pool_object *pool)
{
	if (!pool->segment)
		return 0;
	PyObject *done = PyObject_CallMethod((PyObject *)pool, "_refuse_replaced", NULL);
	Py_XDECREF(done);
	return done ? 0 : -1;
}

/* Frees what an allocation has collected that ends with an exception. */
static void free_collected(struct hot_wait *wait)
{
	if (wait->turn.have && wait->pool->key)
		shmpool_free_many(wait->pool->key, wait->handles, wait->turn.have);
	wait->turn.have = 0;
}

/* Blocking calls until one settles it. */
static int64_t block(struct hot_wait *wait)
{
	int64_t code;
	if (!wait->deadline)
		wait->deadline = hot_deadline(wait->timeout);
	do {
		code = call_unlocked(wait);
		const bool timed_out = code == -EAGAIN || code == -ENOBUFS;
		/* -EINTR: a signal came, or a slice ended. */
		if (code == -EINTR ? PyErr_CheckSignals() : !timed_out || !wait->deadline)
			break;
		if (refuse_replaced(wait->pool)) {
			code = HOT_RAISED;
			break;
		}
	} while (code == -EINTR);
	free_collected(wait);
	return code == -EINTR ? HOT_RAISED : code;
}

/* An attempt with the interpreter's lock held, by an object with a descriptor. */
static int64_t attempt(const struct hot_wait *wait)
{
	const uint64_t key = hot_queue_key(wait->queue);
	if (wait->operation == HOT_TAKE)
		return shmpool_take(key, wait->subscriber, wait->handles, wait->sequences, wait->n);
	return shmpool_get_many(key, wait->handles, wait->n);
}

int64_t hot_block(struct hot_wait *wait)
{
	const bool took = wait->operation == HOT_ALLOC || wait->operation == HOT_GET ||
			  wait->operation == HOT_TAKE;
	const int waker = wait->queue && took ? wait->queue->waker : 0;
	int64_t code = waker ? attempt(wait) : -EINPROGRESS;
	if (hot_must_block(code, wait->timeout))
		code = block(wait);
	if (waker)
		shmpool_taken(waker);
	if (code > 0 && took && !wait->pool->key)
		return -EBADF; /* another thread closed the pool, which freed the buffers */
	return code;
}

int64_t hot_wait_moving(struct hot_wait *wait, int64_t code, struct buffer_object *buffer)
{
	const uint32_t state = buffer->state;
	buffer->state = HOT_MOVING;
	code = hot_wait(wait, code);
	buffer->state = state;
	return code;
}

void hot_recover(struct pool_object *pool)
{
	call_unlocked(&(struct hot_wait) { .operation = HOT_RECOVER, .pool = pool });
}
