# SPDX-License-Identifier: Apache-2.0
"""Measures how soon an event loop learns of a message: python -m clients.bench.wakeups

First ways in which a producer, who knows nothing but a mapping, can wake a process that waits in
epoll_wait() (native/wake_ways.c). Then arecv() of a queue beside an eventfd through the same event
loop: from before the producer's call until the awaiting task runs. Producer and loop are two
processes, both asleep before. Also the processor time of a process while 10,000 tasks wait.
"""

import asyncio
import os
import random
import statistics
import subprocess
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import click
import uvloop
from rich.console import Console
from rich.table import Table

import shmpool

from .building import built
from .recovery import forked

WAKES = 100  # of each kind in a round
WAITERS = 10_000
IDLE_S = 3.0

Receive = Callable[[], Awaitable[float]]


def native_ways(rounds: int) -> dict[str, list[tuple[float, float]] | None]:
    """By way: microseconds to the wake-up and of the trigger, by round; None if it is refused."""
    program = built("wake_ways")
    text = subprocess.run([program, str(rounds)], capture_output=True, text=True, check=True).stdout
    found: dict[str, list[tuple[float, float]] | None] = {}
    for name, *figures in (line.split("|") for line in text.splitlines()):
        latency = found.setdefault(name, [])
        if figures == ["unavailable"] or latency is None:
            found[name] = None
        else:
            latency.append((int(figures[0]) / 1000, int(figures[1]) / 1000))
    return found


def sends(order: int, eventfd: int, sent: int, queue: shmpool.AlfQueue) -> None:
    """The producer: for each byte of a pipe sleeps, then wakes the loop in that way."""
    while way := os.read(order, 1):
        time.sleep(random.uniform(0.0005, 0.0015))
        if way == b"e":
            before = time.monotonic_ns()
            os.eventfd_write(eventfd, 1)
            os.write(sent, b"%020d" % before)
        else:
            queue.send(b"%020d" % time.monotonic_ns())


@contextmanager
def producer(queue: shmpool.AlfQueue) -> Iterator[tuple[int, int, int]]:
    """Forks the producer. Returns the pipe for orders, the eventfd, and the pipe with its times."""
    order, orders = os.pipe()
    times, sent = os.pipe()
    eventfd = os.eventfd(0, os.EFD_NONBLOCK)

    def work() -> None:
        os.close(orders)
        sends(order, eventfd, sent, queue)

    pid = forked(work)
    try:
        yield orders, eventfd, times
    finally:
        os.close(orders)
        os.waitpid(pid, 0)
        for fd in (order, times, sent, eventfd):
            os.close(fd)


async def compare(queue: shmpool.AlfQueue, rounds: int) -> list[tuple[float, float]]:
    """The median microseconds of an eventfd and of arecv(), by round."""
    loop = asyncio.get_running_loop()
    waiting: list[asyncio.Future[None]] = []
    with producer(queue) as (orders, eventfd, times):

        def readable() -> None:
            os.eventfd_read(eventfd)
            waiting.pop().set_result(None)

        async def by_eventfd() -> float:
            waiting.append(loop.create_future())
            os.write(orders, b"e")
            await waiting[0]
            now = time.monotonic_ns()
            return now - int(os.read(times, 20))

        async def by_queue() -> float:
            os.write(orders, b"q")
            sent = await queue.arecv()
            return time.monotonic_ns() - int(sent)

        loop.add_reader(eventfd, readable)
        figures = []
        for _ in range(rounds):
            taken: dict[Receive, list[float]] = {by_eventfd: [], by_queue: []}
            for _ in range(WAKES):
                for receive in taken:
                    taken[receive].append(await receive())
            medians = [statistics.median(values) / 1000 for values in taken.values()]
            figures.append((medians[0], medians[1]))
        loop.remove_reader(eventfd)
    return figures


async def idle(queue: shmpool.AlfQueue) -> float:
    """The share of a processor that a process uses while tasks wait, in percent."""
    tasks = [asyncio.create_task(queue.aget()) for _ in range(WAITERS)]
    await asyncio.sleep(1)
    before = time.process_time()
    await asyncio.sleep(IDLE_S)
    used = time.process_time() - before
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    return 100 * used / IDLE_S


def table_of(ways: dict[str, list[tuple[float, float]] | None]) -> Table:
    table = Table("way", "microseconds to wake", "times eventfd", "of the producer")
    base = ways["eventfd"] or []
    ratios = defaultdict(list)
    for name, rounds in ways.items():
        for figures, first in zip(rounds or [], base, strict=False):
            ratios[name].append(figures[0] / first[0])
    for name, rounds in ways.items():
        if rounds is None:
            table.add_row(name, "refused here")
            continue
        latency, cost = (statistics.median(one[i] for one in rounds) for i in (0, 1))
        ratio = statistics.median(ratios[name])
        table.add_row(name, f"{latency:.1f}", f"{ratio:.2f}", f"{cost:.1f}")
    return table


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--rounds", default=9, show_default=True, help="Rounds of each comparison.")
@click.option("--ways/--no-ways", default=True, help="Measure the ways in C too.")
def main(rounds: int, ways: bool) -> None:
    """Measures how soon an event loop learns of a message."""
    console = Console()
    if ways:
        console.print(table_of(native_ways(rounds)))
    name = f"bench-wakeups-{os.getpid()}"
    table = Table("loop", "eventfd", "arecv()", "ratio", f"{WAITERS:,} idle waiters")
    with shmpool.Pool.create(name, buffer_size=256, capacity=1024) as pool:
        queue = pool.create_queue("work", capacity=64)
        for loop, run in (("asyncio", asyncio.run), ("uvloop", uvloop.run)):
            figures = run(compare(queue, rounds))
            eventfd, ours = (statistics.median(one[i] for one in figures) for i in (0, 1))
            ratio = statistics.median(one / other for other, one in figures)
            share = run(idle(queue))
            table.add_row(loop, f"{eventfd:.1f}", f"{ours:.1f}", f"{ratio:.2f}", f"{share:.3f} %")
    shmpool.Pool.unlink(name)
    console.print(table)
    console.print(
        "Microseconds, medians of rounds; the ratio is the median of those of each round."
    )


if __name__ == "__main__":
    main()
