# SPDX-License-Identifier: Apache-2.0
"""The run of the whole benchmark, cell by cell, with progress.

Within a cell the contestants take turns (A B C, A B C, ...), so that a change of the machine
affects all of them. The cache-line latency is measured before and after each turn. Ctrl-C ends the
benchmark and keeps what was measured.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from . import result, scoreboard
from .background_load import BackgroundLoad
from .line_latency import CacheLineLatency
from .plan import Cell, Kinds, Settings
from .result import CellResult, Result, Row
from .transport import Many, Transport, UnsupportedError
from .workers import RunError

SLACK = 0.1  # share of the time limit by which one cell may be late


def measure(settings: Settings, cells: list[Cell], transports: Kinds) -> Result:
    """Measures all cells, or those for which there is time."""
    outcome = Result(
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        options=asdict(settings),
        machine=result.machine(),
        versions={t.library: v for t in transports if (v := t.version()) is not None},
        missing={
            t.library: f"{t.package} is not installed; install {t.install}"
            for t in transports
            if t.version() is None
        },
    )
    scoreboard.sweep()
    previous = signal.signal(signal.SIGTERM, _terminated)
    try:
        _Benchmark(settings, cells, outcome).run()
        outcome.complete = True
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, previous)
        scoreboard.sweep()
    return outcome


def _terminated(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


class _Benchmark:
    def __init__(self, settings: Settings, cells: list[Cell], outcome: Result) -> None:
        self._settings, self._cells, self._outcome = settings, cells, outcome
        self._cores = list(settings.cores)
        self._console = Console(stderr=True)
        self._number = 0
        self._deadline = float("inf")

    def run(self) -> None:
        costs = [cell.runs * cell.seconds * len(_installed(cell)) for cell in self._cells]
        total, began = sum(costs), time.monotonic()
        minutes = max(1, round(total / 60))
        self._console.print(
            f"{len(self._cells)} cells, about {minutes} minutes; Ctrl-C keeps what is done"
        )
        with CacheLineLatency(self._cores) as line, self._progress(total) as progress:
            for i, cell in enumerate(self._cells):
                if self._settings.limit_s:  # a slow cell must not take the time of the next ones
                    share = min(1.0, sum(costs[: i + 1]) / (total or 1) + SLACK)
                    self._deadline = began + share * self._settings.limit_s
                self._measure(cell, line, progress)

    def _measure(self, cell: Cell, line: CacheLineLatency, progress: Progress) -> None:
        task = progress.tasks[0].id
        rows = {kind: _row(kind) for kind in _installed(cell)}
        answer = CellResult(cell.scenario, cell.key, cell.conditions, list(rows.values()))
        self._outcome.cells.append(answer)
        if cell.harness_rate:
            with contextlib.suppress(RunError):
                answer.harness_rate = cell.harness_rate(self._name())
        for run in range(cell.runs):
            load = BackgroundLoad(self._cores)
            answer.line_latency_ns.append(line.measure())
            for kind, row in rows.items():
                what = f"{cell.title}: {kind.title()}, run {run + 1} of {cell.runs}"
                progress.update(task, description=what)
                self._sample(cell, kind, row)
                progress.advance(task, cell.seconds)
            answer.line_latency_ns.append(line.measure())
            answer.background_load.append(load.share())

    @contextmanager
    def _progress(self, total: float) -> Iterator[Progress]:
        columns = (
            TextColumn("{task.percentage:3.0f} %"), BarColumn(20), TimeRemainingColumn(),
            TextColumn("left: {task.description}"),
        )  # fmt: skip
        with Progress(*columns, console=self._console, transient=True) as progress:
            progress.add_task("", total=total)
            yield progress

    def _sample(self, cell: Cell, kind: type[Transport], row: Row) -> None:
        if row.unsupported:
            return
        name = self._name()
        try:
            if time.monotonic() > self._deadline:
                raise RunError("not measured: the time limit was reached")
            row.runs.append(cell.sample(kind, name))
        except UnsupportedError as error:
            row.unsupported = str(error)
        except Exception as error:
            row.runs.append(None)
            text = str(error) if isinstance(error, RunError) else f"{type(error).__name__}: {error}"
            if text not in row.errors:
                row.errors.append(text)

    def _name(self) -> str:
        self._number += 1
        return f"{scoreboard.PREFIX}{os.getpid()}-{self._number}"


def _installed(cell: Cell) -> list[type[Transport]]:
    return [kind for kind in cell.transports if kind.version() is not None]


def _row(kind: type[Transport]) -> Row:
    return Row(kind.title(), kind.library, kind.shape.value, issubclass(kind, Many))
