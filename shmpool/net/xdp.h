/* SPDX-License-Identifier: Apache-2.0
 *
 * xdp.h - one AF_XDP socket: its rings, and the calls that open and close them.
 *
 * The socket's memory (its UMEM) is the data of one size class, whose buffers are its chunks: an
 * address in a ring is a buffer's place in the class. The buffers in the rings belong to a member
 * of the pool of their own (device.h), not to a thread:
 *
 *     ring         has                              filled by    then the buffers belong to
 *     fill         free buffers                     refill()     the socket's member
 *     rx           packets received into them       the kernel   the thread that takes them
 *     tx           packets to send                  post()       the socket's member
 *     completion   packets sent                     the kernel   the thread that frees them
 *
 * All of it is done with the interpreter's lock held, so one thread may receive and another one
 * send. Only waiting, and the system call that sends, release it.
 */
#ifndef SHMPOOL_XDP_H
#define SHMPOOL_XDP_H

#include "net.h"

#include <linux/if_xdp.h>

#include "device.h"

struct xdp_ring {
	char *map; /* NULL if it is not mapped */
	size_t bytes;
	uint32_t *producer, *consumer, *flags;
	void *entries;
	uint32_t mask;
	uint32_t at; /* our side's position */
};

struct xdp_object {
	PyObject_HEAD
	struct net_port in,
		out;           /* the socket, for the thread that receives and the one that sends */
	uint64_t key;          /* of the pool when it was opened */
	struct member *member; /* the owner of the buffers in the rings; NULL if it is closed */
	struct device device;
	int asker;      /* device_asker(), -1 for none */
	uint64_t space; /* of it */
	bool bound;     /* the member has the device */
	bool zero_copy;
	int error;      /* nonzero: the interface is gone */
	uint32_t class; /* of the buffers */
	uint32_t first, end;
	uint64_t stride;
	uint32_t size;   /* of each ring */
	int64_t latency; /* ns: a call that had to wait lets so much time pass for more packets */
	uint32_t posted; /* buffers in the fill ring and the rx ring */
	struct xdp_ring fill, rx, tx, completion;
	struct net_counts counts;
	uint64_t sent, sent_bytes, refused;
	struct xdp_statistics kernel; /* as far as it was asked */
};

/* Registers the class's data with the socket fd, makes its rings, binds it, and gives its buffers
 * their member. 0, or -1 with an exception. xdp_end() undoes it. */
int xdp_begin(struct xdp_object *self, int fd, int flags);

/* Unmaps the rings and ends the member, if no thread is in a call and the descriptors are closed.
 * wait: waits for the kernel to be done with the socket, for some time at most, without the
 * interpreter's lock. */
void xdp_end(struct xdp_object *self, bool wait);

/* Reads the kernel's counts, as long as the socket is open. */
void xdp_ask(struct xdp_object *self);

/* Loads the program for an interface and attaches it: it hands packets of those queues that have a
 * socket over to it, and the others to the system. Arguments: interface, queues, flags of
 * bpf_link. Returns the descriptors of the map of sockets and of the link. */
PyObject *net_xdp_program(PyObject *module, PyObject *args);

/* Puts a socket into the map. Arguments: map, queue, socket. */
PyObject *net_xdp_steer(PyObject *module, PyObject *args);

/* Frees what the kernel has sent. */
void xdp_reap(struct xdp_object *self, const struct lookup *c);

/* Method. */
PyObject *xdp_drain(PyObject *object, PyObject *args);

/* Returns the buffer that an address of a ring names, UINT32_MAX if it names none. */
static inline uint32_t xdp_index(const struct xdp_object *self, uint64_t address)
{
	const uint64_t at = address / self->stride;
	return at < self->end - self->first ? self->first + (uint32_t)at : UINT32_MAX;
}

/* Returns its handle. The index in the header may be corrupted: the ring's is used. */
static inline uint64_t xdp_handle(const struct lookup *c, uint32_t index)
{
	return handle_of(index, buffer_generation(pool_buffer(c->p, index)));
}

/* What is at our side of a ring whose other side is the kernel's: entries to take. */
static inline uint32_t xdp_ready(const struct xdp_ring *r)
{
	/* Pairs with the kernel's store after it has written the entries. */
	return load_acquire(r->producer) - r->at;
}

/* Entries that have room. */
static inline uint32_t xdp_room(const struct xdp_ring *r)
{
	/* Pairs with the kernel's store after it has read the entries. */
	return r->mask + 1 - (r->at - load_acquire(r->consumer));
}

/* True if the kernel asks for a system call to go on. */
static inline bool xdp_asleep(const struct xdp_ring *r)
{
	return load_relaxed(r->flags) & XDP_RING_NEED_WAKEUP;
}

static inline void xdp_taken(struct xdp_ring *r)
{
	/* Pairs with the kernel's load before it fills these entries again. */
	store_release(r->consumer, r->at);
}

static inline void xdp_given(struct xdp_ring *r)
{
	/* Pairs with the kernel's load before it reads the entries. */
	store_release(r->producer, r->at);
}

#endif
