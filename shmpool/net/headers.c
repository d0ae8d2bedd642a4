/* SPDX-License-Identifier: Apache-2.0
 *
 * headers.c - see headers.h. Python words the exceptions for codes (shmpool/net/headers.py).
 */
#include "headers.h"
#include "checksum.h"
#include "toeplitz.h"

/* A pass over the packets of a burst. */
struct pass {
	struct burst_object *burst;
	unsigned long long at;
	unsigned int link;
	struct lookup c;
	uint32_t next; /* position in the burst */
	int error;     /* a code, which ends the pass */
	uint32_t i;    /* of the packet */
	uint8_t *data;
	uint32_t length;
};

/* Begins a pass, before its first packet. */
static void pass_begin(struct pass *p)
{
	p->next = 0;
	p->error = parse_knows(p->link) ? lookup_key(p->burst->pool->key, &p->c) : -EDOM;
}

/* Goes to the next packet. false at the end, or if there is an error. Every word of the buffer's
 * header is read once. */
static inline bool pass_next(struct pass *p)
{
	const uint64_t *handle = p->burst->handle;
	const uint32_t i = p->i = p->next;
	if (p->error || i == p->burst->n)
		return false;
	p->next++;
	p->error = qmempool_check(p->c.p, p->c.m, handle[i]);
	if (unlikely(p->error))
		return false;
	const struct bytes_part part = bytes_first(p->c.p, handle[i]);
	const uint64_t at = p->at < part.length ? p->at : part.length, length = part.length - at;
	p->data = (uint8_t *)part.data + at;
	p->length = length < UINT32_MAX ? (uint32_t)length : UINT32_MAX;
	return true;
}

/* The record of the packet that is at, or of the one in its tunnel. */
static const struct parse_record *pass_parse(const struct pass *p, bool inner,
					     struct parse_record record[2])
{
	parse_packet(p->data, p->length, p->link, &record[0], inner ? &record[1] : NULL);
	return &record[inner];
}

PyObject *headers_read(PyObject *Py_UNUSED(module), PyObject *args)
{
	struct pass p;
	PyObject *out, *inner_out;
	Py_buffer records, inner = { 0 };
	if (!PyArg_ParseTuple(args, "O!IKOO", hot_burst_type, &p.burst, &p.link, &p.at, &out,
			      &inner_out))
		return NULL;
	const uint64_t each = sizeof(struct parse_record);
	if (burst_array(p.burst, out, PyBUF_WRITABLE, 0, each, &records))
		return NULL;
	if (inner_out != Py_None &&
	    burst_array(p.burst, inner_out, PyBUF_WRITABLE, 0, each, &inner)) {
		PyBuffer_Release(&records);
		return NULL;
	}
	struct parse_record *record = records.buf, *in = inner.buf;
	pass_begin(&p);
	while (pass_next(&p))
		parse_packet(p.data, p.length, p.link, &record[p.i], in ? &in[p.i] : NULL);
	PyBuffer_Release(&records);
	PyBuffer_Release(&inner); /* a zeroed view is ignored */
	return PyLong_FromLong(p.error);
}

PyObject *headers_checksums(PyObject *Py_UNUSED(module), PyObject *args)
{
	struct pass p;
	struct parse_record record[2];
	PyObject *out;
	Py_buffer states;
	int inner, ip, transport;
	if (!PyArg_ParseTuple(args, "O!IKpppO", hot_burst_type, &p.burst, &p.link, &p.at, &inner,
			      &ip, &transport, &out) ||
	    burst_array(p.burst, out, PyBUF_WRITABLE, 0, 2, &states))
		return NULL;
	uint8_t *state = states.buf;
	pass_begin(&p);
	while (pass_next(&p)) {
		const struct parse_record *r = pass_parse(&p, inner, record);
		state[2 * p.i] = ip ? checksum_of_ip(p.data, p.length, r) : CHECKSUM_NONE;
		state[2 * p.i + 1] =
			transport ? checksum_of_transport(p.data, p.length, r) : CHECKSUM_NONE;
	}
	PyBuffer_Release(&states);
	return PyLong_FromLong(p.error);
}

PyObject *headers_set_checksums(PyObject *Py_UNUSED(module), PyObject *args)
{
	struct pass p;
	struct parse_record record[2];
	PyObject *out, *where;
	Py_buffer done, mask = { 0 };
	int inner, ip, transport;
	if (!PyArg_ParseTuple(args, "O!IKpppOO", hot_burst_type, &p.burst, &p.link, &p.at, &inner,
			      &ip, &transport, &where, &out) ||
	    burst_array(p.burst, out, PyBUF_WRITABLE, 0, 2, &done))
		return NULL;
	if (where != Py_None && burst_array(p.burst, where, PyBUF_SIMPLE, 0, 1, &mask)) {
		PyBuffer_Release(&done);
		return NULL;
	}
	const bool *selected = mask.buf;
	bool *was_set = done.buf;
	pass_begin(&p);
	while (pass_next(&p)) {
		if (selected && !selected[p.i])
			continue;
		const struct parse_record *r = pass_parse(&p, inner, record);
		was_set[2 * p.i] = ip && checksum_set_ip(p.data, p.length, r);
		was_set[2 * p.i + 1] = transport && checksum_set_transport(p.data, p.length, r);
	}
	PyBuffer_Release(&done);
	PyBuffer_Release(&mask);
	return PyLong_FromLong(p.error);
}

PyObject *headers_forward(PyObject *Py_UNUSED(module), PyObject *args)
{
	struct pass p;
	struct parse_record record[2];
	PyObject *out;
	Py_buffer alive;
	if (!PyArg_ParseTuple(args, "O!IKO", hot_burst_type, &p.burst, &p.link, &p.at, &out) ||
	    burst_array(p.burst, out, PyBUF_WRITABLE, 0, 1, &alive))
		return NULL;
	bool *is_alive = alive.buf;
	pass_begin(&p);
	while (pass_next(&p))
		is_alive[p.i] = checksum_forward(p.data, p.length, pass_parse(&p, false, record));
	PyBuffer_Release(&alive);
	return PyLong_FromLong(p.error);
}

PyObject *headers_toeplitz_table(PyObject *Py_UNUSED(module), PyObject *key)
{
	char *text;
	Py_ssize_t n;
	if (PyBytes_AsStringAndSize(key, &text, &n))
		return NULL;
	if (n != TOEPLITZ_KEY)
		return PyErr_Format(PyExc_ValueError, "the key has %zd bytes", n);
	PyObject *table = PyBytes_FromStringAndSize(NULL, sizeof(struct toeplitz));
	if (table)
		toeplitz_make((struct toeplitz *)PyBytes_AS_STRING(table), (const uint8_t *)text);
	return table;
}

PyObject *headers_toeplitz(PyObject *Py_UNUSED(module), PyObject *args)
{
	Py_buffer table, records, out;
	int ports;
	if (!PyArg_ParseTuple(args, "y*y*pw*", &table, &records, &ports, &out))
		return NULL;
	const Py_ssize_t n = out.len / (Py_ssize_t)sizeof(uint32_t);
	const bool fits = table.len == sizeof(struct toeplitz) &&
			  records.len == n * (Py_ssize_t)sizeof(struct parse_record);
	const struct parse_record *record = records.buf;
	uint32_t *hash = out.buf;
	for (Py_ssize_t i = 0; fits && i < n; i++)
		hash[i] = toeplitz_hash(table.buf, &record[i], ports);
	PyBuffer_Release(&table);
	PyBuffer_Release(&records);
	PyBuffer_Release(&out);
	if (fits)
		Py_RETURN_NONE;
	return PyErr_Format(PyExc_ValueError,
			    "the arrays do not have the sizes that belong together");
}
