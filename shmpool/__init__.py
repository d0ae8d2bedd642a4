# SPDX-License-Identifier: Apache-2.0
"""shmpool: a pool of packet buffers in shared memory, passed lock-free between Python processes."""

from .buffer import Buffer
from .burst import Burst
from .errors import (
    AccessDenied,
    BufferInUse,
    BufferReleased,
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
    QueueBusy,
    QueueExists,
    QueueNotFound,
    SegmentInvalid,
    ShmpoolError,
)
from .pool import Pool
from .queue import AlfQueue
from .segment import pool_names, prune
from .stats import Audit, Holder, Member, Recovery, Stats

__version__ = "0.1.0"

__all__ = [
    "AccessDenied",
    "AlfQueue",
    "Audit",
    "Buffer",
    "BufferInUse",
    "BufferReleased",
    "Burst",
    "Empty",
    "ForeignBuffer",
    "Full",
    "Holder",
    "InvalidArgument",
    "LimitReached",
    "Member",
    "OutOfSharedMemory",
    "PayloadTooLarge",
    "Pool",
    "PoolClosed",
    "PoolExhausted",
    "PoolExists",
    "PoolNotFound",
    "QueueBusy",
    "QueueExists",
    "QueueNotFound",
    "Recovery",
    "SegmentInvalid",
    "ShmpoolError",
    "Stats",
    "pool_names",
    "prune",
]
