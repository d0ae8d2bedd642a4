# SPDX-License-Identifier: Apache-2.0
"""What a queue of objects moves: python -m clients.bench.objects.

shmpool.Queue against multiprocessing.Queue, faster-fifo, torch.multiprocessing.Queue and loky's: one
process puts, another one gets, one object at a time. All contestants take turns; the figures are
medians, and the ratios medians of those of each turn. One that is not installed is left out by name.
"""

import importlib
import multiprocessing
import statistics
import time
from collections.abc import Callable
from typing import Any

import click
import numpy as np

MIB = 2**20
# What is moved: its name, the object, how many in a turn, and how many the queue may hold.
KINDS: list[tuple[str, Callable[[], object], int, int]] = [
    ("a small tuple", lambda: (7, "key", 2.5), 20_000, 1000),
    ("a record of 10 fields", lambda: {f"field {i}": i for i in range(10)}, 20_000, 1000),
    ("an array of 1 MiB", lambda: np.ones(MIB // 8), 400, 16),
    ("an array of 64 MiB", lambda: np.ones(64 * MIB // 8), 12, 2),
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


def tensors(name: str, obj: object) -> object:
    """Returns what the contestant moves: torch's moves a tensor, in shared memory."""
    if name == "torch" and isinstance(obj, np.ndarray):
        module: Any = importlib.import_module("torch")
        return module.from_numpy(obj)
    return obj


def produce(queue: Any, obj: object, n: int) -> None:
    for _ in range(n + 1):
        queue.put(obj)
    time.sleep(60)  # a tensor is in its producer's hands: the consumer ends it


def seconds_each(name: str, make: Callable[[], object], n: int, most: int) -> float:
    """Returns how long each object took, from the second to the last."""
    obj = tensors(name, make())
    queue = CONTESTANTS[name](getattr(obj, "nbytes", 256), most)
    process = CONTEXT.Process(target=produce, args=(queue, obj, n), daemon=True)
    process.start()
    for first in (True, False):
        begin = time.perf_counter()
        for _ in range(1 if first else n):
            queue.get(timeout=60)
    took = time.perf_counter() - begin
    process.kill()
    process.join()
    return took / n


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
        took: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(turns):
            for name, times in took.items():
                times.append(seconds_each(name, make, max(int(n * scale), 1), most))
        click.echo(kind)
        for name, times in took.items():
            ratio = statistics.median(
                other / mine for other, mine in zip(times, took["shmpool"], strict=True)
            )
            rate = 1 / statistics.median(times)
            beside = "" if name == "shmpool" else f"   shmpool is {ratio:.1f} times as fast"
            click.echo(f"  {name:16} {rate:12,.0f} /s{beside}")


if __name__ == "__main__":
    main()
