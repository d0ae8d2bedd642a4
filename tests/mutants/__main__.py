# SPDX-License-Identifier: Apache-2.0
"""Breaks one step of shmpool after another, and demands that a test finds each (`make mutants`).

    python -m tests.mutants [--jobs N] [--only TEXT] [core] [python]

Mutants of the core stand in core.toml, those of the Python package in python.toml. Each is named by the
text that it replaces, so that it outlives changes elsewhere; one whose text is not there once is an error.
Each is tried in a copy of the tree in a temporary folder. Exit status: 0 if all were found or are said
to be equivalent, 1 if one survived or no longer fits its file.
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
from .table import Mutant, Outcome, read_table

ROOT = Path(__file__).resolve().parent.parent.parent
TABLES = {"core": "core.toml", "python": "python.toml"}


def _copy_tree(to: Path) -> None:
    """Copies what git knows of, and the extension if it is built."""
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


def main() -> int:
    """Runs them all and prints a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", default="", help="those whose name or file has this text")
    parser.add_argument("tables", nargs="*", metavar="core|python")
    options = parser.parse_args()
    mutants: list[Mutant] = []
    for name in options.tables or TABLES:
        mutants += read_table(Path(__file__).parent / TABLES[name])
    mutants = [m for m in mutants if options.only in m.name or options.only in m.file]
    wrong = [fault for mutant in mutants if (fault := mutant.fault(ROOT))]
    for fault in wrong:
        print(f"mutants: {fault}", file=sys.stderr)
    if wrong:
        return 1
    outcomes: list[Outcome] = []
    began = time.monotonic()
    to_try = [mutant for mutant in mutants if not mutant.equivalent]
    with tempfile.TemporaryDirectory(prefix="shmpool-mutants-") as folder:
        idle: queue.Queue[Checks] = queue.Queue()
        for job in range(options.jobs):
            tree = Path(folder) / str(job)
            tree.mkdir()
            _copy_tree(tree)
            idle.put(Checks(tree))

        def try_one(mutant: Mutant) -> Outcome:
            checks = idle.get()
            try:
                return checks.try_mutant(mutant)
            finally:
                idle.put(checks)

        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            for done in concurrent.futures.as_completed(pool.submit(try_one, m) for m in to_try):
                outcomes.append(done.result())
                print(f"[{len(outcomes)}/{len(to_try)}] {outcomes[-1]}", flush=True)
    survived = [outcome for outcome in outcomes if not outcome.found_by]
    print(
        f"{len(mutants)} mutants in {time.monotonic() - began:.0f} s: "
        f"{len(outcomes) - len(survived)} found, {len(survived)} survived, "
        f"{len(mutants) - len(to_try)} equivalent"
    )
    for outcome in survived:
        print(f"  survived: {outcome.mutant.file}: {outcome.mutant.name}")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
