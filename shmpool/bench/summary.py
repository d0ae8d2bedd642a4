# SPDX-License-Identifier: Apache-2.0
"""What the runs say: medians with ranges, ratios run by run, faults, and the goals."""

import statistics
from dataclasses import dataclass
from typing import Any

from .message import Faults
from .result import CellResult, Result, Row
from .way import Shape

OURS, REFERENCE = "shmpool", "multiprocessing.Queue"
MAIN = {  # the figure that a scenario is about, and whether more of it is better
    "throughput": ("rate", True),
    "to-all": ("rate", True),
    "latency": ("p50", False),
    "idle": ("wakeups", False),
}
ZERO_COPY_SIZE = 64 << 10  # bytes of a message from which handing over a place pays
SINGLE, BUFFER, BURST = "shmpool send, recv", "shmpool Buffer", "shmpool burst"
MANY = "shmpool send_many, recv_many"
SMALL_SIZE = 64
LINE_RATE = 14.88  # million packets a second of the least size on a wire of 10 Gbit/s


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
    """Three digits that count."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def ratio(row: Row, others: list[Row], name: str, more_is_better: bool) -> float | None:
    """The row's figure over the best one of the others: the median of the ratios run by run."""
    best = max if more_is_better else min
    ratios = []
    for run, value in row.figures(name).items():
        peers = [figures[run] for other in others if run in (figures := other.figures(name))]
        if peers and best(peers) > 0:
            ratios.append(value / best(peers))
    return statistics.median(ratios) if ratios else None


def peers(cell: CellResult, row: Row) -> list[Row]:
    """The rows of other libraries that do not lose messages of their own accord."""
    return [r for r in cell.rows if r.library not in (OURS, row.library) and not r.total("lost")]


def to_reference(cell: CellResult, row: Row) -> float | None:
    name, more = MAIN[cell.scenario]
    return ratio(row, [r for r in cell.rows if r.way == REFERENCE], name, more)


def to_best_peer(cell: CellResult, row: Row) -> float | None:
    name, more = MAIN[cell.scenario]
    return ratio(row, peers(cell, row), name, more)


def faults(row: Row) -> str:
    """What went wrong with messages, in words; "" if nothing did."""
    return str(Faults(**{name: row.total(name) for name in vars(Faults())}))


def clean(run: dict[str, Any]) -> bool:
    """Whether an ordeal left nothing to complain of: nobody hung or stood still, nothing was lost
    or repeated but what victims had in hand, nothing damaged, leaked or left over."""
    wrong = ("hung", "stood_still", "damaged", "unknown", "leaked", "left", "saw")
    in_hand = run["lost"] + run["repeated"]
    return in_hand <= run["in_hand"] and not any(run.get(name) for name in wrong)


def lossless(run: dict[str, Any]) -> bool:
    """Whether it was clean and not even what victims had in hand was lost."""
    return clean(run) and not run["lost"]


@dataclass(frozen=True)
class Goal:
    """One thing that shmpool set itself. got is None if it cannot be said."""

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
        *(goal for cell in result.of("throughput") for goal in _small_goals(cell)),
        *(_latency_goal(cell) for cell in result.of("latency")),
        *(goal for cell in result.of("robustness") for goal in _robustness_goals(cell)),
    ]


def _throughput_goals(cell: CellResult) -> list[Goal]:
    rows = {row.way: row for row in cell.rows}
    name, more = MAIN[cell.scenario]

    def against(way: str, shapes: set[str] | None, single: bool) -> float | None:
        if way not in rows:
            return None
        others = [
            r for r in peers(cell, rows[way])
            if (shapes is None or r.shape in shapes) and not (single and r.many)
        ]  # fmt: skip
        return ratio(rows[way], others, name, more)

    queues, rings = {Shape.QUEUE.value}, {Shape.LINK.value}
    found = [Goal("bursts: first", cell.key, 1.0, against(BURST, None, False))]
    if cell.conditions["size"] >= ZERO_COPY_SIZE:
        found.append(Goal("Buffer: first", cell.key, 1.0, against(BUFFER, None, False)))
    return [
        *found,
        Goal(
            "send, recv: the best many-to-many peer", cell.key, 1.2, against(SINGLE, queues, True)
        ),
        Goal(
            "send, recv: the best one-to-one copy ring",
            cell.key,
            0.8,
            against(SINGLE, rings, True),
        ),
    ]


def _small_goals(cell: CellResult) -> list[Goal]:
    """Of 64 bytes: millions a second between two processes, and many a call between four."""
    rows = {row.way: row for row in cell.rows}
    c = cell.conditions
    if c["size"] != SMALL_SIZE or c["producers"] > 2:
        return []
    if c["producers"] == 1:
        rates = {way: spread(rows[way], "rate") for way in (BURST, BUFFER) if way in rows}
        return [
            Goal(f"{what}: million a second", cell.key, wanted, found.median / 1e6)
            for what, way, wanted in (("bursts", BURST, LINE_RATE), ("Buffer", BUFFER, 2.0))
            if (found := rates.get(way))
        ]
    if MANY not in rows:
        return []
    others = [row for row in peers(cell, rows[MANY]) if row.many]
    got = ratio(rows[MANY], others, *MAIN["throughput"])
    return [Goal("send_many, recv_many: the best other batches", cell.key, 1.0, got)]


def _latency_goal(cell: CellResult) -> Goal:
    """How much shorter than the best other's the round trip is."""
    name, more = MAIN[cell.scenario]
    row = next((row for row in cell.rows if row.way == SINGLE), None)
    found = ratio(row, peers(cell, row), name, more) if row else None
    return Goal("send, recv: the best round trip", cell.key, 1.0, 1 / found if found else None)


def _robustness_goals(cell: CellResult) -> list[Goal]:
    """1 for a clean row of ours, and where others get what the dead had a lossless one, else 0."""
    ours = [row for row in cell.rows if row.library == OURS and any(row.runs)]
    return [
        Goal(f"{row.way}: {what}", cell.key, 1.0, float(all(holds(run) for run in row.runs if run)))
        for row in ours
        for what, holds in (("clean", clean), ("nothing lost", lossless))
        if holds is clean or row.way == BUFFER
    ]
