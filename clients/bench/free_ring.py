# SPDX-License-Identifier: Apache-2.0
"""Counts how often processes meet in the free ring: python -m clients.bench.free_ring

n producers send messages and n consumers receive them, each pair through a queue of its own, so
that the free ring is all that the pairs share: every buffer is freed by another process than the
one that allocated it. Prints how many compare-and-swaps of the free ring's two positions a message
costs, from the pool's counters, which do not depend on the machine; how fast the pairs are
against as many with a pool each, which share nothing; and how fast with free_rings.
"""

import os
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import click
from rich.console import Console
from rich.progress import track
from rich.table import Table

import shmpool

from .lanes import pinned
from .recovery import forked, kill

CAPACITY = 16384  # of all queues together
MESSAGE = bytes(64)


def produce(queue: shmpool.AlfQueue, n: int, bulk: int) -> None:
    if bulk == 1:
        for _ in range(n):
            queue.send(MESSAGE)
        return
    payloads = [MESSAGE] * bulk
    for _ in range(n // bulk):
        queue.send_many(payloads)


def consume(queue: shmpool.AlfQueue, bulk: int) -> None:
    """Receives until the queue is shut down."""
    try:
        while True:
            queue.recv_many(bulk) if bulk > 1 else queue.recv()
    except shmpool.ShutDown:
        pass


def run(queues: Sequence[shmpool.AlfQueue], n: int, bulk: int) -> float:
    """Returns the seconds until all messages of all pairs were received."""
    ready, release, children = os.pipe(), os.pipe(), []

    def begin(work: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            os.write(ready[1], b"x")
            os.read(release[0], 1)
            work()

        return run

    for i, queue in enumerate(queues):
        sides = (lambda q=queue: produce(q, n, bulk), lambda q=queue: consume(q, bulk))
        children += [forked(pinned(2 * i + k, begin(side))) for k, side in enumerate(sides)]
    try:
        for _ in children:
            os.read(ready[0], 1)
        start = time.perf_counter()
        os.write(release[1], b"x" * len(children))
        for pid in children[::2]:
            os.waitpid(pid, 0)
        for queue in queues:
            queue.shutdown()
        for pid in children[1::2]:
            os.waitpid(pid, 0)
        return time.perf_counter() - start
    except BaseException:
        for pid in children:
            kill(pid)
        raise
    finally:
        for end in (*ready, *release):
            os.close(end)


def measure(pairs: int, pools: int, n: int, bulk: int, rings: int) -> tuple[float, float, float]:
    """Returns messages a second, and refills and flushes for each message."""
    with ExitStack() as stack:
        made = [
            stack.enter_context(
                shmpool.Pool.create(
                    None,
                    buffer_size=64,
                    capacity=4 * CAPACITY,
                    prealloc=4 * CAPACITY,
                    free_rings=rings,
                )
            )
            for _ in range(pools)
        ]
        queues = [
            made[i % pools].create_queue(f"q{i}", capacity=CAPACITY // pairs) for i in range(pairs)
        ]
        seconds = run(queues, n, bulk)
        counters = [pool.stats().counters for pool in made]
        sent = sum(one["enqueue"] for one in counters)
        refills, flushes = (sum(one[name] for one in counters) for name in ("refill", "flush"))
        return sent / seconds, refills / sent, flushes / sent


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--pairs", multiple=True, type=int, help="Pairs of processes; may be repeated.")
@click.option("--messages", default=100_000, show_default=True, help="Messages of each producer.")
@click.option("--turns", default=3, show_default=True, help="Measurements of each way.")
@click.option("--rings", default=8, show_default=True, help="free_rings of the third way.")
def main(pairs: tuple[int, ...], messages: int, turns: int, rings: int) -> None:
    """Count how often processes meet in the free ring.

    Example: python -m clients.bench.free_ring --pairs 1 --pairs 8
    """
    cores = len(os.sched_getaffinity(0))
    counts = pairs or (1, 2, 4, 8)
    ways = (
        (n, pools, with_rings) for n in counts for pools, with_rings in ((1, 0), (n, 0), (1, rings))
    )
    work = [(n, bulk, *way) for n, *way in ways for bulk in (1, 32)] * turns
    found: dict[tuple[int, ...], list[tuple[float, float, float]]] = {}
    for n, bulk, pools, some in track(work, "measuring", transient=True):
        one = measure(n, pools, messages, bulk, some)
        found.setdefault((n, bulk, pools, some), []).append(one)
    table = Table(
        "pairs", "messages a call", "one pool, M/s", "refills a message", "flushes a message",
        "one pool / a pool each", "rings / one pool",
    )  # fmt: skip
    for n in counts:
        for bulk in (1, 32):
            rate, refills, flushes = (
                statistics.median(one[i] for one in found[n, bulk, 1, 0]) for i in range(3)
            )
            each = statistics.median(one[0] for one in found[n, bulk, n, 0])
            shared = statistics.median(one[0] for one in found[n, bulk, 1, rings])
            table.add_row(
                f"{n}", f"{bulk}", f"{rate / 1e6:.2f}", f"{refills:.4f}", f"{flushes:.4f}",
                f"{rate / each:.2f}", f"{shared / rate:.2f}",
            )  # fmt: skip
    Console(width=110).print(table)
    print(f"{cores} cores; 64 B messages")


if __name__ == "__main__":
    main()
