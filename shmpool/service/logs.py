# SPDX-License-Identifier: Apache-2.0
"""The daemon's log: lines on stderr, as journald reads them, at a limited rate.

Others can cause log lines: clients that are disconnected, files that are not pools. The limit keeps
them from filling the disk and from hiding other lines.
"""

import logging
import os
import time
from collections.abc import Callable
from typing import Any

from ..names import LINE_SHOWN, printable, printable_lines

log = logging.getLogger("shmpool")

LINES_MAX = 100  # in PERIOD_S, with the same message before its arguments are filled in
PERIOD_S = 60.0
KINDS_MAX = 1000


class Limit(logging.Filter):
    """Passes LINES_MAX lines of a kind in each PERIOD_S. The first line of the next period says
    how many were left out."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._kinds: dict[str, tuple[float, int]] = {}  # time of the first, and count

    def filter(self, record: logging.LogRecord) -> bool:
        now, kind = self._clock(), str(record.msg)
        since, count = self._kinds.get(kind, (now, 0))
        if now - since >= PERIOD_S:
            if count > LINES_MAX:
                said = f"{record.getMessage()} ({count - LINES_MAX} more like it were left out)"
                record.msg, record.args = said, None
            since, count = now, 0
        if len(self._kinds) >= KINDS_MAX:
            self._kinds.clear()
        self._kinds[kind] = since, count + 1
        return count < LINES_MAX


class Lines(logging.Formatter):
    """Makes a message one line of printable text, so that no argument can forge a line."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        return printable(super().formatMessage(record), LINE_SHOWN)

    def formatException(self, ei: Any) -> str:  # noqa: N802
        return "\n".join(printable_lines(super().formatException(ei)))


class _Journal(Lines):
    """Puts the priority before each line, for journald."""

    def format(self, record: logging.LogRecord) -> str:
        level = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4}.get(record.levelno, 3)
        return f"<{level}>{super().format(record)}"


def to_stderr(level: str) -> None:
    """Writes records of at least this level to stderr."""
    handler = logging.StreamHandler()
    if os.environ.get("JOURNAL_STREAM"):
        handler.setFormatter(_Journal("%(message)s"))
    else:
        handler.setFormatter(Lines("shmpool: %(message)s"))
    handler.addFilter(Limit())
    log.addHandler(handler)
    log.setLevel(level.upper())
