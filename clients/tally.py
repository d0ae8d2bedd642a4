# SPDX-License-Identifier: Apache-2.0
"""What a worker of clients.demo counts: packets of each kind, and of each flow both ways."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

import shmpool
from shmpool.net.headers import Headers, Layer, Link

from .flows import NAME

LINK = 2  # bytes of the link type before a packet, in clients.demo
# By link type of a capture file. The 4 bytes before IP have a different meaning on each system.
LINKS = {1: Link.ETHERNET, 113: Link.COOKED, 276: Link.COOKED2, 0: Link.NULL, 108: Link.LOOP}
LINKS |= dict.fromkeys((12, 14, 101, 228, 229), Link.IP)
KINDS = {"IPv4": Layer.IPV4, "IPv6": Layer.IPV6, "ARP": Layer.ARP}


@dataclass
class Tally:
    """A flow is both directions of TCP or UDP: its name is the lower end, the higher end, and the
    protocol."""

    packets: int = 0
    octets: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    flows: Counter[bytes] = field(default_factory=Counter)

    def add(self, burst: shmpool.Burst) -> int:
        """Counts the packets of a burst, each preceded by its link type, a big-endian u2; the
        caller still owns it. Returns how many of its buffers are empty: they have no link type."""
        lengths = burst.lengths
        packets = lengths > 0
        count = int(np.count_nonzero(packets))
        self.packets += count
        self.octets += int(lengths.sum()) - LINK * count
        links = burst.column(0, ">u2")
        for link in np.unique(links[packets]).tolist():
            ours = packets & (links == link)
            if link in LINKS:
                self._add(burst.headers(LINKS[link], LINK)[ours])
            else:
                self.kinds["other"] += int(np.count_nonzero(ours))
        return len(burst) - count

    def _add(self, headers: Headers) -> None:
        other = len(headers)
        for kind, layer in KINDS.items():
            if count := int(np.count_nonzero(headers.has(layer))):
                self.kinds[kind] += count
                other -= count
        if other:
            self.kinds["other"] += other
        flow = headers.flow[headers.has(Layer.TCP) | headers.has(Layer.UDP)]
        names, counts = np.unique(flow, return_counts=True)
        for name, count in zip(names.tolist(), counts.tolist(), strict=True):
            source, target, port, target_port, protocol, _ = NAME.unpack(name)
            ends = (source + port.to_bytes(2, "big"), target + target_port.to_bytes(2, "big"))
            self.flows[min(ends) + max(ends) + bytes([protocol])] += count
