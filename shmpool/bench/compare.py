# SPDX-License-Identifier: Apache-2.0
"""Compares two results: what became faster or slower by more than noise."""

import statistics

from .result import CellResult, Result, Row
from .summary import MAIN, Spread, number, spread
from .tables import Lines, Table, conditions, verdict

LATENCY_CHANGED = 1.5  # times: figures of such different cache-line latencies are not comparable


def compare(old: Result, new: Result) -> list[Table]:
    """A table for each scenario that both results have."""
    before = {(cell.scenario, cell.key): cell for cell in old.cells}
    found: dict[str, list[list[Lines]]] = {}
    for cell in new.cells:
        if (cell.scenario, cell.key) in before:
            rows = _cell(before[cell.scenario, cell.key], cell)
            found.setdefault(cell.scenario, []).extend(rows)
    header = ["", "cell", "old", "new", "new/old", ""]
    note = f"old: {old.started}, new: {new.started}"
    return [Table(scenario, header, rows, note) for scenario, rows in found.items()]


def _cell(old: CellResult, new: CellResult) -> list[list[Lines]]:
    before = {row.transport: row for row in old.rows}
    pairs = [(before[row.transport], row) for row in new.rows if row.transport in before]
    if new.scenario not in MAIN:
        return [[[b.transport], [new.key], verdict(b), verdict(a), [""], [""]] for b, a in pairs]
    return [_row(old, new, b, a) for b, a in pairs]


def _row(old: CellResult, new: CellResult, before: Row, after: Row) -> list[Lines]:
    name, more_is_better = MAIN[new.scenario]
    a, b = spread(before, name), spread(after, name)
    times, remark = "", ""
    if a and b:
        times = number(b.median / a.median) if a.median else ""
        remark = judge(a, b, more_is_better)
        if _latencies_differ(old, new):
            remark += f"; not comparable: {conditions(old)} before, {conditions(new)} now"
    return [[after.transport], [new.key], [_text(a)], [_text(b)], [times], [remark]]


def judge(old: Spread, new: Spread, more_is_better: bool) -> str:
    """Better or worse only if the ranges do not overlap."""
    if new.least <= old.most and old.least <= new.most:
        return "within the range"
    return "better" if (new.median > old.median) == more_is_better else "WORSE"


def _text(found: Spread | None) -> str:
    if not found:
        return "-"
    return f"{number(found.median)} ({number(found.least)} - {number(found.most)})"


def _latencies_differ(old: CellResult, new: CellResult) -> bool:
    if not old.line_latency_ns or not new.line_latency_ns:
        return False
    a, b = statistics.median(old.line_latency_ns), statistics.median(new.line_latency_ns)
    return max(a, b) > LATENCY_CHANGED * min(a, b)
