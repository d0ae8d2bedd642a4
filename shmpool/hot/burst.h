/* SPDX-License-Identifier: Apache-2.0
 *
 * burst.h - shmpool.Burst, as the files that implement it use it. Elements are the Buffers that
 * burst[i] returned.
 */
#ifndef SHMPOOL_BURST_H
#define SHMPOOL_BURST_H

#include "hot.h"

#define BURST_LOCKED_MAX 1024u /* buffers that one attempt moves with the interpreter's lock held */

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

/* True if the buffer at position i is in the live burst: no element has taken it away. */
static inline bool burst_has(const struct burst_object *self, uint32_t i)
{
	return !self->element || !self->element[i] || burst_has_element(self, i);
}

/* Returns a released Burst of that type with room for so many handles; NULL with an exception. May
 * run Python code (a collection). */
struct burst_object *burst_make(PyTypeObject *type, struct pool_object *pool, uint32_t room);

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

/* Makes an empty burst the owner of its first n handles. */
void burst_fill(struct burst_object *self, int64_t n);

/* 0 if the burst was never filled, else -1 with an exception. */
int burst_empty(const struct burst_object *self);

/* Returns queue if it is one of the burst's pool, else NULL with an exception. */
struct queue_object *burst_queue(const struct burst_object *self, PyObject *queue);

/* Opens an array's bytes. There must be as many as each, in bytes, times n, or times the buffers of
 * the burst if n is 0. 0, or -1 with an exception; the caller releases the view after 0. */
int burst_array(const struct burst_object *self, PyObject *array, int flags, uint64_t n,
		uint64_t each, Py_buffer *view);

/* Takes the positions for which gone is set out of the burst; the others keep their order. The
 * elements there belong to the caller. */
void burst_close_up(struct burst_object *self, const uint8_t *gone);

/* Raises IndexError for an index of a burst of n buffers. */
void burst_no_index(PyObject *index, uint32_t n);

/* Moves what a slice, a mask or an array of indices selects into a new Burst. */
PyObject *burst_divide(PyObject *object, PyObject *index);

/* Methods. */
PyObject *burst_take(PyObject *object, PyObject *items);
PyObject *burst_spread(PyObject *object, PyObject *args);
PyObject *burst_alloc(PyObject *object, PyObject *args);
PyObject *burst_get(PyObject *object, PyObject *args);
PyObject *burst_put(PyObject *object, PyObject *args);
PyObject *burst_indices(PyObject *object, PyObject *unused);
PyObject *burst_lengths(PyObject *object, PyObject *out);
PyObject *burst_set_lengths(PyObject *object, PyObject *args);
PyObject *burst_column(PyObject *object, PyObject *args);
PyObject *burst_set_column(PyObject *object, PyObject *args);
PyObject *burst_field(PyObject *object, PyObject *args);
PyObject *burst_set_field(PyObject *object, PyObject *args);

/* Functions of the module: pack.c. */
PyObject *burst_pack(PyObject *module, PyObject *args);
PyObject *burst_unpack(PyObject *module, PyObject *args);
PyObject *packed_longest(PyObject *module, PyObject *args);

#endif
