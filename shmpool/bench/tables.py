# SPDX-License-Identifier: Apache-2.0
"""Results as tables of text, for the terminal and for documents."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .plan import size_text
from .result import CellResult, Result, Row
from .summary import (
    Spread,
    clean,
    goals,
    lossless,
    message_errors,
    number,
    spread,
    to_best_peer,
    to_reference,
)

Lines = Sequence[str]  # of one field


@dataclass(frozen=True)
class Table:
    """The first column names the row; the others hold figures."""

    title: str
    header: list[str]
    rows: list[list[Lines]]
    note: str = ""


def tables(result: Result) -> list[Table]:
    """All tables, in the order of the scenarios."""
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


def _errors(row: Row) -> list[str]:
    return [*filter(None, [message_errors(row)]), *row.errors]


def _rate(cell: CellResult, row: Row) -> Lines:
    found = spread(row, "rate")
    figures = [*_range(found, 1e3, "k/s"), *_ratios(cell, row)] if found else []
    return [*figures, *_errors(row)]


def _cost(cell: CellResult, row: Row) -> Lines:
    cpu, memory = spread(row, "cpu_s_per_million"), spread(row, "memory_mib")
    figures = [f"{number(cpu.median)} s", f"{number(memory.most)} MiB"] if cpu and memory else []
    return [*figures, *_errors(row)]


def conditions(cell: CellResult) -> str:
    """The state of the two cores while the cell was measured."""
    if not cell.line_latency_ns:
        return ""
    text = f"cache line {min(cell.line_latency_ns):.0f} - {max(cell.line_latency_ns):.0f} ns"
    if cell.background_load:
        text += f", background load {statistics.median(cell.background_load):.0%}"
    return text


def _side_by_side(
    title: str, cells: list[CellResult], headings: list[str],
    show: Callable[[CellResult, Row], Lines], note: str,
) -> Table:  # fmt: skip
    """A row for each transport, a column for each cell."""

    def field(cell: CellResult, transport: str) -> Lines:
        row = next((row for row in cell.rows if row.transport == transport), None)
        if row is None:
            return [""]
        return ["cannot", row.unsupported] if row.unsupported else show(cell, row)

    shapes = {row.transport: row.shape for cell in cells for row in cell.rows}
    rows: list[list[Lines]] = [
        [[transport, shape], *(field(cell, transport) for cell in cells)]
        for transport, shape in shapes.items()
    ]
    return Table(title, ["", *headings], rows, note)


def _loads(result: Result) -> dict[str, list[CellResult]]:
    """The cells of throughput, grouped by the numbers of producers and consumers."""
    groups: dict[str, list[CellResult]] = {}
    for cell in result.of("throughput"):
        c = cell.conditions
        groups.setdefault(f"{c['producers']} to {c['consumers']}", []).append(cell)
    return groups


def _headings(cells: list[CellResult]) -> list[str]:
    return [f"{size_text(cell.conditions['size'])}: {conditions(cell)}" for cell in cells]


def _throughput(result: Result) -> list[Table]:
    note = (
        "Messages received a second, median and range of the runs. One-to-one and to-all "
        'transports use a channel for each pair of processes. "x best" compares with the best of '
        "the other libraries that lose nothing."
    )
    return [
        _side_by_side(
            f"Throughput, {load}", cells, _headings(cells), _rate, note + _harness_rates(cells)
        )
        for load, cells in _loads(result).items()
    ]


def _harness_rates(cells: list[CellResult]) -> str:
    rates = [
        f"{number(cell.harness_rate / 1e3)} k/s ({size_text(cell.conditions['size'])})"
        for cell in cells
        if cell.harness_rate
    ]
    if not rates:
        return ""
    return (
        " Without any library, messages that are made, copied and checked one by one would reach "
        f"{', '.join(rates)} on these cores."
    )


def _costs(result: Result) -> list[Table]:
    note = (
        "Processor seconds of all processes per million messages, and the most memory that they "
        "took after they began to open their endpoints."
    )
    return [
        _side_by_side(
            f"Cost, {load}", cells, [size_text(c.conditions["size"]) for c in cells], _cost, note
        )
        for load, cells in _loads(result).items()
    ]


def _to_all(result: Result) -> list[Table]:
    cells = result.of("to-all")
    if not cells:
        return []
    n = cells[0].conditions["consumers"]
    note = f"Deliveries a second: each message reaches all {n} consumers."
    return [_side_by_side(f"One to all of {n}", cells, _headings(cells), _rate, note)]


def _latency(result: Result) -> list[Table]:
    def table(cell: CellResult) -> Table:
        rows: list[list[Lines]] = []
        for row in cell.rows:
            found = [s for name in ("p50", "p99", "p99.9") if (s := spread(row, name))]
            if len(found) == 3:
                figures: list[Lines] = [_range(s, 1, "us") for s in found]
                figures.append(_ratios(cell, row))
            else:
                figures = [["cannot", row.unsupported] if row.unsupported else _errors(row)]
                figures += [[""]] * 3
            rows.append([[row.transport], *figures])
        note = f"Round trips of {cell.conditions['size']} bytes; {conditions(cell)}."
        header = ["", "p50", "p99", "p99.9", "p50, times"]
        return Table(f"Latency, {cell.key}", header, rows, note)

    return [table(cell) for cell in result.of("latency")]


def _idle(result: Result) -> list[Table]:
    def figure(row: Row, name: str, unit: str) -> Lines:
        found = spread(row, name)
        return [f"{number(found.median)}{unit}"] if found else _errors(row)

    header = ["", "wake-ups a second", "of one processor"]
    return [
        Table(
            "A blocked receiver without messages", header,
            [[[r.transport], figure(r, "wakeups", ""), figure(r, "cpu_percent", " %")]
             for r in cell.rows],
        )
        for cell in result.of("idle")
    ]  # fmt: skip


def verdict(row: Row) -> list[str]:
    """The outcome of a fault test in words, one line for each fact."""
    if row.unsupported:
        return ["cannot", row.unsupported]
    run = next((run for run in row.runs if run), None)
    if run is None:
        return row.errors
    found = ["clean, nothing lost" if lossless(run) else "clean"] if clean(run) else []
    if run["hung"]:
        found.append(f"HUNG {run['hung']}")
    if run["stalled"]:
        found.append(f"survivors stalled in {run['stalled']} of {run['faults']}")
    if errors := message_errors(row):
        allowed = f", victims held at most {run['held']}" if run["held"] else ""
        found.append(f"{errors} of {run['sent']:,}{allowed}")
    if run["leaked"]:
        found.append(f"{run['leaked']:,} buffers leaked")
    if run["files_left"]:
        found.append(f"{run['files_left']} files left in /dev/shm")
    found += [f"error: {error}" for error in run["errors"]]
    return [*found, f"longest pause {run['longest_ms']:.0f} ms"]


def _robustness(result: Result) -> list[Table]:
    cells = result.of("robustness")
    if not cells:
        return []
    headings = [f"{cell.conditions['times']} x {cell.key}" for cell in cells]
    note = (
        "Two producers and two consumers; a replacement takes the place of each victim that was "
        "killed. Clean: no process hung, nothing was lost or repeated but messages that victims "
        "held, nothing leaked or was left. The pause includes the start of the replacement. On a "
        "topic, messages that are sent while there is no subscriber are lost by design."
    )
    table = _side_by_side("Robustness", cells, headings, lambda _, row: verdict(row), note)
    return [table] if table.rows else []


def _goals(result: Result) -> list[Table]:
    met = {True: "met", False: "MISSED", None: "-"}
    rows: list[list[Lines]] = [
        [
            [goal.what], [goal.cell], [f"{goal.wanted:g}"],
            [number(goal.got) if goal.got is not None else "-"], [met[goal.met]],
        ]
        for goal in goals(result)
    ]  # fmt: skip
    header = ["", "cell", "at least", "measured", ""]
    return [Table("Goals of shmpool", header, rows)] if rows else []
