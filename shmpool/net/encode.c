/* SPDX-License-Identifier: Apache-2.0
 *
 * encode.c - packets of a burst as records of a capture file.
 */
#include "net.h"

#define PACKET_BLOCK 6u
#define BLOCK_HEAD 28u /* bytes before the packet, and 4 behind it */
#define COMMENT 1u     /* code of an option */
#define NS 1000000000ull

enum { PCAPNG, PCAP_MICROSECONDS, PCAP_NANOSECONDS };

/* Where the records go. */
struct out {
	char *at;
	size_t left;
};

static void put32(struct out *out, uint32_t value)
{
	memcpy(out->at, &value, sizeof(value));
	out->at += sizeof(value);
	out->left -= sizeof(value);
}

/* Copies all buffers of a message, at most n bytes, and fills up to a multiple of align with
 * zeros. */
static void put_message(struct out *out, const struct qmempool *p, uint64_t handle, uint32_t n,
			uint32_t align)
{
	const uint64_t done = bytes_copy_out(p, handle, out->at, n);
	const uint32_t whole = (n + align - 1) / align * align;
	memset(out->at + done, 0, whole - done);
	out->at += whole;
	out->left -= whole;
}

static void put_comment(struct out *out, const char *text, size_t n)
{
	const size_t whole = (n + 3) & ~(size_t)3;
	put32(out, COMMENT | (uint32_t)n << 16);
	memcpy(out->at, text, n);
	memset(out->at + n, 0, whole - n);
	out->at += whole;
	out->left -= whole;
	put32(out, 0);
}

/* Writes one record. False if it has no room. */
static bool put_packet(struct out *out, const struct qmempool *p, uint64_t handle, int format,
		       uint32_t interfaces, const char *comment, size_t size)
{
	const struct buffer *b = pool_buffer(p, handle_index(handle));
	const uint64_t all = bytes_all(p, handle).length;
	const uint32_t length = (uint32_t)all, whole = (length + 3) & ~3u;
	const uint32_t mark = load_relaxed(&b->mark), number = mark >> 22;
	const uint64_t time = load_relaxed(&b->timestamp);
	const size_t note = comment ? 8 + ((size + 3) & ~(size_t)3) : 0;
	uint32_t original = mark & NET_LENGTH_MAX;
	if (all > UINT32_MAX - BLOCK_HEAD - 8 - note || out->left < BLOCK_HEAD + 4 + whole + note)
		return false;
	if (original < length)
		original = length;
	if (format != PCAPNG) {
		put32(out, (uint32_t)(time / NS));
		put32(out, (uint32_t)(time % NS / (format == PCAP_NANOSECONDS ? 1 : 1000)));
		put32(out, length);
		put32(out, original);
		put_message(out, p, handle, length, 1);
		return true;
	}
	const uint32_t block = BLOCK_HEAD + whole + (uint32_t)note + 4;
	put32(out, PACKET_BLOCK);
	put32(out, block);
	put32(out, number < interfaces ? number : 0);
	put32(out, (uint32_t)(time >> 32));
	put32(out, (uint32_t)time);
	put32(out, length);
	put32(out, original);
	put_message(out, p, handle, length, 4);
	if (comment)
		put_comment(out, comment, size);
	put32(out, block);
	return true;
}

/* The comment on packet i, a str of a dict; NULL if it has none. */
static const char *comment_on(PyObject *comments, Py_ssize_t i, Py_ssize_t *size)
{
	PyObject *key = comments == Py_None ? NULL : PyLong_FromSsize_t(i);
	PyObject *text = key ? PyDict_GetItemWithError(comments, key) : NULL;
	Py_XDECREF(key);
	const char *bytes = text ? PyUnicode_AsUTF8AndSize(text, size) : NULL;
	if (bytes && *size > UINT16_MAX)
		*size = UINT16_MAX;
	return bytes;
}

/* encode(burst, first, out, format, interfaces, comments): writes the packets of the burst from
 * position first on, as many as out has room for; a position whose Buffer was freed has none.
 * Returns the position of the next one, the bytes, and the packets. */
PyObject *net_encode(PyObject *Py_UNUSED(module), PyObject *args)
{
	PyObject *object, *target, *comments;
	unsigned int first, interfaces;
	int format;
	Py_buffer view;
	uint64_t *handle, *mine;
	struct lookup c;
	if (!PyArg_ParseTuple(args, "O!IOiIO", hot_burst_type, &object, &first, &target, &format,
			      &interfaces, &comments))
		return NULL;
	if (comments != Py_None && !PyDict_Check(comments))
		return PyErr_Format(PyExc_TypeError, "comments is %R; it must be a dict", comments);
	if (PyObject_GetBuffer(target, &view, PyBUF_WRITABLE))
		return NULL;
	struct burst_object *burst = (struct burst_object *)object;
	struct out out = { view.buf, (size_t)view.len };
	PyObject *result = NULL;
	unsigned int packets = 0;
	if (burst_usable(burst) || burst_handles(burst, "drain", &handle, &mine) < 0)
		goto undo;
	PyMem_Free(mine);
	int error = lookup_key(burst->pool->key, &c);
	for (; !error && first < burst->n; first++) {
		if (!burst_has(burst, first))
			continue;
		Py_ssize_t size = 0;
		const char *comment = comment_on(comments, first, &size);
		error = qmempool_check(c.p, c.m, burst->handle[first]);
		if (error || PyErr_Occurred() ||
		    !put_packet(&out, c.p, burst->handle[first], format, interfaces, comment,
				(size_t)size))
			break;
		packets++;
	}
	if (error)
		hot_pool_raise(burst->pool, error);
	else if (!PyErr_Occurred())
		result = Py_BuildValue("(InI)", first, (Py_ssize_t)(out.at - (char *)view.buf),
				       packets);
undo:
	PyBuffer_Release(&view);
	return result;
}
