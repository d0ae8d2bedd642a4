/* SPDX-License-Identifier: Apache-2.0
 *
 * scan.c - the records of a pcap or pcapng file.
 */
#include "scan.h"

enum { INTERFACE = 1, OLD_PACKET = 2, SIMPLE_PACKET = 3, PACKET = 6 }; /* types of blocks */
enum { END_OF_OPTIONS = 0, IF_TSRESOL = 9, IF_TSOFFSET = 14 };
#define SECTION 0x0a0d0d0au /* in either byte order */
#define BYTE_ORDER_MAGIC 0x1a2b3c4du
#define FILE_HEADER 24u /* bytes */
#define BLOCK 8u        /* bytes before a block's body, and 4 behind it */

static uint16_t u16(const struct scan *s, const uint8_t *at)
{
	uint16_t value;
	memcpy(&value, at, sizeof(value));
	return s->swapped ? __builtin_bswap16(value) : value;
}

static uint32_t u32(const struct scan *s, const uint8_t *at)
{
	uint32_t value;
	memcpy(&value, at, sizeof(value));
	return s->swapped ? __builtin_bswap32(value) : value;
}

__attribute__((format(printf, 2, 3))) static enum scan_found wrong(struct scan *s, const char *what,
								   ...)
{
	va_list values;
	va_start(values, what);
	vsnprintf(s->why, sizeof(s->why), what, values);
	va_end(values);
	return SCAN_WRONG;
}

/* True if the window has so many bytes of the record. */
static bool has(struct scan *s, uint64_t n)
{
	s->needed = n;
	return n <= (uint64_t)(s->end - s->at);
}

static void pass(struct scan *s, uint64_t n)
{
	s->at += n;
	s->place += n;
}

/* ---- interfaces ---- */

/* Adds an interface, without options. 0, or -1 without memory. */
static int add_interface(struct scan *s, uint16_t link, uint32_t snaplen)
{
	if (s->interfaces == s->room) {
		const uint32_t room = s->room ? 2 * s->room : 4;
		void *more = realloc(s->interface, room * sizeof(*s->interface));
		if (!more)
			return -1;
		s->interface = more;
		s->room = room;
	}
	s->interface[s->interfaces++] = (struct scan_interface) {
		.link = link, .snaplen = snaplen, .resolution = 6, .multiply = 1000
	};
	return 0;
}

int scan_option(const struct scan *s, const uint8_t **at, uint32_t *left, const uint8_t **value,
		uint32_t *size)
{
	if (*left < 4)
		return *left ? -1 : END_OF_OPTIONS;
	const int code = u16(s, *at);
	*size = u16(s, *at + 2);
	*value = *at + 4;
	if (code == END_OF_OPTIONS)
		return code;
	if (*size > *left - 4)
		return -1;
	const uint32_t whole = 4 + ((*size + 3) & ~3u);
	const uint32_t step = whole < *left ? whole : *left;
	*at += step;
	*left -= step;
	return code;
}

static uint32_t multiply_of(uint8_t resolution)
{
	uint32_t ns = 1;
	if (resolution > 9)
		return resolution & 128 && !(resolution & 127) ? (uint32_t)SCAN_NS : 0;
	for (; resolution < 9; resolution++)
		ns *= 10;
	return ns;
}

static enum scan_found interface(struct scan *s, const uint8_t *body, uint32_t size)
{
	const uint8_t *at = body + 8, *value;
	uint32_t left, n;
	if (size < 8)
		return wrong(s, "an interface of %u bytes; it needs at least 8", size);
	if (s->interfaces == SCAN_INTERFACES_MAX)
		return wrong(s, "more than %u interfaces", SCAN_INTERFACES_MAX);
	if (add_interface(s, u16(s, body), u32(s, body + 4)))
		return wrong(s, "no memory for an interface");
	struct scan_interface *added = &s->interface[s->interfaces - 1];
	for (left = size - 8; left;) {
		if (left < 4)
			goto too_short;
		const int code = scan_option(s, &at, &left, &value, &n);
		if (code == END_OF_OPTIONS)
			break;
		if (code < 0) {
			s->interfaces--;
			return wrong(s, "option %u of %u bytes; the block has %u", u16(s, at), n,
				     left - 4);
		}
		if (code == IF_TSRESOL) {
			if (n < 1)
				goto no_resolution;
			added->resolution = *value;
			added->multiply = multiply_of(*value);
		} else if (code == IF_TSOFFSET) {
			if (n < 8)
				goto no_offset;
			const uint64_t high = u32(s, value), low = u32(s, value + 4);
			added->offset = (int64_t)(s->swapped == (__BYTE_ORDER__ ==
								 __ORDER_LITTLE_ENDIAN__) ?
							  high << 32 | low :
							  low << 32 | high);
		}
	}
	s->options = body + 8;
	s->size = size - 8;
	return SCAN_INTERFACE;
too_short:
	s->interfaces--;
	return wrong(s, "an option of %u bytes; it needs at least 4", left);
no_resolution:
	s->interfaces--;
	return wrong(s, "if_tsresol of %u bytes; it needs at least 1", n);
no_offset:
	s->interfaces--;
	return wrong(s, "if_tsoffset of %u bytes; it needs at least 8", n);
}

unsigned __int128 scan_time(const struct scan *s, const struct scan_packet *found)
{
	const struct scan_interface *of = &s->interface[found->interface];
	if (likely(of->multiply))
		return (unsigned __int128)found->ticks * of->multiply;
	if (of->resolution & 128)
		return (unsigned __int128)found->ticks * SCAN_NS >> (of->resolution & 127);
	uint64_t ticks = found->ticks;
	for (uint8_t power = of->resolution; power > 9 && ticks; power--)
		ticks /= 10;
	return ticks;
}

/* Writes what both kinds of files have of a packet. */
static enum scan_found packet(struct scan *s, struct scan_packet *found, const uint8_t *data,
			      uint32_t size, uint32_t original)
{
	const __int128 most = INT64_MAX;
	__int128 time = 0;
	if (!found->timeless)
		time = (__int128)scan_time(s, found) +
		       (__int128)s->interface[found->interface].offset * (__int128)SCAN_NS;
	const uint32_t number =
		found->interface < NET_INTERFACES_MAX ? found->interface : NET_INTERFACES_MAX;
	found->packet = (struct net_packet) {
		.data = (const char *)data,
		.length = size,
		.original = original > size ? original : size,
		.flags = NET_INTERFACE(number),
		.timestamp = time < 0    ? 0 :
			     time > most ? INT64_MAX :
					   (int64_t)time,
	};
	return SCAN_PACKET;
}

/* ---- pcap ---- */

bool scan_begin(struct scan *s)
{
	uint32_t magic;
	memcpy(&magic, s->at, sizeof(magic));
	for (int i = 0; i < 2; i++, magic = __builtin_bswap32(magic)) {
		s->swapped = i;
		s->header = magic == 0xa1b2cd34u ? 24 : 16; /* an old variant has 8 bytes more */
		if (magic == 0xa1b2c3d4u || magic == 0xa1b2cd34u || magic == 0xa1b23c4du)
			return true;
	}
	s->header = 0;
	return magic == SECTION;
}

static enum scan_found file_header(struct scan *s)
{
	if (!has(s, FILE_HEADER))
		return SCAN_MORE;
	if (u16(s, s->at + 4) != 2 || u16(s, s->at + 6) != 4)
		return wrong(s, "pcap version is %u.%u; only 2.4 can be read", u16(s, s->at + 4),
			     u16(s, s->at + 6));
	if (add_interface(s, (uint16_t)u32(s, s->at + 20), u32(s, s->at + 16)))
		return wrong(s, "no memory for an interface");
	if (u32(s, s->at) == 0xa1b23c4du) {
		s->interface[0].resolution = 9;
		s->interface[0].multiply = 1;
	}
	s->options = s->at;
	s->size = 0;
	pass(s, FILE_HEADER);
	return SCAN_INTERFACE;
}

static enum scan_found pcap_step(struct scan *s, struct scan_packet *found)
{
	if (unlikely(!s->interfaces))
		return file_header(s);
	if (!has(s, s->header))
		return SCAN_MORE;
	const uint8_t *at = s->at;
	const uint32_t size = u32(s, at + 8);
	const uint64_t second = s->interface[0].multiply == 1 ? SCAN_NS : 1000000;
	if (unlikely(size > SCAN_SIZE_MAX))
		return wrong(s, "a packet of %u bytes; at most %u are allowed", size,
			     SCAN_SIZE_MAX);
	if (!has(s, s->header + (uint64_t)size))
		return SCAN_MORE;
	*found = (struct scan_packet) { .ticks = u32(s, at) * second + u32(s, at + 4) };
	pass(s, s->header + (uint64_t)size);
	return packet(s, found, at + s->header, size, u32(s, at + 12));
}

/* ---- pcapng ---- */

static enum scan_found packet_block(struct scan *s, struct scan_packet *found, uint32_t kind,
				    const uint8_t *body, uint32_t have)
{
	const uint32_t head = kind == SIMPLE_PACKET ? 4 : 20;
	uint32_t number = 0, size, original;
	if (unlikely(have < head))
		return wrong(s, "a packet's block of %u bytes; it needs at least %u", have, head);
	*found = (struct scan_packet) { .timeless = kind == SIMPLE_PACKET };
	if (kind == SIMPLE_PACKET) { /* from the first interface, truncated to its snaplen */
		size = original = u32(s, body);
	} else {
		number = kind == PACKET ? u32(s, body) : u16(s, body);
		found->ticks = (uint64_t)u32(s, body + 4) << 32 | u32(s, body + 8);
		size = u32(s, body + 12);
		original = u32(s, body + 16);
	}
	if (unlikely(number >= s->interfaces - s->first))
		return wrong(s, "a packet of interface %u; the section has %u", number,
			     s->interfaces - s->first);
	found->interface = s->first + number;
	const uint32_t snaplen = s->interface[found->interface].snaplen;
	if (kind == SIMPLE_PACKET && snaplen && size > snaplen)
		size = snaplen;
	if (unlikely(size > have - head))
		return wrong(s, "a packet of %u bytes; its block has %u", size, have - head);
	const uint32_t whole = (size + 3) & ~3u;
	if (kind != SIMPLE_PACKET && whole < have - head) {
		found->options = body + head + whole;
		found->size = have - head - whole;
	}
	return packet(s, found, body + head, size, original);
}

static enum scan_found section(struct scan *s, const uint8_t *body, uint32_t have)
{
	if (have < 8)
		return wrong(s, "a section of %u bytes; it needs at least 8", have);
	if (u16(s, body + 4) != 1)
		return wrong(s, "pcapng version is %u.%u; only 1.0 can be read", u16(s, body + 4),
			     u16(s, body + 6));
	s->first = s->interfaces;
	s->options = body + (have < 16 ? have : 16);
	s->size = have < 16 ? 0 : have - 16;
	return SCAN_SECTION;
}

static enum scan_found pcapng_step(struct scan *s, struct scan_packet *found)
{
	const uint8_t *at = s->at;
	if (!has(s, BLOCK))
		return SCAN_MORE;
	const uint32_t kind = u32(s, at);
	if (kind == SECTION) {
		if (!has(s, BLOCK + 4))
			return SCAN_MORE;
		uint32_t order;
		memcpy(&order, at + BLOCK, sizeof(order));
		s->swapped = order != BYTE_ORDER_MAGIC;
		if (s->swapped && order != __builtin_bswap32(BYTE_ORDER_MAGIC))
			return wrong(s, "a section with the byte order %02x %02x %02x %02x", at[8],
				     at[9], at[10], at[11]);
	}
	const uint32_t whole = u32(s, at + 4);
	if (unlikely(whole % 4 || whole < BLOCK + 4 + (kind == SECTION ? 4 : 0) ||
		     whole > SCAN_SIZE_MAX))
		return wrong(s, "a block of %u bytes; it must be a multiple of 4 up to %u", whole,
			     SCAN_SIZE_MAX);
	if (!has(s, whole))
		return SCAN_MORE;
	const uint8_t *before = at + 4, *after = at + whole - 4, *body = at + BLOCK;
	if (unlikely(memcmp(before, after, 4)))
		return wrong(s,
			     "a block with the size %02x %02x %02x %02x, at its end "
			     "%02x %02x %02x %02x",
			     before[0], before[1], before[2], before[3], after[0], after[1],
			     after[2], after[3]);
	enum scan_found is = SCAN_OTHER;
	if (kind == PACKET || kind == SIMPLE_PACKET || kind == OLD_PACKET)
		is = packet_block(s, found, kind, body, whole - BLOCK - 4);
	else if (kind == INTERFACE)
		is = interface(s, body, whole - BLOCK - 4);
	else if (kind == SECTION)
		is = section(s, body, whole - BLOCK - 4);
	if (likely(is != SCAN_WRONG))
		pass(s, whole);
	return is;
}

enum scan_found scan_step(struct scan *s, struct scan_packet *found)
{
	return s->header ? pcap_step(s, found) : pcapng_step(s, found);
}
