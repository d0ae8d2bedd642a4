# SPDX-License-Identifier: Apache-2.0
"""Measures how a queue scales with pairs of processes: python -m clients.bench.lanes

n producers send 64 B messages and n consumers receive them: through one ring, through lanes,
through lanes that are added as producers contend ("auto"), and through a queue for each pair, which
is the most that lanes can reach. Each process has a core of its own while there are enough. The
ways take turns, several times; the table has medians.
"""

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import click
from rich.console import Console
from rich.progress import track
from rich.table import Table

import shmpool

from ..children import uninterrupted
from .recovery import forked, kill

MESSAGE = bytes(64)
CAPACITY = 16384  # of all lanes, or all queues, together
WAYS = ("one ring", "lanes", "auto", "a queue each")


def options(way: str, pairs: int) -> dict[str, Any]:
    """The options of a queue."""
    if way == "a queue each":
        return {"capacity": CAPACITY // pairs}
    # With one lane a queue is one ring.
    return {"capacity": CAPACITY, "lanes": {"lanes": max(2, pairs), "auto": "auto"}.get(way, 1)}


def pinned(core: int, run: Callable[[], None]) -> Callable[[], None]:
    """The same on one core, of those that there are."""

    def pin_and_run() -> None:
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[core % len(cores)]})
        run()

    return pin_and_run


def measure(way: str, pairs: int, n: int, bulk: int) -> float:
    """Messages a second of all pairs together: each producer sends n."""
    payloads = [MESSAGE] * bulk
    ready, release = os.pipe(), os.pipe()
    children: list[int] = []
    with shmpool.Pool.create(
        None, buffer_size=64, capacity=4 * CAPACITY, prealloc=4 * CAPACITY, members=4 * pairs + 8,
        queues=2 * pairs + 64,
    ) as pool:  # fmt: skip
        queues = [
            pool.create_queue(f"q{i}", **options(way, pairs))
            for i in range(pairs if way == "a queue each" else 1)
        ]

        def begin() -> None:
            os.write(ready[1], b"x")
            os.read(release[0], 1)

        def produce(queue: shmpool.AlfQueue) -> None:
            begin()
            for _ in range(n // bulk):
                queue.send_many(payloads) if bulk > 1 else queue.send(MESSAGE)

        def consume(queue: shmpool.AlfQueue) -> None:
            begin()
            try:
                while True:
                    queue.recv_many(bulk) if bulk > 1 else queue.recv()
            except shmpool.ShutDown:
                os.write(ready[1], b"x")

        try:
            for i in range(pairs):
                queue = queues[i % len(queues)]
                for side, run in enumerate((produce, consume)):
                    job = pinned(2 * i + side, lambda run=run, queue=queue: run(queue))  # type: ignore[misc]
                    with uninterrupted():
                        children.append(forked(job))
            for _ in children:
                os.read(ready[0], 1)
            start = time.perf_counter()
            os.write(release[1], b"x" * len(children))
            for pid in children[::2]:
                os.waitpid(pid, 0)
            for queue in queues:
                queue.shutdown()
            for _ in range(pairs):
                os.read(ready[0], 1)
            return pairs * (n // bulk) * bulk / (time.perf_counter() - start)
        finally:
            for pid in children[1::2]:
                kill(pid)
            for end in (*ready, *release):
                os.close(end)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--pairs", multiple=True, type=int, help="Pairs of processes; may be repeated.")
@click.option("--bulk", default=1, show_default=True, help="Messages of one call.")
@click.option("--messages", default=200_000, show_default=True, help="Messages of each producer.")
@click.option("--turns", default=5, show_default=True, help="Measurements of each way.")
def main(pairs: tuple[int, ...], bulk: int, messages: int, turns: int) -> None:
    """Measure how one queue scales with pairs of processes.

    Example: python -m clients.bench.lanes --pairs 1 --pairs 2 --pairs 8
    """
    cores = len(os.sched_getaffinity(0))
    counts = pairs or tuple(n for n in (1, 2, 4, 8, 16) if 2 * n <= cores) or (1,)
    rates: dict[tuple[int, str], list[float]] = {}
    work = [(n, way) for _ in range(turns) for n in counts for way in WAYS]
    for n, way in track(work, "measuring", transient=True):
        rates.setdefault((n, way), []).append(measure(way, n, messages, bulk))
    table = Table(
        "pairs", *(f"{way}, M/s" for way in WAYS), "lanes / one ring", "lanes / a queue each"
    )
    for n in counts:
        median = [statistics.median(rates[n, way]) / 1e6 for way in WAYS]
        table.add_row(
            f"{n}",
            *(f"{rate:.2f}" for rate in median),
            f"{median[1] / median[0]:.2f}",
            f"{median[1] / median[3]:.2f}",
        )
    Console().print(table)
    print(f"{cores} cores; 64 B messages, {bulk} a call")


if __name__ == "__main__":
    main()
