/* SPDX-License-Identifier: Apache-2.0
 *
 * device.c - see device.h: asks the kernel which queues of an interface have a socket.
 */
#define _GNU_SOURCE
#include "device.h"

#include <errno.h>
#include <linux/genetlink.h>
#include <linux/netlink.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif
#define REPLY_BYTES 4096
#define LOOPBACK 1 /* the number of that interface in every network namespace */

/* linux/netdev.h, which many systems do not have yet. */
enum {
	NETDEV_QUEUE_GET = 10,
	NETDEV_QUEUE_ID = 1,
	NETDEV_QUEUE_INTERFACE = 2,
	NETDEV_QUEUE_TYPE = 3, /* 0: receive */
	NETDEV_QUEUE_XSK = 7,  /* it has a socket */
};

struct request {
	struct nlmsghdr head;
	struct genlmsghdr call;
	char attributes[64];
};

int device_asker(uint64_t *space)
{
	socklen_t size = sizeof(*space);
	const int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_GENERIC);
	if (fd < 0)
		return -errno;
	if (getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, space, &size) == 0)
		return fd;
	const int error = -errno;
	close(fd);
	return error;
}

static struct request request_of(uint16_t family, uint8_t command)
{
	return (struct request) {
		.head = { .nlmsg_len = NLMSG_LENGTH(GENL_HDRLEN),
			  .nlmsg_type = family,
			  .nlmsg_flags = NLM_F_REQUEST },
		.call = { .cmd = command, .version = 1 },
	};
}

static void add(struct request *r, uint16_t type, const void *data, uint16_t bytes)
{
	struct nlattr *a = (struct nlattr *)((char *)r + NLMSG_ALIGN(r->head.nlmsg_len));
	a->nla_type = type;
	a->nla_len = (uint16_t)(NLA_HDRLEN + bytes);
	memcpy((char *)a + NLA_HDRLEN, data, bytes);
	r->head.nlmsg_len = NLMSG_ALIGN(r->head.nlmsg_len) + NLA_ALIGN(a->nla_len);
}

/* Sends a request and receives its answer, which the kernel has written when the call that sends
 * returns. Returns how many bytes of attributes it has, from *attributes on, or -errno. */
static int ask(int fd, const struct request *r, char *reply, const char **attributes)
{
	const struct nlmsghdr *head = (const struct nlmsghdr *)reply;
	/* What an interrupted call has left does not belong to this one. */
	while (recv(fd, reply, REPLY_BYTES, MSG_DONTWAIT) > 0)
		;
	if (send(fd, r, r->head.nlmsg_len, MSG_DONTWAIT) < 0)
		return -errno;
	const ssize_t got = recv(fd, reply, REPLY_BYTES, MSG_DONTWAIT);
	if (got < 0)
		return -errno;
	if ((size_t)got < NLMSG_LENGTH(GENL_HDRLEN) || head->nlmsg_len > (size_t)got)
		return -EPROTO;
	if (head->nlmsg_type == NLMSG_ERROR) {
		const int error = ((const struct nlmsgerr *)NLMSG_DATA(head))->error;
		return error < 0 ? error : -EPROTO;
	}
	*attributes = reply + NLMSG_LENGTH(GENL_HDRLEN);
	return (int)(head->nlmsg_len - NLMSG_LENGTH(GENL_HDRLEN));
}

/* Returns the attribute of that type, or NULL. */
static const struct nlattr *find(const char *at, int left, uint16_t type)
{
	while (left >= NLA_HDRLEN) {
		const struct nlattr *a = (const struct nlattr *)at;
		if (a->nla_len < NLA_HDRLEN || a->nla_len > left)
			return NULL;
		if ((a->nla_type & NLA_TYPE_MASK) == type)
			return a;
		at += NLA_ALIGN(a->nla_len);
		left -= NLA_ALIGN(a->nla_len);
	}
	return NULL;
}

/* What is asked of the family "netdev". */
struct question {
	int asker;
	uint16_t family;
	_Alignas(struct nlmsghdr) char reply[REPLY_BYTES];
	const char *attributes; /* of the last answer, in reply */
};

/* Asks about a receive queue. Returns as ask(). */
static int ask_queue(struct question *q, uint32_t interface, uint32_t number)
{
	const uint32_t receive = 0;
	struct request r = request_of(q->family, NETDEV_QUEUE_GET);
	add(&r, NETDEV_QUEUE_INTERFACE, &interface, sizeof(interface));
	add(&r, NETDEV_QUEUE_TYPE, &receive, sizeof(receive));
	add(&r, NETDEV_QUEUE_ID, &number, sizeof(number));
	return ask(q->asker, &r, q->reply, &q->attributes);
}

/* True if the kernel is done with the end of an interface that it does not list any more. It takes
 * the interface from its list first. Packets may be in its backlog then, and be copied into the
 * socket's buffers. Later it waits for them and ends the socket, all under one lock (RTNL). A
 * question about an interface that is listed takes that lock, so the end is over when it is
 * answered (Linux 6.15; before, every question took it). */
static bool has_ended(struct question *q)
{
	const int n = ask_queue(q, LOOPBACK, 0);
	return n >= 0 || n == -ENOENT; /* it is down */
}

int device_bound(int asker, uint64_t space, const struct device *d)
{
	struct question q = { .asker = asker };
	if (asker < 0 || !space || space != d->space)
		return -EAGAIN;
	struct request r = request_of(GENL_ID_CTRL, CTRL_CMD_GETFAMILY);
	add(&r, CTRL_ATTR_FAMILY_NAME, "netdev", sizeof("netdev"));
	int n = ask(asker, &r, q.reply, &q.attributes);
	const struct nlattr *id = n < 0 ? NULL : find(q.attributes, n, CTRL_ATTR_FAMILY_ID);
	if (!id || id->nla_len < NLA_HDRLEN + sizeof(q.family))
		return -EAGAIN;
	memcpy(&q.family, (const char *)id + NLA_HDRLEN, sizeof(q.family));
	n = ask_queue(&q, d->interface, d->queue);
	if (n == -ENODEV)
		return has_ended(&q) ? 0 : -EAGAIN; /* without an interface no socket */
	if (n < 0 || !find(q.attributes, n, NETDEV_QUEUE_ID))
		return -EAGAIN;
	return find(q.attributes, n, NETDEV_QUEUE_XSK) != NULL;
}

void device_set(const struct segment *s, struct member *m, const struct device *d, bool reported)
{
	/* Pairs with itself, as in token.c: each number is handed out once. */
	const uint64_t number =
		(add_seq_cst(&segment_shared(s)->tokens, 1) + 1) & ((1ull << TOKEN_BITS) - 1);
	store_relaxed(&m->device_space, d->space);
	store_relaxed(&m->device_interface, d->interface);
	store_relaxed(&m->device_queue, d->queue);
	store_release(&m->device,
		      (reported ? DEVICE_REPORTED : DEVICE_SILENT) | number); /* [DEVICE] */
}

void device_leave(struct member *m)
{
	/* Not with the token: this process may use the slot again, and leave it again. */
	const uint64_t dead = member_as_dead(load_relaxed(&m->device));
	store_release(&m->identity, dead); /* [MEMBER] */
}

/* Reads the place of a device. False if it has changed in that time. */
static bool place_of(const struct member *m, uint64_t device, struct device *d)
{
	*d = (struct device) { load_relaxed(&m->device_space), load_relaxed(&m->device_interface),
			       load_relaxed(&m->device_queue) };
	return load_acquire(&m->device) == device; /* [DEVICE] */
}

bool device_gone(const struct member *m)
{
	const uint64_t device = load_acquire(&m->device); /* [DEVICE] */
	struct device d;
	uint64_t space;
	if (likely(!device))
		return true;
	if (!(device & DEVICE_REPORTED) || !place_of(m, device, &d))
		return false;
	const int asker = device_asker(&space);
	const bool gone = asker >= 0 && device_bound(asker, space, &d) == 0;
	if (asker >= 0)
		close(asker);
	return gone;
}

void device_succeed(const struct segment *s, const struct device *d, uint64_t own)
{
	for (uint32_t i = 0; i < s->members; i++) {
		struct member *m = segment_member(s, i);
		const uint64_t identity = load_acquire(&m->identity); /* [MEMBER] */
		uint64_t device = load_acquire(&m->device);           /* [DEVICE] */
		struct device at;
		if (!identity || !device || !place_of(m, device, &at) || at.space != d->space ||
		    at.interface != d->interface || at.queue != d->queue)
			continue;
		if (member_attached(identity) &&
		    token_state(s, member_token(identity), own) != TOKEN_FREE)
			continue;
		cas_seq_cst(&m->device, &device, 0); /* [DEVICE] */
	}
}
