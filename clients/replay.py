# SPDX-License-Identifier: Apache-2.0
"""Sends the packets of a capture file to an interface: python -m clients.replay trace.pcapng eth0

At its own pace, at a multiple of it, at a number of packets a second, or as fast as it goes. What
is due is sent together: one call for all packets of a millisecond.
"""

import time
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

import shmpool
from shmpool.net import CaptureSource, PacketSink

from .rates import Rates, pool_of, running

TOGETHER_NS = 1_000_000


class Pace:
    """When each packet is due: ns after the first one."""

    def __init__(self, speed: float, rate: float | None) -> None:
        self.speed, self.rate = speed, rate
        self.sent = 0
        self.first: int | None = None

    def due(self, burst: shmpool.Burst) -> NDArray[np.int64]:
        n = len(burst)
        if self.rate is not None:
            due = (np.arange(self.sent, self.sent + n) / self.rate * 1e9).astype(np.int64)
        elif self.speed == 0:
            due = np.zeros(n, np.int64)
        else:
            times = burst.timestamps
            self.first = int(times[0]) if self.first is None else self.first
            due = ((times - self.first) / self.speed).astype(np.int64)
        self.sent += n
        # What is out of order in the file is sent in the file's order.
        return np.maximum.accumulate(due)


def replay(source: CaptureSource, sink: PacketSink, pace: Pace, rates: Rates) -> None:
    began = None
    for burst in source.bursts():
        due = pace.due(burst)
        while len(burst):
            now = time.monotonic_ns()
            began = now - int(due[0]) if began is None else began
            n = int(np.searchsorted(due, now - began, side="right"))
            if n:
                part, due = burst[:n], due[n:]
                octets = int(part.lengths.sum())
                rates.add(sink.drain(part), octets)
                rates.tick()
            else:
                time.sleep(max(int(due[0]) - (now - began), TOGETHER_NS) / 1e9)
        burst.free()


@click.command(epilog="Example: python -m clients.replay trace.pcapng eth0 --rate 100000")
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.argument("interface")
@click.option(
    "--speed",
    type=click.FloatRange(0),
    default=1.0,
    show_default=True,
    help="So many times as fast as it was recorded; 0: as fast as it goes.",
)
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="Packets a second instead.")
@click.option("--loops", type=click.IntRange(1), default=1, show_default=True)
@click.option("--quiet", is_flag=True, help="Says only at the end what was sent.")
def main(
    path: Path, interface: str, speed: float, rate: float | None, loops: int, quiet: bool
) -> None:
    """Sends the packets of PATH (pcap or pcapng) to INTERFACE. Ctrl-C ends it."""
    rates = Rates(quiet)
    with (
        pool_of(None, size=65536, capacity=4096) as pool,
        running(rates),
        PacketSink(pool, interface) as sink,
    ):
        rates.note = lambda: f"{sink.sent().refused:,} refused"
        for _ in range(loops):
            with CaptureSource(pool, path) as source:
                replay(source, sink, Pace(speed, rate), rates)


if __name__ == "__main__":
    main()
