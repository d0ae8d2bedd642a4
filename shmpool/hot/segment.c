/* SPDX-License-Identifier: Apache-2.0
 *
 * segment.c - the base of shmpool.segment.Segment: owns a pool's descriptor, its mapping, and the
 * number of the opened pool.
 *
 * The call that creates one of these also records it in the object. They end together, once, and in
 * reverse order: the members of this process, the mapping, the descriptor. That happens in close(),
 * or when the object is garbage-collected.
 */
#define _GNU_SOURCE
#include "hot.h"
#include "memory.h"

#include <errno.h>
#include <fcntl.h>
#include <structmember.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static PyObject *segment_new(PyTypeObject *type, PyObject *Py_UNUSED(args),
			     PyObject *Py_UNUSED(named))
{
	struct segment_object *self = (struct segment_object *)type->tp_alloc(type, 0);
	if (self)
		self->fd = -1;
	return (PyObject *)self;
}

int hot_segment_enter(struct segment_object *self, const char *path, bool created)
{
	if (!self->base || self->number)
		return -EBADF;
	if (self->temporary) /* the name that it has until segment_set_name() */
		path = self->temporary;
	int number = shmpool_open(self->base, self->size, self->fd, self->read_only ? NULL : path,
				  created);
	if (number > 0)
		self->number = (uint32_t)number;
	return number;
}

/* Closes a pool whose number is in no object any more. */
static void close_number(uint32_t number)
{
	if (!number || !opening_closing(number))
		return;
	PyThreadState *state = PyEval_SaveThread();
	opening_closed(number);
	PyEval_RestoreThread(state);
}

/* Ends the creation: removes the temporary name, if the file still has it. */
static void finish(struct segment_object *self)
{
	if (self->process == *hot_process_number) {
		if (self->temporary)
			unlink(self->temporary);
		if (self->hold)
			shmpool_let_go(self->hold);
	}
	PyMem_Free(self->temporary);
	self->temporary = NULL;
	self->hold = NULL;
}

static bool is_file_of(const struct segment_object *self, const struct stat *st)
{
	return st->st_dev == self->device && st->st_ino == self->inode;
}

/* True if the program has closed our descriptor: its number may be another file's now. */
static bool has_lost_file(const struct segment_object *self)
{
	struct stat now;
	if (!self->base)
		return false;
	return fstat(self->fd, &now) ? errno == EBADF : !is_file_of(self, &now);
}

/* Removes the name that ends with the object, if it still names this file. Does nothing in a forked
 * child. */
static void remove_name(struct segment_object *self)
{
	struct stat there;
	if (self->unlink_path && self->process == *hot_process_number &&
	    lstat(self->unlink_path, &there) == 0 && is_file_of(self, &there))
		unlink(self->unlink_path);
	PyMem_Free(self->unlink_path);
	self->unlink_path = NULL;
}

/* Closes the opening and clears the object. Returns what the object had. */
static struct segment_object detach(struct segment_object *self)
{
	remove_name(self);
	/* Clear the object first: other threads run in close_number(). */
	const struct segment_object was = *self;
	self->number = 0;
	self->base = NULL;
	self->fd = -1;
	close_number(was.number);
	return was;
}

void hot_segment_drop(struct segment_object *self)
{
	finish(self);
	const struct segment_object was = detach(self);
	if (was.fd >= 0 && !has_lost_file(&was))
		close(was.fd);
	if (was.base)
		munmap(was.base, was.size);
}

void hot_segment_close(struct segment_object *self)
{
	if (self->number)
		shmpool_leave(self->number);
	hot_segment_drop(self);
}

void hot_segment_leave(struct segment_object *self, bool viewed)
{
	if (self->number)
		shmpool_leave(self->number);
	if (viewed)
		remove_name(self);
	else
		detach(self);
}

static void segment_dealloc(PyObject *object)
{
	PyTypeObject *type = Py_TYPE(object);
	hot_segment_drop((struct segment_object *)object);
	type->tp_free(object);
	Py_DECREF(type);
}

static PyObject *segment_open(PyObject *object, PyObject *args)
{
	struct segment_object *self = (struct segment_object *)object;
	PyObject *path;
	int flags;
	if (!PyArg_ParseTuple(args, "O&i", PyUnicode_FSConverter, &path, &flags))
		return NULL;
	if (self->fd >= 0)
		PyErr_SetString(PyExc_ValueError, "it has a file");
	else if ((self->fd = open(PyBytes_AS_STRING(path), flags | O_CLOEXEC)) < 0)
		PyErr_SetFromErrnoWithFilenameObject(PyExc_OSError, path);
	Py_DECREF(path);
	return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
}

static PyObject *segment_anonymous(PyObject *object, PyObject *passed)
{
	struct segment_object *self = (struct segment_object *)object;
	if (self->fd >= 0)
		return PyErr_Format(PyExc_ValueError, "it has a file");
	if (passed == Py_None) {
		self->fd = memfd_create("shmpool", MFD_CLOEXEC);
		return self->fd < 0 ? PyErr_SetFromErrno(PyExc_OSError) : Py_NewRef(Py_None);
	}
	int fd = (int)PyLong_AsLong(passed);
	if (PyErr_Occurred())
		return NULL;
	self->fd = fd;
	Py_RETURN_NONE;
}

/* A copy to be freed with PyMem_Free(), or NULL with an exception. */
static char *copied(const char *text)
{
	char *copy = PyMem_Malloc(strlen(text) + 1);
	return copy ? strcpy(copy, text) : (char *)PyErr_NoMemory();
}

static PyObject *segment_create(PyObject *object, PyObject *path)
{
	struct segment_object *self = (struct segment_object *)object;
	const char *name = PyUnicode_AsUTF8(path);
	if (!name)
		return NULL;
	if (self->fd >= 0)
		return PyErr_Format(PyExc_ValueError, "it has a file");
	char *copy = copied(name);
	if (!copy)
		return NULL;
	int fd = open(name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0) {
		PyErr_SetFromErrnoWithFilenameObject(PyExc_OSError, path);
		PyMem_Free(copy);
		return NULL;
	}
	self->fd = fd;
	self->temporary = copy;
	self->process = hot_process();
	return PyLong_FromLong(shmpool_hold(fd, name, &self->hold));
}

static PyObject *segment_unlink_at_the_end(PyObject *object, PyObject *path)
{
	struct segment_object *self = (struct segment_object *)object;
	const char *name = path == Py_None ? NULL : PyUnicode_AsUTF8(path);
	char *copy = name ? copied(name) : NULL;
	if (!copy && path != Py_None)
		return NULL;
	PyMem_Free(self->unlink_path);
	self->unlink_path = copy;
	self->process = hot_process();
	Py_RETURN_NONE;
}

/* The setter of "name": a path, and whether to replace the file that has it. */
static int segment_set_name(PyObject *object, PyObject *value, void *Py_UNUSED(closure))
{
	struct segment_object *self = (struct segment_object *)object;
	struct qmempool *pool = self->number ? opening_pool(self->number) : NULL;
	PyObject *path;
	int replace;
	const char *name;
	if (!value || !PyTuple_Check(value) || !self->temporary) {
		PyErr_SetString(PyExc_ValueError, "a new file takes (path, replace), once");
		return -1;
	}
	if (!PyArg_ParseTuple(value, "Up", &path, &replace) || !(name = PyUnicode_AsUTF8(path)))
		return -1;
	if (strlen(name) >= SEGMENT_PATH_MAX)
		errno = ENAMETOOLONG;
	else if (!(replace ? rename(self->temporary, name) : link(self->temporary, name))) {
		/* No call of the pool runs yet: the caller has not returned it. */
		for (uint32_t i = 0; pool && i < segment_classes(&pool->segment); i++)
			strcpy(pool_class(pool, i)->segment.path, name);
		finish(self);
		return 0;
	}
	PyErr_SetFromErrnoWithFilenameObject(PyExc_OSError, path);
	return -1;
}

static PyObject *segment_take(PyObject *object, PyObject *other)
{
	struct segment_object *self = (struct segment_object *)object;
	struct segment_object *from = (struct segment_object *)other;
	if (!PyObject_TypeCheck(other, hot_segment_type) || self->fd >= 0)
		return PyErr_Format(PyExc_ValueError, "%R has no file to take", other);
	self->fd = from->fd;
	self->temporary = from->temporary;
	self->hold = from->hold;
	self->process = from->process;
	from->fd = -1;
	from->temporary = NULL;
	from->hold = NULL;
	Py_RETURN_NONE;
}

/* Maps size bytes of the file. A pool that can have huge pages begins at a multiple of one, in
 * memory as in the file, or the kernel could not map them whole. MAP_FAILED with errno set. */
static void *map_file(int fd, uint64_t size, int protection)
{
	const uint64_t more = MEMORY_HUGE - SEGMENT_PAGE;
	char *room = MAP_FAILED;
	if (size >= MEMORY_HUGE)
		room = mmap(NULL, size + more, PROT_NONE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (room == MAP_FAILED)
		return mmap(NULL, size, protection, MAP_SHARED, fd, 0);
	char *base = room + -(uintptr_t)room % MEMORY_HUGE;
	void *mapped = mmap(base, size, protection, MAP_SHARED | MAP_FIXED, fd, 0);
	const int error = errno;
	if (mapped == MAP_FAILED) {
		munmap(room, size + more);
	} else {
		if (base > room)
			munmap(room, (size_t)(base - room));
		if (base < room + more)
			munmap(base + size, (size_t)(room + more - base));
	}
	errno = error;
	return mapped;
}

static PyObject *segment_map(PyObject *object, PyObject *args)
{
	struct segment_object *self = (struct segment_object *)object;
	unsigned long long size;
	int read_only;
	if (!PyArg_ParseTuple(args, "Kp", &size, &read_only))
		return NULL;
	if (self->base)
		return PyErr_Format(PyExc_ValueError, "it is mapped");
	void *base = map_file(self->fd, size, read_only ? PROT_READ : PROT_READ | PROT_WRITE);
	struct stat st;
	if (base == MAP_FAILED)
		return PyErr_SetFromErrno(PyExc_OSError);
	if (fstat(self->fd, &st)) {
		PyErr_SetFromErrno(PyExc_OSError);
		munmap(base, size);
		return NULL;
	}
	self->device = st.st_dev;
	self->inode = st.st_ino;
	self->base = base;
	self->size = size;
	self->read_only = read_only;
	Py_RETURN_NONE;
}

static PyObject *segment_enter(PyObject *object, PyObject *Py_UNUSED(unused))
{
	return PyLong_FromLong(hot_segment_enter((struct segment_object *)object, NULL, false));
}

static PyObject *segment_close(PyObject *object, PyObject *Py_UNUSED(unused))
{
	hot_segment_close((struct segment_object *)object);
	Py_RETURN_NONE;
}

static PyMethodDef segment_methods[] = {
	{ "_open", segment_open, METH_VARARGS, "Opens the file. Raises OSError." },
	{ "_anonymous", segment_anonymous, METH_O,
	  "Creates a file without a name, for None; or takes over a descriptor. Raises OSError." },
	{ "_create", segment_create, METH_O,
	  "Creates a file with a temporary name that nobody else removes. Returns 0 or a code; "
	  "raises OSError." },
	{ "_unlink_at_the_end", segment_unlink_at_the_end, METH_O,
	  "Removes that name when the object or this process ends; for None, no name." },
	{ "_take", segment_take, METH_O, "Takes over the file of another one." },
	{ "_map", segment_map, METH_VARARGS,
	  "Maps the file: size in bytes, read_only. Raises OSError." },
	{ "_enter", segment_enter, METH_NOARGS,
	  "Opens the pool for reading. Returns its number, or a code." },
	{ "close", segment_close, METH_NOARGS,
	  "close($self)\n--\n\nEnds this process's members, unmaps and closes the file.\n\nMay be "
	  "repeated." },
	{ NULL, NULL, 0, NULL },
};

static PyMemberDef segment_members[] = {
	{ "fd", T_INT, offsetof(struct segment_object, fd), READONLY,
	  "The descriptor, -1 for none." },
	{ "size", T_ULONGLONG, offsetof(struct segment_object, size), READONLY, NULL },
	{ "address", T_ULONGLONG, offsetof(struct segment_object, base), READONLY,
	  "Address of the mapping, 0 for none." },
	{ "read_only", T_BOOL, offsetof(struct segment_object, read_only), READONLY, NULL },
	{ NULL, 0, 0, 0, NULL },
};

static PyGetSetDef segment_getset[] = {
	{ "_file_name", NULL, segment_set_name,
	  "Set to (path, replace): gives a new file this name instead of its temporary one.\n"
	  "With replace, another file loses it in the same step. Raises OSError; then nothing\n"
	  "has changed. An attribute, because CPython runs signal handlers after a call, but\n"
	  "not after a store.",
	  NULL },
	{ NULL, NULL, NULL, NULL, NULL },
};

static PyType_Slot segment_slots[] = {
	{ Py_tp_new, segment_new },         { Py_tp_dealloc, segment_dealloc },
	{ Py_tp_methods, segment_methods }, { Py_tp_members, segment_members },
	{ Py_tp_getset, segment_getset },   { 0, NULL },
};

PyType_Spec hot_segment_spec = { "shmpool._hot.SegmentBase", sizeof(struct segment_object), 0,
				 Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, segment_slots };
