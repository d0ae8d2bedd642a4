# SPDX-License-Identifier: Apache-2.0
"""Measures the time of recovery, and what it costs survivors: python -m clients.bench.recovery

A worker passes bursts through a queue. Processes that hold buffers are killed and recovered, one
after the other. Prints the time of pool.recover(), and the worker's packets a second during those
calls relative to its speed without them. The worker has a core to itself, so that recovery alone
slows it down.
"""

import ctypes
import mmap
import os
import signal
import statistics
import struct
import time
import traceback
from collections.abc import Callable

import click
from rich.console import Console
from rich.table import Table

import shmpool

from ..children import uninterrupted

BURST = 32
HELD = 1000  # buffers that each victim holds
COUNTER = struct.Struct("Q")
PR_SET_PDEATHSIG = 1  # prctl.h


def forked(work: Callable[[], object]) -> int:
    """Starts a child process that does the work, and ends when its parent does. Returns its pid.

    The child does not see Ctrl-C.
    """
    with uninterrupted():
        parent, pid = os.getpid(), os.fork()
        if pid:
            return pid
        try:
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() == parent:  # else it has ended before
                work()
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(0)


class Worker:
    """A process that allocates, puts, gets and frees bursts, and counts them in shared memory."""

    def __init__(self, pool: shmpool.Pool, core: int) -> None:
        self.count = mmap.mmap(-1, COUNTER.size)
        self.pool, self.core = pool, core
        self.pid = forked(self.run)

    def run(self) -> None:
        os.sched_setaffinity(0, {self.core})
        queue, done = self.pool.queue("work"), 0
        while True:
            queue.put_many(self.pool.alloc_many(BURST))
            done += len(held := queue.get_many(BURST))
            held.free()
            self.count[:] = COUNTER.pack(done)

    def done(self) -> int:
        return int(COUNTER.unpack(self.count[:])[0])


def victim(pool: shmpool.Pool) -> int:
    """Starts a process that holds HELD buffers and sleeps. Returns its pid."""
    ready, signalled = os.pipe()

    def work() -> None:
        held = pool.alloc_many(HELD)
        os.write(signalled, bytes([len(held) > 0]))
        signal.pause()

    pid = forked(work)
    os.read(ready, 1)
    os.close(ready)
    os.close(signalled)
    return pid


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def measure(capacity: int, kills: int) -> tuple[list[float], float]:
    """Seconds of each recovery, and the worker's speed during recovery relative to its speed
    alone."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:1])
    name = f"bench-recovery-{os.getpid()}"
    pool = shmpool.Pool.create(name, buffer_size=64, capacity=capacity, prealloc=capacity)
    children: list[int] = []
    try:
        pool.create_queue("work", capacity=1024)
        with uninterrupted():
            worker = Worker(pool, cores[-1])
            children.append(worker.pid)
        for _ in range(kills):
            with uninterrupted():
                children.append(victim(pool))
        victims = children[1:]
        pool.recover()  # makes the caller a member before the first measured call

        times, during, alone, resting = [], 0, 0, 0.0
        for pid in victims:
            rest, before = time.perf_counter(), worker.done()
            time.sleep(0.05)
            alone += worker.done() - before
            resting += time.perf_counter() - rest
            children.remove(pid)
            kill(pid)
            start, before = time.perf_counter(), worker.done()
            pool.recover()
            times.append(time.perf_counter() - start)
            during += worker.done() - before
        if not alone:
            raise click.ClickException("the worker made no progress; the machine is too busy")
        return times, (during / sum(times)) / (alone / resting)
    finally:
        for pid in children:
            kill(pid)
        pool.close()
        shmpool.Pool.unlink(name)
        os.sched_setaffinity(0, cores)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--kills", default=15, show_default=True, help="Processes killed for each row.")
def main(kills: int) -> None:
    """Measure the time of recovery, and the speed of a survivor during recovery.

    Example: python -m clients.bench.recovery --kills 50
    """
    table = Table("buffers", "recover(), median ms", "most ms", "goal ms", "speed of a survivor")
    for capacity, goal in ((65_536, 5), (4_194_304, 100)):
        times, share = measure(capacity, kills)
        ms = [1000 * t for t in times]
        table.add_row(
            f"{capacity:,}",
            f"{statistics.median(ms):.2f}",
            f"{max(ms):.2f}",
            f"{goal}",
            f"{share:.2f} x",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
