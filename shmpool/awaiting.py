# SPDX-License-Identifier: Apache-2.0
"""Waiting in an event loop: what queues, topics and pools await, on any loop that has add_reader().

Each loop has one descriptor (wakers.py), and a line of waiters for everything that it waits for. A
turn goes to the first waiters of a line. A waiter takes only in its turn, in the step of its task
that then returns what was taken: so a call that is cancelled has taken nothing, and passes its turn
on.
"""

from __future__ import annotations

import contextlib
import os
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Coroutine
from types import GenericAlias
from weakref import WeakKeyDictionary

from . import errors
from ._hot import Buffer, LineBase, Turns
from .named import Named
from .wakers import FREE, ROOM, Readable, Waker, Wanted

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from typing import Any, Generic, TypeVar

    from . import hints
    from .pool import Pool

    T = TypeVar("T")
    One = TypeVar("One")
    Many = TypeVar("Many")
else:
    from .later import hints

    One = Many = object

    class Generic:
        """Stands in for typing's, which is slow to import."""

        __class_getitem__ = classmethod(GenericAlias)


class _Place:
    """A waiter's place in its line."""

    __slots__ = ("future", "n")

    def __init__(self, n: int) -> None:
        self.n = n  # how many it waits for
        self.future: asyncio.Future[None] | None = None


class _Line(LineBase):
    """The waiters of one loop for one thing, in the order in which they came.

    LineBase has want, at the waker; turns, of waiters that have a turn and have not tried yet; and
    alone, the future of the only waiter.
    """

    def __init__(self, waker: Waker, wanted: Wanted, there: Callable[[], int]) -> None:
        self._waker = waker
        self._wanted = wanted
        self._there = there  # how many may be had now; a hint
        self.places: OrderedDict[_Place, None] = OrderedDict()

    def go_on(self, turns: Turns) -> None:
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
            turns.expect(self)
        else:
            self.give(self.count())

    def fired(self) -> None:
        """Gives turns after the want has fired: Turns calls it."""
        self.give(max(self.count(), 1))

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

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.waker = Waker(loop=True)
        self._lines: dict[Wanted, _Line] = {}
        self.turns = Turns(self.waker.number)
        loop.add_reader(self.waker.fd, self.turns)

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
                future = place.future = loop.create_future()
                line.alone = future if len(line.places) == 1 else None
                line.go_on(self.turns)
                if wanted.what == FREE and line.want and place is next(iter(line.places)):
                    result = attempt()  # a buffer may have come before the waker counted
                    if result is not None:
                        return result
                await future
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
            self._leave(line, place, loop)

    def _leave(self, line: _Line, place: _Place, loop: asyncio.AbstractEventLoop) -> None:
        """Ends a wait, and passes the turn on if the waiter did not use it."""
        del line.places[place]
        future = place.future
        if future is not None:
            if loop.is_closed():  # the wait ends because its task is dropped
                self.close()
                return
            if future.done() and not future.cancelled():
                line.turns -= 1
        if line.places:
            if line._wanted.what == FREE and not line.turns and not line.want:
                line.give(1)  # perhaps there are more
            line.go_on(self.turns)
            return
        if line.want:
            self.turns.forget(line.want)
            self.waker.drop(line.want)
        self._lines.pop(line._wanted, None)

    def try_all(self, pool: Pool, where: int) -> None:
        """Gives a turn to all that wait there: an object was closed, and raises for its waiters."""
        for wanted, line in list(self._lines.items()):
            if wanted.pool is pool and wanted.where == where and wanted.what != FREE:
                line.give()

    def close(self) -> None:
        self.waker.close()


_hubs: WeakKeyDictionary[asyncio.AbstractEventLoop, _Hub] = WeakKeyDictionary()
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


def closed(pool: Pool, where: int) -> None:
    """Tells the loops of all threads that an object of that queue or topic was closed."""
    for loop, found in list(_hubs.items()):
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(found.try_all, pool, where)


async def until_free(pool: Pool, size: int | None, alloc: Callable[[], T]) -> T:
    """Returns alloc(), which takes free buffers with room for size bytes, and waits for them."""

    def alloc_if_free() -> T | None:
        try:
            return alloc()
        except errors.PoolExhausted:
            return None

    taken = alloc_if_free()
    if taken is not None:
        return taken
    geometry = pool.geometry
    number = min(geometry.size_class(int(size or 0)), len(geometry.sizes) - 1)
    wanted = Wanted(pool, number, FREE)
    return await hub().until(wanted, alloc_if_free, lambda: 1)


class Taken(Readable, Generic[One, Many]):
    """What is awaited of something that is taken from: of AlfQueue and Subscriber."""

    if TYPE_CHECKING:  # the classes in C, and in Python, have them

        def try_get(self) -> One | None: ...
        def get_many(self, n: int, timeout: float | None = None) -> Many: ...

        def _there(self) -> int:
            """Returns how many can be taken now, about."""

    def _until_data(self, take: Callable[[], T | None]) -> Coroutine[Any, Any, T]:
        return hub().until(self._wanted(), take, self._there)

    async def aget(self) -> One:
        """Gets what get() gets; awaits it while there is none.

        The tasks of one event loop get in the order in which they asked. A call that is cancelled,
        or times out, has taken nothing. Use asyncio.timeout() for a time limit. Does not let other
        tasks run if it need not wait.

        Raises what get() raises, but not Empty.
        """
        return await self._until_data(self.try_get)

    async def aget_many(self, n: int) -> Many:
        """Gets what get_many(n) gets, 1 to n; awaits the first as aget() does.

        Raises InvalidArgument if n is less than 1, and what aget() raises.
        """
        return await self._until_data(lambda: unless_empty(self.get_many, n))

    def bursts(self, n: int = 64) -> AsyncIterator[Many]:
        """Returns an asynchronous iterator over what aget_many(n) returns.

        Ends after a shutdown, when nothing is left. The caller frees each burst.

            async for burst in queue.bursts():
                with burst:
                    ...
        """
        return _Bursts(self, n)


def unless_empty(take: Callable[..., T], *n: int) -> T | None:
    """Returns take(*n, 0), or None if there is nothing."""
    try:
        return take(*n, 0)
    except errors.Empty:
        return None


class _Bursts(Generic[Many]):
    """What bursts() returns."""

    def __init__(self, source: Taken[Any, Many], n: int) -> None:
        self._source = source
        self._n = n

    def __aiter__(self) -> AsyncIterator[Many]:
        return self

    async def __anext__(self) -> Many:
        try:
            return await self._source.aget_many(self._n)
        except errors.ShutDown:
            raise StopAsyncIteration from None


class Filled(Named):
    """What is awaited of something with limited room: of AlfQueue and Topic."""

    if TYPE_CHECKING:

        def send(self, payload: hints.BytesLike, timeout: float | None = None) -> None: ...

        def _give(self, buf: Buffer, timeout: float) -> None:
            """put() or publish()."""

        def _room(self) -> int:
            """Returns how many can be put now, about."""

    def close(self) -> None:
        super().close()
        closed(self.pool, self.number)

    def _lane(self) -> int:
        """Returns the number of the ring into which the calling thread puts."""
        return self.number

    async def _until_room(self, put: Callable[..., object], items: object, n: int = 1) -> bool:
        """Calls put(items, 0) while there is no room. Returns false if the pool is exhausted."""

        def put_if_room() -> bool | None:
            if self._room() < n and not self.ended:
                return None
            try:
                put(items, 0)
            except errors.Full:
                return None
            except errors.PoolExhausted:
                return False
            return True

        wanted = Wanted(self.pool, self._lane(), ROOM)
        return await hub().until(wanted, put_if_room, self._room, n)

    async def asend(self, payload: hints.BytesLike) -> None:
        """Copies a bytes-like object into a new buffer and sends it as send() does; awaits a buffer
        and room.

        The tasks of one event loop send in the order in which they asked, unless the pool is
        exhausted. If the call is cancelled, or times out, nothing was sent.

        Raises what send() raises, but neither Full nor PoolExhausted.
        """
        if await self._until_room(self.send, payload):
            return
        size = memoryview(payload).nbytes
        with await until_free(self.pool, size, lambda: self.pool.alloc(0, size)) as buf:
            buf.write(payload)
            await self._until_room(self._give, buf)
