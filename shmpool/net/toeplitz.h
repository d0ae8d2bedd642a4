/* SPDX-License-Identifier: Apache-2.0
 *
 * toeplitz.h - the hash of receive side scaling (RSS), by which network cards choose a queue.
 *
 * Each set bit of the input adds (exclusive or) the 32 bits of the key that begin at the bit's
 * place. So each byte of the input adds one of 256 words, which a table has for each place: 12
 * loads for IPv4 with ports, in place of 96 tests. Knows nothing of Python and of pools.
 */
#ifndef SHMPOOL_TOEPLITZ_H
#define SHMPOOL_TOEPLITZ_H

#include "parse.h"

#define TOEPLITZ_INPUT 36 /* bytes: two IPv6 addresses and two ports */
#define TOEPLITZ_KEY 40   /* bytes: input, and the 32 bits that begin at its last bit */

struct toeplitz {
	uint32_t word[TOEPLITZ_INPUT][256];
};

void toeplitz_make(struct toeplitz *t, const uint8_t key[TOEPLITZ_KEY]);

/* Returns the hash of the addresses, and of the ports if the packet has some and ports is set. The
 * fragments of a packet, of which only the first has ports, are hashed by the addresses. 0 if it is
 * no IP packet. */
uint32_t toeplitz_hash(const struct toeplitz *t, const struct parse_record *r, bool ports);

#endif
