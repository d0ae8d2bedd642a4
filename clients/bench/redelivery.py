# SPDX-License-Identifier: Apache-2.0
"""Measures how soon sleepers redeliver a killed worker's job: python -m clients.bench.redelivery

Consumers sleep in get(). A worker that holds a job is killed, and nobody calls recover(). Prints
the time until a consumer has the job, and the processor time that the consumers use while they
sleep.
"""

import os
import random
import signal
import statistics
import struct
import time
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

import shmpool

from ..children import uninterrupted
from .recovery import forked, kill

GOAL_MS = 300
RESTS_S = 2.0  # how long the consumers sleep before the first kill
TIME = struct.Struct("q")


def consume(pool: shmpool.Pool, report: int) -> None:
    """Gets jobs. Reports when, and why not as a worker: it keeps none."""
    queue = pool.queue("jobs")
    while True:
        buf = queue.get()
        os.write(report, TIME.pack(time.monotonic_ns()))
        buf.free()


def work(pool: shmpool.Pool, number: int, report: int) -> None:
    """Gets a job from a queue of its own, whose dead letters are the consumers' jobs."""
    kept = pool.queue(f"worker{number}").get()
    os.write(report, TIME.pack(len(kept)))
    signal.pause()


def used(pids: list[int]) -> int:
    """Processor time of the processes, ns."""
    return sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for pid in pids)


def measure(sleepers: int, kills: int) -> tuple[list[float], float]:
    """Seconds from each kill to the redelivery, and processor seconds a second of all sleepers."""
    pool = shmpool.Pool.create(
        None, buffer_size=64, capacity=1024, members=sleepers + 2, queues=kills + 1
    )
    times: list[float] = []
    result, report = os.pipe()
    children: list[int] = []
    try:
        pool.create_queue("jobs", capacity=64)
        for _ in range(sleepers):
            with uninterrupted():
                children.append(forked(lambda: consume(pool, report)))
        while len(pool.members()) < sleepers or pool.stats().counters["sleep"] < sleepers:
            time.sleep(0.1)
        before, start = used(children), time.monotonic()
        time.sleep(RESTS_S)
        idle = (used(children) - before) / 1e9 / (time.monotonic() - start)
        for i in range(kills):
            own = pool.create_queue(
                f"worker{i}", capacity=1, on_death="dead-letter", dead_letter="jobs"
            )
            own.send(b"job")
            with uninterrupted():
                children.append(forked(lambda i=i: work(pool, i, report)))  # type: ignore[misc]
            os.read(result, TIME.size)
            time.sleep(random.uniform(0.3, 0.5))
            killed = time.monotonic_ns()
            kill(children.pop())
            times.append((TIME.unpack(os.read(result, TIME.size))[0] - killed) / 1e9)
        return times, idle
    finally:
        for pid in children:
            kill(pid)
        os.close(result)
        os.close(report)
        pool.close()


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--kills", default=30, show_default=True, help="Processes killed for each row.")
def main(kills: int) -> None:
    """Measure the time until sleepers redeliver a killed worker's job.

    Example: python -m clients.bench.redelivery --kills 100
    """
    table = Table("sleepers", "redelivered, median ms", "most ms", "goal ms", "asleep, ms of CPU/s")
    for sleepers in (1, 2, 20, 300):
        times, idle = measure(sleepers, kills)
        ms = [1000 * t for t in times]
        table.add_row(
            f"{sleepers}",
            f"{statistics.median(ms):.0f}",
            f"{max(ms):.0f}",
            f"{GOAL_MS}",
            f"{1000 * idle:.1f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
