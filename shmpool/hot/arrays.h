/* SPDX-License-Identifier: Apache-2.0
 *
 * arrays.h - numpy arrays whose memory is a buffer, and the record before the data that says what
 * array it is.
 *
 * The record lies in the head room and ends where the data begin (little endian):
 *
 *     data - 32 - size   text: dtype, shape and order as in the header of a .npy file, size bytes
 *     data - 32          RECORD_MAGIC: "shmarr01"
 *     data - 24          the buffer's handle: generation << 32 | index
 *     data - 16          length of the data in bytes, and size: 32 bits each
 *     data - 8           hash of the text, combined with the handle and the length
 *
 * A free raises the generation, so a record never outlives the message that it was written for.
 * Every word is read once.
 */
#ifndef SHMPOOL_ARRAYS_H
#define SHMPOOL_ARRAYS_H

#include "hot.h"

/* ---- numpy's binary interface, the same from 1.26 to 2: what a call needs that is too frequent
 * for Python. hot_use_numpy() checks the version. ---- */

#define NUMPY_DIMENSIONS_MAX 64
#define NUMPY_C_ORDER 0x1
#define NUMPY_F_ORDER 0x2
#define NUMPY_ALIGNED 0x100
#define NUMPY_WRITEABLE 0x400

/* The beginning of an ndarray. */
struct array_object {
	PyObject_HEAD
	char *data;
	int dimensions;
	Py_ssize_t *shape, *strides;
	PyObject *base;
	PyObject *dtype;
	int flags;
};

/* ---- records.c ---- */

#define RECORD_TAIL 32u        /* bytes */
#define RECORD_TEXT_MAX 16384u /* bytes */
#define RECORD_MAGIC 0x31307272616d6873ull

/* What a text says. Those read last are kept by their hash. */
struct form {
	uint32_t references;
	uint64_t hash;   /* of the text */
	uint64_t nbytes; /* of the data */
	PyObject *text;  /* bytes */
	PyObject *dtype;
	bool own_dtype; /* each array gets a copy: a program may rename the fields in place */
	int order;      /* NUMPY_C_ORDER or NUMPY_F_ORDER */
	int dimensions;
	Py_ssize_t shape[];
};

/* Returns what the text says, a reference that the caller gives to form_done(). NULL with an
 * exception. May run Python code. */
struct form *form_of(PyObject *text);

void form_free(struct form *form);
static inline void form_done(struct form *form)
{
	if (!--form->references)
		form_free(form);
}

/* Reads the record of a buffer, and returns what form_of() does of its text. NULL with an
 * exception; NULL with *why, and no exception, if there is none or it is corrupted. May run Python
 * code. */
struct form *record_read(const struct buffer_object *buffer, const char **why);

/* True if the Buffer's head room has a record of it, whatever it says. */
bool record_exists(const struct buffer_object *buffer);

/* Writes the record of a Buffer that has headroom for it, and sets headroom and length. 0, or a
 * code. */
int record_write(struct buffer_object *buffer, const struct form *form, uint64_t headroom);

/* Bytes that the record of the form takes. */
static inline uint64_t record_size(const struct form *form)
{
	return RECORD_TAIL + (uint64_t)PyBytes_GET_SIZE(form->text);
}

#endif
