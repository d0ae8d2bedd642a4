# SPDX-License-Identifier: Apache-2.0
"""Forwards IPv4 packets as a router does: python -m clients.forward IN OUT --route ...

A burst at a time: receive, look up the target's route, rewrite the MAC addresses, make the TTL one
less with the checksum updated, send. No Python for a packet: a route is found for a whole burst by
one binary search. What has no route, a TTL of 1, a wrong checksum or no IPv4 header is dropped and
counted.
"""

import ipaddress
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

import shmpool
from shmpool.net import CaptureSink, CaptureSource, Sink
from shmpool.net.headers import Checksum, Layer

from .flows import refuse_other_links

DAMAGED = Layer.BAD | Layer.TRUNCATED
NONE = -1  # no route


class Routes:
    """Which route an address has: the one with the longest prefix.

    The prefixes divide all addresses into ranges; starts are their first addresses, and routes the
    number of the route of each range.
    """

    def __init__(self, prefixes: list[ipaddress.IPv4Network]) -> None:
        ends = [(int(p.network_address), int(p.broadcast_address) + 1) for p in prefixes]
        self.starts = np.unique([0, *(edge for pair in ends for edge in pair if edge < 2**32)])
        self.routes = np.full(len(self.starts), NONE)
        for number in sorted(range(len(prefixes)), key=lambda i: prefixes[i].prefixlen):
            first, beyond = np.searchsorted(self.starts, ends[number])
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
    no_ipv4: int = 0  # or damaged, or its checksum is wrong
    no_route: int = 0
    expired: int = 0  # TTL 0 or 1


def forward(
    burst: shmpool.Burst, routes: Routes, macs: NDArray[np.uint8], sink: Sink, counts: Counts
) -> None:
    """Forwards what may be forwarded of a burst, and frees the rest.

    macs has the first 12 bytes of a frame for each route: both MAC addresses.
    """
    headers = burst.headers()
    good = headers.has(Layer.ETHERNET | Layer.IPV4) & (headers.layers & np.uint32(DAMAGED) == 0)
    good &= burst.checksums().ip == Checksum.RIGHT
    counts.no_ipv4 += int(np.count_nonzero(~good))
    route = routes.of(headers.dst4)
    routed = good & (route != NONE)
    counts.no_route += int(np.count_nonzero(good & ~routed))
    going = burst.select(routed)
    alive = going.decrement_ttl()
    counts.expired += int(np.count_nonzero(~alive))
    leaving = going.select(alive)
    leaving.set_column(0, macs[route[routed][alive]], "(12,)u1")
    counts.forwarded += len(leaving)
    sink.drain(leaving)
    going.free()
    burst.free()


def mac(text: str) -> bytes:
    """Reads 02:00:00:00:00:01."""
    value = bytes.fromhex(text.replace(":", ""))
    if len(value) != 6:
        raise ValueError(f"{text} is not a MAC address of 6 bytes")
    return value


@click.command(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: python -m clients.forward in.pcap out.pcap --mac 02:00:00:00:00:01 "
    "--route 192.0.2.0/24=02:00:00:00:00:80 --route 0.0.0.0/0=02:00:00:00:00:fe",
)
@click.argument("capture", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--mac", "own", required=True, help="The sender's MAC address in what is sent.")
@click.option(
    "--route", "routes", multiple=True, required=True, help="PREFIX=MAC of the next router."
)
@click.option("--burst", "size", type=click.IntRange(1, 256), default=256, show_default=True)
def main(capture: Path, out: Path, own: str, routes: tuple[str, ...], size: int) -> None:
    """Forwards the IPv4 packets of CAPTURE (pcap or pcapng, Ethernet) to OUT (pcap)."""
    counts = Counts()
    try:
        pairs = [text.rpartition("=")[::2] for text in routes]
        table = Routes([ipaddress.IPv4Network(prefix) for prefix, _ in pairs])
        lines = b"".join(mac(text) + mac(own) for _, text in pairs)
        macs = np.frombuffer(lines, np.uint8).reshape(-1, 12)
        with (
            shmpool.Pool.create(None, buffer_size=2048, capacity=1024) as pool,
            CaptureSource(pool, capture) as source,
            CaptureSink(out, format="pcap-ns") as sink,
        ):
            for burst in source.bursts(size):
                refuse_other_links(source)
                forward(burst, table, macs, sink, counts)
    except (ValueError, OSError, shmpool.ShmpoolError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(
        f"{counts.forwarded} forwarded, {counts.no_ipv4} not IPv4 or damaged, "
        f"{counts.no_route} without a route, {counts.expired} with no TTL left"
    )


if __name__ == "__main__":
    main()
