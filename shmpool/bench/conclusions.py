# SPDX-License-Identifier: Apache-2.0
"""What the figures show, in sentences, losses included."""

from collections.abc import Callable

from .result import CellResult, Result, Row, Run
from .summary import (
    BUFFER,
    BURST,
    LANES,
    MAIN,
    OURS,
    QUEUE_EACH,
    REFERENCE,
    SINGLE,
    clean,
    goals,
    lossless,
    number,
    spread,
    to_best_peer,
    to_reference,
)


def conclusions(result: Result) -> list[str]:
    """A sentence or two for each scenario that was measured."""
    return [
        *(text for transport in (BURST, BUFFER, SINGLE) for text in _throughput(result, transport)),
        *_scaling(result),
        *(_first(cell) for cell in result.cells if cell.scenario in ("to-all", "latency")),
        *_idle(result),
        *_robustness(result),
        *_missed(result),
    ]


def _ranking(cell: CellResult) -> list[tuple[float, Row]]:
    """The rows that have a figure and lose nothing, best first."""
    name, more_is_better = MAIN[cell.scenario]
    found = [
        (s.median, row) for row in cell.rows if (s := spread(row, name)) and not row.total("lost")
    ]
    return sorted(found, key=lambda pair: pair[0], reverse=more_is_better)


def _throughput(result: Result, transport: str) -> list[str]:
    """How one of our transports compares."""
    rows = [(c, r) for c in result.of("throughput") for r in c.rows if r.transport == transport]
    peers = {c.key: ratio for c, row in rows if (ratio := to_best_peer(c, row)) is not None}
    queue = [ratio for c, row in rows if (ratio := to_reference(c, row)) is not None]
    if not peers or not queue:
        return []
    ahead = sum(ratio >= 1 for ratio in peers.values())
    best, worst = max(peers, key=peers.__getitem__), min(peers, key=peers.__getitem__)
    return [
        f"Throughput, {transport}: at least as fast as every other library that loses nothing in "
        f"{ahead} of {len(peers)} cells, from {number(peers[worst])} times the best of them "
        f"({worst}) to {number(peers[best])} times ({best}); {number(min(queue))} to "
        f"{number(max(queue))} times {REFERENCE}."
    ]


def _scaling(result: Result) -> list[str]:
    """How our ways do at the most pairs, compared with one pair and with the best peer."""
    cells = result.of("scaling")
    if len(cells) < 2:
        return []
    first, last = ({row.transport: row for row in cell.rows} for cell in (cells[0], cells[-1]))
    one = spread(first[SINGLE], "rate") if SINGLE in first else None
    found = []
    for name, what in ((SINGLE, "one queue"), (LANES, "lanes"), (QUEUE_EACH, "a queue each")):
        rate = spread(last[name], "rate") if name in last else None
        if one and rate:
            best = to_best_peer(cells[-1], last[name])
            than = f" and {number(best)} times the best peer" if best else ""
            found.append(f"{what} {number(rate.median / one.median)} times one pair{than}")
    pairs = cells[-1].conditions["producers"]
    return [f"Scaling, {pairs} pairs of processes: {'; '.join(found)}."] if found else []


def _first(cell: CellResult) -> str:
    """Which transport is first, and the place of our best one."""
    ranking = _ranking(cell)
    ours = next((i for i, (_, row) in enumerate(ranking) if row.library == OURS), None)
    if not ranking:
        return f"{cell.scenario}, {cell.key}: nothing was measured."
    scenario, first = cell.scenario.capitalize(), ranking[0][1].transport
    text = f"{scenario}, {cell.key}: first of {len(ranking)} is {first}"
    if ours is None:
        return f"{text}; {OURS} was not measured."
    if ours == 0:
        peers = (row.transport for _, row in ranking if row.library != OURS)
        return f"{text}, then {peer}." if (peer := next(peers, "")) else f"{text}."
    times, own = ranking[ours][0] / ranking[0][0], ranking[ours][1].transport
    return f"{text}; {own} is number {ours + 1}, at {number(times)} times its figure."


def _idle(result: Result) -> list[str]:
    wakeups = [
        f"{row.transport} {number(figure)}"
        for cell in result.of("idle")
        for figure, row in _ranking(cell)
        if figure > 0
    ]
    text = "Idle, blocked receivers that wake up without a message, times a second"
    return [f"{text}: {', '.join(wakeups)}."] if wakeups else []


def _robustness(result: Result) -> list[str]:
    def passes(rows: list[Row], holds: Callable[[Run], bool]) -> bool:
        """True if it holds in each fault test. A test that was impossible or failed counts as
        not passed."""
        runs = [run for row in rows for run in row.runs or [None]]
        return all(run is not None and holds(run) for run in runs)

    def hung(rows: list[Row]) -> bool:
        return any(run and run["hung"] for row in rows for run in row.runs)

    cells = result.of("robustness")
    rows: dict[str, list[Row]] = {}
    for cell in cells:
        for row in cell.rows:
            rows.setdefault(row.transport, []).append(row)
    found = []
    for text, holds in (
        ("clean and not one message lost in all", lambda own: passes(own, lossless)),
        ("clean in all", lambda own: passes(own, clean)),
        ("hung in one or more", hung),
    ):
        names = ", ".join(name for name, own in rows.items() if holds(own)) or "none"
        found.append(f"Robustness, {text} of {len(cells)} fault tests: {names}.")
    return found if cells else []


def _missed(result: Result) -> list[str]:
    found = goals(result)
    missed = sum(goal.met is False for goal in found)
    text = f"Goals: {missed} of {len(found)} are missed; the last table lists them."
    return [text] if found else []
