# SPDX-License-Identifier: Apache-2.0
"""The command: shmpool bench, or python -m shmpool.bench. What it measures, and what it writes."""

import os
import sys
from dataclasses import replace
from pathlib import Path

import click

from . import document, terminal
from .compare import compare
from .contestants import WAYS
from .measure import measure
from .plan import FULL, QUICK, SCENARIOS, Settings, cells
from .result import Result
from .way import Way

EPILOG = """\b
Example: shmpool bench --quick
    shmpool bench --only throughput,latency --ways shmpool,pyzmq --json new.json
    shmpool bench --only throughput --sizes 64,1048576 --pairs 1
    shmpool bench --compare old.json new.json
    shmpool bench --from new.json --report docs"""

FILE = click.Path(dir_okay=False, path_type=Path)
SIZE_LEAST = 16  # bytes of a message
INPUT = click.Path(exists=True, dir_okay=False, path_type=Path)


def _numbers(
    context: click.Context, parameter: click.Parameter, text: str | None
) -> tuple[int, ...] | None:
    """A list of numbers with commas in between; messages have at least their 9 fixed bytes."""
    if text is None:
        return None
    least = SIZE_LEAST if parameter.name == "sizes" else 1
    found = tuple(int(part) if part.isdecimal() else 0 for part in text.split(","))
    if min(found) < least:
        raise click.BadParameter(f"{text!r}: numbers from {least} on, with commas in between")
    return found


@click.command(
    "bench", context_settings={"help_option_names": ["-h", "--help"]}, epilog=EPILOG,
    short_help="Measure shmpool beside other libraries.",
)  # fmt: skip
@click.option("--quick", is_flag=True, help="A small selection, one run each: under 2 minutes.")
@click.option("--runs", type=click.IntRange(1, 100), help="Runs of each cell.  [default: 3]")
@click.option("--only", metavar="SCENARIOS", help=f"Some of {','.join(SCENARIOS)}.")
@click.option("--ways", "names", metavar="NAMES", help="Only contestants whose names contain one.")
@click.option("--sizes", callback=_numbers, metavar="BYTES", help="Of messages, for throughput.")
@click.option("--pairs", callback=_numbers, metavar="N", help="Of processes, for throughput.")
@click.option("--pin", is_flag=True, help="Pin each process to a core, one after the other.")
@click.option("--json", "json_path", type=FILE, help="Write the results to this file.")
@click.option("--report", type=click.Path(file_okay=False, path_type=Path), metavar="FOLDER",
              help="Write benchmarks.md, its plots and benchmarks.html there.")  # fmt: skip
@click.option("--from", "source", type=INPUT, metavar="FILE",
              help="Show these results and measure nothing.")  # fmt: skip
@click.option("--compare", "pair", type=INPUT, nargs=2, metavar="OLD NEW",
              help="Compare two files of results and measure nothing.")  # fmt: skip
@click.option("--list", "listing", is_flag=True, help="Name the contestants and end.")
def bench(
    quick: bool, runs: int | None, only: str | None, names: str | None,
    sizes: tuple[int, ...] | None, pairs: tuple[int, ...] | None, pin: bool,
    json_path: Path | None, report: Path | None, source: Path | None,
    pair: tuple[Path, Path] | None, listing: bool,
) -> None:  # fmt: skip
    """Measure shmpool beside other libraries: throughput, latency and robustness.

    The first two cores that this process may use are used. Ctrl-C keeps what is done.
    """
    ways = _chosen(names)
    if listing:
        _list(ways)
    elif pair:
        _compare(*pair)
    elif source:
        _give(_read(source), json_path, report)
    else:
        settings = replace(QUICK if quick else FULL, pin=pin, cores=_cores())
        settings = replace(
            settings,
            runs=runs or settings.runs,
            sizes=sizes or settings.sizes,
            pairs=pairs or settings.pairs,
        )
        _give(_measured(settings, ways, _scenarios(only)), json_path, report)


def _cores() -> tuple[int, ...]:
    return tuple(sorted(os.sched_getaffinity(0))[:2])


def _scenarios(only: str | None) -> list[str]:
    found = only.split(",") if only else list(SCENARIOS)
    for name in found:
        if name not in SCENARIOS:
            text = f"{name!r} is none of {', '.join(SCENARIOS)}"
            raise click.BadParameter(text, param_hint="--only")
    return found


def _chosen(names: str | None) -> tuple[type[Way], ...]:
    if names is None:
        return WAYS
    found = tuple(way for way in WAYS if any(name in way.title() for name in names.split(",")))
    if not found:
        raise click.BadParameter(f"no contestant is called {names!r}", param_hint="--ways")
    return found


def _list(ways: tuple[type[Way], ...]) -> None:
    for way in ways:
        version = way.version()
        state = "missing" if version is None else version or "comes with Python"
        click.echo(f"{way.title():42} {way.shape.value:14} {state}")


def _measured(settings: Settings, ways: tuple[type[Way], ...], scenarios: list[str]) -> Result:
    if len(settings.cores) < 2:
        raise click.ClickException("it needs two cores")
    return measure(settings, cells(settings, ways, scenarios), ways)


def _read(path: Path) -> Result:
    try:
        return Result.read(path)
    except ValueError as error:
        raise click.ClickException(str(error)) from None


def _compare(old: Path, new: Path) -> None:
    terminal.show_tables(compare(_read(old), _read(new)))


def _give(result: Result, json_path: Path | None, report: Path | None) -> None:
    if json_path:
        result.write(json_path)
    if report:
        for path in document.write(result, report):
            click.echo(f"wrote {path}")
    else:
        terminal.show(result)
    if not result.complete:
        sys.exit(130)
