# SPDX-License-Identifier: Apache-2.0
"""The figures of a pool: frozen records, and the functions that read them from C.

Not in here: waiting, and anything that changes a pool except recovery.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator

from . import errors
from ._ffi import Native, ffi, lib
from .codes import check
from .geometry import Geometry
from .options import seconds_of
from .record import field, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar

    T = TypeVar("T")

# In the order of enum counter in native/layout.h.
COUNTERS = (
    "alloc", "free", "enqueue", "dequeue", "adopt", "refill", "flush", "full", "empty", "grow",
    "steal", "sleep", "exhausted", "recover",
)  # fmt: skip
FATES = ("alive", "stopped", "dead", "unknown")  # in the order of enum process_fate
FATE_DEAD = FATES.index("dead")

# Seconds of processor time for a scan of all buffers.
STEP_S = 0.02  # one step
LIMIT_S = 0.5  # all steps together, by default


@record(frozen=True)
class SizeStats:
    """The figures of one size class, in buffers."""

    buffer_size: int  # bytes
    capacity: int
    created: int
    free: int
    cached: int


@record(frozen=True)
class Stats:
    """A pool's figures, in buffers. They are not of one instant while other threads work."""

    capacity: int
    created: int  # that exist: the pool creates them on demand
    free: int  # in the free ring
    cached: int  # free, in members' local caches
    held: int  # owned by members
    queued: int  # in named queues; of a chain, its head
    members: int
    recovered: int  # dead members recovered so far
    counters: dict[str, int]  # sums over all members, past ones included
    refused: int = 0  # not put into a queue: Full, PoolExhausted
    dropped: int = 0  # freed because the consumer that had taken them died
    sizes: list[SizeStats] = field(default_factory=list)  # in ascending order
    chained: int = 0  # segments of chains, whose heads are held or queued
    estimated: bool = False  # free and held are extrapolated from a sample of the free ring


@record(frozen=True)
class Member:
    """One attached thread."""

    number: int
    pid: int
    tid: int
    attached_ns: int  # time when it attached, by CLOCK_MONOTONIC
    cached: int
    held: int  # buffers that it owns, without those in its local cache
    operation: str | None  # in progress: "enqueue" or "dequeue"
    dead: bool  # found dead, and not recovered completely yet
    counters: dict[str, int]


@record(frozen=True)
class Audit:
    """All buffers, counted by their owner words and by a scan of queues and caches.

    Each buffer is counted exactly once, also while other threads work. A buffer in transit counts
    as held by the member that moves it. ok means that both counts agree on every buffer. If
    complete is False, the audit reached its limit, and the figures are of the first total buffers.
    """

    ok: bool
    total: int
    free: int
    cached: int
    held: dict[int, int] = field(default_factory=dict)  # by member number
    queued: dict[str, int] = field(default_factory=dict)  # by queue name
    unaccounted: int = 0
    complete: bool = True
    chained: int = 0  # segments of chains


@record(frozen=True)
class Holder:
    """A member that holds buffers, or a subscriber of a topic that holds messages."""

    member: int  # its number; of a subscriber, that in the topic
    pid: int
    tid: int  # 0 of a subscriber, whose threads share it
    state: str  # "alive", "stopped" (seen in its own PID namespace only), "dead", "unknown"
    buffers: int
    oldest_s: float | None  # seconds that it has held its oldest buffer; None if not known
    topic: str | None = None  # of a subscriber


@record(frozen=True)
class Recovery:
    """What Pool.recover did."""

    members: int  # dead members whose slots are free now
    buffers: int  # taken from dead members, requeued and dead-lettered ones included
    requeued: int
    dead_lettered: int
    postponed: int  # dead members that wait for a suspended process or for room in a queue
    # Members of unknown state: no descriptor is free, or the pool's own was closed; a dead one's
    # AF_XDP socket is not known to be gone.
    unknown: int
    subscribers: int = 0  # dead subscribers of topics whose places are free now


def read_stats(pool: int, geometry: Geometry) -> Stats:
    """Reads the figures of an open pool, by its number. Raises PoolClosed, SegmentInvalid."""
    raw = ffi.new("struct shmpool_stats *")
    check(lib.shmpool_stats(pool, raw), "stats")
    chained = raw.chained if raw.chained < 2**63 else 0  # sums of a moment may be short
    away = raw.free + raw.cached + raw.queued + chained
    return Stats(
        capacity=geometry.capacity,
        created=raw.created,
        free=raw.free,
        cached=raw.cached,
        held=max(raw.created - away, 0),
        queued=raw.queued,
        members=raw.members,
        recovered=raw.deaths,
        counters=dict(zip(COUNTERS, raw.counters, strict=True)),
        refused=raw.refused,
        dropped=raw.dropped,
        sizes=[
            SizeStats(one.buffer_size, one.capacity, of.created, of.free, of.cached)
            for one, of in zip(geometry.sizes, raw.classes, strict=False)
        ],
        chained=chained,
        estimated=bool(raw.estimated),
    )


def read_size(pool: int, geometry: Geometry, number: int) -> SizeStats:
    """Reads the figures of one size class of an open pool. Raises PoolClosed, SegmentInvalid."""
    raw, one = ffi.new("struct shmpool_class_stats *"), geometry.sizes[number]
    check(lib.shmpool_class_stats(pool, number, raw), "stats")
    return SizeStats(one.buffer_size, one.capacity, raw.created, raw.free, raw.cached)


def read_members(pool: int, most: int) -> list[Member]:
    """Reads up to most attached threads of an open pool. Raises PoolClosed, SegmentInvalid."""
    raw = ffi.new("struct shmpool_member_info[]", most)
    n = check(lib.shmpool_members(pool, raw, most), "members")
    return [
        Member(
            number=m.number,
            pid=m.pid,
            tid=m.tid,
            attached_ns=m.attached_ns,
            cached=m.cached,
            held=m.held if m.held < 2**63 else 0,
            operation=(None, "enqueue", "dequeue", None)[m.operation],
            dead=bool(m.dead),
            counters=dict(zip(COUNTERS, m.counters, strict=True)),
        )
        for m in raw[0:n]
    ]


class Counting:
    """An audit in steps. Signal handlers and other threads run between the steps.

    One thread may use an object.
    """

    def __init__(self, pool: int, capacity: int, members: int, queues: dict[int, str]) -> None:
        """queues maps the numbers of the queues that get a figure of their own to their names."""
        self._pool = pool
        self._queues = queues
        self._raw: Native = ffi.new("struct shmpool_audit *")
        self._held: Native = ffi.new("struct shmpool_held[]", members)
        self._queued: Native = ffi.new("uint64_t[]", max(queues, default=0) + 1)
        self._met: Native = ffi.new("uint64_t[]", capacity // 64 + 1)
        self.complete = False

    def step(self, seconds: float = STEP_S) -> bool:
        """Counts for about that processor time. Returns True once all buffers are counted.

        Raises:
            SegmentInvalid, PoolClosed.
        """
        if not self.complete:
            arrays = (self._held, self._queued, self._met)
            sized = [part for array in arrays for part in (array, len(array))]
            code = lib.shmpool_audit_wait(self._pool, self._raw, *sized, int(seconds * 1e9))
            self.complete = check(code, "audit") == 0
        return self.complete

    def steps(self, limit: float | None) -> Iterator[None]:
        """Yields after each step, until all is counted or for limit seconds of processor time."""
        taken = 0
        while not self.step():
            taken += 1
            if limit is not None and taken * STEP_S >= limit:
                return
            yield

    def run(self, limit: float | None) -> Counting:
        """Takes all steps, up to the limit of steps(). Returns self.

        Raises:
            InvalidArgument, TypeError: limit is negative, or no number.
        """
        for _ in self.steps(seconds_of(limit, "limit")):
            pass
        return self

    def audit(self) -> Audit:
        """Returns the result so far."""
        raw = self._raw
        held = {i: int(h.buffers) for i, h in enumerate(self._held) if h.buffers}
        counted = raw.free + raw.cached + raw.chained + sum(held.values()) + sum(self._queued)
        agree = raw.unaccounted == 0 and raw.doubled == 0 and counted == raw.total
        return Audit(
            ok=self.complete and agree,
            total=raw.total,
            free=raw.free,
            cached=raw.cached,
            held=held,
            queued={name: self._queued[i] for i, name in self._queues.items()},
            unaccounted=raw.unaccounted,
            complete=self.complete,
            chained=raw.chained,
        )

    def holders(self) -> list[Holder]:
        """Returns the members that hold buffers. Raises LimitReached if not all were counted."""
        if not self.complete:
            raise errors.LimitReached(
                f"only {self._raw.total} buffers were counted within the limit; raise limit="
            )
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        holders = []
        for m in read_members(self._pool, len(self._held)):
            holding = self._held[m.number]
            if not holding.buffers:
                continue
            fate = lib.shmpool_fate(self._pool, m.number)
            if fate >= 0:
                age = max(now - holding.oldest_ns, 0) / 1e9 if holding.oldest_ns else None
                holders.append(Holder(m.number, m.pid, m.tid, FATES[fate], holding.buffers, age))
        return holders


def recovering(pool: int, limit: float | None) -> Generator[None, None, Recovery]:
    """Recovers dead members, and yields every few milliseconds.

    Stops after limit seconds of processor time (None: no limit); postponed is then at least 1.
    """
    raw = ffi.new("struct shmpool_recovery *")
    taken = 0
    while check(lib.shmpool_recover_wait(pool, raw), "recover"):
        taken += 1
        if limit is not None and taken * STEP_S >= limit:
            raw.postponed = max(raw.postponed, 1)
            break
        yield
    return Recovery(
        raw.members,
        raw.buffers,
        raw.requeued,
        raw.dead_lettered,
        raw.postponed,
        raw.unknown,
        raw.subscribers,
    )


def whole(steps: Generator[None, None, T]) -> T:
    """Runs a generator to its end, and returns its result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: T = end.value
            return found
