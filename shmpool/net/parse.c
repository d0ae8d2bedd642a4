/* SPDX-License-Identifier: Apache-2.0
 *
 * parse.c - see parse.h. One file: the headers lead from one to the other in a circle (a tunnel has
 * Ethernet in UDP), and the compiler makes few functions of them.
 *
 * Each function reads one header where the cursor is, and goes on with the next one. A header that
 * does not fit is PARSE_L_TRUNCATED. If the IP header says that the packet is whole, it contradicts
 * itself: PARSE_L_BAD.
 */
#include "parse.h"

/* Where the reader is. */
struct cursor {
	const uint8_t *data; /* of the packet, the outer one */
	uint32_t at;         /* bytes from data */
	uint32_t end;        /* of the packet, by its IP header if that is read */
	bool whole;          /* that header says that nothing is missing */
	struct parse_record *r;
	struct parse_record *inner; /* NULL: tunnels are not read */
};

static void read_type(struct cursor *c, uint32_t type);
static void read_ethernet(struct cursor *c);

/* True if n more bytes are there. Otherwise says in the record why not. */
static inline bool has(struct cursor *c, uint32_t n)
{
	if (likely(n <= c->end - c->at))
		return true;
	c->r->layers |= c->whole ? PARSE_L_BAD : PARSE_L_TRUNCATED;
	return false;
}

static inline const uint8_t *here(const struct cursor *c)
{
	return c->data + c->at;
}

static uint64_t read_mac(const uint8_t *p)
{
	return (uint64_t)parse_u16(p) << 32 | parse_u32(p + 2);
}

static void read_payload(struct cursor *c, uint32_t header, uint32_t length)
{
	c->at += header;
	c->r->payload = (uint16_t)c->at;
	if (length < c->end - c->at)
		c->end = c->at + length;
	c->r->payload_length = c->end - c->at;
}

/* Goes on with the packet in a tunnel, which begins n bytes behind the cursor; they are there. */
static void read_inner(const struct cursor *c, uint32_t n, uint32_t type)
{
	struct cursor in = *c;
	if (!c->inner)
		return;
	in.at += n;
	in.r = c->inner;
	in.inner = NULL;
	if (type == PARSE_TYPE_BRIDGED)
		read_ethernet(&in);
	else
		read_type(&in, type);
}

static void read_tcp(struct cursor *c)
{
	struct parse_record *r = c->r;
	const uint8_t *p = here(c);
	if (!has(c, 20))
		return;
	const uint32_t header = (uint32_t)load_relaxed(p + 12) >> 4 << 2;
	r->layers |= PARSE_L_TCP;
	r->port_src = (uint16_t)parse_u16(p);
	r->port_dst = (uint16_t)parse_u16(p + 2);
	r->tcp_seq = parse_u32(p + 4);
	r->tcp_ack = parse_u32(p + 8);
	r->tcp_flags = p[13];
	r->tcp_window = (uint16_t)parse_u16(p + 14);
	if (header < 20)
		r->layers |= PARSE_L_BAD;
	else if (has(c, header))
		read_payload(c, header, UINT32_MAX);
}

static void read_vxlan(struct cursor *c)
{
	const uint8_t *p = here(c);
	if (c->end - c->at < 8 || !(p[0] & 8)) /* it has no number, so it is something else */
		return;
	c->r->layers |= PARSE_L_VXLAN;
	c->r->tunnel_id = parse_u32(p + 4) >> 8;
	read_inner(c, 8, PARSE_TYPE_BRIDGED);
}

static void read_udp(struct cursor *c)
{
	struct parse_record *r = c->r;
	const uint8_t *p = here(c);
	if (!has(c, 8))
		return;
	const uint32_t length = parse_u16(p + 4);
	r->layers |= PARSE_L_UDP;
	r->port_src = (uint16_t)parse_u16(p);
	r->port_dst = (uint16_t)parse_u16(p + 2);
	if (length && length < 8) {
		r->layers |= PARSE_L_BAD;
		return;
	}
	/* A first fragment has only a part of what the length counts. 0: a jumbogram, the rest. */
	if (length > c->end - c->at && !(r->layers & PARSE_L_FRAGMENT))
		has(c, length);
	read_payload(c, 8, length ? length - 8 : UINT32_MAX);
	if (r->port_dst == PARSE_UDP_VXLAN)
		read_vxlan(c);
}

static void read_icmp(struct cursor *c, uint32_t layer)
{
	struct parse_record *r = c->r;
	const uint8_t *p = here(c);
	if (!has(c, 8))
		return;
	const bool six = layer == PARSE_L_ICMP6;
	r->layers |= layer;
	r->icmp_type = load_relaxed(p);
	r->icmp_code = p[1];
	if (six ? r->icmp_type == 128 || r->icmp_type == 129 :
		  r->icmp_type == 8 || r->icmp_type == 0)
		r->icmp_id = (uint16_t)parse_u16(p + 4);
	read_payload(c, 8, UINT32_MAX);
}

static void read_sctp(struct cursor *c)
{
	if (!has(c, 12))
		return;
	c->r->layers |= PARSE_L_SCTP;
	c->r->port_src = (uint16_t)parse_u16(here(c));
	c->r->port_dst = (uint16_t)parse_u16(here(c) + 2);
	read_payload(c, 12, UINT32_MAX);
}

static void read_gre(struct cursor *c)
{
	enum { CHECKSUM = 0x8000, ROUTING = 0x4000, KEY = 0x2000, SEQUENCE = 0x1000, VERSION = 7 };
	struct parse_record *r = c->r;
	const uint8_t *p = here(c);
	if (!has(c, 4))
		return;
	const uint32_t flags = parse_u16(p), type = parse_u16(p + 2);
	r->layers |= PARSE_L_GRE;
	if (flags & (VERSION | ROUTING)) /* PPTP, and RFC 1701: what they carry is not read */
		return;
	const uint32_t key = flags & CHECKSUM ? 8 : 4;
	const uint32_t header = key + (flags & KEY ? 4 : 0) + (flags & SEQUENCE ? 4 : 0);
	if (!has(c, header))
		return;
	if (flags & KEY)
		r->tunnel_id = parse_u32(p + key);
	read_payload(c, header, UINT32_MAX);
	read_inner(c, 0, type);
}

static void read_transport(struct cursor *c, uint32_t protocol)
{
	struct parse_record *r = c->r;
	r->protocol = (uint8_t)protocol;
	r->transport = (uint16_t)c->at;
	if (r->layers & PARSE_L_LATER)
		return;
	if (protocol == PARSE_TCP)
		read_tcp(c);
	else if (protocol == PARSE_UDP)
		read_udp(c);
	else if (protocol == PARSE_ICMP && r->ip_version == 4)
		read_icmp(c, PARSE_L_ICMP);
	else if (protocol == PARSE_ICMP6 && r->ip_version == 6)
		read_icmp(c, PARSE_L_ICMP6);
	else if (protocol == PARSE_GRE)
		read_gre(c);
	else if (protocol == PARSE_SCTP)
		read_sctp(c);
}

/* Ends the packet where its IP header says so. A length of 0 is what a network card gets that
 * divides large packets: the rest. */
static inline void end_network(struct cursor *c, uint32_t length)
{
	if (!length || !has(c, length))
		return;
	c->end = c->at + length;
	c->whole = true;
}

static void read_fragment(struct parse_record *r, uint32_t offset, bool more)
{
	r->fragment_offset = (uint16_t)offset;
	if (offset || more)
		r->layers |= PARSE_L_FRAGMENT;
	if (offset)
		r->layers |= PARSE_L_LATER;
}

/* True if the options of an IPv4 header have a route with stops that are still to be visited: the
 * target's address is the next stop then. */
static bool has_route(const uint8_t *p, uint32_t n)
{
	enum { END = 0, NOTHING = 1, LOOSE_ROUTE = 131, STRICT_ROUTE = 137 };
	for (uint32_t i = 0; i < n;) {
		const uint8_t kind = load_relaxed(p + i);
		if (kind == NOTHING) {
			i++;
			continue;
		}
		const uint32_t length = i + 1 < n ? load_relaxed(p + i + 1) : 0;
		if (kind == END || length < 2 || length > n - i)
			return false;
		if ((kind == LOOSE_ROUTE || kind == STRICT_ROUTE) && length > 2)
			return load_relaxed(p + i + 2) <= length; /* the next stop */
		i += length;
	}
	return false;
}

static void read_ipv4(struct cursor *c)
{
	static const uint8_t mapped[12] = { [10] = 0xff, [11] = 0xff };
	struct parse_record *r = c->r;
	const uint8_t *p = here(c);
	if (!has(c, 20))
		return;
	const uint8_t first = load_relaxed(p), protocol = load_relaxed(p + 9);
	const uint32_t header = (uint32_t)(first & 15) << 2, length = parse_u16(p + 2);
	const uint32_t fragment = parse_u16(p + 6);
	if (first >> 4 != 4 || header < 20 || (length && length < header)) {
		r->layers |= PARSE_L_BAD;
		return;
	}
	r->layers |= PARSE_L_IPV4;
	r->network = (uint16_t)c->at;
	r->ip_version = 4;
	r->protocol = protocol;
	r->ip_length = length;
	r->traffic_class = p[1];
	r->ip_id = parse_u16(p + 4);
	r->ip_flags = (uint8_t)(fragment >> 13);
	r->ttl = p[8];
	memcpy(r->src, mapped, sizeof(mapped));
	memcpy(r->src + 12, p + 12, 4);
	memcpy(r->dst, mapped, sizeof(mapped));
	memcpy(r->dst + 12, p + 16, 4);
	r->src4 = parse_u32(p + 12);
	r->dst4 = parse_u32(p + 16);
	read_fragment(r, (fragment & 0x1fff) << 3, fragment & 0x2000);
	end_network(c, length);
	if (header > 20)
		r->layers |= PARSE_L_OPTIONS;
	if (!has(c, header))
		return;
	if (header > 20 && has_route(p + 20, header - 20))
		r->layers |= PARSE_L_ROUTED;
	c->at += header;
	read_transport(c, protocol);
}

/* Bytes of an IPv6 extension header whose length field has that value, or 0: it is none. */
static uint32_t extension_size(uint32_t protocol, uint32_t field)
{
	switch (protocol) {
	case PARSE_FRAGMENT:
		return 8;
	case PARSE_AUTHENTICATION:
		return (field + 2) << 2;
	case PARSE_EACH_ROUTER:
	case PARSE_ROUTING:
	case PARSE_DESTINATION:
	case PARSE_MOBILITY:
	case PARSE_HOST_IDENTITY:
	case PARSE_SHIM6:
		return (field + 1) << 3;
	}
	return 0;
}

static void read_ipv6(struct cursor *c)
{
	struct parse_record *r = c->r;
	const uint8_t *p = here(c);
	if (!has(c, 40))
		return;
	const uint32_t first = parse_u32(p), length = parse_u16(p + 4);
	uint32_t protocol = load_relaxed(p + 6);
	if (first >> 28 != 6) {
		r->layers |= PARSE_L_BAD;
		return;
	}
	r->layers |= PARSE_L_IPV6;
	r->network = (uint16_t)c->at;
	r->ip_version = 6;
	r->ip_length = 40 + length;
	r->traffic_class = (uint8_t)(first >> 20);
	r->flow_label = first & 0xfffff;
	r->ttl = p[7];
	memcpy(r->src, p + 8, 16);
	memcpy(r->dst, p + 24, 16);
	end_network(c, length ? 40 + length : 0);
	c->at += 40;
	while (!(r->layers & PARSE_L_LATER) && extension_size(protocol, 0)) {
		r->layers |= PARSE_L_OPTIONS;
		r->protocol = (uint8_t)protocol;
		if (r->extensions == PARSE_EXTENSIONS_MAX) {
			r->layers |= PARSE_L_BAD;
			return;
		}
		p = here(c);
		if (!has(c, 8))
			return;
		const uint32_t size = extension_size(protocol, load_relaxed(p + 1));
		if (!has(c, size))
			return;
		if (protocol == PARSE_FRAGMENT) {
			const uint32_t fragment = parse_u16(p + 2);
			read_fragment(r, fragment & 0xfff8, fragment & 1);
			r->ip_id = parse_u32(p + 4);
		} else if (protocol == PARSE_ROUTING && p[3]) {
			r->layers |= PARSE_L_ROUTED;
		}
		r->extensions++;
		protocol = load_relaxed(p);
		c->at += size;
	}
	read_transport(c, protocol);
}

static void read_arp(struct cursor *c)
{
	enum { ETHERNET = 1 };
	struct parse_record *r = c->r;
	const uint8_t *p = here(c);
	if (!has(c, 8))
		return;
	r->layers |= PARSE_L_ARP;
	r->network = (uint16_t)c->at;
	r->arp_operation = (uint16_t)parse_u16(p + 6);
	if (parse_u16(p) != ETHERNET || parse_u16(p + 2) != PARSE_TYPE_IPV4 ||
	    parse_u16(p + 4) != 0x0604 || !has(c, 28))
		return;
	r->src4 = parse_u32(p + 14);
	r->dst4 = parse_u32(p + 24);
}

/* Reads IP of either version, which the first bits say. false if it is neither. */
static bool read_either_ip(struct cursor *c)
{
	if (!has(c, 1))
		return true;
	const uint8_t first = load_relaxed(here(c));
	if (first >> 4 == 4)
		read_ipv4(c);
	else if (first >> 4 == 6)
		read_ipv6(c);
	else
		return false;
	return true;
}

/* Reads what must be IP. */
static void read_ip(struct cursor *c)
{
	if (!read_either_ip(c))
		c->r->layers |= PARSE_L_BAD;
}

/* Reads labels, and then what the first bits behind them look like: no label says what it is. */
static void read_mpls(struct cursor *c)
{
	struct parse_record *r = c->r;
	for (bool bottom = false; !bottom; c->at += 4) {
		if (!has(c, 4))
			return;
		const uint32_t label = parse_u32(here(c));
		if (r->mpls_labels == PARSE_LABELS_MAX) {
			r->layers |= PARSE_L_BAD;
			return;
		}
		if (!r->mpls_labels++)
			r->mpls_label = label >> 12;
		r->layers |= PARSE_L_MPLS;
		bottom = label & 0x100;
	}
	read_either_ip(c);
}

static bool is_vlan(uint32_t type)
{
	return type == PARSE_TYPE_VLAN || type == PARSE_TYPE_SERVICE_VLAN ||
	       type == PARSE_TYPE_OLD_VLAN;
}

static void read_ethernet(struct cursor *c)
{
	const uint8_t *p = here(c);
	if (!has(c, 14))
		return;
	c->r->layers |= PARSE_L_ETHERNET;
	c->r->mac_dst = read_mac(p);
	c->r->mac_src = read_mac(p + 6);
	c->at += 14;
	read_type(c, parse_u16(p + 12));
}

/* Reads what has that ethertype, tags first. */
static void read_type(struct cursor *c, uint32_t type)
{
	struct parse_record *r = c->r;
	r->ethertype = (uint16_t)type;
	while (is_vlan(type)) {
		const uint8_t *p = here(c);
		if (!has(c, 4))
			return;
		if (r->vlans == PARSE_TAGS_MAX) {
			r->layers |= PARSE_L_BAD;
			return;
		}
		const uint32_t tag = parse_u16(p);
		if (!r->vlans) {
			r->vlan = tag & 0xfff;
			r->vlan_priority = (uint8_t)(tag >> 13);
		} else if (r->vlans == 1) {
			r->vlan_inner = tag & 0xfff;
		}
		r->vlans++;
		r->layers |= PARSE_L_VLAN;
		type = parse_u16(p + 2);
		r->ethertype = (uint16_t)type;
		c->at += 4;
	}
	if (likely(type == PARSE_TYPE_IPV4))
		read_ipv4(c);
	else if (type == PARSE_TYPE_IPV6)
		read_ipv6(c);
	else if (type == PARSE_TYPE_ARP)
		read_arp(c);
	else if (type == PARSE_TYPE_MPLS || type == PARSE_TYPE_MPLS_MULTICAST)
		read_mpls(c);
}

/* Where the ethertype of a cooked capture is in its header, and how long that is. */
static void read_cooked(struct cursor *c, uint32_t type, uint32_t header)
{
	const uint8_t *p = here(c);
	if (!has(c, header))
		return;
	c->at += header;
	read_type(c, parse_u16(p + type));
}

bool parse_knows(uint32_t link)
{
	return link == PARSE_LINK_ETHERNET || link == PARSE_LINK_IP || link == PARSE_LINK_COOKED ||
	       link == PARSE_LINK_COOKED2 || link == PARSE_LINK_NULL || link == PARSE_LINK_LOOP;
}

void parse_packet(const uint8_t *data, uint32_t length, uint32_t link, struct parse_record *r,
		  struct parse_record *inner)
{
	struct cursor c = { data, 0, length, false, r, inner };
	memset(r, 0, sizeof(*r));
	if (inner)
		memset(inner, 0, sizeof(*inner));
	switch (link) {
	case PARSE_LINK_ETHERNET:
		read_ethernet(&c);
		break;
	case PARSE_LINK_IP:
		read_ip(&c);
		break;
	case PARSE_LINK_COOKED:
		read_cooked(&c, 14, 16);
		break;
	case PARSE_LINK_COOKED2:
		read_cooked(&c, 0, 20);
		break;
	case PARSE_LINK_NULL:
	case PARSE_LINK_LOOP:
		if (has(&c, 4)) {
			c.at = 4;
			read_ip(&c);
		}
		break;
	}
}
