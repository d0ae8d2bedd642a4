/* SPDX-License-Identifier: Apache-2.0
 *
 * capture.c - shmpool._hot.Scan: packets of a capture file, as bursts or as tuples.
 *
 * The file's bytes come from a Python callable, in chunks, into a window of this object's own; it
 * is asked for those from an offset on, so that what an exception kept from here it gives again. So
 * files, pipes and decompressed streams are read in the same way, and a file that another process
 * truncates is one that ends early: with a mapping it would be SIGBUS. The copy costs a tenth of
 * reading a packet of 60 bytes.
 *
 * Packets that were found and not delivered yet stay in `found`, which points into the window; the
 * window moves only when there are none.
 */
#include "scan.h"

#include <structmember.h>

#define CHUNK (1u << 18) /* bytes asked for at once: they stay in the second cache */

struct scan_object {
	PyObject_HEAD
	struct scan s;
	uint8_t *window;
	size_t room;   /* bytes of it */
	uint64_t size; /* bytes read so far: all of the file, at its end */
	PyObject *read, *path, *error;
	PyObject *interfaces; /* list of (link, snaplen, resolution, offset, options) */
	PyObject *sections;   /* list of (interfaces before it, options) */
	PyObject *comments;   /* list of (packet, options) */
	struct scan_packet found[NET_MOST];
	struct net_packet packet[NET_MOST];
	uint32_t first, n; /* of found: those that were not delivered */
	uint64_t scanned;  /* packets */
	struct net_counts counts;
	bool begun, ended, busy;
};

static int scan_init(PyObject *object, PyObject *args, PyObject *Py_UNUSED(names))
{
	struct scan_object *self = (struct scan_object *)object;
	PyObject *read, *path, *error;
	if (self->read) {
		PyErr_SetString(PyExc_TypeError, "a Scan is made once");
		return -1;
	}
	if (!PyArg_ParseTuple(args, "OUO", &read, &path, &error))
		return -1;
	self->interfaces = PyList_New(0);
	self->sections = PyList_New(0);
	self->comments = PyList_New(0);
	self->window = PyMem_Malloc(CHUNK);
	if (!self->interfaces || !self->sections || !self->comments || !self->window) {
		PyErr_NoMemory();
		return -1;
	}
	self->room = CHUNK;
	self->s.at = self->s.end = self->window;
	self->read = Py_NewRef(read);
	self->path = Py_NewRef(path);
	self->error = Py_NewRef(error);
	return 0;
}

static int scan_traverse(PyObject *object, visitproc visit, void *arg)
{
	struct scan_object *self = (struct scan_object *)object;
	Py_VISIT(Py_TYPE(object));
	Py_VISIT(self->read);
	Py_VISIT(self->error);
	return 0;
}

static int scan_clear(PyObject *object)
{
	Py_CLEAR(((struct scan_object *)object)->read);
	Py_CLEAR(((struct scan_object *)object)->error);
	return 0;
}

static void scan_dealloc(PyObject *object)
{
	struct scan_object *self = (struct scan_object *)object;
	PyTypeObject *type = Py_TYPE(object);
	PyObject_GC_UnTrack(object);
	scan_clear(object);
	Py_XDECREF(self->path);
	Py_XDECREF(self->interfaces);
	Py_XDECREF(self->sections);
	Py_XDECREF(self->comments);
	PyMem_Free(self->window);
	free(self->s.interface);
	type->tp_free(object);
	Py_DECREF(type);
}

/* Raises the error of the record at s.at. Returns -1. */
static int fail(struct scan_object *self, const char *why)
{
	PyErr_Format(self->error, "%U: at byte %llu: %s", self->path,
		     (unsigned long long)self->s.place, why);
	return -1;
}

/* Raises the error of a file that ends in the middle of a record, or is none. Returns -1. */
static int fail_at_the_end(struct scan_object *self)
{
	static const char *const none = "%U is not a pcap or pcapng file: it %s";
	const uint8_t *at = self->s.at;
	const size_t n = (size_t)(self->s.end - at);
	char text[32] = "is empty";
	if (self->begun) {
		PyErr_Format(self->error, "%U: truncated at byte %llu, in the record at byte %llu",
			     self->path, (unsigned long long)self->size,
			     (unsigned long long)self->s.place);
		return -1;
	}
	if (n)
		strcpy(text, "begins with");
	for (size_t i = 0, end = strlen(text); i < n && i < 4; i++, end += 3)
		snprintf(text + end, sizeof(text) - end, " %02x", at[i]);
	PyErr_Format(self->error, none, self->path, text);
	return -1;
}

/* Reads more of the file behind what the window has. 1; 0 at the end of the file; 2 if there is
 * nothing yet (the callable returned None); -1 with an exception. Runs Python code. */
static int read_more(struct scan_object *self)
{
	struct scan *s = &self->s;
	const size_t kept = (size_t)(s->end - s->at);
	PyObject *bytes =
		PyObject_CallFunction(self->read, "KI", (unsigned long long)self->size, CHUNK);
	if (!bytes)
		return -1;
	if (bytes == Py_None) {
		Py_DECREF(bytes);
		return 2;
	}
	if (!PyBytes_Check(bytes)) {
		Py_DECREF(bytes);
		PyErr_SetString(PyExc_TypeError, "read() must return bytes or None");
		return -1;
	}
	const size_t n = (size_t)PyBytes_GET_SIZE(bytes);
	if (kept + n > self->room) { /* doubles at most: a size that is claimed takes no memory */
		uint8_t *more = PyMem_Malloc(2 * (kept + n));
		if (!more) {
			Py_DECREF(bytes);
			PyErr_NoMemory();
			return -1;
		}
		memcpy(more, s->at, kept);
		PyMem_Free(self->window);
		self->window = more;
		self->room = 2 * (kept + n);
	} else {
		memmove(self->window, s->at, kept);
	}
	memcpy(self->window + kept, PyBytes_AS_STRING(bytes), n);
	s->at = self->window;
	s->end = self->window + kept + n;
	self->size += n;
	Py_DECREF(bytes);
	return n > 0;
}

/* Appends a tuple to a list. Steals it. 0, or -1 with an exception. */
static int append(PyObject *list, PyObject *tuple)
{
	const int error = tuple ? PyList_Append(list, tuple) : -1;
	Py_XDECREF(tuple);
	return error;
}

/* Returns the options of a block as a tuple of (code, bytes), those that Python wants: codes up to
 * 3. A new reference, or NULL with an exception. */
static PyObject *options_of(const struct scan *s, const uint8_t *at, uint32_t left)
{
	const uint8_t *value;
	uint32_t size;
	int code;
	PyObject *list = PyList_New(0);
	while (list && (code = scan_option(s, &at, &left, &value, &size)) > 0)
		if (code <= 3 &&
		    append(list, Py_BuildValue("(iy#)", code, value, (Py_ssize_t)size)))
			Py_CLEAR(list);
	if (!list)
		return NULL;
	PyObject *tuple = PyList_AsTuple(list);
	Py_DECREF(list);
	return tuple;
}

/* Keeps what the file says of an interface, a section or a packet. 0, or -1 with an exception. */
static int keep(struct scan_object *self, enum scan_found is, struct scan_packet *found)
{
	const struct scan *s = &self->s;
	const bool packet = is == SCAN_PACKET;
	PyObject *options =
		options_of(s, packet ? found->options : s->options, packet ? found->size : s->size);
	if (!options)
		return -1;
	const struct scan_interface *added =
		is == SCAN_INTERFACE ? &s->interface[s->interfaces - 1] : NULL;
	if (added)
		return append(self->interfaces,
			      Py_BuildValue("(iIiLN)", added->link, added->snaplen,
					    added->resolution, (long long)added->offset, options));
	if (!packet)
		return append(self->sections, Py_BuildValue("(IN)", s->interfaces, options));
	if (!PyTuple_GET_SIZE(options)) {
		Py_DECREF(options);
		return 0;
	}
	found->packet.flags |= NET_COMMENTED;
	return append(self->comments,
		      Py_BuildValue("(KN)", (unsigned long long)self->scanned, options));
}

/* Finds packets until there are most, or none left in the window. Reads more if there is none. 1; 0
 * at the end of the file, or if there is nothing yet; -1 with an exception, which concerns what is
 * behind the packets found so far. */
static int find(struct scan_object *self, uint32_t most)
{
	struct scan *s = &self->s;
	if (self->first == self->n)
		self->first = self->n = 0;
	while (self->n < most) {
		enum scan_found is = SCAN_MORE;
		struct scan_packet *found = &self->found[self->n];
		s->needed = 4;
		if (!self->begun && s->end - s->at >= 4) {
			if (!scan_begin(s))
				return fail_at_the_end(self);
			self->begun = true;
		}
		if (self->begun && s->at < s->end)
			is = scan_step(s, found);
		if (is == SCAN_PACKET) {
			if (unlikely(found->size) && keep(self, is, found))
				return -1;
			self->packet[self->n++] = found->packet;
			self->scanned++;
		} else if (is == SCAN_INTERFACE || is == SCAN_SECTION) {
			if (keep(self, is, found))
				return -1;
		} else if (is == SCAN_WRONG) {
			return self->n > self->first ? 1 : fail(self, s->why);
		} else if (is == SCAN_MORE) {
			if (self->n > self->first)
				return 1;
			const int more = read_more(self);
			self->ended = !more;
			if (!more && s->at == s->end && self->begun)
				return 0;
			if (!more)
				return fail_at_the_end(self);
			if (more != 1)
				return more == 2 ? 0 : -1;
		}
	}
	return 1;
}

/* 0, or -1 with an exception: another thread is in a call, or the object was not made. */
static int begin(struct scan_object *self)
{
	if (self->busy || !self->read) {
		PyErr_SetString(PyExc_RuntimeError, "another thread is reading this file");
		return -1;
	}
	self->busy = true;
	return 0;
}

static PyObject *scan_fill(PyObject *object, PyObject *args)
{
	struct scan_object *self = (struct scan_object *)object;
	double timeout;
	uint32_t most;
	struct burst_object *burst = net_fill_arguments(args, &timeout, &most);
	if (!burst || begin(self))
		return NULL;
	const int64_t deadline = hot_deadline(timeout);
	int64_t n = self->n > self->first ? 1 : find(self, most);
	while (n > 0) {
		const uint32_t left = self->n - self->first;
		n = net_fill(burst, self->packet + self->first, left < most ? left : most, deadline,
			     &self->counts);
		if (n != -EAGAIN || net_late(deadline))
			break;
		n = 1;
	}
	self->first += n > 0 ? (uint32_t)n : 0;
	self->busy = false;
	if (n == -1 && PyErr_Occurred())
		return NULL;
	return n < 0 ? hot_pool_raise(burst->pool, n) : PyLong_FromLongLong(n);
}

/* Returns the time of a packet as an int, exactly; None if the file does not say. */
static PyObject *time_of(const struct scan *s, const struct scan_packet *found)
{
	if (found->timeless)
		Py_RETURN_NONE;
	const unsigned __int128 time = scan_time(s, found);
	const int64_t offset = s->interface[found->interface].offset;
	if (likely(time <= INT64_MAX && !offset))
		return PyLong_FromLongLong((long long)time);
	PyObject *high = PyLong_FromUnsignedLongLong((uint64_t)(time / SCAN_NS));
	PyObject *low = PyLong_FromUnsignedLongLong((uint64_t)(time % SCAN_NS));
	PyObject *more = PyLong_FromLongLong(offset),
		 *second = PyLong_FromUnsignedLongLong(SCAN_NS);
	PyObject *sum = high && more ? PyNumber_Add(high, more) : NULL;
	PyObject *all = sum && second ? PyNumber_Multiply(sum, second) : NULL;
	PyObject *result = all && low ? PyNumber_Add(all, low) : NULL;
	Py_XDECREF(high);
	Py_XDECREF(low);
	Py_XDECREF(more);
	Py_XDECREF(second);
	Py_XDECREF(sum);
	Py_XDECREF(all);
	return result;
}

static PyObject *scan_packets(PyObject *object, PyObject *Py_UNUSED(unused))
{
	struct scan_object *self = (struct scan_object *)object;
	PyObject *list = PyList_New(0);
	if (!list || begin(self)) {
		Py_XDECREF(list);
		return NULL;
	}
	int n = self->n > self->first ? 1 : find(self, NET_MOST);
	for (; n > 0 && self->first < self->n; self->first++) {
		const struct scan_packet *found = &self->found[self->first];
		PyObject *time = time_of(&self->s, found);
		if (!time ||
		    append(list,
			   Py_BuildValue("(Niy#)", time, self->s.interface[found->interface].link,
					 found->packet.data, (Py_ssize_t)found->packet.length))) {
			n = -1;
			break;
		}
	}
	self->busy = false;
	if (n < 0)
		Py_CLEAR(list);
	return list;
}

static PyObject *scan_counts(PyObject *object, void *Py_UNUSED(unused))
{
	const struct net_counts *counts = &((struct scan_object *)object)->counts;
	return Py_BuildValue("(KKK)", (unsigned long long)counts->packets,
			     (unsigned long long)counts->bytes,
			     (unsigned long long)counts->truncated);
}

static PyObject *scan_ended(PyObject *object, void *Py_UNUSED(unused))
{
	return PyBool_FromLong(((struct scan_object *)object)->ended);
}

static PyMethodDef scan_methods[] = {
	{ "fill", scan_fill, METH_VARARGS,
	  "fill($self, burst, timeout, /)\n--\n\nFills an empty Burst. Returns how many packets." },
	{ "packets", scan_packets, METH_NOARGS,
	  "packets($self, /)\n--\n\nReturns the next packets as tuples; none at the end." },
	{ NULL, NULL, 0, NULL },
};

static PyMemberDef scan_members[] = {
	{ "interfaces", T_OBJECT, offsetof(struct scan_object, interfaces), READONLY, NULL },
	{ "sections", T_OBJECT, offsetof(struct scan_object, sections), READONLY, NULL },
	{ "comments", T_OBJECT, offsetof(struct scan_object, comments), READONLY, NULL },
	{ NULL, 0, 0, 0, NULL },
};

static PyGetSetDef scan_getset[] = {
	{ "counts", scan_counts, NULL, NULL, NULL },
	{ "ended", scan_ended, NULL, NULL, NULL },
	{ NULL, NULL, NULL, NULL, NULL },
};

static PyType_Slot scan_slots[] = {
	{ Py_tp_init, scan_init },         { Py_tp_dealloc, scan_dealloc },
	{ Py_tp_traverse, scan_traverse }, { Py_tp_clear, scan_clear },
	{ Py_tp_methods, scan_methods },   { Py_tp_members, scan_members },
	{ Py_tp_getset, scan_getset },     { 0, NULL },
};

PyType_Spec net_scan_spec = { "shmpool._hot.Scan", sizeof(struct scan_object), 0,
			      Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, scan_slots };
