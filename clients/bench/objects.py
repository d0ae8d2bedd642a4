# SPDX-License-Identifier: Apache-2.0
"""What a queue of objects moves: python -m clients.bench.objects.

shmpool.Queue against multiprocessing.Queue, faster-fifo, torch.multiprocessing.Queue and loky's:
one process puts, another one gets, one object at a time. One that is not installed is left out by
name. How they are compared: turns.py.
"""

import importlib
import multiprocessing
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import click
import numpy as np

from ..children import children
from .turns import Cost, compare, installed, processor_seconds

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


def seconds_each(name: str, make: Callable[[], object], n: int, most: int) -> Cost:
    """Returns how long each object took, and the processor time of both processes for it.

    Leaves out the first objects, as many as the queue may hold and a few: with them each process
    touches the memory for the first time.
    """
    obj = make()
    queue = CONTESTANTS[name](getattr(obj, "nbytes", 256), most)
    first = most + 4
    with children("fork") as start:
        process = start(produce, name, queue, obj, first + n)
        pids = os.getpid(), process.pid or 0
        for count in (first, n):
            begin, used = time.perf_counter(), processor_seconds(pids)
            for _ in range(count):
                queue.get(timeout=60)
        took, used = time.perf_counter() - begin, processor_seconds(pids) - used
    return took / n, used / n


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--turns", default=5, show_default=True, help="Of each contestant, for each object.")
@click.option("--scale", default=1.0, show_default=True, help="Times so many objects.")
def main(turns: int, scale: float) -> None:
    """Compare queues of objects, one process to another."""
    names = installed(CONTESTANTS, lambda name: CONTESTANTS[name](256, 2))
    for kind, make, number, most in KINDS:
        n = max(int(number * scale), 1)
        compare(kind, names, turns, partial(seconds_each, make=make, n=n, most=most))


if __name__ == "__main__":
    main()
