# SPDX-License-Identifier: Apache-2.0
"""A pytest plugin that names slow tests without the marker `slow`: `make check` stays quick.

It measures the processor time of each test and of the processes that the test started and waited
for. A test without the marker `slow` should take, with all its cases, at most a tenth of the
processor time of all of them. This is advice, and fails nothing: even a share of the processor time
differs from machine to machine and from run to run.
"""

import os
from collections.abc import Generator

import pytest

SHARE = 1 / 10  # the largest quick tests are short runs of the core's threads: 5 %
NAME = "processor_s"  # of the property of a report
_began = pytest.StashKey[float]()


def used() -> float:
    """Processor time in seconds of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def over(seconds: dict[str, float]) -> list[str]:
    """Returns a line for each test that takes more than its share.

    >>> over({"a": 50.0, "b": 50.0} | {f"t{i}": 50.0 for i in range(8)})
    []
    >>> over({"a": 51.0} | {f"t{i}": 50.0 for i in range(9)})
    ['a takes 51.0 s of processor time, 10% of all quick tests; mark it with @pytest.mark.slow']
    """
    whole = sum(seconds.values())
    return [
        f"{test} takes {took:.1f} s of processor time, {took / whole:.0%} of all quick tests; "
        "mark it with @pytest.mark.slow"
        for test, took in seconds.items()
        if took > SHARE * whole
    ]


class ProcessorTime:
    """Measures in each worker process. The process that started the workers adds up and advises."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.said: list[str] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> None:
        item.stash[_began] = used()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if call.when == "teardown":
            report.user_properties.append((NAME, used() - item.stash[_began]))
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "teardown":
            took = dict(report.user_properties)[NAME]
            assert isinstance(took, float)
            test = report.nodeid.partition("[")[0]  # the cases of a test count together
            self.seconds[test] = self.seconds.get(test, 0) + took

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if session.exitstatus == pytest.ExitCode.OK and is_quick_run(session.config):
            self.said = over(self.seconds)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        whole = sum(self.seconds.values())
        terminalreporter.write_line(f"processor time of the tests: {whole:.0f} s")
        for line in self.said:
            terminalreporter.write_line(line, yellow=True)


def is_quick_run(config: pytest.Config) -> bool:
    """True if this run has all quick tests: only then a share means something."""
    return (
        "not slow" in config.option.markexpr
        and not config.option.keyword
        and config.args_source is pytest.Config.ArgsSource.TESTPATHS
        and not hasattr(config, "workerinput")
    )
