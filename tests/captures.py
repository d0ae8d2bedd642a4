# SPDX-License-Identifier: Apache-2.0
"""Makes packets, and pcap and pcapng files of them, for test_capture.py and test_demo.py."""

import socket
import struct

ETHERNET, RAW, OTHER = 1, 101, 147  # link types; OTHER is assigned to no protocol


def udp4(port: int, payload: bytes = b"hello") -> bytes:
    """An IPv4 packet from a port of 192.0.2.1 to port 53 of another address."""
    ends = socket.inet_aton("192.0.2.1") + socket.inet_aton("192.0.2.2")
    header = struct.pack(">BBHHHBBH", 0x45, 0, 28 + len(payload), 1, 0, 64, 17, 0)
    return header + ends + struct.pack(">HHHH", port, 53, 8 + len(payload), 0) + payload


def udp6(port: int, payload: bytes = b"hello") -> bytes:
    """An IPv6 packet from a port of 2001:db8::1 to port 53 of another address."""
    ends = b"".join(socket.inet_pton(socket.AF_INET6, f"2001:db8::{i}") for i in (1, 2))
    udp = struct.pack(">HHHH", port, 53, 8 + len(payload), 0) + payload
    return struct.pack(">IHBB", 6 << 28, len(udp), 17, 64) + ends + udp


def ethernet(packet: bytes, kind: int = 0x0800, tag: bytes = b"") -> bytes:
    return bytes(12) + tag + struct.pack(">H", kind) + packet


def pcap(
    packets: list[bytes], link: int = ETHERNET, order: str = "<", magic: int = 0xA1B2C3D4
) -> bytes:
    """A file whose packets follow one another after 1 s and 2 ticks."""
    more = bytes(8) if magic == 0xA1B2CD34 else b""
    return struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 262144, link) + b"".join(
        struct.pack(f"{order}IIII", 1 + i, 2 * i, len(packet), len(packet)) + more + packet
        for i, packet in enumerate(packets)
    )


class Section:
    """The blocks of a pcapng file in one byte order."""

    def __init__(self, order: str = "<") -> None:
        self.order = order

    def block(self, kind: int, layout: str, *fields: int, data: bytes = b"") -> bytes:
        body = struct.pack(self.order + layout, *fields) + data + bytes(-len(data) % 4)
        size = struct.pack(f"{self.order}I", 12 + len(body))
        return struct.pack(f"{self.order}I", kind) + size + body + size

    def begin(self) -> bytes:
        return self.block(0x0A0D0D0A, "IHHq", 0x1A2B3C4D, 1, 0, -1)

    def option(self, code: int, value: bytes) -> bytes:
        return struct.pack(f"{self.order}HH", code, len(value)) + value + bytes(-len(value) % 4)

    def interface(self, link: int = ETHERNET, snaplen: int = 0, options: bytes = b"") -> bytes:
        return self.block(1, "HHI", link, 0, snaplen, data=options)

    def packet(self, data: bytes, interface: int = 0, time: int = 0) -> bytes:
        high, low = time >> 32, time & 0xFFFFFFFF
        return self.block(6, "IIIII", interface, high, low, len(data), len(data), data=data)

    def simple_packet(self, data: bytes, size: int | None = None) -> bytes:
        return self.block(3, "I", len(data) if size is None else size, data=data)

    def old_packet(self, data: bytes, interface: int = 0, time: int = 0) -> bytes:
        high, low = time >> 32, time & 0xFFFFFFFF
        return self.block(2, "HHIIII", interface, 9, high, low, len(data), len(data), data=data)
