/* SPDX-License-Identifier: Apache-2.0
 *
 * divide.c - the base of shmpool.Burst: burst[2:9], burst[mask], burst[indices].
 *
 * A division moves buffers, with their elements, from a burst into a new one. It reads the index
 * and allocates all memory first, which may run Python code. Then it reads the burst, and moves
 * everything in one step that cannot fail and runs no Python code.
 */
#include "burst.h"

/* What an index selects, before the length of the burst is known. */
struct selection {
	Py_ssize_t start, stop, step; /* of a slice; otherwise step is 0 */
	Py_buffer view;               /* otherwise: one bool a position, or int64 indices */
};

/* 0, or -1 with an exception. May run Python code. */
static int selection_open(struct selection *s, PyObject *object, PyObject *index)
{
	*s = (struct selection) { 0 };
	if (PySlice_Check(index))
		return PySlice_Unpack(index, &s->start, &s->stop, &s->step);
	PyObject *array = PyObject_CallMethod(object, "_selection", "(O)", index);
	int error = array ? PyObject_GetBuffer(array, &s->view, PyBUF_ND) : -1;
	Py_XDECREF(array);
	return error;
}

/* Positions of a burst, in the order that was asked for. */
struct chosen {
	uint32_t *position;
	uint32_t n;
	uint8_t *moves; /* by position: 1 if its buffer moves */
};

static void chosen_free(struct chosen *c)
{
	PyMem_Free(c->position);
	PyMem_Free(c->moves);
}

#define STAYS 2 /* in moves, for now: was selected and has no buffer */

/* Adds an index. 0, or -1 with an exception. */
static int choose_one(const struct burst_object *self, struct chosen *c, int64_t index)
{
	const int64_t n = self->n, i = index < 0 ? index + n : index;
	if (i < 0 || i >= n) {
		PyObject *number = PyLong_FromLongLong(index);
		if (number)
			burst_no_index(number, self->n);
		Py_XDECREF(number);
		return -1;
	}
	if (c->moves[i]) {
		hot_fail(-EDOM,
			 "burst index is %lld, and position %lld is selected twice; each "
			 "buffer can be in one burst only",
			 (long long)index, (long long)i);
		return -1;
	}
	c->moves[i] = burst_has(self, (uint32_t)i) ? 1 : STAYS;
	if (c->moves[i] == 1)
		c->position[c->n++] = (uint32_t)i;
	return 0;
}

/* Applies the selection to the burst as it is now. 0, or -1 with an exception. */
static int choose(const struct burst_object *self, struct selection *s, struct chosen *c)
{
	const bool mask = !s->step && s->view.itemsize == 1;
	const int64_t *index = s->view.buf;
	Py_ssize_t n = s->view.len / (Py_ssize_t)sizeof(*index);
	int error = 0;
	if (s->step)
		n = PySlice_AdjustIndices((Py_ssize_t)self->n, &s->start, &s->stop, s->step);
	else if (mask)
		n = s->view.len;
	if (mask && n != (Py_ssize_t)self->n) {
		PyErr_Format(PyExc_IndexError, "the mask has %zd entries; the burst has %u buffers",
			     n, self->n);
		return -1;
	}
	c->position = PyMem_New(uint32_t, (size_t)self->n);
	c->moves = PyMem_Calloc(self->n, 1);
	if (!c->position || !c->moves) {
		PyErr_NoMemory();
		return -1;
	}
	for (Py_ssize_t i = 0; i < n && !error; i++) {
		if (mask)
			error = ((const char *)s->view.buf)[i] ? choose_one(self, c, i) : 0;
		else
			error = choose_one(self, c,
					   s->step ? s->start + i * s->step :
						     (int64_t)load_relaxed(&index[i]));
	}
	return error;
}

/* Gives a new burst room for n buffers, and for their elements. 0, or -1 with an exception. */
static int make_room(struct burst_object *part, size_t n, bool elements)
{
	uint64_t *handle = PyMem_New(uint64_t, n);
	struct buffer_object **element = elements ? PyMem_Calloc(n, sizeof(*element)) : NULL;
	if (!handle || (elements && !element)) {
		PyMem_Free(handle);
		PyMem_Free(element);
		PyErr_NoMemory();
		return -1;
	}
	PyMem_Free(part->handle);
	part->handle = handle;
	part->element = element;
	part->room = (uint32_t)n;
	return 0;
}

void burst_close_up(struct burst_object *self, const uint8_t *gone)
{
	uint32_t n = 0;
	for (uint32_t i = 0; i < self->n; i++) {
		if (gone[i] == 1)
			continue;
		self->handle[n] = self->handle[i];
		if (self->element)
			self->element[n] = self->element[i];
		n++;
	}
	self->n = n;
}

static void move_chosen(struct burst_object *self, struct burst_object *part,
			const struct chosen *c)
{
	for (uint32_t i = 0; i < c->n; i++) {
		part->handle[i] = self->handle[c->position[i]];
		if (part->element)
			part->element[i] = self->element[c->position[i]];
	}
	part->n = c->n;
	part->state = self->state;
	burst_close_up(self, c->moves);
}

PyObject *burst_divide(PyObject *object, PyObject *index)
{
	struct burst_object *self = (struct burst_object *)object;
	struct selection s;
	struct chosen c = { 0 };
	if (selection_open(&s, object, index))
		return NULL;
	struct burst_object *part = burst_make(Py_TYPE(object), self->pool, 0);
	if (part && !burst_usable(self) && !choose(self, &s, &c) &&
	    !make_room(part, c.n, self->element))
		move_chosen(self, part, &c);
	else
		Py_CLEAR(part);
	chosen_free(&c);
	PyBuffer_Release(&s.view); /* a zeroed view is ignored */
	return (PyObject *)part;
}
