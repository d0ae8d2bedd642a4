# SPDX-License-Identifier: Apache-2.0
"""A pool that the daemon watches: a view of it, its alarms, its last hour, and its recoveries since
the daemon started.
"""

import contextlib
import fcntl
import os
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path

from ..pool_files import path_of, record_lock
from ..rpc.records import Alarm, LinkStats, PoolStats, Recoveries
from ..stats import Holder, Recovery, Stats
from ..view import View
from .alarms import Alarms, Changes, Policy
from .history import History
from .links import Links

EVENTS_KEPT = 64
SUSPENDED_MAX = 64  # members in an operation whose state is read from /proc: 30 us each
IN_USE_FIRST = 1 << 62  # first of 2**61 bytes whose lock means "in use by a daemon"
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)  # of a histogram


class Rank(IntEnum):
    """Why the daemon watches a pool. Where there is no place left, a lower rank evicts a higher."""

    DECLARED = 0  # the configuration declares it
    OWN = 1  # its file belongs to the daemon's user or root
    OTHER = 2  # its file belongs to another user, whom adopt_users names


@dataclass(frozen=True)
class RecoveryEvent:
    """One recovery, for the live page."""

    number: int  # counts up
    pool: str
    at: float  # seconds since 1970
    seconds: float  # from the detection of the dead member to the end of the recovery
    members: int
    buffers: int
    requeued: int
    dead_lettered: int
    subscribers: int


class WatchedPool:
    """One pool's view, policy, alarms and recoveries. For one thread.

    Watching a pool does not count as use of it, unless the pool is declared: prune() may remove it.
    """

    def __init__(
        self,
        view: View,
        policy: Policy,
        clock: Callable[[], float] = time.monotonic,
        links: Links | None = None,
    ) -> None:
        """clock is in seconds and monotonic. links are those of all pools."""
        self._links = links or Links()
        self.view = view
        self.inode = view.inode
        self.policy = policy
        self.rank = Rank.OWN
        self._path = path_of(view.name)
        self._in_use_fd = -1
        self.alarms = Alarms(view.name)
        self.history = History()
        self.recoveries = Recoveries()
        self.recovery_seconds: list[int] = [0] * (len(SECONDS) + 1)  # recoveries in each bucket
        self.recovery_seconds_sum = 0.0
        self.events: deque[RecoveryEvent] = deque(maxlen=EVENTS_KEPT)
        self._clock = clock
        self._trimmable_since: float | None = None

    @property
    def writable(self) -> bool:
        """True if this user may write to the pool, and so can recover it."""
        return os.access(self._path, os.R_OK | os.W_OK, effective_ids=True)

    def use(self, policy: Policy, rank: Rank) -> None:
        """Changes the policy and the rank. Marks a declared pool as in use, so that prune() does
        not remove it."""
        self.policy, self.rank = policy, rank
        if rank != Rank.DECLARED:
            self._drop_in_use()
        elif self._in_use_fd < 0 and self.writable:
            with contextlib.suppress(OSError):  # the next rescan tries again
                self._in_use_fd = _lock_in_use(self._path, self.inode)

    def _drop_in_use(self) -> None:
        if self._in_use_fd >= 0:
            os.close(self._in_use_fd)
            self._in_use_fd = -1

    def close(self) -> None:
        """Unmaps the pool and closes its file."""
        self._drop_in_use()
        self.view.close()

    def stats(self) -> PoolStats:
        stats = stats_of(self.view, time.time(), self.recoveries, self.alarms.active())
        return replace(stats, links=self.links())

    def links(self) -> list[LinkStats]:
        """Returns the links of this pool that bridges have reported."""
        return self._links.of(self.view.name)

    def recovered(self, what: Recovery, seconds: float) -> RecoveryEvent:
        """Counts a recovery and returns its event."""
        now, before = time.time(), self.recoveries
        self.recoveries = replace(
            before,
            count=before.count + 1,
            members=before.members + what.members,
            buffers=before.buffers + what.buffers,
            requeued=before.requeued + what.requeued,
            dead_lettered=before.dead_lettered + what.dead_lettered,
            subscribers=before.subscribers + what.subscribers,
            last_at=now,
            last_s=seconds,
            longest_s=max(seconds, before.longest_s or 0.0),
        )
        self.recovery_seconds[sum(seconds > bound for bound in SECONDS)] += 1
        self.recovery_seconds_sum += seconds
        event = RecoveryEvent(
            self.recoveries.count, self.view.name, now, seconds,
            what.members, what.buffers, what.requeued, what.dead_lettered, what.subscribers,
        )  # fmt: skip
        self.events.append(event)
        return event

    def inspect(self) -> Changes:
        """Reads the pool's figures and returns the alarms that they raise and clear."""
        operating = self.view.operating()[:SUSPENDED_MAX]
        suspended = [(pid, tid) for pid, tid in operating if is_suspended(pid, tid)]
        stats = self.view.stats()
        self._watch_trimmable(stats)
        flows = self.view.queues(), self.view.topics()
        self.history.add(self._clock(), *flows)
        changes = self.alarms.update(self._clock(), self.policy, stats, *flows, suspended)
        of_links = self.alarms.update_links(self.links())
        return changes[0] + of_links[0], changes[1] + of_links[1]

    def inspect_holders(self, holders: list[Holder]) -> Changes:
        """Returns the alarms that the holders of buffers raise and clear."""
        return self.alarms.update_holders(self.policy, holders)

    def _watch_trimmable(self, stats: Stats) -> None:
        keep = self.policy.trim_to
        if keep is None or not any(
            now.created > given.prealloc and now.free + now.cached > keep  # those keep their memory
            for now, given in zip(stats.sizes, self.view.geometry.sizes, strict=True)
        ):
            self._trimmable_since = None
        elif self._trimmable_since is None:
            self._trimmable_since = self._clock()

    def should_trim(self) -> bool:
        """True if more buffers than trim_to have been free for trim_after_s."""
        since = self._trimmable_since
        return since is not None and self._clock() - since >= self.policy.trim_after_s

    def trimmed(self) -> None:
        """Restarts the clock of should_trim()."""
        self._trimmable_since = None


def _lock_in_use(path: str, inode: int) -> int:
    """Locks one byte of the file, so that prune() sees that the file is in use. Returns the
    descriptor that holds the lock. OSError.

    The byte lies beyond those of tokens (native/token.h). It is chosen at random out of 2**61, so
    that two daemons do not choose the same one.
    """
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(fd).st_ino != inode:
            raise OSError("another file has its name")
        record_lock(fd, fcntl.F_WRLCK, IN_USE_FIRST + random.getrandbits(61), 1)
    except OSError:
        os.close(fd)
        raise
    return fd


def stats_of(view: View, now: float, recoveries: Recoveries, alarms: list[Alarm]) -> PoolStats:
    figures = view.stats(), view.queues(), view.topics()
    return PoolStats(view.name, now, *figures, recoveries, alarms)


def is_suspended(pid: int, tid: int) -> bool:
    """True if a signal or a tracer has suspended the thread."""
    try:
        text = Path(f"/proc/{pid}/task/{tid}/stat").read_bytes()  # its name may be any bytes
    except OSError:
        return False
    return text.rpartition(b")")[2].split()[:1] in ([b"T"], [b"t"])
