/* SPDX-License-Identifier: Apache-2.0
 *
 * port.c - a descriptor that one thread waits at, and another may close.
 *
 * A close while a thread is in a call only writes to the eventfd: the thread that is in the call
 * wakes, leaves, and closes. So no descriptor is closed while the kernel waits at it, and no ring
 * is unmapped while it is read.
 */
#include "net.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

int net_port_open(struct net_port *port, PyObject *pool, int fd)
{
	if (port->pool || !PyObject_TypeCheck(pool, hot_pool_type)) {
		PyErr_Format(PyExc_TypeError, "%R is no pool, or this was opened before", pool);
		return -1;
	}
	port->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	port->wake = port->fd < 0 ? -1 : eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (port->wake < 0) {
		PyErr_SetFromErrno(PyExc_OSError);
		if (port->fd >= 0)
			close(port->fd);
		return -1;
	}
	port->pool = (struct pool_object *)Py_NewRef(pool);
	port->process = hot_process();
	return 0;
}

int net_port_begin(struct net_port *port)
{
	if (!port->pool || port->ended)
		return 0;
	if (port->process != *hot_process_number) {
		PyErr_SetString(PyExc_RuntimeError,
				"it was opened by the process that this one was forked from: open "
				"another one here");
		return -1;
	}
	if (port->busy) {
		PyErr_SetString(PyExc_RuntimeError,
				"another thread is in a call of it: use one thread, or open "
				"another one");
		return -1;
	}
	port->busy = true;
	return 1;
}

static void close_both(struct net_port *port)
{
	if (port->fd >= 0)
		close(port->fd);
	if (port->pool)
		close(port->wake);
	port->fd = port->wake = -1;
}

bool net_port_end(struct net_port *port)
{
	port->busy = false;
	if (likely(!port->ended))
		return false;
	close_both(port);
	return true;
}

bool net_port_close(struct net_port *port)
{
	static const uint64_t one = 1;
	if (port->ended || !port->pool)
		return false;
	port->ended = true;
	/* In a forked child the thread that was in a call does not exist. */
	if (port->busy && port->process == *hot_process_number) {
		/* It is readable until it is closed, so this is never lost. */
		(void)!write(port->wake, &one, sizeof(one));
		return false;
	}
	close_both(port);
	return true;
}

/* Reads the error that a poll has found. 0 if it was of an earlier datagram, -1 with an
 * exception. */
static int poll_error(const struct net_port *port)
{
	int error = 0;
	socklen_t size = sizeof(error);
	if (getsockopt(port->fd, SOL_SOCKET, SO_ERROR, &error, &size))
		error = ENODEV;
	if (!error || net_port_passing(error))
		return 0;
	errno = error;
	PyErr_SetFromErrno(PyExc_OSError);
	return -1;
}

/* In slices: a signal that another thread of the process gets does not end the poll. */
int64_t net_port_wait(struct net_port *port, short events, int64_t deadline)
{
	struct pollfd polled[] = { { .fd = port->fd, .events = events },
				   { .fd = port->wake, .events = POLLIN } };
	for (;;) {
		const int64_t left =
			deadline == WAIT_FOREVER ? WAIT_SLICE_NS : deadline - wait_now();
		if (port->ended)
			return -ESHUTDOWN;
		const int64_t slice = left < 0 ? 0 : left < WAIT_SLICE_NS ? left : WAIT_SLICE_NS;
		const struct timespec time = { 0, (long)slice };
		PyThreadState *state = PyEval_SaveThread();
		const int n = ppoll(polled, 2, &time, NULL);
		PyEval_RestoreThread(state);
		if (port->ended)
			return -ESHUTDOWN;
		if (n > 0 && polled[0].revents & ~events)
			return poll_error(port) ? HOT_RAISED : 1;
		if (n > 0)
			return 1;
		if (PyErr_CheckSignals())
			return HOT_RAISED;
		if (left <= 0)
			return 0;
	}
}

void net_port_pause(struct net_port *port, int64_t ns)
{
	struct pollfd polled = { .fd = port->wake, .events = POLLIN };
	const struct timespec time = { 0, (long)ns };
	PyThreadState *state = PyEval_SaveThread();
	ppoll(&polled, 1, &time, NULL);
	PyEval_RestoreThread(state);
}
