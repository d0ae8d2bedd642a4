# SPDX-License-Identifier: Apache-2.0
"""The command line: shmpool bench, or python -m shmpool.bench."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from . import document, terminal
from .compare import compare
from .contestants import TRANSPORTS
from .cores import Choice, choose, ranges
from .measure import measure
from .plan import FULL, QUICK, SCENARIOS, Kinds, cells
from .result import Result

EPILOG = """\b
Example: shmpool bench --quick
    shmpool bench --only throughput,latency --transports shmpool,pyzmq --json new.json
    shmpool bench --only throughput --sizes 64,1048576 --pairs 1
    shmpool bench --only scaling --cores 0-7
    shmpool bench --compare old.json new.json
    shmpool bench --machine "16-core EPYC" --json epyc.json
    shmpool bench --from epyc.json --report docs"""

FILE = click.Path(dir_okay=False, path_type=Path)
INPUT = click.Path(exists=True, dir_okay=False, path_type=Path)
SIZE_MIN = 16  # bytes of a message


def _numbers(
    context: click.Context, parameter: click.Parameter, text: str | None
) -> tuple[int, ...] | None:
    """Reads numbers separated by commas."""
    if text is None:
        return None
    least = SIZE_MIN if parameter.name == "sizes" else 1
    found = tuple(int(part) if part.isdecimal() else 0 for part in text.split(","))
    if min(found) < least:
        raise click.BadParameter(f"{text!r}; give numbers from {least} on, separated by commas")
    return found


@click.command(
    "bench", context_settings={"help_option_names": ["-h", "--help"]}, epilog=EPILOG,
    short_help="Measures shmpool against other libraries.",
)  # fmt: skip
@click.option("--quick", is_flag=True,
              help="A small selection without scaling, one run each: under 2 min.")  # fmt: skip
@click.option("--runs", type=click.IntRange(1, 100), help="Runs of each cell.  [default: 3]")
@click.option("--only", metavar="SCENARIOS", help=f"Some of {','.join(SCENARIOS)}.")
@click.option("--transports", "names", metavar="NAMES",
              help="Only contestants whose name contains one of these.")  # fmt: skip
@click.option("--sizes", callback=_numbers, metavar="BYTES", help="Message sizes for throughput.")
@click.option("--pairs", callback=_numbers, metavar="N",
              help="Numbers of process pairs for throughput and scaling.")  # fmt: skip
@click.option("--cores", "wanted", metavar="N|LIST",
              help="Use so many cores, or these: 0,2,4-7.  [default: all that it may]")  # fmt: skip
@click.option("--limit", "limit_s", type=click.FloatRange(1), metavar="SECONDS",
              help="Leave out what is not measured by then.")  # fmt: skip
@click.option("--pin", is_flag=True, help="Pin the processes to the cores, in turns.")
@click.option("--json", "json_path", type=FILE, help="Write the results to this file.")
@click.option("--report", type=click.Path(file_okay=False, path_type=Path), metavar="FOLDER",
              help="Write the results to FOLDER/benchmarks/, in a file of this machine's, and "
              "plots, benchmarks.md and benchmarks.html of all machines there.")  # fmt: skip
@click.option("--machine", metavar="NAME",
              help="What this machine is called in reports.  [default: its processor]")  # fmt: skip
@click.option("--from", "source", type=INPUT, metavar="FILE",
              help="Show these results; measure nothing.")  # fmt: skip
@click.option("--compare", "pair", type=INPUT, nargs=2, metavar="OLD NEW",
              help="Compare two files of results; measure nothing.")  # fmt: skip
@click.option("--list", "listing", is_flag=True, help="List the contestants and exit.")
def bench(
    quick: bool, runs: int | None, only: str | None, names: str | None,
    sizes: tuple[int, ...] | None, pairs: tuple[int, ...] | None, wanted: str | None,
    limit_s: float | None, pin: bool,
    json_path: Path | None, report: Path | None, machine: str | None, source: Path | None,
    pair: tuple[Path, Path] | None, listing: bool,
) -> None:  # fmt: skip
    """Measures shmpool against other libraries: throughput, scaling, latency and robustness.

    Uses every core that this process may use, by its affinity mask and CPU quota. Each process has
    cores of its own while there are enough. Latency is measured between the first two. Ctrl-C keeps
    what is done.
    """
    transports = _select(names)
    if listing:
        for transport in transports:
            version = transport.version()
            state = "missing" if version is None else version or "comes with Python"
            click.echo(f"{transport.title():42} {transport.shape.value:14} {state}")
    elif pair:
        terminal.show_tables(compare(_read(pair[0]), _read(pair[1])))
    elif source:
        _output(_read(source), json_path, report, machine)
    else:
        scenarios = _scenarios(only, quick)
        choice = _cores(wanted)
        click.echo(f"cores {ranges(choice.cores)}: {choice.why}", err=True)
        given = {"runs": runs, "sizes": sizes, "pairs": pairs, "scaling_pairs": pairs,
                 "limit_s": limit_s}  # fmt: skip
        chosen: dict[str, Any] = {name: value for name, value in given.items() if value}
        chosen |= {"pin": pin, "cores": choice.cores, "cores_why": choice.why}
        settings = replace(QUICK if quick else FULL, **chosen)
        result = measure(settings, cells(settings, transports, scenarios), transports)
        _output(result, json_path, report, machine)


def _cores(wanted: str | None) -> Choice:
    try:
        return choose(wanted)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--cores") from None


def _scenarios(only: str | None, quick: bool) -> list[str]:
    every = [name for name in SCENARIOS if not (quick and name == "scaling")]
    found = only.split(",") if only else every
    for name in found:
        if name not in SCENARIOS:
            text = f"{name!r} is none of {', '.join(SCENARIOS)}"
            raise click.BadParameter(text, param_hint="--only")
    return found


def _select(names: str | None) -> Kinds:
    parts = names.split(",") if names is not None else [""]
    found = tuple(t for t in TRANSPORTS if any(part in t.title() for part in parts))
    if not found:
        text = f"no contestant's name contains {names!r}; --list lists them"
        raise click.BadParameter(text, param_hint="--transports")
    return found


def _read(path: Path) -> Result:
    try:
        return Result.read(path)
    except ValueError as error:
        raise click.ClickException(str(error)) from None


def _output(
    result: Result, json_path: Path | None, report: Path | None, machine: str | None
) -> None:
    if machine:
        result.machine = {"name": machine} | {**result.machine, "name": machine}
    if json_path:
        result.write(json_path)
    if report:
        try:
            written = document.write(result, report)
        except ValueError as error:
            raise click.ClickException(str(error)) from None
        for path in written:
            click.echo(f"wrote {path}")
    else:
        terminal.show(result)
    if not result.complete:
        sys.exit(130)
