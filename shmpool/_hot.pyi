# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self, final, overload

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer as BytesLike

from .pool import Pool

def timeout_seconds(timeout: float | None, /) -> float:
    """Reads a timeout as every call does that waits.

    Returns seconds, inf for None. Accepts what float() accepts, except text and bytes.

    Raises:
        TypeError: it is no number.
        InvalidArgument: it is negative or NaN.
    """

def forks_by_kernel() -> bool:
    """True if madvise(2) keeps memory from forked children."""

def has_membarrier() -> bool:
    """True if membarrier(2) works, which caches need."""

def use_numpy(functions: object, byte: object, describe: object, /) -> None: ...

SHORT: int

def burst_headers(burst: BurstBase, link: int, at: int, records: Any, inner: Any, /) -> int: ...
def burst_checksums(
    burst: BurstBase, link: int, at: int, inner: bool, ip: bool, transport: bool, states: Any, /
) -> int: ...
def burst_set_checksums(
    burst: BurstBase,
    link: int,
    at: int,
    inner: bool,
    ip: bool,
    transport: bool,
    where: Any,
    done: Any,
    /,
) -> int: ...
def burst_forward(burst: BurstBase, link: int, at: int, alive: Any, /) -> int: ...
def toeplitz_table(key: bytes, /) -> bytes: ...
def toeplitz_hashes(table: bytes, records: Any, ports: bool, out: Any, /) -> None: ...
def use_pickler(make: object, lay_out: object, /) -> None: ...
def pickled(obj: object, /) -> Any: ...
def burst_pack(burst: BurstBase, head: BytesLike, /) -> tuple[bytes, bytes]: ...
def burst_unpack(
    burst: BurstBase, table: BytesLike, data: BytesLike, first: int, at: int, again: bool, /
) -> int: ...
def packed_longest(table: BytesLike, first: int, n: int, /) -> tuple[int, int]: ...

@final
class Buffer:
    """One buffer of a pool, owned by this process.

    Pool.alloc and AlfQueue.get return one. It is released when it is freed, put into a
    queue, or garbage-collected; any later use raises BufferReleased, and so does any use
    while a put of it waits. It exports its bytes: bytes(buf), memoryview(buf),
    numpy.frombuffer(buf). While such a view is alive the buffer can be neither freed nor
    put. At the end of a with block the buffer is freed. If an exception leaves the block
    and views are alive, it is freed with the last of them.

    A Buffer for more bytes than any single buffer has is a chain: several buffers that are
    one. It has no view of all its bytes; segments has one for each of them. All else is
    the same for both.

    Any thread of the process may use a Buffer, one thread at a time. A forked child may
    not: it gets BufferReleased.
    """

    @property
    def data(self) -> memoryview:
        """All bytes behind headroom: a writable memoryview."""
    @property
    def view(self) -> memoryview:
        """data[:length]: a writable memoryview."""
    length: int
    """Bytes in use. PayloadTooLarge if set to more than data has."""
    headroom: int
    """Bytes left free before data. Setting it moves data, not its bytes."""
    mark: int
    """32 bits for the application."""
    flow_hash: int
    """32 bits: a hash of the packet's flow."""
    timestamp: int
    """Nanoseconds, on the application's clock."""
    @property
    def index(self) -> int:
        """The buffer's number in its pool."""
    @property
    def pool(self) -> Pool:
        """The pool that the buffer belongs to."""
    @property
    def released(self) -> bool:
        """True if it was freed or put, or its pool was closed."""
    @property
    def queue_number(self) -> int:
        """Number of the queue that it was got from, 0 for none."""
    @property
    def redelivered(self) -> int:
        """Times that it was returned to a queue: a consumer died, or called nack()."""
    @property
    def origin_number(self) -> int:
        """Number of the queue from which it became a dead letter, 0 for none."""
    @property
    def generation(self) -> int:
        """Changes whenever the buffer is freed."""
    def write(self, payload: BytesLike, /) -> int:
        """Copies a bytes-like object to the start of data and sets length. Of a chain: to
        all its segments, one after the other.

        Returns the length in bytes.

        Raises:
            PayloadTooLarge: payload has more bytes than data.
            BufferReleased: this process does not own the buffer any more.
            PoolClosed: the pool is closed.
        """
    def writelines(self, payloads: Iterable[BytesLike], /) -> int:
        """write() of several bytes-like objects, one after the other.

        Returns the length in bytes.
        """
    def readinto(self, target: BytesLike, offset: int = 0, /) -> int:
        """Copies the bytes from offset on into a writable bytes-like object, as many as it has room
        for.

        Returns how many.
        """
    @property
    def segments(self) -> tuple[memoryview, ...]:
        """The bytes in use as a tuple of writable memoryviews, one after the other, as
        os.readv() and os.writev() take them: one view, or of a chain one of each buffer.
        Set length before you write into those of a new Buffer.
        """
    def free(self) -> None:
        """Returns the buffer to its pool; the Buffer is then released.

        Raises:
            BufferInUse: a memoryview or numpy array of it is alive.
            BufferReleased: it was freed or put before.
            PoolClosed: the pool is closed.
        """
    def free_after(self, event: Any, /) -> None:
        """Frees the buffer when a device's event has completed, without waiting for it.

        For a copy that a device makes on its own: record an event behind the copy, then call
        this. The Buffer is released at once. If views of it are alive, it is freed with the last
        of them. Pool.close waits for the event, and so does the end of the process, for some
        seconds.

        event: has query(), as torch.cuda.Event, or done, as cupy.cuda.Event; or only
        synchronize(), which a background thread then calls. If that raises, the buffer is freed.

        Raises:
            BufferReleased: it was freed or put before.
            PoolClosed: the pool is closed.
            TypeError: event is no event.
        """
    def nack(self, timeout: float | None = None) -> None:
        """Returns the buffer to the end of the queue that it was got from: the work failed.

        redelivered goes up by one. A buffer that was returned max_redeliveries times goes to
        the queue's dead-letter queue instead, and so does any buffer of a queue with
        on_death="dead-letter". Without a timeout the call never waits: if there is no room,
        the pool keeps the buffer for that queue and puts it as soon as there is room. With a
        timeout it waits up to that many seconds for room (0 not at all).

        Raises:
            Full: there was no room in time; the caller still owns the buffer.
            InvalidArgument: it was not got from a queue, or from one with a single producer.
            BufferInUse: a view of it is alive.
            BufferReleased: this process does not own it any more.
            PoolClosed, PoolReplaced: see Pool.
        """
    def _array(self, text: bytes, headroom: int, /) -> NDArray[Any]: ...
    def _settle(self) -> None: ...
    def _outlive(self) -> None: ...
    def _declare(self, queue: QueueBase, /) -> None: ...
    def __dlpack__(self, **options: Any) -> Any: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...
    def __len__(self) -> int: ...
    def __bytes__(self) -> bytes: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def __enter__(self) -> Buffer: ...
    def __exit__(self, /, *error: object) -> None: ...

@final
class ArrayMemory:
    """What keeps a buffer while an array, or a view of one, has its memory."""

    def keeps(self, owner: object, /) -> bool:
        """True for its Buffer, and for that one's Pool."""

class SegmentBase:
    @property
    def fd(self) -> int:
        """The descriptor, -1 for none."""
    @property
    def size(self) -> int: ...
    @property
    def read_only(self) -> bool: ...
    @property
    def address(self) -> int:
        """Address of the mapping, 0 for none."""
    _file_name: tuple[str, bool]
    def _open(self, path: str, flags: int, /) -> None: ...
    def _create(self, path: str, /) -> int: ...
    def _anonymous(self, fd: int | None, /) -> None: ...
    def _unlink_at_the_end(self, path: str | None, /) -> None: ...
    def _take(self, other: SegmentBase, /) -> None: ...
    def _map(self, size: int, read_only: bool, /) -> None: ...
    def _enter(self) -> int: ...
    def close(self) -> None:
        """Ends this process's members, unmaps and closes the file.

        May be repeated.
        """

class PoolBase:
    _exports: int
    @property
    def _segment(self) -> Any: ...
    def _hot_open(self, segment: SegmentBase, path: str, created: bool, /) -> int: ...
    def _leave(self) -> None: ...
    def alloc(self, timeout: float | None = None, size: int | None = None) -> Buffer:
        """Takes a free buffer; its length is 0.

        size: how many bytes it must have room for. The buffer is one of the smallest size class
        that has them or, while none of those is free, of a larger class. None: of any class, the
        smallest first.

        Waits up to timeout seconds (None: as long as it takes, 0: not at all) for one.

        Raises:
            PoolExhausted: no buffer was free for that long.
            PayloadTooLarge: no buffer of the pool has size bytes.
            OutOfSharedMemory: the pool must grow and cannot.
            LimitReached: all member slots are taken.
            PoolClosed: the pool was closed, also by another thread during the call.
            PoolReplaced: the call waited, and the pool's name is another pool's now.
            AccessDenied: the pool was opened read-only.
        """
    def close(self) -> None:
        """Closes the pool in this process.

        Buffers that its threads hold are freed, Buffers and Bursts are released, and calls of
        other threads that wait raise PoolClosed. Other processes are not affected. May be
        repeated. Waits for the events of Buffer.free_after.

        Raises:
            BufferInUse: a view of one of the buffers is alive.
        """
    def __enter__(self) -> Self: ...
    def __exit__(self, /, *error: object) -> None: ...

class BurstBase:
    def __new__(cls, pool: PoolBase, room: int, /) -> Self: ...
    @property
    def pool(self) -> Pool:
        """The pool that the buffers belong to."""
    def free(self) -> None:
        """Returns every buffer to the pool; the Burst is then released.

        Raises:
            BufferInUse: a view of one of the buffers is alive; none was freed.
            BufferReleased: it was freed or put before.
            PoolClosed: the pool is closed.
        """
    def _check_movable(self, what: str, /) -> None: ...
    def _alloc(self, timeout: float | None, size: int | None, /) -> None: ...
    def _get(self, queue: QueueBase, timeout: float | None, /) -> None: ...
    def _put(self, queue: QueueBase, timeout: float | None, /) -> None: ...
    def _take(self, items: Iterable[Any], /) -> None: ...
    def _spread(
        self, queues: tuple[Any, ...], keys: Any, timeout: float | None, /
    ) -> tuple[int, list[tuple[Any, int]]] | None: ...
    def _indices(self) -> bytes: ...
    def _lengths(self, out: Any, /) -> int: ...
    def _set_lengths(self, lengths: Any, one: bool, /) -> int: ...
    def _column(self, offset: int, width: int, out: Any, /) -> int: ...
    def _set_column(self, offset: int, width: int, values: Any, one: bool, /) -> int: ...
    def _field(self, name: str, out: Any, /) -> int: ...
    def _set_field(self, name: str, values: Any, one: bool, /) -> int: ...
    def __len__(self) -> int: ...
    @overload
    def __getitem__(self, index: int | np.integer[Any], /) -> Buffer: ...
    @overload
    def __getitem__(
        self, index: slice | Sequence[int] | Sequence[bool] | NDArray[Any], /
    ) -> Self: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, /, *error: object) -> None: ...

class LineBase:
    want: int
    turns: int
    alone: Any

@final
class Turns:
    def __init__(self, waker: int, /) -> None: ...
    def __call__(self) -> None: ...
    def expect(self, line: LineBase, /) -> None:
        """The line has the want that it names."""
    def forget(self, want: int, /) -> None:
        """No line has that want any more."""

class TopicBase:
    def _hot_open(self, pool: Any, number: int, /) -> None: ...
    def _hot_close(self) -> None: ...
    def publish(self, item: Buffer | BurstBase, timeout: float | None = None) -> None:
        """Publishes a Buffer, or all buffers of a Burst, which is then released. Every subscriber
        sees them in place.

        Waits up to timeout seconds (None: as long as it takes, 0: not at all) for subscribers
        with the policy "block".

        Raises:
            Full: such a subscriber was a whole depth behind for that long; nothing was
            published. ShutDown: the topic was shut down. BufferInUse: a view of one of the
            buffers is alive. BufferReleased: it was freed, put or published before.
            ForeignBuffer: it belongs to another pool or process. PoolClosed, PoolReplaced: see
            Pool.
        """

@final
class Sample:
    """One message of a topic, read in place by this process and others.

    Subscriber.get returns one. It exports its bytes for reading: bytes(sample),
    memoryview(sample), numpy.frombuffer(sample). It is let go when it is freed, at the end of a
    with block, or when it and its views are garbage-collected; the buffer goes back to the
    pool when the last holder lets it go and the topic does not keep it any more.

    Any thread of the process may use a Sample. A forked child may not.
    """

    @property
    def sequence(self) -> int:
        """Its number in the topic, from 0 on."""
    @property
    def view(self) -> memoryview:
        """The bytes: a read-only memoryview."""
    @property
    def segments(self) -> tuple[memoryview, ...]:
        """The bytes as a tuple of read-only memoryviews, one for each buffer of the message."""
    @property
    def released(self) -> bool:
        """True if it was let go, or its pool was closed."""
    @property
    def mark(self) -> int:
        """32 bits that its publisher set."""
    @property
    def flow_hash(self) -> int:
        """32 bits that its publisher set."""
    @property
    def timestamp(self) -> int:
        """Nanoseconds, on the publisher's clock."""
    @property
    def index(self) -> int:
        """The buffer's number in its pool."""
    def free(self) -> None:
        """Lets the message go; the Sample is then released.

        Raises:
            BufferInUse: a view of it is alive.
            BufferReleased: it was freed before.
            PoolClosed: the pool is closed.
        """
    def __len__(self) -> int: ...
    def __bytes__(self) -> bytes: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def __enter__(self) -> Sample: ...
    def __exit__(self, /, *error: object) -> None: ...

class SubscriberBase:
    def _hot_open(self, topic: TopicBase, policy: int, start: int, /) -> None: ...
    def _hot_close(self) -> None: ...
    def _take_many(self, samples: list[Sample], most: int, timeout: float | None, /) -> None: ...
    def _watch(self, waker: int, /) -> None: ...
    def _may_take(self) -> bool: ...
    @property
    def _where(self) -> int: ...
    def get(self, timeout: float | None = None) -> Sample:
        """Gets the next message as a Sample: the oldest that this subscriber has not got, or with
        the policy "latest" the newest.

        Waits up to timeout seconds (None: as long as it takes, 0: not at all) for one.

        Raises:
            Empty: there was none for that long.
            ShutDown: there is none, and the topic was shut down.
            PoolClosed, PoolReplaced: the subscriber or its pool is closed; see Pool.
        """
    def try_get(self) -> Sample | None:
        """get(timeout=0) that returns None instead of raising Empty: for loops that poll."""
    @property
    def gaps(self) -> int:
        """How many messages it has missed."""
    @property
    def lag(self) -> int:
        """How many messages it has not got yet."""
    @property
    def closed(self) -> bool:
        """True if it gets no more messages."""

class QueueBase:
    def _hot_open(self, pool: Any, number: int, empty_text: str, /) -> None: ...
    def _watch(self, waker: int, /) -> None: ...
    def empty(self) -> bool:
        """True if a get would find nothing now."""
    def _move(self, to: int, reset: bool, /) -> int: ...
    def _put_or_free(self, buf: Buffer, timeout: float | None, /) -> None: ...
    def _hot_close(self) -> None: ...
    def _put_items(self, items: Iterable[Any], timeout: float | None, /) -> None: ...
    def put(self, buf: Buffer, timeout: float | None = None) -> None:
        """Moves a Buffer to the end of the queue; the Buffer is then released.

        Waits up to timeout seconds (None: as long as it takes, 0: not at all) for room.

        Raises:
            Full: the queue was full for that long.
            QueueBusy: the queue has a single producer, and that is another thread.
            PoolClosed, PoolReplaced: see Pool.
            BufferInUse: a view of the buffer is alive.
            BufferReleased: the buffer was freed or put before.
            ForeignBuffer: it belongs to another pool or process.
        """
    def put_nowait(self, buf: Buffer, /) -> None:
        """put(buf, timeout=0)."""
    def get(self, timeout: float | None = None) -> Buffer:
        """Takes the oldest Buffer.

        Waits up to timeout seconds (None: as long as it takes, 0: not at all) for one.

        Raises:
            Empty: the queue was empty for that long.
            QueueBusy: the queue has a single consumer, and that is another thread.
            PoolClosed, PoolReplaced: see Pool.
        """
    def _take(self, timeout: float | None = None) -> Any: ...
    def get_array(self, timeout: float | None = None) -> NDArray[Any]:
        """Takes the oldest array that put_array() put: a numpy array over the buffer, not a copy.

        Waits up to timeout seconds (None: as long as it takes, 0: not at all) for one. The
        buffer goes back to its pool with the last array or view of it. The array may be put
        again.

        A message that is no array, or whose record of dtype and shape is corrupted, goes back to
        the queue as by Buffer.nack(); if that fails, as in a queue with a single producer, the
        exception has it.

        Raises:
            NoArray: the message is no array.
            Empty: the queue was empty for that long.
            QueueBusy: the queue has a single consumer, and that is another thread.
            PoolClosed, PoolReplaced: see Pool.
        """
    def _hand_over(self, array: object, timeout: float | None, /) -> bool: ...
    def get_nowait(self) -> Buffer:
        """get(timeout=0)."""
    def send(self, payload: BytesLike, timeout: float | None = None) -> None:
        """Copies a bytes-like object into a new buffer and puts it.

        Waits up to timeout seconds (None: as long as it takes, 0: not at all) for a buffer and
        for room.

        Raises:
            PoolExhausted: no buffer was free for that long.
            PayloadTooLarge: a payload has more bytes than a buffer holds.
            OutOfSharedMemory: the pool must grow and cannot.
            Full: the queue was full for that long.
            QueueBusy: the queue has a single producer, and that is another thread.
            PoolClosed, PoolReplaced: see Pool.
        """
    def recv(self, timeout: float | None = None) -> bytes:
        """Takes the oldest payload as bytes, and frees its buffer.

        Waits up to timeout seconds (None: as long as it takes, 0: not at all) for one.

        Raises:
            Empty: the queue was empty for that long.
            QueueBusy: the queue has a single consumer, and that is another thread.
            PoolClosed, PoolReplaced: see Pool.
        """
    def try_get(self) -> Buffer | None:
        """get_nowait() that returns None instead of raising Empty: for loops that poll."""
    def try_recv(self) -> bytes | None:
        """recv(timeout=0) that returns None instead of raising Empty: for loops that poll."""
    def send_many(self, payloads: Iterable[BytesLike], timeout: float | None = None) -> None:
        """Sends each of the payloads, in order, in bulks of up to 256 payloads or 256 KiB.

        Waits up to timeout seconds (None: as long as it takes, 0: not at all) until all are
        sent. Full and PoolExhausted say in their attribute sent how many were.

        Raises:
            PoolExhausted: no buffer was free for that long.
            PayloadTooLarge: a payload has more bytes than a buffer holds.
            OutOfSharedMemory: the pool must grow and cannot.
            Full: the queue was full for that long.
            QueueBusy: the queue has a single producer, and that is another thread.
            PoolClosed, PoolReplaced: see Pool.
        """
    def recv_many(self, n: int, timeout: float | None = None) -> list[bytes]:
        """Takes the 1 to n oldest payloads as a list of bytes.

        Waits up to timeout seconds (None: as long as it takes, 0: not at all) for the first.
        Takes no more than are there then, and stops at 16 MiB, after the bulk that reaches it.

        Raises:
            InvalidArgument: n is less than 1.
            Empty: the queue was empty for that long.
            QueueBusy: the queue has a single consumer, and that is another thread.
            PoolClosed, PoolReplaced: see Pool.
        """
    def __len__(self) -> int: ...

# shmpool.net

@final
class Scan:
    def __init__(
        self, read: Callable[[int, int], bytes | None], path: str, error: type[Exception], /
    ) -> None: ...
    @property
    def interfaces(self) -> list[tuple[int, int, int, int, tuple[tuple[int, bytes], ...]]]: ...
    @property
    def sections(self) -> list[tuple[int, tuple[tuple[int, bytes], ...]]]: ...
    @property
    def comments(self) -> list[tuple[int, tuple[tuple[int, bytes], ...]]]: ...
    @property
    def counts(self) -> tuple[int, int, int]: ...
    @property
    def ended(self) -> bool: ...
    def fill(self, burst: BurstBase, timeout: float | None, /) -> int:
        """Fills an empty Burst. Returns how many packets."""
    def packets(self) -> list[tuple[Any, ...]]:
        """Returns the next packets as tuples; none at the end."""

def encode(
    burst: BurstBase,
    first: int,
    out: Any,
    format: int,
    interfaces: int,
    comments: dict[int, str] | None,
    /,
) -> tuple[int, int, int]: ...

@final
class Ring:
    def __init__(self, pool: PoolBase, fd: int, block_size: int, blocks: int, /) -> None: ...
    @property
    def counts(self) -> tuple[int, int, int, int]: ...
    def fill(self, burst: BurstBase, timeout: float | None, /) -> int:
        """Fills an empty Burst. Returns how many packets."""
    def close(self) -> None:
        """Ends a call of another thread, and closes the socket."""

@final
class Receiver:
    def __init__(self, pool: PoolBase, fd: int, flags: int, room: int, /) -> None: ...
    @property
    def counts(self) -> tuple[int, int, int, int]: ...
    def fill(self, burst: BurstBase, timeout: float | None, addresses: Any, /) -> int:
        """Fills an empty Burst. Returns how many packets."""
    def close(self) -> None:
        """Ends a call of another thread, and closes the socket."""

@final
class Xdp:
    def __init__(
        self,
        pool: PoolBase,
        fd: int,
        size_class: int,
        ring: int,
        interface: int,
        queue: int,
        flags: int,
        latency: int,
        /,
    ) -> None: ...
    @property
    def counts(
        self,
    ) -> tuple[tuple[int, int, int], tuple[int, int, int], tuple[int, int, int, int, int, int]]: ...
    @property
    def zero_copy(self) -> bool: ...
    def fill(self, burst: BurstBase, timeout: float | None, /) -> int:
        """Fills an empty Burst. Returns how many packets."""
    def drain(self, burst: BurstBase, timeout: float | None, /) -> tuple[int, bool | None]:
        """Sends what it can. Returns how many, and whether to go on."""
    def close(self) -> None:
        """Ends calls of other threads, and closes the socket."""

def xdp_program(interface: int, queues: int, flags: int, /) -> tuple[int, int]: ...
def xdp_steer(map: int, queue: int, fd: int, /) -> None: ...

@final
class Sender:
    def __init__(self, pool: PoolBase, fd: int, flags: int, /) -> None: ...
    @property
    def counts(self) -> tuple[int, int, int]: ...
    def drain(
        self, burst: BurstBase, timeout: float | None, addresses: Any, /
    ) -> tuple[int, bool | None]:
        """Sends what it can. Returns how many, and whether to go on."""
    def close(self) -> None:
        """Ends a call of another thread, and closes the socket."""
