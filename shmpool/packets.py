# SPDX-License-Identifier: Apache-2.0
"""What a Burst knows of network packets: their headers, flow hashes and checksums.

Not in here: the work, which is shmpool.net.headers; it is imported by the first call.
"""

from __future__ import annotations

from ._hot import BurstBase
from .codes import check

TYPE_CHECKING = False
if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from . import hints
else:
    from .later import hints, np, npt


ETHERNET = 1  # shmpool.net.headers.Link has all link types


class PacketColumns(BurstBase):
    """The base of Burst."""

    __slots__ = ()

    def headers(self, link: int = ETHERNET, at: int = 0, *, inner: bool = False) -> hints.Headers:
        """Reads the headers of every packet, from Ethernet to TCP: numpy arrays of shape (n,).

        docs/headers.md has all columns: headers.dst4, headers.port_dst, headers.payload, ...;
        headers.has(Layer.TCP) is a mask. at is where the packets begin in data, in bytes, and link
        what they begin with (shmpool.net.headers.Link). With inner=True, headers.inner are those
        of the packets in GRE and VXLAN tunnels. Of a chain, the first buffer is read.

        >>> import shmpool
        >>> with shmpool.Pool.create("doc-headers", buffer_size=64, capacity=64) as pool:
        ...     with pool.alloc_many(2) as burst:
        ...         burst.set_column(12, [0x0800, 0x0806], ">u2")
        ...         burst.lengths = 34
        ...         print(burst.headers().ethertype)
        [2048 2054]
        >>> shmpool.Pool.unlink("doc-headers")
        """
        from .net import headers

        return headers.read(self, link, at, inner)

    def flow_hash(
        self,
        headers: hints.Headers | None = None,
        *,
        key: bytes | None = None,
        symmetric: bool = False,
        ports: bool = True,
        store: bool = False,
    ) -> npt.NDArray[np.uint32]:
        """Hashes every packet's flow as network cards do for RSS (Toeplitz): dtype u4, shape (n,).

        Hashed are both addresses, and the ports of TCP, UDP and SCTP unless it is a fragment or
        ports is false; 0 is returned for what is not IP. symmetric: the same in both directions.
        key: 40 bytes in place of Microsoft's. headers: what headers() returned, if the packets are
        not Ethernet, or headers.inner. store: also writes them to flow_hashes.
        """
        from .net import headers as net

        hashes = net.flow_hashes(
            net.of_burst(self, headers), key=key, symmetric=symmetric, ports=ports
        )
        if store:
            check(self._set_field("flow_hash", hashes, False), f"burst of pool {self.pool.name!r}")
        return hashes

    def checksums(
        self,
        link: int = ETHERNET,
        at: int = 0,
        *,
        ip: bool = True,
        transport: bool = True,
        inner: bool = False,
    ) -> hints.Checksums:
        """Verifies the checksums of IPv4 headers, TCP, UDP, ICMP and ICMPv6.

        Returns two arrays of shmpool.net.headers.Checksum, ip and transport. The arguments are
        those of headers(); with inner=True the packets in tunnels are verified. With ip=False or
        transport=False those are not verified, and their states are NONE.
        """
        from .net import headers

        return headers.checksums(self, ip, transport, link, at, inner)

    def set_checksums(
        self,
        link: int = ETHERNET,
        at: int = 0,
        *,
        ip: bool = True,
        transport: bool = True,
        inner: bool = False,
        where: npt.ArrayLike | None = None,
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Writes the checksums that checksums() verifies. Returns masks: which were set, of ip and
        transport. The others' state is Checksum.NONE, and they keep what they have.

        where: a mask of the packets that it concerns, one bool for each; the others are not read.
        """
        from .net import headers

        return headers.set_checksums(self, ip, transport, link, at, inner, where)

    def decrement_ttl(self, link: int = ETHERNET, at: int = 0) -> npt.NDArray[np.bool_]:
        """Makes TTL or hop limit one less, and updates the IPv4 checksum, as a router does.

        Returns a mask of the packets that may be forwarded. The others, whose TTL is 0 or 1 or
        which are not IP, are not changed.
        """
        from .net import headers

        return headers.decrement_ttl(self, link, at)
