# SPDX-License-Identifier: Apache-2.0
"""The daemon's log: the number of lines of each kind in a period is limited."""

import logging

import pytest

from shmpool.service import logs


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def log(lines: list[str]) -> logging.Logger:
    """A logger with a limit. Its clock is now[0]."""

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    handler = Lines()
    handler.addFilter(logs.Limit(clock=lambda: now[0]))
    logger = logging.Logger("test")
    logger.addHandler(handler)
    return logger


now = [0.0]


def test_so_many_of_a_kind(log: logging.Logger, lines: list[str]) -> None:
    """Lines are counted by message. After the period, a line says how many were left out."""
    now[0] = 0.0
    for number in range(1000):
        log.warning("file %d is no pool", number)
    log.error("a worker died")
    assert [*(f"file {n} is no pool" for n in range(logs.LINES_MAX)), "a worker died"] == lines
    now[0] = logs.PERIOD_S
    log.warning("file %d is no pool", 1000)
    log.warning("file %d is no pool", 1001)
    assert [f"file 1000 is no pool ({1000 - logs.LINES_MAX} more like it were left out)"] == lines[
        -2:-1
    ]
    assert "file 1001 is no pool" == lines[-1]


def test_a_few_now_and_then(log: logging.Logger, lines: list[str]) -> None:
    """Lines below the limit all pass."""
    for number in range(5 * logs.LINES_MAX):
        now[0] += 2 * logs.PERIOD_S / logs.LINES_MAX
        log.info("line %d", number)
    assert [f"line {number}" for number in range(5 * logs.LINES_MAX)] == lines


def test_many_kinds(log: logging.Logger, lines: list[str]) -> None:
    """The number of kinds that are remembered is bounded."""
    for number in range(5 * logs.KINDS_MAX):
        log.info(f"line {number}")
    (handler,) = log.handlers
    (limit,) = handler.filters
    assert isinstance(limit, logs.Limit)
    assert len(limit._kinds) <= logs.KINDS_MAX
    assert 5 * logs.KINDS_MAX == len(lines)
