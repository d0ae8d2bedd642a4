# SPDX-License-Identifier: Apache-2.0
"""Counts the flows of a burst of packets by columns: one numpy operation a field, not one Python
statement a packet.

Each packet is preceded by its link type, a big-endian u2. A flow is (protocol, the two addresses,
the two ports) of a TCP or UDP packet, the same in both directions. One 802.1Q tag is skipped. Later
fragments, packets with IP options or IPv6 extension headers, and packets of other link types than
those below are counted, but belong to no flow.
"""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

import shmpool

LINK = 2  # bytes of the link type
# By link type, of Ethernet and Linux cooked: offsets of the ethertype and of the network header.
ETHERTYPES = {1: (12, 14), 113: (14, 16), 276: (0, 20)}
# By link type, of raw IP and BSD loopback: offset of the IP header. The 4 bytes before it have a
# different meaning on each system.
IP_HEADERS = {12: 0, 14: 0, 101: 0, 228: 0, 229: 0, 0: 4, 108: 4}
VLAN, VLAN_TAG = 0x8100, 4
IPV4, IPV6, ARP = 0x0800, 0x86DD, 0x0806
TCP, UDP = 6, 17
KINDS = {IPV4: "IPv4", IPV6: "IPv6", ARP: "ARP"}

Mask = NDArray[np.bool_]
Lengths = NDArray[np.uint32]


@dataclass
class Tally:
    """What one worker has counted."""

    packets: int = 0
    octets: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    flows: Counter[bytes] = field(default_factory=Counter)

    def add(self, burst: shmpool.Burst) -> int:
        """Counts the packets of a burst; the caller still owns it. Returns how many of its buffers
        are empty: they have no link type either."""
        lengths = burst.lengths
        packets = lengths > 0
        count = int(np.count_nonzero(packets))
        self.packets += count
        self.octets += int(lengths.sum()) - LINK * count
        links = burst.column(0, ">u2")
        for link in np.unique(links[packets]).tolist():
            self._add_link(burst, link, packets & (links == link), lengths)
        return len(burst) - count

    def _add_link(self, burst: shmpool.Burst, link: int, ours: Mask, lengths: Lengths) -> None:
        if link in ETHERTYPES:
            kind, at = (LINK + offset for offset in ETHERTYPES[link])
            kinds = np.where(lengths >= at, burst.column(kind, ">u2"), 0)
            tagged = ours & (kinds == VLAN) & (lengths >= at + VLAN_TAG)
            self._add_network(burst, at, kinds, ours & ~tagged, lengths)
            if tagged.any():
                kinds = burst.column(at + 2, ">u2")
                self._add_network(burst, at + VLAN_TAG, kinds, tagged, lengths)
        elif link in IP_HEADERS:
            at = LINK + IP_HEADERS[link]
            versions = np.where(lengths > at, burst.column(at, "u1") >> 4, 0)
            kinds = np.select([versions == 4, versions == 6], [IPV4, IPV6])
            self._add_network(burst, at, kinds, ours, lengths)
        else:
            self.kinds["other"] += int(np.count_nonzero(ours))

    def _add_network(
        self,
        burst: shmpool.Burst,
        at: int,
        kinds: NDArray[np.integer],
        ours: Mask,
        lengths: Lengths,
    ) -> None:
        """Counts the packets selected by ours; kinds are their ethertypes, at is the offset of the
        network header."""
        for kind, count in zip(*np.unique(kinds[ours], return_counts=True), strict=True):
            self.kinds[KINDS.get(int(kind), "other")] += int(count)
        self._add_ipv4(burst, at, ours & (kinds == IPV4), lengths)
        self._add_ipv6(burst, at, ours & (kinds == IPV6), lengths)

    def _add_ipv4(self, burst: shmpool.Burst, at: int, ours: Mask, lengths: Lengths) -> None:
        protocol = burst.column(at + 9, "u1")
        ours &= burst.column(at, "u1") == 0x45  # version 4, no options
        ours &= burst.column(at + 6, ">u2") & 0x1FFF == 0  # not a later fragment
        ours &= ((protocol == TCP) | (protocol == UDP)) & (lengths >= at + 24)
        if ours.any():
            self._add_flows(burst, ours, protocol, at + 12, 4, at + 20)

    def _add_ipv6(self, burst: shmpool.Burst, at: int, ours: Mask, lengths: Lengths) -> None:
        protocol = burst.column(at + 6, "u1")
        ours &= ((protocol == TCP) | (protocol == UDP)) & (lengths >= at + 44)
        if ours.any():
            self._add_flows(burst, ours, protocol, at + 8, 16, at + 40)

    def _add_flows(
        self,
        burst: shmpool.Burst,
        ours: Mask,
        protocol: NDArray[np.generic],
        addresses: int,
        width: int,
        ports: int,
    ) -> None:
        """Counts the packets selected by ours; the key is 2 x (address, port) and the protocol."""
        end = np.dtype([("address", f"V{width}"), ("port", "V2")])
        source, target = np.empty(len(burst), end), np.empty(len(burst), end)
        source["address"] = burst.column(addresses, f"V{width}")
        target["address"] = burst.column(addresses + width, f"V{width}")
        source["port"] = burst.column(ports, "V2")
        target["port"] = burst.column(ports + 2, "V2")
        ends = zip(
            source[ours].view(f"V{end.itemsize}").tolist(),
            target[ours].view(f"V{end.itemsize}").tolist(),
            protocol[ours].tolist(),
            strict=True,
        )
        self.flows.update(min(a, b) + max(a, b) + bytes([p]) for a, b, p in ends)
