# SPDX-License-Identifier: Apache-2.0
"""What the rounds gave: medians with ranges, ratios to the best peer, the goals, a table, JSON."""

import json
import os
import platform
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .cells import Cell
from .messages import Faults
from .way import Way
from .workers import Outcome

WIDTH = 132  # columns the table needs


@dataclass
class Row:
    """One contestant in one cell."""

    cell: Cell
    way: type[Way]
    outcomes: dict[int, Outcome] = field(default_factory=dict)  # by round
    failures: list[str] = field(default_factory=list)

    def figures(self, name: str | None = None) -> dict[int, float]:
        """By round; of the figure that counts if none is named."""
        return {n: out.figures[name or next(iter(out.figures))] for n, out in self.outcomes.items()}

    def faults(self) -> Faults:
        return sum((out.faults for out in self.outcomes.values()), Faults())


@dataclass
class Report:
    cells: list[Cell]
    rounds: int
    rows: dict[tuple[str, str], Row] = field(default_factory=dict)
    hops: dict[str, list[float]] = field(default_factory=dict)  # ns, by cell
    others: dict[str, list[float]] = field(default_factory=dict)  # shares, by cell

    def __post_init__(self) -> None:
        for cell in self.cells:
            self.hops[cell.key], self.others[cell.key] = [], []
            for way in cell.ways:
                self.rows[cell.key, way.contestant] = Row(cell, way)

    def row(self, cell: Cell, way: type[Way]) -> Row:
        return self.rows[cell.key, way.contestant]

    def ratio(self, cell: Cell) -> float | None:
        """shmpool's figure over the best peer's: the median of the rounds' ratios."""
        own, *others = (self.row(cell, way).figures() for way in cell.ways)
        best = min if cell.latency else max
        ratios = []
        for n, value in own.items():
            peers = [other[n] for other in others if n in other]
            if peers:
                ratios.append(value / best(peers))
        return statistics.median(ratios) if ratios else None

    def passed(self, cell: Cell) -> bool | None:
        """Whether the goal is met; None if that cannot be said."""
        row = self.row(cell, cell.ways[0])
        if row.failures or row.faults():
            return False
        if not row.outcomes:
            return None
        value = statistics.median(row.figures().values())
        return cell.goal.met(value, self.ratio(cell), not cell.latency)

    def table(self) -> Table:
        table = Table(title="64-byte messages between Python processes", title_justify="left")
        for heading in ("cell", "contestant", "median", "range", "p99", "x best", "goal", "met"):
            right = heading in ("median", "range", "p99", "x best")
            table.add_column(heading, justify="right" if right else "left", no_wrap=right)
        for cell in self.cells:
            for way in cell.ways:
                table.add_row(*self._line(cell, way), end_section=way is cell.ways[-1])
        return table

    def _line(self, cell: Cell, way: type[Way]) -> list[str]:
        row, own = self.row(cell, way), way is cell.ways[0]
        name = f"{way.contestant} {way.version() or ''}".strip()
        if way.version() is None:
            return ["", name, "missing: pip install shmpool[bench]"]
        line = [f"{cell.title}\n[dim]{self._conditions(cell)}[/]" if own else "", name]
        if row.outcomes:
            values = list(row.figures().values())
            line += [
                f"{statistics.median(values):.2f} {cell.unit}",
                f"{min(values):.2f} - {max(values):.2f}",
                f"{statistics.median(row.figures('p99').values()):.2f}" if cell.latency else "",
            ]
        else:
            line += ["-", "", ""]
        ratio, passed = self.ratio(cell), self.passed(cell)
        mark = {True: "[green]pass[/]", False: "[red]FAIL[/]", None: "-"}[passed]
        line += [f"{ratio:.2f}" if ratio else "", cell.goal_text(), mark] if own else ["", "", ""]
        wrong = [str(row.faults())] if row.faults() else []
        if wrong + row.failures:
            line[-1] += "\n[red]" + "\n".join(wrong + row.failures) + "[/]"
        return line

    def _conditions(self, cell: Cell) -> str:
        hops, others = self.hops[cell.key], self.others[cell.key]
        text = f"hop {min(hops):.0f} - {max(hops):.0f} ns" if hops else ""
        return text + (f", others {max(others):.0%}" if others else "")

    def print(self) -> None:
        console = Console()
        console.width = max(console.width, WIDTH)
        console.print(self.table())
        print(", ".join(f"{what}: {value}" for what, value in machine().items()))

    def write(self, path: Path) -> None:
        cells: list[dict[str, Any]] = []
        for cell in self.cells:
            rows = [self.row(cell, way) for way in cell.ways]
            cells.append({
                "cell": cell.key,
                "title": cell.title,
                "unit": cell.unit,
                "goal": cell.goal_text(),
                "passed": self.passed(cell),
                "ratio": self.ratio(cell),
                "hop_ns": self.hops[cell.key],
                "others": self.others[cell.key],
                "contestants": {
                    row.way.contestant: {
                        "version": row.way.version(),
                        "rounds": [out.figures for out in row.outcomes.values()],
                        "faults": vars(row.faults()),
                        "failures": row.failures,
                    }
                    for row in rows
                },
            })  # fmt: skip
        path.write_text(json.dumps({"machine": machine(), "cells": cells}, indent=1) + "\n")


def machine() -> dict[str, str]:
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "cpu": f"{model}, {os.cpu_count()} cores",
        "kernel": platform.release(),
        "python": platform.python_version(),
    }
