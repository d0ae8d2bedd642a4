# SPDX-License-Identifier: Apache-2.0
"""What a queue of objects moves: python -m clients.bench.objects.

shmpool.Queue against multiprocessing.Queue, faster-fifo, torch.multiprocessing.Queue and loky's:
one process puts, another one gets, one object at a time. All contestants take turns; the figures
are medians, and the ratios medians of those of each turn. One that is not installed is left out by
name.

Beside the time that an object takes stands the processor time of both processes together: a busy
machine lengthens the first, most of all for the process with fewer threads, and hardly the second.
"""

import importlib
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import click
import numpy as np

MIB = 2**20
# What is moved: its name, the object, how many in a turn, and how many the queue may hold.
KINDS: list[tuple[str, Callable[[], object], int, int]] = [
    ("a small tuple", lambda: (7, "key", 2.5), 50_000, 1000),
    ("a record of 10 fields", lambda: {f"field {i}": i for i in range(10)}, 50_000, 1000),
    ("an array of 1 MiB", lambda: np.ones(MIB // 8), 1000, 16),
    ("an array of 64 MiB", lambda: np.ones(64 * MIB // 8), 20, 2),
]
CONTEXT = multiprocessing.get_context("fork")


def ours(size: int, most: int) -> Any:
    from shmpool import Queue

    return Queue(most)


def standard(size: int, most: int) -> Any:
    return CONTEXT.Queue(most)


def faster_fifo(size: int, most: int) -> Any:
    module: Any = importlib.import_module("faster_fifo")
    importlib.import_module("faster_fifo_reduction")
    return module.Queue(max_size_bytes=most * (size + 4096))


def torch(size: int, most: int) -> Any:
    module: Any = importlib.import_module("torch.multiprocessing")
    return module.get_context("fork").Queue(most)


def loky(size: int, most: int) -> Any:
    module: Any = importlib.import_module("joblib.externals.loky.backend.queues")
    return module.Queue(most, ctx=CONTEXT)


CONTESTANTS: dict[str, Callable[[int, int], Any]] = {
    "shmpool": ours,
    "multiprocessing": standard,
    "faster-fifo": faster_fifo,
    "torch": torch,
    "loky": loky,
}


def as_it_is(obj: object) -> object:
    return obj


def as_tensor(name: str, obj: object) -> Callable[[object], object]:
    """Returns what makes of an object what the contestant moves: torch's moves tensors.

    A new tensor over the same array each time. One that torch has moved once lies in memory of its
    own, is not copied again, and both sides share it from then on.
    """
    if name == "torch" and isinstance(obj, np.ndarray):
        make: Callable[[object], object] = importlib.import_module("torch").from_numpy
        return make
    return as_it_is


def produce(name: str, queue: Any, obj: object, n: int) -> None:
    made = as_tensor(name, obj)
    for _ in range(n):
        queue.put(made(obj))
    time.sleep(60)  # a tensor is in its producer's hands: the consumer ends it


def processor_seconds(pid: int) -> float:
    """Returns the processor time that a process has used, of all its threads."""
    return time.clock_gettime(~pid << 3 | 2)  # the clock of clock_getcpuclockid(3)


def seconds_each(name: str, make: Callable[[], object], n: int, most: int) -> tuple[float, float]:
    """Returns how long each object took, and the processor time of both processes for it.

    Leaves out the first objects, as many as the queue may hold and a few: with them each process
    touches the memory for the first time.
    """
    obj = make()
    queue = CONTESTANTS[name](getattr(obj, "nbytes", 256), most)
    first = most + 4
    process = CONTEXT.Process(target=produce, args=(name, queue, obj, first + n), daemon=True)
    process.start()
    pids = os.getpid(), process.pid or 0
    for count in (first, n):
        begin, used = time.perf_counter(), sum(map(processor_seconds, pids))
        for _ in range(count):
            queue.get(timeout=60)
    took, used = time.perf_counter() - begin, sum(map(processor_seconds, pids)) - used
    process.kill()
    process.join()
    return took / n, used / n


def installed(name: str) -> bool:
    try:
        CONTESTANTS[name](256, 2)
    except ImportError as error:
        click.echo(f"{name} is left out: {error}")
        return False
    return True


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--turns", default=5, show_default=True, help="Of each contestant, for each object.")
@click.option("--scale", default=1.0, show_default=True, help="Times so many objects.")
def main(turns: int, scale: float) -> None:
    """Compare queues of objects, one process to another."""
    names = [name for name in CONTESTANTS if installed(name)]
    for kind, make, n, most in KINDS:
        took: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
        for _ in range(turns):
            for name, times in took.items():
                times.append(seconds_each(name, make, max(int(n * scale), 1), most))
        click.echo(f"{kind} (load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors)")
        for name, times in took.items():
            each, used = (statistics.median(t[i] for t in times) * 1e6 for i in (0, 1))
            click.echo(
                f"  {name:16} {each:10,.1f} us, of processors {used:10,.1f} us"
                + ("" if name == "shmpool" else ratios(times, took["shmpool"]))
            )


def ratios(theirs: list[tuple[float, float]], ours: list[tuple[float, float]]) -> str:
    """Says how many times as fast ours is, and with how much less processor time."""
    pairs = list(zip(theirs, ours, strict=True))
    fast, used = (statistics.median(t[i] / o[i] for t, o in pairs) for i in (0, 1))
    return f"   shmpool is {fast:5.1f} times as fast, and uses {used:5.1f} times less"


if __name__ == "__main__":
    main()
