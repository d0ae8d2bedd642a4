/* SPDX-License-Identifier: Apache-2.0
 *
 * burst.h - what burst.c, moves.c and columns.c know of a burst.
 */
#ifndef SHMPOOL_BURST_H
#define SHMPOOL_BURST_H

#include "hot.h"

static inline bool burst_live(const struct burst_object *self)
{
	return self->life == *hot_life && self->pool->key;
}

/* Whether the element is still part of the burst, which is live: it was neither freed nor put by
 * itself. */
static inline bool burst_part(const struct burst_object *self, uint32_t i)
{
	return self->element[i] && self->element[i]->life == self->life;
}

/* 0 if the caller may use it, else -1 with an exception. */
int burst_usable(const struct burst_object *self);

/* How many buffers are in it now, and their handles; what is to be freed with PyMem_Free() in
 * *mine, if anything. -1 with an exception if a view of one is alive. */
int64_t burst_handles(const struct burst_object *self, const char *what, const uint64_t **handle,
		      uint64_t **mine);

/* Says of the burst and of what is in it that its life is this one now. */
void burst_becomes(struct burst_object *self, uint32_t life);

/* It was given away. */
void burst_spend(struct burst_object *self);

/* Methods. */
PyObject *burst_alloc(PyObject *object, PyObject *timeout);
PyObject *burst_get(PyObject *object, PyObject *args);
PyObject *burst_put(PyObject *object, PyObject *args);
PyObject *burst_indices(PyObject *object, PyObject *unused);
PyObject *burst_lengths(PyObject *object, PyObject *out);
PyObject *burst_set_lengths(PyObject *object, PyObject *args);
PyObject *burst_column(PyObject *object, PyObject *args);
PyObject *burst_set_column(PyObject *object, PyObject *args);

#endif
