# SPDX-License-Identifier: Apache-2.0
"""A pytest plugin: which lines of the package each test runs, and how long it takes.

    python -m pytest -p tests.mutants.lines --lines FILE ...

Lines of the processes that a test starts count too (traced.py), unless they run without its
environment.
"""

import json
import os
import shutil
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from . import traced

ROOT = Path(__file__).resolve().parent.parent.parent


class Lines:
    """Writes FILE at the end. The folder FILE.d has what the processes noted."""

    def __init__(self, to: Path) -> None:
        self.to, self.folder = to, to.with_name(to.name + ".d")
        shutil.rmtree(self.folder, ignore_errors=True)
        (self.folder / "python").mkdir(parents=True)
        shutil.copy(traced.__file__, self.folder / "python" / "sitecustomize.py")
        package = f"{ROOT / 'shmpool'}/"
        paths = [str(self.folder / "python"), os.environ.get("PYTHONPATH", "")]
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        os.environ[traced.FOLDER], os.environ[traced.PACKAGE] = str(self.folder), package
        self.tracer = traced.Tracer(str(self.folder), package, child=False)
        self.rows: list[tuple[str, float, set[str]]] = []  # test, seconds, "file:line"
        self.unfit: set[str] = set()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Fixtures are part of the test."""
        notes = self.folder / str(len(self.rows))
        notes.touch()
        notes.chmod(0o666)  # a test's process may have become another user
        (self.folder / traced.NOW).write_text(notes.name)
        self.tracer.seen = set()
        began = time.monotonic()
        self.tracer.start()
        try:
            return (yield)
        finally:
            self.tracer.stop()
            lines = {f"{name[len(self.tracer.package) :]}:{at}" for name, at in self.tracer.seen}
            self.rows.append((item.nodeid, time.monotonic() - began, lines))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """A test that fails or is skipped without a mutant is not usable."""
        report = yield
        if report.outcome != "passed":
            self.unfit.add(item.nodeid)
        return report

    def pytest_sessionfinish(self) -> None:
        """Children may run longer than their test, so their notes are read here."""
        found = {}
        for number, (test, seconds, lines) in enumerate(self.rows):
            noted = lines.union((self.folder / str(number)).read_text().split())
            by_file: dict[str, list[int]] = {}
            for name, _, at in (line.rpartition(":") for line in sorted(noted)):
                by_file.setdefault(f"shmpool/{name}", []).append(int(at))
            if test not in self.unfit:
                found[test] = {"seconds": seconds, "lines": by_file}
        self.to.write_text(json.dumps(found))
        for test in sorted(self.unfit):
            print(f"unfit: {test}")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the option that names the file."""
    parser.addoption("--lines", required=True)


def pytest_configure(config: pytest.Config) -> None:
    """Starts before the tests are imported."""
    config.pluginmanager.register(Lines(Path(config.getoption("--lines"))))
