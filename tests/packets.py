# SPDX-License-Identifier: Apache-2.0
"""Makes packets of every combination of headers, with what each column of their headers must be.

Each part adds its bytes and its columns by itself; nothing is read back. Checksums are right.
"""

import itertools
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from shmpool.net.headers import Layer, Link

MAC_SRC, MAC_DST = 0x02AABBCCDD01, 0x02AABBCCDD02
SRC4, DST4 = bytes([192, 0, 2, 1]), bytes([198, 51, 100, 9])
SRC6 = bytes.fromhex("20010db8000000010000000000000001")
DST6 = bytes.fromhex("20010db8000000020000000000000abc")
MAPPED = bytes(10) + b"\xff\xff"
KINDS = {4: 0x0800, 6: 0x86DD}
IP_LINKS = {Link.IP: b"", Link.NULL: struct.pack("<I", 2), Link.LOOP: struct.pack(">I", 2)}
PAYLOAD = b"payload of an odd length."


def checksum(data: bytes) -> int:
    """The checksum of RFC 1071."""
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total >> 16) + (total & 0xFFFF)
    return ~total & 0xFFFF


def with_checksum(data: bytes, at: int, pseudo: bytes = b"", zero: int = 0) -> bytes:
    """The data with its checksum at that place, where it has 0; zero is written in place of 0."""
    return data[:at] + (checksum(pseudo + data) or zero).to_bytes(2, "big") + data[at + 2 :]


@dataclass
class Made:
    """A packet, and the columns of its headers that are not 0."""

    data: bytes
    columns: dict[str, Any] = field(default_factory=dict)
    inner: dict[str, Any] = field(default_factory=dict)
    link: int = Link.ETHERNET
    checked: bool = True  # its transport has a checksum that can be verified


@dataclass
class Net:
    """An IP header of a kind, around a transport."""

    name: str
    version: int
    before: tuple[tuple[int, bytes], ...] = ()  # extension headers of IPv6: their numbers and rest
    options: bytes = b""  # of IPv4
    offset: int = 0  # bytes
    more: bool = False
    routed: bool = False


ROUTE = bytes([131, 7, 4]) + DST4 + b"\0"  # a loose route with a stop left
NETS = (
    Net("4", 4),
    Net("4 options", 4, options=bytes([1, 1, 1, 7, 7, 4, 0, 0, 0, 0, 0, 0])),
    Net("4 first", 4, more=True),
    Net("4 later", 4, offset=1480),
    Net("4 route", 4, options=ROUTE, routed=True),
    Net("6", 6),
    Net("6 options", 6, ((0, bytes([0]) + bytes(6)), (60, bytes([1]) + bytes(14)))),
    Net("6 route done", 6, ((43, bytes([2, 0, 0]) + bytes(4) + DST6),)),
    Net("6 route", 6, ((43, bytes([2, 0, 1]) + bytes(4) + DST6),), routed=True),
    Net("6 atomic", 6, ((44, b"\0\0\0" + struct.pack(">I", 77)),)),
    Net("6 first", 6, ((44, b"\0\0\1" + struct.pack(">I", 77)),), more=True),
    Net("6 later", 6, ((44, b"\0" + struct.pack(">HI", 1480, 77)),), offset=1480),
    Net("6 authentication", 6, ((51, bytes([4]) + bytes(22)),)),
)


def pseudo_header(version: int, protocol: int, length: int) -> bytes:
    if version == 4:
        return SRC4 + DST4 + struct.pack(">BBH", 0, protocol, length)
    return SRC6 + DST6 + struct.pack(">II", length, protocol)


def tcp(version: int, options: bytes = b"", payload: bytes = PAYLOAD) -> Made:
    flags = 0x12
    header = struct.pack(
        ">HHIIBBHHH", 443, 50000, 1 << 31, 5, (20 + len(options)) // 4 << 4, flags, 4096, 0, 0
    )
    data = header + options + payload
    columns = {
        "layers": Layer.TCP,
        "port_src": 443,
        "port_dst": 50000,
        "tcp_seq": 1 << 31,
        "tcp_ack": 5,
        "tcp_flags": flags,
        "tcp_window": 4096,
        "payload": 20 + len(options),
        "payload_length": len(payload),
        "protocol": 6,
    }
    return Made(with_checksum(data, 16, pseudo_header(version, 6, len(data))), columns)


def udp(version: int, payload: bytes = PAYLOAD, port: int = 53) -> Made:
    data = struct.pack(">HHHH", 5353, port, 8 + len(payload), 0) + payload
    columns = {
        "layers": Layer.UDP,
        "port_src": 5353,
        "port_dst": port,
        "payload": 8,
        "payload_length": len(payload),
        "protocol": 17,
    }
    pseudo = pseudo_header(version, 17, len(data))
    return Made(with_checksum(data, 6, pseudo, 0xFFFF), columns)


def icmp(version: int, kind: int, code: int) -> Made:
    data = struct.pack(">BBHHH", kind, code, 0, 4711, 1) + PAYLOAD
    echo = kind in ((8, 0) if version == 4 else (128, 129))
    columns = {
        "layers": Layer.ICMP if version == 4 else Layer.ICMP6,
        "icmp_type": kind,
        "icmp_code": code,
        "icmp_id": 4711 if echo else 0,
        "payload": 8,
        "payload_length": len(PAYLOAD),
        "protocol": 1 if version == 4 else 58,
    }
    pseudo = b"" if version == 4 else pseudo_header(6, 58, len(data))
    return Made(with_checksum(data, 2, pseudo), columns)


def sctp(version: int) -> Made:
    data = struct.pack(">HHII", 2905, 2906, 1, 2) + PAYLOAD
    columns = {
        "layers": Layer.SCTP,
        "port_src": 2905,
        "port_dst": 2906,
        "payload": 12,
        "payload_length": len(PAYLOAD),
        "protocol": 132,
    }
    return Made(data, columns, checked=False)


def other(version: int) -> Made:
    return Made(PAYLOAD, {"protocol": 99, "layers": 0}, checked=False)


def gre(version: int, key: bool, bridged: bool) -> Made:
    """GRE around an IPv4 packet, or around an Ethernet frame."""
    inside = frame(NETS[0], udp(4), tags=(0x8100,)) if bridged else packet(NETS[0], tcp(4))
    kind = 0x6558 if bridged else 0x0800
    header = struct.pack(">HH", 0xB000 if key else 0, kind)
    if key:
        header += struct.pack(">HHII", 0, 0, 0xCAFE, 9)
    data = header + inside.data
    columns = {
        "layers": Layer.GRE,
        "tunnel_id": 0xCAFE if key else 0,
        "payload": len(header),
        "payload_length": len(inside.data),
        "protocol": 47,
    }
    return Made(
        data, columns, moved(inside.columns | {"ethertype": 0x0800}, len(header)), checked=False
    )


def vxlan(version: int) -> Made:
    inside = frame(NETS[5], tcp(6))
    made = udp(version, struct.pack(">II", 8 << 24, 0xABCDEF << 8) + inside.data, 4789)
    made.columns["layers"] |= Layer.VXLAN
    made.columns["tunnel_id"] = 0xABCDEF
    made.inner = moved(inside.columns, 16)
    return made


TRANSPORTS = {
    "tcp": tcp,
    "tcp options": lambda version: tcp(version, bytes([2, 4, 5, 180, 1, 1, 1, 0])),
    "tcp empty": lambda version: tcp(version, payload=b""),
    "udp": udp,
    "udp empty": lambda version: udp(version, b""),
    "echo": lambda version: icmp(version, 8 if version == 4 else 128, 0),
    "unreachable": lambda version: icmp(version, 3 if version == 4 else 1, 4),
    "sctp": sctp,
    "gre": lambda version: gre(version, False, False),
    "gre key": lambda version: gre(version, True, True),
    "vxlan": vxlan,
    "other": other,
}


def moved(columns: dict[str, Any], n: int) -> dict[str, Any]:
    """The same columns of headers that begin n bytes later."""
    places = ("network", "transport", "payload")
    return {name: value + n if name in places else value for name, value in columns.items()}


def packet(net: Net, made: Made) -> Made:
    """An IP packet around a transport, which a later fragment has only as bytes."""
    columns = dict(made.columns)
    inner = dict(made.inner)
    protocol = columns["protocol"]
    if net.offset:
        columns, inner = {"protocol": protocol, "layers": 0}, {}
    rest = b""
    numbers = [*(number for number, _ in net.before), protocol]
    for (_, body), following in zip(net.before, numbers[1:], strict=True):
        rest += bytes([following]) + body
    columns |= {"ip_version": net.version, "traffic_class": 0xB8, "ttl": 61}
    columns["fragment_offset"] = net.offset
    if net.version == 4:
        size = 20 + len(net.options)
        length = size + len(made.data)
        word = net.more << 13 | net.offset >> 3 | 0x4000 * (not (net.more or net.offset))
        header = struct.pack(">BBHHHBBH", 0x40 | size // 4, 0xB8, length, 99, word, 61, protocol, 0)
        header = with_checksum(header + SRC4 + DST4 + net.options, 10)
        columns |= {
            "src": MAPPED + SRC4,
            "dst": MAPPED + DST4,
            "src4": int.from_bytes(SRC4, "big"),
            "dst4": int.from_bytes(DST4, "big"),
            "ip_id": 99,
            "ip_flags": word >> 13,
            "ip_length": length,
        }
        columns["layers"] |= Layer.IPV4 | (Layer.OPTIONS if net.options else 0)
    else:
        length = len(rest) + len(made.data)
        header = struct.pack(">IHBB", 0x6B8ABCDE, length, numbers[0], 61) + SRC6 + DST6 + rest
        size = len(header)
        columns |= {
            "src": SRC6,
            "dst": DST6,
            "flow_label": 0xABCDE,
            "ip_length": 40 + length,
            "extensions": len(net.before),
            "ip_id": 77 if 44 in numbers[:-1] else 0,
        }
        columns["layers"] |= Layer.IPV6 | (Layer.OPTIONS if net.before else 0)
    whole = not (net.offset or net.more)
    if not whole:
        columns["layers"] |= Layer.FRAGMENT | (Layer.LATER if net.offset else 0)
    if net.routed:
        columns["layers"] |= Layer.ROUTED
    columns = moved(columns, size) | {"transport": size, "network": 0}
    checked = made.checked and whole and not net.routed
    return Made(header + made.data, columns, moved(inner, size), checked=checked)


def linked(made: Made, kind: int, link: int, tags: tuple[int, ...] = (), labels: int = 0) -> Made:
    """A packet behind its link header, tags and labels."""
    columns = dict(made.columns)
    if link in IP_LINKS:
        head = IP_LINKS[link]
        if link == Link.NULL and columns.get("ip_version") == 6:
            head = struct.pack("<I", 10)
    else:
        behind = 0x8847 if labels else kind
        kinds = [*tags, behind]
        first = struct.pack(">H", kinds[0])
        head = {
            Link.ETHERNET: MAC_DST.to_bytes(6, "big") + MAC_SRC.to_bytes(6, "big") + first,
            Link.COOKED: bytes([0, 0, 0, 1, 0, 6]) + bytes(8) + first,
            Link.COOKED2: first + bytes([0, 0, 0, 0, 0, 1, 0, 1, 0, 6]) + bytes(8),
        }[Link(link)]
        for i, following in enumerate(kinds[1:]):
            head += struct.pack(">HH", 3 << 13 | (100 + i), following)
        for i in range(labels):
            head += struct.pack(">I", (1000 + i) << 12 | (i == labels - 1) << 8 | 64)
        columns |= {
            "ethertype": behind,
            "vlans": len(tags),
            "vlan": 100 if tags else 0,
            "vlan_priority": 3 if tags else 0,
            "vlan_inner": 101 if len(tags) > 1 else 0,
            "mpls_labels": labels,
            "mpls_label": 1000 if labels else 0,
        }
        columns["layers"] |= (Layer.VLAN if tags else 0) | (Layer.MPLS if labels else 0)
        if link == Link.ETHERNET:
            columns["layers"] |= Layer.ETHERNET
            columns |= {"mac_src": MAC_SRC, "mac_dst": MAC_DST}
    n = len(head)
    inner = moved(made.inner, n)
    return Made(head + made.data, moved(columns, n), inner, link, made.checked)


def frame(net: Net, made: Made, tags: tuple[int, ...] = ()) -> Made:
    return linked(packet(net, made), KINDS[net.version], Link.ETHERNET, tags)


def arp(tags: tuple[int, ...] = (), link: int = Link.ETHERNET) -> Made:
    """A reply, padded to the least size of a frame."""
    data = struct.pack(">HHBBH", 1, 0x0800, 6, 4, 2) + MAC_SRC.to_bytes(6, "big") + SRC4
    columns = {
        "layers": Layer.ARP,
        "arp_operation": 2,
        "src4": int.from_bytes(SRC4, "big"),
        "dst4": int.from_bytes(DST4, "big"),
        "network": 0,
    }
    made = Made(data + MAC_DST.to_bytes(6, "big") + DST4 + bytes(18), columns, checked=False)
    return linked(made, 0x0806, link, tags)


def combinations() -> Iterator[Made]:
    """Packets of every combination of link, tags, labels, IP header and transport."""
    some_tags = ((), (0x8100,), (0x88A8, 0x8100), (0x9100, 0x8100, 0x8100))
    for net, transport in itertools.product(NETS, TRANSPORTS.values()):
        inside = packet(net, transport(net.version))
        for link in Link:
            if link in IP_LINKS:
                yield linked(inside, 0, link)
                continue
            for tags, labels in itertools.product(some_tags, (0, 1, 3)):
                yield linked(inside, KINDS[net.version], link, tags, labels)
    for link, tags in itertools.product(set(Link) - set(IP_LINKS), some_tags):
        yield arp(tags, link)
