# SPDX-License-Identifier: Apache-2.0
"""Breaks one step of shmpool after another, and checks that a test finds each (`make mutants`).

    python -m tests.mutants [--jobs N] [--only TEXT] [--python N] [--tests NAMES] [--lines FILE]
                           [core] [net] [python]

Mutants of the core are in core.toml, those of shmpool/net in net.toml. Each is identified by the
text that it replaces, which must occur once; changes elsewhere do not affect it. python.py makes
and chooses mutants of the Python package; python.toml lists the equivalent ones with the reasons.
Each is tried in a copy of the tree in a temporary folder. Exit status: 0 if all were found or are
listed as equivalent, 1 if one survived or a table no longer fits.
"""

import argparse
import concurrent.futures
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .checks import Checks
from .python import Choice, candidates, choose, record_lines
from .table import Mutant, Outcome, read_core, read_equivalents

ROOT = Path(__file__).resolve().parent.parent.parent
HERE = Path(__file__).resolve().parent


def _copy_tree(to: Path) -> None:
    """Copies the files that git knows, and the extension if it is built."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.decode()
    built = [str(path.relative_to(ROOT)) for path in (ROOT / "shmpool").glob("_native*.so")]
    for name in [*filter(None, listed.split("\0")), *built]:
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)


def _python_mutants(
    n: int, only: str, tests: str, lines: Path, folder: Path
) -> tuple[list[Mutant], list[str]]:
    """Returns n mutants of the package, and the errors of their table."""
    equivalents = read_equivalents(HERE / "python.toml")
    known = {one.identity for one in candidates(ROOT)}
    wrong = [
        f"{within}: {old!r} is not there in {line!r}; update the table"
        for within, line, old, new in equivalents
        if (within, line, old, new) not in known
    ]
    if not lines.exists():
        tree = folder / "lines"
        tree.mkdir()
        _copy_tree(tree)
        print("running the tests once, to learn which lines each runs", flush=True)
        record_lines(tree, lines, tests)
    choice = Choice(ROOT, lines)
    mutants = []
    for one in choose(ROOT, n, only):
        why = equivalents.get(one.identity, "")
        shown = () if why else tuple(f"pytest {test}" for test in choice.tests(one))
        mutants.append(Mutant(one.name, one.file, (), shown, why, one))
    return mutants, wrong


def _run(mutants: list[Mutant], jobs: int, folder: Path) -> list[Outcome]:
    """Tries each, in that many trees at once."""
    idle: queue.Queue[Checks] = queue.Queue()
    every: list[Checks] = []
    outcomes: list[Outcome] = []
    for job in range(jobs):
        tree = folder / str(job)
        tree.mkdir()
        _copy_tree(tree)
        every.append(Checks(tree))
        idle.put(every[-1])

    def try_one(mutant: Mutant) -> Outcome:
        checks = idle.get()
        try:
            return checks.try_mutant(mutant)
        finally:
            idle.put(checks)

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        for done in concurrent.futures.as_completed(pool.submit(try_one, m) for m in mutants):
            outcomes.append(done.result())
            print(f"[{len(outcomes)}/{len(mutants)}] {outcomes[-1]}", flush=True)
    for checks in every:
        checks.close()
    return outcomes


def main() -> int:
    """Runs them all and prints a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", default="", help="those whose name or file has this text")
    parser.add_argument("--python", type=int, default=150, help="mutants of the package")
    parser.add_argument("--tests", default="", help="of the package: files without test_, or all")
    parser.add_argument("--lines", type=Path, help="which test runs what: kept here if not there")
    parser.add_argument("tables", nargs="*", default=["core", "net", "python"])
    options = parser.parse_args()
    mutants: list[Mutant] = []
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="shmpool-mutants-") as name:
        folder = Path(name)
        wrong: list[str] = []
        if "core" in options.tables:
            mutants += read_core(HERE / "core.toml")
        if "net" in options.tables:
            mutants += read_core(HERE / "net.toml", "net")
        if "python" in options.tables:
            lines = options.lines or folder / "lines.json"
            made, wrong = _python_mutants(
                options.python, options.only, options.tests, lines, folder
            )
            mutants += made
        mutants = [m for m in mutants if options.only in m.name or options.only in m.file]
        wrong += [fault for mutant in mutants if (fault := mutant.fault(ROOT))]
        for fault in wrong:
            print(f"mutants: {fault}", file=sys.stderr)
        if wrong:
            return 1
        outcomes = _run([m for m in mutants if not m.equivalent], options.jobs, folder)
    survived = [outcome for outcome in outcomes if not outcome.found_by]
    print(
        f"{len(mutants)} mutants in {time.monotonic() - began:.0f} s: "
        f"{len(outcomes) - len(survived)} found, {len(survived)} survived, "
        f"{len(mutants) - len(outcomes)} equivalent"
    )
    for outcome in survived:
        print(f"  survived: {outcome.mutant.file}: {outcome.mutant.name}")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
