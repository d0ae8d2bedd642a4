# SPDX-License-Identifier: Apache-2.0
"""A pool of packet buffers in shared memory, passed lock-free between Python processes.

    pool = shmpool.Pool.create("rx", buffer_size=2048, capacity=4096)
    work = pool.create_queue("work", capacity=1024)
    with pool.alloc() as buf:       # in one process
        buf.write(b"hello")
        work.put(buf)
    work = shmpool.Pool.attach("rx").queue("work")
    with work.get() as buf:         # in another one
        print(bytes(buf))

This is the API in short. help(shmpool.Pool), help(shmpool.Pool.create) have the whole text.

Pool         create, attach, unlink, close; alloc, alloc_many, array, burst; create_queue, queue,
             queues, create_topic, topic, topics; stats, members, holders, audit, recover, trim,
             pin, unpin; in event loops aalloc, aalloc_many, aarray
             attributes: name, readonly, replaced, pinned, geometry, buffer_size, capacity, headroom
Buffer       write, writelines, readinto, free, free_after, nack; bytes(), len(), memoryview()
             attributes: data, view, segments, length, headroom, mark, flow_hash, timestamp, index,
             pool, released, redelivered, queue_number, origin_number, generation
Burst        many buffers: free, nack, spread, select, sort, partition, column, set_column, headers,
             flow_hash, checksums, set_checksums, decrement_ttl; burst[i], burst[mask]
             attributes, arrays but for pool: lengths, marks, flow_hashes, timestamps, indices,
             redelivered, pool
AlfQueue     put, put_nowait, put_many, put_array, send, send_many; get, get_nowait, try_get,
             get_many, get_array, recv, try_recv, recv_many; peek, requeue, redrive, drain, empty,
             full, fileno, release, producer, wait_producers, shutdown, close; in event loops aput,
             aput_many, asend, asend_many, aget, aget_many, aget_array, arecv, arecv_many, bursts
             attributes: name, number, pool, capacity, producers, consumers, producers_alive,
             on_death, dead_letter, max_redeliveries, memory, lanes, ended
Topic        publish, send, subscribe, subscribers, shutdown, close; apublish, asend
             attributes: name, number, pool, depth, published, kept, ended
Subscriber   get, get_many, try_get, fileno, close; aget, aget_many, bursts
             attributes: topic, policy, gaps, lag, closed
Sample       a message of a topic: free; bytes(), len(), memoryview()
             attributes: sequence, view, segments, mark, flow_hash, timestamp, index, released
Samples      a list of them: free; attribute: sequence, an array

pool_names   the pools of this machine            prune     removes abandoned pools
wait         waits for one of several queues and subscribers

Records, which are frozen. The options of create, create_queue and create_topic:
PoolOptions  buffer_size, capacity, prealloc, bulk, refill_multiplier, cache_size, headroom,
             members, queues, free_rings, mode, group, huge_pages, numa_node
QueueOptions capacity, producers, consumers, on_death, dead_letter, max_redeliveries, memory, lanes
TopicOptions depth
Geometry     what a pool was created with: buffer_size, capacity, prealloc, bulk, refill_multiplier,
             cache_size, headroom, members, queues, free_rings, room, sizes, which are SizeClass:
             buffer_size, capacity, prealloc, cache_size
Stats        capacity, created, free, cached, held, queued, chained, members, recovered, refused,
             dropped, estimated, counters, sizes, which are SizeStats: buffer_size, capacity,
             created, free, cached
Member       number, pid, tid, attached_ns, cached, held, operation, dead, counters
Holder       member, pid, tid, state, buffers, oldest_s, topic
Audit        ok, total, free, cached, held, queued, chained, unaccounted, complete
Recovery     members, buffers, requeued, dead_lettered, postponed, unknown, subscribers
Message      of peek: position, index, length, payload, redelivered, origin, timestamp, mark,
             flow_hash
Subscription number, pid, name, policy, lag, gaps, held, closing, dead, state
Pinned       state, bytes, total, reason

Drop-in for multiprocessing and concurrent.futures: Queue, JoinableQueue (join, task_done,
unfinished), SimpleQueue, get_context, Context, ProcessPoolExecutor

The daemon's clients, Client and AsyncClient, have call, close, pool, watch, and its requests as
methods: help(shmpool.Client). The answers are Pong: pid, uptime_s. Version: protocol, package.
PoolSummary: name, watched, capacity, buffer_size, created, free, cached, held, queued, queues,
topics, members, reserved, alarms, trouble. Description: pool, geometry, file, queues, topics.
File: path, size, reserved, mode, uid, gid. PoolStats: pool, at, buffers, queues, topics,
recoveries, alarms, links. QueueStats: name, capacity, depth, enqueued, dequeued, producers,
consumers, on_death, dead_letter, max_redeliveries, refused, dropped, memory, lanes, lane_stats,
which are LaneStats: depth, capacity, enqueued, dequeued, lost. TopicStats: name, depth, published,
kept, waiting, subscribers. Recoveries: count, members, buffers, requeued, dead_lettered, last_at,
last_s, longest_s, subscribers. Alarm: kind, subject, since, message. Pruned: removed, left.
LinkStats: name, pid, pool, source, target, sends, state, since, why, bursts, packets, bytes,
window, unacknowledged, oldest_s, lag, reconnects, doubled, redelivered, returned, down_s, lag_s.

Exceptions, all ShmpoolError, with the attribute errno:
InvalidArgument, LimitReached, OutOfSharedMemory, AccessDenied, SegmentInvalid; PoolExists,
PoolNotFound, PoolClosed, PoolReplaced, PoolExhausted (sent); QueueExists, QueueNotFound, QueueBusy,
Full (sent), Empty, ShutDown; BufferReleased, BufferInUse, ForeignBuffer, PayloadTooLarge, NoArray
(buffer); WorkerDied (pid, exitcode), DaemonUnavailable, RequestRefused

Types for annotations: OnDeath, Side, PinState
"""

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
from .options import PoolOptions, QueueOptions, TopicOptions
from .pinning import Pinned
from .pool import Pool
from .pool_files import pool_names
from .pruning import prune
from .queue import AlfQueue
from .stats import Audit, Holder, Member, Recovery, SizeStats, Stats
from .topic import Samples, Subscriber, Subscription, Topic
from .wakers import wait

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .choices import OnDeath, PinState, Side
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
_CHOICES = ("OnDeath", "PinState", "Side")


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Imports with the first use what a program that only moves packets does without: the
        clients, their records, what is multiprocessing's, and types for annotations."""
        if name in _CHOICES:
            from . import choices

            return getattr(choices, name)
        if name in _MP:
            from . import mp

            return getattr(mp, name)
        if name in __all__:
            from . import view
            from .rpc import client, records

            homes = (client, records, view)
            return getattr(next(home for home in homes if hasattr(home, name)), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
