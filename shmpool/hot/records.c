/* SPDX-License-Identifier: Apache-2.0
 *
 * records.c - reads and writes the records of arrays, and keeps what the last texts said.
 *
 * What a text says is worked out in Python (shmpool/arrays.py), once: a get of another array of the
 * same form compares the text and takes the form that is kept.
 */
#include "arrays.h"

#define FORMS 64u /* kept: the text's hash selects the place */

static struct form *forms[FORMS];
static PyObject *parse_function; /* arrays.parse(text): (dtype, own, shape, fortran, nbytes) */

static uint64_t mix(uint64_t h, uint64_t word)
{
	h = (h ^ word) * 0x9e3779b97f4a7c15ull;
	return h ^ h >> 29;
}

/* size is a multiple of 8. */
static uint64_t text_hash(const char *text, size_t size)
{
	uint64_t h = size, word;
	for (size_t i = 0; i < size; i += sizeof(word)) {
		memcpy(&word, text + i, sizeof(word));
		h = mix(h, word);
	}
	return h;
}

/* What the hash of a text is combined with: a record of another buffer, of another use of it, or of
 * another length gives another hash. */
static uint64_t seal_of(uint64_t handle, uint64_t sizes)
{
	return mix(mix(RECORD_MAGIC, handle), sizes);
}

void form_free(struct form *form)
{
	Py_XDECREF(form->text);
	Py_XDECREF(form->dtype);
	PyMem_Free(form);
}

static struct form *form_parse(PyObject *text, uint64_t hash)
{
	PyObject *dtype, *shape;
	int own, keep, fortran;
	unsigned long long nbytes;
	struct form *form = NULL;
	if (!parse_function) {
		PyObject *module = PyImport_ImportModule("shmpool.arrays");
		parse_function = module ? PyObject_GetAttrString(module, "parse") : NULL;
		Py_XDECREF(module);
		if (!parse_function)
			return NULL;
	}
	PyObject *said = PyObject_CallOneArg(parse_function, text);
	if (!said || !PyArg_ParseTuple(said, "OO!pppK", &dtype, &PyTuple_Type, &shape, &fortran,
				       &own, &keep, &nbytes))
		goto undo;
	const Py_ssize_t n = PyTuple_GET_SIZE(shape);
	if (n > NUMPY_DIMENSIONS_MAX) {
		PyErr_Format(PyExc_ValueError, "%zd dimensions", n);
		goto undo;
	}
	form = PyMem_Calloc(1, sizeof(*form) + (size_t)n * sizeof(form->shape[0]));
	if (!form) {
		PyErr_NoMemory();
		goto undo;
	}
	form->references = 1;
	form->hash = hash;
	form->nbytes = nbytes;
	form->text = Py_NewRef(text);
	form->dtype = Py_NewRef(dtype);
	form->own_dtype = own;
	form->order = fortran ? NUMPY_F_ORDER : NUMPY_C_ORDER;
	form->dimensions = (int)n;
	for (Py_ssize_t i = 0; i < n; i++)
		form->shape[i] = PyLong_AsSsize_t(PyTuple_GET_ITEM(shape, i));
	if (PyErr_Occurred()) {
		form_free(form);
		form = NULL;
	} else if (keep) {
		struct form *before = forms[hash % FORMS];
		form->references++;
		forms[hash % FORMS] = form;
		if (before)
			form_done(before);
	}
undo:
	Py_XDECREF(said);
	return form;
}

static struct form *form_find(uint64_t hash, const char *text, size_t size)
{
	struct form *form = forms[hash % FORMS];
	if (likely(form && form->hash == hash && (size_t)PyBytes_GET_SIZE(form->text) == size &&
		   !memcmp(PyBytes_AS_STRING(form->text), text, size))) {
		form->references++;
		return form;
	}
	return NULL;
}

struct form *form_of(PyObject *text)
{
	const size_t size = (size_t)PyBytes_GET_SIZE(text);
	const uint64_t hash = text_hash(PyBytes_AS_STRING(text), size);
	struct form *form = form_find(hash, PyBytes_AS_STRING(text), size);
	return form ? form : form_parse(text, hash);
}

/* The words of a record's tail, read once. */
struct tail {
	uint64_t magic, handle, sizes, seal;
};

static struct tail tail_of(const struct buffer_object *buffer)
{
	if (buffer->headroom < RECORD_TAIL || buffer->headroom % sizeof(uint64_t))
		return (struct tail) { 0 };
	const uint64_t *word = (const uint64_t *)(hot_buffer_bytes(buffer) - RECORD_TAIL);
	return (struct tail) { load_relaxed(&word[0]), load_relaxed(&word[1]),
			       load_relaxed(&word[2]), load_relaxed(&word[3]) };
}

/* True if the tail is one of this message. A record of an earlier message in the buffer is not, nor
 * is one whose message got another length since. */
static bool tail_is_of(const struct tail *tail, const struct buffer_object *buffer)
{
	return tail->magic == RECORD_MAGIC && tail->handle == buffer->handle &&
	       (uint32_t)tail->sizes == buffer->length;
}

bool record_exists(const struct buffer_object *buffer)
{
	const struct tail tail = tail_of(buffer);
	return tail_is_of(&tail, buffer);
}

struct form *record_read(const struct buffer_object *buffer, const char **why)
{
	const struct tail tail = tail_of(buffer);
	const uint64_t size = tail.sizes >> 32;
	*why = "holds no array";
	if (unlikely(!tail_is_of(&tail, buffer)))
		return NULL;
	*why = "has a corrupted array record";
	if (unlikely(size % sizeof(uint64_t) || size > RECORD_TEXT_MAX ||
		     size > buffer->headroom - RECORD_TAIL))
		return NULL;
	const char *text = hot_buffer_bytes(buffer) - RECORD_TAIL - size;
	const uint64_t hash = tail.seal ^ seal_of(tail.handle, tail.sizes);
	struct form *form = form_find(hash, text, size);
	if (unlikely(!form)) {
		PyObject *copy = PyBytes_FromStringAndSize(text, (Py_ssize_t)size);
		const bool same = copy && text_hash(PyBytes_AS_STRING(copy), size) == hash;
		form = same ? form_parse(copy, hash) : NULL;
		Py_XDECREF(copy);
		if (!form && PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_ValueError))
			PyErr_Clear();
	}
	if (unlikely(form && form->nbytes != buffer->length)) {
		form_done(form);
		return NULL;
	}
	return form;
}

int record_write(struct buffer_object *buffer, const struct form *form, uint64_t headroom)
{
	struct buffer *b;
	const uint64_t size = (uint64_t)PyBytes_GET_SIZE(form->text);
	const uint64_t stride = hot_buffer_stride(buffer);
	if (headroom > stride || form->nbytes > stride - headroom || headroom % sizeof(uint64_t) ||
	    RECORD_TAIL + size > headroom)
		return -ERANGE;
	int error = hot_buffer_header(buffer, &b);
	if (error)
		return error;
	store_relaxed(&b->headroom, (uint32_t)headroom);
	store_relaxed(&b->length, (uint32_t)form->nbytes);
	buffer->headroom = headroom;
	buffer->length = form->nbytes;
	char *data = hot_buffer_bytes(buffer);
	uint64_t *word = (uint64_t *)(data - RECORD_TAIL);
	const uint64_t sizes = size << 32 | form->nbytes;
	memcpy(data - RECORD_TAIL - size, PyBytes_AS_STRING(form->text), size);
	store_relaxed(&word[0], RECORD_MAGIC);
	store_relaxed(&word[1], buffer->handle);
	store_relaxed(&word[2], sizes);
	store_relaxed(&word[3], form->hash ^ seal_of(buffer->handle, sizes));
	return 0;
}
