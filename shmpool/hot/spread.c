/* SPDX-License-Identifier: Apache-2.0
 *
 * spread.c - Burst.spread: puts each buffer of a burst into one of several queues, as a key says.
 *
 * The call sorts the handles by queue, in the burst's order, and puts each queue's as one bulk, as
 * far as there is room. Then it waits in turns, one queue after the other, so that a queue that
 * stays full does not delay the others. The burst is HOT_MOVING_BURST until the end. Then,
 * however the call ends, what has gone is taken out of the burst.
 */
#include "burst.h"

#define TURN_NS 10000000 /* the longest wait for one queue while others are full too */

/* The buffers for one queue: handle[begin] to handle[end - 1]. Those before next are put. */
struct share {
	struct queue_object *queue;
	uint32_t begin, next, end;
};

struct spread {
	struct burst_object *burst;
	struct share *share;
	uint32_t shares;
	uint64_t *handle;
	uint32_t *position; /* of each handle in the burst */
	uint32_t *which; /* share of each position, NOBODY for a buffer that has left the burst */
	uint8_t *gone;   /* by position */
};

#define NOBODY UINT32_MAX

static void spread_free(struct spread *s)
{
	PyMem_Free(s->share);
	PyMem_Free(s->handle);
	PyMem_Free(s->position);
	PyMem_Free(s->which);
	PyMem_Free(s->gone);
}

/* Finds the queues of the table, each once: queues that come twice have one share, so that order is
 * kept. Stores the share of each entry. 0, or -1 with an exception. */
static int find_queues(struct spread *s, PyObject *table, uint32_t *share_of)
{
	uint32_t known[QUEUES_MAX + 1] = { 0 }; /* by number: share + 1 */
	for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(table); i++) {
		struct queue_object *queue = burst_queue(s->burst, PyTuple_GET_ITEM(table, i));
		if (!queue)
			return -1;
		const uint64_t key = hot_queue_key(queue);
		if (!key) {
			hot_queue_raise(queue, -EBADF, (PyObject *)s->burst, 0);
			return -1;
		}
		uint32_t *at = &known[key_queue(key)];
		if (!*at) {
			s->share[s->shares].queue = queue;
			*at = ++s->shares;
		}
		share_of[i] = *at - 1;
	}
	return 0;
}

/* Sorts the burst's handles by share. */
static void sort(struct spread *s, const uint64_t *keys, const uint32_t *share_of, uint64_t entries)
{
	const struct burst_object *burst = s->burst;
	uint32_t end = 0;
	for (uint32_t i = 0; i < burst->n; i++) {
		const uint64_t key = load_relaxed(&keys[i]);
		s->which[i] = burst_has(burst, i) ? share_of[key % entries] : NOBODY;
		if (s->which[i] != NOBODY)
			s->share[s->which[i]].end++;
	}
	for (uint32_t i = 0; i < s->shares; i++) {
		s->share[i].begin = s->share[i].next = end;
		end += s->share[i].end;
		s->share[i].end = s->share[i].begin;
	}
	for (uint32_t i = 0; i < burst->n; i++) {
		if (s->which[i] == NOBODY)
			continue;
		const uint32_t to = s->share[s->which[i]].end++;
		s->handle[to] = burst->handle[i];
		s->position[to] = i;
	}
}

/* Allocates and sorts. 0, or -1 with an exception; nothing has changed. */
static int spread_open(struct spread *s, PyObject *table, const uint64_t *keys)
{
	const size_t n = s->burst->n;
	const size_t entries = (size_t)PyTuple_GET_SIZE(table);
	uint32_t *share_of = PyMem_New(uint32_t, entries);
	int error = -1;
	s->share = PyMem_Calloc(entries, sizeof(*s->share));
	s->handle = PyMem_New(uint64_t, n);
	s->position = PyMem_New(uint32_t, n);
	s->which = PyMem_New(uint32_t, n);
	s->gone = PyMem_Calloc(n, 1);
	if (!share_of || !s->share || !s->handle || !s->position || !s->which || !s->gone)
		PyErr_NoMemory();
	else if (!find_queues(s, table, share_of)) {
		sort(s, keys, share_of, entries);
		error = 0;
	}
	PyMem_Free(share_of);
	return error;
}

/* Puts as many of a share as there is room for, without waiting, with the interpreter's lock held:
 * 65,536 buffers take about 1 ms. How many, or a code. */
static int64_t put_now(const struct spread *s, const struct share *share)
{
	struct lookup c;
	int error = lookup_queue_in(hot_queue_key(share->queue), &c);
	if (unlikely(error))
		return error;
	const uint32_t room = alf_avail_space(c.ring);
	uint32_t n = share->end - share->next;
	if (n > c.ring->bulk)
		n = c.ring->bulk;
	if (room < n)
		n = room ? room : 1;
	error = lookup_put(&c, s->handle + share->next, n);
	return error ? error : (int64_t)n;
}

/* Waits for room for the next buffer of a share, and puts it. 1, a code, or HOT_RAISED. deadline 0
 * tries once. */
static int64_t put_next(const struct spread *s, const struct share *share, int64_t deadline)
{
	struct hot_wait wait = { .operation = HOT_PUT,
				 .pool = s->burst->pool,
				 .queue = share->queue,
				 .handles = s->handle + share->next,
				 .n = 1,
				 .deadline = deadline };
	return hot_block(&wait);
}

/* Puts of every share what there is room for. Returns how many buffers, or a code with *stopped. */
static int64_t put_round(struct spread *s, struct share **stopped)
{
	int64_t total = 0;
	for (uint32_t i = 0; i < s->shares; i++) {
		struct share *share = &s->share[i];
		if (share->next == share->end)
			continue;
		int64_t code = put_now(s, share);
		if (code == -EINPROGRESS || code == -EBUSY)
			code = put_next(s, share, 0); /* recovers dead members */
		if (code > 0) {
			share->next += (uint32_t)code;
			total += code;
		} else if (code != -ENOBUFS) {
			*stopped = share;
			return code;
		}
	}
	return total;
}

/* Returns how many shares are not put, and in *turn the first of them from *turn on. */
static uint32_t unfinished(const struct spread *s, uint32_t *turn)
{
	uint32_t n = 0, first = 0;
	for (uint32_t i = s->shares; i-- > 0;) {
		const uint32_t at = (*turn + i) % s->shares;
		if (s->share[at].next != s->share[at].end) {
			n++;
			first = at;
		}
	}
	*turn = first;
	return n;
}

/* Puts all shares. 0; -ENOBUFS if there was no room in time; or a code with *stopped, or
 * HOT_RAISED. */
static int64_t put_all(struct spread *s, double timeout, struct share **stopped)
{
	const int64_t deadline = hot_deadline(timeout);
	uint32_t turn = 0, left;
	for (;;) {
		int64_t code = put_round(s, stopped);
		if (code < 0 || !(left = unfinished(s, &turn)))
			return code < 0 ? code : 0;
		if (code > 0)
			continue;
		if (!deadline)
			return -ENOBUFS;
		const int64_t now = wait_now();
		const bool last = left == 1 || deadline - now <= TURN_NS;
		struct share *share = &s->share[turn];
		code = put_next(s, share, last ? deadline : now + TURN_NS);
		if (code > 0)
			share->next++;
		else if (code != -ENOBUFS) {
			*stopped = share;
			return code;
		} else if (wait_now() >= deadline)
			return -ENOBUFS;
		turn++;
	}
}

/* Takes out of the burst what was put; releases it with the last buffer. Returns how many. */
static uint32_t take_out(struct spread *s)
{
	struct burst_object *burst = s->burst;
	uint32_t sent = 0, left = 0;
	for (uint32_t i = 0; i < s->shares; i++) {
		const struct share *share = &s->share[i];
		sent += share->next - share->begin;
		left += share->end - share->next;
		for (uint32_t j = share->begin; j < share->next; j++)
			s->gone[s->position[j]] = 1;
	}
	if (!left) {
		burst_release(burst);
		return sent;
	}
	for (uint32_t i = 0; burst->element && i < burst->n; i++)
		if (s->gone[i] && burst->element[i]) {
			hot_buffer_release(burst->element[i]);
			Py_DECREF(burst->element[i]); /* runs no Python code */
		}
	burst_close_up(burst, s->gone);
	return sent;
}

/* Returns (sent, [(queue, buffers that had no room), ...]), or NULL with an exception. */
static PyObject *report(const struct spread *s, uint32_t sent)
{
	PyObject *full = PyList_New(0);
	for (uint32_t i = 0; full && i < s->shares; i++) {
		const struct share *share = &s->share[i];
		if (share->next == share->end)
			continue;
		PyObject *entry = Py_BuildValue("OI", share->queue, share->end - share->next);
		if (!entry || PyList_Append(full, entry))
			Py_CLEAR(full);
		Py_XDECREF(entry);
	}
	return full ? Py_BuildValue("IN", sent, full) : NULL;
}

PyObject *burst_spread(PyObject *object, PyObject *args)
{
	struct burst_object *self = (struct burst_object *)object;
	struct spread s = { .burst = self };
	struct share *stopped = NULL;
	PyObject *table, *array, *timeout, *result = NULL;
	Py_buffer keys;
	double seconds;
	uint64_t *handle, *mine;
	if (!PyArg_ParseTuple(args, "O!OO", &PyTuple_Type, &table, &array, &timeout) ||
	    hot_timeout(timeout, &seconds) ||
	    burst_array(self, array, PyBUF_SIMPLE, 0, sizeof(uint64_t), &keys))
		return NULL;
	if (!PyTuple_GET_SIZE(table)) {
		hot_fail(-EDOM, "queues is empty; it must have at least one queue");
		goto undo;
	}
	if (burst_handles(self, "put", &handle, &mine) < 0)
		goto undo;
	PyMem_Free(mine);
	if (spread_open(&s, table, keys.buf))
		goto undo;
	const uint32_t state = self->state;
	burst_set_state(self, HOT_MOVING_BURST);
	const int64_t code = put_all(&s, seconds, &stopped);
	burst_set_state(self, state);
	const uint32_t sent = take_out(&s);
	if (likely(!code))
		result = Py_NewRef(Py_None);
	else if (code == -ENOBUFS)
		result = report(&s, sent);
	else
		hot_queue_raise(stopped->queue, code, object, 0);
undo:
	spread_free(&s);
	PyBuffer_Release(&keys);
	return result;
}
