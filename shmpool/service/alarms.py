# SPDX-License-Identifier: Apache-2.0
"""Alarms: conditions of a pool that a person should check. Figures in, alarms out; no I/O.

Durations are measured by a monotonic clock. The wall clock is used only to show since when
an alarm is active.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from ..rpc.records import Alarm, AlarmKind, LinkStats
from ..stats import Holder, Stats
from ..view import QueueStats, TopicStats
from .links import down, lags

Changes = tuple[list[Alarm], list[Alarm]]  # alarms that are new; alarms that are no longer active


@dataclass(frozen=True)
class Policy:
    """When the daemon raises an alarm about a pool, and when it trims the pool."""

    low_water: int = 0  # alarm when fewer buffers than this can be allocated
    queue_full_s: float = 5.0  # alarm when a queue has been full, or a topic blocked, for this long
    held_s: float = 60.0  # alarm when a buffer has been held for this long
    trim_to: int | None = None  # free buffers of each size that keep memory; without it all do
    trim_after_s: float = 30.0  # trim when there have been more of them for this long


class Alarms:
    """The active alarms of one pool. For one thread."""

    def __init__(self, pool: str, wall: Callable[[], float] = time.time) -> None:
        self._pool, self._wall = pool, wall
        self._active: dict[tuple[AlarmKind, str], Alarm] = {}
        self._full_since: dict[str, float] = {}

    def active(self) -> list[Alarm]:
        """The active alarms, the oldest first."""
        return list(self._active.values())

    def update(
        self,
        now: float,
        policy: Policy,
        stats: Stats,
        queues: Iterable[QueueStats],
        topics: Iterable[TopicStats],
        suspended: Iterable[tuple[int, int]],
    ) -> Changes:
        """Raises and clears every kind of alarm but "held-long", and returns the changes.

        now is in seconds of the monotonic clock. suspended has the (pid, tid) of each member that
        is suspended in the middle of an operation.
        """
        available = stats.capacity - stats.held - stats.queued - stats.chained
        low = {}
        if available < policy.low_water:
            why = f"{available} buffers can be allocated; low_water is {policy.low_water}"
            low[self._pool] = why
        full = {q.name: "the queue has been full" for q in queues if q.depth >= q.capacity}
        blocked = {topic.name: who for topic in topics if (who := held_up_by(topic))}
        # A queue and a topic of a pool have different names.
        self._full_since = {name: self._full_since.get(name, now) for name in full | blocked}
        for found in (full, blocked):
            for name in list(found):
                if now - self._full_since[name] < policy.queue_full_s:
                    del found[name]
                else:
                    found[name] += f" for more than {policy.queue_full_s:g} s"
        halted = {
            f"{pid}/{tid}": f"thread {tid} of process {pid} is suspended in the middle of an "
            "operation and blocks the buffers that it claimed (kill -CONT continues it)"
            for pid, tid in suspended
        }
        return self._replaced(
            {"low-water": low, "queue-full": full, "topic-blocked": blocked, "stopped": halted}
        )

    def update_holders(self, policy: Policy, holders: Iterable[Holder]) -> Changes:
        """Raises and clears "held-long" alarms, and returns the changes."""
        found = {
            f"{h.pid}/{h.tid}": f"thread {h.tid} of process {h.pid} has held a buffer for more "
            f"than {policy.held_s:g} s, and {h.buffers} in all"
            for h in holders
            if h.oldest_s is not None and h.oldest_s >= policy.held_s
        }
        return self._replaced({"held-long": found})

    def update_links(self, links: Iterable[LinkStats]) -> Changes:
        """Raises and clears the alarms of links, and returns the changes."""
        found, wall = list(links), self._wall()
        return self._replaced(
            {
                "link-down": {link.name: why for link in found if (why := down(link, wall))},
                "link-lags": {link.name: why for link in found if (why := lags(link))},
            }
        )

    def _replaced(self, found: dict[AlarmKind, dict[str, str]]) -> Changes:
        """Makes the alarms of these kinds those that were found: messages by subject. One that
        stays has the message that was found now."""
        now = {(kind, subject): m for kind in found for subject, m in found[kind].items()}
        gone = [key for key in self._active if key[0] in found and key not in now]
        cleared = [self._active.pop(key) for key in gone]
        new = {key: Alarm(*key, self._wall(), now[key]) for key in now if key not in self._active}
        lasting = {key: replace(self._active[key], message=now[key]) for key in now.keys() - new}
        self._active |= lasting | new
        return list(new.values()), cleared


def held_up_by(topic: TopicStats) -> str:
    """Says who holds the topic's publishers up. Returns "" if they can publish."""
    blocking = [one for one in topic.subscribers if one.policy == "block" and one.state == "alive"]
    last = max(blocking, key=lambda one: one.lag, default=None)
    if last is None or last.lag < (1 if topic.waiting else topic.depth):
        return ""
    return (
        f"subscriber {last.number} (process {last.pid}, {last.name}), {last.lag} messages behind, "
        "has held publishers up"
    )
