# SPDX-License-Identifier: Apache-2.0
"""The last hour of a pool's queues and topics, as the live page draws it.

Not in here: longer times, and other figures. A Prometheus server keeps those (metrics.py).
"""

import math
from array import array
from collections.abc import Iterable
from typing import Any

from ..view import QueueStats, TopicStats

STEP_S = 10.0  # what one value covers
VALUES = 360  # an hour
SERIES_MAX = 64  # queues and topics of a pool that are kept: 1.4 KiB each


class _Series:
    """The values of one queue or topic, each of STEP_S; NaN where nothing was measured."""

    def __init__(self) -> None:
        self.values = array("f", [math.nan]) * VALUES
        self.before: tuple[float, int] | None = None  # of a topic: when, messages published

    def clear(self, step: int) -> None:
        self.values[step % VALUES] = math.nan

    def most(self, step: int, value: float) -> None:
        """Raises the value of that step to this one."""
        now = self.values[step % VALUES]
        self.values[step % VALUES] = value if math.isnan(now) else max(now, value)

    def listed(self, steps: range) -> list[float | None]:
        """The values of those steps; None for one that is not known."""
        found = (self.values[step % VALUES] for step in steps)
        return [None if math.isnan(value) else round(value, 1) for value in found]


class History:
    """Keeps, for each step of ten seconds of the last hour, the highest depth that was measured of
    each queue, and the highest rate of each topic, in messages published per second.

    For one thread. A pool has its first SERIES_MAX queues and topics kept.
    """

    def __init__(self) -> None:
        self._queues: dict[str, _Series] = {}
        self._topics: dict[str, _Series] = {}
        self._first: int | None = None  # step
        self._last = 0

    def add(self, now: float, queues: Iterable[QueueStats], topics: Iterable[TopicStats]) -> None:
        """Adds what was measured now, in seconds of a monotonic clock."""
        step = int(now / STEP_S)
        if self._first is None:
            self._first = self._last = step
        for skipped in range(max(self._last + 1, step - VALUES + 1), step + 1):
            for series in (*self._queues.values(), *self._topics.values()):
                series.clear(skipped)
        self._last = step
        for queue in queues:
            found = self._series(self._queues, queue.name)
            if found is not None:
                found.most(step, queue.depth)
        for topic in topics:
            found = self._series(self._topics, topic.name)
            if found is not None:
                if found.before is not None and now > found.before[0]:
                    at, published = found.before
                    found.most(step, max(topic.published - published, 0) / (now - at))
                found.before = now, topic.published

    def _series(self, known: dict[str, _Series], name: str) -> _Series | None:
        if name not in known and len(self._queues) + len(self._topics) < SERIES_MAX:
            known[name] = _Series()
        return known.get(name)

    def listed(self) -> dict[str, Any]:
        """Returns the seconds of a step, and by name the values of each queue and topic, the oldest
        first: as many as there are, at most those of an hour."""
        first = self._last + 1 if self._first is None else self._first
        steps = range(max(first, self._last - VALUES + 1), self._last + 1)
        return {
            "step": STEP_S,
            "queues": {name: series.listed(steps) for name, series in self._queues.items()},
            "topics": {name: series.listed(steps) for name, series in self._topics.items()},
        }
