/* SPDX-License-Identifier: Apache-2.0
 *
 * device.h - members whose buffers the kernel may write to: those of an AF_XDP socket.
 *
 * Such a socket has buffers of the pool in its rings, and the kernel copies packets into them (a
 * zero-copy driver: the hardware does). The end of the process that opened the socket is not the
 * end of that: the socket lives as long as any process has a descriptor of it, a forked child for
 * instance, and the kernel dismantles it some time after the last one is closed. So the buffers of
 * a socket belong to a member of their own, which is not recovered when its process is dead, but
 * when the socket is gone too. Until then they are in nobody's hands.
 *
 * The socket is named by its place: the cookie of its network namespace, which no later namespace
 * has, the interface, and the receive queue. A queue has one socket at a time. The kernel forgets
 * the socket of a queue when no code of its own and no driver uses the socket's memory any more
 * (xp_clear_dev()), and says which queues have one to any process in that namespace (netdev
 * netlink, Linux 6.14). A process in another namespace, or on an older kernel, cannot tell;
 * a new socket that gets the queue proves it too.
 *
 *     the member's device word        meaning                          recovered when dead and
 *     0                               a thread, or no buffer was
 *                                     given to the kernel yet
 *     | REPORTED 2 | number 62 |      the kernel reports the socket    the queue has none
 *     | SILENT 2 | number 62 |        it does not                      a new socket has the queue
 *
 *     step of the owner               a crash after it leaves
 *     member_attach()                 a dead member with nothing
 *     socket bound                    the same
 *     device_set()                    a dead member with a device
 *     buffers given to the kernel     the same, and those buffers are its own
 *     socket closed                   the same
 *     device_leave()                  the same: it is DEAD, although its process lives
 *
 * A number comes from the counter of tokens, so that no two devices of a pool have the same, and no
 * device and token.
 *
 * Ordering
 *     [DEVICE]  device: its owner stores it with release once it has written the words that name
 *               the socket's place, and before it gives a buffer to the kernel. A recoverer reads
 *               it with acquire, then those words, then the device again: the same number means
 *               that the words are those of this device.
 *
 * Who may call what at the same time: device_set and device_leave the owner; the others any thread.
 */
#ifndef SHMPOOL_DEVICE_H
#define SHMPOOL_DEVICE_H

#include "member.h"

#define DEVICE_REPORTED (1ull << TOKEN_BITS)
#define DEVICE_SILENT (2ull << TOKEN_BITS)

/* The place of a socket. */
struct device {
	uint64_t space; /* cookie of its network namespace */
	uint32_t interface, queue;
};

/* Opens what the kernel is asked through: of the calling thread's network namespace, whose cookie
 * it stores in *space. Returns a descriptor, or -errno. */
int device_asker(uint64_t *space);

/* Asks whether the queue has a socket. Returns 1; 0 if it has none, or the interface and its
 * sockets are gone; -EAGAIN if that cannot be told now: another namespace, the interface is down,
 * an older kernel. An older kernel, which does not report sockets, may also make it 0 while there
 * is one. May wait for a lock of the kernel (RTNL). */
int device_bound(int asker, uint64_t space, const struct device *d);

/* Says that the member's buffers may be written to by the socket at that place, which is bound. */
void device_set(const struct segment *s, struct member *m, const struct device *d, bool reported);

/* Makes a member of this process dead: its socket is closed, but not known to be gone. It has a
 * device, whose number takes the place of the token in the dead identity. */
void device_leave(struct member *m);

/* True if nothing keeps the member from being recovered once its process is dead: it has no device,
 * or the socket is gone. */
bool device_gone(const struct member *m);

/* Goes after a socket has got the queue: every earlier socket there is gone, so members that have
 * them and are dead have no device any more. own: a token of this process. */
void device_succeed(const struct segment *s, const struct device *d, uint64_t own);

#endif
