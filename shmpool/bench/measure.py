# SPDX-License-Identifier: Apache-2.0
"""The run of the whole benchmark: cell by cell, contestants in turns, with progress.

Within a cell the contestants take turns, run by run (A B C, A B C, ...), so that whatever the
machine does meanwhile it does to all; the cache-line hop is probed around each turn of all.
Ctrl-C keeps what is done.
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

from . import board, result
from .crew import RunError
from .hop import Hop
from .others import Others
from .plan import Cell, Settings
from .result import CellResult, Result, Row
from .way import Many, UnsupportedError, Way

SLACK = 0.1  # of the time that there is, that one cell may be late


def measure(settings: Settings, cells: list[Cell], ways: tuple[type[Way], ...]) -> Result:
    """Measures everything, or what there is time for."""
    outcome = Result(
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        options=asdict(settings),
        machine=result.machine(),
        versions={w.library: v for w in ways if (v := w.version()) is not None},
        missing={w.library: _why_missing(w) for w in ways if w.version() is None},
    )
    board.sweep()
    previous = signal.signal(signal.SIGTERM, _terminated)
    try:
        _Meter(settings, cells, outcome).run()
        outcome.complete = True
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, previous)
        board.sweep()
    return outcome


def _why_missing(way: type[Way]) -> str:
    return f"{way.package} is not installed; it comes with shmpool[bench]"


def _terminated(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


class _Meter:
    def __init__(self, settings: Settings, cells: list[Cell], outcome: Result) -> None:
        self._settings, self._cells, self._outcome = settings, cells, outcome
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
        with Hop(list(self._settings.cores)) as hop, self._progress(total) as progress:
            task = progress.tasks[0].id
            for i, cell in enumerate(self._cells):
                if self._settings.limit_s:  # what one cell takes too long must not cost the others
                    share = min(1.0, sum(costs[: i + 1]) / (total or 1) + SLACK)
                    self._deadline = began + share * self._settings.limit_s
                rows = {way: _row(way) for way in _installed(cell)}
                answer = CellResult(cell.scenario, cell.key, cell.conditions, list(rows.values()))
                self._outcome.cells.append(answer)
                if cell.floor:
                    with contextlib.suppress(RunError):
                        answer.floor = cell.floor(self._name())
                for run in range(cell.runs):
                    others = Others(list(self._settings.cores))
                    answer.hops.append(hop.measure())
                    for way, row in rows.items():
                        what = f"{cell.title}: {way.title()}, run {run + 1} of {cell.runs}"
                        progress.update(task, description=what)
                        self._sample(cell, way, row)
                        progress.advance(task, cell.seconds)
                    answer.hops.append(hop.measure())
                    answer.others.append(others.share())

    @contextmanager
    def _progress(self, total: float) -> Iterator[Progress]:
        columns = (
            TextColumn("{task.percentage:3.0f} %"), BarColumn(20), TimeRemainingColumn(),
            TextColumn("left: {task.description}"),
        )  # fmt: skip
        with Progress(*columns, console=self._console, transient=True) as progress:
            progress.add_task("", total=total)
            yield progress

    def _sample(self, cell: Cell, way: type[Way], row: Row) -> None:
        if row.unsupported:
            return
        name = self._name()
        try:
            if time.monotonic() > self._deadline:
                raise RunError("not measured: the time was up")
            row.runs.append(cell.sample(way, name))
        except UnsupportedError as error:
            row.unsupported = str(error)
        except Exception as error:
            row.runs.append(None)
            text = str(error) if isinstance(error, RunError) else f"{type(error).__name__}: {error}"
            if text not in row.errors:
                row.errors.append(text)

    def _name(self) -> str:
        self._number += 1
        return f"{board.PREFIX}{os.getpid()}-{self._number}"


def _installed(cell: Cell) -> list[type[Way]]:
    return [way for way in cell.ways if way.version() is not None]


def _row(way: type[Way]) -> Row:
    return Row(way.title(), way.library, way.shape.value, issubclass(way, Many))
