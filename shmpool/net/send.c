/* SPDX-License-Identifier: Apache-2.0
 *
 * send.c - shmpool._hot.Sender: sends the packets of a burst with sendmmsg(2), or write(2) for a
 * device that is no socket, straight out of their buffers. The kernel copies them, so the buffers
 * are free when the call returns.
 *
 * The burst is HOT_MOVING_BURST while packets are sent without the interpreter's lock. What was
 * sent, or refused for good, leaves the burst; if the call raises, the others stay in it.
 */
#include "net.h"
#include "parts.h"

#include <netinet/in.h>
#include <netinet/udp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define PARTS (4 * NET_MOST) /* buffers of one system call */
#define ADDRESS sizeof(struct sockaddr_in6)
#define SEGMENTS_MAX 64       /* datagrams that the kernel makes of one (UDP_SEGMENT) */
#define SEGMENTS_BYTES 65000u /* of all of them: with headers they fit into one IP packet */
#define RETRY_NS 100000ll     /* after a device had no room and does not say when it has */

enum { SENDER_FILE = 1, SENDER_SEGMENTS = 2 }; /* flags */

struct sender_object {
	PyObject_HEAD
	struct net_port port;
	int flags;
	uint64_t packets, bytes, refused;
	struct mmsghdr message[NET_MOST];
	uint32_t span[NET_MOST]; /* packets of each message */
	struct iovec part[PARTS];
	union {
		struct cmsghdr head; /* aligns it */
		char bytes[CMSG_SPACE(sizeof(uint16_t))];
	} control[NET_MOST];
};

/* A burst that is being sent. */
struct sending {
	struct burst_object *burst;
	struct lookup c;
	uint64_t *handle;
	uint32_t n, at;      /* packets, and those that are done */
	uint32_t alone;      /* those before this one are not put together any more */
	uint32_t refused;    /* of those */
	const char *address; /* of each, ADDRESS bytes; NULL: where the socket is connected to */
};

static int sender_init(PyObject *object, PyObject *args, PyObject *Py_UNUSED(names))
{
	struct sender_object *self = (struct sender_object *)object;
	PyObject *pool;
	int fd;
	int flags;
	if (!PyArg_ParseTuple(args, "Oii", &pool, &fd, &flags) ||
	    net_port_open(&self->port, pool, fd))
		return -1;
	self->flags = flags;
	return 0;
}

static PyObject *sender_close(PyObject *object, PyObject *Py_UNUSED(unused))
{
	net_port_close(&((struct sender_object *)object)->port);
	Py_RETURN_NONE;
}

static void sender_dealloc(PyObject *object)
{
	struct sender_object *self = (struct sender_object *)object;
	PyTypeObject *type = Py_TYPE(object);
	net_port_close(&self->port);
	Py_XDECREF(self->port.pool);
	type->tp_free(object);
	Py_DECREF(type);
}

/* Adds the parts of a packet at part. Returns how many; 0 if there is no room for them. */
static uint32_t add_parts(const struct sending *s, uint32_t i, struct iovec *part, uint32_t room,
			  uint64_t *bytes)
{
	uint32_t n = 0;
	*bytes = 0;
	for (struct bytes_part from = bytes_first(s->c.p, s->handle[i]); from.n;
	     from = bytes_next(s->c.p, s->handle[i], &from)) {
		if (n == room)
			return 0;
		part[n++] = (struct iovec) { from.data, from.length };
		*bytes += from.length;
	}
	return n;
}

/* Asks the kernel to divide a message into datagrams of so many bytes. */
static void divide(struct sender_object *self, uint32_t m, uint16_t bytes)
{
	struct msghdr *message = &self->message[m].msg_hdr;
	message->msg_control = &self->control[m];
	message->msg_controllen = sizeof(self->control[m]);
	struct cmsghdr *head = CMSG_FIRSTHDR(message);
	*head = (struct cmsghdr) { CMSG_LEN(sizeof(bytes)), SOL_UDP, UDP_SEGMENT };
	memcpy(CMSG_DATA(head), &bytes, sizeof(bytes));
}

/* Makes messages of the packets that are not done, as many as there is room for. Returns how many
 * messages: 0 if the next packet has more parts than one message can. */
static uint32_t prepare(struct sender_object *self, const struct sending *s)
{
	uint32_t n = 0, parts = 0;
	uint64_t segment = 0, total = 0, bytes; /* of the last message */
	bool whole = false;                     /* its last datagram is as long as the others */
	for (uint32_t i = s->at; i < s->n; i++) {
		const char *to = s->address ? s->address + i * ADDRESS : NULL;
		const uint32_t added = add_parts(s, i, self->part + parts, PARTS - parts, &bytes);
		struct msghdr *last = n ? &self->message[n - 1].msg_hdr : NULL;
		if (!added)
			break;
		if (self->flags & SENDER_SEGMENTS && last && i > s->alone && whole && bytes &&
		    bytes <= segment && self->span[n - 1] < SEGMENTS_MAX &&
		    total + bytes <= SEGMENTS_BYTES &&
		    (!to || !memcmp(to, last->msg_name, ADDRESS))) {
			last->msg_iovlen += added;
			self->span[n - 1]++;
			divide(self, n - 1, (uint16_t)segment);
			total += bytes;
			whole = bytes == segment;
		} else {
			if (n == NET_MOST)
				break;
			self->message[n].msg_hdr = (struct msghdr) { .msg_iov = self->part + parts,
								     .msg_iovlen = added };
			if (to) {
				const sa_family_t family = *(const sa_family_t *)to;
				self->message[n].msg_hdr.msg_name = (void *)to;
				self->message[n].msg_hdr.msg_namelen =
					family == AF_INET ? sizeof(struct sockaddr_in) : ADDRESS;
			}
			self->span[n++] = 1;
			segment = total = bytes;
			whole = bytes && bytes <= UINT16_MAX;
		}
		parts += added;
	}
	return n;
}

/* Sends messages. Returns how many were sent, or -errno if the first was not. */
static int send_some(struct sender_object *self, uint32_t n)
{
	int sent = 0;
	if (!(self->flags & SENDER_FILE)) {
		sent = sendmmsg(self->port.fd, self->message, n, MSG_DONTWAIT);
		return sent < 0 ? -errno : sent;
	}
	for (; sent < (int)n; sent++) {
		const struct msghdr *message = &self->message[sent].msg_hdr;
		if (writev(self->port.fd, message->msg_iov, (int)message->msg_iovlen) < 0)
			return sent ? sent : -errno;
	}
	return sent;
}

/* Counts m messages as done. */
static void done(struct sender_object *self, struct sending *s, uint32_t m, bool sent)
{
	for (uint32_t i = 0; i < m; i++) {
		const struct msghdr *message = &self->message[i].msg_hdr;
		s->at += self->span[i];
		self->packets += sent ? self->span[i] : 0;
		self->refused += sent ? 0 : self->span[i];
		s->refused += sent ? 0 : self->span[i];
		size_t parts = (size_t)message->msg_iovlen; /* an int in musl */
		for (size_t k = 0; sent && k < parts; k++)
			self->bytes += message->msg_iov[k].iov_len;
	}
}

/* True for an error that concerns one datagram, this one or an earlier one: its destination, or a
 * rule of the firewall. */
static bool of_one(int error)
{
	return error == -ECONNREFUSED || error == -EHOSTUNREACH || error == -ENETUNREACH ||
	       error == -EPERM || error == -EACCES;
}

/* True for an error of datagrams that the kernel cannot divide again, though it may take each by
 * itself: one is longer than the MTU, or the interface computes no checksums. */
static bool not_together(int error)
{
	return error == -EMSGSIZE || error == -EINVAL || error == -EIO;
}

/* Sends packets until all are done. 0; -ENOBUFS when the time is up; -ESHUTDOWN; HOT_RAISED; or
 * another code, of a system call if *error is set. */
static int64_t send_all(struct sender_object *self, struct sending *s, int64_t deadline, int *error)
{
	const uint64_t key = s->burst->pool->key;
	int refused = 0; /* in a row, by a socket that reports an earlier datagram's fate */
	while (s->at < s->n) {
		if (!s->burst->pool->key)
			return -EBADF; /* closed while this waited, which freed them */
		const uint32_t n = prepare(self, s);
		opening_thread_ready();
		uint32_t *counted = opening_begin(key_pool(key));
		PyThreadState *state = PyEval_SaveThread();
		const int sent = n ? send_some(self, n) : -EMSGSIZE;
		opening_end(counted);
		PyEval_RestoreThread(state);
		if (!s->burst->pool->key)
			return -EBADF; /* another thread closed the pool, which freed them */
		if (sent >= 0) {
			done(self, s, (uint32_t)sent, true);
			refused = 0;
			continue;
		}
		if (sent == -EINTR && PyErr_CheckSignals())
			return HOT_RAISED;
		if (sent == -EINTR)
			continue;
		if (sent == -EAGAIN || sent == -ENOBUFS) {
			const int64_t soon = wait_now() + RETRY_NS;
			const bool says = sent == -EAGAIN; /* when there is room */
			const int64_t until = says || deadline < soon ? deadline : soon;
			const int64_t code = net_port_wait(&self->port, says ? POLLOUT : 0, until);
			if (code < 0)
				return code;
			if (!code && net_late(deadline))
				return -ENOBUFS;
		} else if (of_one(sent) && !refused++) {
			continue; /* perhaps an earlier datagram's: then this one was not tried */
		} else if (n && self->span[0] > 1 && not_together(sent)) {
			s->alone = s->at + self->span[0];
		} else if (sent == -EMSGSIZE || sent == -EINVAL || of_one(sent) ||
			   (sent == -EIO && !(self->flags & SENDER_FILE))) {
			self->span[0] = n ? self->span[0] : 1;
			done(self, s, 1, false);
			refused = 0;
		} else {
			*error = -sent;
			return sent;
		}
	}
	return 0;
}

/* Returns the addresses of those positions that have a packet; NULL with MemoryError. */
static char *addresses_of(const struct sending *s)
{
	char *to = PyMem_Malloc(s->n * ADDRESS + 1);
	uint32_t k = 0;
	for (uint32_t i = 0; to && i < s->burst->n; i++)
		if (burst_has(s->burst, i))
			memcpy(to + k++ * ADDRESS, s->address + i * ADDRESS, ADDRESS);
	return to ? to : (char *)PyErr_NoMemory();
}

void net_take_out(struct burst_object *burst, uint32_t at, uint32_t n)
{
	if (!at)
		return;
	if (at == n) {
		burst_release(burst);
		return;
	}
	/* In place: without memory the burst would keep buffers that the kernel has. */
	uint32_t kept = 0;
	for (uint32_t i = 0; i < burst->n; i++) {
		struct buffer_object *element = burst->element ? burst->element[i] : NULL;
		if (at && burst_has(burst, i)) {
			at--;
			if (element) {
				element->state = HOT_RELEASED;
				Py_DECREF(element); /* runs no Python code */
			}
			continue;
		}
		burst->handle[kept] = burst->handle[i];
		if (burst->element)
			burst->element[kept] = element;
		kept++;
	}
	burst->n = kept;
}

/* Takes the packets that are done out of the burst, and frees them. */
static void take_out(struct sending *s)
{
	if (!s->burst->pool->key)
		return;
	shmpool_free_many(s->burst->pool->key, s->handle, s->at);
	net_take_out(s->burst, s->at, s->n);
}

PyObject *net_sent(struct burst_object *burst, uint32_t n, int64_t code, int error)
{
	if (error) {
		errno = error;
		return PyErr_SetFromErrno(PyExc_OSError);
	}
	if (code == -ENOBUFS || code == -ESHUTDOWN)
		return Py_BuildValue("(IO)", n, code == -ENOBUFS ? Py_True : Py_False);
	if (code < 0)
		return hot_pool_raise(burst->pool, code);
	return Py_BuildValue("(IO)", n, Py_None);
}

static PyObject *drain(struct sender_object *self, struct sending *s, double timeout)
{
	uint64_t *mine;
	int error = 0;
	char *to = NULL;
	const int64_t n = burst_handles(s->burst, "drain", &s->handle, &mine);
	if (n < 0)
		return NULL;
	s->n = (uint32_t)n;
	if (s->address && s->n < s->burst->n && !(s->address = to = addresses_of(s))) {
		PyMem_Free(mine);
		return NULL;
	}
	int64_t code = lookup_key(s->burst->pool->key, &s->c);
	for (uint32_t i = 0; !code && i < s->n; i++)
		code = qmempool_check(s->c.p, s->c.m, s->handle[i]);
	if (!code) {
		const uint32_t state = s->burst->state;
		burst_set_state(s->burst, HOT_MOVING_BURST);
		code = send_all(self, s, hot_deadline(timeout), &error);
		burst_set_state(s->burst, state);
		take_out(s);
	}
	PyMem_Free(mine);
	PyMem_Free(to);
	return net_sent(s->burst, s->at - s->refused, code, error);
}

/* drain(burst, timeout, addresses): sends all. Returns how many were sent, and None; or True
 * if the time is up, False if the sender was closed. */
static PyObject *sender_drain(PyObject *object, PyObject *args)
{
	struct sender_object *self = (struct sender_object *)object;
	PyObject *given, *timeout, *addresses, *result = NULL;
	double seconds;
	Py_buffer view = { 0 };
	struct sending s = { 0 };
	if (!PyArg_ParseTuple(args, "O!OO", hot_burst_type, &given, &timeout, &addresses) ||
	    hot_timeout(timeout, &seconds))
		return NULL;
	s.burst = (struct burst_object *)given;
	if (addresses == Py_None ? burst_usable(s.burst) :
				   burst_array(s.burst, addresses, PyBUF_SIMPLE, 0, ADDRESS, &view))
		return NULL;
	s.address = view.buf;
	const int begun = net_port_begin(&self->port);
	if (!begun)
		result = Py_BuildValue("(IO)", 0, Py_False);
	else if (begun > 0 && s.burst->pool != self->port.pool)
		PyErr_Format(PyExc_TypeError, "%R is of another pool", given);
	else if (begun > 0)
		result = drain(self, &s, seconds);
	if (begun > 0)
		net_port_end(&self->port);
	PyBuffer_Release(&view);
	return result;
}

static PyObject *sender_counts(PyObject *object, void *Py_UNUSED(unused))
{
	const struct sender_object *self = (struct sender_object *)object;
	return Py_BuildValue("(KKK)", (unsigned long long)self->packets,
			     (unsigned long long)self->bytes, (unsigned long long)self->refused);
}

static PyMethodDef sender_methods[] = {
	{ "drain", sender_drain, METH_VARARGS,
	  "drain($self, burst, timeout, addresses, /)\n--\n\nSends what it can. Returns how many, "
	  "and whether to go on." },
	{ "close", sender_close, METH_NOARGS,
	  "close($self, /)\n--\n\nEnds a call of another thread, and closes the socket." },
	{ NULL, NULL, 0, NULL },
};

static PyGetSetDef sender_getset[] = {
	{ "counts", sender_counts, NULL, NULL, NULL },
	{ NULL, NULL, NULL, NULL, NULL },
};

static PyType_Slot sender_slots[] = {
	{ Py_tp_init, sender_init },
	{ Py_tp_dealloc, sender_dealloc },
	{ Py_tp_methods, sender_methods },
	{ Py_tp_getset, sender_getset },
	{ 0, NULL },
};

PyType_Spec net_sender_spec = { "shmpool._hot.Sender", sizeof(struct sender_object), 0,
				Py_TPFLAGS_DEFAULT, sender_slots };
