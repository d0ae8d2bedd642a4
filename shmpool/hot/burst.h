/* SPDX-License-Identifier: Apache-2.0
 *
 * burst.h - shmpool.Burst, as burst.c, moves.c and columns.c use it. Elements are the Buffers that
 * burst[i] returned.
 */
#ifndef SHMPOOL_BURST_H
#define SHMPOOL_BURST_H

#include "hot.h"

/* True if the burst owns its buffers: it is not released, belongs to this process, and its pool is
 * open. */
static inline bool burst_live(const struct burst_object *self)
{
	return self->state == *hot_process_number && self->pool->key;
}

/* True if element i exists and still belongs to the live burst: it was neither freed nor put by
 * itself. */
static inline bool burst_has_element(const struct burst_object *self, uint32_t i)
{
	return self->element[i] && self->element[i]->state == self->state;
}

/* 0 if the caller may use the burst, else -1 with an exception. */
int burst_usable(const struct burst_object *self);

/* Returns how many buffers are in the burst now, with their handles in *handle. *mine is to be
 * freed with PyMem_Free(); it may be NULL. Returns -1 with an exception if a view of one of them is
 * live; it names the call what. */
int64_t burst_handles(const struct burst_object *self, const char *what, uint64_t **handle,
		      uint64_t **mine);

/* Sets the state of the burst and of its elements. */
void burst_set_state(struct burst_object *self, uint32_t state);

/* Marks the burst and its elements released: their buffers were given away. */
void burst_release(struct burst_object *self);

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
