# SPDX-License-Identifier: Apache-2.0
"""Packets of an interface without a copy where its driver can: XdpSocket (AF_XDP)."""

import contextlib
import errno
import fcntl
import os
import socket
import struct
from dataclasses import dataclass
from typing import Literal, Self

from .. import errors
from .._hot import Xdp, xdp_program, xdp_steer
from ..burst import Burst
from ..pool import Pool
from .ends import Received, Sent, Sink, Source
from .interface import index_of, raise_unless_sent

AF_XDP = 44
COPY = 1 << 1  # a flag of bind(2)
GENERIC, NATIVE = 1 << 1, 1 << 2  # flags of a link: XDP_FLAGS_SKB_MODE, XDP_FLAGS_DRV_MODE
MODES = {"auto": (NATIVE, GENERIC), "native": (NATIVE,), "generic": (GENERIC,)}
QUEUES = 1024  # that a program can serve
CHUNKS = (2048, 4096)  # bytes of a buffer that the kernel takes
HEADROOM = 256  # bytes that the kernel leaves free before a packet (XDP_PACKET_HEADROOM)
LATENCY_MAX = 0.1  # s
LINK_HEADER = 14 + 2 * 4  # Ethernet and two VLAN tags
SIOCGIFMTU = 0x8921


@dataclass(frozen=True, slots=True)
class XdpStatistics:
    """The kernel's counts of a socket."""

    dropped: int  # packets: no buffer was in the fill ring, or it was longer than a buffer
    ring_full: int  # packets: the ring of received ones was full
    no_buffer: int  # times that the fill ring was empty
    invalid_buffers: int
    invalid_packets: int  # that were to be sent
    nothing_to_send: int


class XdpProgram:
    """What hands packets of an interface over to sockets: the packets of the queues that have an
    XdpSocket; all others go to the system.

    One of several sockets of an interface makes it, or the program that opens them. mode: "native",
    in the interface's driver; "generic", before the system, for any interface; "auto": native if
    the driver has it. It ends with close(), or when the last process that has it ends. A forked
    child has it too.
    """

    _fds: tuple[int, int] | None = None

    def __init__(
        self, interface: str, *, mode: Literal["auto", "native", "generic"] = "auto"
    ) -> None:
        if mode not in MODES:
            raise errors.InvalidArgument(
                f'mode is {mode!r}; it must be "auto", "native" or "generic"'
            )
        self.interface = interface
        self.index = index_of(interface)
        self.native = False
        refused = OSError()
        for flag in MODES[mode]:
            try:
                self._fds = xdp_program(self.index, QUEUES, flag)
            except OSError as error:
                refused = error
                if error.errno in (errno.EPERM, errno.EACCES, errno.EBUSY):
                    break
            else:
                self.native = flag == NATIVE
                return
        raise self._refusal(refused, mode)

    def _refusal(self, error: OSError, mode: str) -> errors.ShmpoolError:
        """What to raise for an error of the kernel's."""
        if error.errno in (errno.EPERM, errno.EACCES):
            return errors.AccessDenied(
                "AF_XDP needs root, or the capabilities CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF"
            )
        if error.errno in (errno.EBUSY, errno.EEXIST):
            return errors.InvalidArgument(
                f"interface {self.interface!r} has an XDP program already: see `ip link show`"
            )
        return errors.InvalidArgument(
            f"interface {self.interface!r} takes no XDP program in mode {mode!r}: {error.strerror}"
        )

    def steer(self, queue: int, sock: socket.socket) -> None:
        """Hands the packets of a queue over to the socket, which is bound to it."""
        if self._fds is None:
            raise errors.ShutDown(f"the XDP program of {self.interface} is closed")
        xdp_steer(self._fds[0], queue, sock.fileno())

    def close(self) -> None:
        """Takes the program from the interface. May be repeated."""
        fds, self._fds = self._fds, None
        for fd in fds or ():
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


def _size_class(pool: Pool) -> int:
    """The smallest size class whose buffers the kernel takes."""
    for number, one in enumerate(pool.geometry.sizes):
        if one.buffer_size in CHUNKS:
            return number
    sizes = ", ".join(str(one.buffer_size) for one in pool.geometry.sizes)
    raise errors.InvalidArgument(
        f"buffer_size of the pool is {sizes}; AF_XDP needs one that is 2048 or 4096"
    )


class XdpSocket(Source, Sink):
    """Packets of one receive queue of an interface, both ways, straight into buffers and out of
    them (AF_XDP).

    The packets of the queue do not reach the system any more. In a driver that can (zero_copy is
    True then) the hardware writes into the pool's buffers; else the kernel copies once. A packet
    begins at a buffer's headroom of 256 bytes or more, so a header can be put in front of it.

    interface: its name, or an XdpProgram that several sockets share, one for each queue. ring: how
    many buffers the socket holds for packets to come; as many can be on their way out. latency: a
    call that had to wait lets so many seconds pass after the first packet, for more to come; waking
    up costs more than 50 packets do. copy: no zero copy, even if the driver can. mode: as of
    XdpProgram, of a program that this makes.

    The buffers that the kernel has are free when the socket is closed. If this process is killed,
    they are in nobody's hands until the kernel is done with the socket, also if a forked child has
    a descriptor of it; then they are recovered as any others.
    """

    def __init__(
        self,
        pool: Pool,
        interface: str | XdpProgram,
        queue: int = 0,
        *,
        ring: int = 2048,
        latency: float = 0.0001,
        copy: bool = False,
        mode: Literal["auto", "native", "generic"] = "auto",
    ) -> None:
        number = _size_class(pool)
        sizes = pool.geometry.sizes[number]
        if not 64 <= ring <= 1 << 16 or ring & (ring - 1):
            raise errors.InvalidArgument(f"ring is {ring}; it must be a power of two to 65536")
        if 2 * ring > sizes.capacity:
            raise errors.InvalidArgument(
                f"ring is {ring} buffers; at most half of the pool's {sizes.capacity}"
            )
        if not 0 <= latency <= LATENCY_MAX:
            raise errors.InvalidArgument(
                f"latency is {latency} s; it must be from 0 to {LATENCY_MAX}"
            )
        if not 0 <= queue < QUEUES:
            raise errors.InvalidArgument(f"queue is {queue}; it must be from 0 to {QUEUES - 1}")
        self.pool = pool
        self.queue = queue
        try:
            sock = socket.socket(AF_XDP, socket.SOCK_RAW, 0)
        except PermissionError:
            raise errors.AccessDenied("AF_XDP needs root or the capability CAP_NET_RAW") from None
        except OSError as error:
            if error.errno != errno.EAFNOSUPPORT:
                raise
            raise errors.InvalidArgument(
                "this kernel has no AF_XDP (CONFIG_XDP_SOCKETS); PacketSource does without"
            ) from None
        with sock, contextlib.ExitStack() as undo:
            if isinstance(interface, XdpProgram):
                program, self._own = interface, None
            else:
                program = self._own = XdpProgram(interface, mode=mode)
                undo.callback(program.close)
            self.interface = program.interface
            self._check_mtu(sizes.buffer_size)
            flags = COPY if copy or not program.native else 0
            given = (number, ring, program.index, queue, flags, int(latency * 1e9))
            self._xdp = self._opened(sock, given)  # duplicates it
            undo.callback(self._xdp.close)
            undo.callback(sock.close)  # before it: the kernel keeps the queue until all are closed
            program.steer(queue, sock)
            undo.pop_all()

    def _check_mtu(self, size: int) -> None:
        request = struct.pack("16si12x", self.interface.encode(), 0)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:  # AF_XDP has no ioctls
            mtu = struct.unpack("16si12x", fcntl.ioctl(sock, SIOCGIFMTU, request))[1]
        most = size - HEADROOM - LINK_HEADER
        if mtu > most:
            raise errors.InvalidArgument(
                f"the MTU of {self.interface} is {mtu}; buffers of {size} bytes take {most}, those "
                f"of {CHUNKS[-1]} take {CHUNKS[-1] - HEADROOM - LINK_HEADER}"
            )

    def _opened(self, sock: socket.socket, given: tuple[int, int, int, int, int, int]) -> Xdp:
        try:
            return Xdp(self.pool, sock.fileno(), *given)
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise errors.InvalidArgument(
                    f"queue {self.queue} of {self.interface} has an AF_XDP socket already"
                ) from None
            if error.errno == errno.EINVAL:
                raise errors.InvalidArgument(
                    f"queue is {self.queue}; {self.interface} has none of that number"
                ) from None
            if error.errno == errno.ENOBUFS:
                raise errors.OutOfSharedMemory(
                    f"{error.strerror}; more than this user may lock: ulimit -l unlimited"
                ) from None
            raise

    def __str__(self) -> str:
        return f"queue {self.queue} of interface {self.interface}"

    @property
    def zero_copy(self) -> bool:
        """True if the hardware writes into the pool's buffers and reads from them."""
        return self._xdp.zero_copy

    def _fill(self, burst: Burst, timeout: float | None) -> int:
        return self._xdp.fill(burst, timeout)

    def drain(self, burst: Burst, timeout: float | None = None) -> int:
        """Sends every packet straight out of its buffer, which is freed when the interface is done
        with it. Returns how many were sent.

        Packets in buffers of another size class, those of several buffers, and empty ones are freed
        and counted as refused.

        Raises:
            Full: there was no room for that long; sent says how many were sent, and the others are
                still in the burst.
            ShutDown: the socket was closed.
            BufferInUse: a view of one of the buffers is alive; none was sent.
            OSError: the interface is down or gone. Packets that were in its ring already left the
                burst; the others are still in it.
        """
        return raise_unless_sent(self, self._xdp.drain(burst, timeout))

    def statistics(self) -> Received:
        packets, octets, dropped = self._xdp.counts[0]
        return Received(packets, octets, 0, dropped)

    def sent(self) -> Sent:
        return Sent(*self._xdp.counts[1])

    def kernel_statistics(self) -> XdpStatistics:
        """Returns the kernel's own counts since the socket was opened."""
        return XdpStatistics(*self._xdp.counts[2])

    def close(self) -> None:
        self._xdp.close()
        if self._own is not None:
            self._own.close()
