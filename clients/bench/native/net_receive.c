/* SPDX-License-Identifier: Apache-2.0
 *
 * net_receive.c - what a receiver of packets costs in C, and who sends them; ../net.py runs it.
 *
 *     net_receive receive INTERFACE SECONDS   walks the blocks of a ring (TPACKET_V3), no copy
 *     net_receive malloc INTERFACE SECONDS    the same, and copies each packet into a malloc'ed
 *                                             buffer; 256 are alive at a time
 *     net_receive forward IN SECONDS OUT      the same, and sends 256 at a time from there, with
 *                                             the TTL one less and other MAC addresses
 *     net_receive send INTERFACE BYTES        sends UDP over IPv4 until it is killed
 *
 * A receiver prints its packets, the ns of processor time that they took, the ns that they came in,
 * and how many the kernel dropped, all from the first packet on.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>

#define BLOCK (1u << 18) /* bytes; the same ring as that of shmpool.net.PacketSource */
#define BLOCKS 64u
#define BURST 256u

static void need(int ok, const char *what)
{
	if (ok)
		return;
	perror(what);
	exit(1);
}

static int64_t now(clockid_t clock)
{
	struct timespec time;
	clock_gettime(clock, &time);
	return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static int packet_socket(const char *interface, int protocol)
{
	struct sockaddr_ll to = { .sll_family = AF_PACKET,
				  .sll_protocol = htons(protocol),
				  .sll_ifindex = (int)if_nametoindex(interface) };
	const int fd = socket(AF_PACKET, SOCK_RAW, 0);
	need(fd >= 0 && to.sll_ifindex, "socket");
	const int version = TPACKET_V3, one = 1;
	struct tpacket_req3 ring = { .tp_block_size = BLOCK,
				     .tp_block_nr = BLOCKS,
				     .tp_frame_size = 2048,
				     .tp_frame_nr = BLOCK / 2048 * BLOCKS,
				     .tp_retire_blk_tov = 1 };
	if (protocol) {
		need(!setsockopt(fd, SOL_PACKET, PACKET_VERSION, &version, sizeof(version)) &&
			     !setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &ring, sizeof(ring)),
		     "ring");
	} else {
		need(!setsockopt(fd, SOL_PACKET, PACKET_QDISC_BYPASS, &one, sizeof(one)), "bypass");
	}
	need(!bind(fd, (struct sockaddr *)&to, sizeof(to)), "bind");
	return fd;
}

static void put16(uint8_t *at, uint32_t value)
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}

static void send_packets(const char *interface, uint32_t size)
{
	/* To a third station, so that the system drops it as soon as it was received. */
	static uint8_t packet[65536] = "\x02\0\0\0\0\x63\x02\0\0\0\0\x01\x08\0\x45";
	static struct mmsghdr message[BURST];
	struct iovec part = { packet, size };
	uint8_t *ip = packet + 14;
	uint32_t sum = 0;
	put16(ip + 2, size - 14);
	ip[8] = 64;
	ip[9] = 17;
	memcpy(ip + 12, "\xc0\0\x02\x01\xc6\x33\x64\x01", 8);
	put16(ip + 24, size - 34);
	for (uint32_t i = 0; i < 20; i += 2)
		sum += (uint32_t)ip[i] << 8 | ip[i + 1];
	put16(ip + 10, ~((sum & 0xffff) + (sum >> 16)));
	const int fd = packet_socket(interface, 0);
	for (uint32_t i = 0; i < BURST; i++)
		message[i].msg_hdr = (struct msghdr) { .msg_iov = &part, .msg_iovlen = 1 };
	for (;;)
		sendmmsg(fd, message, BURST, 0);
}

/* Does with a packet what a router does, without reading it again (RFC 1624). */
static void rewrite(uint8_t *packet)
{
	uint8_t *ip = packet + 14;
	uint32_t sum = (~((uint32_t)ip[10] << 8 | ip[11]) & 0xffff) + 0xfeff;
	sum = (sum & 0xffff) + (sum >> 16);
	memcpy(packet, "\x02\0\0\0\0\x64\x02\0\0\0\0\x02", 12);
	ip[8]--;
	put16(ip + 10, ~((sum & 0xffff) + (sum >> 16)));
}

static void send_all(int fd, char **copy, const struct iovec *part, uint32_t n)
{
	static struct mmsghdr message[BURST];
	for (uint32_t i = 0; i < n; i++) {
		rewrite((uint8_t *)copy[i]);
		message[i].msg_hdr =
			(struct msghdr) { .msg_iov = (void *)&part[i], .msg_iovlen = 1 };
	}
	for (uint32_t done = 0; done < n;) {
		const int sent = sendmmsg(fd, message + done, n - done, 0);
		need(sent > 0, "sendmmsg");
		done += (uint32_t)sent;
	}
}

static void receive(const char *interface, double seconds, int copies, const char *out)
{
	static char *copy[BURST];
	static struct iovec part[BURST];
	const int to = out ? packet_socket(out, 0) : -1;
	uint32_t held = 0;
	const int fd = packet_socket(interface, 3);
	char *map = mmap(NULL, (size_t)BLOCK * BLOCKS, PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_POPULATE, fd, 0);
	uint64_t packets = 0, bytes = 0;
	int64_t began = 0, used = 0;
	struct tpacket_stats_v3 stats;
	socklen_t length = sizeof(stats);
	need(map != MAP_FAILED, "mmap");
	for (uint32_t at = 0;; at = (at + 1) % BLOCKS) {
		struct tpacket_block_desc *block = (void *)(map + (size_t)at * BLOCK);
		struct pollfd polled = { .fd = fd, .events = POLLIN };
		while (!(__atomic_load_n(&block->hdr.bh1.block_status, __ATOMIC_ACQUIRE) &
			 TP_STATUS_USER))
			poll(&polled, 1, -1);
		if (!began) {
			began = now(CLOCK_MONOTONIC);
			used = now(CLOCK_PROCESS_CPUTIME_ID);
			getsockopt(fd, SOL_PACKET, PACKET_STATISTICS, &stats, &length);
		}
		const char *next = (const char *)block + block->hdr.bh1.offset_to_first_pkt;
		for (uint32_t n = block->hdr.bh1.num_pkts; n; n--, packets++) {
			const struct tpacket3_hdr *head = (const void *)next;
			if (copies) {
				char **where = &copy[held];
				free(*where);
				*where = malloc(head->tp_snaplen);
				memcpy(*where, next + head->tp_mac, head->tp_snaplen);
				part[held] = (struct iovec) { *where, head->tp_snaplen };
				if (++held == BURST) {
					if (out)
						send_all(to, copy, part, held);
					held = 0;
				}
			}
			bytes += head->tp_snaplen;
			next += head->tp_next_offset;
		}
		__atomic_store_n(&block->hdr.bh1.block_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
		if (now(CLOCK_MONOTONIC) - began >= (int64_t)(seconds * 1e9))
			break;
	}
	const int64_t took = now(CLOCK_MONOTONIC) - began;
	getsockopt(fd, SOL_PACKET, PACKET_STATISTICS, &stats, &length);
	printf("%llu %lld %lld %u\n", (unsigned long long)packets,
	       (long long)(now(CLOCK_PROCESS_CPUTIME_ID) - used), (long long)took, stats.tp_drops);
	exit(!bytes);
}

int main(int argc, char **argv)
{
	if (argc < 4)
		return 2;
	if (!strcmp(argv[1], "send"))
		send_packets(argv[2], (uint32_t)atoi(argv[3]));
	else
		receive(argv[2], atof(argv[3]), !!strcmp(argv[1], "receive"), argv[4]);
	return 0;
}
