# SPDX-License-Identifier: Apache-2.0
"""What `import shmpool` costs beside `import cffi`: python -m clients.bench.imports.

Each contestant is a new interpreter, and they take turns. Beside the time stand the processor time,
which other programs hardly change, and two counts that do not depend on the machine: the modules
that the statement imports, and the bytecode instructions that it executes.
"""

import os
import statistics
import subprocess
import sys
import time

import click

STATEMENTS = {
    "nothing": "pass",
    "cffi": "import cffi",
    "shmpool": "import shmpool",
    "a pool": "import shmpool\nwith shmpool.Pool.create(None, buffer_size=64, capacity=64): pass",
}
_MODULES = """
import sys
before = set(sys.modules)
exec(sys.argv[1])
print(*sorted(set(sys.modules) - before))
"""
_INSTRUCTIONS = """
import sys
count = 0
def trace(frame, event, arg):
    global count
    frame.f_trace_lines, frame.f_trace_opcodes = False, True
    count += event == "opcode"
    return trace
sys.settrace(trace)
exec(sys.argv[1])
sys.settrace(None)
print(count)
"""


def _said(program: str, statement: str) -> str:
    command = [sys.executable, "-c", program, statement]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def modules(statement: str) -> set[str]:
    """Returns the modules that a new interpreter imports for the statement."""
    return set(_said(_MODULES, statement).split())


def instructions(statement: str) -> int:
    """Returns how many bytecode instructions a new interpreter executes for the statement."""
    return int(_said(_INSTRUCTIONS, statement))


def _cost(statement: str) -> tuple[float, float]:
    """Returns seconds, and seconds of processor time, of a new interpreter's whole life."""
    began = time.perf_counter()
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", statement], environ)
    _, status, used = os.wait4(pid, 0)
    if status:
        raise RuntimeError(f"{statement!r} failed")
    return time.perf_counter() - began, used.ru_utime + used.ru_stime


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--turns", default=40, show_default=True, help="Interpreters for each statement.")
def main(turns: int) -> None:
    """Measure what the import costs, in milliseconds beyond that of cffi."""
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in STATEMENTS}
    for statement in STATEMENTS.values():
        _cost(statement)  # the first one writes bytecode files
    for _ in range(turns):
        for name, statement in STATEMENTS.items():
            took[name].append(_cost(statement))
    click.echo(f"{'ms':10} {'start':>8} {'over cffi':>10} {'processor':>10} {'over cffi':>10}")
    for name, costs in took.items():
        row = []
        for i in (0, 1):
            row.append(statistics.median(one[i] for one in costs))
            pairs = zip(costs, took["cffi"], strict=True)
            row.append(statistics.median(one[i] - other[i] for one, other in pairs))
        start, over, used, used_over = (1e3 * figure for figure in row)
        click.echo(f"{name:10} {start:8.1f} {over:+10.1f} {used:10.1f} {used_over:+10.1f}")
    for name in ("cffi", "shmpool"):
        statement = STATEMENTS[name]
        click.echo(
            f"import {name}: {len(modules(statement))} modules, "
            f"{instructions(statement):,} bytecode instructions"
        )


if __name__ == "__main__":
    main()
