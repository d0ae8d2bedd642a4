# SPDX-License-Identifier: Apache-2.0
"""Measures large messages between processes: python -m clients.bench.warm

A message that is written where the previous one was is written into a processor's cache; one that
is written into memory that nobody has used for a while is not. So what a large message costs
depends on how many buffers take turns. The contestants differ in the options of their pools only:

    default          what Pool.create() makes of the buffer size and the capacity
    all at once      the same with all buffers created beforehand: as many as possible take turns
    no cache         threads have no caches: freed buffers go to the free ring, oldest first
    as few as needed no cache, and only as many buffers as the queue and the processes need

They take turns, several times; the table has medians, in thousands of messages a second. Producers
and consumers each have a core, in turns if there are fewer cores.
"""

import ctypes
import os
import statistics
import time
from typing import Any

import click
from rich.console import Console
from rich.progress import track
from rich.table import Table

import shmpool

from ..children import uninterrupted
from .lanes import pinned
from .recovery import forked, kill

CAPACITY = 256  # buffers
MANY = 8  # messages of a send_many()
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt(3)
POOLS = ("default", "all at once", "no cache", "as few as needed")
CALLS = ("send", "send_many", "Buffer")


def options(pool: str, pairs: int, depth: int, calls: str) -> dict[str, Any]:
    """The options of a contestant's pool."""
    if pool == "as few as needed":
        each = MANY if calls == "send_many" else 1
        return {"capacity": 1 << (depth + 2 * pairs * each).bit_length(), "cache_size": 0}
    return {
        "default": {"capacity": CAPACITY},
        "all at once": {"capacity": CAPACITY, "prealloc": CAPACITY},
        "no cache": {"capacity": CAPACITY, "cache_size": 0},
    }[pool]


def producing(pool: shmpool.Pool, queue: shmpool.AlfQueue, calls: str, n: int) -> None:
    message = bytes(range(256)) * (pool.buffer_size // 256)
    if calls == "send_many":
        for _ in range(n // MANY):
            queue.send_many([message] * MANY)
        return
    for _ in range(n):
        if calls == "send":
            queue.send(message)
        else:
            buffer = pool.alloc()
            buffer.write(message)
            queue.put(buffer)


def consuming(queue: shmpool.AlfQueue, calls: str) -> None:
    """Reads every byte of the messages until the queue is shut down."""
    while True:
        if calls == "send_many":
            queue.recv_many(MANY)
        elif calls == "send":
            queue.recv()
        else:
            with queue.get() as buffer:
                bytes(buffer)


def measure(
    options: dict[str, Any], calls: str, pairs: int, size: int, depth: int, seconds: float
) -> float:
    """Messages a second of all pairs together."""
    ready, release = os.pipe(), os.pipe()
    children: list[int] = []
    n = 4 * max(1, int(seconds * (2e9 / size) / pairs) // 4)
    with shmpool.Pool.create(None, buffer_size=size, members=32, populate=True, **options) as pool:
        queue = pool.create_queue("q", capacity=depth)

        def begin() -> None:
            os.write(ready[1], b"x")
            os.read(release[0], 1)

        def keep_memory() -> None:
            """Otherwise the kernel gives malloc new pages for every message that is received."""
            libc = ctypes.CDLL(None)
            libc.mallopt(M_TRIM_THRESHOLD, 1 << 28)
            libc.mallopt(M_MMAP_THRESHOLD, 32 << 20)

        def produce() -> None:
            keep_memory()
            producing(pool, queue, calls, 2 * CAPACITY // pairs)
            begin()
            producing(pool, queue, calls, max(MANY, n))

        def consume() -> None:
            keep_memory()
            os.write(ready[1], b"x")
            try:
                consuming(queue, calls)
            except shmpool.ShutDown:
                os.write(ready[1], b"x")

        try:
            for i in range(pairs):
                for side, run in enumerate((produce, consume)):
                    with uninterrupted():
                        children.append(forked(pinned(2 * i + side, run)))
            for _ in children:
                os.read(ready[0], 1)
            start = time.perf_counter()
            os.write(release[1], b"x" * pairs)
            for pid in children[::2]:
                os.waitpid(pid, 0)
            queue.shutdown()
            for _ in range(pairs):
                os.read(ready[0], 1)
            each = n // MANY * MANY if calls == "send_many" else n
            return pairs * max(MANY, each) / (time.perf_counter() - start)
        finally:
            for pid in children[1::2]:
                kill(pid)
            for end in (*ready, *release):
                os.close(end)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--pairs", type=int, default=1, show_default=True, help="Pairs of processes.")
@click.option("--size", multiple=True, type=int, default=(64 << 10, 1 << 20), show_default=True,
              help="Bytes of a message; may be repeated.")  # fmt: skip
@click.option("--call", "calls", multiple=True, type=click.Choice(CALLS), default=CALLS)
@click.option("--pool", "pools", multiple=True, type=click.Choice(POOLS), default=POOLS)
@click.option("--bytes", "queued", default=4 << 20, show_default=True, help="Bytes in the queue.")
@click.option("--seconds", default=0.3, show_default=True, help="Of one measurement, about.")
@click.option("--turns", default=5, show_default=True, help="Measurements of each contestant.")
def main(
    pairs: int, size: tuple[int, ...], calls: tuple[str, ...], pools: tuple[str, ...], queued: int,
    seconds: float, turns: int,
) -> None:  # fmt: skip
    """Measure what large messages cost with as many buffers, and with as few.

    Example: python -m clients.bench.warm --pairs 4 --size 1048576
    """
    rates: dict[tuple[int, str, str], list[float]] = {}
    work = [(s, c, p) for _ in range(turns) for s in size for c in calls for p in pools]
    for s, c, p in track(work, "measuring", transient=True):
        depth = max(4, queued // s)
        rate = measure(options(p, pairs, depth, c), c, pairs, s, depth, seconds)
        rates.setdefault((s, c, p), []).append(rate)
    table = Table("message", "calls", *(f"{p}, k/s" for p in pools))
    for s in size:
        for c in calls:
            row = [statistics.median(rates[s, c, p]) / 1e3 for p in pools]
            table.add_row(f"{s >> 10} KiB", c, *(f"{x:.1f} ({x / row[0]:.2f} x)" for x in row))
    Console(width=120).print(table)
    print(f"{pairs} to {pairs} on {len(os.sched_getaffinity(0))} cores")


if __name__ == "__main__":
    main()
