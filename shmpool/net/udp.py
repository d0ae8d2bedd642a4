# SPDX-License-Identifier: Apache-2.0
"""UDP: datagrams received into buffers, and sent out of them."""

import contextlib
import errno
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .. import errors
from .._hot import Receiver, Sender
from ..burst import Burst
from ..pool import Pool
from .ends import MOST, TwoWay, filled, raise_unless_filled
from .interface import raise_unless_sent

if TYPE_CHECKING:
    import numpy.typing as npt
else:
    from ..later import npt

Address = tuple[str, int]
ADDRESS = 28  # bytes of a struct sockaddr_in6
SO_RCVBUFFORCE = 33
SO_TIMESTAMPNS = 35
UDP_GRO = 104
GRO, SEGMENTS = 2, 2  # flags of Receiver and of Sender


def _resolved(address: Address, passive: bool = False) -> tuple[int, Any]:
    """The family and the socket address of a host and port."""
    try:
        found = socket.getaddrinfo(
            *address, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE if passive else 0
        )
    except (OSError, TypeError, UnicodeError, OverflowError) as error:
        raise errors.InvalidArgument(f"address is {address!r}: {error}") from None
    family, _, _, _, resolved = found[0]
    return family, resolved


def _dtype() -> Any:
    import numpy as np

    return np.dtype(
        {
            "names": ["family", "port", "ipv4", "ipv6", "scope"],
            "formats": ["=u2", ">u2", "(4,)u1", "(16,)u1", "=u4"],
            "offsets": [0, 2, 4, 8, 24],
            "itemsize": ADDRESS,
        }
    )


def addresses_of(addresses: "Sequence[Address]") -> "npt.NDArray[Any]":
    """Returns addresses as columns, as get_many_from() does, of (host, port) with numeric hosts.

    >>> addresses_of([("192.0.2.1", 53), ("2001:db8::1", 4789)])["port"].tolist()
    [53, 4789]
    """
    import numpy as np

    columns = np.zeros(len(addresses), _dtype())
    for i, (host, port) in enumerate(addresses):
        six = ":" in host
        family = socket.AF_INET6 if six else socket.AF_INET
        columns["family"][i], columns["port"][i] = family, port
        columns["ipv6" if six else "ipv4"][i] = list(socket.inet_pton(family, host))
    return columns


def address_texts(addresses: "npt.NDArray[Any]") -> "list[Address]":
    """Returns (host, port) of each address.

    >>> address_texts(addresses_of([("192.0.2.1", 53), ("2001:db8::1", 4789)]))
    [('192.0.2.1', 53), ('2001:db8::1', 4789)]
    """
    return [
        (
            socket.inet_ntop(
                int(one["family"]),
                bytes(one["ipv6" if one["family"] == socket.AF_INET6 else "ipv4"]),
            ),
            int(one["port"]),
        )
        for one in addresses
    ]


class UdpSocket(TwoWay):
    """A UDP socket, whose datagrams are a source, and which is a sink.

    local: (host, port) to receive at; port 0 lets the kernel choose. peer: (host, port) to connect
    to: it then receives from that peer only, and drain() needs no addresses. One of the two is
    needed.

    A datagram is received straight into a buffer of the smallest size class that has datagram bytes
    (default: of the largest class), and truncated if it is longer. Timestamps are the kernel's, in
    ns.

    gro: the kernel hands over datagrams of one sender together, which costs less for each; they are
    copied apart. gso: datagrams of the same length and address that follow each other are given to
    the kernel as one. reuse_port: several sockets, of any processes, share the datagrams.

    One thread may receive while another one sends.

    >>> import shmpool, shmpool.net
    >>> pool = shmpool.Pool.create("doc-udp", buffer_size=2048, capacity=64)
    >>> with shmpool.net.UdpSocket(pool, ("127.0.0.1", 0)) as server:
    ...     with shmpool.net.UdpSocket(pool, peer=server.address) as client:
    ...         burst = pool.alloc_many(2)
    ...         burst.lengths = 5
    ...         burst.set_column(0, [b"hello", b"world"], "S5")
    ...         print(client.drain(burst))
    ...     with server.get_many(timeout=5) as burst:
    ...         print(bytes(burst[0]))
    2
    b'hello'
    >>> pool.close(); shmpool.Pool.unlink("doc-udp")
    """

    def __init__(
        self,
        pool: Pool,
        local: Address | None = None,
        *,
        peer: Address | None = None,
        datagram: int | None = None,
        gro: bool = False,
        gso: bool = False,
        reuse_port: bool = False,
        receive_buffer: int | None = None,
    ) -> None:
        self.pool = pool
        if local is None and peer is None:
            raise errors.InvalidArgument("neither local nor peer is given; one must be")
        near = None if local is None else _resolved(local, passive=True)
        far = None if peer is None else _resolved(peer)
        first = near or far
        assert first is not None  # noqa: S101 - one of the two was given
        size = pool.buffer_size if datagram is None else datagram
        if not 1 <= size <= 0xFFFF_FFFF:
            raise errors.InvalidArgument(f"datagram is {datagram} bytes; it must be at least 1")
        with contextlib.closing(socket.socket(first[0], socket.SOCK_DGRAM)) as sock:
            sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            if reuse_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if receive_buffer is not None:
                try:  # beyond the system's limit, if this process may
                    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, receive_buffer)
                except PermissionError:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            if near is not None:
                sock.bind(near[1])
            if far is not None:
                sock.connect(far[1])
            if gro:
                sock.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
            self.address: Address = sock.getsockname()[:2]
            self.family = sock.family
            self._connected = far is not None
            # Of a call of get_many_from() that has not returned them.
            self._addressed: tuple[Burst | None, Any] = (None, None)
            # Each duplicates it.
            self._sender = Sender(pool, sock.fileno(), SEGMENTS if gso else 0)
            self._receiver = Receiver(pool, sock.fileno(), GRO if gro else 0, size)

    def __str__(self) -> str:
        return f"UDP socket {self.address[0]} port {self.address[1]}"

    def _fill(self, burst: Burst, timeout: float | None) -> int:
        return self._receiver.fill(burst, timeout, None)

    def get_many_from(
        self, n: int = MOST, timeout: float | None = None
    ) -> "tuple[Burst, npt.NDArray[Any]]":
        """get_many(), with the address of each sender: columns family, port, ipv4 (4 bytes), ipv6
        (16 bytes) and scope. drain() takes them as to=, address_texts() makes text of them."""
        import numpy as np

        if n < 1:
            raise errors.InvalidArgument(f"n is {n}; it must be at least 1")
        burst, addresses = self._addressed
        if filled(burst) is None or burst is None:
            addresses = np.zeros(min(n, MOST), _dtype())
            octets = addresses.view(np.uint8)
            burst = Burst(self.pool, len(addresses))
            self._addressed = burst, addresses
            raise_unless_filled(self, self._receiver.fill(burst, timeout, octets), timeout)
        elif len(burst) > n:
            self._addressed, found = (burst, addresses[n:]), (burst[:n], addresses[:n])
            return found
        found = burst, addresses[: len(burst)]
        self._addressed = None, None
        return found

    def drain(
        self, burst: Burst, timeout: float | None = None, to: "npt.NDArray[Any] | None" = None
    ) -> int:
        """Sends every datagram and frees the burst. Returns how many were sent.

        to: the address of each, as get_many_from() returns them; None if the socket is connected.
        Datagrams that are refused, for example because they are longer than 65,507 bytes, are
        freed and counted.

        Raises: as PacketSink.drain(); InvalidArgument: neither connected nor addresses.
        """
        if to is None:
            if not self._connected:
                raise errors.InvalidArgument(
                    "the socket has no peer; give the address of each datagram with to="
                )
            return raise_unless_sent(self, self._sender.drain(burst, timeout, None))
        import numpy as np

        columns = np.ascontiguousarray(to)
        if columns.dtype.itemsize != ADDRESS or columns.shape != (len(burst),):
            raise errors.InvalidArgument(
                f"to has the shape {columns.shape} and {columns.dtype.itemsize} bytes each; it must"
                f" have an address for each of {len(burst)} packets, as get_many_from() returns"
            )
        try:
            done = self._sender.drain(burst, timeout, columns.view(np.uint8))
        except OSError as error:
            if error.errno == errno.EAFNOSUPPORT:
                raise errors.InvalidArgument(
                    f"an address in to is not of the socket's family, {self.family.name}"
                ) from None
            raise
        return raise_unless_sent(self, done)
