# SPDX-License-Identifier: Apache-2.0
"""Waiting in an event loop: what AlfQueue and Pool await, on any loop that has add_reader().

Each loop has one descriptor (wakers.py), and a line of waiters for everything that it waits for. A
turn goes to the first waiters of a line. A waiter takes only in its turn, in the step of its task
that then returns what was taken: so a call that is cancelled has taken nothing, and passes its turn
on.
"""

import contextlib
import os
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakKeyDictionary

from . import errors
from ._hot import Buffer, QueueBase
from .burst import Burst
from .wakers import DATA, FREE, ROOM, Waker, Wanted

if TYPE_CHECKING:
    import asyncio

    from typing_extensions import Buffer as BytesLike

    from .pool import Pool

T = TypeVar("T")


class _Place:
    """A waiter's place in its line."""

    __slots__ = ("future", "n")

    def __init__(self, n: int) -> None:
        self.n = n  # how many it waits for
        self.future: asyncio.Future[None] | None = None


class _Line:
    """The waiters of one loop for one thing, in the order in which they came."""

    def __init__(self, waker: Waker, wanted: Wanted, there: Callable[[], int]) -> None:
        self._waker = waker
        self._wanted = wanted
        self._there = there  # how many may be had now; a hint
        self.places: OrderedDict[_Place, None] = OrderedDict()
        self.turns = 0  # waiters that have a turn and have not tried yet
        self.want = 0  # at the waker

    def go_on(self, wants: "dict[int, _Line]") -> None:
        """Gives turns if something is there, and waits for it otherwise. While neither is done."""
        if self.turns or self.want or not self.places:
            return
        first = next(iter(self.places))
        try:
            self.want = self._waker.want(self._wanted, first.n)
        except (errors.ShmpoolError, OSError) as error:
            self.fail(error)
            return
        if self.want:
            wants[self.want] = self
        else:
            self.give(self.count())

    def count(self) -> int:
        try:
            return self._there()
        except errors.ShmpoolError:
            return 0

    def give(self, most: int | None = None) -> None:
        """Gives turns: to the first waiter, and to those behind it while there is enough for all.

        most is how many there are, None for as many as anybody wants.
        """
        for place in self.places:
            if most is not None:
                most -= place.n
                if most < 0 and self.turns:
                    break
            if place.future is not None and not place.future.done():
                self.turns += 1
                place.future.set_result(None)

    def fail(self, error: Exception) -> None:
        """Ends all waits with an exception."""
        for place in self.places:
            if place.future is not None and not place.future.done():
                self.turns += 1
                place.future.set_exception(type(error)(*error.args))
                place.future.exception()  # a waiter that is cancelled does not ask for it


class _Hub:
    """What one loop waits for."""

    def __init__(self, loop: "asyncio.AbstractEventLoop") -> None:
        self.waker = Waker(loop=True)
        self._lines: dict[Wanted, _Line] = {}
        self._wants: dict[int, _Line] = {}
        loop.add_reader(self.waker.fd, self._ready)

    def _ready(self) -> None:
        for want in self.waker.take():
            line = self._wants.pop(want, None)
            if line is None:
                continue
            line.want = 0
            if len(line.places) > 1:
                line.give(max(line.count(), 1))
                continue
            (place,) = line.places  # the usual case, without a count
            if place.future is not None and not place.future.done():
                line.turns += 1
                place.future.set_result(None)

    async def until(
        self,
        wanted: Wanted,
        attempt: Callable[[], T | None],
        there: Callable[[], int],
        n: int = 1,
    ) -> T:
        """Returns the first result of attempt() that is not None, in this waiter's turn."""
        from asyncio import get_running_loop

        line = self._lines.get(wanted)
        if line is None:
            result = attempt()
            if result is not None:
                return result
            line = self._lines[wanted] = _Line(self.waker, wanted, there)
        place = _Place(n)
        line.places[place] = None
        loop = get_running_loop()
        try:
            while True:
                place.future = loop.create_future()
                line.go_on(self._wants)
                if wanted.what == FREE and line.want and place is next(iter(line.places)):
                    result = attempt()  # a buffer may have come before the waker counted
                    if result is not None:
                        return result
                await place.future
                line.turns -= 1
                place.future = None
                result = attempt()
                if result is not None:
                    return result
                wanted.pool._refuse_replaced()
        except errors.PoolReplaced as error:
            line.fail(error)
            raise
        finally:
            self._leave(line, place, loop.is_closed())

    def _leave(self, line: _Line, place: _Place, closed: bool) -> None:
        """Ends a wait, and passes the turn on if the waiter did not use it."""
        del line.places[place]
        if closed:  # the loop; the wait ends because its task is dropped
            self.close()
            return
        if place.future is not None and place.future.done() and not place.future.cancelled():
            line.turns -= 1
        if line.places:
            if line._wanted.what == FREE and not line.turns and not line.want:
                line.give(1)  # perhaps there are more
            line.go_on(self._wants)
            return
        if line.want:
            del self._wants[line.want]
            self.waker.drop(line.want)
        self._lines.pop(line._wanted, None)

    def close(self) -> None:
        self.waker.close()


_hubs: "WeakKeyDictionary[asyncio.AbstractEventLoop, _Hub]" = WeakKeyDictionary()
os.register_at_fork(after_in_child=_hubs.clear)


def hub() -> _Hub:
    """Returns that of the running loop. Closes those of loops that are closed."""
    from asyncio import get_running_loop  # a program without a loop does not import it

    loop = get_running_loop()
    found = _hubs.get(loop)
    if found is None:
        for other in [other for other in list(_hubs) if other.is_closed()]:
            _hubs.pop(other).close()
        found = _hubs[loop] = _Hub(loop)
    return found


async def free_buffer(pool: "Pool", size: int | None) -> Buffer:
    """Takes a free buffer with room for size bytes, and waits for one."""
    with contextlib.suppress(errors.PoolExhausted):
        return pool.alloc(0, size)
    needed, sizes = pool.headroom + int(size or 0), pool.geometry.sizes
    fits = (i for i, one in enumerate(sizes) if one.buffer_size >= needed)
    wanted = Wanted(pool, next(fits, len(sizes) - 1), FREE)

    def alloc() -> Buffer | None:
        try:
            return pool.alloc(0, size)
        except errors.PoolExhausted:
            return None

    return await hub().until(wanted, alloc, lambda: 1)


class AwaitedQueue(QueueBase):
    """The methods of AlfQueue that are awaited."""

    pool: "Pool"
    number: int
    capacity: int

    if TYPE_CHECKING:  # AlfQueue has them

        @property
        def ended(self) -> bool: ...
        def get_many(self, n: int, timeout: float | None = None) -> Burst: ...
        def put_many(
            self, burst: Burst | Iterable[Buffer | Burst], timeout: float | None = None
        ) -> None: ...

    async def _until_data(self, take: Callable[[], T | None]) -> T:
        return await hub().until(Wanted(self.pool, self.number, DATA), take, self.__len__)

    async def _until_room(self, put: Callable[..., object], items: object, n: int = 1) -> bool:
        """Calls put(items, 0) while there is no room. Returns false if the pool is exhausted."""

        def put_if_room() -> bool | None:
            if self.capacity - len(self) < n and not self.ended:
                return None
            try:
                put(items, 0)
            except errors.Full:
                return None
            except errors.PoolExhausted:
                return False
            return True

        wanted = Wanted(self.pool, self.number, ROOM)
        return await hub().until(wanted, put_if_room, lambda: self.capacity - len(self), n)

    async def aget(self) -> Buffer:
        """Takes the oldest Buffer; awaits one while the queue is empty.

        The tasks of one event loop get buffers in the order in which they asked. A call that is
        cancelled, or times out, has taken nothing. Use asyncio.timeout() for a time limit. Does not
        let other tasks run if there is a buffer.

        Raises:
            ShutDown: the queue was shut down, and is empty.
            QueueBusy: the queue has a single consumer, and that is another thread.
            PoolClosed, PoolReplaced: see Pool.
        """
        return await self._until_data(self.try_get)

    async def arecv(self) -> bytes:
        """Takes the oldest payload as bytes, and frees its buffer; awaits one as aget() does."""
        return await self._until_data(self.try_recv)

    async def aget_many(self, n: int) -> Burst:
        """Takes the 1 to n oldest buffers as a Burst; awaits the first as aget() does.

        Raises InvalidArgument if n is less than 1, and what aget() raises.
        """
        return await self._until_data(lambda: self._unless_empty(self.get_many, n))

    async def arecv_many(self, n: int) -> list[bytes]:
        """Takes the 1 to n oldest payloads as recv_many() does; awaits the first as aget() does."""
        return await self._until_data(lambda: self._unless_empty(self.recv_many, n))

    def _unless_empty(self, take: Callable[[int, float], T], n: int) -> T | None:
        try:
            return take(n, 0)
        except errors.Empty:
            return None

    def bursts(self, n: int = 64) -> AsyncIterator[Burst]:
        """Returns an asynchronous iterator of bursts, each with the 1 to n oldest buffers.

        Ends when the queue was shut down and is empty. The caller frees or puts each burst.

            async for burst in queue.bursts():
                with burst:
                    ...
        """
        return _Bursts(self, n)

    async def aput(self, buf: Buffer) -> None:
        """Moves a Buffer to the end of the queue; awaits room while the queue is full.

        The tasks of one event loop put in the order in which they asked, those with many buffers
        too. If the call is cancelled, or times out, the Buffer is still the caller's.

        Raises:
            ShutDown: the queue was shut down.
            BufferInUse, BufferReleased, ForeignBuffer, QueueBusy: as put().
            PoolClosed, PoolReplaced: see Pool.
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

    async def asend(self, payload: "BytesLike") -> None:
        """Copies a bytes-like object into a new buffer and puts it; awaits a buffer and room.

        The tasks of one event loop send in the order in which they asked, unless the pool is
        exhausted. If the call is cancelled, or times out, nothing was put.

        Raises:
            PayloadTooLarge: the payload has more bytes than all buffers of the pool hold.
            OutOfSharedMemory: the pool must grow and cannot.
            What aput() raises.
        """
        if await self._until_room(self.send, payload):
            return
        with await free_buffer(self.pool, memoryview(payload).nbytes) as buf:
            buf.write(payload)
            await self.aput(buf)


class _Bursts:
    """The bursts of a queue, for `async for`: AlfQueue.bursts()."""

    def __init__(self, queue: AwaitedQueue, n: int) -> None:
        self._queue = queue
        self._n = n

    def __aiter__(self) -> AsyncIterator[Burst]:
        return self

    async def __anext__(self) -> Burst:
        try:
            return await self._queue.aget_many(self._n)
        except errors.ShutDown:
            raise StopAsyncIteration from None
