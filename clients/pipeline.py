# SPDX-License-Identifier: Apache-2.0
"""A pipeline of three stages whose workers are killed at random: python -m clients.pipeline.

Each job is one buffer that moves from queue to queue. A worker gets it, writes its result into a
field of its own, and puts the buffer into the next queue. It is killed before the put or after it:
before, the job is delivered again, since the queues requeue what a dead consumer had; after, the
next stage has it. So each job comes out once, with all its results, at whatever moment a worker was
killed.

A stage reads only the fields of the stages before it. That is what makes it safe to repeat: the
buffer of a killed worker goes back as the worker left it.
"""

import os
import random
import struct
import time
import zlib
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import shmpool

from .children import Start, children

JOB = struct.Struct("<QQQL")  # number, its square, the sum of the square's digits, a checksum
STAGES = ("square", "digits", "check")
SQUARE, DIGITS, CHECK = 8, 16, 24  # where in a job each stage writes
TIMEOUT = 120.0  # s: a process that waits for so long for a job gives up


def result(number: int) -> tuple[int, int, int, int]:
    """What a job must be when it comes out."""
    square = number * number
    digits = sum(map(int, str(square)))
    return number, square, digits, zlib.crc32(struct.pack("<QQQ", number, square, digits))


def work(stage: str, jobs: shmpool.AlfQueue, done: shmpool.AlfQueue) -> None:
    """A worker of one stage, until its queue has ended."""
    while True:
        try:
            buf = jobs.get(timeout=TIMEOUT)
        except shmpool.ShutDown:
            return
        number, square, digits, _ = JOB.unpack_from(buf.data)
        if stage == "square":
            struct.pack_into("<Q", buf.data, SQUARE, number * number)
        elif stage == "digits":
            struct.pack_into("<Q", buf.data, DIGITS, sum(map(int, str(square))))
        else:
            check = zlib.crc32(struct.pack("<QQQ", number, square, digits))
            struct.pack_into("<L", buf.data, CHECK, check)
        done.put(buf, timeout=TIMEOUT)


class Workers:
    """The workers of all stages. Replaces those that were killed."""

    def __init__(self, start: Start, queues: list[shmpool.AlfQueue], each: int) -> None:
        self.start_child = start
        self.queues = queues
        self.killed = 0
        self.running = [self.start(stage) for stage in range(len(STAGES)) for _ in range(each)]

    def start(self, stage: int) -> tuple[int, BaseProcess]:
        """Starts a worker of the stage."""
        jobs, done = self.queues[stage : stage + 2]
        return stage, self.start_child(work, STAGES[stage], jobs, done)

    def kill(self, chance: random.Random) -> None:
        """Kills one of them, wherever it is, and starts another one in its place."""
        at = chance.randrange(len(self.running))
        stage, process = self.running[at]
        process.kill()
        process.join()
        self.killed += 1
        self.running[at] = self.start(stage)

    def end(self) -> None:
        """Ends the stages one after the other, each when it has put all its jobs."""
        for stage, queue in enumerate(self.queues[:-1]):
            queue.shutdown()
            ends = [process.sentinel for at, process in self.running if at == stage]
            while ends:
                ends = [end for end in ends if end not in wait(ends)]


def feed(jobs: shmpool.AlfQueue, numbers: range) -> None:
    """Puts one job for each number."""
    for number in numbers:
        with jobs.pool.alloc(timeout=TIMEOUT) as buf:
            buf.write(JOB.pack(number, 0, 0, 0))
            jobs.put(buf, timeout=TIMEOUT)


def run(jobs: int, each: int, kills: int, seed: int, quiet: bool) -> bool:
    """Runs the pipeline. Returns whether each job came out once, and as it must be."""
    chance = random.Random(seed)
    name = f"pipeline-{os.getpid()}"
    with (
        shmpool.Pool.create(
            name,
            buffer_size=JOB.size,
            capacity=4096,
            queues=len(STAGES) + 1,
            unlink_on_close=True,
        ) as pool,
        children() as start,
    ):
        queues = [
            pool.create_queue(stage, capacity=1024, on_death="requeue")
            for stage in (*STAGES, "out")
        ]
        workers = Workers(start, queues, each)
        feeder = start(feed, queues[0], range(jobs))
        times = [0] * jobs
        wrong = again = 0
        started = time.monotonic()
        moments = sorted(chance.randrange(jobs) for _ in range(kills))
        progress = Progress(console=Console(stderr=True), transient=True, disable=quiet)
        with progress:
            task = progress.add_task("jobs", total=jobs)
            for came in range(jobs):
                while moments and moments[0] <= came:
                    workers.kill(chance)
                    moments.pop(0)
                with queues[-1].get(timeout=TIMEOUT) as buf:
                    found = JOB.unpack_from(buf.view)
                    times[found[0]] += 1
                    wrong += found != result(found[0])
                    again += buf.redelivered > 0
                progress.advance(task)
        seconds = time.monotonic() - started
        feeder.join()
        workers.end()
        audit = pool.audit()
        table = Table("jobs", "came once", "wrong", "workers killed", "delivered again", "audit")
        once = times.count(1)
        row = [jobs, once, wrong, workers.killed, again]
        table.add_row(*(f"{n:,}" for n in row), "ok" if audit.ok else "NOT OK")
        Console().print(table)
        Console().print(f"{jobs / seconds:,.0f} jobs/s through {len(STAGES)} stages")
        return once == jobs and not wrong and audit.ok and not audit.held


@click.command(epilog="Example: python -m clients.pipeline --jobs 20000 --kills 50")
@click.option("--jobs", type=click.IntRange(1, 10_000_000), default=20_000, show_default=True)
@click.option(
    "--workers", type=click.IntRange(1, 32), default=2, show_default=True, help="A stage."
)
@click.option("--kills", type=click.IntRange(0, 10_000), default=20, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True, help="Of who is killed, and when.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def main(jobs: int, workers: int, kills: int, seed: int, quiet: bool) -> None:
    """Sends jobs through three stages of workers and kills workers in that time.

    Exit status 0 if each job came out once and right, 1 if not.
    """
    if not run(jobs, workers, kills, seed, quiet):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
