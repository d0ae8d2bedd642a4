# SPDX-License-Identifier: Apache-2.0
"""Counts the instructions of the hot path: python -m clients.bench.instructions.

valgrind's callgrind counts native/count.c; the result does not depend on the machine's load.
instructions.json has the expected figures for each compiler. More than 5 % above the figure is an
error; --update stores new figures.
"""

import json
import platform
import re
import shutil
import subprocess
from collections.abc import Collection, Sequence
from pathlib import Path

import click

from .building import built

HERE = Path(__file__).resolve().parent
KEPT = HERE / "instructions.json"
RISE = 1.05  # times the stored figure: the most that an operation may take
FEW, MANY = 200, 1200  # repetitions; the difference of both runs leaves out the first ones
COUNTED = "repeat*"  # the function of count.c that is counted, with all that it calls; also a copy
_COLLECTED = re.compile(r"Collected : (\d+)")


def missing() -> str | None:
    """What this machine lacks to count; None if nothing."""
    for tool in ("valgrind", "gcc", "make"):
        if not shutil.which(tool):
            return f"{tool} is not installed"
    return None


def compiler() -> str:
    """The compiler and machine that the figures belong to."""
    version = subprocess.run(
        ["gcc", "-dumpfullversion"], capture_output=True, text=True, check=True
    ).stdout
    return f"gcc {version.strip()} {platform.machine()}"


def kept() -> dict[str, float]:
    """The stored instructions per element for this compiler; {} if there are none."""
    figures: dict[str, float] = json.loads(KEPT.read_text()).get(compiler(), {})
    return figures


def count(only: Collection[str] = (), size: Sequence[int] = ()) -> dict[str, float]:
    """Counts the instructions per element of every operation, or of some. size: members, queues
    and capacity of the pool, if it shall be larger than usual."""
    program = str(built("count"))
    listed = subprocess.run([program, "--list"], capture_output=True, text=True, check=True).stdout
    operations = dict(line.split() for line in listed.splitlines())
    return {
        name: _each(program, name, size) / int(n)
        for name, n in operations.items()
        if name in (only or operations)
    }


def _each(program: str, operation: str, size: Sequence[int]) -> float:
    few, many = (_collected(program, operation, times, size) for times in (FEW, MANY))
    return (many - few) / (MANY - FEW)


def _collected(program: str, operation: str, times: int, size: Sequence[int]) -> int:
    done = subprocess.run(
        ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null",
         f"--toggle-collect={COUNTED}", program, operation,
         str(times), *map(str, size)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = _COLLECTED.search(done.stderr)
    if not found:
        raise RuntimeError(f"callgrind printed no count: {done.stderr}")
    if not (count := int(found[1])):
        raise RuntimeError(f"callgrind found no function {COUNTED}")
    return count


def risen(now: dict[str, float], before: dict[str, float]) -> dict[str, float]:
    """The operations that take too many instructions, with the ratio to before."""
    times = {name: now[name] / before[name] for name in before if name in now}
    return {name: ratio for name, ratio in times.items() if ratio > RISE}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--update", is_flag=True, help="Store the counts of this run.")
def main(update: bool) -> None:
    """Count the instructions of the hot path and compare them with the stored figures."""
    if lack := missing():
        raise click.ClickException(lack)
    now, before = count(), kept()
    for name, figure in now.items():
        old = f"{before[name]:8.2f} stored" if name in before else "         none stored"
        click.echo(f"{name:12} {figure:8.2f} instructions per element {old}")
    if update:
        everything = json.loads(KEPT.read_text()) if KEPT.exists() else {}
        everything[compiler()] = {name: round(figure, 2) for name, figure in now.items()}
        KEPT.write_text(json.dumps(everything, indent=1, sort_keys=True) + "\n")
    elif too_many := risen(now, before):
        raise click.ClickException(
            ", ".join(f"{name} takes {ratio:.2f} times as many" for name, ratio in too_many.items())
        )


if __name__ == "__main__":
    main()
