/* SPDX-License-Identifier: Apache-2.0
 *
 * headers.h - the functions of the module that work on the headers of a whole burst.
 *
 * A packet is what a buffer has from offset at on; of a chain, what its first buffer has. Each call
 * is one pass, with the interpreter's lock held: 256 packets take 7 us, and their checksums 20 us
 * at 500 bytes each. The largest burst takes 2 ms and 5 ms, and after 5 ms another thread may ask
 * for the lock anyway, so to release it would not pay.
 */
#ifndef SHMPOOL_HEADERS_H
#define SHMPOOL_HEADERS_H

#include "burst.h"

/* burst_headers(burst, link, at, records, inner): 0 or a code. Writes a struct parse_record for
 * each packet, and one for the packet in its tunnel unless inner is None. */
PyObject *headers_read(PyObject *module, PyObject *args);

/* burst_checksums(burst, link, at, inner, ip, transport, out): 0 or a code. Writes two states for
 * each packet: of the IP header, and of the transport; CHECKSUM_NONE where ip or transport is
 * false. With inner true, those of the packet in a tunnel. */
PyObject *headers_checksums(PyObject *module, PyObject *args);

/* burst_set_checksums(burst, link, at, inner, ip, transport, where, out): 0 or a code. Sets them
 * where ip and transport are true, of all packets or of those that the mask where selects. Writes
 * two bools for each packet: whether each one was set. */
PyObject *headers_set_checksums(PyObject *module, PyObject *args);

/* burst_forward(burst, link, at, out): 0 or a code. Makes each TTL one less. Writes a bool for each
 * packet: whether it may be forwarded. */
PyObject *headers_forward(PyObject *module, PyObject *args);

/* toeplitz_table(key): the table of a key, as bytes. */
PyObject *headers_toeplitz_table(PyObject *module, PyObject *key);

/* toeplitz_hashes(table, records, ports, out): None. Writes a uint32 for each record. */
PyObject *headers_toeplitz(PyObject *module, PyObject *args);

#endif
