/* SPDX-License-Identifier: Apache-2.0
 *
 * fill.c - copies packets that a source has found into new buffers, as one burst.
 */
#include "net.h"

#define COPY_UNLOCKED (256u << 10) /* bytes from which a copy releases the interpreter's lock */
#define AHEAD 4                    /* packets whose lines are fetched while one is copied */
#define LINE 64u
#define FETCHED (8 * LINE) /* bytes of each: of the rest the processor fetches by itself */
#define ADDRESSES 12u      /* bytes before a VLAN tag */
#define TAG 4u

struct burst_object *net_fill_arguments(PyObject *args, double *timeout, uint32_t *most)
{
	PyObject *object, *given;
	if (!PyArg_ParseTuple(args, "O!O", hot_burst_type, &object, &given) ||
	    hot_timeout(given, timeout))
		return NULL;
	struct burst_object *burst = (struct burst_object *)object;
	if (burst_empty(burst))
		return NULL;
	*most = burst->room < NET_MOST ? burst->room : NET_MOST;
	return burst;
}

/* The smallest size class that has room for the packet, or the largest one. */
static uint32_t class_of(const struct lookup *c, const struct net_packet *packet)
{
	const uint32_t class = lookup_class(c->p, packet->length + (packet->tag ? TAG : 0));
	const uint32_t last = segment_classes(&c->p->segment) - 1;
	return class < last ? class : last;
}

/* Takes buffers for packets from number i on, until the quick way finds none. Returns the number of
 * the packet that has none. *error says why it has none, 0 if all have one. */
static uint32_t take_quick(struct burst_object *burst, const struct lookup *c,
			   const struct net_packet *packet, uint32_t i, uint32_t n, int64_t *error)
{
	const int64_t now = wait_coarse();
	*error = 0;
	for (; i < n; i++) {
		const uint32_t class = class_of(c, &packet[i]);
		*error = class ? lookup_alloc_class(c, class, &burst->handle[i], now) :
				 lookup_alloc(c, &burst->handle[i], now);
		if (unlikely(*error))
			break;
	}
	return i;
}

/* Takes one buffer with a call that waits: for a slice at most, or not at all. 0, a code, or
 * HOT_RAISED. */
static int64_t take_slowly(struct burst_object *burst, uint32_t class, uint64_t *handle,
			   int64_t deadline)
{
	const int64_t left = deadline == WAIT_FOREVER ? WAIT_SLICE_NS : deadline - wait_now();
	struct hot_wait wait = { .operation = HOT_ALLOC,
				 .pool = burst->pool,
				 .handles = handle,
				 .n = 1,
				 .class = class };
	if (deadline != WAIT_NEVER && left > 0)
		wait.timeout = (double)(left < WAIT_SLICE_NS ? left : WAIT_SLICE_NS) / 1e9;
	const int64_t code = hot_wait(&wait, -EINPROGRESS);
	return code < 0 ? code : 0;
}

/* Takes a buffer for each of the packets, as far as there are free ones; waits for the first. *c is
 * read again: a signal handler may have forked or closed the pool during a wait. Returns how many,
 * a code, or HOT_RAISED. */
static int64_t take(struct burst_object *burst, struct lookup *c, const struct net_packet *packet,
		    uint32_t n, int64_t deadline)
{
	int64_t error;
	uint32_t i = take_quick(burst, c, packet, 0, n, &error);
	while (unlikely(error == -EINPROGRESS)) {
		error = take_slowly(burst, class_of(c, &packet[i]), &burst->handle[i],
				    i ? WAIT_NEVER : deadline);
		const int gone = burst->pool->key ? lookup_key(burst->pool->key, c) : -EBADF;
		if (gone)
			return gone;
		if (error)
			break;
		error = qmempool_check(c->p, c->m, burst->handle[0]);
		if (error)
			return error;
		i = take_quick(burst, c, packet, i + 1, n, &error);
	}
	if (unlikely(error == HOT_RAISED && i))
		shmpool_free_many(burst->pool->key, burst->handle, i);
	return i && error != HOT_RAISED ? (int64_t)i : error;
}

/* Copies a packet, with its tag. Returns how many bytes that made. */
static uint32_t copy_in(char *to, uint64_t room, const struct net_packet *packet)
{
	const uint32_t tag = packet->tag;
	uint64_t n = packet->length;
	if (likely(!tag || n < ADDRESSES || room < ADDRESSES + TAG)) {
		n = n < room ? n : room;
		copy_bytes(to, packet->data, n);
		return (uint32_t)n;
	}
	memcpy(to, packet->data, ADDRESSES);
	memcpy(to + ADDRESSES, &tag, TAG);
	n = (n < room - TAG ? n : room - TAG) - ADDRESSES;
	copy_bytes(to + ADDRESSES + TAG, packet->data + ADDRESSES, n);
	return (uint32_t)(ADDRESSES + TAG + n);
}

static void copy_all(const struct lookup *c, const uint64_t *handle,
		     const struct net_packet *packet, uint32_t n, struct net_counts *counts)
{
	for (uint32_t i = 0; i < n; i++) {
		if (i + AHEAD < n) {
			const char *data = packet[i + AHEAD].data;
			const uint32_t length = packet[i + AHEAD].length;
			for (uint32_t at = 0; at < FETCHED && at < length; at += LINE)
				__builtin_prefetch(data + at);
			__builtin_prefetch(pool_data(c->p, handle_index(handle[i + AHEAD])), 1);
		}
		const uint32_t index = handle_index(handle[i]);
		struct buffer *b = pool_buffer(c->p, index);
		const uint64_t headroom = (uint64_t)c->p->segment.geometry.headroom;
		const uint64_t room = pool_stride(c->p, index) - headroom;
		const uint32_t more = packet[i].tag ? TAG : 0;
		struct net_packet tagged = packet[i];
		tagged.original = packet[i].original < UINT32_MAX - more ?
					  packet[i].original + more :
					  UINT32_MAX;
		const uint32_t length =
			copy_in(pool_data(c->p, index) + headroom, room, &packet[i]);
		net_describe(b, &tagged, length);
		counts->bytes += length;
		counts->truncated += length < (uint64_t)packet[i].length + more;
	}
	counts->packets += n;
}

int64_t net_fill(struct burst_object *burst, const struct net_packet *packet, uint32_t n,
		 int64_t deadline, struct net_counts *counts)
{
	struct lookup c;
	uint64_t bytes = 0;
	hot_recover_if_due(burst->pool);
	int64_t got = burst->pool->key ? lookup_key(burst->pool->key, &c) : -EBADF;
	if (likely(!got))
		got = take(burst, &c, packet, n, deadline);
	if (unlikely(got < 0))
		return got;
	for (int64_t i = 0; i < got; i++)
		bytes += packet[i].length;
	if (likely(bytes < COPY_UNLOCKED)) {
		copy_all(&c, burst->handle, packet, (uint32_t)got, counts);
	} else {
		opening_thread_ready();
		uint32_t *counted = opening_begin(key_pool(burst->pool->key));
		PyThreadState *state = PyEval_SaveThread();
		copy_all(&c, burst->handle, packet, (uint32_t)got, counts);
		opening_end(counted);
		PyEval_RestoreThread(state);
		if (!burst->pool->key)
			return -EBADF; /* another thread closed the pool, which freed the buffers */
	}
	burst_fill(burst, got);
	return got;
}

int64_t net_take(struct burst_object *burst, uint32_t n, uint32_t room, int64_t deadline)
{
	struct lookup c;
	struct net_packet same[NET_MOST];
	hot_recover_if_due(burst->pool);
	const int error = burst->pool->key ? lookup_key(burst->pool->key, &c) : -EBADF;
	for (uint32_t i = 0; i < n; i++)
		same[i] = (struct net_packet) { .length = room };
	return error ? error : take(burst, &c, same, n, deadline);
}
