# SPDX-License-Identifier: Apache-2.0
"""Receives datagrams and drops them: python -m clients.udp_sink --port 9000"""

import click

from shmpool.net import UdpSocket

from .rates import Rates, pool_of, received, running


@click.command(epilog="Example: python -m clients.udp_sink --port 9000 --gro")
@click.option("--host", default="0.0.0.0", show_default=True)  # noqa: S104 - a server
@click.option("--port", type=click.IntRange(0, 65535), default=9000, show_default=True)
@click.option("--count", type=click.IntRange(1), help="Ends after so many datagrams.")
@click.option("--gro", is_flag=True, help="The kernel hands datagrams of a sender over together.")
@click.option("--quiet", is_flag=True, help="Says only at the end what was received.")
def main(host: str, port: int, count: int | None, gro: bool, quiet: bool) -> None:
    """Receives the datagrams that come to a port, and drops them. Ctrl-C ends it."""
    rates = Rates(quiet)
    with (
        pool_of(None) as pool,
        running(rates),
        UdpSocket(pool, (host, port), gro=gro, receive_buffer=8 << 20) as sock,
    ):
        click.echo(f"listening at {sock.address[0]} port {sock.address[1]}", err=True)
        for burst in received(sock, rates, count):
            burst.free()


if __name__ == "__main__":
    main()
