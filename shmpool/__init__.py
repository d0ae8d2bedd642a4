# SPDX-License-Identifier: Apache-2.0
"""shmpool: a pool of packet buffers in shared memory, passed lock-free between Python processes."""

from typing import TYPE_CHECKING

from . import _ffi as _ffi  # makes _hot importable
from ._hot import Buffer, Sample
from .burst import Burst
from .errors import (
    AccessDenied,
    BufferInUse,
    BufferReleased,
    DaemonUnavailable,
    Empty,
    ForeignBuffer,
    Full,
    InvalidArgument,
    LimitReached,
    NoArray,
    OutOfSharedMemory,
    PayloadTooLarge,
    PoolClosed,
    PoolExhausted,
    PoolExists,
    PoolNotFound,
    PoolReplaced,
    QueueBusy,
    QueueExists,
    QueueNotFound,
    RequestRefused,
    SegmentInvalid,
    ShmpoolError,
    ShutDown,
    WorkerDied,
)
from .geometry import Geometry, SizeClass
from .messages import Message
from .options import OnDeath, PoolOptions, QueueOptions, Side, TopicOptions
from .pinning import Pinned, PinState
from .pool import Pool
from .pool_files import pool_names
from .pruning import prune
from .queue import AlfQueue
from .stats import Audit, Holder, Member, Recovery, SizeStats, Stats
from .topic import Samples, Subscriber, Subscription, Topic
from .wakers import wait

if TYPE_CHECKING:
    from .mp import (
        Context,
        JoinableQueue,
        ProcessPoolExecutor,
        Queue,
        SimpleQueue,
        get_context,
    )
    from .rpc.client import AsyncClient, Client
    from .rpc.records import (
        Alarm,
        Description,
        LinkStats,
        Pong,
        PoolStats,
        PoolSummary,
        Pruned,
        Recoveries,
        Version,
    )
    from .view import File, LaneStats, QueueStats, TopicStats

__version__ = "0.1.0"

__all__ = [
    "AccessDenied",
    "Alarm",
    "AlfQueue",
    "AsyncClient",
    "Audit",
    "Buffer",
    "BufferInUse",
    "BufferReleased",
    "Burst",
    "Client",
    "Context",
    "DaemonUnavailable",
    "Description",
    "Empty",
    "File",
    "ForeignBuffer",
    "Full",
    "Geometry",
    "Holder",
    "InvalidArgument",
    "JoinableQueue",
    "LaneStats",
    "LimitReached",
    "LinkStats",
    "Member",
    "Message",
    "NoArray",
    "OnDeath",
    "OutOfSharedMemory",
    "PayloadTooLarge",
    "PinState",
    "Pinned",
    "Pong",
    "Pool",
    "PoolClosed",
    "PoolExhausted",
    "PoolExists",
    "PoolNotFound",
    "PoolOptions",
    "PoolReplaced",
    "PoolStats",
    "PoolSummary",
    "ProcessPoolExecutor",
    "Pruned",
    "Queue",
    "QueueBusy",
    "QueueExists",
    "QueueNotFound",
    "QueueOptions",
    "QueueStats",
    "Recoveries",
    "Recovery",
    "RequestRefused",
    "Sample",
    "Samples",
    "SegmentInvalid",
    "ShmpoolError",
    "ShutDown",
    "Side",
    "SimpleQueue",
    "SizeClass",
    "SizeStats",
    "Stats",
    "Subscriber",
    "Subscription",
    "Topic",
    "TopicOptions",
    "TopicStats",
    "Version",
    "WorkerDied",
    "get_context",
    "pool_names",
    "prune",
    "wait",
]

_MP = ("Context", "JoinableQueue", "ProcessPoolExecutor", "Queue", "SimpleQueue", "get_context")


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Imports the clients, their records, and what is multiprocessing's with the first use: a
        program that only moves packets does without."""
        if name in _MP:
            from . import mp

            return getattr(mp, name)
        if name in __all__:
            from . import view
            from .rpc import client, records

            homes = (client, records, view)
            return getattr(next(home for home in homes if hasattr(home, name)), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
