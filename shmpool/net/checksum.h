/* SPDX-License-Identifier: Apache-2.0
 *
 * checksum.h - the checksums of one packet: checked, set, and updated for a TTL that is one less.
 *
 * Knows nothing of Python and of pools. Reads and writes only the bytes from data to data + length.
 * The record is one that parse_packet() has just made of them.
 */
#ifndef SHMPOOL_CHECKSUM_H
#define SHMPOOL_CHECKSUM_H

#include "parse.h"

/* What is known of a checksum. The names and numbers are those of shmpool.net.headers.Checksum. */
enum checksum_state {
	CHECKSUM_NONE, /* the packet has no such header, or not all bytes that it covers */
	CHECKSUM_RIGHT,
	CHECKSUM_WRONG,
	CHECKSUM_NOT_SET, /* UDP over IPv4 with 0: the sender computed none */
};

/* Returns the state of the checksum of the IPv4 header. */
uint8_t checksum_of_ip(const uint8_t *data, uint32_t length, const struct parse_record *r);

/* Returns the state of the checksum of TCP, UDP, ICMP or ICMPv6. It is CHECKSUM_NONE for fragments,
 * and where a routing header hides the address of the target. */
uint8_t checksum_of_transport(const uint8_t *data, uint32_t length, const struct parse_record *r);

/* Writes them. False, and nothing is written, where the state is CHECKSUM_NONE. */
bool checksum_set_ip(uint8_t *data, uint32_t length, const struct parse_record *r);
bool checksum_set_transport(uint8_t *data, uint32_t length, const struct parse_record *r);

/* Makes the TTL or hop limit one less, and updates the checksum of an IPv4 header, right or wrong
 * as it is, without reading the rest (RFC 1624). False, and nothing is written, if there is no IP
 * header or the result would be 0. */
bool checksum_forward(uint8_t *data, uint32_t length, const struct parse_record *r);

#endif
