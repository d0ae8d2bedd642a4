# SPDX-License-Identifier: Apache-2.0
"""What the daemon answers: frozen records. Those that the library has without a daemon are in
options.py, stats.py and view.py.
"""

from dataclasses import dataclass, field
from typing import Literal

from ..geometry import Geometry
from ..stats import Stats
from ..view import File, QueueStats, TopicStats


@dataclass(frozen=True)
class Pong:
    """The daemon runs."""

    pid: int
    uptime_s: float


@dataclass(frozen=True)
class Version:
    """The protocol that both sides speak, and the version of the daemon's package."""

    protocol: int
    package: str


@dataclass(frozen=True)
class PoolSummary:
    """One pool in a listing. Where trouble is set, the figures are 0."""

    name: str
    watched: bool  # the daemon watches it and recovers its dead members
    capacity: int = 0
    buffer_size: int = 0
    created: int = 0
    free: int = 0
    cached: int = 0
    held: int = 0
    queued: int = 0
    queues: int = 0
    topics: int = 0
    members: int = 0
    reserved: int = 0  # bytes of memory
    alarms: int = 0
    trouble: str | None = None


@dataclass(frozen=True)
class Description:
    """What is the same for a pool's lifetime."""

    pool: str
    geometry: Geometry
    file: File
    queues: list[QueueStats]
    topics: list[TopicStats] = field(default_factory=list)


@dataclass(frozen=True)
class Pruned:
    """What a prune did."""

    removed: list[str]  # names
    left: dict[str, str]  # why each other pool stays, by name


@dataclass(frozen=True)
class Recoveries:
    """What the daemon has recovered since it started. A time is from the kernel's report that a
    process ended to the end of the recovery."""

    count: int = 0
    members: int = 0
    buffers: int = 0
    requeued: int = 0
    dead_lettered: int = 0
    last_at: float | None = None  # seconds since 1970
    last_s: float | None = None
    longest_s: float | None = None
    subscribers: int = 0  # of topics


AlarmKind = Literal[
    "low-water", "queue-full", "topic-blocked", "held-long", "stopped", "link-down", "link-lags"
]


@dataclass(frozen=True)
class Alarm:
    """A condition that a person should check, while it lasts."""

    kind: AlarmKind
    subject: str  # the pool, the queue, the topic, or the member it is about
    since: float  # seconds since 1970
    message: str


LinkState = Literal["starting", "up", "down", "ended", "silent"]


@dataclass(frozen=True)
class LinkStats:
    """A link of a bridge, as the bridge has reported it last. Counters only grow."""

    name: str
    pid: int  # the bridge's
    pool: str  # the one here
    source: str  # as in the configuration
    target: str
    sends: bool  # from the pool; false: into it
    state: LinkState  # "silent": its bridge reports no more
    since: float  # seconds since 1970: of the state
    why: str = ""  # it is not up
    bursts: int = 0  # sent and acknowledged, or put
    packets: int = 0
    bytes: int = 0
    window: int = 0  # bursts that may be unacknowledged
    unacknowledged: int = 0  # bursts
    oldest_s: float | None = None  # since the oldest was sent, or since packets wait for room
    lag: int = 0  # packets that wait to be sent or put
    reconnects: int = 0
    doubled: int = 0  # bursts that came twice, and were put once
    redelivered: int = 0  # packets that were perhaps put twice, and are marked
    returned: int = 0  # packets that the other side had no room for, ever
    rate: int = 0  # packets a second, between the last two reports
    down_s: float = 5.0  # when there is an alarm
    lag_s: float = 10.0


@dataclass(frozen=True)
class PoolStats:
    """A pool's statistics. Recoveries, alarms and links come from the daemon and are empty without
    one."""

    pool: str
    at: float  # seconds since 1970
    buffers: Stats
    queues: list[QueueStats]
    topics: list[TopicStats] = field(default_factory=list)
    recoveries: Recoveries = field(default_factory=Recoveries)
    alarms: list[Alarm] = field(default_factory=list)
    links: list[LinkStats] = field(default_factory=list)
