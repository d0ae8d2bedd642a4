# SPDX-License-Identifier: Apache-2.0
"""A pool that the daemon holds: a view of it, and what happened to it since the daemon started."""

import contextlib
import fcntl
import os
import random
import struct
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ..rpc.records import Alarm, PoolStats, Recoveries
from ..stats import Holder, Recovery, Stats
from ..view import View
from .alarms import Alarms, Policy

EVENTS_KEPT = 64
STOPPED_LOOKS = 64  # members in an operation that /proc is asked about: 30 us each
HOLDS = 1 << 62  # the first byte of a file that stands for a daemon and for no token
_FLOCK = "hhqqi4x"  # struct flock of 64-bit Linux: type, whence, start, length, pid
DECLARED, OWN, OTHERS = range(3)  # whose a pool is; a later one makes room for an earlier one
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)  # of a histogram

Changes = tuple[list[Alarm], list[Alarm]]  # raised, over


@dataclass(frozen=True)
class RecoveryEvent:
    """One recovery, as it is shown on the live page."""

    number: int  # counts up
    pool: str
    at: float  # seconds since 1970
    seconds: float  # from the kernel's word that a process is dead
    members: int
    buffers: int
    requeued: int
    dead_lettered: int


class WatchedPool:
    """One pool's view, policy, alarms and recoveries. For one thread.

    It is only watched, which does not count as use of the pool, unless it is declared.
    """

    def __init__(
        self, view: View, policy: Policy, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """clock measures how long things last, by seconds that nobody sets."""
        self.view = view
        self.inode = view.inode
        self.policy = policy
        self.rank = OWN
        self._path = view.file().path
        self._kept = -1
        self.alarms = Alarms(view.name)
        self.recoveries = Recoveries()
        self.recovery_seconds: list[int] = [0] * (len(SECONDS) + 1)  # how many took up to so long
        self.recovery_seconds_sum = 0.0
        self.events: deque[RecoveryEvent] = deque(maxlen=EVENTS_KEPT)
        self._clock = clock
        self._plenty_since: float | None = None

    @property
    def writable(self) -> bool:
        """Whether this user may write to the pool, and so can recover it."""
        return os.access(self._path, os.R_OK | os.W_OK, effective_ids=True)

    def use(self, policy: Policy, rank: int) -> None:
        """Changes what is done about the pool. A declared one is in use from now on, as by a
        process that has it open: nobody prunes it."""
        self.policy, self.rank = policy, rank
        if rank != DECLARED:
            self._let_go()
        elif self._kept < 0 and self.writable:
            with contextlib.suppress(OSError):  # the next look tries again
                self._kept = _in_use(self._path, self.inode)

    def _let_go(self) -> None:
        if self._kept >= 0:
            os.close(self._kept)
            self._kept = -1

    def close(self) -> None:
        """Has nothing of the pool open any more."""
        self._let_go()
        self.view.close()

    def stats(self) -> PoolStats:
        return stats_of(self.view, time.time(), self.recoveries, self.alarms.active())

    def recovered(self, what: Recovery, seconds: float) -> RecoveryEvent:
        """Enters a recovery into the books."""
        now, so_far = time.time(), self.recoveries
        self.recoveries = replace(
            so_far,
            count=so_far.count + 1,
            members=so_far.members + what.members,
            buffers=so_far.buffers + what.buffers,
            requeued=so_far.requeued + what.requeued,
            dead_lettered=so_far.dead_lettered + what.dead_lettered,
            last_at=now,
            last_s=seconds,
            longest_s=max(seconds, so_far.longest_s or 0.0),
        )
        self.recovery_seconds[sum(seconds > bound for bound in SECONDS)] += 1
        self.recovery_seconds_sum += seconds
        event = RecoveryEvent(
            self.recoveries.count,
            self.view.name,
            now,
            seconds,
            what.members,
            what.buffers,
            what.requeued,
            what.dead_lettered,
        )
        self.events.append(event)
        return event

    def look(self) -> Changes:
        """Looks at the figures, for alarms."""
        operating = self.view.operating()[:STOPPED_LOOKS]
        stopped = [(pid, tid) for pid, tid in operating if is_stopped(pid, tid)]
        stats = self.view.stats()
        self._watch_plenty(stats)
        return self.alarms.look(self._clock(), self.policy, stats, self.view.queues(), stopped)

    def look_at_holders(self, holders: list[Holder]) -> Changes:
        """Looks at who has had a buffer for how long, for alarms."""
        return self.alarms.look_at_holders(self.policy, holders)

    def _watch_plenty(self, stats: Stats) -> None:
        keep = self.policy.trim_to
        grown = stats.created > self.view.geometry.prealloc  # what was preallocated stays
        if keep is None or not grown or stats.free + stats.cached <= keep:
            self._plenty_since = None
        elif self._plenty_since is None:
            self._plenty_since = self._clock()

    def should_trim(self) -> bool:
        """Whether there has been more free than the policy keeps, for long enough."""
        since = self._plenty_since
        return since is not None and self._clock() - since >= self.policy.trim_after_s

    def trimmed(self) -> None:
        """A trim was made: the next one is due when there is plenty for long enough again."""
        self._plenty_since = None


def _in_use(path: str, inode: int) -> int:
    """A descriptor of the file that holds a lock by which prune() sees that it is in use: on a byte
    beyond those of tokens (native/token.h), one of so many that no two daemons take the same."""
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(fd).st_ino != inode:
            raise OSError("another file has its name")
        lock = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, HOLDS + random.getrandbits(61), 1, 0)
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, lock)
    except OSError:
        os.close(fd)
        raise
    return fd


def stats_of(view: View, now: float, recoveries: Recoveries, alarms: list[Alarm]) -> PoolStats:
    return PoolStats(view.name, now, view.stats(), view.queues(), recoveries, alarms)


def is_stopped(pid: int, tid: int) -> bool:
    """Whether a signal or a tracer has stopped the thread."""
    try:
        text = Path(f"/proc/{pid}/task/{tid}/stat").read_bytes()  # its name may be any bytes
    except OSError:
        return False
    return text.rpartition(b")")[2].split()[:1] in ([b"T"], [b"t"])
