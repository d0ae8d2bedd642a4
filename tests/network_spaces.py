# SPDX-License-Identifier: Apache-2.0
"""Network namespaces with veth pairs between them, for the tests of shmpool.net."""

import contextlib
import ctypes
import fcntl
import itertools
import os
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

NEWNET = 0x40000000
ETHERNET_HEADER = 14
ETHTOOL, SET_TX_CHECKSUMS, SET_TSO, SET_GSO = 0x8946, 0x17, 0x1F, 0x24
_libc = ctypes.CDLL(None, use_errno=True)
_numbers = itertools.count()


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@dataclass(frozen=True)
class Space:
    """A network namespace with one interface, `veth`; a router has `left` and `right`."""

    name: str
    address: str
    mac: bytes

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Puts the calling thread into the namespace: sockets that it opens stay there."""
        with (
            Path("/proc/thread-self/ns/net").open() as own,
            Path(f"/run/netns/{self.name}").open() as other,
        ):
            if _libc.setns(other.fileno(), NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
            try:
                yield
            finally:
                _libc.setns(own.fileno(), NEWNET)

    @property
    def command(self) -> list[str]:
        """What runs a program in there."""
        return ["ip", "netns", "exec", self.name]


@contextlib.contextmanager
def _empty(*spaces: Space) -> Iterator[None]:
    """Makes namespaces, and removes them. Skips the test where that is not allowed."""
    if not shutil.which("ip"):
        pytest.skip("needs iproute2; `make tools` as root installs it")
    with contextlib.ExitStack() as stack:
        for space in spaces:
            try:
                ip("netns", "add", space.name)
            except subprocess.CalledProcessError as error:
                pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
            stack.callback(ip, "netns", "del", space.name)
            with space.entered():
                Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
            ip("-n", space.name, "link", "set", "lo", "up")
        yield


def _stem() -> str:
    return f"shmpool-test-{os.getpid()}-{next(_numbers)}"


def _pair(first: Space, second: Space, name: str = "veth") -> None:
    """Joins them by a pair, which has that name in the second one."""
    ip(
        *("link", "add", "veth", "netns", first.name, "type", "veth"),
        *("peer", "name", name, "netns", second.name),
    )


def _up(space: Space, address: str, mac: bytes, interface: str = "veth") -> None:
    inside = ("-n", space.name)
    ip(*inside, "link", "set", interface, "address", mac.hex(":"))
    ip(*inside, "address", "add", f"{address}/24", "dev", interface)
    ip(*inside, "link", "set", interface, "up")


@contextlib.contextmanager
def made() -> Iterator[tuple[Space, Space]]:
    """Makes two with a pair between them."""
    stem = _stem()
    first, second = (
        Space(f"{stem}{end}", f"192.0.2.{i}", bytes([2, 0, 0, 0, 0, i]))
        for i, end in enumerate("ab", 1)
    )
    with _empty(first, second):
        _pair(first, second)
        for space in (first, second):
            _up(space, space.address, space.mac)
        for space, other in ((first, second), (second, first)):
            neighbour = (other.address, "lladdr", other.mac.hex(":"), "dev", "veth")
            ip("-n", space.name, "neighbour", "add", *neighbour)
        yield first, second


@contextlib.contextmanager
def routed() -> Iterator[tuple[Space, Space, Space]]:
    """Makes a client, a router and a server. The system of the router answers ARP for the
    addresses of `left` and `right`, and forwards nothing. The others do not leave the division
    into packets to the interface, but their checksums."""
    stem = _stem()
    client = Space(f"{stem}c", "192.0.2.1", bytes([2, 0, 0, 0, 0, 1]))
    router = Space(f"{stem}r", "192.0.2.254", bytes([2, 0, 0, 0, 0, 0xFE]))
    server = Space(f"{stem}s", "198.51.100.1", bytes([2, 0, 0, 0, 1, 1]))
    with _empty(client, router, server):
        for end, side, net in ((client, "left", "192.0.2"), (server, "right", "198.51.100")):
            _pair(end, router, side)
            _up(end, end.address, end.mac)
            _up(router, f"{net}.254", bytes([2, 0, 0, 0, side == "right", 0xFE]), side)
            ip("-n", end.name, "route", "add", "default", "via", f"{net}.254")
            whole_packets(end)
        with router.entered():
            Path("/proc/sys/net/ipv4/ip_forward").write_text("0")
        yield client, router, server


def address6(space: Space, side: str = "veth") -> str:
    """The IPv6 address that add_ipv6() gives."""
    net = 2 if "right" == side or space.address.startswith("198.") else 1
    return f"2001:db8:{net}::{'fe' if side != 'veth' else 1}"


def add_ipv6(three: tuple[Space, Space, Space]) -> None:
    """Gives IPv6 addresses to what routed() made. The router's system answers for its own, and
    forwards nothing."""
    client, router, server = three
    for space, sides in ((client, ["veth"]), (router, ["left", "right"]), (server, ["veth"])):
        for side in sides:
            with space.entered():
                settings = Path(f"/proc/sys/net/ipv6/conf/{side}")
                (settings / "accept_dad").write_text("0")
                (settings / "accept_ra").write_text("0")
                (settings / "disable_ipv6").write_text("0")
            address = (f"{address6(space, side)}/64", "dev", side, "nodad")
            ip("-n", space.name, "-6", "address", "add", *address)
    for end, side in ((client, "left"), (server, "right")):
        ip("-n", end.name, "-6", "route", "add", "default", "via", address6(router, side))


def add_neighbours(three: tuple[Space, Space, Space]) -> None:
    """Tells the ends of routed() the router's MAC addresses, which answers nobody."""
    client, router, server = three
    for end, side, last in ((client, "left", 0), (server, "right", 1)):
        for address in (end.address.rpartition(".")[0] + ".254", address6(router, side)):
            lladdr = bytes([2, 0, 0, 0, last, 0xFE]).hex(":")
            ip("-n", end.name, "neighbour", "add", address, "lladdr", lladdr, "dev", "veth")


def whole_packets(space: Space) -> None:
    """`ethtool -K veth tso off gso off`"""
    switch_off(space, SET_TSO, SET_GSO)


def switch_off(space: Space, *commands: int) -> None:
    """Switches off what the interface does for its senders."""
    with space.entered():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sock:
        for command in commands:
            value = ctypes.create_string_buffer(struct.pack("=II", command, 0), 8)
            request = struct.pack("16sP16x", b"veth", ctypes.addressof(value))
            fcntl.ioctl(sock, ETHTOOL, request)


def raw_socket(space: Space) -> socket.socket:
    """A socket that sends packets as they are from the namespace's interface."""
    with space.entered():
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    try:
        with space.entered():
            sock.bind(("veth", 0))
    except BaseException:
        sock.close()
        raise
    return sock


def frame(number: int, size: int = 60, kind: int = 0x88B5) -> bytes:
    """An Ethernet packet with a number, of a type for experiments."""
    head = b"\xff" * 6 + b"\x02\0\0\0\0\x01" + kind.to_bytes(2, "big")
    return head + number.to_bytes(4, "big") + bytes(size - len(head) - 4)
