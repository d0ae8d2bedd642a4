/* SPDX-License-Identifier: Apache-2.0
 *
 * net.h - what this folder adds to the module shmpool._hot: the native halves of shmpool.net.
 *
 * These files stand behind hot/: they use its types, and nothing else uses them.
 *
 * A source finds packets (struct net_packet), where they lie in its own memory, and net_fill()
 * copies them into buffers that an empty Burst then owns. What the source has delivered it forgets
 * only after that. Who may call what at the same time: one thread a call (net_port_begin()); any
 * thread net_port_close(). A source in a forked child is its parent's and refuses.
 */
#ifndef SHMPOOL_NET_H
#define SHMPOOL_NET_H

#define PY_SSIZE_T_CLEAN
#include "burst.h"

#define NET_MOST 256u /* packets of one call */

/* A buffer's mark, as a source writes it. The same in shmpool/net/marks.py. */
#define NET_LENGTH_MAX 0x3ffffu         /* bits 0 to 17: bytes that the packet had */
#define NET_CHECKSUM_MISSING (1u << 18) /* the sender left it to the hardware */
#define NET_CHECKSUM_GOOD (1u << 19)    /* the kernel or the hardware has checked it */
#define NET_OUTGOING (1u << 20)         /* sent by this machine */
#define NET_COMMENTED (1u << 21)        /* the file has a comment on it */
#define NET_INTERFACE(n) ((n) << 22)    /* bits 22 to 31: number of the interface */
#define NET_INTERFACES_MAX 1023u

/* A packet that a source has found. */
struct net_packet {
	const char *data;
	uint32_t length;   /* bytes at data */
	uint32_t original; /* bytes that the packet had */
	uint32_t flags;    /* for the mark, without the length */
	uint32_t hash;     /* of its flow, or 0 */
	uint32_t tag;      /* a VLAN tag to insert, as it is sent; 0 for none */
	int64_t timestamp; /* ns since 1970; 0 if unknown */
};

/* ---- net.c ---- */

/* Adds types and functions to the module. 0, or -1 with an exception. */
int net_init(PyObject *module);

/* ---- fill.c ---- */

/* Counts of a source. */
struct net_counts {
	uint64_t packets;
	uint64_t bytes;     /* copied */
	uint64_t truncated; /* packets that had no room in a buffer: its first bytes were kept */
};

/* Copies the first of n packets (1 to NET_MOST) into new buffers, and makes the empty burst their
 * owner: as many as there are free buffers for. Waits until the deadline for the first of these, a
 * slice at most. Returns how many, a code (-EAGAIN: no buffer was free), or HOT_RAISED. Releases
 * the interpreter's lock while it copies much. */
int64_t net_fill(struct burst_object *burst, const struct net_packet *packet, uint32_t n,
		 int64_t deadline, struct net_counts *counts);

/* Takes up to n new buffers of the smallest size class that has room for so many bytes, or the
 * largest, and stores their handles in the empty burst, which does not own them yet. Waits for the
 * first as net_fill() does. Returns how many, a code, or HOT_RAISED. */
int64_t net_take(struct burst_object *burst, uint32_t n, uint32_t room, int64_t deadline);

/* Writes what a source knows of a packet into the header of its buffer. */
static inline void net_describe(struct buffer *b, const struct net_packet *packet, uint32_t length)
{
	const uint32_t original =
		packet->original < NET_LENGTH_MAX ? packet->original : NET_LENGTH_MAX;
	store_relaxed(&b->length, length);
	store_relaxed(&b->mark, packet->flags | original);
	store_relaxed(&b->flow_hash, packet->hash);
	store_relaxed(&b->timestamp, packet->timestamp < 0 ? 0 : (uint64_t)packet->timestamp);
}

/* Reads the arguments of a call that fills: an empty Burst, a timeout. Returns the burst, and how
 * many packets it has room for. NULL with an exception. */
struct burst_object *net_fill_arguments(PyObject *args, double *timeout, uint32_t *most);

/* ---- port.c ---- */

/* A descriptor that one thread waits at, and another may close. */
struct net_port {
	struct pool_object *pool; /* NULL before it is opened */
	int fd;                   /* -1 when it is closed */
	int wake;                 /* an eventfd: readable once it is to be closed */
	uint32_t process;         /* hot_process() of the owner */
	bool busy;                /* a thread is in a call */
	bool ended;               /* net_port_close() was called */
};

/* Opens a port with a duplicate of the descriptor, which stays the caller's: an interruption
 * between a call that takes a descriptor over and the caller's note of it would have it closed
 * twice. 0, or -1 with an exception. */
int net_port_open(struct net_port *port, PyObject *pool, int fd);

/* Begins a call. 1; 0 if the port is closed; -1 with an exception. */
int net_port_begin(struct net_port *port);

/* Ends it. True if the port was to be closed in that time, and is now: the caller frees the rest.
 * The descriptor is closed. */
bool net_port_end(struct net_port *port);

/* Waits until the descriptor has one of the events, without the interpreter's lock. Returns 1; 0 at
 * the deadline; -ESHUTDOWN if the port is to be closed; HOT_RAISED if a signal handler raised. */
int64_t net_port_wait(struct net_port *port, short events, int64_t deadline);

/* Sleeps for some time, without the interpreter's lock, unless the port is to be closed. */
void net_port_pause(struct net_port *port, int64_t ns);

/* True for an error that a socket reports of an earlier datagram: the next call may succeed. */
static inline bool net_port_passing(int error)
{
	return error == ECONNREFUSED || error == EHOSTUNREACH || error == ENETUNREACH ||
	       error == ENOPROTOOPT || error == EPROTO;
}

/* Closes the descriptor, or lets the thread that is in a call do so: true if the caller frees the
 * rest now. May be repeated. */
bool net_port_close(struct net_port *port);

/* A time, from a signal handler or not, at which a call that found no buffer gives up. */
static inline bool net_late(int64_t deadline)
{
	return deadline != WAIT_FOREVER && wait_now() >= deadline;
}

/* ---- send.c ---- */

/* Takes the first at of n packets out of the burst: their buffers are no longer its own. */
void net_take_out(struct burst_object *burst, uint32_t at, uint32_t n);

/* Returns what drain() returns after n packets were sent: with None; True if the time is up
 * (-ENOBUFS), False if the sender was closed (-ESHUTDOWN). Or raises: error is an errno, code
 * another one of ours. */
PyObject *net_sent(struct burst_object *burst, uint32_t n, int64_t code, int error);

/* ---- the types ---- */

extern PyType_Spec net_scan_spec, net_ring_spec, net_receiver_spec, net_sender_spec, net_xdp_spec;
PyObject *net_encode(PyObject *module, PyObject *args);

#endif
