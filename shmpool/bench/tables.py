# SPDX-License-Identifier: Apache-2.0
"""Results as tables of text, for the terminal and for documents alike."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .plan import size_text
from .result import CellResult, Result, Row
from .summary import (
    Spread,
    clean,
    faults,
    goals,
    lossless,
    number,
    spread,
    to_best_peer,
    to_reference,
)

Lines = Sequence[str]  # of one field


@dataclass(frozen=True)
class Table:
    """The first column names the row; the others are figures."""

    title: str
    header: list[str]
    rows: list[list[Lines]]
    note: str = ""


def tables(result: Result) -> list[Table]:
    """All there is to show, in the order of the scenarios."""
    return [
        *_throughput(result),
        *_costs(result),
        *_to_all(result),
        *_latency(result),
        *_idle(result),
        *_robustness(result),
        *_goals(result),
    ]


def _range(found: Spread, scale: float, unit: str) -> list[str]:
    text = f"{number(found.median / scale)} {unit}"
    if found.least == found.most:
        return [text]
    return [text, f"{number(found.least / scale)} - {number(found.most / scale)}"]


def _ratios(cell: CellResult, row: Row) -> list[str]:
    reference, best = to_reference(cell, row), to_best_peer(cell, row)
    found = [f"{number(reference)} x Queue"] if reference else []
    return found + ([f"{number(best)} x best"] if best else [])


def _troubles(row: Row) -> list[str]:
    return [*filter(None, [faults(row)]), *row.errors]


def _field(cell: CellResult, row: Row | None, show: Callable[[CellResult, Row], Lines]) -> Lines:
    if row is None:
        return [""]
    if row.unsupported:
        return ["cannot", row.unsupported]
    return [*show(cell, row), *_troubles(row)]


def _rate(cell: CellResult, row: Row) -> Lines:
    found = spread(row, "rate")
    return [*_range(found, 1e3, "k/s"), *_ratios(cell, row)] if found else []


def _cost(cell: CellResult, row: Row) -> Lines:
    cpu, memory = spread(row, "cpu_s_per_million"), spread(row, "memory_mib")
    if not cpu or not memory:
        return []
    return [f"{number(cpu.median)} s", f"{number(memory.most)} MiB"]


def conditions(cell: CellResult) -> str:
    """What else went on while it was measured."""
    if not cell.hops:
        return ""
    hops = f"hop {min(cell.hops):.0f} - {max(cell.hops):.0f} ns"
    return hops + (f", others {statistics.median(cell.others):.0%}" if cell.others else "")


def _side_by_side(
    title: str, cells: list[CellResult], headings: list[str],
    show: Callable[[CellResult, Row], Lines], note: str,
) -> Table:  # fmt: skip
    """A row for each way, a column for each cell."""
    ways = list(dict.fromkeys(row.way for cell in cells for row in cell.rows))
    by_way = [{row.way: row for row in cell.rows} for cell in cells]
    shapes = {row.way: row.shape for cell in cells for row in cell.rows}
    rows: list[list[Lines]] = [
        [[way, shapes[way]]]
        + [_field(cell, rows.get(way), show) for cell, rows in zip(cells, by_way, strict=True)]
        for way in ways
    ]
    return Table(title, ["", *headings], rows, note)


def _loads(result: Result) -> dict[str, list[CellResult]]:
    """The cells of throughput, by who sends to whom."""
    groups: dict[str, list[CellResult]] = {}
    for cell in result.of("throughput"):
        c = cell.conditions
        groups.setdefault(f"{c['producers']} to {c['consumers']}", []).append(cell)
    return groups


def _headings(cells: list[CellResult]) -> list[str]:
    return [f"{size_text(cell.conditions['size'])}: {conditions(cell)}" for cell in cells]


def _throughput(result: Result) -> list[Table]:
    note = (
        "Messages received a second, median and range of the runs. One-to-one and to-all ways use "
        "a channel for each pair of processes. The best peer is the best of the other libraries "
        "that lose nothing."
    )
    return [
        _side_by_side(f"Throughput, {who}", cells, _headings(cells), _rate, note + _floor(cells))
        for who, cells in _loads(result).items()
    ]


def _floor(cells: list[CellResult]) -> str:
    """What the harness alone would come to."""
    rates = [
        f"{number(cell.floor / 1e3)} k/s ({size_text(cell.conditions['size'])})"
        for cell in cells
        if cell.floor
    ]
    if not rates:
        return ""
    return (
        " Without any library, messages made, copied and checked one by one would come to "
        f"{', '.join(rates)} on these cores."
    )


def _costs(result: Result) -> list[Table]:
    note = (
        "Processor seconds of all processes per million messages, and the most memory that they "
        "had beyond what they had before they opened their ends."
    )
    return [
        _side_by_side(
            f"Cost, {who}", cells, [h.split(":")[0] for h in _headings(cells)], _cost, note
        )
        for who, cells in _loads(result).items()
    ]


def _to_all(result: Result) -> list[Table]:
    cells = result.of("to-all")
    if not cells:
        return []
    n = cells[0].conditions["consumers"]
    note = f"Deliveries a second: each message reaches all {n} consumers."
    title = f"One to all of {n}"
    return [_side_by_side(title, cells, _headings(cells), _rate, note)]


def _latency(result: Result) -> list[Table]:
    def table(cell: CellResult) -> Table:
        rows: list[list[Lines]] = []
        for row in cell.rows:
            p50, p99, p999 = (spread(row, name) for name in ("p50", "p99", "p99.9"))
            if p50 and p99 and p999:
                figures: list[Lines] = [
                    _range(p50, 1, "us"), _range(p99, 1, "us"), _range(p999, 1, "us"),
                    _ratios(cell, row),
                ]  # fmt: skip
            else:
                figures = [["cannot", row.unsupported] if row.unsupported else _troubles(row)]
                figures += [[""]] * 3
            rows.append([[row.way], *figures])
        note = f"Round trips of {cell.conditions['size']} bytes; {conditions(cell)}."
        header = ["", "p50", "p99", "p99.9", "p50, times"]
        return Table(f"Latency, {cell.key}", header, rows, note)

    return [table(cell) for cell in result.of("latency")]


def _idle(result: Result) -> list[Table]:
    def figure(row: Row, name: str, unit: str) -> Lines:
        found = spread(row, name)
        return [f"{number(found.median)}{unit}"] if found else _troubles(row)

    return [
        Table(
            "A blocked receiver to which nothing comes",
            ["", "wake-ups a second", "of one processor"],
            [
                [[r.way], figure(r, "wakeups", ""), figure(r, "cpu_percent", " %")]
                for r in cell.rows
            ],
        )
        for cell in result.of("idle")
    ]


def verdict(row: Row) -> list[str]:
    """What became of an ordeal, in words, one line each."""
    if row.unsupported:
        return ["cannot", row.unsupported]
    run = next((run for run in row.runs if run), None)
    if run is None:
        return row.errors
    found = ["clean, nothing lost" if lossless(run) else "clean"] if clean(run) else []
    if run["hung"]:
        found.append(f"HUNG {run['hung']}")
    if run["stood_still"]:
        found.append(f"survivors stood still in {run['stood_still']} of {run['blows']}")
    if trouble := faults(row):
        allowed = f", {run['in_hand']} may have been in hand" if run["in_hand"] else ""
        found.append(f"{trouble} of {run['sent']:,}{allowed}")
    if run["leaked"]:
        found.append(f"{run['leaked']:,} buffers leaked")
    if run["left"]:
        found.append(f"{run['left']} files left in /dev/shm")
    found += [f"saw {error}" for error in run["saw"]]
    return [*found, f"longest pause {run['longest_ms']:.0f} ms"]


def _robustness(result: Result) -> list[Table]:
    cells = result.of("robustness")
    if not cells:
        return []
    headings = [f"{cell.conditions['times']} x {cell.key}" for cell in cells]
    note = (
        "Two producers and two consumers; a newcomer takes each victim's place. Clean: nobody "
        "hung, nothing lost or repeated but what victims had in hand, nothing leaked or left. The "
        "pause holds the newcomer's start. On a topic, what is sent while nobody subscribes is "
        "lost by design."
    )
    table = _side_by_side("Robustness", cells, headings, lambda _, row: verdict(row), note)
    return [table] if table.rows else []


def _goals(result: Result) -> list[Table]:
    rows: list[list[Lines]] = [
        [
            [goal.what], [goal.cell], [f"{goal.wanted:g}"],
            [number(goal.got) if goal.got is not None else "-"],
            [{True: "met", False: "MISSED", None: "-"}[goal.met]],
        ]
        for goal in goals(result)
    ]  # fmt: skip
    return [Table("Goals of shmpool", ["", "cell", "at least", "got", ""], rows)] if rows else []
