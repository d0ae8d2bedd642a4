/* SPDX-License-Identifier: Apache-2.0
 *
 * scan.h - the records of a pcap or pcapng file, one after the other, out of a window of its bytes.
 *
 * Whatever the bytes are, a step reads none outside the window and ends. No Python in here. One
 * thread at a time.
 */
#ifndef SHMPOOL_SCAN_H
#define SHMPOOL_SCAN_H

#include "net.h"

#define SCAN_SIZE_MAX (128u << 20) /* bytes of a packet or block, as in libpcap */
#define SCAN_INTERFACES_MAX 65536u /* of a file */
#define SCAN_NS 1000000000ull

enum scan_found {
	SCAN_PACKET,    /* *found has it */
	SCAN_INTERFACE, /* the last of interface has it, and its options are in the block */
	SCAN_SECTION,   /* a section begins, and its options are in the block */
	SCAN_OTHER,     /* a record that is skipped */
	SCAN_MORE,      /* the record has needed bytes, of which the window has fewer */
	SCAN_WRONG,     /* why says what is wrong with the record */
};

struct scan_interface {
	uint16_t link;      /* LINKTYPE_ number */
	uint32_t snaplen;   /* bytes; 0: no limit */
	uint8_t resolution; /* if_tsresol */
	uint32_t multiply;  /* ns in a tick, if that is a whole number, or 0 */
	int64_t offset;     /* s */
};

/* A packet, and what a tuple of it needs besides. */
struct scan_packet {
	struct net_packet packet;
	uint64_t ticks;
	uint32_t interface; /* in the file */
	bool timeless;
	const uint8_t *options; /* behind the packet; size bytes, 0 for none */
	uint32_t size;
};

struct scan {
	const uint8_t *at, *end; /* of the window: the next record, and behind the last byte */
	uint64_t place;          /* of at, in the file */
	uint64_t needed;         /* bytes: SCAN_MORE */
	char why[160];
	uint32_t header; /* bytes of the header of a pcap's packet; 0 in a pcapng file */
	bool swapped;    /* the file has the other byte order */
	/* The options of a block: SCAN_INTERFACE, SCAN_SECTION. */
	const uint8_t *options;
	uint32_t size;
	struct scan_interface *interface;
	uint32_t interfaces, room;
	uint32_t first; /* of the section */
};

/* Reads the magic at the begin of the file; four bytes of it are there. True if there is one. */
bool scan_begin(struct scan *s);

/* Reads the next record of which the window has at least one byte, or any number before the first
 * packet of a pcap file. Passes it unless the result is SCAN_MORE or SCAN_WRONG. */
enum scan_found scan_step(struct scan *s, struct scan_packet *found);

/* ns of the packet's time, before the offset of its interface. */
unsigned __int128 scan_time(const struct scan *s, const struct scan_packet *found);

/* Finds the next option of a block. Returns its code, 0 for the last, -1 if it leads outside. */
int scan_option(const struct scan *s, const uint8_t **at, uint32_t *left, const uint8_t **value,
		uint32_t *size);

#endif
