# SPDX-License-Identifier: Apache-2.0
"""Sends each datagram back to where it came from: python -m clients.udp_echo --port 7"""

import click

import shmpool
from shmpool.net import UdpSocket

from .rates import SECOND, Rates, pool_of, running


def echo(sock: UdpSocket, rates: Rates, count: int | None) -> None:
    rates.note = lambda: f"{sock.statistics().dropped:,} dropped"
    while count is None or rates.packets < count:
        try:
            burst, senders = sock.get_many_from(timeout=SECOND / 2)
        except shmpool.Empty:
            rates.tick()
            continue
        octets = int(burst.lengths.sum())
        rates.add(sock.drain(burst, to=senders), octets)
        rates.tick()


@click.command(epilog="Example: python -m clients.udp_echo --port 9000")
@click.option("--host", default="0.0.0.0", show_default=True)  # noqa: S104 - a server
@click.option("--port", type=click.IntRange(0, 65535), default=9000, show_default=True)
@click.option("--count", type=click.IntRange(1), help="Ends after so many datagrams.")
@click.option("--quiet", is_flag=True, help="Says only at the end what was echoed.")
def main(host: str, port: int, count: int | None, quiet: bool) -> None:
    """Echoes the datagrams that come to a port. Ctrl-C ends it."""
    rates = Rates(quiet)
    with (
        pool_of(None) as pool,
        running(rates),
        UdpSocket(pool, (host, port), receive_buffer=8 << 20) as sock,
    ):
        click.echo(f"listening at {sock.address[0]} port {sock.address[1]}", err=True)
        echo(sock, rates, count)


if __name__ == "__main__":
    main()
