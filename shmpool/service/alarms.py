# SPDX-License-Identifier: Apache-2.0
"""Alarms: what in a pool a person should look into. Figures in, alarms out; no I/O.

How long something lasts is measured by the monotonic clock, which nobody sets; the wall clock only
says to a person since when an alarm lasts.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from ..rpc.records import Alarm
from ..stats import Holder, Stats
from ..view import QueueStats

Kind = Literal["low-water", "queue-full", "held-long", "stopped"]


@dataclass(frozen=True)
class Policy:
    """When the daemon raises an alarm about a pool, and when it trims the pool."""

    low_water: int = 0  # alarm when fewer buffers than this can be allocated
    queue_full_s: float = 5.0  # alarm when a queue has been full for this long
    held_s: float = 60.0  # alarm when a buffer has been held for this long
    trim_to: int | None = None  # free buffers that keep their memory; without it all do
    trim_after_s: float = 30.0  # trim when there have been more of them for this long


class Alarms:
    """The alarms of one pool. Each look() tells what is new and what is over."""

    def __init__(self, pool: str, wall: Callable[[], float] = time.time) -> None:
        self._pool, self._wall = pool, wall
        self._active: dict[tuple[str, str], Alarm] = {}
        self._full_since: dict[str, float] = {}

    def active(self) -> list[Alarm]:
        """Those that last, the oldest first."""
        return list(self._active.values())

    def look(
        self,
        now: float,
        policy: Policy,
        stats: Stats,
        queues: Iterable[QueueStats],
        stopped: Iterable[tuple[int, int]],
    ) -> tuple[list[Alarm], list[Alarm]]:
        """One look at the figures, at `now` of the monotonic clock; stopped are (pid, tid) of
        members stopped in an operation.

        (raised, over): the alarms that are new, and those that have ended.
        """
        available = stats.capacity - stats.held - stats.queued
        low = {}
        if available < policy.low_water:
            low[self._pool] = (
                f"{available} buffers can be allocated; low_water is {policy.low_water}"
            )
        full = {q.name for q in queues if q.depth >= q.capacity}
        self._full_since = {name: self._full_since.get(name, now) for name in full}
        long_full = {
            name: f"the queue has been full for more than {policy.queue_full_s:g} s"
            for name, since in self._full_since.items()
            if now - since >= policy.queue_full_s
        }
        halted = {
            f"{pid}/{tid}": f"thread {tid} of process {pid} is stopped in the middle of an "
            "operation: buffers that it claimed wait for it (kill -CONT continues it)"
            for pid, tid in stopped
        }
        raised: list[Alarm] = []
        over: list[Alarm] = []
        for kind, found in _kinds(low, long_full, halted):
            self._update(kind, found, raised, over)
        return raised, over

    def look_at_holders(
        self, policy: Policy, holders: Iterable[Holder]
    ) -> tuple[list[Alarm], list[Alarm]]:
        """As look(), of who has had a buffer for how long."""
        found = {
            f"{h.pid}/{h.tid}": f"thread {h.tid} of process {h.pid} has held a buffer for more "
            f"than {policy.held_s:g} s, and {h.buffers} in all"
            for h in holders
            if h.oldest_s is not None and h.oldest_s >= policy.held_s
        }
        raised: list[Alarm] = []
        over: list[Alarm] = []
        self._update("held-long", found, raised, over)
        return raised, over

    def _update(
        self,
        kind: Kind,
        found: dict[str, str],
        raised: list[Alarm],
        over: list[Alarm],
    ) -> None:
        for key in [key for key in self._active if key[0] == kind and key[1] not in found]:
            over.append(self._active.pop(key))
        for subject, message in found.items():
            if (kind, subject) not in self._active:
                alarm = Alarm(kind, subject, self._wall(), message)
                self._active[kind, subject] = alarm
                raised.append(alarm)


def _kinds(
    low: dict[str, str], full: dict[str, str], stopped: dict[str, str]
) -> list[tuple[Kind, dict[str, str]]]:
    return [("low-water", low), ("queue-full", full), ("stopped", stopped)]
