# SPDX-License-Identifier: Apache-2.0
"""Measures the C core against other queues and pools: python -m clients.bench.core

native/ has the contestants and takes the samples, core_cells.py has the scenarios. Here are the
rounds and the figures. The contestants of a cell take turns (A B C A B C ...), so that a change of
the machine affects all of them. Only figures of the same round are compared.
"""

import json
import os
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import click
from rich import box
from rich.console import Console
from rich.table import Table

from .building import built
from .core_cells import BASELINES, CELLS, CONTESTANTS, LINE, OURS, Cell, Place

# jemalloc is loaded late and needs more room for thread-local variables than glibc reserves.
TUNABLES = {"GLIBC_TUNABLES": "glibc.rtld.optional_static_tls=16384"}
TRIES = 4  # for an undisturbed sample
SHARE_MIN = 0.75  # of its core, for a pinned worker; as exact as the scheduler's tick
CELL_ATTEMPTS = 3
LINE_CHANGED = 1.5  # times: figures measured during such a change are not comparable
LINE_NS_MAX = 2000.0  # more means that another program uses a core
LINE_TRIES = 20
WIDTH = 190  # columns of the table

INTRODUCTION = """\
ns per element, medians; of ours also cycles of the time-stamp counter. Ratio: ours to the better
baseline, or to the one that the goal names, round by round. Line: ns for a cache line from core to
core, before and after. A goal is for the first variant of its scenario.
"""


# Oversubscribed samples are long. The others are short and need more rounds, so that short
# disturbances do not reach the median.
ROUNDS = {Place.ONE_CORE: 21, Place.TWO_CORES: 21, Place.OVERSUBSCRIBED: 7}
QUICK = {Place.ONE_CORE: 5, Place.TWO_CORES: 5, Place.OVERSUBSCRIBED: 3}


@dataclass(frozen=True)
class Sample:
    """One run of a contestant, or the median of some."""

    outcome: str
    ns: float = 0.0  # per element; if nothing passed, of the whole window
    disturbed: bool = False  # pinned workers had to share their cores with other programs
    faults: int = 0  # page faults of all workers while it was measured


OUTCOMES = ("ok", "slower", "stuck", "failed", "busy", "skipped")  # from the best to the worst
NO_FIGURE = OUTCOMES[OUTCOMES.index("failed") :]


@dataclass
class Result:
    """The samples of one cell, and the figures computed from them."""

    cell: Cell
    samples: dict[str, list[Sample]] = field(default_factory=dict)  # of each round; none: skipped
    skipped: str = ""  # why nothing was measured
    attempts: int = 0  # at the whole cell; more than one if the line latency changed
    line: tuple[float, float] = (0.0, 0.0)  # ns, before and after; 0 on one core

    def median(self, contestant: str) -> Sample:
        """Of the undisturbed rounds; "busy" if these are less than a third."""
        samples = self.samples[contestant]
        if not samples:
            return Sample("skipped")
        clean = [sample for sample in samples if not sample.disturbed]
        if 3 * len(clean) < len(samples) or not clean:
            return Sample("busy")
        return _middle(clean)

    def ratio(self, contestant: str, other: str | None) -> float:
        """The median of the ratios, round by round; 0 if it is unknown."""
        if other is None or self.median(contestant).outcome != "ok":
            return 0.0
        pairs = list(zip(self.samples[contestant], self.samples[other], strict=False))
        ratios = [
            a.ns / b.ns for a, b in pairs
            if a.outcome == b.outcome == "ok" and not a.disturbed and not b.disturbed
        ]  # fmt: skip
        enough = ratios and 3 * len(ratios) >= len(pairs)
        return statistics.median_high(ratios) if enough else 0.0

    def baseline(self) -> str | None:
        """The fastest contestant that is not ours."""
        medians = {
            name: self.median(name) for name in self.samples if CONTESTANTS[name].column != OURS
        }
        found = {name: median.ns for name, median in medians.items() if median.outcome == "ok"}
        return min(found, key=found.__getitem__, default=None)

    def reference(self) -> str | None:
        """The contestant that figures of ours are compared with."""
        against = self.cell.against
        return against if self.cell.limit and against in self.samples else self.baseline()

    def met(self, contestant: str) -> bool | None:
        """Whether this one of ours reaches the goal; None if it is unknown."""
        median = self.median(contestant)
        if self.cell.against:
            figure = self.ratio(contestant, self.reference())
        else:
            figure = median.ns if median.outcome == "ok" else 0.0
        return figure <= self.cell.limit if figure and self.cell.limit else None


def _middle(samples: list[Sample]) -> Sample:
    return sorted(samples, key=lambda s: (OUTCOMES.index(s.outcome), s.ns))[len(samples) // 2]


class Program:
    """The C program, which takes one sample for each line that it is sent."""

    def __init__(self, compiler: str) -> None:
        process = self._process = subprocess.Popen(
            [built("bench", compiler)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
            env=os.environ | TUNABLES,
        )  # fmt: skip
        assert process.stdin  # noqa: S101
        assert process.stdout  # noqa: S101
        self._requests, self._answers = process.stdin, process.stdout
        cores, cycles, self.compiler = self._answer().split(maxsplit=2)
        self.cores, self.cycles = int(cores), float(cycles)

    def __enter__(self) -> "Program":
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.communicate()

    def _answer(self) -> str:
        if not (line := self._answers.readline()):
            raise click.ClickException("the C program ended")
        return line.strip()

    def sample(self, cell: Cell, contestant: str) -> Sample:
        """Takes a sample; repeats a disturbed one a few times."""
        numbers = (cell.work, cell.place, cell.producers, cell.consumers, cell.bulk, cell.held,
                   cell.single)  # fmt: skip
        for _ in range(TRIES):
            print(contestant, *map(int, numbers), file=self._requests)
            outcome, share, faults, *windows = self._answer().split()
            disturbed = cell.place is not Place.OVERSUBSCRIBED and float(share) < SHARE_MIN
            pairs = zip(map(float, windows[::2]), map(int, windows[1::2]), strict=True)
            found = [
                Sample("ok" if n else "slower", ns / max(n, 1), disturbed, int(faults))
                for ns, n in pairs
            ]
            if not found:
                return Sample(outcome)
            middle = sorted(found, key=lambda s: s.ns)[len(found) // 2]
            if outcome != "ok":
                return replace(middle, outcome=outcome)
            if middle.outcome != "ok" or not disturbed:
                break
        return middle

    def line_latency(self) -> float:
        """ns, the median of three; retried while another program uses a core."""
        for _ in range(LINE_TRIES):
            result = Result(LINE, {"line": [self.sample(LINE, "line_latency") for _ in range(3)]})
            median = result.median("line")
            if median.outcome == "ok" and median.ns < LINE_NS_MAX:
                return median.ns
        return LINE_NS_MAX


def measure(program: Program, result: Result, rounds: int) -> None:
    """Measures a cell, again if the line latency changed in that time."""
    if result.cell.place is Place.ONE_CORE:
        _rounds(program, result, rounds)
        return
    if program.cores < 2:
        result.skipped = "it needs two cores"
        return
    while result.attempts < CELL_ATTEMPTS:
        result.attempts += 1
        result.line = (program.line_latency(), 0.0)
        _rounds(program, result, rounds)
        result.line = (result.line[0], program.line_latency())
        if max(result.line) <= LINE_CHANGED * min(result.line):
            break


def _rounds(program: Program, result: Result, rounds: int) -> None:
    """After Ctrl-C the result has the complete rounds."""
    result.samples = {name: [] for name in result.cell.contestants}
    contestants = result.cell.contestants
    for number in range(rounds):
        taken = {}
        for name in contestants:
            if sys.stderr.isatty():
                title = f"{result.cell.name}: round {number + 1} of {rounds}, "
                click.echo(f"\r\033[K{title}{CONTESTANTS[name].name}", nl=False, err=True)
            taken[name] = program.sample(result.cell, name)
        contestants = tuple(name for name in taken if taken[name].outcome != "skipped")
        for name in contestants:
            result.samples[name].append(taken[name])


def _figure(sample: Sample) -> str:
    more = "" if sample.outcome == "ok" else "> "
    if sample.outcome in NO_FIGURE:
        return sample.outcome
    for least, unit, name in ((1e6, 1e6, "ms"), (1e4, 1e3, "us")):
        if sample.ns >= least:
            return f"{more}{sample.ns / unit:.0f} {name}"
    return f"{more}{sample.ns:.{2 if sample.ns < 10 else 1}f}"


def _remark(result: Result) -> str:
    samples = [sample for found in result.samples.values() for sample in found]
    disturbed = sum(sample.disturbed for sample in samples)
    text = ""
    if result.attempts > 1:
        text += f"; attempt {result.attempts}: the line latency changed"
    if disturbed:
        text += f"; {disturbed} of {len(samples)} samples disturbed"
    return text


def table(results: list[Result], cycles: float) -> Table:
    """A line for each variant of ours; the first of a cell has the figures of the baselines."""
    found = Table(
        "scenario", "variant", OURS, "cycles", *BASELINES, "ratio", "line", "goal", box=box.SIMPLE
    )  # fmt: skip
    found.columns[0].no_wrap = found.columns[1].no_wrap = True
    for result in results:
        if result.skipped:
            found.add_row(result.cell.name, f"skipped: {result.skipped}")
            continue
        ours = [name for name in result.samples if CONTESTANTS[name].column == OURS]
        for name in ours:
            median, ratio = result.median(name), result.ratio(name, result.reference())
            ticks = f"{median.ns * cycles:.1f}" if cycles and median.outcome == "ok" else ""
            times = f"{ratio:.{2 if ratio >= 0.01 else 5}f}x" if ratio else ""
            row = ["", CONTESTANTS[name].name, _figure(median), ticks, *[""] * len(BASELINES)]
            row += [times, "", ""]
            if name == ours[0]:
                others = {CONTESTANTS[other].column: other for other in result.samples}
                row[0] = result.cell.name
                row[4:-3] = [
                    _figure(result.median(others[c])) if c in others else "" for c in BASELINES
                ]
                row[-2] = "{:.0f}-{:.0f}".format(*result.line) if all(result.line) else ""
                met = {True: ": met", False: ": MISSED", None: ""}[result.met(name)]
                row[-1] = f"{result.cell.goal}{met}{_remark(result)}"
            found.add_row(*row)
    return found


def as_json(results: list[Result], compiler: str, quick: bool) -> str:
    """Every sample of every round, and the figures of the table."""
    cells = [
        {
            "name": result.cell.name, "goal": result.cell.goal, "skipped": result.skipped or None,
            "line_before_ns": result.line[0], "line_after_ns": result.line[1],
            "attempts": result.attempts,
            "contestants": [
                {
                    "name": CONTESTANTS[name].name, "column": CONTESTANTS[name].column,
                    "outcome": result.median(name).outcome, "median_ns": result.median(name).ns,
                    "ratio": result.ratio(name, result.baseline()),
                    "met": result.met(name) if CONTESTANTS[name].column == OURS else None,
                    "rounds": [asdict(sample) for sample in samples],
                }
                for name, samples in result.samples.items()
            ],
        }
        for result in results
    ]  # fmt: skip
    return json.dumps({"compiler": compiler, "quick": quick, "cells": cells}, indent=1) + "\n"


@click.command(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: python -m clients.bench.core --quick --only '1 to 1' --json /tmp/bench.json",
)
@click.option("--quick", is_flag=True, help="3 to 5 short rounds instead of 7 to 21.")
@click.option("--only", default="", metavar="TEXT", help="Only scenarios whose name contains it.")
@click.option("--json", "path", type=click.Path(dir_okay=False, path_type=Path),
              help="Also write every sample of every round.")  # fmt: skip
@click.option("--list", "listing", is_flag=True, help="List the scenarios and exit.")
@click.option("--cc", default="gcc", show_default=True, help="The compiler.")
def main(quick: bool, only: str, path: Path | None, listing: bool, cc: str) -> None:
    """Measure the queue and the pool in C against the original algorithm and DPDK."""
    chosen = [cell for cell in CELLS if only in cell.name]
    if listing:
        click.echo("\n".join(cell.name for cell in CELLS))
        return
    if not chosen:
        raise click.ClickException(f"no scenario's name contains {only!r}; --list names them")
    results, interrupted = list[Result](), False
    with Program(cc) as program:
        try:
            for cell in chosen:
                results.append(Result(cell))
                measure(program, results[-1], (QUICK if quick else ROUNDS)[cell.place])
        except KeyboardInterrupt:
            interrupted = True
            if not any(results[-1].samples.values()):
                results[-1].skipped = "interrupted"
    if sys.stderr.isatty():
        click.echo("\r\033[K", nl=False, err=True)
    console = Console(width=WIDTH)
    console.print(INTRODUCTION)
    console.print(table(results, program.cycles))
    for name, contestant in CONTESTANTS.items():
        if any(not r.skipped and r.samples.get(name) == [] for r in results):
            click.echo(f"{contestant.name}: skipped; {cc} does not find {contestant.package}")
    if path:
        path.write_text(as_json(results, program.compiler, quick))
    if interrupted:
        sys.exit(130)


if __name__ == "__main__":
    main()
