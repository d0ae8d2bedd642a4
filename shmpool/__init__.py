# SPDX-License-Identifier: Apache-2.0
"""shmpool: a pool of packet buffers in shared memory, passed lock-free between Python processes."""

from typing import TYPE_CHECKING

from .buffer import Buffer
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
)
from .messages import Message
from .options import Geometry, PoolOptions, QueueOptions
from .pool import Pool
from .pool_files import pool_names
from .pruning import prune
from .queue import AlfQueue
from .stats import Audit, Holder, Member, Recovery, Stats

if TYPE_CHECKING:
    from .rpc.client import AsyncClient, Client

__version__ = "0.1.0"

__all__ = [
    "AccessDenied",
    "AlfQueue",
    "AsyncClient",
    "Audit",
    "Buffer",
    "BufferInUse",
    "BufferReleased",
    "Burst",
    "Client",
    "DaemonUnavailable",
    "Empty",
    "ForeignBuffer",
    "Full",
    "Geometry",
    "Holder",
    "InvalidArgument",
    "LimitReached",
    "Member",
    "Message",
    "OutOfSharedMemory",
    "PayloadTooLarge",
    "Pool",
    "PoolClosed",
    "PoolExhausted",
    "PoolExists",
    "PoolNotFound",
    "PoolOptions",
    "PoolReplaced",
    "QueueBusy",
    "QueueExists",
    "QueueNotFound",
    "QueueOptions",
    "Recovery",
    "RequestRefused",
    "SegmentInvalid",
    "ShmpoolError",
    "Stats",
    "pool_names",
    "prune",
]


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """The clients, with the first use: who only moves packets does not import them."""
        if name in ("AsyncClient", "Client"):
            from .rpc import client

            return getattr(client, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
