/* SPDX-License-Identifier: Apache-2.0
 *
 * toeplitz.c - see toeplitz.h.
 */
#include "toeplitz.h"

void toeplitz_make(struct toeplitz *t, const uint8_t key[TOEPLITZ_KEY])
{
	for (uint32_t at = 0; at < TOEPLITZ_INPUT; at++) {
		const uint64_t window = (uint64_t)parse_u32(key + at) << 8 | key[at + 4];
		t->word[at][0] = 0;
		for (uint32_t byte = 1; byte < 256; byte++) {
			const uint32_t bit = (uint32_t)__builtin_ctz(byte);
			t->word[at][byte] =
				t->word[at][byte & (byte - 1)] ^ (uint32_t)(window >> (bit + 1));
		}
	}
}

static uint32_t hash_bytes(const struct toeplitz *t, uint32_t at, const uint8_t *p, uint32_t n)
{
	uint32_t hash = 0;
	for (uint32_t i = 0; i < n; i++)
		hash ^= t->word[at + i][p[i]];
	return hash;
}

uint32_t toeplitz_hash(const struct toeplitz *t, const struct parse_record *r, bool ports)
{
	const uint32_t with_ports = PARSE_L_TCP | PARSE_L_UDP | PARSE_L_SCTP;
	uint32_t hash, at;
	if (r->layers & PARSE_L_IPV4) {
		hash = hash_bytes(t, 0, r->src + 12, 4) ^ hash_bytes(t, 4, r->dst + 12, 4);
		at = 8;
	} else if (r->layers & PARSE_L_IPV6) {
		hash = hash_bytes(t, 0, r->src, 16) ^ hash_bytes(t, 16, r->dst, 16);
		at = 32;
	} else {
		return 0;
	}
	if (!ports || !(r->layers & with_ports) || r->layers & PARSE_L_FRAGMENT)
		return hash;
	return hash ^ t->word[at][r->port_src >> 8] ^ t->word[at + 1][r->port_src & 0xff] ^
	       t->word[at + 2][r->port_dst >> 8] ^ t->word[at + 3][r->port_dst & 0xff];
}
