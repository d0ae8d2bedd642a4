# SPDX-License-Identifier: Apache-2.0
"""The headers of a burst of packets as columns; flow hashes; checksums.

The methods of Burst that need them import this module at their first call. COLUMNS declares what
there is; docs/headers.md is written from it. The work is done in C: parse.c, toeplitz.c,
checksum.c.
"""

from __future__ import annotations

import errno
from enum import IntEnum, IntFlag
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import errors
from .._hot import (
    burst_checksums,
    burst_forward,
    burst_headers,
    burst_set_checksums,
    toeplitz_hashes,
    toeplitz_table,
)
from ..codes import fail
from ..columns import boolean_mask, offset_of
from ..options import integer
from ..packets import PacketColumns


class Link(IntEnum):
    """What a packet begins with. The numbers are those of capture files (LINKTYPE_)."""

    NULL = 0  # 4 bytes of the sender's system, then IP
    ETHERNET = 1
    IP = 101  # IPv4 or IPv6
    LOOP = 108  # as NULL, of OpenBSD
    COOKED = 113  # Linux, `tcpdump -i any`
    COOKED2 = 276  # the same, its second version


class Layer(IntFlag):
    """Bits of the column layers. The bit of a header says that its fixed part is whole and valid;
    only then are its columns filled."""

    ETHERNET = 1 << 0
    VLAN = 1 << 1  # at least one tag: 802.1Q, 802.1ad or 0x9100
    MPLS = 1 << 2  # at least one label
    ARP = 1 << 3
    IPV4 = 1 << 4
    IPV6 = 1 << 5
    TCP = 1 << 6
    UDP = 1 << 7
    ICMP = 1 << 8  # of IPv4
    ICMP6 = 1 << 9  # of IPv6
    SCTP = 1 << 10
    GRE = 1 << 11
    VXLAN = 1 << 12  # UDP to port 4789 with a network number
    OPTIONS = 1 << 13  # IPv4 with options, or IPv6 with extension headers
    FRAGMENT = 1 << 14  # a part of a packet
    LATER = 1 << 15  # a part that does not begin the packet: it has no transport header
    ROUTED = 1 << 16  # with a source route that has stops left: dst is the next stop
    TRUNCATED = 1 << 17  # a header, or bytes that the IP header counts, are not in the buffer
    BAD = 1 << 18  # a header contradicts itself or the one before it; or there are too many


class Checksum(IntEnum):
    """What is known of a checksum."""

    NONE = 0  # no such header, a fragment, or not all bytes that it covers are in the buffer
    RIGHT = 1
    WRONG = 2
    NOT_SET = 3  # UDP over IPv4 with 0: the sender computed none


class Column(NamedTuple):
    """A column of Headers."""

    name: str
    dtype: str
    unit: str
    about: str


# In the order of struct parse_record (parse.h). Each is 0 where the packet has no such field.
COLUMNS = tuple(
    Column(*row)
    for row in (
        ("src", "(16,)u1", "", "IPv6 address of the sender; IPv4 as ::ffff:a.b.c.d"),
        ("dst", "(16,)u1", "", "the same of the target"),
        ("port_src", "u2", "", "port of the sender: TCP, UDP, SCTP"),
        ("port_dst", "u2", "", "port of the target"),
        ("protocol", "u1", "IP protocol", "what follows the IP header and all extension headers"),
        ("ip_version", "u1", "", "4, 6, or 0: no IP header"),
        ("ethertype", "u2", "ethertype", "what follows the Ethernet header and its tags"),
        ("mac_src", "u8", "", "MAC address of the sender, as a number of 48 bits"),
        ("mac_dst", "u8", "", "the same of the target"),
        ("layers", "u4", "Layer", "which headers there are, and what is wrong with them"),
        ("src4", "u4", "", "IPv4 address of the sender as a number; of ARP too"),
        ("dst4", "u4", "", "the same of the target"),
        ("ip_length", "u4", "bytes", "of the IP packet, as its header says; IPv6 with 40 for it"),
        ("payload_length", "u4", "bytes", "of the payload in the buffer, without padding"),
        ("ip_id", "u4", "", "number of the packet that fragments belong to"),
        ("tcp_seq", "u4", "bytes", "sequence number of TCP"),
        ("tcp_ack", "u4", "bytes", "acknowledgement number of TCP"),
        ("flow_label", "u4", "", "of IPv6, 20 bits"),
        ("mpls_label", "u4", "", "outermost label of MPLS, 20 bits"),
        ("tunnel_id", "u4", "", "network number of VXLAN, 24 bits, or key of GRE"),
        ("network", "u2", "offset", "of the IP or ARP header"),
        ("transport", "u2", "offset", "of what follows the IP header and all extension headers"),
        ("payload", "u2", "offset", "of what follows TCP, UDP, ICMP, SCTP or GRE"),
        ("vlan", "u2", "", "number of the outermost VLAN, 12 bits"),
        ("vlan_inner", "u2", "", "number of the second VLAN"),
        ("fragment_offset", "u2", "bytes", "place of a fragment in its packet"),
        ("tcp_window", "u2", "", "window of TCP, not scaled"),
        ("icmp_id", "u2", "", "identifier of an echo or its reply: ICMP, ICMPv6"),
        ("arp_operation", "u2", "", "1: request, 2: reply"),
        ("vlans", "u1", "tags", "how many tags there are; more than 8 are BAD"),
        ("vlan_priority", "u1", "", "priority of the outermost VLAN, 3 bits"),
        ("mpls_labels", "u1", "labels", "how many labels there are; more than 16 are BAD"),
        ("extensions", "u1", "headers", "extension headers of IPv6; more than 8 are BAD"),
        ("ttl", "u1", "", "TTL of IPv4, hop limit of IPv6"),
        ("traffic_class", "u1", "", "of IPv6; type of service of IPv4: DSCP and ECN"),
        ("ip_flags", "u1", "bits", "of IPv4: 2 do not fragment, 1 more fragments follow"),
        ("tcp_flags", "u1", "bits", "1 FIN, 2 SYN, 4 RST, 8 PSH, 16 ACK, 32 URG, 64 ECE, 128 CWR"),
        ("icmp_type", "u1", "", "of ICMP or ICMPv6"),
        ("icmp_code", "u1", "", "of ICMP or ICMPv6"),
    )
)
RECORD = np.dtype([(column.name, column.dtype) for column in COLUMNS])
FLOW = np.dtype("V38")  # src to ip_version, the first columns of a record: what names a flow

# The key that Microsoft published with RSS, which most network cards begin with; and one whose hash
# is the same in both directions. It repeats after 16 bits, so the hash's halves are equal.
RSS_KEY = bytes.fromhex(
    "6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa"
)
SYMMETRIC_KEY = bytes.fromhex("6d5a" * 20)

_table = lru_cache(maxsize=8)(toeplitz_table)


class Headers:
    """The headers of n packets: an attribute for each column of docs/headers.md, of shape (n, ...).

    The columns are views of records, one structured array. A selection, headers[mask], is Headers
    too, so that it can be made in the same way as that of the burst. They are a copy: they stay
    what they are when packets change, and may be kept when the burst is gone.
    """

    __slots__ = ("inner", "records")

    def __init__(self, records: NDArray[np.void], inner: Headers | None = None) -> None:
        self.records = records
        self.inner = inner  # of the packets in tunnels, if they were asked for

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: Any) -> Headers:
        inner = None if self.inner is None else self.inner[index]
        return Headers(np.atleast_1d(self.records[index]), inner)

    def __getattr__(self, name: str) -> NDArray[Any]:
        if name not in RECORD.names:  # type: ignore[operator]
            raise AttributeError(f"headers have no column {name!r}: docs/headers.md lists them")
        return self.records[name]

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *(column.name for column in COLUMNS)]

    def __repr__(self) -> str:
        return f"<shmpool.net.headers.Headers of {len(self)} packets>"

    def has(self, layers: int) -> NDArray[np.bool_]:
        """Returns a mask of the packets that have all of these layers."""
        wanted = np.uint32(layers)
        mask: NDArray[np.bool_] = (self.records["layers"] & wanted) == wanted
        return mask

    @property
    def flow(self) -> NDArray[np.void]:
        """What names each packet's flow: addresses, ports, protocol and IP version, 38 bytes.

        np.unique() finds the flows of a burst by it, and tobytes() of an element is a key for a
        dict. Ports are in the machine's byte order.
        """
        names = np.ndarray(
            len(self), FLOW, np.ascontiguousarray(self.records), strides=(RECORD.itemsize,)
        )
        return names.copy()


def read(
    burst: PacketColumns, link: int = Link.ETHERNET, at: int = 0, inner: bool = False
) -> Headers:
    """Returns the headers of every packet. See Burst.headers."""
    records = np.empty(len(burst), RECORD)
    inside = np.empty(len(burst), RECORD) if inner else None
    _check(
        burst_headers(
            burst,
            _link_of(link),
            offset_of(at, "at"),
            records.view("u1"),
            None if inside is None else inside.view("u1"),
        ),
        link,
    )
    return Headers(records, None if inside is None else Headers(inside))


def of_burst(burst: PacketColumns, headers: Headers | None) -> Headers:
    """Returns the headers that were given for a burst, or reads them."""
    if headers is None:
        return read(burst)
    if len(headers) != len(burst):
        raise errors.InvalidArgument(
            f"headers are those of {len(headers)} packets; the burst has {len(burst)}"
        )
    return headers


def flow_hashes(
    headers: Headers, *, key: bytes | None = None, symmetric: bool = False, ports: bool = True
) -> NDArray[np.uint32]:
    """Returns the Toeplitz hash of every packet's flow. See Burst.flow_hash."""
    if key is not None and symmetric:
        raise errors.InvalidArgument("symmetric is for a hash without a key: it is a key")
    given = SYMMETRIC_KEY if symmetric else RSS_KEY if key is None else bytes(key)
    if len(given) != len(RSS_KEY):
        raise errors.InvalidArgument(f"key has {len(given)} bytes; it must have {len(RSS_KEY)}")
    hashes = np.empty(len(headers), np.uint32)
    records = np.require(headers.records, RECORD, ["C", "A"])
    toeplitz_hashes(_table(given), records.view("u1"), ports, hashes)
    return hashes


class Checksums(NamedTuple):
    """What is known of every packet's checksums: arrays of Checksum, dtype u1, shape (n,)."""

    ip: NDArray[np.uint8]
    transport: NDArray[np.uint8]


def checksums(
    burst: PacketColumns, ip: bool, transport: bool, link: int, at: int, inner: bool
) -> Checksums:
    """Verifies the checksums of every packet. See Burst.checksums."""
    states = np.empty((len(burst), 2), np.uint8)
    code = burst_checksums(burst, _link_of(link), offset_of(at, "at"), inner, ip, transport, states)
    _check(code, link)
    return Checksums(states[:, 0], states[:, 1])


def set_checksums(
    burst: PacketColumns,
    ip: bool,
    transport: bool,
    link: int,
    at: int,
    inner: bool,
    where: ArrayLike | None,
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Writes the checksums of every packet. See Burst.set_checksums."""
    done = np.zeros((len(burst), 2), np.bool_)
    mask = None if where is None else _mask_of(where, len(burst))
    code = burst_set_checksums(
        burst, _link_of(link), offset_of(at, "at"), inner, ip, transport, mask, done.view("u1")
    )
    _check(code, link)
    return done[:, 0], done[:, 1]


def decrement_ttl(burst: PacketColumns, link: int, at: int) -> NDArray[np.bool_]:
    """Makes every TTL one less. See Burst.decrement_ttl."""
    alive = np.zeros(len(burst), np.bool_)
    _check(burst_forward(burst, _link_of(link), offset_of(at, "at"), alive.view("u1")), link)
    return alive


def _mask_of(where: ArrayLike, n: int) -> NDArray[np.uint8]:
    mask = np.ascontiguousarray(boolean_mask(where, n))
    if mask.shape != (n,):
        raise errors.InvalidArgument(
            f"where has the shape {mask.shape}; it must have a bool for each of {n} packets"
        )
    return mask.view("u1")


def _link_of(link: int) -> int:
    """Clamps to uint32: C rejects the limit as it would the value."""
    number = integer(link, "link")
    return number if 0 <= number < 2**32 else 2**32 - 1


def _check(code: int, link: int) -> None:
    if code == -errno.EDOM:
        known = ", ".join(f"{kind.value} ({kind.name})" for kind in Link)
        raise errors.InvalidArgument(f"link is {link}; allowed are {known}")
    if code < 0:
        fail(code, "headers of a burst")
