/* SPDX-License-Identifier: Apache-2.0
 *
 * xdp.c - shmpool._hot.Xdp: packets that the kernel receives into buffers, and sends out of them
 * (AF_XDP). See xdp.h; xdp_send.c sends.
 *
 * A close while a thread is in a call leaves the rest to that thread, as port.c does.
 */
#include "xdp.h"

#include <poll.h>
#include <sys/socket.h>
#include <time.h>

#define LOW(self) ((self)->size / 4) /* buffers posted: below, a slow way looks for more */
#define LARGER_NS 2000000ll /* between two attempts while only a larger size class has buffers */

static int xdp_init(PyObject *object, PyObject *args, PyObject *Py_UNUSED(names))
{
	struct xdp_object *self = (struct xdp_object *)object;
	PyObject *pool;
	int fd, flags;
	long long latency;
	if (self->in.pool) {
		PyErr_SetString(PyExc_TypeError, "this was opened before");
		return -1;
	}
	self->asker = -1;
	if (!PyArg_ParseTuple(args, "OiIIIIiL", &pool, &fd, &self->class, &self->size,
			      &self->device.interface, &self->device.queue, &flags, &latency) ||
	    net_port_open(&self->in, pool, fd) || net_port_open(&self->out, pool, fd))
		return -1;
	if (self->class >= self->in.pool->classes) {
		PyErr_Format(PyExc_ValueError, "no size class %u", self->class);
		return -1;
	}
	self->latency = latency;
	return xdp_begin(self, fd, flags);
}

static PyObject *xdp_close(PyObject *object, PyObject *Py_UNUSED(unused))
{
	struct xdp_object *self = (struct xdp_object *)object;
	xdp_ask(self);
	net_port_close(&self->in);
	net_port_close(&self->out);
	xdp_end(self, true);
	Py_RETURN_NONE;
}

static void xdp_dealloc(PyObject *object)
{
	struct xdp_object *self = (struct xdp_object *)object;
	PyTypeObject *type = Py_TYPE(object);
	if (self->in.pool) {
		net_port_close(&self->in);
		net_port_close(&self->out);
		xdp_end(self, false);
	}
	Py_XDECREF(self->in.pool);
	Py_XDECREF(self->out.pool);
	type->tp_free(object);
	Py_DECREF(type);
}

/* Gives a buffer of the thread's to the kernel, to be filled. 0; or a code, and it is free. */
static int post_free(struct xdp_object *self, const struct lookup *c, uint64_t handle, int64_t now)
{
	int error = header_reset(c, self->class, handle, now);
	if (!error && handle_index(handle) >= self->end)
		error = -EBADMSG; /* of a larger class: the ring that it came from was corrupted */
	if (!error)
		error = qmempool_adopt(c->p, self->member, handle);
	if (error) {
		qmempool_free(c->p, c->m, handle);
		return error;
	}
	((uint64_t *)self->fill.entries)[self->fill.at++ & self->fill.mask] =
		(handle_index(handle) - self->first) * self->stride;
	self->posted++;
	return 0;
}

/* Gives the kernel free buffers until it has as many as a ring holds, as far as the quick way finds
 * some. 0, or a code. */
static int refill(struct xdp_object *self, const struct lookup *c)
{
	struct qmempool *of = pool_class(c->p, self->class);
	struct member *mine = pool_block(of, c->m);
	const int64_t now = wait_coarse();
	int error = 0;
	while (self->posted < self->size && !error) {
		uint64_t handle;
		if (qmempool_alloc_quick(of, mine, &handle))
			break;
		error = post_free(self, c, handle, now);
	}
	xdp_given(&self->fill);
	return error;
}

static uint64_t now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Stores the handles of up to most packets that have come, which are the thread's then. */
static uint32_t receive(struct xdp_object *self, const struct lookup *c, uint64_t *handle,
			uint32_t most)
{
	uint32_t left = xdp_ready(&self->rx), n = 0;
	const uint64_t time = left ? now_ns() : 0;
	const uint32_t number = self->device.interface;
	const uint32_t flags =
		NET_INTERFACE(number < NET_INTERFACES_MAX ? number : NET_INTERFACES_MAX);
	for (left = left < most ? left : most; left--;) {
		const struct xdp_desc *found =
			(const struct xdp_desc *)self->rx.entries + (self->rx.at++ & self->rx.mask);
		const uint32_t index = xdp_index(self, found->addr);
		const uint64_t headroom = found->addr % self->stride;
		self->posted--;
		if (index == UINT32_MAX || found->len > self->stride - headroom)
			continue; /* the kernel's rings never say so */
		handle[n] = xdp_handle(c, index);
		if (qmempool_adopt(c->p, c->m, handle[n]))
			continue;
		const struct net_packet packet = { .original = found->len,
						   .flags = flags,
						   .timestamp = (int64_t)time };
		struct buffer *b = pool_buffer(c->p, index);
		net_describe(b, &packet, found->len);
		store_relaxed(&b->headroom, (uint32_t)headroom);
		self->counts.bytes += found->len;
		n++;
	}
	xdp_taken(&self->rx);
	self->counts.packets += n;
	return n;
}

/* Takes a buffer from anywhere, waiting until the deadline, and gives it to the kernel. 0; -EAGAIN
 * if none was free, or only a larger one: then after a pause; another code, or HOT_RAISED. */
static int64_t post_slowly(struct xdp_object *self, struct burst_object *burst, int64_t deadline)
{
	struct lookup c;
	const int64_t left = deadline == WAIT_FOREVER ? WAIT_SLICE_NS : deadline - wait_now();
	struct hot_wait wait = { .operation = HOT_ALLOC,
				 .pool = burst->pool,
				 .handles = burst->handle,
				 .n = 1,
				 .class = self->class };
	if (deadline != WAIT_NEVER && left > 0)
		wait.timeout = (double)(left < WAIT_SLICE_NS ? left : WAIT_SLICE_NS) / 1e9;
	int64_t code = hot_wait(&wait, -EINPROGRESS);
	if (code < 0)
		return code;
	code = burst->pool->key ? lookup_key(self->key, &c) : -EBADF;
	if (code)
		return code;
	const uint32_t index = handle_index(burst->handle[0]);
	if (index < self->first || index >= self->end || self->in.ended) {
		shmpool_free_many(self->key, burst->handle, 1);
		if (self->in.ended || deadline == WAIT_NEVER)
			return self->in.ended ? -ESHUTDOWN : -EAGAIN;
		const int64_t soon = wait_now() + LARGER_NS;
		code = net_port_wait(&self->in, 0, deadline < soon ? deadline : soon);
		return code < 0 ? code : -EAGAIN;
	}
	code = post_free(self, &c, burst->handle[0], wait_coarse());
	xdp_given(&self->fill);
	return code;
}

/* Waits for packets, as net_port_wait(). In slices: a poll does not end with the interface. */
static int64_t wait(struct xdp_object *self, int64_t deadline)
{
	for (;;) {
		const int64_t slice = wait_now() + WAIT_SLICE_NS;
		const int64_t got =
			net_port_wait(&self->in, POLLIN, deadline < slice ? deadline : slice);
		socklen_t size = sizeof(int);
		int error = 0;
		if (got)
			return got;
		if (!getsockopt(self->in.fd, SOL_SOCKET, SO_ERROR, &error, &size) && error)
			self->error = error; /* it is told once */
		if (self->error) {
			errno = self->error;
			PyErr_SetFromErrno(PyExc_OSError);
			return HOT_RAISED;
		}
		if (net_late(deadline))
			return 0;
	}
}

/* Delivers packets, or waits for some. How many, 0 when the time is up, a code, or HOT_RAISED. */
static int64_t fill(struct xdp_object *self, struct burst_object *burst, uint32_t most,
		    int64_t deadline)
{
	struct lookup c;
	hot_recover_if_due(burst->pool);
	for (;;) {
		int64_t got = burst->pool->key ? lookup_key(self->key, &c) : -EBADF;
		if (unlikely(got))
			return got;
		xdp_reap(self, &c);
		const uint32_t n = receive(self, &c, burst->handle, most);
		got = refill(self, &c); /* so that the kernel has buffers while the caller works */
		if (likely(n)) {
			burst_fill(burst, n);
			if (xdp_asleep(&self->fill))
				recvfrom(self->in.fd, NULL, 0, MSG_DONTWAIT, NULL, NULL);
			return n;
		}
		if (unlikely(got))
			return got;
		if (unlikely(self->posted < LOW(self))) {
			got = post_slowly(self, burst, self->posted ? WAIT_NEVER : deadline);
			if (!got || (got == -EAGAIN && !self->posted && !net_late(deadline))) {
				if (self->in.ended)
					return -ESHUTDOWN;
				if (PyErr_CheckSignals())
					return HOT_RAISED;
				continue;
			}
			if (got != -EAGAIN || !self->posted)
				return got;
		}
		got = wait(self, deadline);
		if (got <= 0)
			return got;
		/* The kernel wakes a thread for each packet: a pause makes a burst of many. */
		if (self->latency)
			net_port_pause(&self->in, self->latency);
	}
}

static PyObject *xdp_fill(PyObject *object, PyObject *args)
{
	struct xdp_object *self = (struct xdp_object *)object;
	double timeout;
	uint32_t most;
	struct burst_object *burst = net_fill_arguments(args, &timeout, &most);
	if (!burst)
		return NULL;
	if (burst->pool != self->in.pool)
		return PyErr_Format(PyExc_TypeError, "%R is of another pool", burst);
	const int begun = net_port_begin(&self->in);
	if (begun <= 0)
		return begun ? NULL : PyLong_FromLong(-1);
	const int64_t got = fill(self, burst, most, hot_deadline(timeout));
	if (net_port_end(&self->in))
		xdp_end(self, got != HOT_RAISED);
	if (got == -ESHUTDOWN)
		return PyLong_FromLong(-1);
	return got < 0 ? hot_pool_raise(burst->pool, got) : PyLong_FromLongLong(got);
}

static PyObject *xdp_counts(PyObject *object, void *Py_UNUSED(unused))
{
	struct xdp_object *self = (struct xdp_object *)object;
	xdp_ask(self);
	const struct xdp_statistics *k = &self->kernel;
	return Py_BuildValue("(KKK)(KKK)(KKKKKK)", (unsigned long long)self->counts.packets,
			     (unsigned long long)self->counts.bytes,
			     (unsigned long long)(k->rx_dropped + k->rx_ring_full),
			     (unsigned long long)self->sent, (unsigned long long)self->sent_bytes,
			     (unsigned long long)self->refused, (unsigned long long)k->rx_dropped,
			     (unsigned long long)k->rx_ring_full,
			     (unsigned long long)k->rx_fill_ring_empty_descs,
			     (unsigned long long)k->rx_invalid_descs,
			     (unsigned long long)k->tx_invalid_descs,
			     (unsigned long long)k->tx_ring_empty_descs);
}

static PyObject *xdp_zero_copy(PyObject *object, void *Py_UNUSED(unused))
{
	return PyBool_FromLong(((struct xdp_object *)object)->zero_copy);
}

static PyMethodDef xdp_methods[] = {
	{ "fill", xdp_fill, METH_VARARGS,
	  "fill($self, burst, timeout, /)\n--\n\nFills an empty Burst. Returns how many packets." },
	{ "drain", xdp_drain, METH_VARARGS,
	  "drain($self, burst, timeout, /)\n--\n\nSends what it can. Returns how many, and whether "
	  "to go on." },
	{ "close", xdp_close, METH_NOARGS,
	  "close($self, /)\n--\n\nEnds calls of other threads, and closes the socket." },
	{ NULL, NULL, 0, NULL },
};

static PyGetSetDef xdp_getset[] = {
	{ "counts", xdp_counts, NULL, NULL, NULL },
	{ "zero_copy", xdp_zero_copy, NULL, NULL, NULL },
	{ NULL, NULL, NULL, NULL, NULL },
};

static PyType_Slot xdp_slots[] = {
	{ Py_tp_init, xdp_init },
	{ Py_tp_dealloc, xdp_dealloc },
	{ Py_tp_methods, xdp_methods },
	{ Py_tp_getset, xdp_getset },
	{ 0, NULL },
};

PyType_Spec net_xdp_spec = { "shmpool._hot.Xdp", sizeof(struct xdp_object), 0, Py_TPFLAGS_DEFAULT,
			     xdp_slots };
