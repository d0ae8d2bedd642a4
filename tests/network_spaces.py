# SPDX-License-Identifier: Apache-2.0
"""Two network namespaces with a veth pair between them, for the tests of shmpool.net."""

import contextlib
import ctypes
import itertools
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

NEWNET = 0x40000000
ETHERNET_HEADER = 14
_libc = ctypes.CDLL(None, use_errno=True)
_numbers = itertools.count()


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@dataclass(frozen=True)
class Space:
    """A network namespace with one interface, `veth`."""

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
def made() -> Iterator[tuple[Space, Space]]:
    """Makes the two, and removes them. Skips the test where that is not allowed."""
    if not shutil.which("ip"):
        pytest.skip("needs iproute2; `make tools` as root installs it")
    stem = f"shmpool-test-{os.getpid()}-{next(_numbers)}"
    spaces = [
        Space(f"{stem}{end}", f"192.0.2.{i}", bytes([2, 0, 0, 0, 0, i]))
        for i, end in enumerate("ab", 1)
    ]
    with contextlib.ExitStack() as stack:
        for space in spaces:
            try:
                ip("netns", "add", space.name)
            except subprocess.CalledProcessError as error:
                pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
            stack.callback(ip, "netns", "del", space.name)
            with space.entered():
                Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
        first, second = spaces
        ip(
            *("link", "add", "veth", "netns", first.name, "type", "veth"),
            *("peer", "name", "veth", "netns", second.name),
        )
        for space in spaces:
            inside = ("-n", space.name)
            ip(*inside, "link", "set", "veth", "address", space.mac.hex(":"))
            ip(*inside, "address", "add", f"{space.address}/24", "dev", "veth")
            for interface in ("lo", "veth"):
                ip(*inside, "link", "set", interface, "up")
        for space, other in ((first, second), (second, first)):
            neighbour = (other.address, "lladdr", other.mac.hex(":"), "dev", "veth")
            ip("-n", space.name, "neighbour", "add", *neighbour)
        yield first, second


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
