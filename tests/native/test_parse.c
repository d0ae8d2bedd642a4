/* SPDX-License-Identifier: Apache-2.0
 *
 * test_parse.c - headers, checksums and hashes of packets that are truncated and damaged in every
 * place: nothing outside the packet is read or written. Each packet lies in memory of exactly its
 * length, so that the address sanitizer sees one byte too many.
 *
 *     test_parse FILE ROUNDS    FILE has packets, each behind its link type and length (uint32_t)
 */
#include "checksum.h"
#include "toeplitz.h"

#include "check.h"

#include <stdio.h>
#include <stdlib.h>

static const uint32_t links[] = { PARSE_LINK_NULL, PARSE_LINK_ETHERNET, PARSE_LINK_IP,
				  PARSE_LINK_LOOP, PARSE_LINK_COOKED,   PARSE_LINK_COOKED2 };
static struct toeplitz table;
static uint64_t seed = 1, parsed;

static uint32_t chance(uint32_t n)
{
	seed = seed * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(seed >> 33) % n;
}

/* The offsets of a record lie in the packet, and layers and columns agree. */
static void check_record(const struct parse_record *r, uint32_t n)
{
	const uint32_t ip = PARSE_L_IPV4 | PARSE_L_IPV6;
	CHECK(r->network <= n && r->transport <= n && r->payload <= n);
	CHECK(r->payload_length <= n - r->payload);
	CHECK(!(r->layers & ip) == !r->ip_version);
	CHECK(!r->payload || r->transport < r->payload);
	CHECK(r->vlans <= PARSE_TAGS_MAX && r->mpls_labels <= PARSE_LABELS_MAX);
	CHECK(r->extensions <= PARSE_EXTENSIONS_MAX);
	CHECK(!(r->layers & PARSE_L_LATER) || r->layers & PARSE_L_FRAGMENT);
}

/* Does all there is with a packet. */
static void use(const uint8_t *from, uint32_t n, uint32_t link)
{
	struct parse_record r, inner, alone;
	uint8_t *data = malloc(n ? n : 1);
	memcpy(data, from, n);
	parse_packet(data, n, link, &r, &inner);
	parse_packet(data, n, link, &alone, NULL);
	CHECK(!memcmp(&r, &alone, sizeof(r)));
	const struct parse_record *each[] = { &r, &inner };
	for (uint32_t i = 0; i < 2; i++) {
		check_record(each[i], n);
		toeplitz_hash(&table, each[i], true);
		const uint8_t ip = checksum_of_ip(data, n, each[i]);
		const uint8_t transport = checksum_of_transport(data, n, each[i]);
		CHECK(checksum_set_transport(data, n, each[i]) == (transport != CHECKSUM_NONE));
		CHECK(checksum_set_ip(data, n, each[i]) == (ip != CHECKSUM_NONE));
		if (transport != CHECKSUM_NONE)
			CHECK(checksum_of_transport(data, n, each[i]) == CHECKSUM_RIGHT);
		if (ip != CHECKSUM_NONE)
			CHECK(checksum_of_ip(data, n, each[i]) == CHECKSUM_RIGHT);
	}
	const uint8_t ttl = r.ttl;
	if (checksum_forward(data, n, &r)) {
		parse_packet(data, n, link, &r, NULL);
		CHECK(r.ttl == ttl - 1);
		CHECK(checksum_of_ip(data, n, &r) != CHECKSUM_WRONG);
	}
	parsed++;
	free(data);
}

/* The headers have nearly all bits that matter in their first bytes. */
static void damage(uint8_t *data, uint32_t n)
{
	const uint32_t most = n < 160 ? n : 160;
	for (uint32_t i = 1 + chance(4); n && i--;)
		data[chance(most)] ^= (uint8_t)(1 << chance(8));
	if (n && !chance(4)) /* a number at its limit */
		memset(data + chance(most), chance(2) ? 0xff : 0, 1);
}

int main(int argc, char **argv)
{
	static const uint8_t key[TOEPLITZ_KEY] = { 0x6d, 0x5a };
	static uint8_t packet[65536], damaged[65536];
	uint32_t head[2];
	CHECK(argc == 3);
	FILE *file = fopen(argv[1], "rb");
	CHECK(file);
	toeplitz_make(&table, key);
	while (fread(head, sizeof(head), 1, file)) {
		const uint32_t link = head[0], n = head[1];
		CHECK(n <= sizeof(packet) && fread(packet, 1, n, file) == n);
		for (uint32_t i = 0; i <= n; i++)
			use(packet, i, link);
		for (int round = atoi(argv[2]); round--;) {
			memcpy(damaged, packet, n);
			damage(damaged, n);
			use(damaged, chance(4) ? n : chance(n + 1),
			    chance(4) ? link : links[chance(sizeof(links) / sizeof(*links))]);
		}
	}
	fclose(file);
	printf("%llu packets\n", (unsigned long long)parsed);
	return 0;
}
