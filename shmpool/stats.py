# SPDX-License-Identifier: Apache-2.0
"""What a pool says of itself: plain frozen records, and how they are read from C."""

from dataclasses import dataclass, field

from ._ffi import check, ffi, lib

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
)


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
    counters: dict[str, int]  # of all members, those that are gone included


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
    counters: dict[str, int]


@dataclass(frozen=True)
class Audit:
    """Every buffer counted by its owner word and by walking the queues and caches.

    Exact while nothing moves. ok means that both counts agree and every buffer was met once.
    """

    ok: bool
    total: int
    free: int
    cached: int
    held: dict[int, int] = field(default_factory=dict)  # by member number
    queued: dict[str, int] = field(default_factory=dict)  # by queue name
    unaccounted: int = 0


@dataclass(frozen=True)
class Recovery:
    """What recovering from dead members came to."""

    members: int  # slots that are free again
    buffers: int  # that were taken from the dead
    requeued: int
    dead_lettered: int
    postponed: int  # that a live member may have in hand: they are looked at again
    unknown: int  # members of whom the kernel says nothing here: another pid namespace


@dataclass(frozen=True)
class Holder:
    """A member that has buffers, or that is dead."""

    member: int
    pid: int
    tid: int
    state: str  # "alive", "stopped", "dead", "unknown"
    buffers: int
    oldest_s: float | None  # since when it has had the oldest of them


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
        counters=dict(zip(COUNTERS, raw.counters, strict=True)),
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
            counters=dict(zip(COUNTERS, m.counters, strict=True)),
        )
        for m in raw[0:n]
    ]


def read_audit(pool: int, members: int, queues: dict[int, str]) -> Audit:
    raw = ffi.new("struct shmpool_audit *")
    held = ffi.new("uint64_t[]", members)
    queued = ffi.new("uint64_t[]", max(queues, default=0) + 1)
    check(lib.shmpool_audit_wait(pool, raw, held, len(held), queued, len(queued)), "audit")
    counted = raw.free + raw.cached + sum(held) + sum(queued)
    return Audit(
        ok=raw.unaccounted == 0 and raw.doubled == 0 and counted == raw.total,
        total=raw.total,
        free=raw.free,
        cached=raw.cached,
        held={i: n for i, n in enumerate(held) if n},
        queued={name: queued[i] for i, name in queues.items()},
        unaccounted=raw.unaccounted,
    )
