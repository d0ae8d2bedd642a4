# SPDX-License-Identifier: Apache-2.0
"""Two results side by side: what became faster or slower, and what of that is more than noise."""

import statistics

from .result import CellResult, Result, Row
from .summary import MAIN, Spread, number, spread
from .tables import Lines, Table, conditions, verdict

HOP_CHANGED = 1.5  # times: what was measured with such different hops is not comparable


def compare(old: Result, new: Result) -> list[Table]:
    """A table for each scenario that both have."""
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
    before = {row.way: row for row in old.rows}
    pairs = [(before[row.way], row) for row in new.rows if row.way in before]
    if new.scenario not in MAIN:
        return [[[b.way], [new.key], verdict(b), verdict(a), [""], [""]] for b, a in pairs]
    return [_row(old, new, b, a) for b, a in pairs]


def _row(old: CellResult, new: CellResult, before: Row, after: Row) -> list[Lines]:
    name, more_is_better = MAIN[new.scenario]
    a, b = spread(before, name), spread(after, name)
    if not a or not b:
        return [[after.way], [new.key], [_text(a)], [_text(b)], [""], [""]]
    remark = judge(a, b, more_is_better)
    if _hops_differ(old, new):
        remark += f"; not comparable: {conditions(old)} before, {conditions(new)} now"
    times = [number(b.median / a.median)] if a.median else [""]
    return [[after.way], [new.key], [_text(a)], [_text(b)], times, [remark]]


def judge(old: Spread, new: Spread, more_is_better: bool) -> str:
    """Better or worse only if the ranges do not meet."""
    if new.least <= old.most and old.least <= new.most:
        return "within the range"
    return "better" if (new.median > old.median) == more_is_better else "WORSE"


def _text(found: Spread | None) -> str:
    if not found:
        return "-"
    return f"{number(found.median)} ({number(found.least)} - {number(found.most)})"


def _hops_differ(old: CellResult, new: CellResult) -> bool:
    if not old.hops or not new.hops:
        return False
    a, b = statistics.median(old.hops), statistics.median(new.hops)
    return max(a, b) > HOP_CHANGED * min(a, b)
