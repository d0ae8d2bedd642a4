# SPDX-License-Identifier: Apache-2.0
"""The daemon's log: lines on stderr, as journald reads them, and never more than so many of a kind.

Much of what is logged can be brought about by others: clients that are dropped, files that are no
pools. Whatever they do, they neither fill the disk nor drown what else is said.
"""

import logging
import os
import time
from collections.abc import Callable
from typing import Any

from ..names import LINE_SHOWN, printable, printable_lines

log = logging.getLogger("shmpool")

MOST = 100  # lines of one kind, that is from one place in the code, in PERIOD_S
PERIOD_S = 60.0
KINDS_MAX = 1000


class Limit(logging.Filter):
    """Lets MOST lines of a kind through in PERIOD_S; the next one afterwards says how many were
    left out."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._kinds: dict[str, tuple[float, int]] = {}  # when the first came, and how many did

    def filter(self, record: logging.LogRecord) -> bool:
        now, kind = self._clock(), str(record.msg)
        since, count = self._kinds.get(kind, (now, 0))
        if now - since >= PERIOD_S:
            if count > MOST:
                said = f"{record.getMessage()} ({count - MOST} more like it were left out)"
                record.msg, record.args = said, None
            since, count = now, 0
        if len(self._kinds) >= KINDS_MAX:
            self._kinds.clear()
        self._kinds[kind] = since, count + 1
        return count < MOST


class Lines(logging.Formatter):
    """A message is one line, and a traceback's lines are its own: strangers write none."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        return printable(super().formatMessage(record), LINE_SHOWN)

    def formatException(self, ei: Any) -> str:  # noqa: N802
        return "\n".join(printable_lines(super().formatException(ei)))


class _Journal(Lines):
    """With the priority that journald reads from the start of a line."""

    def format(self, record: logging.LogRecord) -> str:
        level = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4}.get(record.levelno, 3)
        return f"<{level}>{super().format(record)}"


def to_stderr(level: str) -> None:
    """From now on what is at least that important goes to stderr."""
    handler = logging.StreamHandler()
    if os.environ.get("JOURNAL_STREAM"):
        handler.setFormatter(_Journal("%(message)s"))
    else:
        handler.setFormatter(Lines("shmpool: %(message)s"))
    handler.addFilter(Limit())
    log.addHandler(handler)
    log.setLevel(level.upper())
