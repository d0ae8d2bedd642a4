# SPDX-License-Identifier: Apache-2.0
"""Writes packets of a queue, or of an interface, to capture files: python -m clients.record

The files may rotate by size and by time, and only the last ones may be kept: a recorder that runs
for months beside what it records.
"""

from collections.abc import Iterator
from pathlib import Path

import click

import shmpool
from shmpool.net import CaptureSink, PacketSource

from .rates import SECOND, Rates, latency_option, pool_of, received, running


def queued(queue: shmpool.AlfQueue, rates: Rates) -> Iterator[shmpool.Burst]:
    """Yields what is put into the queue until it is shut down."""
    while True:
        try:
            burst = queue.get_many(256, timeout=SECOND / 2)
        except shmpool.ShutDown:
            return
        except shmpool.Empty:
            rates.tick()
            continue
        rates.add(len(burst), int(burst.lengths.sum()))
        yield burst
        del burst
        rates.tick()


@click.command(
    epilog="Example: python -m clients.record trace.pcapng --pool rx --queue packets-0 "
    "--size 100000000 --files 10"
)
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--pool", "pool_name", help="The pool of the queue.")
@click.option("--queue", help="Records what is put into this queue.")
@click.option("--interface", help="Records what this interface receives and sends.")
@click.option("--filter", "filter_", help="An expression of tcpdump's language (interface).")
@latency_option
@click.option("--count", type=click.IntRange(1), help="Ends after so many packets (interface).")
@click.option("--size", type=click.IntRange(1), help="Begins a new file after so many bytes.")
@click.option("--seconds", type=click.FloatRange(0, min_open=True), help="And after so long.")
@click.option("--files", type=click.IntRange(1), help="Keeps so many of the last files.")
@click.option("--quiet", is_flag=True, help="Says only at the end what was written.")
def main(
    path: Path,
    pool_name: str | None,
    queue: str | None,
    interface: str | None,
    filter_: str | None,
    latency: float,
    count: int | None,
    size: int | None,
    seconds: float | None,
    files: int | None,
    quiet: bool,
) -> None:
    """Writes packets to PATH (.pcapng, or .pcapng.gz) until Ctrl-C, or the queue is shut down."""
    if (interface is None) == (queue is None or pool_name is None):
        raise click.UsageError("give either --interface, or --pool and --queue")
    rates = Rates(quiet)
    with (
        pool_of(pool_name) as pool,
        running(rates),
        CaptureSink(path, size=size, seconds=seconds, files=files) as sink,
    ):
        if interface is None:
            for burst in queued(pool.queue(str(queue)), rates):
                sink.drain(burst)
        else:
            with PacketSource(
                pool, interface, filter=filter_, latency=latency, outgoing=True
            ) as source:
                for burst in received(source, rates, count, latency):
                    sink.drain(burst)


if __name__ == "__main__":
    main()
