/* SPDX-License-Identifier: Apache-2.0
 *
 * ring.c - shmpool._hot.Ring: packets out of the blocks that the kernel fills (AF_PACKET,
 * TPACKET_V3).
 *
 * The kernel fills a block and then gives it to us: TP_STATUS_USER. Packets are copied into buffers
 * and the block is given back, so that a slow consumer holds buffers of the pool and none of the
 * ring. What is not copied yet stays in its block; if all blocks are full, the kernel drops and
 * counts.
 */
#include "net.h"

#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>

#define VLAN 0x8100u
/* Packets ahead of which the header is fetched, as if all had the same length: each one's place is
 * in the header before it, so without that each is waited for. */
#define AHEAD 6

/* A place in the ring: the next packet that is not delivered. */
struct ring_place {
	uint32_t block;
	bool open;        /* its block is ours, and the rest is valid */
	uint32_t left;    /* packets of the block from next on */
	const char *next; /* a tpacket3_hdr */
};

struct ring_object {
	PyObject_HEAD
	struct net_port port;
	char *map; /* NULL when it is closed */
	uint32_t block_size, blocks;
	struct ring_place at;
	struct net_counts counts;
	uint64_t dropped; /* by the kernel, as far as it was asked */
	struct net_packet packet[NET_MOST];
};

static int ring_init(PyObject *object, PyObject *args, PyObject *Py_UNUSED(names))
{
	struct ring_object *self = (struct ring_object *)object;
	PyObject *pool;
	int fd;
	uint32_t block_size, blocks;
	if (!PyArg_ParseTuple(args, "OiII", &pool, &fd, &block_size, &blocks))
		return -1;
	const size_t size = (size_t)block_size * blocks;
	void *map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
	if (map == MAP_FAILED) {
		PyErr_SetFromErrno(PyExc_OSError);
		return -1;
	}
	if (net_port_open(&self->port, pool, fd)) {
		munmap(map, size);
		return -1;
	}
	self->map = map;
	self->block_size = block_size;
	self->blocks = blocks;
	return 0;
}

static uint64_t ask_dropped(struct ring_object *self)
{
	struct tpacket_stats_v3 stats; /* since it was asked the last time */
	socklen_t size = sizeof(stats);
	/* Asking resets the count, which a forked child leaves to the owner. */
	if (self->port.fd >= 0 && self->port.process == *hot_process_number &&
	    !getsockopt(self->port.fd, SOL_PACKET, PACKET_STATISTICS, &stats, &size))
		self->dropped += stats.tp_drops;
	return self->dropped;
}

static void unmap(struct ring_object *self)
{
	if (self->map)
		munmap(self->map, (size_t)self->block_size * self->blocks);
	self->map = NULL;
}

static PyObject *ring_close(PyObject *object, PyObject *Py_UNUSED(unused))
{
	struct ring_object *self = (struct ring_object *)object;
	ask_dropped(self);
	if (net_port_close(&self->port))
		unmap(self);
	Py_RETURN_NONE;
}

static void ring_dealloc(PyObject *object)
{
	struct ring_object *self = (struct ring_object *)object;
	PyTypeObject *type = Py_TYPE(object);
	net_port_close(&self->port);
	unmap(self);
	Py_XDECREF(self->port.pool);
	type->tp_free(object);
	Py_DECREF(type);
}

static struct tpacket_block_desc *block_at(const struct ring_object *self, uint32_t block)
{
	return (struct tpacket_block_desc *)(self->map + (size_t)block * self->block_size);
}

static void pass(struct ring_place *at)
{
	at->next += ((const struct tpacket3_hdr *)at->next)->tp_next_offset;
	at->left--;
}

/* Opens the block of a place. False if it is the kernel's still. */
static bool enter(const struct ring_object *self, struct ring_place *at)
{
	struct tpacket_block_desc *block = block_at(self, at->block);
	/* Pairs with the kernel's store after it has written the block's packets. */
	if (!(load_acquire(&block->hdr.bh1.block_status) & TP_STATUS_USER))
		return false;
	at->open = true;
	at->left = block->hdr.bh1.num_pkts;
	at->next = (const char *)block + block->hdr.bh1.offset_to_first_pkt;
	return true;
}

static struct net_packet described(const char *at)
{
	const struct tpacket3_hdr *head = (const struct tpacket3_hdr *)at;
	const struct sockaddr_ll *from =
		(const struct sockaddr_ll *)(at + TPACKET_ALIGN(sizeof(*head)));
	const uint32_t status = head->tp_status, number = (uint32_t)from->sll_ifindex;
	struct net_packet packet = {
		.data = at + head->tp_mac,
		.length = head->tp_snaplen,
		.original = head->tp_len,
		.hash = head->hv1.tp_rxhash,
		.timestamp = (int64_t)head->tp_sec * 1000000000 + head->tp_nsec,
		.flags = NET_INTERFACE(number < NET_INTERFACES_MAX ? number : NET_INTERFACES_MAX),
	};
	if (status & TP_STATUS_CSUMNOTREADY)
		packet.flags |= NET_CHECKSUM_MISSING;
	if (status & TP_STATUS_CSUM_VALID)
		packet.flags |= NET_CHECKSUM_GOOD;
	if (from->sll_pkttype == PACKET_OUTGOING)
		packet.flags |= NET_OUTGOING;
	if (status & TP_STATUS_VLAN_VALID) {
		const uint32_t kind =
			status & TP_STATUS_VLAN_TPID_VALID ? head->hv1.tp_vlan_tpid : VLAN;
		packet.tag = htonl(kind << 16 | (head->hv1.tp_vlan_tci & 0xffff));
	}
	return packet;
}

/* Finds up to most packets from the present place on. */
static uint32_t find(struct ring_object *self, uint32_t most)
{
	struct ring_place at = self->at;
	uint32_t n = 0;
	for (uint32_t seen = 0; seen < self->blocks; seen++) {
		if (!at.open && !enter(self, &at))
			break;
		for (; at.left && n < most; n++, pass(&at)) {
			const uint64_t step =
				((const struct tpacket3_hdr *)at.next)->tp_next_offset;
			self->packet[n] = described(at.next);
			__builtin_prefetch(at.next + AHEAD * step);
		}
		if (n == most)
			break;
		at = (struct ring_place) { .block = (at.block + 1) % self->blocks };
	}
	return n;
}

/* Passes n packets that were delivered, and gives blocks back that have none left. */
static void advance(struct ring_object *self, uint32_t n)
{
	struct ring_place *at = &self->at;
	while (at->open || (n && enter(self, at))) {
		for (; n && at->left; n--)
			pass(at);
		if (at->left)
			break;
		/* Pairs with the kernel's load before it fills the block again. */
		store_release(&block_at(self, at->block)->hdr.bh1.block_status, TP_STATUS_KERNEL);
		*at = (struct ring_place) { .block = (at->block + 1) % self->blocks };
	}
}

/* Delivers packets, or waits for some. How many, 0 when the time is up, a code, or HOT_RAISED. */
static int64_t fill(struct ring_object *self, struct burst_object *burst, uint32_t most,
		    int64_t deadline)
{
	for (;;) {
		const uint32_t n = find(self, most);
		int64_t got;
		if (likely(n)) {
			got = net_fill(burst, self->packet, n, deadline, &self->counts);
			if (got == -EAGAIN && !net_late(deadline))
				got = self->port.ended ? -ESHUTDOWN : 0;
			else if (got > 0)
				advance(self, (uint32_t)got);
			if (got)
				return got;
			continue;
		}
		advance(self, 0); /* a block without packets */
		got = net_port_wait(&self->port, POLLIN, deadline);
		if (got <= 0)
			return got;
	}
}

static PyObject *ring_fill(PyObject *object, PyObject *args)
{
	struct ring_object *self = (struct ring_object *)object;
	double timeout;
	uint32_t most;
	struct burst_object *burst = net_fill_arguments(args, &timeout, &most);
	if (!burst)
		return NULL;
	const int begun = net_port_begin(&self->port);
	if (begun <= 0)
		return begun ? NULL : PyLong_FromLong(-1);
	const int64_t got = fill(self, burst, most, hot_deadline(timeout));
	if (net_port_end(&self->port))
		unmap(self);
	if (got == -ESHUTDOWN)
		return PyLong_FromLong(-1);
	return got < 0 ? hot_pool_raise(burst->pool, got) : PyLong_FromLongLong(got);
}

static PyObject *ring_counts(PyObject *object, void *Py_UNUSED(unused))
{
	struct ring_object *self = (struct ring_object *)object;
	return Py_BuildValue("(KKKK)", (unsigned long long)self->counts.packets,
			     (unsigned long long)self->counts.bytes,
			     (unsigned long long)self->counts.truncated,
			     (unsigned long long)ask_dropped(self));
}

static PyMethodDef ring_methods[] = {
	{ "fill", ring_fill, METH_VARARGS,
	  "fill($self, burst, timeout, /)\n--\n\nFills an empty Burst. Returns how many packets." },
	{ "close", ring_close, METH_NOARGS,
	  "close($self, /)\n--\n\nEnds a call of another thread, and closes the socket." },
	{ NULL, NULL, 0, NULL },
};

static PyGetSetDef ring_getset[] = {
	{ "counts", ring_counts, NULL, NULL, NULL },
	{ NULL, NULL, NULL, NULL, NULL },
};

static PyType_Slot ring_slots[] = {
	{ Py_tp_init, ring_init },
	{ Py_tp_dealloc, ring_dealloc },
	{ Py_tp_methods, ring_methods },
	{ Py_tp_getset, ring_getset },
	{ 0, NULL },
};

PyType_Spec net_ring_spec = { "shmpool._hot.Ring", sizeof(struct ring_object), 0,
			      Py_TPFLAGS_DEFAULT, ring_slots };
