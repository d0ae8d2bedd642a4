/* SPDX-License-Identifier: Apache-2.0
 *
 * arrays.c - numpy arrays over buffers: made (Buffer._array), taken (get_array), handed over to a
 * queue without a copy (_hand_over).
 *
 *     array -> root -> ArrayMemory -> Buffer        each refers to the next
 *
 * numpy gives a view of an array that owns no memory the base of that array, if both are exact
 * ndarrays. So every view of the array refers to root, an array that no program has. Root's
 * reference count says if there is a view besides the array. ArrayMemory counts as one view of the
 * Buffer. The Buffer is freed when the last of them is gone, in any order.
 */
#include "arrays.h"
#include "parts.h"

/* Entries of numpy's function table, whose places never change. */
enum {
	NUMPY_VERSION = 0,
	NUMPY_NDARRAY = 2,
	NUMPY_NEW_FROM_DESCR = 94,
	NUMPY_DESCR_NEW = 95,
	NUMPY_SET_BASE = 282,
};
#define NUMPY_1 0x01000009u
#define NUMPY_2 0x02000000u

static struct {
	PyTypeObject *ndarray; /* NULL before the first use */
	PyObject *byte;        /* dtype("u1") */
	PyObject *(*new_array)(PyTypeObject *, PyObject *, int, const Py_ssize_t *,
			       const Py_ssize_t *, void *, int, PyObject *);
	PyObject *(*copy_dtype)(PyObject *);
	int (*set_base)(PyObject *, PyObject *);
	PyObject *describe; /* arrays.describe(array): the text of its record */
} numpy;

struct memory_object {
	PyObject_HEAD
	struct buffer_object *buffer;
};

PyTypeObject *hot_memory_type;

static void memory_dealloc(PyObject *object)
{
	PyTypeObject *type = Py_TYPE(object);
	struct buffer_object *buffer = ((struct memory_object *)object)->buffer;
	hot_buffer_view_ended(buffer);
	PyObject_Free(object);
	Py_DECREF(buffer);
	Py_DECREF(type);
}

static PyObject *memory_repr(PyObject *object)
{
	return PyUnicode_FromFormat("<the memory of an array: buffer %u>",
				    hot_buffer_index(((struct memory_object *)object)->buffer));
}

/* True if it keeps a buffer that is the Buffer, or that belongs to the Pool. */
static PyObject *memory_keeps(PyObject *object, PyObject *owner)
{
	const struct buffer_object *buffer = ((struct memory_object *)object)->buffer;
	return PyBool_FromLong((PyObject *)buffer == owner || (PyObject *)buffer->pool == owner);
}

static PyMethodDef memory_methods[] = {
	{ "keeps", memory_keeps, METH_O,
	  "keeps($self, owner, /)\n--\n\nTrue for its Buffer, and for that one's Pool." },
	{ NULL, NULL, 0, NULL },
};

static PyType_Slot memory_slots[] = {
	{ Py_tp_methods, memory_methods },
	{ Py_tp_doc, "What keeps a buffer while an array, or a view of one, has its memory." },
	{ Py_tp_dealloc, memory_dealloc },
	{ Py_tp_repr, memory_repr },
	{ 0, NULL },
};

PyType_Spec hot_memory_spec = { "shmpool._hot.ArrayMemory", sizeof(struct memory_object), 0,
				Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
				memory_slots };

PyObject *hot_use_numpy(PyObject *Py_UNUSED(module), PyObject *args)
{
	PyObject *capsule, *byte, *describe;
	if (!PyArg_ParseTuple(args, "OOO", &capsule, &byte, &describe))
		return NULL;
	void **api = PyCapsule_GetPointer(capsule, NULL);
	if (!api)
		return NULL;
	const unsigned int version = ((unsigned int (*)(void))api[NUMPY_VERSION])();
	if (version != NUMPY_1 && version != NUMPY_2)
		return PyErr_Format(PyExc_ImportError,
				    "numpy's binary interface is version %x; shmpool knows %x and "
				    "%x: install numpy 1.26 or 2",
				    version, NUMPY_1, NUMPY_2);
	numpy.byte = Py_NewRef(byte);
	numpy.describe = Py_NewRef(describe);
	numpy.new_array = api[NUMPY_NEW_FROM_DESCR];
	numpy.copy_dtype = api[NUMPY_DESCR_NEW];
	numpy.set_base = api[NUMPY_SET_BASE];
	numpy.ndarray = api[NUMPY_NDARRAY];
	Py_RETURN_NONE;
}

/* Imports numpy, before anything is taken. 0, or -1 with an exception. */
static int need_numpy(void)
{
	if (likely(numpy.ndarray))
		return 0;
	PyObject *module = PyImport_ImportModule("shmpool.arrays"); /* calls hot_use_numpy() */
	Py_XDECREF(module);
	return module ? 0 : -1;
}

static PyObject *memory_new(struct buffer_object *buffer)
{
	struct memory_object *self = PyObject_New(struct memory_object, hot_memory_type);
	if (unlikely(!self))
		return NULL;
	self->buffer = (struct buffer_object *)Py_NewRef(buffer);
	hot_buffer_view_begun(buffer);
	return (PyObject *)self;
}

/* An array of memory that base keeps. Takes over the reference to base, also if it fails. */
static PyObject *array_over(PyObject *dtype, int dimensions, const Py_ssize_t *shape, char *data,
			    int order, PyObject *base)
{
	if (unlikely(!base || !dtype)) {
		Py_XDECREF(base);
		Py_XDECREF(dtype);
		return NULL;
	}
	PyObject *array = numpy.new_array(numpy.ndarray, dtype, dimensions, shape, NULL, data,
					  order | NUMPY_ALIGNED | NUMPY_WRITEABLE, NULL);
	if (unlikely(!array)) {
		Py_DECREF(base);
		return NULL;
	}
	if (unlikely(numpy.set_base(array, base)))
		Py_CLEAR(array);
	return array;
}

/* Makes the array that the form says of a buffer with form->nbytes bytes. Runs no Python code. */
static PyObject *array_of(struct buffer_object *buffer, const struct form *form)
{
	if (hot_buffer_usable(buffer, "array"))
		return NULL;
	char *data = hot_buffer_bytes(buffer);
	const Py_ssize_t nbytes = (Py_ssize_t)form->nbytes;
	PyObject *root = array_over(Py_NewRef(numpy.byte), 1, &nbytes, data, NUMPY_C_ORDER,
				    memory_new(buffer));
	PyObject *dtype =
		unlikely(form->own_dtype) ? numpy.copy_dtype(form->dtype) : Py_NewRef(form->dtype);
	return array_over(dtype, form->dimensions, form->shape, data, form->order, root);
}

PyObject *hot_buffer_array(PyObject *object, PyObject *args)
{
	struct buffer_object *self = (struct buffer_object *)object;
	unsigned long long headroom;
	PyObject *text, *array = NULL;
	if (!PyArg_ParseTuple(args, "SK", &text, &headroom) || need_numpy())
		return NULL;
	struct form *form = form_of(text);
	if (!form)
		return NULL;
	int error = hot_buffer_movable(self, "array") ? -1 :
		    self->chain                       ? hot_chain_refuse(self, "an array") :
							record_write(self, form, headroom);
	if (!error)
		array = array_of(self, form);
	else if (!PyErr_Occurred())
		hot_buffer_raise(self, error, "array");
	form_done(form);
	return array;
}

/* ---- get ---- */

/* Returns a buffer that was got and made no array to its queue, and raises NoArray, or again what
 * is raised. Takes over the reference to buffer. Returns NULL. */
static PyObject *give_back(struct queue_object *self, PyObject *buffer, const char *why)
{
	PyObject *type, *value, *trace;
	const uint32_t index = hot_buffer_index((struct buffer_object *)buffer);
	PyErr_Fetch(&type, &value, &trace);
	PyObject *returned = hot_buffer_nack(buffer, NULL, 0, NULL);
	if (!returned)
		PyErr_Clear();
	if (!type) {
		PyObject *name = PyObject_GetAttrString((PyObject *)self, "name");
		if (name)
			hot_fail(-ENOMSG, "queue %R: buffer %u %s; %s", name, index, why,
				 returned ? "it went back to the queue, as by nack()" :
					    "the queue takes none back: it is this exception's "
					    "attribute buffer");
		Py_XDECREF(name);
		PyErr_Fetch(&type, &value, &trace);
	}
	PyErr_NormalizeException(&type, &value, &trace);
	if (!returned && value && PyObject_SetAttrString(value, "buffer", buffer))
		PyErr_Clear();
	PyErr_Restore(type, value, trace);
	Py_XDECREF(returned);
	Py_DECREF(buffer);
	return NULL;
}

PyObject *hot_get_array(PyObject *object, PyObject *const *args, Py_ssize_t n, PyObject *names)
{
	struct queue_object *self = (struct queue_object *)object;
	struct hot_arguments given;
	const char *why = NULL;
	if (hot_parse("get_array", NULL, args, n, names, &given) || need_numpy())
		return NULL;
	PyObject *buffer = hot_queue_get(self, given.timeout), *array = NULL;
	if (unlikely(!buffer))
		return NULL;
	struct form *form = NULL;
	if (unlikely(((struct buffer_object *)buffer)->chain))
		why = "is a chain of buffers, no array";
	else
		form = record_read((struct buffer_object *)buffer, &why);
	if (likely(form)) {
		array = array_of((struct buffer_object *)buffer, form);
		form_done(form);
	}
	if (unlikely(!array))
		return give_back(self, buffer, why);
	Py_DECREF(buffer);
	return array;
}

/* ---- put ---- */

/* How many references to an array a call of _hand_over() from Python code has if one name or
 * container of the program refers to it: that one, the caller's variable, and the caller's stack.
 * From CPython 3.14 on a variable of a function is lent to the calls that it is an argument of, so
 * two references may be a name and a view. */
#if PY_VERSION_HEX < 0x030e0000
#define REFERENCES 3
#define REFERENCES_TELL true
#else
#define REFERENCES 1
#define REFERENCES_TELL false
#endif

/* True if more references are a view, or a second name. Up to CPython 3.12 a trace function makes
 * dicts of the variables, which are references too. */
static bool references_tell(void)
{
	return REFERENCES_TELL && !PyThreadState_Get()->c_tracefunc;
}

/* Returns the Buffer of an array that has all of its bytes, and its root; NULL if it is none. */
static struct buffer_object *whole_buffer(PyObject *object, PyObject **root)
{
	if (!numpy.ndarray || !Py_IS_TYPE(object, numpy.ndarray))
		return NULL;
	const struct array_object *array = (struct array_object *)object;
	*root = array->base;
	if (!*root || !Py_IS_TYPE(*root, numpy.ndarray))
		return NULL;
	PyObject *memory = ((struct array_object *)*root)->base;
	if (!memory || !Py_IS_TYPE(memory, hot_memory_type))
		return NULL;
	struct buffer_object *buffer = ((struct memory_object *)memory)->buffer;
	const bool whole = hot_buffer_live(buffer) && array->data == hot_buffer_bytes(buffer) &&
			   array->flags & (NUMPY_C_ORDER | NUMPY_F_ORDER);
	return whole ? buffer : NULL;
}

/* Exchanges what two ndarrays are; names and weak references stay with the objects. */
static void exchange(PyObject *one, PyObject *other)
{
	const size_t weak = (size_t)numpy.ndarray->tp_weaklistoffset;
	for (size_t at = sizeof(PyObject); at < (size_t)numpy.ndarray->tp_basicsize;
	     at += sizeof(void *)) {
		void **a = (void **)((char *)one + at), **b = (void **)((char *)other + at), *was;
		if (at == weak)
			continue;
		was = *a;
		*a = *b;
		*b = was;
	}
}

/* Puts the buffer of an array that nobody else has a view of. The array is empty from before the
 * put, and has its memory again if that fails. True, or an exception. */
static PyObject *hand_over(struct queue_object *self, PyObject *array, PyObject *empty,
			   struct buffer_object *buffer, double timeout)
{
	const char *data = ((struct array_object *)empty)->data;
	Py_INCREF(buffer);
	exchange(array, empty);
	int64_t code = hot_queue_put(self, buffer, timeout);
	if (likely(code >= 0))
		hot_buffer_release(buffer);
	else if (((struct array_object *)array)->data == data) /* no other thread has changed it */
		exchange(array, empty);
	if (unlikely(code < 0))
		hot_queue_raise(self, code, (PyObject *)buffer, 0);
	Py_DECREF(buffer);
	return code < 0 ? NULL : Py_NewRef(Py_True);
}

PyObject *hot_queue_hand_over(PyObject *object, PyObject *const *args, Py_ssize_t n)
{
	struct queue_object *self = (struct queue_object *)object;
	PyObject *array, *root, *text = NULL, *empty = NULL, *done = NULL;
	struct form *form = NULL;
	const Py_ssize_t none = 0;
	double timeout;
	if (n != 2)
		return PyErr_Format(PyExc_TypeError, "_hand_over() takes an array and a timeout");
	array = args[0];
	if (hot_timeout(args[1], &timeout))
		return NULL;
	struct buffer_object *buffer = whole_buffer(array, &root);
	if (!buffer || buffer->pool != self->pool)
		Py_RETURN_FALSE;
	/* Both may run Python code; after them nothing does until the put. */
	if (!(text = PyObject_CallOneArg(numpy.describe, array)) || !(form = form_of(text)))
		goto undo;
	/* Of memory that is not its own: it cannot be resized in place. */
	empty = array_over(Py_NewRef(numpy.byte), 1, &none, PyBytes_AS_STRING(text), NUMPY_C_ORDER,
			   Py_NewRef(text));
	if (!empty)
		goto undo;
	buffer = whole_buffer(array, &root);
	if (!buffer || form->nbytes != buffer->length || record_size(form) > buffer->headroom ||
	    !record_exists(buffer)) {
		done = Py_NewRef(Py_False);
	} else if (Py_REFCNT(array) > REFERENCES && !references_tell()) {
		done = Py_NewRef(Py_False);
	} else if (Py_REFCNT(array) > REFERENCES || Py_REFCNT(root) > 1 || buffer->exports > 1 ||
		   Py_REFCNT(((struct array_object *)root)->base) > 1) {
		const uint32_t index = hot_buffer_index(buffer);
		PyObject *views = hot_views_of((PyObject *)buffer, buffer->exports, array);
		if (views)
			hot_fail(-ETXTBSY, "array of buffer %u cannot be put: %U", index, views);
		Py_XDECREF(views);
	} else {
		int error = record_write(buffer, form, buffer->headroom);
		if (error)
			hot_buffer_raise(buffer, error, "put");
		else
			done = hand_over(self, array, empty, buffer, timeout);
	}
undo:
	if (form)
		form_done(form);
	Py_XDECREF(text);
	Py_XDECREF(empty);
	return done;
}

/* ---- DLPack ---- */

PyObject *hot_buffer_dlpack(PyObject *object, PyObject *args, PyObject *named)
{
	PyObject *export = NULL, *module = PyImport_ImportModule("shmpool.arrays");
	PyObject *array = module ? PyObject_CallMethod(module, "bytes_of", "O", object) : NULL;
	PyObject *method = array ? PyObject_GetAttrString(array, "__dlpack__") : NULL;
	if (method)
		export = PyObject_Call(method, args, named);
	Py_XDECREF(method);
	Py_XDECREF(array);
	Py_XDECREF(module);
	return export;
}

PyObject *hot_buffer_dlpack_device(PyObject *Py_UNUSED(object), PyObject *Py_UNUSED(unused))
{
	return Py_BuildValue("ii", 1, 0); /* the processor's memory */
}
