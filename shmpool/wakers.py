# SPDX-License-Identifier: Apache-2.0
"""Descriptors that are readable while something can be taken: for select(), poll, epoll, wait().

What has a descriptor, or can be waited for, is a Waitable. Not in here: event loops (awaiting.py),
and the thread that makes descriptors readable (native/helper.h).
"""

from __future__ import annotations

import contextlib
import errno
import select
import time
from collections.abc import Callable, Iterable
from operator import itemgetter

from . import errors
from ._ffi import lib
from ._hot import timeout_seconds
from .codes import check
from .os_errors import refuse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol, TypeVar

    from .pool import Pool

DATA, ROOM, FREE = lib.SHMPOOL_DATA, lib.SHMPOOL_ROOM, lib.SHMPOOL_FREE
MESSAGE = lib.SHMPOOL_MESSAGE
POLL_MOST_S = 86400.0  # one poll() of a longer wait


class Wanted(tuple["Pool", int, int]):
    """What is waited for: where and what are index and what of shmpool_waker_want() (shmpool.h).

    A tuple by hand: NamedTuple needs typing, and compiles.
    """

    __slots__ = ()

    def __new__(cls, pool: Pool, where: int, what: int) -> Wanted:
        return tuple.__new__(cls, (pool, where, what))

    pool, where, what = map(property, map(itemgetter, range(3)))


if TYPE_CHECKING:

    class Waitable(Protocol):
        """What wait() takes: it can be taken from without waiting while _may_take() is true."""

        def _wanted(self) -> Wanted: ...
        def _may_take(self) -> bool: ...

    T = TypeVar("T", bound=Waitable)
else:
    T = object


class Waker:
    """A descriptor with any number of wants, each of which fires once it may be had.

    Unknown to a forked child: there every call raises OSError.

    loop  one thread makes all its calls, and calls Turns when it is readable: an event loop
    """

    def __init__(self, loop: bool = False) -> None:
        self.number = check(lib.shmpool_waker_make(loop), "a descriptor to wait with")
        self.fd: int = lib.shmpool_waker_fd(self.number)

    def want(self, wanted: Wanted, n: int = 1, stay: bool = False) -> int:
        """Waits for n of something. Returns the number of the want; 0 if they may be had now and
        stay is false.

        Raises:
            PoolClosed, AccessDenied: the pool is closed, or was opened read-only.
            LimitReached: no thread can be started.
        """
        pool, where, what = wanted
        code = lib.shmpool_waker_want(self.number, pool._number, where, what, n, stay)
        if code == -errno.EAGAIN:
            raise errors.LimitReached(
                "no thread can be started that waits for shared memory; ulimit -u raises the limit"
            )
        if code == -errno.ESTALE:
            raise OSError("a descriptor of the process that this one was forked from")
        if code < 0:
            refuse(pool, code, f"pool {pool.name!r}")
        return int(code)

    def drop(self, want: int) -> None:
        lib.shmpool_waker_drop(self.number, want)

    def refresh(self) -> int:
        """Makes the descriptor readable if a want may be had, and not readable otherwise.

        Returns how many may be had; a negative number if the descriptor is not this process's or
        was closed by the program.
        """
        return int(lib.shmpool_waker_refresh(self.number))

    def close(self) -> None:
        lib.shmpool_waker_close(self.number)

    def __del__(self, close: Callable[[int], None] = lib.shmpool_waker_close) -> None:
        with contextlib.suppress(AttributeError):  # it was not made
            close(self.number)


class Readable:
    """What has a descriptor that is readable while something can be taken."""

    if TYPE_CHECKING:  # the classes in C, and in Python, have them
        _waker: Waker | None  # None at first

        def _wanted(self) -> Wanted: ...
        def _may_take(self) -> bool: ...
        def _watch(self, waker: int, /) -> None: ...

    def fileno(self) -> int:
        """Returns a file descriptor that is readable while there is something to get.

        For select(), poll(), epoll, selectors, loop.add_reader() and multiprocessing's
        connection.wait(). The first call makes the descriptor; close() closes it, as does the end
        of this object. A get by this object, and each fileno(), makes it not readable if nothing
        is left. After any other get it may stay readable for up to a quarter of a second:
        take with try_get(), which may return None. Also readable after a shutdown, and when a get
        would raise PoolClosed or PoolReplaced. Do not read from it, and do not close it.

        Raises:
            AccessDenied: the pool was opened read-only.
            LimitReached: this process has all its file descriptors in use.
            PoolClosed: see Pool.
        """
        self._may_take()  # raises
        if self._waker is None or self._waker.refresh() < 0:  # of a parent, or closed by others
            waker = Waker()
            waker.want(self._wanted(), stay=True)
            self._watch(waker.number)
            self._waker = waker
        return self._waker.fd

    def _drop_descriptor(self) -> None:
        if self._waker is not None:
            self._watch(0)
            self._waker.close()
            self._waker = None


def wait(waitables: Iterable[T], timeout: float | None = None) -> list[T]:
    """Waits until something can be taken from one of several queues and subscribers, of any pools.
    Returns those.

    Waits up to timeout seconds (None: as long as it takes, 0: not at all); returns an empty list if
    there is nothing then. One that was shut down, and is empty, is among those returned. Another
    caller may take what is there before the caller does: take with try_get() or timeout=0.

    >>> import shmpool
    >>> with shmpool.Pool.create("doc-wait", buffer_size=64, capacity=64) as pool:
    ...     first, second = (pool.create_queue(name, capacity=4) for name in "ab")
    ...     second.send(b"hello")
    ...     [queue.name for queue in shmpool.wait([first, second], timeout=1)]
    ['b']
    >>> shmpool.Pool.unlink("doc-wait")

    Raises:
        PoolClosed, PoolReplaced: see Pool.
        AccessDenied: a pool was opened read-only.
    """
    several = list(waitables)
    seconds = timeout_seconds(timeout)
    ready = [one for one in several if one._may_take()]
    if ready or not seconds:
        return ready
    deadline = time.monotonic() + seconds
    waker, poll = Waker(), select.poll()
    try:
        poll.register(waker.fd, select.POLLIN)
        for one in several:
            waker.want(one._wanted(), stay=True)
        while True:
            left = min(deadline - time.monotonic(), POLL_MOST_S)
            poll.poll(max(left, 0) * 1000)
            ready = [one for one in several if one._may_take()]
            if ready or left <= 0:
                return ready
            for one in several:
                one._wanted().pool._refuse_replaced()
            waker.refresh()
    finally:
        waker.close()
