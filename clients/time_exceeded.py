# SPDX-License-Identifier: Apache-2.0
"""The answer to a packet whose TTL is used up: ICMP time exceeded, for clients.forward.

What may be answered, and with which bytes, is in RFC 1812 (4.3.2) and RFC 4443 (2.4, 3.3). Sent one
by one, at most RATE a second: a flood of such packets is not worth more.
"""

import struct
import time
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

import shmpool
from shmpool.net import Sink
from shmpool.net.headers import Headers, Layer

RATE = 100  # a second
AT_ONCE = 50
FIRST_TTL = 64
NETWORK_CONTROL = 0xC0  # type of service of ICMP errors: RFC 1812, 4.3.2.5
ECHO = (0, 8, 13, 14, 15, 16, 17, 18)  # types of ICMP that are no errors and no redirects
FIRST_INFORMATION = 128  # types of ICMPv6 from there on are no errors
REDIRECT6 = 137
MOST = {4: 576, 6: 1280}  # bytes of an answer, of which any network takes so many
HEADER = {4: 20, 6: 40}
ETHERNET = 14


class Allowance:
    """So many a second, and so many at once: a token bucket."""

    def __init__(self, rate: float = RATE, most: int = AT_ONCE) -> None:
        self.rate = rate
        self.most = self._left = float(most)
        self._at = time.monotonic()

    def take(self) -> bool:
        """True if one more is allowed now."""
        now = time.monotonic()
        self._left = min(self.most, self._left + (now - self._at) * self.rate)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


def may_be_answered(headers: Headers) -> NDArray[np.bool_]:
    """The packets that an ICMP error may answer, of those that a router may forward: their targets
    are no multicast or broadcast addresses, and their senders are single hosts.

    Not ICMP errors, redirects, unknown types and later fragments, nor what came through MPLS.
    """
    layers = headers.layers
    icmp, icmp6 = (layers & np.uint32(layer) != 0 for layer in (Layer.ICMP, Layer.ICMP6))
    kind = headers.icmp_type
    error = icmp & ~np.isin(kind, ECHO)
    error |= icmp6 & ((kind < FIRST_INFORMATION) | (kind == REDIRECT6))
    mask: NDArray[np.bool_] = layers & np.uint32(Layer.LATER | Layer.MPLS) == 0
    mask &= ~error
    return mask


@dataclass
class TimeExceeded:
    """Answers through one interface, to the neighbour that the packet came from."""

    pool: shmpool.Pool
    sink: Sink  # of no other thread
    own: bytes  # MAC address of the interface
    addresses: dict[int, bytes]  # of it, by the version of IP: without one there is no answer
    allowance: Allowance = field(default_factory=Allowance)
    sent: int = 0

    def answer(self, burst: shmpool.Burst, headers: Headers) -> None:
        """Answers those packets of a burst that may be answered. The burst is the caller's."""
        for i in np.flatnonzero(may_be_answered(headers)).tolist():
            address = self.addresses.get(int(headers.ip_version[i]))
            if address is not None and self.allowance.take():
                self._send(self._message(bytes(burst[i]), headers[i], address))

    def _message(self, frame: bytes, headers: Headers, source: bytes) -> bytes:
        """A frame whose checksums are 0. The packet is quoted as it came."""
        version, network = int(headers.ip_version[0]), int(headers.network[0])
        most = MOST[version] - HEADER[version] - 8
        quoted = frame[network : network + int(headers.ip_length[0])][:most]
        size = 8 + len(quoted)
        if version == 4:
            target = frame[network + 12 : network + 16]
            ip = struct.pack(
                ">BBHHHBBH4s4s",
                *(0x45, NETWORK_CONTROL, 20 + size, 0, 0, FIRST_TTL, 1, 0, source, target),
            )
        else:
            target = frame[network + 8 : network + 24]
            ip = struct.pack(">IHBB16s16s", 6 << 28, size, 58, FIRST_TTL, source, target)
        # The Ethernet type and tags are the packet's: the answer goes where it came from.
        link = frame[6:12] + self.own + frame[12:network]
        return link + ip + bytes([11 if version == 4 else 3, 0]) + bytes(6) + quoted

    def _send(self, frame: bytes) -> None:
        try:
            burst = self.pool.alloc_many(1, timeout=0)
        except shmpool.PoolExhausted:
            return
        burst[0].write(frame)
        burst.set_checksums()
        try:
            self.sent += self.sink.drain(burst, timeout=0)
        except (shmpool.Full, OSError):  # the neighbour repeats what it does not get an answer to
            burst.free()
