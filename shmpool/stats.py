# SPDX-License-Identifier: Apache-2.0
"""What a pool says of itself: plain frozen records, and how they are read from C."""

import time
from dataclasses import dataclass, field

from ._ffi import Native, check, ffi, lib

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


@dataclass(frozen=True)
class Stats:
    """One look at a pool, in buffers; not one instant if others are at work."""

    capacity: int
    created: int  # exist so far
    free: int  # in the shared queue
    cached: int  # free, in members' local caches
    held: int  # in members' hands
    queued: int  # in named queues
    members: int
    deaths: int  # members recovered so far
    counters: dict[str, int]  # of all members, those that are gone included
    refused: int = 0  # buffers that were to go into a queue, and did not: Full, PoolExhausted
    dropped: int = 0  # buffers freed because the consumer that had got them died


@dataclass(frozen=True)
class Member:
    """One thread that is attached."""

    number: int
    pid: int
    tid: int
    attached_ns: int  # CLOCK_MONOTONIC
    cached: int
    held: int  # in hand, the local cache not counted
    operation: str | None  # what it is in the middle of: "enqueue", "dequeue"
    dead: bool  # that is known, and not all it left is put right yet
    counters: dict[str, int]


@dataclass(frozen=True)
class Audit:
    """Every buffer counted by its owner word and by walking the queues and caches.

    Counts each exactly once, while everything runs; one that is between two places is held by the
    member whose operation it is part of. ok means that both ways agree on every buffer.
    """

    ok: bool
    total: int
    free: int
    cached: int
    held: dict[int, int] = field(default_factory=dict)  # by member number
    queued: dict[str, int] = field(default_factory=dict)  # by queue name
    unaccounted: int = 0


@dataclass(frozen=True)
class Holder:
    """A member that has buffers in hand."""

    member: int
    pid: int
    tid: int
    state: str  # "alive", "stopped" (known in its own PID namespace), "dead", "unknown"
    buffers: int
    oldest_s: float | None  # how long it has had the first of them; None if it was never said


@dataclass(frozen=True)
class Recovery:
    """What Pool.recover put right."""

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


def _audit(pool: int, members: int, queued: Native) -> tuple[Native, Native]:
    raw = ffi.new("struct shmpool_audit *")
    held = ffi.new("struct shmpool_held[]", members)
    check(lib.shmpool_audit_wait(pool, raw, held, members, queued, len(queued)), "audit")
    return raw, held


def read_audit(pool: int, members: int, queues: dict[int, str]) -> Audit:
    raw, holding = _audit(
        pool, members, queued := ffi.new("uint64_t[]", max(queues, default=0) + 1)
    )
    held = {i: int(h.buffers) for i, h in enumerate(holding) if h.buffers}
    counted = raw.free + raw.cached + sum(held.values()) + sum(queued)
    return Audit(
        ok=raw.unaccounted == 0 and raw.doubled == 0 and counted == raw.total,
        total=raw.total,
        free=raw.free,
        cached=raw.cached,
        held=held,
        queued={name: queued[i] for i, name in queues.items()},
        unaccounted=raw.unaccounted,
    )


def read_holders(pool: int, members: int) -> list[Holder]:
    _, held = _audit(pool, members, ffi.new("uint64_t[]", 1))
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    holders = []
    for m in read_members(pool, members):
        holding = held[m.number]
        fate = lib.shmpool_fate(pool, m.number)
        if holding.buffers and fate >= 0:
            age = max(now - holding.oldest_ns, 0) / 1e9 if holding.oldest_ns else None
            holders.append(Holder(m.number, m.pid, m.tid, FATES[fate], holding.buffers, age))
    return holders


def recover(pool: int) -> Recovery:
    raw = ffi.new("struct shmpool_recovery *")
    check(lib.shmpool_recover_wait(pool, raw), "recover")
    return Recovery(
        raw.members, raw.buffers, raw.requeued, raw.dead_lettered, raw.postponed, raw.unknown
    )
