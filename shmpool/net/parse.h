/* SPDX-License-Identifier: Apache-2.0
 *
 * parse.h - the headers of one packet, as one record of 128 bytes.
 *
 * Knows nothing of Python and of pools. Reads only the bytes from data to data + length, whatever
 * they are. Bytes on which the place of a later read depends are read once, so a process that
 * changes the packet in that time cannot lead a read outside.
 *
 * Progress: the loops over tags, labels and extension headers have limits (PARSE_*_MAX). A packet
 * with more of them is PARSE_BAD, and its later headers are not read.
 */
#ifndef SHMPOOL_PARSE_H
#define SHMPOOL_PARSE_H

#include "atomic.h"

#include <string.h>

#define PARSE_TAGS_MAX 8
#define PARSE_LABELS_MAX 16
#define PARSE_EXTENSIONS_MAX 8

#define PARSE_UDP_VXLAN 4789 /* port of the target */

enum parse_ethertype {
	PARSE_TYPE_IPV4 = 0x0800,
	PARSE_TYPE_ARP = 0x0806,
	PARSE_TYPE_BRIDGED = 0x6558, /* an Ethernet frame in GRE */
	PARSE_TYPE_VLAN = 0x8100,
	PARSE_TYPE_IPV6 = 0x86dd,
	PARSE_TYPE_MPLS = 0x8847,
	PARSE_TYPE_MPLS_MULTICAST = 0x8848,
	PARSE_TYPE_SERVICE_VLAN = 0x88a8,
	PARSE_TYPE_OLD_VLAN = 0x9100,
};

enum parse_protocol {
	PARSE_EACH_ROUTER = 0, /* options for each router on the way */
	PARSE_ICMP = 1,
	PARSE_TCP = 6,
	PARSE_UDP = 17,
	PARSE_ROUTING = 43,
	PARSE_FRAGMENT = 44,
	PARSE_GRE = 47,
	PARSE_AUTHENTICATION = 51,
	PARSE_ICMP6 = 58,
	PARSE_DESTINATION = 60,
	PARSE_SCTP = 132,
	PARSE_MOBILITY = 135,
	PARSE_HOST_IDENTITY = 139,
	PARSE_SHIM6 = 140,
};

/* What a packet begins with. The numbers are those of capture files (LINKTYPE_). */
enum parse_link {
	PARSE_LINK_NULL = 0, /* 4 bytes of the sender's system, then IP */
	PARSE_LINK_ETHERNET = 1,
	PARSE_LINK_IP = 101,
	PARSE_LINK_LOOP = 108,
	PARSE_LINK_COOKED = 113,
	PARSE_LINK_COOKED2 = 276,
};

/* Bits of layers. A header's bit says that its fixed part is whole and valid. The names and numbers
 * are those of shmpool.net.headers.Layer. */
enum parse_layer {
	PARSE_L_ETHERNET = 1 << 0,
	PARSE_L_VLAN = 1 << 1,
	PARSE_L_MPLS = 1 << 2,
	PARSE_L_ARP = 1 << 3,
	PARSE_L_IPV4 = 1 << 4,
	PARSE_L_IPV6 = 1 << 5,
	PARSE_L_TCP = 1 << 6,
	PARSE_L_UDP = 1 << 7,
	PARSE_L_ICMP = 1 << 8,
	PARSE_L_ICMP6 = 1 << 9,
	PARSE_L_SCTP = 1 << 10,
	PARSE_L_GRE = 1 << 11,
	PARSE_L_VXLAN = 1 << 12,
	PARSE_L_OPTIONS = 1 << 13,
	PARSE_L_FRAGMENT = 1 << 14,
	PARSE_L_LATER = 1 << 15,
	PARSE_L_ROUTED = 1 << 16,
	PARSE_L_TRUNCATED = 1 << 17,
	PARSE_L_BAD = 1 << 18,
};

/* The headers of a packet, or of the packet in a tunnel. A field is 0 where the packet does not
 * have it. Numbers are in the machine's byte order, offsets are bytes from the packet's start.
 * shmpool/net/headers.py says what each one means; the first 38 bytes name a flow. */
struct parse_record {
	uint8_t src[16];
	uint8_t dst[16];
	uint16_t port_src;
	uint16_t port_dst;
	uint8_t protocol;
	uint8_t ip_version;
	uint16_t ethertype;
	uint64_t mac_src;
	uint64_t mac_dst;
	uint32_t layers;
	uint32_t src4;
	uint32_t dst4;
	uint32_t ip_length;
	uint32_t payload_length;
	uint32_t ip_id;
	uint32_t tcp_seq;
	uint32_t tcp_ack;
	uint32_t flow_label;
	uint32_t mpls_label;
	uint32_t tunnel_id;
	uint16_t network;
	uint16_t transport;
	uint16_t payload;
	uint16_t vlan;
	uint16_t vlan_inner;
	uint16_t fragment_offset;
	uint16_t tcp_window;
	uint16_t icmp_id;
	uint16_t arp_operation;
	uint8_t vlans;
	uint8_t vlan_priority;
	uint8_t mpls_labels;
	uint8_t extensions;
	uint8_t ttl;
	uint8_t traffic_class;
	uint8_t ip_flags;
	uint8_t tcp_flags;
	uint8_t icmp_type;
	uint8_t icmp_code;
};

_Static_assert(sizeof(struct parse_record) == 128, "two cache lines; headers.py has the fields");

/* True if parse_packet() knows packets that begin so. */
bool parse_knows(uint32_t link);

/* Reads the headers of a packet of length bytes into *r. If inner is not NULL, reads those of the
 * packet in a GRE or VXLAN tunnel into *inner, or makes it zeros. */
void parse_packet(const uint8_t *data, uint32_t length, uint32_t link, struct parse_record *r,
		  struct parse_record *inner);

static inline uint32_t parse_u16(const uint8_t *p)
{
	return (uint32_t)load_relaxed(p) << 8 | load_relaxed(p + 1);
}

static inline uint32_t parse_u32(const uint8_t *p)
{
	uint32_t value;
	memcpy(&value, p, sizeof(value));
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	value = __builtin_bswap32(value);
#endif
	return value;
}

#endif
