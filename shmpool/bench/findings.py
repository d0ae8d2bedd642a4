# SPDX-License-Identifier: Apache-2.0
"""What the figures show, in sentences, losses included."""

from collections.abc import Callable
from typing import Any

from . import summary
from .result import CellResult, Result, Row
from .summary import (
    BUFFER,
    BURST,
    MAIN,
    OURS,
    SINGLE,
    clean,
    lossless,
    number,
    spread,
    to_best_peer,
    to_reference,
)


def findings(result: Result) -> list[str]:
    """A sentence or two for each scenario that was measured."""
    return [
        *_ways(result, BURST),
        *_ways(result, BUFFER),
        *_ways(result, SINGLE),
        *(_first(cell) for cell in result.cells if cell.scenario in ("to-all", "latency")),
        *_idle(result),
        *_robustness(result),
        *_missed(result),
    ]


def _figures(cell: CellResult) -> list[tuple[float, Row]]:
    """The rows that have a figure and lose nothing, best first."""
    name, more_is_better = MAIN[cell.scenario]
    found = [
        (s.median, row) for row in cell.rows if (s := spread(row, name)) and not row.total("lost")
    ]
    return sorted(found, key=lambda pair: pair[0], reverse=more_is_better)


def _ways(result: Result, way: str) -> list[str]:
    """How a way of ours fared in throughput."""
    cells = [(c, row) for c in result.of("throughput") for row in c.rows if row.way == way]
    peers = {c.key: r for c, row in cells if (r := to_best_peer(c, row)) is not None}
    queue = [r for c, row in cells if (r := to_reference(c, row)) is not None]
    if not peers or not queue:
        return []
    ahead = sum(ratio >= 1 for ratio in peers.values())
    best, worst = max(peers, key=peers.__getitem__), min(peers, key=peers.__getitem__)
    return [
        f"Throughput, {way}: at least as fast as every other library that loses nothing in {ahead} "
        f"of {len(peers)} cells, from {number(peers[worst])} times the best of them ({worst}) to "
        f"{number(peers[best])} times ({best}); {number(min(queue))} to {number(max(queue))} times "
        f"{summary.REFERENCE}."
    ]


def _first(cell: CellResult) -> str:
    """Who is first, and where the best of ours is."""
    figures = _figures(cell)
    ours = next((i for i, (_, row) in enumerate(figures) if row.library == OURS), None)
    if not figures:
        return f"{cell.scenario}, {cell.key}: nothing was measured."
    text = (
        f"{cell.scenario.capitalize()}, {cell.key}: first of {len(figures)} is {figures[0][1].way}"
    )
    if ours is None:
        return f"{text}; {OURS} was not measured."
    if ours == 0:
        follower = next((pair for pair in figures if pair[1].library != OURS), None)
        return f"{text}, then {follower[1].way}." if follower else f"{text}."
    times, own = figures[ours][0] / figures[0][0], figures[ours][1].way
    return f"{text}; {own} comes as number {ours + 1}, at {number(times)} times its figure."


def _idle(result: Result) -> list[str]:
    restless = [
        f"{row.way} {number(figure)}"
        for cell in result.of("idle")
        for figure, row in _figures(cell)
        if figure > 0
    ]
    text = "Idle, blocked receivers that wake up all the same, times a second"
    return [f"{text}: {', '.join(restless)}."] if restless else []


def _robustness(result: Result) -> list[str]:
    found = []
    cells = result.of("robustness")
    for word, holds in (
        ("clean and not one message lost in all", _all_lossless),
        ("clean in all", _all_clean),
        ("hung in one or more", _hung),
    ):
        rows = {way: [r for c in cells for r in c.rows if r.way == way] for way in _order(cells)}
        ways = [way for way, own in rows.items() if holds(own)]
        found.append(f"Robustness, {word} of {len(cells)} ordeals: {', '.join(ways) or 'none'}.")
    return found if cells else []


def _order(cells: list[CellResult]) -> list[str]:
    return list(dict.fromkeys(row.way for cell in cells for row in cell.rows))


def _all_clean(rows: list[Row]) -> bool:
    return _all(rows, clean)


def _all_lossless(rows: list[Row]) -> bool:
    return _all(rows, lossless)


def _all(rows: list[Row], holds: Callable[[dict[str, Any]], bool]) -> bool:
    """Whether it holds of each ordeal; one that a way cannot do, or that failed, is not passed."""
    runs = [run for row in rows for run in row.runs or [None]]
    return bool(runs) and all(run is not None and holds(run) for run in runs)


def _hung(rows: list[Row]) -> bool:
    return any(run and run["hung"] for row in rows for run in row.runs)


def _missed(result: Result) -> list[str]:
    goals = summary.goals(result)
    missed = [goal for goal in goals if goal.met is False]
    text = f"Goals: {len(missed)} of {len(goals)} are missed; the last table has them."
    return [text] if goals else []
