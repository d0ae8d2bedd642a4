# SPDX-License-Identifier: Apache-2.0
"""Packets from the network and from files into a pool, and out.

A source fills bursts of buffers, a sink drains them: one native call for up to 256 packets, no
Python for each. Nothing here is imported by `import shmpool`.
"""

from .capture import CaptureSource, Interface, Packet, packets
from .content import CaptureError
from .ends import Received, Sent, Sink, Source
from .interface import PacketSink, PacketSource
from .marks import (
    CHECKSUM_GOOD,
    CHECKSUM_MISSING,
    COMMENTED,
    OUTGOING,
    interface_numbers,
    original_lengths,
)
from .recording import CaptureSink
from .tap import TapDevice
from .udp import UdpSocket, address_texts, addresses_of
from .xdp import XdpProgram, XdpSocket, XdpStatistics

__all__ = [
    "CHECKSUM_GOOD",
    "CHECKSUM_MISSING",
    "COMMENTED",
    "OUTGOING",
    "CaptureError",
    "CaptureSink",
    "CaptureSource",
    "Interface",
    "Packet",
    "PacketSink",
    "PacketSource",
    "Received",
    "Sent",
    "Sink",
    "Source",
    "TapDevice",
    "UdpSocket",
    "XdpProgram",
    "XdpSocket",
    "XdpStatistics",
    "address_texts",
    "addresses_of",
    "interface_numbers",
    "original_lengths",
    "packets",
]
