# SPDX-License-Identifier: Apache-2.0
"""Forwards IPv4 packets as a router does: python -m clients.forward IN OUT --route ...

IN and OUT are interfaces, or capture files. A burst at a time: receive, look up the target's route,
rewrite the MAC addresses, make the TTL one less with the checksum updated, send. No Python for a
packet: a route is found for a whole burst by one binary search. What has no route, a TTL of 1, a
wrong checksum or no IPv4 header is dropped and counted.

A sender on this machine, behind a veth pair, leaves checksums to the hardware: they are computed
here. It must not leave the division into packets to it, nor the receiving interface put packets
together: `ethtool -K veth0 tso off gso off`, `ethtool -K eth0 gro off`. What is longer than a
buffer is counted as damaged, and what is longer than the MTU as refused.
"""

import fcntl
import ipaddress
import socket
import struct
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

import shmpool
from shmpool.net import (
    CHECKSUM_MISSING,
    CaptureSink,
    CaptureSource,
    PacketSink,
    PacketSource,
    Sink,
    Source,
    original_lengths,
)
from shmpool.net.headers import Checksum, Layer

from .flows import refuse_other_links
from .rates import Rates, received, running

WANTED = np.uint32(Layer.ETHERNET | Layer.IPV4)
READ = WANTED | np.uint32(Layer.BAD | Layer.TRUNCATED)
RIGHT = np.uint8(Checksum.RIGHT)
MISSING = np.uint32(CHECKSUM_MISSING)
NONE = -1  # no route
GET_HARDWARE_ADDRESS = 0x8927  # SIOCGIFHWADDR


class Routes:
    """Which route an address has: the one with the longest prefix.

    The prefixes divide all addresses into ranges; starts are their first addresses, and routes the
    number of the route of each range.
    """

    def __init__(self, prefixes: list[ipaddress.IPv4Network]) -> None:
        ends = [(int(p.network_address), int(p.broadcast_address) + 1) for p in prefixes]
        edges = [0, *(edge for pair in ends for edge in pair if edge < 2**32)]
        self.starts = np.unique(np.array(edges, np.uint32))
        self.routes = np.full(len(self.starts), NONE)
        for number in sorted(range(len(prefixes)), key=lambda i: prefixes[i].prefixlen):
            first, beyond = np.searchsorted(self.starts, np.array(ends[number], np.uint64))
            self.routes[first:beyond] = number

    def of(self, addresses: NDArray[np.uint32]) -> NDArray[np.intp]:
        """Returns the number of each address's route, or NONE."""
        found: NDArray[np.intp] = self.routes[
            np.searchsorted(self.starts, addresses, side="right") - 1
        ]
        return found


@dataclass
class Counts:
    """What became of the packets."""

    forwarded: int = 0
    not_ours: int = 0  # to another MAC address
    no_ipv4: int = 0  # or damaged, or its checksum is wrong
    no_route: int = 0
    expired: int = 0  # TTL 0 or 1

    def __str__(self) -> str:
        return (
            f"{self.forwarded} forwarded, {self.no_ipv4} not IPv4 or damaged, "
            f"{self.no_route} without a route, {self.expired} with no TTL left"
        )


class Table:
    """The routes, and the first 12 bytes of a frame for each: both MAC addresses."""

    def __init__(self, routes: Sequence[str], own: bytes) -> None:
        pairs = [text.rpartition("=")[::2] for text in routes]
        self.routes = Routes([ipaddress.IPv4Network(prefix) for prefix, _ in pairs])
        lines = b"".join(mac(text) + own for _, text in pairs)
        self.macs = np.frombuffer(lines, "V12")


def forward(
    burst: shmpool.Burst, table: Table, sink: Sink, counts: Counts, own: int | None = None
) -> None:
    """Forwards what may be forwarded of a burst, and frees the rest.

    own: only frames to this MAC address.
    """
    headers = burst.headers()
    good = headers.layers & READ == WANTED
    good &= burst.checksums(transport=False).ip == RIGHT
    good &= burst.lengths == original_lengths(burst)
    if own is not None:
        ours = headers.mac_dst == own
        good &= ours
        counts.not_ours += len(burst) - int(np.count_nonzero(ours))
        counts.no_ipv4 += int(np.count_nonzero(ours & ~good))
    else:
        counts.no_ipv4 += len(burst) - int(np.count_nonzero(good))
    route = table.routes.of(headers.dst4)
    routed = good & (route != NONE)
    counts.no_route += int(np.count_nonzero(good)) - int(np.count_nonzero(routed))
    burst, route = only(routed, burst, route)
    alive = burst.decrement_ttl()
    counts.expired += len(burst) - int(np.count_nonzero(alive))
    burst, route = only(alive, burst, route)
    burst.set_column(0, table.macs[route])
    missing = burst.marks & MISSING != 0
    if missing.any():
        burst.set_checksums(ip=False, where=missing)
    if len(burst):
        counts.forwarded += sink.drain(burst)
    else:
        burst.free()


def only(
    mask: NDArray[np.bool_], burst: shmpool.Burst, route: NDArray[np.intp]
) -> tuple[shmpool.Burst, NDArray[np.intp]]:
    """Frees the others. Mostly there are none."""
    if mask.all():
        return burst, route
    chosen = burst.select(mask)
    burst.free()
    return chosen, route[mask]


def mac(text: str) -> bytes:
    """Reads 02:00:00:00:00:01."""
    value = bytes.fromhex(text.replace(":", ""))
    if len(value) != 6:
        raise ValueError(f"{text} is not a MAC address of 6 bytes")
    return value


def mac_of(interface: str) -> bytes:
    """The MAC address of an interface of this network namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            got = fcntl.ioctl(
                sock, GET_HARDWARE_ADDRESS, struct.pack("40s", interface.encode()[:15])
            )
        except OSError as error:
            raise ValueError(f"{interface} is no interface, and no file: {error}") from None
    return got[18:24]


@dataclass
class Way:
    """One direction between two interfaces."""

    source: Source
    table: Table
    sink: Sink
    own: int
    rates: Rates
    counts: Counts = field(default_factory=Counts)
    error: Exception | None = None

    def run(self) -> None:
        for burst in received(self.source, self.rates):
            forward(burst, self.table, self.sink, self.counts, self.own)

    def run_beside(self, other: "Way") -> None:
        """Runs in a thread of its own. If it fails the other one ends too."""
        try:
            self.run()
        except (shmpool.ShmpoolError, OSError) as error:
            self.error = error
            other.source.close()


def both_ways(ways: list[Way]) -> None:
    """Runs the first way here and another one in a thread: most of the time both are in the kernel,
    without the interpreter's lock."""
    threads = [threading.Thread(target=way.run_beside, args=(ways[0],)) for way in ways[1:]]
    try:
        for thread in threads:
            thread.start()
        ways[0].run()
    finally:
        for way in ways:
            way.source.close()
        for thread in threads:
            thread.join()
    for way in ways:
        if way.error is not None:
            raise way.error


def between(
    near: str, far: str, routes: Sequence[str], back: Sequence[str], quiet: bool
) -> list[Counts]:
    """Forwards between two interfaces until Ctrl-C. Returns the counts of each way."""
    ways: list[Way] = []
    rates = Rates(quiet)
    with (
        shmpool.Pool.create(None, buffer_size=2048, capacity=16384) as pool,
        running(rates),
        ExitStack() as stack,
    ):
        for source, sink, prefixes in ((near, far, routes), (far, near, back)):
            if prefixes:
                table = Table(prefixes, mac_of(sink))
                ways.append(
                    Way(
                        stack.enter_context(PacketSource(pool, source)),
                        table,
                        stack.enter_context(PacketSink(pool, sink)),
                        int.from_bytes(mac_of(source), "big"),
                        Rates(quiet=True) if ways else rates,
                    )
                )
        both_ways(ways)
    return [way.counts for way in ways]


def file_to_file(near: Path, far: Path, routes: Sequence[str], own: str, size: int) -> Counts:
    counts = Counts()
    table = Table(routes, mac(own))
    with (
        shmpool.Pool.create(None, buffer_size=2048, capacity=1024) as pool,
        CaptureSource(pool, near) as source,
        CaptureSink(far, format="pcap-ns") as sink,
    ):
        for burst in source.bursts(size):
            refuse_other_links(source)
            forward(burst, table, sink, counts)
    return counts


@click.command(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: python -m clients.forward eth0 eth1 --route 192.0.2.0/24=02:00:00:00:00:80 "
    "--back 0.0.0.0/0=02:00:00:00:00:fe",
)
@click.argument("near", metavar="IN")
@click.argument("far", metavar="OUT")
@click.option("--mac", "own", help="The sender's MAC address in what is sent to a file.")
@click.option(
    "--route", "routes", multiple=True, required=True, help="PREFIX=MAC of the next router."
)
@click.option(
    "--back", multiple=True, help="The same of what OUT receives and IN sends (interfaces)."
)
@click.option("--burst", "size", type=click.IntRange(1, 256), default=256, show_default=True)
@click.option("--quiet", is_flag=True, help="Says only at the end what was forwarded.")
def main(
    near: str,
    far: str,
    own: str | None,
    routes: tuple[str, ...],
    back: tuple[str, ...],
    size: int,
    quiet: bool,
) -> None:
    """Forwards the IPv4 packets of IN to OUT: interfaces, until Ctrl-C, or a capture file (pcap or
    pcapng, Ethernet) and the name of another one (pcap)."""
    try:
        if not Path(near).exists():
            for counts, way in zip(
                between(near, far, routes, back, quiet), ("", "back: "), strict=False
            ):
                click.echo(f"{way}{counts}, {counts.not_ours} to others")
            return
        if own is None:
            raise click.UsageError("--mac is needed for files")
        click.echo(file_to_file(Path(near), Path(far), routes, own, size))
    except (ValueError, OSError, shmpool.ShmpoolError) as error:
        raise click.ClickException(str(error)) from None


if __name__ == "__main__":
    main()
