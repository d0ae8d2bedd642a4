/* SPDX-License-Identifier: Apache-2.0
 *
 * pack.c - the packets of a burst as two runs of bytes, and back: what a bridge sends.
 *
 * A table has one record for each packet, with what its header says, in the machine's byte order.
 * The bytes of the packets stand one after the other. A table comes from another machine: a record
 * is read once, and checked.
 */
#include "burst.h"

#include "bytes.h"
#include "copy.h"

#define AHEAD 4 /* packets whose lines are fetched while one is copied */

struct pack_record {
	uint32_t length;
	uint32_t mark;
	uint32_t flow_hash;
	uint16_t redelivered;
	uint16_t unused;
	uint64_t timestamp;
};
_Static_assert(sizeof(struct pack_record) == 24, "shmpool/bridge/packing.py has the size too");

static struct pack_record describe(const struct qmempool *p, uint64_t handle)
{
	const struct buffer *b = pool_buffer(p, handle_index(handle));
	const uint64_t length = bytes_all(p, handle).length;
	return (struct pack_record) {
		.length = length < UINT32_MAX ? (uint32_t)length : UINT32_MAX,
		.mark = load_relaxed(&b->mark),
		.flow_hash = load_relaxed(&b->flow_hash),
		.redelivered = load_relaxed(&b->redelivered),
		.timestamp = load_relaxed(&b->timestamp),
	};
}

/* Writes the table of n packets. Returns their bytes, or a code. */
static int64_t write_table(const struct lookup *c, const uint64_t *handle, uint32_t n, char *to)
{
	int64_t bytes = 0;
	for (uint32_t i = 0; i < n; i++, to += sizeof(struct pack_record)) {
		if (i + AHEAD < n && handle_index(handle[i + AHEAD]) < c->p->total)
			__builtin_prefetch(pool_buffer(c->p, handle_index(handle[i + AHEAD])));
		const int error = qmempool_check(c->p, c->m, handle[i]);
		if (error)
			return error;
		const struct pack_record record = describe(c->p, handle[i]);
		memcpy(to, &record, sizeof(record));
		bytes += record.length;
	}
	return bytes;
}

/* Copies the packets as long as the table says. A corrupted header may say less by now. */
static void copy_out(const struct lookup *c, const uint64_t *handle, uint32_t n, const char *table,
		     char *to)
{
	for (uint32_t i = 0; i < n; i++, table += sizeof(struct pack_record)) {
		uint32_t length;
		memcpy(&length, table, sizeof(length));
		if (i + AHEAD < n)
			__builtin_prefetch(pool_data(c->p, handle_index(handle[i + AHEAD])));
		const uint64_t done = bytes_copy_out(c->p, handle[i], to, length);
		if (unlikely(done < length))
			memset(to + done, 0, length - done);
		to += length;
	}
}

/* burst_pack(burst, head): returns head with the table behind it, and the bytes of the packets. The
 * burst keeps them. */
PyObject *burst_pack(PyObject *Py_UNUSED(module), PyObject *args)
{
	PyObject *object, *table = NULL, *data = NULL, *both = NULL;
	Py_buffer head;
	uint64_t *handle, *mine;
	struct lookup c;
	if (!PyArg_ParseTuple(args, "O!y*", hot_burst_type, &object, &head))
		return NULL;
	struct burst_object *burst = (struct burst_object *)object;
	const int64_t n = burst_usable(burst) ? -1 : burst_handles(burst, "pack", &handle, &mine);
	if (n < 0)
		goto out;
	table = PyBytes_FromStringAndSize(NULL,
					  head.len + n * (Py_ssize_t)sizeof(struct pack_record));
	if (!table)
		goto undo;
	char *records = PyBytes_AS_STRING(table) + head.len;
	memcpy(PyBytes_AS_STRING(table), head.buf, (size_t)head.len);
	int64_t bytes = lookup_key(burst->pool->key, &c);
	if (!bytes)
		bytes = write_table(&c, handle, (uint32_t)n, records);
	if (bytes < 0) {
		hot_pool_raise(burst->pool, bytes);
		goto undo;
	}
	data = PyBytes_FromStringAndSize(NULL, bytes);
	if (!data)
		goto undo;
	copy_out(&c, handle, (uint32_t)n, records, PyBytes_AS_STRING(data));
	both = PyTuple_Pack(2, table, data);
undo:
	PyMem_Free(mine);
out:
	PyBuffer_Release(&head);
	Py_XDECREF(table);
	Py_XDECREF(data);
	return both;
}

/* Copies a packet into a buffer that has room for it, or into a chain. */
static void copy_in(const struct lookup *c, uint64_t handle, const char *from, uint32_t length)
{
	uint32_t left = length;
	for (struct bytes_part part = bytes_first(c->p, handle); part.n && left;
	     part = bytes_next(c->p, handle, &part)) {
		const uint32_t here = part.room < left ? (uint32_t)part.room : left;
		copy_bytes(part.data, from, here);
		from += here;
		left -= here;
	}
	bytes_set_length(c->p, handle, length);
}

/* Fills the buffers of the burst. Returns where the next packet's bytes begin, or a code: -EMSGSIZE
 * if a buffer has no room, -EBADMSG if table and data do not belong together. */
static int64_t fill(const struct burst_object *burst, const struct lookup *c, const char *table,
		    const Py_buffer *data, uint64_t at, int again)
{
	const uint64_t whole = (uint64_t)data->len;
	for (uint32_t i = 0; i < burst->n; i++, table += sizeof(struct pack_record)) {
		const uint64_t handle = burst->handle[i];
		const int error = qmempool_check(c->p, c->m, handle);
		if (error)
			return error;
		struct pack_record r;
		memcpy(&r, table, sizeof(r));
		if (at > whole || r.length > whole - at)
			return -EBADMSG;
		if (r.length > bytes_all(c->p, handle).room)
			return -EMSGSIZE;
		if (i + AHEAD < burst->n)
			__builtin_prefetch(pool_data(c->p, handle_index(burst->handle[i + AHEAD])),
					   1);
		struct buffer *b = pool_buffer(c->p, handle_index(handle));
		copy_in(c, handle, (const char *)data->buf + at, r.length);
		const uint32_t times = r.redelivered + (again != 0);
		store_relaxed(&b->mark, r.mark);
		store_relaxed(&b->flow_hash, r.flow_hash);
		store_relaxed(&b->timestamp, r.timestamp & INT64_MAX);
		store_relaxed(&b->redelivered, (uint16_t)(times < UINT16_MAX ? times : UINT16_MAX));
		at += r.length;
	}
	return (int64_t)at;
}

/* burst_unpack(burst, table, data, first, at, again): fills the buffers of a new burst with the
 * packets from number first on, whose bytes begin at that place in data. Each counts as redelivered
 * once more if again. Returns where the next packet's bytes begin, or a code. */
PyObject *burst_unpack(PyObject *Py_UNUSED(module), PyObject *args)
{
	PyObject *object;
	Py_buffer table, data;
	unsigned int first;
	unsigned long long at;
	int again;
	struct lookup c;
	if (!PyArg_ParseTuple(args, "O!y*y*IKp", hot_burst_type, &object, &table, &data, &first,
			      &at, &again))
		return NULL;
	struct burst_object *burst = (struct burst_object *)object;
	PyObject *done = NULL;
	if (!burst_usable(burst)) {
		const uint64_t records = (uint64_t)table.len / sizeof(struct pack_record);
		int64_t code = lookup_key(burst->pool->key, &c);
		if (!code && (first > records || burst->n > records - first))
			code = -EBADMSG;
		if (!code)
			code = fill(burst, &c,
				    (char *)table.buf + (size_t)first * sizeof(struct pack_record),
				    &data, at, again);
		done = PyLong_FromLongLong(code);
	}
	PyBuffer_Release(&table);
	PyBuffer_Release(&data);
	return done;
}

/* packed_longest(table, first, n): the most bytes that one of n packets has, and of all of them. */
PyObject *packed_longest(PyObject *Py_UNUSED(module), PyObject *args)
{
	Py_buffer table;
	unsigned int first, n;
	if (!PyArg_ParseTuple(args, "y*II", &table, &first, &n))
		return NULL;
	const uint64_t records = (uint64_t)table.len / sizeof(struct pack_record);
	uint32_t most = 0;
	uint64_t all = 0;
	for (uint64_t i = first; i < records && i - first < n; i++) {
		uint32_t length;
		memcpy(&length, (char *)table.buf + i * sizeof(struct pack_record), sizeof(length));
		most = length > most ? length : most;
		all += length;
	}
	PyBuffer_Release(&table);
	return Py_BuildValue("(IK)", most, (unsigned long long)all);
}
