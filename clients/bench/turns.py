# SPDX-License-Identifier: Apache-2.0
"""Contestants that take turns: what the benchmarks of queues and executors of objects share.

The figures are medians, and the ratios medians of those of each turn. Beside the time that
something takes stands the processor time of all processes for it: a busy machine lengthens the
first, most of all for the contestant with fewer threads, and hardly the second.
"""

import os
import statistics
import time
from collections.abc import Callable, Iterable

import click

OURS = "shmpool"
Cost = tuple[float, float]  # seconds, and seconds of processor time


def processor_seconds(pids: Iterable[int]) -> float:
    """Returns the processor time that processes have used, of all their threads."""
    # The number is that of clock_getcpuclockid(3).
    return sum(time.clock_gettime(~pid << 3 | 2) for pid in pids)


def installed(names: Iterable[str], make: Callable[[str], object]) -> list[str]:
    """Returns the contestants that can be made; says of the others why they are left out."""
    found = []
    for name in names:
        try:
            make(name)
        except ImportError as error:
            click.echo(f"{name} is left out: {error}")
        else:
            found.append(name)
    return found


def compare(what: str, names: Iterable[str], turns: int, measure: Callable[[str], Cost]) -> None:
    """Lets the contestants take turns, and prints what each of them costs."""
    took: dict[str, list[Cost]] = {name: [] for name in names}
    for _ in range(turns):
        for name, costs in took.items():
            costs.append(measure(name))
    click.echo(f"{what} (load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors)")
    for name, costs in took.items():
        each, used = (statistics.median(cost[i] for cost in costs) * 1e6 for i in (0, 1))
        click.echo(
            f"  {name:20} {each:10,.1f} us, of processors {used:10,.1f} us"
            + ("" if name == OURS else _ratios(costs, took[OURS]))
        )


def _ratios(theirs: list[Cost], ours: list[Cost]) -> str:
    """Says how many times as fast ours is, and with how much less processor time."""
    pairs = list(zip(theirs, ours, strict=True))
    fast, used = (statistics.median(t[i] / o[i] for t, o in pairs) for i in (0, 1))
    return f"   shmpool is {fast:5.1f} times as fast, and uses {used:5.1f} times less"
