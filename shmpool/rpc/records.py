# SPDX-License-Identifier: Apache-2.0
"""What the daemon answers, and what it is told about a new pool: frozen records.

Those that the library has anyway (Stats, Member, Audit, ...) are in stats.py and view.py.
"""

from dataclasses import dataclass, field
from typing import Literal

from ..stats import Stats
from ..view import File, Geometry, QueueStats


@dataclass(frozen=True)
class Pong:
    """The daemon runs."""

    pid: int
    uptime_s: float


@dataclass(frozen=True)
class Version:
    """The protocol that both sides speak from now on."""

    protocol: int
    package: str


@dataclass(frozen=True)
class PoolSummary:
    """One pool in a listing. Without figures where trouble says why there are none."""

    name: str
    held: bool  # the daemon has it open and recovers it
    capacity: int = 0
    buffer_size: int = 0
    created: int = 0
    free: int = 0
    cached: int = 0
    in_hand: int = 0
    queued: int = 0
    queues: int = 0
    members: int = 0
    reserved: int = 0  # bytes of memory
    alarms: int = 0
    trouble: str | None = None


@dataclass(frozen=True)
class Description:
    """What does not change in a pool."""

    pool: str
    geometry: Geometry
    file: File
    queues: list[QueueStats]


@dataclass(frozen=True)
class Pruned:
    """What a prune did."""

    removed: list[str]  # names
    left: dict[str, str]  # why each other pool stays, by name


@dataclass(frozen=True)
class Recoveries:
    """What the daemon has recovered since it started. Times run from when the kernel reports a
    process's end to the end of the recovery."""

    count: int = 0
    members: int = 0
    buffers: int = 0
    requeued: int = 0
    dead_lettered: int = 0
    last_at: float | None = None  # seconds since 1970
    last_s: float | None = None
    longest_s: float | None = None


@dataclass(frozen=True)
class Alarm:
    """A condition that a person should look into, while it lasts."""

    kind: Literal["low-water", "queue-full", "held-long", "stopped"]
    subject: str  # the pool, the queue, or the member it is about
    since: float  # seconds since 1970
    message: str


@dataclass(frozen=True)
class PoolStats:
    """A pool's statistics. The last two fields come from the daemon and are empty without one."""

    pool: str
    at: float  # seconds since 1970
    buffers: Stats
    queues: list[QueueStats]
    recoveries: Recoveries = field(default_factory=Recoveries)
    alarms: list[Alarm] = field(default_factory=list)


@dataclass(frozen=True)
class PoolOptions:
    """The options of Pool.create. An option that is nil gets the default of Pool.create."""

    buffer_size: int  # bytes of data a buffer holds
    capacity: int  # the most buffers it can grow to, a power of two
    prealloc: int | None = None  # buffers that get their memory at once, the others when needed
    cache_size: int | None = None  # free buffers that each thread caches
    bulk: int | None = None  # buffers moved at once between a cache and the shared queue
    refill_multiplier: int | None = None  # bulks the pool grows by
    headroom: int | None = None  # bytes left free before a new buffer's data
    max_members: int | None = None  # the most threads that can attach
    max_queues: int | None = None  # the most queues it can have
    mode: str = "0600"  # permission bits of the pool's file, for example "0660"
    group: str | None = None  # group that owns the file

    def geometry(self) -> dict[str, int | None]:
        """Those that say what the segment is like, by the names that Geometry has for them."""
        return {
            "buffer_size": self.buffer_size,
            "capacity": self.capacity,
            "prealloc": self.prealloc,
            "cache_size": self.cache_size,
            "bulk": self.bulk,
            "refill_multiplier": self.refill_multiplier,
            "headroom": self.headroom,
            "members": self.max_members,
            "queues": self.max_queues,
        }


@dataclass(frozen=True)
class QueueOptions:
    """The options of Pool.create_queue."""

    capacity: int  # a power of two from 2 to 65536
    producers: Literal["single", "multi"] = "multi"
    consumers: Literal["single", "multi"] = "multi"
    on_death: Literal["free", "requeue", "dead-letter"] = (
        "free"  # what happens to buffers that a consumer had taken when it died
    )
    dead_letter: str | None = None  # the queue that dead letters are put into
    max_redeliveries: int = 0  # after so many a buffer goes to dead_letter; 0: never
