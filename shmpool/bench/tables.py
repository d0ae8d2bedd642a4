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
LOADED = ("throughput", "scaling", "to-all")  # scenarios in which nobody is killed


@dataclass(frozen=True)
class Table:
    """The first column names the row; the others hold figures."""

    title: str
    header: list[str]
    rows: list[list[Lines]]
    note: str = ""


@dataclass(frozen=True)
class Column:
    """One cell, as one machine measured it."""

    machine: str  # "" if there is only one
    cell: CellResult

    def heading(self, text: str) -> str:
        """What is above it in a table."""
        found = ", ".join(filter(None, [self.machine, conditions(self.cell)]))
        return f"{text}: {found}" if found else text


def tables(*results: Result) -> list[Table]:
    """All tables, in the order of the scenarios. Several machines stand side by side."""
    return [
        *_throughput(results),
        *_costs(results),
        *_scaling(results),
        *_to_all(results),
        *_latency(results),
        *_idle(results),
        *_robustness(results),
        *_goals(results),
    ]


def columns(results: Sequence[Result], scenario: str) -> dict[str, list[Column]]:
    """The cells of a scenario by key, of each machine."""
    found: dict[str, list[Column]] = {}
    for result in results:
        machine = result.name if len(results) > 1 else ""
        for cell in result.of(scenario):
            found.setdefault(cell.key, []).append(Column(machine, cell))
    return found


def _flat(groups: dict[str, list[Column]]) -> list[Column]:
    return [column for group in groups.values() for column in group]


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
    title: str, columns: list[Column], headings: list[str],
    show: Callable[[CellResult, Row], Lines], note: str,
) -> Table:  # fmt: skip
    """A row for each transport, a column for each cell of each machine."""

    def field(cell: CellResult, transport: str) -> Lines:
        row = next((row for row in cell.rows if row.transport == transport), None)
        if row is None:
            return [""]
        return ["cannot", row.unsupported] if row.unsupported else show(cell, row)

    shapes = {row.transport: row.shape for column in columns for row in column.cell.rows}
    rows: list[list[Lines]] = [
        [[transport, shape], *(field(column.cell, transport) for column in columns)]
        for transport, shape in shapes.items()
    ]
    return Table(title, ["", *headings], rows, note)


def _loads(results: Sequence[Result]) -> dict[str, list[Column]]:
    """The cells of throughput, grouped by the numbers of producers and consumers; the same size
    of all machines stands together."""
    groups: dict[str, list[Column]] = {}
    for column in _flat(columns(results, "throughput")):
        c = column.cell.conditions
        groups.setdefault(f"{c['producers']} to {c['consumers']}", []).append(column)
    for group in groups.values():
        group.sort(key=lambda column: column.cell.conditions["size"])
    return groups


def _size(column: Column) -> str:
    return size_text(column.cell.conditions["size"])


def _headings(columns: list[Column]) -> list[str]:
    return [column.heading(_size(column)) for column in columns]


def _throughput(results: Sequence[Result]) -> list[Table]:
    note = (
        "Messages received a second, median and range of the runs. One-to-one and to-all "
        'transports use a channel for each pair of processes. "x best" compares with the best of '
        "the other libraries that lose nothing."
    )
    return [
        _side_by_side(
            f"Throughput, {load}", group, _headings(group), _rate, note + _harness_rates(group)
        )
        for load, group in _loads(results).items()
    ]


def _harness_rates(columns: list[Column]) -> str:
    rates = [
        f"{number(column.cell.harness_rate / 1e3)} k/s"
        f" ({', '.join(filter(None, [_size(column), column.machine]))})"
        for column in columns
        if column.cell.harness_rate
    ]
    if not rates:
        return ""
    return (
        " Without any library, messages that are made, copied and checked one by one would reach "
        f"{', '.join(rates)} on these cores."
    )


def _costs(results: Sequence[Result]) -> list[Table]:
    note = (
        "Processor seconds of all processes per million messages, and the most memory that they "
        "took after they began to open their endpoints."
    )
    return [
        _side_by_side(
            f"Cost, {load}",
            group,
            [f"{_size(c)}{f': {c.machine}' if c.machine else ''}" for c in group],
            _cost,
            note,
        )
        for load, group in _loads(results).items()
    ]


def _scaling(results: Sequence[Result]) -> list[Table]:
    groups = columns(results, "scaling")
    found = _flat(groups)
    if not found:
        return []
    headings = [column.heading(column.cell.key.split(",")[0]) for column in found]
    note = (
        f"Messages of {_size(found[0])}, one at a time, received a second by 1, 2, 4, ... pairs of "
        "processes, median and range of the runs. shmpool passes them through one queue, through "
        "one queue with a lane for each pair, and through a queue for each pair. One-to-one and "
        "to-all transports use a channel for each pair. Each process has a core of its own while "
        "there are enough."
    )
    return [_side_by_side("Scaling", found, headings, _rate, note)]


def _to_all(results: Sequence[Result]) -> list[Table]:
    found = _flat(columns(results, "to-all"))
    if not found:
        return []
    n = found[0].cell.conditions["consumers"]
    note = f"Deliveries a second: each message reaches all {n} consumers."
    return [_side_by_side(f"One to all of {n}", found, _headings(found), _rate, note)]


def _by_transport(
    title: str, columns: list[Column], header: list[str],
    figures: Callable[[CellResult, Row], list[Lines]], note: str,
) -> Table:  # fmt: skip
    """A row for each transport, and for each machine the columns of that header."""
    rows: list[list[Lines]] = []
    for transport in dict.fromkeys(row.transport for c in columns for row in c.cell.rows):
        fields: list[Lines] = []
        for column in columns:
            row = next((row for row in column.cell.rows if row.transport == transport), None)
            fields += figures(column.cell, row) if row else [[""]] * len(header)
        rows.append([[transport], *fields])
    names = [f"{text}{f': {c.machine}' if c.machine else ''}" for c in columns for text in header]
    return Table(title, ["", *names], rows, note)


def _latency(results: Sequence[Result]) -> list[Table]:
    def figures(cell: CellResult, row: Row) -> list[Lines]:
        found = [s for name in ("p50", "p99", "p99.9") if (s := spread(row, name))]
        if len(found) == 3:
            return [*(_range(s, 1, "us") for s in found), _ratios(cell, row)]
        return [["cannot", row.unsupported] if row.unsupported else _errors(row), *[[""]] * 3]

    def table(key: str, group: list[Column]) -> Table:
        states = "; ".join(", ".join(filter(None, [c.machine, conditions(c.cell)])) for c in group)
        note = f"Round trips of {group[0].cell.conditions['size']} bytes; {states}."
        header = ["p50", "p99", "p99.9", "p50, times"]
        return _by_transport(f"Latency, {key}", group, header, figures, note)

    return [table(key, group) for key, group in columns(results, "latency").items()]


def _idle(results: Sequence[Result]) -> list[Table]:
    def figure(row: Row, name: str, unit: str) -> Lines:
        found = spread(row, name)
        return [f"{number(found.median)}{unit}"] if found else _errors(row)

    def figures(cell: CellResult, row: Row) -> list[Lines]:
        return [figure(row, "wakeups", ""), figure(row, "cpu_percent", " %")]

    header = ["wake-ups a second", "of one processor"]
    title = "A blocked receiver without messages"
    return [
        _by_transport(title, group, header, figures, "")
        for group in columns(results, "idle").values()
    ]


def machines(results: Sequence[Result]) -> Table:
    """A row for each machine: what it is, its state, and the messages that contestants lost."""
    rows: list[list[Lines]] = []
    for result in results:
        lines = [ns for cell in result.cells for ns in cell.line_latency_ns]
        load = [share for cell in result.cells for share in cell.background_load]
        lost: dict[str, int] = {}
        for cell in result.cells:
            for row in cell.rows if cell.scenario in LOADED else ():
                lost[row.transport] = lost.get(row.transport, 0) + row.total("lost")
        rows.append(
            [
                [result.name],
                [result.machine["processor"]],
                [f"{len(result.options['cores'])}"],
                _range(Spread(statistics.median(lines), min(lines), max(lines)), 1, "ns")
                if lines
                else ["-"],
                [f"{statistics.median(load):.0%}" if load else "-"],
                [f"{name}: {n:,}" for name, n in lost.items() if n] or ["none"],
            ]
        )
    header = ["", "processor", "cores used", "cache line", "background load", "messages lost"]
    return Table("The machines", header, rows)


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


def _robustness(results: Sequence[Result]) -> list[Table]:
    found = _flat(columns(results, "robustness"))
    if not found:
        return []
    headings = [
        f"{c.cell.conditions['times']} x {c.cell.key}{f': {c.machine}' if c.machine else ''}"
        for c in found
    ]
    note = (
        "Two producers and two consumers; a replacement takes the place of each victim that was "
        "killed. Clean: no process hung, nothing was lost or repeated but messages that victims "
        "held, nothing leaked or was left. The pause includes the start of the replacement. On a "
        "topic, messages that are sent while there is no subscriber are lost by design."
    )
    table = _side_by_side("Robustness", found, headings, lambda _, row: verdict(row), note)
    return [table] if table.rows else []


def _goals(results: Sequence[Result]) -> list[Table]:
    said = {True: "met", False: "MISSED", None: ""}
    every: dict[tuple[str, str, float], list[Lines]] = {}
    for at, result in enumerate(results):
        for goal in goals(result):
            fields = every.setdefault((goal.what, goal.cell, goal.wanted), [["-"]] * len(results))
            got = number(goal.got) if goal.got is not None else "-"
            fields[at] = [got, said[goal.met]]
    rows: list[list[Lines]] = [
        [[what], [cell], [f"{wanted:g}"], *fields] for (what, cell, wanted), fields in every.items()
    ]
    names = [result.name for result in results] if len(results) > 1 else ["measured"]
    return [Table("Goals of shmpool", ["", "cell", "at least", *names], rows)] if rows else []
