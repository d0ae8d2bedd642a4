# SPDX-License-Identifier: Apache-2.0
"""View: a pool's figures, read through a read-only mapping. A View is no member of the pool.

It takes no lock and cannot change a byte of the pool. Not in here: counts in steps (stats.py).
"""

import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from . import errors
from ._ffi import Native, ffi, lib
from .choices import MEMORY
from .codes import check
from .geometry import Geometry
from .messages import Message, lanes_in_use, read_messages
from .names import checked_name, is_name, printable
from .options import INT32_MAX, QUEUE_MAX, integer, policy_of
from .pool_files import inode_of
from .segment import Segment
from .stats import FATE_DEAD, Member, Stats, read_members, read_stats
from .topic import Subscription, read_subscribers

PEEK_MAX = 16 << 20  # bytes of payload that one peek() returns
SUBSCRIBERS_LISTED = 1024  # of one pool: 2 us each
SUBSCRIBERS_ASKED = 64  # of them, about which the kernel is asked: 10 us each
Found = TypeVar("Found")


@dataclass(frozen=True)
class File:
    """The file of a pool's segment."""

    path: str
    size: int  # length in bytes
    reserved: int  # bytes of memory that it has now
    mode: str  # in octal
    uid: int
    gid: int


@dataclass(frozen=True)
class LaneStats:
    """A lane of a queue, in buffers. enqueued and dequeued count since the queue was created."""

    depth: int
    capacity: int
    enqueued: int
    dequeued: int
    lost: int  # compare-and-swaps that producers lost to others, about


@dataclass(frozen=True)
class QueueStats:
    """A queue's statistics, in buffers. enqueued, dequeued, refused and dropped count since the
    queue was created."""

    name: str
    capacity: int
    depth: int
    enqueued: int
    dequeued: int
    producers: str  # "single" or "multi"
    consumers: str
    on_death: str  # see Pool.create_queue
    dead_letter: str | None
    max_redeliveries: int
    refused: int = 0  # could not be put: Full, or PoolExhausted in a send
    dropped: int = 0  # freed because the consumer that had taken them died
    memory: str = "reserved"  # or "on-demand"
    lanes: int | str = 1  # see Pool.create_queue
    lane_stats: list[LaneStats] = field(default_factory=list)  # of those in use; [] without lanes


@dataclass(frozen=True)
class TopicStats:
    """A topic's statistics, in messages."""

    name: str
    depth: int  # that it keeps, at most
    published: int  # since it was created: the sequence number of the next one
    kept: int
    waiting: int  # publishers that wait, for a subscriber that blocks
    subscribers: list[Subscription]  # of a pool that has more than 1,024: the first ones


_INFO = "struct shmpool_member_info"
_PID, _OPERATION = ffi.offsetof(_INFO, "pid"), ffi.offsetof(_INFO, "operation")
# Its pid, tid and operation: read so, a member takes 0.1 us; members() takes 3 us.
_OPERATING = struct.Struct(
    f"={_PID}xII{_OPERATION - _PID - 8}xI{ffi.sizeof(_INFO) - _OPERATION - 4}x"
)


class View:
    """A pool's figures. The methods raise PoolClosed after close(), and SegmentInvalid if the
    file was truncated or corrupted. One thread at a time may use a View; a pool may have several.

    >>> import shmpool
    >>> from shmpool.view import View
    >>> with shmpool.Pool.create("doc-view", buffer_size=64, capacity=64, prealloc=64) as pool:
    ...     with View("doc-view") as view:
    ...         print(view.geometry.capacity, view.stats().free)
    64 64
    >>> shmpool.Pool.unlink("doc-view")
    """

    def __init__(self, name: str) -> None:
        """Opens the pool of that name for reading.

        Raises:
            InvalidArgument, PoolNotFound, SegmentInvalid, AccessDenied, LimitReached.
        """
        segment = Segment.attach(checked_name(name, "pool"), read_only=True)
        self.name = name
        with segment.opening():
            self._number = check(segment._enter(), f"pool {name!r}")
            raw = ffi.new("struct shmpool_geometry *")
            check(lib.shmpool_geometry(self._number, raw), f"pool {name!r}")
        self._segment: Segment | None = segment
        self.inode = segment.inode  # another pool of the same name has another number
        self.geometry = Geometry.of(raw)
        self._members: Native = ffi.new(f"{_INFO}[]", self.geometry.members)
        self._info: Native = ffi.new("struct shmpool_queue_info *")
        self._facts: dict[int, tuple[str, int, str, str, str, str | None, int]] = {}

    def _opened(self) -> Segment:
        if self._segment is None:
            raise errors.PoolClosed(f"the view of pool {self.name!r} is closed")
        if self._segment.stat().st_size != self._segment.size:  # an access past its end is SIGBUS
            raise errors.SegmentInvalid(f"pool {self.name!r}: the size of its file was changed")
        return self._segment

    def stale(self) -> bool:
        """True if the name now stands for another pool, or for none. Also after close()."""
        try:
            return inode_of(self.name) != self.inode
        except errors.PoolNotFound:
            return True

    def file(self) -> File:
        """Returns the path, sizes, mode and owner of the pool's file."""
        segment = self._opened()
        status = segment.stat()
        return File(
            path=segment.path,
            size=status.st_size,
            reserved=status.st_blocks * 512,
            mode=f"{stat.S_IMODE(status.st_mode):04o}",
            uid=status.st_uid,
            gid=status.st_gid,
        )

    def _whole(self, found: Found) -> Found:
        """Returns found, or raises SegmentInvalid if the file was truncated during the read."""
        if lib.shmpool_intact(self._number):
            raise errors.SegmentInvalid(
                f"pool {self.name!r}: its file was truncated or written to by others"
            )
        return found

    def stats(self) -> Stats:
        """Counts the buffers by where they are, and reads the counters."""
        self._opened()
        return self._whole(read_stats(self._number, self.geometry))

    def queues(self) -> list[QueueStats]:
        """Returns the queues, in the order of their numbers."""
        return list(self._numbered().values())

    def topics(self) -> list[TopicStats]:
        """Returns the topics, in the order of their numbers.

        Asks the kernel about the first 64 subscribers whether they are alive. Others are dead once
        a recoverer has found it.
        """
        found, listed = [], 0
        for number, info in self._infos(topics=True):
            most, asks = SUBSCRIBERS_LISTED - listed, max(SUBSCRIBERS_ASKED - listed, 0)
            subscribers = read_subscribers(self._number, number, most, asks)
            listed += len(subscribers)
            name, depth = self._facts[number][:2]
            found.append(
                TopicStats(name, depth, info.enqueued, info.count, info.waiting, subscribers)
            )
        return self._whole(found)

    def free_queue_slots(self) -> int:
        """Returns how many more queues, topics and lanes the pool can have."""
        self._opened()
        numbers = range(1, self.geometry.queues + 1)
        info, pool = self._info, self._number
        return self._whole(sum(bool(lib.shmpool_queue_info(pool, n, info)) for n in numbers))

    def _infos(self, topics: bool) -> Iterator[tuple[int, Native]]:
        """Yields the number and the figures of each topic, or of each queue."""
        self._opened()
        for number in range(1, self.geometry.queues + 1):
            info = self._info
            if not lib.shmpool_queue_info(self._number, number, info) and (
                info.topic == topics and not info.laned
            ):
                if number not in self._facts:
                    self._facts[number] = self._queue_facts(number, info)
                yield number, info

    def _numbered(self) -> dict[int, QueueStats]:
        found = {}
        for number, info in self._infos(topics=False):
            facts, depth, put, got = self._facts[number], info.count, info.enqueued, info.dequeued
            rest = info.refused, info.dropped, MEMORY[info.on_demand]
            lanes = "auto" if info.grows else info.lanes or 1, self._lanes(number, info)
            found[number] = QueueStats(
                facts[0], facts[1], depth, put, got, *facts[2:], *rest, *lanes
            )
        return self._whole(found)

    def _lanes(self, number: int, info: Native) -> list[LaneStats]:
        """Returns the lanes of the queue in info, which it overwrites."""
        lanes = []
        for lane in lanes_in_use(self._number, number) if info.lanes else ():
            if not lib.shmpool_queue_info(self._number, lane, info):
                lanes.append(
                    LaneStats(info.count, info.capacity, info.enqueued, info.dequeued, info.lost)
                )
        return lanes

    def peek(self, queue: str, n: int, size: int) -> list[Message]:
        """Copies n buffers, as AlfQueue.peek does. Raises QueueNotFound, InvalidArgument."""
        n, size = integer(n, "n"), integer(size, "size")
        if n < 1 or size < 0 or n * size > PEEK_MAX:
            raise errors.InvalidArgument(
                f"n is {n} and size is {size}; n is at least 1, size at least 0, "
                f"and their product {PEEK_MAX} at most"
            )
        names = {number: stats.name for number, stats in self._numbered().items()}
        for number, name in names.items():
            if name == queue:
                n, size = min(n, QUEUE_MAX), min(size, self.geometry.room)
                return self._whole(read_messages(self._number, number, names, n, size))
        raise errors.QueueNotFound(
            f"queue {queue!r} of pool {self.name!r}: there is no such queue; shmpool describe "
            f"{self.name} lists them"
        )

    def _queue_facts(
        self, number: int, info: Native
    ) -> tuple[str, int, str, str, str, str | None, int]:
        """Returns what never changes in a queue, and in a topic: name, capacity, producers, ..."""
        name = self._shown_name(number, info)
        letter, where = None, ffi.new("struct shmpool_queue_info *")
        to = min(info.dead_letter, INT32_MAX)  # a corrupted number may not fit an int
        if to and not lib.shmpool_queue_info(self._number, to, where):
            letter = self._shown_name(to, where)
        return (
            name,
            info.capacity,
            *policy_of(info),
            letter,
            info.max_redeliveries,
        )

    def _shown_name(self, number: int, info: Native) -> str:
        """Returns the name of a queue in printable ASCII.

        Appends the queue's number if the name is invalid, or if another queue has it too: then the
        name was corrupted.
        """
        if number in self._facts:
            return self._facts[number][0]
        raw: bytes = ffi.string(info.name)
        name = printable(raw)
        taken = any(name == facts[0] for facts in self._facts.values())
        return f"{name}#{number}" if taken or not is_name(name) else name

    def members(self) -> list[Member]:
        """Returns the attached threads of all processes."""
        self._opened()
        return self._whole(read_members(self._number, self.geometry.members))

    def dead(self) -> int:
        """Returns how many members are dead and not recovered, plus one if abandoned buffers wait
        for a recoverer. Queries the kernel once per member, and lets other Python threads run.
        """
        self._opened()
        dead = check(lib.shmpool_dead_wait(self._number), f"pool {self.name!r}")
        return self._whole(dead)

    def dead_members(self) -> list[Member]:
        """Returns the members that are dead and not recovered."""
        return [m for m in self.members() if lib.shmpool_fate(self._number, m.number) == FATE_DEAD]

    def operating(self) -> list[tuple[int, int]]:
        """Returns the pid and tid of each member that is in the middle of an operation."""
        self._opened()
        read = lib.shmpool_members(self._number, self._members, len(self._members))
        n = self._whole(check(read, "members"))
        infos = _OPERATING.iter_unpack(ffi.buffer(self._members, n * _OPERATING.size))
        return [(pid, tid) for pid, tid, operation in infos if operation]

    def close(self) -> None:
        """Unmaps and closes the file. May be repeated."""
        if self._segment is not None:
            segment, self._segment = self._segment, None
            segment.close()

    def __enter__(self) -> "View":
        self._opened()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
