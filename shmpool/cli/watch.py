# SPDX-License-Identifier: Apache-2.0
"""shmpool watch."""

import itertools
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator

import click

from ..rpc import wire
from ..rpc.client import Client
from ..rpc.protocol import INTERVAL_MIN, GetStats, Watch
from ..rpc.records import PoolStats
from . import next_steps
from .access import Backend, pool_argument, with_backend
from .json_output import json_option
from .output import FloatRange, IntRange, command_of, hint, text

COLUMNS = ("time", "free", "cached", "held", "queued", "members", "allocs/s", "gets/s",
           "published/s", "lag")  # fmt: skip
# The most important ones first: a narrow terminal has as many of them as there is room for.
IMPORTANCE = ("time", "queued", "gets/s", "free", "held", "allocs/s", "members", "published/s",
              "lag", "cached")  # fmt: skip
COLUMN = 12  # characters
HEAD_EVERY = 20  # lines


@command_of(
    Watch,
    "shmpool watch rx --interval 0.5",
    help_text="Prints a pool's statistics every INTERVAL seconds until Ctrl-C.",
)
@pool_argument
@click.option(
    "--interval", type=FloatRange(INTERVAL_MIN, 3600), default=1.0, show_default=True,
    help="Seconds between two lines.",
)  # fmt: skip
@click.option("--count", type=IntRange(1), help="Stop after this many lines.")
@json_option(PoolStats, about="Print one line of JSON for each.")
@with_backend
def command(backend: Backend, pool: str, interval: float, count: int | None, as_json: bool) -> None:
    stream = (
        backend.watch(pool, interval)
        if isinstance(backend, Client)
        else _poll(backend, pool, interval)
    )
    before: PoolStats | None = None
    shown = _shown(shutil.get_terminal_size().columns if sys.stdout.isatty() else None)
    if len(shown) < len(COLUMNS) and not as_json:
        hint(f"{len(COLUMNS) - len(shown)} more figures need {COLUMN * len(COLUMNS)} columns")
    most = None if count is None else min(count, sys.maxsize)
    try:
        for number, stats in enumerate(itertools.islice(stream, most)):
            if as_json:
                click.echo(json.dumps(wire.to_wire(stats)))
                continue
            if number % HEAD_EVERY == 0:
                click.echo("".join(f"{COLUMNS[i]:>{COLUMN}}" for i in shown))
            row = _row(stats, before)
            click.echo("".join(f"{text(row[i]):>{COLUMN}}" for i in shown))
            known = {(one.kind, one.subject) for one in before.alarms} if before else set()
            for alarm in stats.alarms:
                if (alarm.kind, alarm.subject) not in known:
                    hint(next_steps.of_alarm(pool, alarm))
            before = stats
    except KeyboardInterrupt:
        pass


def _poll(backend: Backend, pool: str, interval: float) -> Iterator[PoolStats]:
    while True:
        yield backend.call(GetStats(pool))
        time.sleep(interval)


def _shown(width: int | None) -> list[int]:
    """The numbers of the columns that a terminal of this width has room for; None: all."""
    room = len(COLUMNS) if width is None else max(width // COLUMN, 1)
    return sorted(COLUMNS.index(title) for title in IMPORTANCE[:room])


def _row(stats: PoolStats, before: PoolStats | None) -> tuple[object, ...]:
    buffers = stats.buffers
    return (
        time.strftime("%H:%M:%S", time.localtime(stats.at)),
        buffers.free,
        buffers.cached,
        buffers.held,
        buffers.queued,
        buffers.members,
        _rate(stats, before, lambda s: s.buffers.counters["alloc"]),
        _rate(stats, before, lambda s: s.buffers.counters["dequeue"]),
        _rate(stats, before, lambda s: sum(topic.published for topic in s.topics)),
        max((one.lag for topic in stats.topics for one in topic.subscribers), default=0),
    )


def _rate(stats: PoolStats, before: PoolStats | None, count: Callable[[PoolStats], int]) -> int:
    if before is None or stats.at <= before.at:
        return 0
    return round((count(stats) - count(before)) / (stats.at - before.at))
