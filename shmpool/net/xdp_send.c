/* SPDX-License-Identifier: Apache-2.0
 *
 * xdp_send.c - sends a burst through an AF_XDP socket, straight out of its buffers.
 *
 * A packet that was given to the kernel leaves the burst and counts as sent: its buffer is the
 * socket's until the completion ring returns it.
 */
#include "xdp.h"

#include <errno.h>
#include <sys/socket.h>

#define RETRY_NS 100000ll /* while the interface has no room: it does not say when it has */

void xdp_reap(struct xdp_object *self, const struct lookup *c)
{
	uint64_t handle[NET_MOST];
	uint32_t n = 0;
	for (uint32_t left = xdp_ready(&self->completion); left--;) {
		const uint64_t *entries = self->completion.entries;
		const uint32_t index =
			xdp_index(self, entries[self->completion.at++ & self->completion.mask]);
		if (index == UINT32_MAX)
			continue;
		handle[n] = xdp_handle(c, index);
		n += !qmempool_adopt(c->p, c->m, handle[n]);
		if (n == NET_MOST || !left) {
			shmpool_free_many(self->key, handle, n);
			n = 0;
		}
	}
	if (n)
		shmpool_free_many(self->key, handle, n);
	xdp_taken(&self->completion);
}

/* A burst that is being sent. */
struct sending {
	struct burst_object *burst;
	uint64_t *handle;
	uint32_t n, at;   /* packets, and those that are done */
	uint32_t refused; /* of those */
};

/* Gives a packet to the kernel, or frees it if it cannot be sent. */
static void post(struct xdp_object *self, const struct lookup *c, struct sending *s)
{
	const uint64_t handle = s->handle[s->at++];
	const uint32_t index = handle_index(handle);
	const struct shmpool_extent extent = bytes_extent(c->p, handle);
	if (index < self->first || index >= self->end || !extent.length ||
	    buffer_heads(pool_buffer(c->p, index)) || qmempool_adopt(c->p, self->member, handle)) {
		shmpool_free_many(self->key, &handle, 1);
		self->refused++;
		s->refused++;
		return;
	}
	((struct xdp_desc *)self->tx.entries)[self->tx.at++ & self->tx.mask] = (struct xdp_desc) {
		.addr = (index - self->first) * self->stride + extent.headroom,
		.len = extent.length,
	};
	self->sent++;
	self->sent_bytes += extent.length;
}

/* Makes the kernel send, without the interpreter's lock. 0, or -errno. */
static int kick(struct xdp_object *self)
{
	PyThreadState *state = PyEval_SaveThread();
	const int error = sendto(self->out.fd, NULL, 0, MSG_DONTWAIT, NULL, 0) < 0 ? errno : 0;
	PyEval_RestoreThread(state);
	return error == EAGAIN || error == EBUSY || error == ENOBUFS || error == EINTR ? 0 : -error;
}

/* Sends until the kernel has taken all packets: in copy mode it takes some with each call. 0;
 * -ENOBUFS when the time is up; -ESHUTDOWN; HOT_RAISED; or another code, of a system call if *error
 * is set. */
static int64_t send_all(struct xdp_object *self, struct sending *s, int64_t deadline, int *error)
{
	struct lookup c;
	for (;;) {
		int64_t code = s->burst->pool->key ? lookup_key(self->key, &c) : -EBADF;
		if (code)
			return code;
		xdp_reap(self, &c);
		while (s->at < s->n && xdp_room(&self->tx))
			post(self, &c, s);
		xdp_given(&self->tx);
		const uint32_t waiting = self->size - xdp_room(&self->tx);
		if (!waiting && s->at == s->n)
			return 0;
		*error = xdp_asleep(&self->tx) ? kick(self) : 0;
		if (*error)
			return *error;
		if (self->zero_copy && s->at == s->n)
			return 0; /* the driver goes on by itself */
		if (self->out.ended)
			return -ESHUTDOWN;
		if (self->size - xdp_room(&self->tx) < waiting)
			continue;
		if (net_late(deadline))
			return s->at == s->n ? 0 : -ENOBUFS;
		const int64_t soon = wait_now() + RETRY_NS;
		code = net_port_wait(&self->out, 0, deadline < soon ? deadline : soon);
		if (code < 0)
			return code;
	}
}

static PyObject *drain(struct xdp_object *self, struct sending *s, double timeout)
{
	uint64_t *mine;
	int error = 0;
	struct lookup c;
	const int64_t n = burst_handles(s->burst, "drain", &s->handle, &mine);
	if (n < 0)
		return NULL;
	s->n = (uint32_t)n;
	int64_t code = lookup_key(s->burst->pool->key, &c);
	for (uint32_t i = 0; !code && i < s->n; i++)
		code = qmempool_check(c.p, c.m, s->handle[i]);
	if (!code) {
		const uint32_t state = s->burst->state;
		burst_set_state(s->burst, HOT_MOVING_BURST);
		code = send_all(self, s, hot_deadline(timeout), &error);
		burst_set_state(s->burst, state);
		if (s->burst->pool->key)
			net_take_out(s->burst, s->at, s->n);
	}
	PyMem_Free(mine);
	return net_sent(s->burst, s->at - s->refused, code, -error);
}

PyObject *xdp_drain(PyObject *object, PyObject *args)
{
	struct xdp_object *self = (struct xdp_object *)object;
	PyObject *given, *timeout, *result = NULL;
	double seconds;
	if (!PyArg_ParseTuple(args, "O!O", hot_burst_type, &given, &timeout) ||
	    hot_timeout(timeout, &seconds))
		return NULL;
	struct sending s = { .burst = (struct burst_object *)given };
	if (burst_usable(s.burst))
		return NULL;
	const int begun = net_port_begin(&self->out);
	if (!begun)
		return Py_BuildValue("(IO)", 0, Py_False);
	if (begun > 0 && s.burst->pool != self->out.pool)
		PyErr_Format(PyExc_TypeError, "%R is of another pool", given);
	else if (begun > 0)
		result = drain(self, &s, seconds);
	if (begun > 0 && net_port_end(&self->out))
		xdp_end(self, result != NULL);
	return result;
}
