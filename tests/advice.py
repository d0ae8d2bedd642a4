# SPDX-License-Identifier: Apache-2.0
"""A pytest plugin: under a failed test it prints what to do next.

How to run the test alone, where the files that it wrote are, and what to install or to build if a
module, a program or the newest extension is missing.
"""

import os
import shlex
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TITLE = "What to do"


def command(nodeid: str) -> str:
    """Returns the command that runs one test alone, from the root of the repository."""
    python = os.path.relpath(sys.executable) if ".venv" in sys.executable else sys.executable
    return shlex.join([python, "-m", "pytest", "-n", "0", nodeid])


def missing(error: BaseException) -> list[str]:
    """Returns what to install, if the error is about a missing module or program."""
    if isinstance(error, ModuleNotFoundError):
        return [f"Install the module {error.name}: make .venv/.dev, or pip install -e '.[dev]'"]
    name = error.filename if isinstance(error, FileNotFoundError) else None
    if isinstance(name, str) and name and "/" not in name:
        return [f"Install the program {name}: make tools, as root"]
    return []


def outdated(package: Path) -> list[str]:
    """Returns what to do if the extension, which is built in place, is older than a C source."""
    sources = [path for name in ("native", "hot", "net") for path in package.glob(f"{name}/*.[ch]")]
    built = [path.stat().st_mtime for path in package.glob("_native.*.so")]
    newest = max(sources, key=lambda path: path.stat().st_mtime)
    if not built or max(built) >= newest.stat().st_mtime:
        return []
    return [f"Build the extension, which is older than {newest.name}: pip install -e ."]


def advice(item: pytest.Item, error: BaseException) -> list[str]:
    """Returns the lines that are printed under a failed test."""
    lines = [f"Run it alone: {command(item.nodeid)}"]
    directory = getattr(item, "funcargs", {}).get("tmp_path")
    if isinstance(directory, Path) and any(directory.iterdir()):
        lines.append(f"See the files that it wrote: {directory}")
    return [*lines, *missing(error), *outdated(ROOT / "shmpool")]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and call.excinfo is not None:
        report.sections.append((TITLE, "\n".join(advice(item, call.excinfo.value))))
    return report
