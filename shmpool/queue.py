# SPDX-License-Identifier: Apache-2.0
"""AlfQueue: a named queue of a pool. Describes it, moves bursts and dead letters, words errors.

One file: AlfQueue is one class, and half of its lines are the documentation of its methods.

Not in here: the methods that move single buffers and payloads (hot/).
"""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Iterable, Iterator

from . import choices, errors
from ._ffi import Native, ffi, lib
from ._hot import Buffer, QueueBase, timeout_seconds
from .awaiting import Filled, Taken, closed, unless_empty, until_free
from .burst import Burst
from .codes import check
from .messages import Message, lanes_in_use, read_messages
from .named import queue_name
from .options import INT64_MAX, at_least, policy_of
from .os_errors import refuse, refuse_readonly
from .wakers import DATA, Wanted

TYPE_CHECKING = False
if TYPE_CHECKING:
    import typing

    import numpy.typing as npt

    from . import hints
else:
    from .later import hints, npt, typing


FOREVER_S = 2**32  # a longer timeout never ends
# Codes of a call that could not put: the queue is full, no buffer is free, an item is too large.
_NOT_PUT = frozenset((errno.ENOBUFS, errno.EAGAIN, errno.EMSGSIZE))


class AlfQueue(QueueBase, Taken[Buffer, Burst], Filled):
    """A lock-free FIFO of buffers in the pool's segment, made by Pool.create_queue.

    Any number of threads and processes may use a queue at the same time. If it was created for a
    single producer or consumer, the first thread to put or get takes that role, and others get
    QueueBusy. An AlfQueue pickles to its name, so it can be an argument of a multiprocessing
    process. Every method raises PoolClosed if the queue object or its pool is closed.

    Attributes: capacity, producers, consumers, on_death, max_redeliveries, memory, lanes; what they
    are is said at create_queue.

    >>> import shmpool
    >>> with shmpool.Pool.create("doc-queue", buffer_size=64, capacity=64) as pool:
    ...     work = pool.create_queue("work", capacity=8)
    ...     work.send(b"hello")
    ...     print(len(work), work.recv())
    1 b'hello'
    >>> shmpool.Pool.unlink("doc-queue")
    """

    capacity: int
    producers: choices.Side
    consumers: choices.Side
    on_death: choices.OnDeath
    max_redeliveries: int
    memory: choices.Memory
    lanes: int
    _kind = "queue"

    def __init__(self, pool: hints.Pool, number: int) -> None:
        info = self._find(pool, number)
        self._waker = None
        self.capacity = info.capacity
        self.producers, self.consumers, self.on_death = policy_of(info)
        self.max_redeliveries = info.max_redeliveries
        self.memory = choices.MEMORY[info.on_demand]
        self.lanes = info.lanes or 1
        self._laned = info.lanes > 0  # with "auto" it may have a single one
        self._bulk: int = info.bulk
        self._dead_letter: int = info.dead_letter
        self._hot_open(pool, number, f"queue {self.name!r} is empty")

    def __repr__(self) -> str:
        return f"<shmpool.AlfQueue {self.pool.name}/{self.name} of {self.capacity}>"

    @property
    def dead_letter(self) -> AlfQueue | None:
        """The queue for buffers that were returned max_redeliveries times, or None.

        Raises:
            SegmentInvalid: the shared memory is corrupted.
        """
        if not self._dead_letter:
            return None
        try:
            return AlfQueue(self.pool, self._dead_letter)
        except (errors.QueueNotFound, OverflowError):
            raise errors.SegmentInvalid(
                f"pool {self.pool.name!r} is corrupted: "
                f"dead_letter of queue {self.name!r} is queue {self._dead_letter}"
            ) from None

    def full(self) -> bool:
        """True if a put would find no room now."""
        return self._room() <= 0

    def _room(self) -> int:
        """Returns how many buffers the calling thread could put now."""
        if not self._laned:
            return self.capacity - len(self)
        lane = self._info(self._lane())
        return int(lane.capacity - lane.count)

    def _lane(self) -> int:
        """Returns the number of the lane into which the calling thread puts, or of the queue."""
        if not self._laned:
            return self.number
        code = lib.shmpool_queue_lane(self.pool._number, self.number)
        return check(code, f"queue {self.name!r}")

    def release(self) -> None:
        """Releases the calling thread's single-producer and single-consumer roles, if it has any.

        Then another thread may take them.
        """
        check(lib.shmpool_queue_release(self.pool._number, self.number), f"queue {self.name!r}")

    def close(self) -> None:
        """Releases the calling thread's roles and closes this object; the queue itself stays.

        May be repeated. Any later use raises PoolClosed.
        """
        if not self._closed:
            lanes = []
            with contextlib.suppress(errors.PoolClosed):
                lanes = lanes_in_use(self.pool._number, self.number) if self._laned else []
            lib.shmpool_queue_release(self.pool._number, self.number)
            self._drop_descriptor()
            super().close()
            for lane in lanes:  # where tasks await room
                closed(self.pool, lane)

    def _fail(self, code: int, items: object = None, sent: int = 0) -> typing.NoReturn:
        """Raises the exception for a negative code of a call of this queue.

        items is what the call had to put: a Buffer, a Burst, range(n) for n buffers of several
        items, a payload, or a tuple of payloads, of which it put the first sent. items is None for
        a call that takes.
        """
        self._refuse_closed()
        what = f"queue {self.name!r}"
        if items is not None and -code in _NOT_PUT:
            self._raise_not_put(code, what, items, sent)
        if code == -errno.EBUSY:
            raise errors.QueueBusy(self._role_holder("consumer" if items is None else "producer"))
        if isinstance(items, Buffer) and code in (-errno.ESTALE, -errno.EPERM):
            if items.pool is not self.pool:
                self._refuse_foreign(items)
            what += f": buffer {items.index} of pool {self.pool.name!r}"
        refuse(self.pool, code, what)

    def _raise_not_put(self, code: int, what: str, items: object, sent: int) -> typing.NoReturn:
        """Raises PayloadTooLarge; or counts what had no room, and raises Full or PoolExhausted."""
        if code == -errno.EMSGSIZE and not isinstance(items, (Burst, range)):
            size = max(memoryview(p).nbytes for p in (items if type(items) is tuple else (items,)))
            room = self.pool.geometry.room
            raise errors.PayloadTooLarge(
                f"payload is {size} bytes; all buffers of the pool together hold {room}"
            )
        n = len(items) - sent if isinstance(items, (Burst, range, tuple)) else 1
        lib.shmpool_refused(self.pool._number, self.number, n)
        if code == -errno.EMSGSIZE:
            limit = f"never holds more than {self.capacity}"
            if n <= self.capacity:
                limit = f"takes up to {self._bulk} at once"
            if self._laned:
                limit += f", a lane's share of {self.capacity}"
            raise errors.Full(f"burst has {n} buffers; {what} {limit}")
        if code == -errno.ENOBUFS and self._laned:
            lane = self._info(self._lane())
            full = errors.Full(
                f"the calling thread's lane of {what} is full: it has {lane.capacity} of its "
                f"{self.capacity} buffers"
            )
            full.sent = sent
            raise full
        if not isinstance(items, tuple):
            refuse(self.pool, code, what)
        try:
            refuse(self.pool, code, what)
        except (errors.Full, errors.PoolExhausted) as error:
            error.sent = sent
            error.args = (f"{error}: {sent} of {len(items)} payloads were sent",)
            raise

    def _refuse_foreign(self, item: Buffer | Burst) -> typing.NoReturn:
        """Raises ForeignBuffer, PoolClosed or AccessDenied, for an item of another Pool object."""
        self._refuse_closed()
        self.pool._refuse_foreign(item, f"queue {self.name!r}")

    def _role_holder(self, side: str) -> str:
        info = self._info()
        number = (info.consumer if side == "consumer" else info.producer) - 1
        member = next((m for m in self.pool.members() if m.number == number), None)
        who = f"process {member.pid}, thread {member.tid}" if member else f"member {number}"
        return f"queue {self.name!r} has a single {side}: {who}"

    def _most(self, n: int) -> int:
        """Returns how many buffers a call for up to n of them moves at the most."""
        return min(at_least(n, 1, "n"), self.capacity)

    # End of stream.

    def shutdown(self, immediate: bool = False) -> None:
        """Ends the queue for every process: any further put raises ShutDown, and so does a get once
        the queue is empty. Calls that wait do so at once. A queue cannot be opened again.

        A buffer that comes back (nack(), a consumer that died) still enters the queue. May be
        repeated.

        immediate  frees what is in the queue, so that gets raise ShutDown now

        Raises:
            QueueBusy: the queue has a single producer, and that is another thread.
            AccessDenied: the pool was opened read-only.
        """
        refuse_readonly(self.pool)
        self._refuse_closed()
        code = lib.shmpool_queue_shutdown_wait(self.pool._number, self.number)
        if code < 0:
            self._fail(code, () if code == -errno.EBUSY else None)
        if immediate:
            self.drain()

    @contextlib.contextmanager
    def producer(self) -> Iterator[None]:
        """Declares the calling thread a producer of the queue during the block.

        Takes a buffer of the pool for it, so puts cost no more than without. If the process dies in
        the block, producers_alive does not count it any more.

        Raises:
            PoolExhausted: no buffer is free now.
        """
        self._refuse_closed()
        buf = self.pool.alloc(timeout=0)
        try:
            buf._declare(self)
            yield
        finally:
            if not buf.released:
                buf._settle()

    @property
    def producers_alive(self) -> int:
        """How many threads, of any process, are in a block `with queue.producer()`.

        Recovers dead members first, so that it never counts a dead one. Reads the header of every
        buffer that exists.
        """
        return self._unfinished(True, 0)

    def wait_producers(self, timeout: float | None = None) -> bool:
        """Waits until no producer is left: until producers_alive is 0.

        Waits up to timeout seconds (None: as long as it takes, 0: not at all). Returns whether none
        is left.
        """
        return self._unfinished(True, timeout) == 0

    def _unfinished(self, producers: bool, timeout: float | None) -> int:
        """Waits until the queue has no unfinished messages, or no producers. Returns how many."""
        self._refuse_closed()
        refuse_readonly(self.pool)
        seconds = timeout_seconds(timeout)
        deadline = INT64_MAX if seconds > FOREVER_S else 0
        if 0 < seconds <= FOREVER_S:
            deadline = time.monotonic_ns() + int(seconds * 1e9)
        while True:
            code = lib.shmpool_unfinished_wait(self.pool._number, self.number, producers, deadline)
            if code != -errno.EINTR:
                return check(code, f"queue {self.name!r}")
            self.pool._refuse_replaced()

    # Event loops, selectors and wait(): awaiting.py, wakers.py.

    def _give(self, buf: Buffer, timeout: float) -> None:
        self.put(buf, timeout)

    def _wanted(self) -> Wanted:
        return Wanted(self.pool, self.number, DATA)

    def _may_take(self) -> bool:
        self._refuse_closed()
        return not self.empty() or self.ended

    def _there(self) -> int:
        return len(self)

    async def arecv(self) -> bytes:
        """Takes the oldest payload as bytes, and frees its buffer; awaits one as aget() does."""
        return await self._until_data(self.try_recv)

    async def arecv_many(self, n: int) -> list[bytes]:
        """Takes the 1 to n oldest payloads as recv_many() does; awaits the first as aget() does."""
        return await self._until_data(lambda: unless_empty(self.recv_many, n))

    async def aput(self, buf: Buffer) -> None:
        """Moves a Buffer to the end of the queue; awaits room while the queue is full.

        The tasks of one event loop put in the order in which they asked, those with many buffers
        too. If the call is cancelled, or times out, the Buffer is still the caller's.

        Raises what put() raises, but not Full.
        """
        await self._until_room(self.put, buf)

    async def aput_many(self, burst: Burst | Iterable[Buffer | Burst]) -> None:
        """Moves a burst, or several Buffers or Bursts, to the end of the queue, all or nothing;
        awaits room for all as aput() does.

        Raises:
            Full: it has more buffers than the queue ever holds.
            What put_many() and aput() raise.
        """
        items = burst if isinstance(burst, Burst) else list(burst)
        n = sum(len(item) if isinstance(item, Burst) else 1 for item in items)
        if n > self.capacity:
            self.put_many(items, 0)  # raises
        await self._until_room(self.put_many, items, n)

    async def asend_many(self, payloads: Iterable[hints.BytesLike]) -> None:
        """Copies payloads into new buffers and puts them in their order, all or nothing; awaits
        buffers and room for all.

        If the call is cancelled, or times out, nothing was put. Send more payloads than the queue
        holds in parts.

        Raises:
            Full, PoolExhausted: they are more than the queue, or the pool, ever holds.
            What asend() raises.
        """
        items = tuple(payloads)
        if not items:
            return
        if len(items) > self.capacity:
            self._fail(-errno.EMSGSIZE, range(len(items)))
        sizes = [memoryview(item).nbytes for item in items]
        burst = await until_free(self.pool, max(sizes), lambda: self._alloc_all(sizes))
        with burst:
            for buf, item in zip(burst, items, strict=True):
                buf.write(item)
            await self._until_room(self.put_many, burst, len(items))

    def _alloc_all(self, sizes: list[int]) -> Burst:
        """Takes a free buffer with room for each of these sizes, all or none, without waiting."""
        taken: list[Buffer] = []
        try:
            taken.extend(self.pool.alloc(0, size) for size in sizes)
            return self.pool.burst(taken)
        except BaseException:
            for buf in taken:
                buf.free()
            raise

    async def aget_array(self) -> npt.NDArray[typing.Any]:
        """Takes the oldest array as get_array() does; awaits one as aget() does."""
        return await self._until_data(lambda: unless_empty(self.get_array))

    # Many at once.

    def put_many(
        self, burst: Burst | Iterable[Buffer | Burst], timeout: float | None = None
    ) -> None:
        """Moves a burst to the end of the queue, all of it or nothing; the Burst is then released.

        Moves a list or tuple of Buffers, or of Bursts, in the same way and in its order. Waits up
        to timeout seconds (None: as long as it takes, 0: not at all) for room. Raises Full at once
        for a burst that is larger than the queue.

        Raises:
            Full: there was no room for all of it for that long.
            InvalidArgument: a buffer is in the list twice.
            BufferInUse: a view of one of the buffers is alive.
            BufferReleased: the burst, or one of the Buffers, was freed or put before.
            ForeignBuffer: it belongs to another pool or process.
            QueueBusy: the queue has a single producer, and that is another thread.
            PoolClosed, PoolReplaced: see Pool.
        """
        if not isinstance(burst, Burst):
            self._put_items(burst, timeout)
            return
        if burst.pool is not self.pool:
            self._refuse_foreign(burst)
        burst._put(self, timeout)

    def get_many(self, n: int, timeout: float | None = None) -> Burst:
        """Takes the 1 to n oldest buffers as a Burst.

        Waits up to timeout seconds (None: as long as it takes, 0: not at all) for the first.

        Raises:
            InvalidArgument: n is less than 1.
            Empty: the queue was empty for that long.
            QueueBusy: the queue has a single consumer, and that is another thread.
            PoolClosed, PoolReplaced: see Pool.
        """
        burst = Burst(self.pool, self._most(n))
        burst._get(self, timeout)
        return burst

    # Arrays.

    def put_array(self, array: object, timeout: float | None = None) -> None:
        """Puts an array, for get_array() in any process; waits as put() does.

        An array that Pool.array or get_array returned is moved without a copy, also after a
        reshape, if it has all of the buffer's bytes. It is empty afterwards, with shape (0,). While
        a view of it, a tensor over it, or a second name for it is alive, that is BufferInUse. If
        the call fails the array is as before.

        Everything else is copied once into a new buffer: other arrays and slices, whatever has
        __dlpack__ on the CPU (tensors), __array_interface__, or the buffer protocol. An array that
        is not contiguous arrives in order C. Where references cannot be told apart an array of the
        pool is copied too, and stays as it is: while a debugger traces, and from CPython 3.14 on
        if a variable refers to it that is no local one.

        Raises:
            Full, PoolExhausted: there was no room, or no buffer, for that long.
            BufferInUse: a view of an array that would be moved is alive.
            PayloadTooLarge: a buffer does not hold the array and its record.
            InvalidArgument: the dtype refers to objects, or would not arrive as it is; the array
                is masked, or not in memory.
            TypeError: it is no array.
            QueueBusy: the queue has a single producer, and that is another thread.
            PoolClosed, PoolReplaced: see Pool.
        """
        if not self._hand_over(array, timeout):
            from .arrays import put_copy

            put_copy(self, array, timeout)

    # Buffers whose consumer failed, and dead letters.

    def requeue(self, item: Buffer | Burst, timeout: float | None = None) -> None:
        """Returns a Buffer or Burst that was got from this queue, as their nack() does.

        Raises:
            InvalidArgument: a buffer was got from another queue, or from none.
            TypeError: item is neither a Buffer nor a Burst.
            ForeignBuffer: it belongs to another pool.
            Full, BufferInUse, BufferReleased, PoolClosed, PoolReplaced: as nack().
        """
        if not isinstance(item, (Buffer, Burst)):
            raise TypeError(
                f"requeue() takes a shmpool.Buffer or a shmpool.Burst, not {type(item).__name__}"
            )
        if item.pool is not self.pool:
            self._refuse_foreign(item)
        here = [item] if isinstance(item, Buffer) else [b for b in item if not b.released]
        for buf in here:
            if buf.queue_number != self.number:
                raise errors.InvalidArgument(
                    f"buffer {buf.index} was not got from queue {self.name!r}"
                )
        item.nack(timeout)

    def peek(self, n: int = 1, size: int | None = None) -> list[Message]:
        """Copies the n oldest buffers, oldest first, with up to size bytes of each (None: all).

        The buffers stay in the queue. Never waits. Leaves out a buffer that a consumer takes during
        the copy. Works in a pool that was opened read-only.

        Raises:
            InvalidArgument: n is less than 1, or size is negative.
            SegmentInvalid: the shared memory is corrupted or truncated.
        """
        n, room = self._most(n), self.pool.geometry.room
        room = room if size is None else min(at_least(size, 0, "size"), room)
        self._refuse_closed()
        return read_messages(self.pool._number, self.number, queue_names(self.pool), n, room)

    def redrive(
        self, n: int | None = None, *, to: AlfQueue | None = None, reset: bool = False
    ) -> int:
        """Moves dead letters back to the queues they came from, or to queue to. Returns how many.

        Moves the n oldest buffers (None: as many as are in the queue now). reset sets their
        redelivered to 0. Never waits. Ends when queue to is full. Without to, a buffer goes to the
        end of this queue again if its queue is full, or if it is no dead letter. A caller that is
        killed during the call owns at most one buffer; recovery treats it as this queue's on_death
        says.

        Raises:
            InvalidArgument: n is less than 1; to is this queue or one of another pool; or a queue
                has a single producer.
            QueueBusy: the queue has a single consumer, and that is another thread.
            AccessDenied: the pool was opened read-only.
        """
        refuse_readonly(self.pool)
        refuse_foreign(to, self.pool, "to")
        if to is not None and to.number == self.number:
            raise errors.InvalidArgument(f"to is queue {self.name!r} itself")
        if self.producers == "single" or (to is not None and to.producers == "single"):
            raise errors.InvalidArgument(
                f"queue {(to or self).name!r} has a single producer, and takes from no other"
            )
        self._refuse_closed()
        moved, number = 0, to.number if to is not None else 0
        for _ in range(len(self) if n is None else self._most(n)):
            code = self._move(number, bool(reset))
            if code == -errno.EAGAIN or (to is not None and code == -errno.ENOBUFS):
                break
            if code not in (0, -errno.ENOBUFS, -errno.ENOENT):
                self._fail(code)
            moved += code == 0
        return moved

    def drain(self, n: int | None = None) -> int:
        """Frees the n oldest buffers (None: as many as are in the queue now). Returns how many.

        Raises:
            InvalidArgument: n is less than 1.
            QueueBusy: the queue has a single consumer, and that is another thread.
            AccessDenied: the pool was opened read-only.
        """
        refuse_readonly(self.pool)
        most, drained = len(self) if n is None else self._most(n), 0
        while drained < most:
            try:
                burst = self.get_many(min(most - drained, 256), timeout=0)
            except (errors.Empty, errors.ShutDown):
                break
            drained += len(burst)
            burst.free()
        return drained


def refuse_foreign(queue: AlfQueue | None, pool: hints.Pool, what: str) -> None:
    """Raises TypeError or InvalidArgument if queue is no queue of the pool. what names queue."""
    if queue is None:
        return
    if not isinstance(queue, AlfQueue):
        raise TypeError(f"{what} is {queue!r}; it must be an AlfQueue, its name, or None")
    if not pool._same(queue.pool):
        raise errors.InvalidArgument(
            f"{what} is {queue.name!r} of pool {queue.pool.name!r}; "
            f"it must be a queue of pool {pool.name!r}"
        )


def queue_names(pool: hints.Pool, topics: bool | None = None) -> dict[int, str]:
    """Returns the names of a pool's queues and topics by number, or of only the one or the other.

    Raises SegmentInvalid, PoolClosed.
    """
    info: Native = ffi.new("struct shmpool_queue_info *")
    names = {}
    for number in range(1, pool.geometry.queues + 1):
        code = lib.shmpool_queue_info(pool._number, number, info)
        if code != -errno.ENOENT:
            check(code, f"queue {number} of pool {pool.name!r}")
            if info.laned or (topics is not None and bool(info.topic) != topics):
                continue
            names[number] = queue_name(pool.name, number, info)
    return names
