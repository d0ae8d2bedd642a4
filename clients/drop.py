# SPDX-License-Identifier: Apache-2.0
"""Receives every packet of an interface and drops it: python -m clients.drop eth0

What is left to do for a program that does nothing: the case "drop" of the measurements.
"""

import click

from shmpool.net import PacketSource, XdpSocket

from .rates import Rates, pool_of, received, running


@click.command(epilog="Example: python -m clients.drop eth0 --filter 'udp port 53' --count 1000000")
@click.argument("interface")
@click.option("--filter", "filter_", help="An expression of tcpdump's language.")
@click.option("--count", type=click.IntRange(1), help="Ends after so many packets.")
@click.option("--promiscuous", is_flag=True, help="Packets for other stations too.")
@click.option("--xdp", is_flag=True, help="Through AF_XDP, from queue 0; without a filter.")
@click.option("--quiet", is_flag=True, help="Says only at the end what was received.")
def main(
    interface: str,
    filter_: str | None,
    count: int | None,
    promiscuous: bool,
    xdp: bool,
    quiet: bool,
) -> None:
    """Receives the packets of INTERFACE and drops them. Ctrl-C ends it."""
    if xdp and (filter_ or promiscuous):
        raise click.UsageError("--xdp takes every packet of a queue: no --filter, no --promiscuous")
    rates = Rates(quiet)
    with (
        pool_of(None) as pool,
        running(rates),
        (
            XdpSocket(pool, interface)
            if xdp
            else PacketSource(pool, interface, filter=filter_, promiscuous=promiscuous)
        ) as source,
    ):
        for burst in received(source, rates, count):
            burst.free()


if __name__ == "__main__":
    main()
