/* SPDX-License-Identifier: Apache-2.0
 *
 * receive.c - shmpool._hot.Receiver: datagrams of a socket with recvmmsg(2), or packets of a device
 * with read(2), straight into buffers.
 *
 * Buffers are taken when there is something to read, twice as many as the last call needed, and
 * what is left is freed. What a device has of a packet beyond its buffer is read into memory of
 * this object, so that it is counted. With RECEIVER_GRO the kernel hands several datagrams of one
 * sender over as one; these are received into memory of this object and then copied apart.
 */
#include "net.h"

#include <netinet/in.h>
#include <netinet/udp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define ADDRESS sizeof(struct sockaddr_in6)
#define LEAST 8u          /* buffers taken for a call */
#define STAGES 16u        /* datagrams received at once with RECEIVER_GRO */
#define STAGE (64u << 10) /* bytes of each */
#define BEYOND (1u << 17) /* bytes of a device's packet behind its buffer: more than any has */

enum { RECEIVER_FILE = 1, RECEIVER_GRO = 2 }; /* flags */

struct receiver_object {
	PyObject_HEAD
	struct net_port port;
	int flags;
	uint32_t room;  /* bytes that a buffer should have */
	uint32_t guess; /* packets of the next call */
	bool more;      /* the last call did not find the end: do not poll first */
	struct net_counts counts;
	uint64_t dropped;
	char *stage;  /* STAGES * STAGE bytes, NULL without RECEIVER_GRO */
	char *beyond; /* BEYOND bytes that nobody reads, NULL without RECEIVER_FILE */
	uint32_t staged, at, offset; /* messages there; the next one, and the next byte of it */
	struct mmsghdr message[NET_MOST];
	struct iovec part[NET_MOST];
	struct net_packet packet[NET_MOST];
	char address[NET_MOST][ADDRESS];
	union {
		struct cmsghdr head; /* aligns it */
		char bytes[CMSG_SPACE(sizeof(struct timespec)) + CMSG_SPACE(sizeof(int))];
	} control[NET_MOST];
};

static int receiver_init(PyObject *object, PyObject *args, PyObject *Py_UNUSED(names))
{
	struct receiver_object *self = (struct receiver_object *)object;
	PyObject *pool;
	int fd;
	int flags;
	uint32_t room;
	char *stage = NULL, *beyond = NULL;
	if (!PyArg_ParseTuple(args, "OiiI", &pool, &fd, &flags, &room))
		return -1;
	if ((flags & RECEIVER_GRO && !(stage = PyMem_Malloc(STAGES * STAGE))) ||
	    (flags & RECEIVER_FILE && !(beyond = PyMem_Malloc(BEYOND)))) {
		PyErr_NoMemory();
		goto undo;
	}
	if (net_port_open(&self->port, pool, fd))
		goto undo;
	self->flags = flags;
	self->room = room;
	self->guess = LEAST;
	self->stage = stage;
	self->beyond = beyond;
	return 0;
undo:
	PyMem_Free(stage);
	PyMem_Free(beyond);
	return -1;
}

static uint64_t ask_dropped(struct receiver_object *self)
{
	uint32_t info[9] = { 0 }; /* sk_meminfo: the last one is SK_MEMINFO_DROPS */
	socklen_t size = sizeof(info);
	if (self->port.fd >= 0 && !(self->flags & RECEIVER_FILE) &&
	    !getsockopt(self->port.fd, SOL_SOCKET, SO_MEMINFO, info, &size) && size == sizeof(info))
		self->dropped += info[8] - (uint32_t)self->dropped;
	return self->dropped;
}

static PyObject *receiver_close(PyObject *object, PyObject *Py_UNUSED(unused))
{
	ask_dropped((struct receiver_object *)object);
	net_port_close(&((struct receiver_object *)object)->port);
	Py_RETURN_NONE;
}

static void receiver_dealloc(PyObject *object)
{
	struct receiver_object *self = (struct receiver_object *)object;
	PyTypeObject *type = Py_TYPE(object);
	net_port_close(&self->port);
	Py_XDECREF(self->port.pool);
	PyMem_Free(self->stage);
	PyMem_Free(self->beyond);
	type->tp_free(object);
	Py_DECREF(type);
}

/* Prepares message i for so many bytes at to. */
static void prepare(struct receiver_object *self, uint32_t i, void *to, size_t bytes)
{
	self->part[i] = (struct iovec) { to, bytes };
	self->message[i].msg_hdr = (struct msghdr) {
		.msg_name = self->address[i],
		.msg_namelen = ADDRESS,
		.msg_iov = &self->part[i],
		.msg_iovlen = 1,
		.msg_control = &self->control[i],
		.msg_controllen = sizeof(self->control[i]),
	};
}

static int64_t now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Describes what came with message i. Returns the bytes of each of its datagrams, 0 if it is
 * one. */
static uint32_t describe(struct receiver_object *self, uint32_t i)
{
	struct msghdr *message = &self->message[i].msg_hdr;
	uint32_t segment = 0;
	struct timespec time;
	self->packet[i] = (struct net_packet) { .original = self->message[i].msg_len };
	for (struct cmsghdr *head = CMSG_FIRSTHDR(message); head;
	     head = CMSG_NXTHDR(message, head)) {
		if (head->cmsg_level == SOL_SOCKET && head->cmsg_type == SO_TIMESTAMPNS) {
			memcpy(&time, CMSG_DATA(head), sizeof(time));
			self->packet[i].timestamp =
				(int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
		} else if (head->cmsg_level == SOL_UDP && head->cmsg_type == UDP_GRO) {
			int bytes;
			memcpy(&bytes, CMSG_DATA(head), sizeof(bytes));
			segment = bytes > 0 ? (uint32_t)bytes : 0;
		}
	}
	return segment;
}

/* Receives up to n messages, without the interpreter's lock. Returns how many, or -errno. */
static int receive(struct receiver_object *self, uint32_t n)
{
	const uint64_t key = self->port.pool->key;
	int got = 0, error = 0;
	opening_thread_ready();
	uint32_t *counted = opening_begin(key_pool(key));
	PyThreadState *state = PyEval_SaveThread();
	if (self->flags & RECEIVER_FILE) {
		for (; got < (int)n; got++) {
			const struct iovec parts[] = { self->part[got], { self->beyond, BEYOND } };
			const ssize_t size = readv(self->port.fd, parts, 2);
			error = size < 0 ? errno : 0;
			if (size < 0)
				break;
			self->message[got].msg_len = (uint32_t)size;
			self->message[got].msg_hdr.msg_controllen = 0;
		}
	} else {
		/* MSG_TRUNC: the length is that of the datagram, also if it was truncated. */
		got = recvmmsg(self->port.fd, self->message, n, MSG_DONTWAIT | MSG_TRUNC, NULL);
		error = got < 0 ? errno : 0;
	}
	opening_end(counted);
	PyEval_RestoreThread(state);
	return got > 0 ? got : -error;
}

/* Receives into n buffers of the burst. Returns how many packets came, a code, or -errno with
 * *error. */
static int64_t into_buffers(struct receiver_object *self, struct burst_object *burst, uint32_t n,
			    int *error)
{
	struct lookup c;
	const uint64_t key = burst->pool->key;
	const int code = lookup_key(key, &c);
	if (code)
		return code;
	const uint64_t headroom = (uint64_t)c.p->segment.geometry.headroom;
	for (uint32_t i = 0; i < n; i++) {
		const uint32_t index = handle_index(burst->handle[i]);
		prepare(self, i, pool_data(c.p, index) + headroom,
			pool_stride(c.p, index) - headroom);
	}
	const int got = receive(self, n);
	if (!burst->pool->key)
		return -EBADF; /* another thread closed the pool, which freed the buffers */
	const uint32_t done = got > 0 ? (uint32_t)got : 0;
	const int64_t now = self->flags & RECEIVER_FILE && done ? now_ns() : 0;
	shmpool_free_many(key, burst->handle + done, n - done);
	for (uint32_t i = 0; i < done; i++) {
		const uint32_t sent = self->message[i].msg_len;
		const uint64_t room = self->part[i].iov_len;
		const uint32_t length = sent < room ? sent : (uint32_t)room;
		describe(self, i);
		self->packet[i].timestamp += now;
		net_describe(pool_buffer(c.p, handle_index(burst->handle[i])), &self->packet[i],
			     length);
		self->counts.bytes += length;
		self->counts.truncated += length < sent;
	}
	self->counts.packets += done;
	*error = got < 0 ? -got : 0;
	return got;
}

/* Delivers datagrams that were received together. Returns how many, a code, or HOT_RAISED. */
static int64_t from_stage(struct receiver_object *self, struct burst_object *burst, uint32_t most,
			  int64_t deadline, char *addresses)
{
	struct net_packet packet[NET_MOST];
	uint32_t n = 0, at = self->at, offset = self->offset;
	uint32_t behind[NET_MOST][2]; /* the place behind each packet */
	while (n < most && at < self->staged) {
		const uint32_t all =
			self->message[at].msg_len < STAGE ? self->message[at].msg_len : STAGE;
		const uint32_t segment = self->packet[at].length ? self->packet[at].length : all;
		const uint32_t left = all - offset, bytes = left < segment ? left : segment;
		packet[n] = self->packet[at];
		packet[n].data = self->stage + (size_t)at * STAGE + offset;
		packet[n].length = packet[n].original = bytes;
		if (addresses)
			memcpy(addresses + n * ADDRESS, self->address[at], ADDRESS);
		offset += bytes;
		if (offset >= all) {
			at++;
			offset = 0;
		}
		behind[n][0] = at;
		behind[n++][1] = offset;
	}
	const int64_t got = net_fill(burst, packet, n, deadline, &self->counts);
	if (got > 0) {
		self->at = behind[got - 1][0];
		self->offset = behind[got - 1][1];
	}
	return got;
}

/* Receives into the stage. Returns how many messages, or -errno. */
static int64_t into_stage(struct receiver_object *self)
{
	for (uint32_t i = 0; i < STAGES; i++)
		prepare(self, i, self->stage + (size_t)i * STAGE, STAGE);
	const int got = receive(self, STAGES);
	self->staged = got > 0 ? (uint32_t)got : 0;
	self->at = self->offset = 0;
	for (uint32_t i = 0; i < self->staged; i++)
		self->packet[i].length = describe(self, i);
	return got;
}

/* One attempt. How many packets; 0 if there were none, or no buffer was free; a code; -errno with
 * *error; or HOT_RAISED. */
static int64_t attempt(struct receiver_object *self, struct burst_object *burst, uint32_t most,
		       int64_t deadline, char *addresses, int *error)
{
	int64_t got;
	if (self->stage) {
		if (self->at == self->staged) {
			got = into_stage(self);
			if (got <= 0) {
				*error = (int)-got;
				return got;
			}
		}
		got = from_stage(self, burst, most, deadline, addresses);
		self->more = got > 0;
		return got;
	}
	uint32_t n = self->guess < most ? self->guess : most;
	got = net_take(burst, n, self->room, deadline);
	if (got <= 0)
		return got;
	n = (uint32_t)got;
	got = into_buffers(self, burst, n, error);
	self->more = got == (int64_t)n;
	if (got <= 0)
		return got;
	self->guess = 2 * (uint32_t)got < LEAST ? LEAST : 2 * (uint32_t)got;
	if (addresses)
		memcpy(addresses, self->address, (size_t)got * ADDRESS);
	burst_fill(burst, got);
	return got;
}

static int64_t fill(struct receiver_object *self, struct burst_object *burst, uint32_t most,
		    int64_t deadline, char *addresses, int *error)
{
	bool ready = self->more || (self->stage && self->at < self->staged);
	for (;;) {
		int64_t got = 1;
		if (!ready)
			got = net_port_wait(&self->port, POLLIN, deadline);
		if (got <= 0)
			return got;
		got = attempt(self, burst, most, deadline, addresses, error);
		if (got > 0 || got == HOT_RAISED)
			return got;
		if (*error ? *error != EAGAIN && *error != EINTR && !net_port_passing(*error) :
			     got != -EAGAIN || net_late(deadline))
			return got;
		if (*error)
			self->more = false;
		*error = 0;
		if (self->port.ended)
			return -ESHUTDOWN;
		ready = false;
	}
}

/* fill(burst, timeout, addresses): addresses has room for as many as the burst, or is None. */
static PyObject *receiver_fill(PyObject *object, PyObject *args)
{
	struct receiver_object *self = (struct receiver_object *)object;
	double timeout;
	uint32_t most;
	int error = 0;
	Py_buffer view = { 0 };
	PyObject *given, *time, *addresses;
	if (!PyArg_ParseTuple(args, "OOO", &given, &time, &addresses))
		return NULL;
	PyObject *two = PyTuple_Pack(2, given, time);
	struct burst_object *burst = two ? net_fill_arguments(two, &timeout, &most) : NULL;
	Py_XDECREF(two);
	if (!burst ||
	    (addresses != Py_None && PyObject_GetBuffer(addresses, &view, PyBUF_WRITABLE)))
		return NULL;
	if (view.buf && (size_t)view.len < most * ADDRESS) {
		PyBuffer_Release(&view);
		return PyErr_Format(PyExc_ValueError, "too few addresses");
	}
	int64_t got = -ESHUTDOWN;
	const int begun = net_port_begin(&self->port);
	if (begun > 0) {
		got = fill(self, burst, most, hot_deadline(timeout), view.buf, &error);
		net_port_end(&self->port);
	}
	PyBuffer_Release(&view);
	if (begun < 0)
		return NULL;
	if (error) {
		errno = error;
		return PyErr_SetFromErrno(PyExc_OSError);
	}
	if (got == -ESHUTDOWN)
		return PyLong_FromLong(-1);
	return got < 0 ? hot_pool_raise(burst->pool, got) : PyLong_FromLongLong(got);
}

static PyObject *receiver_counts(PyObject *object, void *Py_UNUSED(unused))
{
	struct receiver_object *self = (struct receiver_object *)object;
	return Py_BuildValue("(KKKK)", (unsigned long long)self->counts.packets,
			     (unsigned long long)self->counts.bytes,
			     (unsigned long long)self->counts.truncated,
			     (unsigned long long)ask_dropped(self));
}

static PyMethodDef receiver_methods[] = {
	{ "fill", receiver_fill, METH_VARARGS,
	  "fill($self, burst, timeout, addresses, /)\n--\n\nFills an empty Burst. Returns how many "
	  "packets." },
	{ "close", receiver_close, METH_NOARGS,
	  "close($self, /)\n--\n\nEnds a call of another thread, and closes the socket." },
	{ NULL, NULL, 0, NULL },
};

static PyGetSetDef receiver_getset[] = {
	{ "counts", receiver_counts, NULL, NULL, NULL },
	{ NULL, NULL, NULL, NULL, NULL },
};

static PyType_Slot receiver_slots[] = {
	{ Py_tp_init, receiver_init },
	{ Py_tp_dealloc, receiver_dealloc },
	{ Py_tp_methods, receiver_methods },
	{ Py_tp_getset, receiver_getset },
	{ 0, NULL },
};

PyType_Spec net_receiver_spec = { "shmpool._hot.Receiver", sizeof(struct receiver_object), 0,
				  Py_TPFLAGS_DEFAULT, receiver_slots };
