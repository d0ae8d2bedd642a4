# SPDX-License-Identifier: Apache-2.0
"""Measures what a burst does in one call against the Python loop that the call replaces: python -m
clients.bench.bursts

Both are timed in turns in one process, on bursts of the same size; only the call or the loop is
timed. Prints the median time of each in nanoseconds per buffer, and the ratio of the medians.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import shmpool

QUEUES = 4
WARM = 20  # rounds that are not counted


@dataclass(frozen=True)
class Scene:
    """What both ways work with: a burst, its buffers' keys, and queues that have room for all."""

    burst: shmpool.Burst
    queues: Sequence[shmpool.AlfQueue]
    keys: NDArray[np.uint32]
    mask: NDArray[np.bool_]
    loose: Sequence[shmpool.Buffer]  # as many Buffers as the burst has


Way = Callable[[Scene], object]


def spread(scene: Scene) -> None:
    scene.burst.spread(scene.queues, scene.keys)


def spread_loop(scene: Scene) -> None:
    queues, n = scene.queues, len(scene.queues)
    for buf, key in zip(scene.burst, scene.keys.tolist(), strict=True):
        queues[key % n].put(buf)


def put_slice(scene: Scene) -> None:
    scene.queues[0].put_many(scene.burst[: len(scene.burst) // 2])


def put_slice_loop(scene: Scene) -> None:
    for i in range(len(scene.burst) // 2):
        scene.queues[0].put(scene.burst[i])


def put_masked(scene: Scene) -> None:
    scene.queues[0].put_many(scene.burst[scene.mask])


def put_masked_loop(scene: Scene) -> None:
    for i in np.flatnonzero(scene.mask).tolist():
        scene.queues[0].put(scene.burst[i])


def put_list(scene: Scene) -> None:
    scene.queues[0].put_many(scene.loose)


def put_list_loop(scene: Scene) -> None:
    for buf in scene.loose:
        scene.queues[0].put(buf)


def hashes(scene: Scene) -> object:
    return scene.burst.flow_hashes


def hashes_loop(scene: Scene) -> object:
    return np.fromiter((buf.flow_hash for buf in scene.burst), np.uint32)


def mark(scene: Scene) -> None:
    scene.burst.marks = scene.keys


def mark_loop(scene: Scene) -> None:
    for buf, key in zip(scene.burst, scene.keys.tolist(), strict=True):
        buf.mark = key


WAYS: list[tuple[str, Way, Way]] = [
    (f"burst.spread(queues, keys), {QUEUES} queues", spread, spread_loop),
    ("put_many(burst[: n // 2])", put_slice, put_slice_loop),
    ("put_many(burst[mask]), half of it", put_masked, put_masked_loop),
    ("put_many(list of Buffers)", put_list, put_list_loop),
    ("burst.flow_hashes", hashes, hashes_loop),
    ("burst.marks = keys", mark, mark_loop),
]


def measure(pool: shmpool.Pool, n: int, way: Way, loop: Way, rounds: int) -> tuple[float, float]:
    """Returns the medians of the way and of the loop, in nanoseconds per buffer of the burst."""
    queues = pool.queues()
    numbers = np.random.default_rng(1)
    taken: tuple[list[float], list[float]] = ([], [])
    for i in range(WARM + rounds):
        for call, times in zip((way, loop), taken, strict=True):
            keys = numbers.integers(0, 2**32, n, np.uint32)
            mask = np.arange(n) % 2 == 0
            loose = [pool.alloc() for _ in range(n)]
            scene = Scene(pool.alloc_many(n), queues, keys, mask, loose)
            began = time.perf_counter_ns()
            call(scene)
            ended = time.perf_counter_ns()
            if i >= WARM:
                times.append((ended - began) / n)
            for queue in queues:
                queue.drain()
    return statistics.median(taken[0]), statistics.median(taken[1])


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--burst", "n", type=click.IntRange(2, 4096), default=64, show_default=True,
              help="Buffers of a burst.")  # fmt: skip
@click.option("--rounds", type=click.IntRange(1), default=500, show_default=True)
def main(n: int, rounds: int) -> None:
    """Measure calls on bursts against the Python loops that they replace."""
    table = Table("", "one call, ns/buffer", "loop, ns/buffer", "loop / call")
    with shmpool.Pool.create(None, buffer_size=64, capacity=1 << 15, prealloc=1 << 14) as pool:
        for i in range(QUEUES):
            pool.create_queue(f"q{i}", capacity=4096)
        for name, way, loop in WAYS:
            call, replaced = measure(pool, n, way, loop, rounds)
            table.add_row(escape(name), f"{call:.1f}", f"{replaced:.1f}", f"{replaced / call:.1f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
