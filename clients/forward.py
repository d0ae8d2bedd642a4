# SPDX-License-Identifier: Apache-2.0
"""Forwards IPv4 and IPv6 packets as a router does: python -m clients.forward IN OUT --route ...

IN and OUT are interfaces, or capture files. A burst at a time: receive, look up the target's route,
rewrite the MAC addresses, make the TTL or hop limit one less (with the checksum of IPv4 updated),
send. No Python for a packet: a route is found for a whole burst by one binary search. What has no
route, a wrong checksum or no IP header is dropped and counted, and so is what stays on its link:
multicast, link-local addresses, neighbour discovery. Between interfaces a TTL of 1 is answered with
ICMP time exceeded, so traceroute shows the router.

A sender on this machine, behind a veth pair, leaves checksums to the hardware: they are computed
here. It must not leave the division into packets to it, nor the receiving interface put packets
together: `ethtool -K veth0 tso off gso off`, `ethtool -K eth0 gro off`. What is longer than a
buffer is counted as damaged, and what is longer than the MTU as refused.

With --xdp the interfaces' packets do not reach the system, which so answers no ARP and no neighbour
solicitation: the neighbours need entries for this router (`ip neighbour add`). Nothing says there
that a checksum is missing: a sender behind a veth pair needs `ethtool -K veth0 tx off`.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
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
    XdpSocket,
    original_lengths,
)
from shmpool.net.headers import Checksum, Headers, Layer

from .flows import refuse_other_links
from .rates import Rates, received, running
from .routes import LINK, NONE, OF_LINK, Routes, Table, addresses_of, mac, mac_of
from .time_exceeded import TimeExceeded

WANTED4 = np.uint32(Layer.ETHERNET | Layer.IPV4)
WANTED6 = np.uint32(Layer.ETHERNET | Layer.IPV6)
READ = WANTED4 | WANTED6 | np.uint32(Layer.BAD | Layer.TRUNCATED)
RIGHT = np.uint8(Checksum.RIGHT)
MISSING = np.uint32(CHECKSUM_MISSING)
ICMP6 = np.uint32(Layer.ICMP6)
SENDERS4, SENDERS6 = (Routes(OF_LINK[version]) for version in (4, 6))
# Types of ICMPv6 that stay on a link: of multicast listeners, and of neighbours.
LINK_TYPES = np.array([*range(130, 138), *range(141, 144), 148, 149], np.uint8)


@dataclass
class Counts:
    """What became of the packets."""

    forwarded: int = 0
    not_ours: int = 0  # to another MAC address
    no_ip: int = 0  # or damaged, or its checksum is wrong
    of_link: int = 0  # no router forwards these addresses and types
    no_route: int = 0
    expired: int = 0  # TTL 0 or 1

    def __str__(self) -> str:
        return (
            f"{self.forwarded} forwarded, {self.no_ip} not IP or damaged, "
            f"{self.of_link} of their link, {self.no_route} without a route, "
            f"{self.expired} with no TTL left"
        )


def of_link(
    headers: Headers, route: NDArray[np.intp], is_six: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """The packets that stay on their link: an address is of a link, of this host, none, multicast
    or broadcast; or it is of neighbour discovery or of multicast listeners."""
    mask: NDArray[np.bool_] = SENDERS4.of(headers.src4) != NONE
    if is_six.any():
        mask[is_six] = SENDERS6.of(headers.src[is_six]) != NONE
        mask |= (headers.layers & ICMP6 != 0) & np.isin(headers.icmp_type, LINK_TYPES)
    mask |= route == LINK
    return mask


def forward(
    burst: shmpool.Burst,
    table: Table,
    sink: Sink,
    counts: Counts,
    own: int | None = None,
    answers: TimeExceeded | None = None,
) -> None:
    """Forwards what may be forwarded of a burst, and frees the rest.

    own: only frames to this MAC address. answers: to packets whose TTL is used up.
    """
    headers = burst.headers()
    layers = headers.layers & READ
    is_six = layers == WANTED6
    good = layers == WANTED4
    if good.any():
        good &= burst.checksums(transport=False).ip == RIGHT
    good |= is_six
    good &= burst.lengths == original_lengths(burst)
    if own is not None:
        ours = headers.mac_dst == own
        good &= ours
        counts.not_ours += len(burst) - int(np.count_nonzero(ours))
        counts.no_ip += int(np.count_nonzero(ours)) - int(np.count_nonzero(good))
    else:
        counts.no_ip += len(burst) - int(np.count_nonzero(good))
    route = table.of(headers.dst4, headers.dst, is_six)
    stays = of_link(headers, route, is_six)
    routed = good & ~stays & (route != NONE)
    if not routed.all():
        links = int(np.count_nonzero(good & stays))
        counts.of_link += links
        counts.no_route += int(np.count_nonzero(good)) - links - int(np.count_nonzero(routed))
    burst, route = only(routed, burst, route)
    alive = burst.decrement_ttl()
    if not alive.all():
        expired = burst.select(~alive)
        counts.expired += len(expired)
        route = route[alive]
        if answers is not None:
            answers.answer(expired, headers[np.flatnonzero(routed)[~alive]])
        expired.free()
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


@dataclass
class Way:
    """One direction between two interfaces."""

    source: Source
    table: Table
    sink: Sink
    own: int
    rates: Rates
    answers: TimeExceeded
    counts: Counts = field(default_factory=Counts)
    error: Exception | None = None

    def run(self) -> None:
        with suppress(shmpool.ShutDown):  # of an XdpSocket, which the other way's end closed
            for burst in received(self.source, self.rates):
                forward(burst, self.table, self.sink, self.counts, self.own, self.answers)

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


def through_xdp(pool: shmpool.Pool, interface: str) -> XdpSocket:
    """A socket for all packets of an interface, or a word on why there is none."""
    queues = len(list(Path(f"/sys/class/net/{interface}/queues").glob("rx-*")))
    if queues > 1:
        raise ValueError(
            f"{interface} has {queues} receive queues; --xdp serves one: "
            f"`ethtool -L {interface} combined 1`"
        )
    try:
        return XdpSocket(pool, interface)
    except shmpool.ShmpoolError as error:
        raise ValueError(f"--xdp: {error}") from None


@contextmanager
def ends(
    pool: shmpool.Pool, pairs: Sequence[tuple[str, str]], xdp: bool
) -> Iterator[list[tuple[Source, Sink]]]:
    """Opens the source and the sink of each direction. An XdpSocket is both, of two directions."""
    with ExitStack() as stack:
        sockets: dict[str, XdpSocket] = {}
        if xdp:
            for source, _ in pairs:
                sockets[source] = stack.enter_context(through_xdp(pool, source))
        found: list[tuple[Source, Sink]] = []
        for source, sink in pairs:
            one = sockets.get(source) or stack.enter_context(PacketSource(pool, source))
            other = sockets.get(sink) or stack.enter_context(PacketSink(pool, sink))
            found.append((one, other))
        yield found


def between(
    near: str, far: str, routes: Sequence[str], back: Sequence[str], xdp: bool, quiet: bool
) -> list[Way]:
    """Forwards between two interfaces until Ctrl-C. Returns the ways that packets went."""
    rates = Rates(quiet)
    pairs = [(near, far), (far, near)][: 2 if back else 1]
    with (
        shmpool.Pool.create(None, buffer_size=2048, capacity=16384) as pool,
        running(rates),
        ExitStack() as stack,
    ):
        ways: list[Way] = []
        tables = [
            Table(prefixes, mac_of(sink))
            for (_, sink), prefixes in zip(pairs, (routes, back), strict=False)
        ]
        opened = stack.enter_context(ends(pool, pairs, xdp))
        for (name, _), table, (source, sink) in zip(pairs, tables, opened, strict=True):
            own = mac_of(name)
            ways.append(
                Way(
                    source,
                    table,
                    sink,
                    int.from_bytes(own, "big"),
                    Rates(quiet=True) if ways else rates,
                    TimeExceeded(
                        pool,
                        stack.enter_context(PacketSink(pool, name)),
                        own,
                        addresses_of(name),
                    ),
                )
            )
        both_ways(ways)
        return ways


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
@click.option("--xdp", is_flag=True, help="Through AF_XDP, queue 0 of interfaces; or says why not.")
@click.option("--burst", "size", type=click.IntRange(1, 256), default=256, show_default=True)
@click.option("--quiet", is_flag=True, help="Says only at the end what was forwarded.")
def main(
    near: str,
    far: str,
    own: str | None,
    routes: tuple[str, ...],
    back: tuple[str, ...],
    size: int,
    xdp: bool,
    quiet: bool,
) -> None:
    """Forwards the IPv4 and IPv6 packets of IN to OUT: interfaces, until Ctrl-C, or a capture file
    (pcap or pcapng, Ethernet) and the name of another one (pcap)."""
    try:
        if not Path(near).exists():
            for way, name in zip(
                between(near, far, routes, back, xdp, quiet), ("", "back: "), strict=False
            ):
                others = f"{way.counts.not_ours} to others, {way.answers.sent} answered"
                click.echo(f"{name}{way.counts}, {others}")
            return
        if xdp:
            raise click.UsageError("--xdp is for interfaces")
        if own is None:
            raise click.UsageError("--mac is needed for files")
        click.echo(file_to_file(Path(near), Path(far), routes, own, size))
    except (ValueError, OSError, shmpool.ShmpoolError) as error:
        raise click.ClickException(str(error)) from None


if __name__ == "__main__":
    main()
