# SPDX-License-Identifier: Apache-2.0
"""What a task costs: python -m clients.bench.executor.

shmpool.ProcessPoolExecutor against concurrent.futures' and loky's, each with the same number of
workers. One that is not installed is left out by name. How they are compared: turns.py.
"""

import importlib
import os
import time
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import click
import numpy as np

from .turns import Cost, compare, installed, processor_seconds

MIB = 2**20


def ours(workers: int) -> Executor:
    from shmpool import ProcessPoolExecutor

    return ProcessPoolExecutor(workers, get_context("fork"))


def standard(workers: int) -> Executor:
    return ProcessPoolExecutor(workers, get_context("fork"))


def loky(workers: int) -> Executor:
    module: Any = importlib.import_module("loky")
    executor: Executor = module.ProcessPoolExecutor(workers)
    return executor


CONTESTANTS: dict[str, Callable[[int], Executor]] = {
    "shmpool": ours,
    "concurrent.futures": standard,
    "loky": loky,
}


def same(obj: object) -> object:
    return obj


def nothing(obj: object) -> None:
    return None


def one_at_a_time(executor: Executor, n: int) -> None:
    for i in range(n):
        executor.submit(same, i).result()


def many(executor: Executor, n: int) -> None:
    futures = [executor.submit(same, i) for i in range(n)]
    for future in futures:
        future.result()


def in_chunks(executor: Executor, n: int) -> None:
    for _ in executor.map(same, range(n), chunksize=10):
        pass


def arrays_one_at_a_time(executor: Executor, n: int) -> None:
    array = np.ones(MIB // 8)
    for _ in range(n):
        executor.submit(nothing, array).result()


def many_arrays(executor: Executor, n: int) -> None:
    array = np.ones(MIB // 8)
    for future in [executor.submit(nothing, array) for _ in range(n)]:
        future.result()


def arrays_there_and_back(executor: Executor, n: int) -> None:
    array = np.ones(MIB // 8)
    for _ in range(n):
        executor.submit(same, array).result()


# What is done, and how many tasks in a turn.
KINDS: list[tuple[str, Callable[[Executor, int], None], int]] = [
    ("a small task, one at a time", one_at_a_time, 1000),
    ("small tasks, all submitted at once", many, 5000),
    ("small tasks, map in chunks of 10", in_chunks, 20000),
    ("an argument of 1 MiB, one at a time", arrays_one_at_a_time, 300),
    ("arguments of 1 MiB, all submitted at once", many_arrays, 300),
    ("1 MiB there and back, one at a time", arrays_there_and_back, 300),
]


def seconds_each(executor: Any, run: Callable[[Executor, int], None], n: int) -> Cost:
    """Returns how long each task took, and the processor time of this process and the workers."""
    pids = os.getpid(), *executor._processes
    begin, before = time.perf_counter(), processor_seconds(pids)
    run(executor, n)
    return (time.perf_counter() - begin) / n, (processor_seconds(pids) - before) / n


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--turns", default=5, show_default=True, help="Of each contestant, for each kind.")
@click.option("--scale", default=1.0, show_default=True, help="Times so many tasks.")
@click.option("--workers", default=2, show_default=True, help="Processes of each contestant.")
def main(turns: int, scale: float, workers: int) -> None:
    """Compare executors: what a task costs."""
    names = installed(CONTESTANTS, lambda name: CONTESTANTS[name](1).shutdown())
    for kind, run, number in KINDS:
        n = max(int(number * scale), 1)
        executors = {name: CONTESTANTS[name](workers) for name in names}
        for executor in executors.values():
            run(executor, n)  # starts the workers, and touches the memory
        compare(kind, names, turns, lambda name: seconds_each(executors[name], run, n))  # noqa: B023
        for executor in executors.values():
            executor.shutdown()


if __name__ == "__main__":
    main()
