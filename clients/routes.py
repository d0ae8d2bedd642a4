# SPDX-License-Identifier: Apache-2.0
"""The routes of a router, IPv4 and IPv6: clients.forward looks up a whole burst in them."""

import contextlib
import fcntl
import ipaddress
import socket
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

NONE = -1  # no route
LINK = -2  # no router forwards it
GET_HARDWARE_ADDRESS, GET_ADDRESS = 0x8927, 0x8915  # SIOCGIFHWADDR, SIOCGIFADDR
GLOBAL = "00"  # scope of an address in if_inet6

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
# Addresses of a link, of a host itself, none, multicast, broadcast and what has no use yet.
OF_LINK: dict[int, list[Network]] = {
    4: [
        ipaddress.IPv4Network(text)
        for text in ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3")
    ],
    6: [ipaddress.IPv6Network(text) for text in ("::/127", "fe80::/10", "ff00::/8")],
}


class Routes:
    """Which route an address has: the one with the longest prefix.

    The prefixes are of one family. They divide all addresses into ranges: starts are their first
    addresses, and routes the number of the route of each range. IPv4 addresses are numbers, those
    of IPv6 16 bytes, which compare as the numbers do.
    """

    def __init__(self, prefixes: Sequence[Network], numbers: Sequence[int] | None = None) -> None:
        four = not any(prefix.version == 6 for prefix in prefixes)
        beyond = 2**32 if four else 2**128
        ends = [(int(p.network_address), int(p.broadcast_address) + 1) for p in prefixes]
        edges = sorted({0, *(edge for pair in ends for edge in pair if edge < beyond)})
        self.starts = (
            np.array(edges, np.uint32)
            if four
            else np.array([edge.to_bytes(16, "big") for edge in edges], "S16")
        )
        self.routes = np.full(len(edges), NONE)
        place = {edge: i for i, edge in enumerate(edges)} | {beyond: len(edges)}
        for i in sorted(range(len(prefixes)), key=lambda i: prefixes[i].prefixlen):
            first, end = (place[edge] for edge in ends[i])
            self.routes[first:end] = i if numbers is None else numbers[i]

    def of(self, addresses: "NDArray[np.uint32] | NDArray[np.uint8]") -> NDArray[np.intp]:
        """Returns the number of each address's route, or NONE. addresses: shape (n,), of IPv6
        (n, 16)."""
        keys = addresses
        if addresses.ndim == 2:
            keys = np.ascontiguousarray(addresses).view("S16").ravel()
        found: NDArray[np.intp] = self.routes[np.searchsorted(self.starts, keys, side="right") - 1]
        return found


class Table:
    """The routes of both families, and the first 12 bytes of a frame for each: both MAC
    addresses."""

    def __init__(self, routes: Sequence[str], own: bytes) -> None:
        pairs = [text.rpartition("=")[::2] for text in routes]
        prefixes = [ipaddress.ip_network(prefix) for prefix, _ in pairs]
        self.four, self.six = (self._family(prefixes, version) for version in (4, 6))
        lines = b"".join(mac(text) + own for _, text in pairs)
        self.macs = np.frombuffer(lines, "V12")

    @staticmethod
    def _family(prefixes: Sequence[Network], version: int) -> Routes:
        """The routes of a version of IP. What is in OF_LINK has none, whatever was given."""
        numbers = [i for i, prefix in enumerate(prefixes) if prefix.version == version]
        kept = [prefixes[i] for i in numbers]
        over = OF_LINK[version]
        inside = [
            any(prefix.subnet_of(link) for link in over)  # type: ignore[arg-type]
            for prefix in kept
        ]
        numbers = [LINK if i else number for i, number in zip(inside, numbers, strict=True)]
        return Routes([*kept, *over], [*numbers, *(LINK for _ in over)])

    def of(
        self,
        four: NDArray[np.uint32],
        six: NDArray[np.uint8],
        is_six: NDArray[np.bool_],
    ) -> NDArray[np.intp]:
        """Returns the number of each target's route, NONE or LINK: of the address in six where
        is_six is true, else of the one in four."""
        route = self.four.of(four)
        if is_six.any():
            route[is_six] = self.six.of(six[is_six])
        return route


def mac(text: str) -> bytes:
    """Reads 02:00:00:00:00:01."""
    value = bytes.fromhex(text.replace(":", ""))
    if len(value) != 6:
        raise ValueError(f"{text} is not a MAC address of 6 bytes")
    return value


def _asked(interface: str, what: int) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        return fcntl.ioctl(sock, what, struct.pack("40s", interface.encode()[:15]))


def mac_of(interface: str) -> bytes:
    """The MAC address of an interface of this network namespace."""
    try:
        return _asked(interface, GET_HARDWARE_ADDRESS)[18:24]
    except OSError as error:
        raise ValueError(f"{interface} is no interface, and no file: {error}") from None


def addresses_of(interface: str) -> dict[int, bytes]:
    """An address of the interface by the version of IP: no link-local one. It may have none."""
    found: dict[int, bytes] = {}
    with contextlib.suppress(OSError):
        found[4] = _asked(interface, GET_ADDRESS)[20:24]
    try:
        lines = Path("/proc/thread-self/net/if_inet6").read_text().splitlines()
    except OSError:
        return found
    for address, _, _, scope, _, name in map(str.split, lines):
        if name == interface and scope == GLOBAL:
            found.setdefault(6, bytes.fromhex(address))
    return found
