# SPDX-License-Identifier: Apache-2.0
"""What the get of an array costs: python -m clients.bench.arrays.

Compares get_array() with get() and numpy.frombuffer(), which gives one dimension and needs to be
told the dtype. Both take the same messages, in turns, in one process; the ratio is of the medians.
Counts the end of the array and of its buffer.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import click
import numpy as np

import shmpool

MESSAGES = 512  # a turn
MOST = 1.3  # the ratio that is promised
FORMS: list[tuple[str, Any, tuple[int, ...]]] = [
    ("64 doubles", "f8", (64,)),
    ("8 x 8 doubles", "f8", (8, 8)),
    ("a picture", "u1", (12, 10, 3)),
    ("20 structures", [("key", "<u4"), ("value", "<f8")], (20,)),
]


def by_hand(queue: shmpool.AlfQueue, dtype: "np.dtype[Any]") -> None:
    """Takes the messages as Buffers."""
    frombuffer: Callable[..., object] = np.frombuffer  # numpy's types know no other buffers
    for _ in range(MESSAGES):
        buf = queue.get()
        array = frombuffer(buf, dtype)
    del array


def as_arrays(queue: shmpool.AlfQueue, dtype: "np.dtype[Any]") -> None:
    """Takes the messages as arrays."""
    for _ in range(MESSAGES):
        array = queue.get_array()
    del array


def nanoseconds(
    take: Callable[[shmpool.AlfQueue, "np.dtype[Any]"], None],
    queue: shmpool.AlfQueue,
    dtype: "np.dtype[Any]",
    shape: tuple[int, ...],
) -> float:
    """Puts the messages and takes them; returns what each take cost."""
    for _ in range(MESSAGES):
        queue.put_array(queue.pool.array(shape, dtype))
    start = time.perf_counter_ns()
    take(queue, dtype)
    return (time.perf_counter_ns() - start) / MESSAGES


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--turns", default=200, show_default=True, help="Of each way, for each form.")
def main(turns: int) -> None:
    """Compare get_array() with get() and numpy.frombuffer(), and fail above 1.3 times."""
    worst = 0.0
    with shmpool.Pool.create(None, buffer_size=1024, capacity=2 * MESSAGES) as pool:
        queue = pool.create_queue("arrays", capacity=MESSAGES)
        for name, kind, shape in FORMS:
            times: tuple[list[float], list[float]] = [], []
            for _ in range(turns):
                for take, into in zip((by_hand, as_arrays), times, strict=True):
                    into.append(nanoseconds(take, queue, np.dtype(kind), shape))
            hand, array = map(statistics.median, times)
            worst = max(worst, array / hand)
            click.echo(
                f"{name:14} get and frombuffer {hand:4.0f} ns, get_array {array:4.0f} ns, "
                f"ratio {array / hand:.2f}"
            )
    if worst > MOST:
        raise click.ClickException(f"the worst ratio is {worst:.2f}; promised is {MOST}")


if __name__ == "__main__":
    main()
