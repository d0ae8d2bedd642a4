/* SPDX-License-Identifier: Apache-2.0
 *
 * checksum.c - see checksum.h. Sums are of 16-bit words in the machine's byte order: the one's
 * complement sum of swapped words is the swapped sum (RFC 1071).
 */
#include "checksum.h"

/* The sum of n bytes, of which 32-bit halves are added into 64 bits: no carry is lost below 16 GiB.
 * The last odd byte counts as the first one of its word. */
static uint64_t sum_bytes(const uint8_t *p, uint32_t n)
{
	uint64_t low = 0, high = 0, word = 0;
	for (; n >= 32; n -= 32, p += 32) {
		uint64_t w[4];
		memcpy(w, p, sizeof(w));
		low += (uint32_t)w[0] + (uint64_t)(uint32_t)w[1] + (uint32_t)w[2] + (uint32_t)w[3];
		high += (w[0] >> 32) + (w[1] >> 32) + (w[2] >> 32) + (w[3] >> 32);
	}
	for (; n >= 8; n -= 8, p += 8) {
		memcpy(&word, p, 8);
		low += (uint32_t)word;
		high += word >> 32;
	}
	word = 0;
	memcpy(&word, p, n);
	return low + high + (uint32_t)word + (word >> 32);
}

/* Adds the carries of a sum. */
static uint32_t fold(uint64_t sum)
{
	sum = (sum >> 32) + (uint32_t)sum;
	sum = (sum >> 16) + (sum & 0xffff);
	sum = (sum >> 16) + (sum & 0xffff);
	sum = (sum >> 16) + (sum & 0xffff);
	return (uint32_t)sum;
}

/* A number of the network as a word of the sum. */
static uint32_t word_of(uint32_t value)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	return (uint32_t)__builtin_bswap16((uint16_t)value);
#else
	return value & 0xffff;
#endif
}

/* What a checksum covers. */
struct cover {
	uint32_t at;    /* bytes from data */
	uint32_t n;     /* bytes; 0: there is no such checksum */
	uint32_t field; /* where it is, from at */
	uint64_t sum;   /* of the pseudo-header */
};

static struct cover cover_ip(uint32_t length, const struct parse_record *r)
{
	/* The transport's offset is set when the whole header is there. */
	if (!(r->layers & PARSE_L_IPV4) || r->transport <= r->network || r->transport > length)
		return (struct cover) { 0 };
	return (struct cover) { r->network, (uint32_t)(r->transport - r->network), 10, 0 };
}

/* Returns how many bytes the transport has, 0 if some are missing or a fragment has only some. */
static uint32_t transport_bytes(const uint8_t *data, uint32_t length, const struct parse_record *r)
{
	const uint32_t missing =
		PARSE_L_FRAGMENT | PARSE_L_ROUTED | PARSE_L_TRUNCATED | PARSE_L_BAD;
	const uint32_t known = PARSE_L_TCP | PARSE_L_UDP | PARSE_L_ICMP | PARSE_L_ICMP6;
	if (r->layers & missing || !(r->layers & known) || r->transport > length)
		return 0;
	/* 0: what a network card gets that divides large packets. */
	const uint32_t end = r->network + r->ip_length;
	if (!r->ip_length || (r->ip_version == 6 && r->ip_length == 40) || end > length ||
	    end < r->transport)
		return 0;
	uint32_t n = end - r->transport;
	if (r->layers & PARSE_L_UDP) {
		if (n < 8)
			return 0;
		const uint32_t given = parse_u16(data + r->transport + 4);
		return given < 8 || given > n ? 0 : given;
	}
	return n;
}

static struct cover cover_transport(const uint8_t *data, uint32_t length,
				    const struct parse_record *r)
{
	static const struct {
		uint32_t layer, field;
	} fields[] = {
		{ PARSE_L_TCP, 16 }, { PARSE_L_UDP, 6 }, { PARSE_L_ICMP, 2 }, { PARSE_L_ICMP6, 2 }
	};
	struct cover c = { r->transport, transport_bytes(data, length, r), 0, 0 };
	for (uint32_t i = 0; i < 4; i++)
		if (r->layers & fields[i].layer)
			c.field = fields[i].field;
	if (c.n < c.field + 2)
		return (struct cover) { 0 };
	if (r->layers & PARSE_L_ICMP)
		return c;
	c.sum = word_of(r->protocol);
	c.sum += word_of(c.n & 0xffff) + (uint64_t)word_of(c.n >> 16);
	c.sum += r->ip_version == 4 ? sum_bytes(r->src + 12, 4) + sum_bytes(r->dst + 12, 4) :
				      sum_bytes(r->src, 16) + sum_bytes(r->dst, 16);
	return c;
}

static uint16_t read_field(const uint8_t *data, const struct cover *c)
{
	uint16_t field;
	memcpy(&field, data + c->at + c->field, sizeof(field));
	return field;
}

static uint8_t state_of(const uint8_t *data, const struct cover *c)
{
	if (!c->n)
		return CHECKSUM_NONE;
	return fold(c->sum + sum_bytes(data + c->at, c->n)) == 0xffff ? CHECKSUM_RIGHT :
									CHECKSUM_WRONG;
}

uint8_t checksum_of_ip(const uint8_t *data, uint32_t length, const struct parse_record *r)
{
	const struct cover c = cover_ip(length, r);
	return state_of(data, &c);
}

uint8_t checksum_of_transport(const uint8_t *data, uint32_t length, const struct parse_record *r)
{
	const struct cover c = cover_transport(data, length, r);
	if (c.n && r->layers & PARSE_L_UDP && !read_field(data, &c))
		return r->ip_version == 4 ? CHECKSUM_NOT_SET : CHECKSUM_WRONG;
	return state_of(data, &c);
}

/* Writes the checksum: 0xffff in place of 0 where 0 means that there is none. */
static bool set(uint8_t *data, const struct cover *c, bool never_zero)
{
	if (!c->n)
		return false;
	const uint64_t others = sum_bytes(data + c->at, c->field) +
				sum_bytes(data + c->at + c->field + 2, c->n - c->field - 2);
	uint16_t sum = (uint16_t)~fold(c->sum + others);
	if (!sum && never_zero)
		sum = 0xffff;
	memcpy(data + c->at + c->field, &sum, sizeof(sum));
	return true;
}

bool checksum_set_ip(uint8_t *data, uint32_t length, const struct parse_record *r)
{
	const struct cover c = cover_ip(length, r);
	return set(data, &c, false);
}

bool checksum_set_transport(uint8_t *data, uint32_t length, const struct parse_record *r)
{
	const struct cover c = cover_transport(data, length, r);
	return set(data, &c, r->layers & PARSE_L_UDP);
}

bool checksum_forward(uint8_t *data, uint32_t length, const struct parse_record *r)
{
	const bool four = r->layers & PARSE_L_IPV4;
	const uint32_t size = four ? 20 : 40;
	if (!(r->layers & (PARSE_L_IPV4 | PARSE_L_IPV6)) || r->ttl < 2 || length < size ||
	    r->network > length - size)
		return false;
	uint8_t *ip = data + r->network;
	ip[four ? 8 : 7] = r->ttl - 1;
	if (!four)
		return true;
	/* The word has the TTL in its high byte: new sum = ~(~sum + ~old + new). */
	const uint32_t old = parse_u16(ip + 10);
	const uint32_t sum = fold((~old & 0xffff) + 0xfeffu);
	ip[10] = (uint8_t)(~sum >> 8);
	ip[11] = (uint8_t)~sum;
	return true;
}
