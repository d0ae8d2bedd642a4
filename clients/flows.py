# SPDX-License-Identifier: Apache-2.0
"""Flows of a burst of Ethernet frames, taken from its columns: one numpy operation a field, not one
Python statement a packet.

A flow is (protocol, the two addresses, the two ports) of a TCP or UDP packet, the same in both
directions. Frames with one 802.1Q tag are read behind it; later fragments and packets with IP
options or IPv6 extension headers are counted, but belong to no flow.
"""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

import shmpool

ETHERNET = 14  # bytes before the IP header
VLAN_TAG = 4
TCP, UDP = 6, 17
KINDS = {0x0800: "IPv4", 0x86DD: "IPv6", 0x0806: "ARP"}


@dataclass
class Tally:
    """What one worker has seen."""

    packets: int = 0
    octets: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    flows: Counter[bytes] = field(default_factory=Counter)

    def add(self, burst: shmpool.Burst) -> int:
        """Counts the packets of a burst, which stays the caller's. Returns how many were empty."""
        lengths = burst.lengths
        empty = len(burst) - int(np.count_nonzero(lengths))
        self.packets += len(burst) - empty
        self.octets += int(lengths.sum())
        framed = lengths >= ETHERNET
        self.kinds["other"] += len(burst) - empty - int(framed.sum())
        tagged = burst.column(12, ">u2") == 0x8100
        for shift, ours in ((0, framed & ~tagged), (VLAN_TAG, framed & tagged)):
            if ours.any():
                kinds = burst.column(12 + shift, ">u2")
                self._add_kinds(kinds[ours])
                at = ETHERNET + shift
                self._add_ipv4(burst, at, ours & (kinds == 0x0800), lengths)
                self._add_ipv6(burst, at, ours & (kinds == 0x86DD), lengths)
        return empty

    def _add_kinds(self, kinds: NDArray[np.uint16]) -> None:
        for kind, count in zip(*np.unique(kinds, return_counts=True), strict=True):
            self.kinds[KINDS.get(int(kind), "other")] += int(count)

    def _add_ipv4(
        self, burst: shmpool.Burst, at: int, ours: NDArray[np.bool_], lengths: NDArray[np.uint32]
    ) -> None:
        protocol = burst.column(at + 9, "u1")
        ours &= burst.column(at, "u1") == 0x45  # version 4, no options
        ours &= burst.column(at + 6, ">u2") & 0x1FFF == 0  # not a later fragment
        ours &= ((protocol == TCP) | (protocol == UDP)) & (lengths >= at + 24)
        if ours.any():
            self._add_flows(burst, ours, protocol, at + 12, 4, at + 20)

    def _add_ipv6(
        self, burst: shmpool.Burst, at: int, ours: NDArray[np.bool_], lengths: NDArray[np.uint32]
    ) -> None:
        protocol = burst.column(at + 6, "u1")
        ours &= ((protocol == TCP) | (protocol == UDP)) & (lengths >= at + 44)
        if ours.any():
            self._add_flows(burst, ours, protocol, at + 8, 16, at + 40)

    def _add_flows(
        self,
        burst: shmpool.Burst,
        ours: NDArray[np.bool_],
        protocol: NDArray[np.generic],
        addresses: int,
        width: int,
        ports: int,
    ) -> None:
        """Counts the packets in ours by a key of 2 x (address, port) and the protocol."""
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
