# SPDX-License-Identifier: Apache-2.0
"""Every packet of a network interface: PacketSource and PacketSink (AF_PACKET)."""

import contextlib
import errno
import os
import socket
import struct
from typing import Literal

from .. import errors
from .._hot import Ring, Sender
from ..burst import Burst
from ..pool import Pool
from . import filters
from .ends import Received, Sent, Sink, Source

ALL = 3  # ETH_P_ALL
SOL_PACKET = 263
ADD_MEMBERSHIP, VERSION, RX_RING, FANOUT, QDISC_BYPASS, IGNORE_OUTGOING = 1, 10, 5, 18, 20, 23
TPACKET_V3 = 2
PROMISCUOUS = 1
FILL_HASH = 1  # TP_FT_REQ_FILL_RXHASH
FANOUTS = {"hash": 0, "cpu": 2}
FRAME = 2048  # bytes: only a number that the kernel checks; with TPACKET_V3 packets lie one by one
BLOCK = 1 << 18  # bytes


def index_of(interface: str) -> int:
    """The number of an interface of this network namespace."""
    try:
        return socket.if_nametoindex(interface)
    except OSError:
        raise errors.InvalidArgument(
            f"interface is {interface!r}; `ip link` lists those of this network namespace"
        ) from None


def _socket() -> socket.socket:
    try:
        return socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    except PermissionError:
        raise errors.AccessDenied(
            "packets of an interface need root or the capability CAP_NET_RAW"
        ) from None


def _ignores_outgoing(sock: socket.socket) -> bool:
    """Asks the kernel to leave out what this machine sends. False before Linux 4.20."""
    try:
        sock.setsockopt(SOL_PACKET, IGNORE_OUTGOING, 1)
    except OSError as error:
        if error.errno != errno.ENOPROTOOPT:
            raise
        return False
    return True


class PacketSource(Source):
    """Every packet that an interface receives, from the link layer on (AF_PACKET, TPACKET_V3).

    interface: its name, None for all of this network namespace. Timestamps are those of the kernel,
    in ns. Marks have the packet's length, the state of its checksums and the number of its
    interface (shmpool.net.marks). A VLAN tag, which the kernel takes out, is put back where it was.

    filter: an expression of tcpdump's language, such as "udp port 53"; libpcap compiles it. The
    kernel applies it before the tag is put back: it sees a packet without its first tag.
    promiscuous: also packets for other stations. outgoing: also those that this machine sends.
    hash: the kernel computes a hash of each packet's flow, into burst.flow_hashes.

    fanout: several sources, of any processes, that give the same number from 1 to 65535 share the
    packets: by "hash" of the flow, or by the "cpu" that received them (fanout_by).

    ring: bytes between the kernel and this process; what has no room there is dropped, and counted
    in statistics().dropped. latency: the kernel hands over a block of packets, of 256 KiB of the
    ring, when it is full, or after so many seconds. Without full blocks the ring has no room for
    more than ring / 256 KiB of these times.

    >>> pool = shmpool.Pool.create("rx", buffer_size=2048, capacity=65536)  # doctest: +SKIP
    >>> with shmpool.net.PacketSource(pool, "eth0", filter="tcp") as source:  # doctest: +SKIP
    ...     for burst in source.bursts():
    ...         work.put_many(burst)
    """

    def __init__(
        self,
        pool: Pool,
        interface: str | None,
        *,
        filter: str | None = None,
        promiscuous: bool = False,
        outgoing: bool = False,
        hash: bool = False,
        fanout: int | None = None,
        fanout_by: Literal["hash", "cpu"] = "hash",
        ring: int = 16 << 20,
        latency: float = 0.001,
    ) -> None:
        self.pool = pool
        self.interface = interface
        if fanout_by not in FANOUTS:
            raise errors.InvalidArgument(f'fanout_by is {fanout_by!r}; it must be "hash" or "cpu"')
        if fanout is not None and not 1 <= fanout <= 0xFFFF:
            raise errors.InvalidArgument(f"fanout is {fanout}; it must be from 1 to 65535")
        if not 2 * BLOCK <= ring <= 1 << 31:
            raise errors.InvalidArgument(
                f"ring is {ring} bytes; it must be from {2 * BLOCK} to {1 << 31}"
            )
        if not 0.001 <= latency <= 10:
            raise errors.InvalidArgument(f"latency is {latency} s; it must be from 0.001 to 10")
        index = 0 if interface is None else index_of(interface)
        instructions = None if filter is None else filters.compiled(filter)
        blocks = ring // BLOCK
        with contextlib.closing(_socket()) as sock:
            sock.setsockopt(SOL_PACKET, VERSION, TPACKET_V3)
            sizes = (BLOCK, blocks, FRAME, BLOCK // FRAME * blocks)
            extra = (int(latency * 1000), 0, FILL_HASH if hash else 0)
            try:
                sock.setsockopt(SOL_PACKET, RX_RING, struct.pack("=7I", *sizes, *extra))
            except OSError as error:
                raise errors.OutOfSharedMemory(
                    f"ring is {ring} bytes; the kernel refuses it: {os.strerror(error.errno or 0)}"
                ) from None
            if not outgoing and not _ignores_outgoing(sock):
                instructions = filters.incoming(instructions)
            if instructions is not None:
                filters.attach(sock, instructions)
            if promiscuous:
                if interface is None:
                    raise errors.InvalidArgument("promiscuous needs one interface")
                request = struct.pack("=iHH8x", index, PROMISCUOUS, 0)
                sock.setsockopt(SOL_PACKET, ADD_MEMBERSHIP, request)
            sock.bind((interface or "", ALL))
            if fanout is not None:
                sock.setsockopt(SOL_PACKET, FANOUT, fanout | FANOUTS[fanout_by] << 16)
            self._ring = Ring(pool, sock.fileno(), BLOCK, blocks)  # duplicates it

    def __str__(self) -> str:
        return f"interface {self.interface or 'any'}"

    def _fill(self, burst: Burst, timeout: float | None) -> int:
        return self._ring.fill(burst, timeout)

    def statistics(self) -> Received:
        return Received(*self._ring.counts)

    def close(self) -> None:
        self._ring.close()


def raise_unless_sent(sink: Sink, done: tuple[int, bool | None]) -> int:
    """Returns how many packets a native drain has sent, or raises what ended it."""
    n, late = done
    if late is None:
        return n
    if not late:
        raise errors.ShutDown(f"{sink} is closed")
    full = errors.Full(f"{sink} has no room: {n} packets were sent, the others are in the burst")
    full.sent = n
    raise full


class PacketSink(Sink):
    """Sends packets to an interface as they are, from the link layer on (AF_PACKET).

    The kernel takes them from their buffers in one call for up to 256 packets. bypass: they go to
    the driver without the queueing discipline, which is quicker; without it tc shapes them.
    """

    def __init__(self, pool: Pool, interface: str, *, bypass: bool = True) -> None:
        self.pool = pool
        self.interface = interface
        index_of(interface)
        with contextlib.closing(_socket()) as sock:
            sock.bind((interface, 0))
            if bypass:
                sock.setsockopt(SOL_PACKET, QDISC_BYPASS, 1)
            self._sender = Sender(pool, sock.fileno(), 0)

    def __str__(self) -> str:
        return f"interface {self.interface}"

    def drain(self, burst: Burst, timeout: float | None = None) -> int:
        """Sends every packet and frees the burst. Returns how many were sent.

        Waits up to timeout seconds in total where the interface has no room. Packets that it
        refuses, because they are longer than its MTU or shorter than a header, are freed and
        counted.

        Raises:
            Full: there was no room for that long; sent says how many were sent, and the others are
                still in the burst.
            ShutDown: the sink was closed.
            BufferInUse: a view of one of the buffers is alive; none was sent.
            OSError: the interface is down or gone; the packets that were not sent are in the burst.
        """
        return raise_unless_sent(self, self._sender.drain(burst, timeout, None))

    def sent(self) -> Sent:
        return Sent(*self._sender.counts)

    def close(self) -> None:
        self._sender.close()
