# SPDX-License-Identifier: Apache-2.0
"""Puts packets of an interface, or of a file, into queues: python -m clients.capture rx eth0

One process receives. It makes the queues QUEUE-0, QUEUE-1 and so on in a pool; workers in any
process get bursts from them. Packets of an interface are shared out by the hash of their flow that
the kernel computes, so a worker sees whole flows and no other worker does; those of a file burst by
burst. What a worker that is too slow has no room for is dropped and counted, and delays nobody.

At the end the queues are shut down: each worker gets ShutDown when it has taken the last packet.
"""

from pathlib import Path

import click

import shmpool
from shmpool.net import CaptureSource, PacketSource, Source, XdpSocket

from .rates import LATENCY_S, Rates, latency_option, pool_of, received, running


def share_out(
    source: Source,
    queues: list[shmpool.AlfQueue],
    rates: Rates,
    whole: bool,
    latency: float,
    dropped: list[int],
) -> None:
    """Puts each burst into the queues. whole: without hashes; then it waits for room. Appends to
    dropped how many packets of a burst had none."""
    turn = 0
    for burst in received(source, rates, latency=latency):
        if whole:
            queues[turn % len(queues)].put_many(burst)
            turn += 1
            continue
        try:
            hashes = burst.flow_hash() if isinstance(source, XdpSocket) else burst.flow_hashes
            burst.spread(queues, hashes, timeout=0)
        except shmpool.Full:
            dropped.append(len(burst))
            burst.free()


@click.command(
    epilog="Example: python -m clients.capture rx eth0 --queue work --workers 4 --filter tcp"
)
@click.argument("pool_name", metavar="POOL")
@click.argument("source_name", metavar="INTERFACE_OR_FILE")
@click.option("--queue", default="packets", show_default=True, help="First part of their names.")
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True)
@click.option("--depth", type=click.IntRange(1), default=16384, show_default=True)
@click.option("--filter", "filter_", help="An expression of tcpdump's language (interface).")
@latency_option
@click.option("--promiscuous", is_flag=True, help="Packets for other stations too (interface).")
@click.option("--xdp", is_flag=True, help="Through AF_XDP, from queue 0; no filter (interface).")
@click.option("--quiet", is_flag=True, help="Says only at the end what was received.")
def main(
    pool_name: str,
    source_name: str,
    queue: str,
    workers: int,
    depth: int,
    filter_: str | None,
    latency: float,
    promiscuous: bool,
    xdp: bool,
    quiet: bool,
) -> None:
    """Receives packets of INTERFACE_OR_FILE into queues of POOL, which exists. Ctrl-C ends it."""
    if xdp and (filter_ or promiscuous or latency != LATENCY_S):
        raise click.UsageError(
            "--xdp takes every packet of a queue at once: no --filter, no --promiscuous, no "
            "--latency"
        )
    rates = Rates(quiet)
    dropped: list[int] = []
    with pool_of(pool_name) as pool, running(rates):
        queues = [pool.create_queue(f"{queue}-{i}", capacity=depth) for i in range(workers)]
        is_file = Path(source_name).exists()
        with (
            CaptureSource(pool, source_name)
            if is_file
            else XdpSocket(pool, source_name)
            if xdp
            else PacketSource(
                pool,
                source_name,
                filter=filter_,
                latency=latency,
                promiscuous=promiscuous,
                hash=True,
            )
        ) as source:
            try:
                kept_back = latency if isinstance(source, PacketSource) else 0.0
                share_out(source, queues, rates, is_file, kept_back, dropped)
            finally:
                for one in queues:
                    one.shutdown()
    if dropped:
        click.echo(
            f"{sum(dropped):,} packets were dropped: their worker's queue was full", err=True
        )


if __name__ == "__main__":
    main()
