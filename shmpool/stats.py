# SPDX-License-Identifier: Apache-2.0
"""What a pool says of itself: plain frozen records, and how they are read from C."""

import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from . import errors
from ._ffi import Native, ffi, lib
from .codes import check

T = TypeVar("T")

# In the order of enum counter in native/layout.h.
COUNTERS = (
    "alloc",
    "free",
    "enqueue",
    "dequeue",
    "adopt",
    "refill",
    "flush",
    "full",
    "empty",
    "grow",
    "steal",
    "sleep",
    "exhausted",
    "recover",
)
FATES = ("alive", "stopped", "dead", "unknown")  # in the order of enum process_fate
FATE_DEAD = FATES.index("dead")

STEP_S = 0.02  # of processor time: a step of a walk over all buffers
LIMIT_S = 0.5  # of processor time: such a walk, unless another limit is given


@dataclass(frozen=True)
class Stats:
    """A pool's statistics, in buffers; not of one instant while others work."""

    capacity: int
    created: int  # exist so far
    free: int  # in the shared queue
    cached: int  # free, in members' local caches
    held: int  # owned by members
    queued: int  # in named queues
    members: int
    deaths: int  # members recovered so far
    counters: dict[str, int]  # of all members, those that are gone included
    refused: int = 0  # buffers that were to go into a queue, and did not: Full, PoolExhausted
    dropped: int = 0  # buffers freed because the consumer that had got them died
    estimated: bool = (
        False  # free, and so held, from samples: too much lies behind a stopped member
    )


@dataclass(frozen=True)
class Member:
    """One thread that is attached."""

    number: int
    pid: int
    tid: int
    attached_ns: int  # CLOCK_MONOTONIC
    cached: int
    held: int  # owned, its local cache not counted
    operation: str | None  # unfinished: "enqueue", "dequeue"
    dead: bool  # that is known, and not all it left is put right yet
    counters: dict[str, int]


@dataclass(frozen=True)
class Audit:
    """Every buffer counted by its owner word and by walking the queues and caches.

    Counts each exactly once, while everything runs; one that is between two places is held by the
    member whose operation it is part of. ok means that both ways agree on every buffer. Without
    complete, the audit was ended by its limit: then the figures are of the total that was counted.
    """

    ok: bool
    total: int
    free: int
    cached: int
    held: dict[int, int] = field(default_factory=dict)  # by member number
    queued: dict[str, int] = field(default_factory=dict)  # by queue name
    unaccounted: int = 0
    complete: bool = True


@dataclass(frozen=True)
class Holder:
    """A member that holds buffers."""

    member: int
    pid: int
    tid: int
    state: str  # "alive", "stopped" (known in its own PID namespace), "dead", "unknown"
    buffers: int
    oldest_s: float | None  # how long it has held the first of them; None if not known


@dataclass(frozen=True)
class Recovery:
    """What Pool.recover recovered."""

    members: int  # dead ones whose slots are free now
    buffers: int  # taken from the dead, those requeued and dead-lettered included
    requeued: int
    dead_lettered: int
    postponed: (
        int  # dead ones of whom something waits, for a stopped process or for room in a queue
    )
    unknown: int  # members of whom the kernel could not be asked now: no descriptor was left


def read_stats(pool: int, capacity: int) -> Stats:
    raw = ffi.new("struct shmpool_stats *")
    check(lib.shmpool_stats(pool, raw), "stats")
    away = raw.free + raw.cached + raw.queued
    return Stats(
        capacity=capacity,
        created=raw.created,
        free=raw.free,
        cached=raw.cached,
        held=max(raw.created - away, 0),
        queued=raw.queued,
        members=raw.members,
        deaths=raw.deaths,
        counters=dict(zip(COUNTERS, raw.counters, strict=True)),
        refused=raw.refused,
        dropped=raw.dropped,
        estimated=bool(raw.estimated),
    )


def read_members(pool: int, most: int) -> list[Member]:
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
    """An audit in steps, between which signals and other threads get their turn. For one thread."""

    def __init__(self, pool: int, capacity: int, members: int, queues: dict[int, str]) -> None:
        """queues are named by their numbers; the others are not told apart."""
        self._pool = pool
        self._queues = queues
        self._raw: Native = ffi.new("struct shmpool_audit *")
        self._held: Native = ffi.new("struct shmpool_held[]", members)
        self._queued: Native = ffi.new("uint64_t[]", max(queues, default=0) + 1)
        self._met: Native = ffi.new("uint64_t[]", capacity // 64 + 1)
        self.complete = False

    def step(self, seconds: float = STEP_S) -> bool:
        """Goes on for so many seconds of processor time. True when the audit is complete.

        SegmentInvalid, PoolClosed.
        """
        if not self.complete:
            arrays = (self._held, self._queued, self._met)
            sized = [part for array in arrays for part in (array, len(array))]
            code = lib.shmpool_audit_wait(self._pool, self._raw, *sized, int(seconds * 1e9))
            self.complete = check(code, "audit") == 0
        return self.complete

    def steps(self, limit: float | None) -> Iterator[None]:
        """Steps until it is complete, or for limit seconds of processor time."""
        taken = 0
        while not self.step():
            taken += 1
            if limit is not None and taken * STEP_S >= limit:
                return
            yield

    def run(self, limit: float | None) -> "Counting":
        """Makes all the steps."""
        for _ in self.steps(limit):
            pass
        return self

    def audit(self) -> Audit:
        """What it has found so far."""
        raw = self._raw
        held = {i: int(h.buffers) for i, h in enumerate(self._held) if h.buffers}
        counted = raw.free + raw.cached + sum(held.values()) + sum(self._queued)
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
        )

    def holders(self) -> list[Holder]:
        """Who has what. LimitReached if the audit is not complete."""
        if not self.complete:
            raise errors.LimitReached(
                f"the holders of {self._raw.total} buffers were counted, those of the others not"
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
    """Recovers, with a yield after every few milliseconds. What is not done after limit seconds of
    processor time is postponed."""
    raw = ffi.new("struct shmpool_recovery *")
    taken = 0
    while check(lib.shmpool_recover_wait(pool, raw), "recover"):
        taken += 1
        if limit is not None and taken * STEP_S >= limit:
            raw.postponed = max(raw.postponed, 1)
            break
        yield
    return Recovery(
        raw.members, raw.buffers, raw.requeued, raw.dead_lettered, raw.postponed, raw.unknown
    )


def recover(pool: int) -> Recovery:
    return whole(recovering(pool, None))


def whole(steps: Generator[None, None, T]) -> T:
    """Makes all the steps."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: T = end.value
            return found
