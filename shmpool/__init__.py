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

help(shmpool.Pool) and help(shmpool.Pool.create) have the whole text of a class, of a method.

Everything that is public.

Pools, queues, topics:
Pool  Fixed-size buffers in POSIX shared memory, with named queues to pass them between processes.
    name: str; readonly: bool; geometry: Geometry; buffer_size, capacity, headroom: int; pinned:
        Pinned; replaced: bool
    aalloc(), aalloc_many(), aarray(), alloc(), alloc_many(), array(), attach(), audit(), burst(),
        close(), create(), create_queue(), create_topic(), holders(), members(), pin(), queue(),
        queues(), recover(), stats(), topic(), topics(), trim(), unlink(), unpin()
Buffer  One buffer of a pool, owned by this process.
    data: memoryview; flow_hash, generation, headroom, index, length, mark, origin_number: int;
        pool: Pool; queue_number, redelivered: int; released: bool; segments: tuple[memoryview,
        ...]; timestamp: int; view: memoryview
    free(), free_after(), nack(), readinto(), write(), writelines()
Burst  Buffers of one pool, owned by this process, in an order.
    flow_hashes, indices, lengths, marks: NDArray[uint32]; pool: Pool; redelivered: NDArray[uint32];
        timestamps: NDArray[int64]
    checksums(), column(), decrement_ttl(), flow_hash(), free(), headers(), nack(), partition(),
        select(), set_checksums(), set_column(), sort(), spread()
AlfQueue  A lock-free FIFO of buffers in the pool's segment, made by Pool.create_queue.
    pool: Pool; number: int; name: str; capacity: int; producers, consumers: Side; on_death:
        OnDeath; max_redeliveries: int; memory: Memory; lanes: int; dead_letter: AlfQueue | None;
        ended: bool; producers_alive: int
    aget(), aget_array(), aget_many(), aput(), aput_many(), arecv(), arecv_many(), asend(),
        asend_many(), bursts(), close(), drain(), empty(), fileno(), full(), get(), get_array(),
        get_many(), get_nowait(), peek(), producer(), put(), put_array(), put_many(), put_nowait(),
        recv(), recv_many(), redrive(), release(), requeue(), send(), send_many(), shutdown(),
        try_get(), try_recv(), wait_producers()
Topic  A named stream of messages, made by Pool.create_topic.
    pool: Pool; number: int; name: str; depth: int; ended: bool; kept, published: int
    apublish(), asend(), close(), publish(), send(), shutdown(), subscribe(), subscribers()
Subscriber  What one process gets of a topic, made by Topic.subscribe.
    topic: Topic; policy: Policy; closed: bool; gaps, lag: int
    aget(), aget_many(), bursts(), close(), fileno(), get(), get_many(), try_get()
Sample  One message of a topic, read in place by this process and others.
    flow_hash, index, mark: int; released: bool; segments: tuple[memoryview, ...]; sequence,
        timestamp: int; view: memoryview
    free()
Samples  Messages of a topic, in the order in which they were published.
    sequence: NDArray[uint64]
    free()

Functions:
pool_names() -> list[str]  Returns the names of the pools in shared memory, of any user and version.
prune(*, age: float | None = None) -> list[str]  Removes every abandoned pool that no process has
    open for writing.
wait(waitables: Iterable[T], timeout: float | None = None) -> list[T]  Waits until something can be
    taken from one of several queues and subscribers, of any pools.
get_context(method: str | None = None) -> Context  As multiprocessing.get_context: method is "fork",
    "spawn" or "forkserver"; None: the default.

In place of Python's classes of these names; what they have besides:
Queue  multiprocessing.Queue over shared memory.
    fileno(), get_many(), put_many(), shutdown()
JoinableQueue  multiprocessing.JoinableQueue over shared memory.
    unfinished: int
    fileno(), get_many(), join(), put_many(), shutdown(), task_done()
SimpleQueue  multiprocessing.SimpleQueue over shared memory: put() and get() of any picklable
    object.
    fileno()
Context  A context of multiprocessing with the queues of shmpool; all else is multiprocessing's.
    get_context()
ProcessPoolExecutor  concurrent.futures.ProcessPoolExecutor over shared memory.

The daemon's clients: their other methods are its requests:
Client  Requests to the daemon from blocking code.
    path: Path; timeout: float
    call(), close(), pool(), watch()
AsyncClient  As Client, for asyncio: each method is awaited.
    path: Path; timeout: float
    call(), close(), pool(), watch()

Options:
PoolOptions  The options of a new pool, for Pool.create. buffer_size, capacity: int | list[int];
    prealloc: int | list[int] | None; bulk, refill_multiplier: int | None; cache_size: int |
    list[int] | None; headroom, members, queues: int | None; free_rings: int | str | None; mode:
    int; group: str | int | None; huge_pages: HugePages; numa_node: NumaNode
QueueOptions  The options of a new queue, for Pool.create_queue. capacity: int; producers,
    consumers: Side; on_death: OnDeath; dead_letter: str | None; max_redeliveries: int; memory:
    Memory; lanes: int | str
TopicOptions  The options of a new topic, for Pool.create_topic. depth: int

Exceptions: all have errno: int | None:
ShmpoolError  The root of the package's exceptions; errno is its code in errno.h, or None.
AccessDenied  The mode and owner of the pool's file do not let this user in.
BufferInUse  A memoryview or numpy array of the buffer is alive: it can be neither freed nor put.
BufferReleased  The Buffer was freed or put, or belongs to the process that this one was forked
    from.
DaemonUnavailable  Client: no daemon answers at the socket, or it ended the connection.
Empty  The queue stayed empty for the whole timeout.
ForeignBuffer  The buffer belongs to another process or to another pool.
Full  The queue had no room by the timeout. sent: int
InvalidArgument  A name, size or option is not allowed; the message says what is.
LimitReached  All slots for members, queues, or pools of a process are taken, or all its
    descriptors.
NoArray  get_array: the message is no array, or its record of dtype and shape is corrupted. buffer:
    Buffer | None
OutOfSharedMemory  Shared memory has no room, or the limits of this process do not let it have more.
PayloadTooLarge  The payload has more bytes than fit into a buffer.
PoolClosed  The pool was closed in this process.
PoolExhausted  No buffer became free by the timeout. sent: int
PoolExists  Pool.create: there is a pool of that name.
PoolNotFound  Pool.attach, Pool.unlink: there is no pool of that name, or its creator died making
    it.
PoolReplaced  While a call waited, the pool's name was given to another pool.
QueueBusy  The queue has a single producer or a single consumer, and that is another thread.
QueueExists  create_queue: the pool has a queue of that name.
QueueNotFound  queue: the pool has no queue of that name.
RequestRefused  Client: the daemon has no such request, or could not carry it out; the message says
    why.
SegmentInvalid  The file of that name is no pool of this version, or is corrupted.
ShutDown  The queue was shut down: it takes no more, and for a call that takes, it is empty.
WorkerDied  ProcessPoolExecutor: the worker that ran the task was killed, or ended by itself. pid,
    exitcode: int | None

Types for annotations:
OnDeath  'free' | 'requeue' | 'dead-letter'
Side  'single' | 'multi'
PinState  'off' | 'registering' | 'registered' | 'failed' | 'unavailable'

Records:
Alarm  A condition that a person should check, while it lasts. kind: Literal['low-water',
    'queue-full', 'topic-blocked', 'held-long', 'stopped', 'link-down', 'link-lags']; subject: str;
    since: float; message: str
Audit  All buffers, counted by their owner words and by a scan of queues and caches. ok: bool;
    total, free, cached: int; held: dict[int, int]; queued: dict[str, int]; unaccounted: int;
    complete: bool; chained: int
Description  What is the same for a pool's lifetime. pool: str; geometry: Geometry; file: File;
    queues: list[QueueStats]; topics: list[TopicStats]
File  The file of a pool's segment. path: str; size, reserved: int; mode: str; uid, gid: int
Geometry  The options that a pool was created with, and that never change. buffer_size, capacity,
    prealloc, bulk, refill_multiplier, cache_size, headroom, members, queues, free_rings: int;
    sizes: list[SizeClass]; room: int
Holder  A member that holds buffers, or a subscriber of a topic that holds messages. member, pid,
    tid: int; state: str; buffers: int; oldest_s: float | None; topic: str | None
LaneStats  A lane of a queue, in buffers. depth, capacity, enqueued, dequeued, lost: int
LinkStats  A link of a bridge, as the bridge has reported it last. name: str; pid: int; pool,
    source, target: str; sends: bool; state: Literal['starting', 'up', 'down', 'ended', 'silent'];
    since: float; why: str; bursts, packets, bytes, window, unacknowledged: int; oldest_s: float |
    None; lag, reconnects, doubled, redelivered, returned, rate: int; down_s, lag_s: float
Member  One attached thread. number, pid, tid, attached_ns, cached, held: int; operation: str |
    None; dead: bool; counters: dict[str, int]
Message  One buffer in a queue, as it was when AlfQueue.peek copied it. position, index, length:
    int; payload: bytes; redelivered: int; origin: str | None; timestamp, mark, flow_hash: int
Pinned  How much of a pool's data is registered with CUDA in this process. state: PinState; bytes,
    total: int; reason: str
Pong  The daemon runs. pid: int; uptime_s: float
PoolStats  A pool's statistics. pool: str; at: float; buffers: Stats; queues: list[QueueStats];
    topics: list[TopicStats]; recoveries: Recoveries; alarms: list[Alarm]; links: list[LinkStats]
PoolSummary  One pool in a listing. name: str; watched: bool; capacity, buffer_size, created, free,
    cached, held, queued, queues, topics, members, reserved, alarms: int; trouble: str | None
Pruned  What a prune did. removed: list[str]; left: dict[str, str]
QueueStats  A queue's statistics, in buffers. name: str; capacity, depth, enqueued, dequeued: int;
    producers, consumers, on_death: str; dead_letter: str | None; max_redeliveries, refused,
    dropped: int; memory: str; lanes: int | str; lane_stats: list[LaneStats]
Recoveries  What the daemon has recovered since it started. count, members, buffers, requeued,
    dead_lettered: int; last_at, last_s, longest_s: float | None; subscribers: int
Recovery  What Pool.recover did. members, buffers, requeued, dead_lettered, postponed, unknown,
    subscribers: int
SizeClass  The options of one size class of a pool. buffer_size, capacity, prealloc, cache_size: int
SizeStats  The figures of one size class, in buffers. buffer_size, capacity, created, free, cached:
    int
Stats  A pool's figures, in buffers. capacity, created, free, cached, held, queued, members,
    recovered: int; counters: dict[str, int]; refused, dropped: int; sizes: list[SizeStats];
    chained: int; estimated: bool
Subscription  One subscriber of a topic, of any process. number, pid: int; name: str; policy:
    Policy; lag, gaps, held: int; closing, dead: bool; state: SubscriberState
TopicStats  A topic's statistics, in messages. name: str; depth, published, kept, waiting: int;
    subscribers: list[Subscription]
Version  The protocol that both sides speak, and the version of the daemon's package. protocol: int;
    package: str
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
        """Lists the public names; none to pydoc when it prints the package. It would print the
        whole text of each class, 6,300 lines behind the overview above."""
        import sys

        caller = sys._getframe(1)
        for _ in range(3):  # docmodule() of pydoc asks through getmembers() of inspect
            if caller.f_code.co_name == "docmodule":
                return []
            caller = caller.f_back or caller
        return sorted({*globals(), *__all__})
