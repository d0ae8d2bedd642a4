# SPDX-License-Identifier: Apache-2.0
"""A pytest plugin: which lines of the package each test runs here, and how long it takes.

    python -m pytest -p tests.mutants.lines --lines FILE ...

What a test starts as another process is not seen: python.py falls back to the tests of that name.
"""

import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

PACKAGE = str(Path(__file__).resolve().parent.parent.parent / "shmpool") + "/"

_seen: set[tuple[str, int]] = set()
_result: dict[str, dict[str, object]] = {}


def _line(frame: FrameType, event: str, _argument: object) -> object:
    if event == "line":
        _seen.add((frame.f_code.co_filename, frame.f_lineno))
    return _line


def _call(frame: FrameType, _event: str, _argument: object) -> object:
    return _line if frame.f_code.co_filename.startswith(PACKAGE) else None


def pytest_addoption(parser: pytest.Parser) -> None:
    """Says where to."""
    parser.addoption("--lines", required=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Fixtures are part of the test."""
    _seen.clear()
    began = time.monotonic()
    threading.settrace(_call)  # type: ignore[arg-type]
    sys.settrace(_call)  # type: ignore[arg-type]
    try:
        return (yield)
    finally:
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]
        lines: dict[str, list[int]] = {}
        for name, number in sorted(_seen):
            lines.setdefault(name[len(PACKAGE) :], []).append(number)
        _result[item.nodeid] = {"seconds": time.monotonic() - began, "lines": lines}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Iterator[pytest.TestReport]:
    """A test that fails or is skipped as it is tells nothing."""
    report: pytest.TestReport = yield
    if report.outcome != "passed":
        item.stash[_unfit] = True
    return report


_unfit = pytest.StashKey[bool]()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Writes it."""
    unfit = {item.nodeid for item in session.items if item.stash.get(_unfit, False)}
    fit = {name: row for name, row in _result.items() if name not in unfit}
    Path(session.config.getoption("--lines")).write_text(json.dumps(fit))
