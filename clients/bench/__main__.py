# SPDX-License-Identifier: Apache-2.0
"""The command: which cells, how many rounds, in which order; progress; Ctrl-C."""

import os
import signal
import sys
from pathlib import Path
from types import FrameType

import click
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from . import workers
from .cells import CELLS, QUICK, Cell
from .hop import Hop
from .others import Others
from .report import Report

EPILOG = """\b
Example: the ping-pongs only, quickly, with the figures of every round kept:
    python -m clients.bench --quick --only poll,block --json bench.json"""


@click.command(context_settings={"help_option_names": ["-h", "--help"]}, epilog=EPILOG)
@click.option("--quick", is_flag=True, help="3 rounds of a quarter of the messages.")
@click.option("--rounds", type=click.IntRange(min=1), help="Rounds.  [default: 5; quick: 3]")
@click.option("--only", metavar="CELLS", help=f"Some of {','.join(c.key for c in CELLS)}.")
@click.option("--json", "path", type=click.Path(dir_okay=False, writable=True, path_type=Path),
              help="Write every round's figures to this file.")  # fmt: skip
def main(quick: bool, rounds: int | None, only: str | None, path: Path | None) -> None:
    """shmpool beside other libraries: throughput and latency between Python processes.

    Contestants take turns, round by round; figures are the medians of the rounds. The first two
    cores that this process may use are used. Ctrl-C keeps what is done.
    """
    report = Report(_chosen(only), rounds or (3 if quick else 5))
    signal.signal(signal.SIGTERM, _terminated)
    interrupted = False
    try:
        _measure(report, quick)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        workers.sweep()
    report.print()
    if path:
        report.write(path)
    if interrupted:
        sys.exit(130)


def _terminated(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _chosen(only: str | None) -> list[Cell]:
    keys = only.split(",") if only else [cell.key for cell in CELLS]
    known = {cell.key: cell for cell in CELLS}
    for key in keys:
        if key not in known:
            raise click.BadParameter(f"{key!r} is none of {', '.join(known)}", param_hint="--only")
    return [known[key] for key in keys]


def _measure(report: Report, quick: bool) -> None:
    cores = sorted(os.sched_getaffinity(0))[:2]
    workers.sweep()
    columns = (
        TextColumn("{task.description}"), MofNCompleteColumn(), TimeRemainingColumn()
    )  # fmt: skip
    steps = [(n, cell) for n in range(report.rounds) for cell in report.cells]
    with (
        Hop(cores) as hop,
        Progress(*columns, console=Console(stderr=True), transient=True) as progress,
    ):
        task = progress.add_task("", total=sum(len(cell.ways) for _, cell in steps))
        for n, cell in steps:
            hops = report.hops[cell.key]
            hops.append(hop.measure())
            others = Others(cores)
            for way in cell.ways:
                progress.update(task, description=f"round {n + 1}: {cell.title}, {way.contestant}")
                row = report.row(cell, way)
                if way.version() is not None:
                    count = cell.count // (QUICK if quick else 1)
                    try:
                        number = progress.tasks[0].completed
                        row.outcomes[n] = workers.run(cell, way, int(number), count, cores)
                    except Exception as error:
                        row.failures.append(str(error) or type(error).__name__)
                progress.advance(task)
            report.others[cell.key].append(others.share())
            hops.append(hop.measure())


if __name__ == "__main__":
    main()
