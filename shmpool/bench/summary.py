# SPDX-License-Identifier: Apache-2.0
"""What follows from the runs: medians with ranges, ratios run by run, message errors, and goals."""

import statistics
from dataclasses import dataclass

from .message import MessageErrors
from .result import CellResult, Result, Row, Run
from .transport import Shape

OURS, REFERENCE = "shmpool", "multiprocessing.Queue"
MAIN = {  # a scenario's main figure, and whether more of it is better
    "throughput": ("rate", True),
    "scaling": ("rate", True),
    "to-all": ("rate", True),
    "latency": ("p50", False),
    "idle": ("wakeups", False),
}
LANES, QUEUE_EACH = "shmpool send, recv, lanes", "shmpool send, recv, a queue each"
SINGLE, BUFFER, BURST = "shmpool send, recv", "shmpool Buffer", "shmpool burst"
MANY = "shmpool send_many, recv_many"
ZERO_COPY_SIZE = 64 << 10  # bytes: from this size on zero copy pays
SMALL_SIZE = 64
LINE_RATE = 14.88  # million packets a second: the smallest packets on a 10 Gbit/s link


@dataclass(frozen=True)
class Spread:
    """The median of some runs, and their range."""

    median: float
    least: float
    most: float


def spread(row: Row, name: str) -> Spread | None:
    values = list(row.figures(name).values())
    return Spread(statistics.median(values), min(values), max(values)) if values else None


def number(value: float) -> str:
    """With three significant digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def ratio(row: Row, others: list[Row], name: str, more_is_better: bool) -> float | None:
    """The row's figure divided by the best one of the others: the median of each run's ratio."""
    best = max if more_is_better else min
    ratios = []
    for run, value in row.figures(name).items():
        figures = [found[run] for other in others if run in (found := other.figures(name))]
        if figures and best(figures) > 0:
            ratios.append(value / best(figures))
    return statistics.median(ratios) if ratios else None


def peers(cell: CellResult, row: Row) -> list[Row]:
    """The rows of other libraries that lost no message."""
    return [r for r in cell.rows if r.library not in (OURS, row.library) and not r.total("lost")]


def to_reference(cell: CellResult, row: Row) -> float | None:
    reference = [r for r in cell.rows if r.transport == REFERENCE]
    return ratio(row, reference, *MAIN[cell.scenario])


def to_best_peer(cell: CellResult, row: Row) -> float | None:
    return ratio(row, peers(cell, row), *MAIN[cell.scenario])


def message_errors(row: Row) -> str:
    """In words, over all runs; "" if there were none."""
    return str(MessageErrors(**{name: row.total(name) for name in vars(MessageErrors())}))


def clean(run: Run) -> bool:
    """True if a fault test did no harm: no process hung or stalled; no message was damaged; none
    was lost or repeated but those that victims held; nothing leaked; no file was left."""
    wrong = ("hung", "stalled", "damaged", "unknown", "leaked", "files_left", "errors")
    changed = run["lost"] + run["repeated"]
    return changed <= run["held"] and not any(run.get(name) for name in wrong)


def lossless(run: Run) -> bool:
    """True if it is clean, and not even a message that a victim held was lost."""
    return clean(run) and not run["lost"]


@dataclass(frozen=True)
class Goal:
    """A figure that shmpool should reach. got is None if it was not measured."""

    what: str
    cell: str
    wanted: float
    got: float | None

    @property
    def met(self) -> bool | None:
        return None if self.got is None else self.got >= self.wanted


def goals(result: Result) -> list[Goal]:
    return [
        *(goal for cell in result.of("throughput") for goal in _throughput_goals(cell)),
        *(goal for cell in result.of("scaling") for goal in _scaling_goals(cell)),
        *(_latency_goal(cell) for cell in result.of("latency")),
        *(goal for cell in result.of("robustness") for goal in _robustness_goals(cell)),
    ]


def _throughput_goals(cell: CellResult) -> list[Goal]:
    """Ratios to the best peers; for 64 bytes also millions of messages a second."""
    rows = {row.transport: row for row in cell.rows}

    def against(name: str, shape: Shape | None = None, many: bool | None = None) -> float | None:
        if name not in rows:
            return None
        others = [
            r for r in peers(cell, rows[name])
            if (shape is None or r.shape == shape.value) and many in (None, r.many)
        ]  # fmt: skip
        return ratio(rows[name], others, *MAIN["throughput"])

    def millions(name: str) -> float | None:
        found = spread(rows[name], "rate") if name in rows else None
        return found.median / 1e6 if found else None

    size, pairs = cell.conditions["size"], cell.conditions["producers"]
    wanted = [
        ("bursts: first", 1.0, against(BURST)),
        ("send, recv: the best many-to-many peer", 1.2, against(SINGLE, Shape.QUEUE, False)),
        ("send, recv: the best one-to-one copy ring", 0.8, against(SINGLE, Shape.LINK, False)),
    ]
    if size >= ZERO_COPY_SIZE:
        wanted.append(("Buffer: first", 1.0, against(BUFFER)))
    if (size, pairs) == (SMALL_SIZE, 1):
        wanted.append(("bursts: million a second", LINE_RATE, millions(BURST)))
        wanted.append(("Buffer: million a second", 2.0, millions(BUFFER)))
    if (size, pairs) == (SMALL_SIZE, 2):
        best_batches = against(MANY, many=True)
        wanted.append(("send_many, recv_many: the best other batches", 1.0, best_batches))
    return [Goal(what, cell.key, least, got) for what, least, got in wanted]


def _scaling_goals(cell: CellResult) -> list[Goal]:
    """Ratios of one queue with lanes to a queue for each pair, and to the best peer."""
    rows = {row.transport: row for row in cell.rows}
    lanes, each = rows.get(LANES), rows.get(QUEUE_EACH)
    if not lanes:
        return []
    own = ratio(lanes, [each], *MAIN["scaling"]) if each else None
    best = to_best_peer(cell, lanes)
    return [
        Goal("lanes: a queue for each pair", f"scaling, {cell.key}", 0.8, own),
        Goal("lanes: the best peer", f"scaling, {cell.key}", 1.2, best),
    ]


def _latency_goal(cell: CellResult) -> Goal:
    """How many times longer the best peer's round trip is."""
    row = next((row for row in cell.rows if row.transport == SINGLE), None)
    found = to_best_peer(cell, row) if row else None
    return Goal("send, recv: the best round trip", cell.key, 1.0, 1 / found if found else None)


def _robustness_goals(cell: CellResult) -> list[Goal]:
    """1 if each run of a row of ours was clean, and with requeueing lossless; otherwise 0."""
    ours = [row for row in cell.rows if row.library == OURS and any(row.runs)]
    return [
        Goal(
            f"{row.transport}: {what}",
            cell.key,
            1.0,
            float(all(map(holds, filter(None, row.runs)))),
        )
        for row in ours
        for what, holds in (("clean", clean), ("nothing lost", lossless))
        if holds is clean or row.transport == BUFFER
    ]
