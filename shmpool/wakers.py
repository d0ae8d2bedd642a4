# SPDX-License-Identifier: Apache-2.0
"""Descriptors that are readable while something can be taken: for select(), poll, epoll, wait().

What has a descriptor, or can be waited for, is a Waitable. Not in here: event loops (awaiting.py),
and the thread that makes descriptors readable (native/helper.h).
"""

import contextlib
import errno
import select
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from . import errors
from ._ffi import ffi, lib
from ._hot import timeout_seconds
from .codes import check
from .os_errors import refuse

if TYPE_CHECKING:
    from .pool import Pool

DATA, ROOM, FREE = lib.SHMPOOL_DATA, lib.SHMPOOL_ROOM, lib.SHMPOOL_FREE
POLL_MOST_S = 86400.0  # one poll() of a longer wait
WANTS = 64  # that one call takes


class Wanted(NamedTuple):
    """What is waited for: data in a queue or room in one, by its number, or a free buffer, by the
    number of its size class."""

    pool: "Pool"
    where: int
    what: int


class Waitable(Protocol):
    """What wait() takes: it can be taken from without waiting while _may_take() is true."""

    def _wanted(self) -> Wanted: ...
    def _may_take(self) -> bool: ...


T = TypeVar("T", bound=Waitable)


class Waker:
    """A descriptor with any number of wants, each of which fires once it may be had.

    Unknown to a forked child: there every call raises OSError.

    loop  one thread makes all its calls, and take() when it is readable: an event loop
    """

    def __init__(self, loop: bool = False) -> None:
        self._number = check(lib.shmpool_waker_make(loop), "a descriptor to wait with")
        self.fd: int = lib.shmpool_waker_fd(self._number)
        self._fired = ffi.new("int[]", WANTS)

    def want(self, wanted: Wanted, n: int = 1, stay: bool = False) -> int:
        """Waits for n of something. Returns the number of the want; 0 if they may be had now and
        stay is false.

        Raises:
            PoolClosed, AccessDenied: the pool is closed, or was opened read-only.
            LimitReached: no thread can be started.
        """
        pool, where, what = wanted
        code = lib.shmpool_waker_want(self._number, pool._number, where, what, n, stay)
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
        lib.shmpool_waker_drop(self._number, want)

    def take(self) -> list[int]:
        """Ends the wants that have fired, 64 at the most. Returns their numbers."""
        n = lib.shmpool_waker_take(self._number, self._fired, WANTS)
        return [self._fired[0]] if n == 1 else [self._fired[i] for i in range(n)]

    def refresh(self) -> int:
        """Makes the descriptor readable if a want may be had, and not readable otherwise.

        Returns how many may be had; a negative number if the descriptor is not this process's or
        was closed by the program.
        """
        return int(lib.shmpool_waker_refresh(self._number))

    def close(self) -> None:
        lib.shmpool_waker_close(self._number)

    def __del__(self, close: Callable[[int], None] = lib.shmpool_waker_close) -> None:
        with contextlib.suppress(AttributeError):  # it was not made
            close(self._number)


class Descriptor:
    """The descriptor of one Waitable: readable while something can be taken."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._make()

    def _make(self) -> None:
        self._waker = Waker()
        self._waker.want(self._wanted, stay=True)

    def fileno(self) -> int:
        """Returns the descriptor, which is readable now only if something can be taken.

        Makes another one in a forked child, and if the program has closed this one.
        """
        if self._waker.refresh() < 0:
            self._make()
        return self._waker.fd

    def after(self, take: Callable[..., Any]) -> Callable[..., Any]:
        """Returns take, a call that takes something, with refresh() behind it."""

        def taken(*args: Any, **options: Any) -> Any:
            try:
                return take(*args, **options)
            finally:
                self._waker.refresh()  # of now: a fork, or fileno(), may have made another one

        return taken

    def close(self) -> None:
        self._waker.close()


def wait(waitables: Iterable[T], timeout: float | None = None) -> list[T]:
    """Waits until something can be taken from one of several queues of any pools. Returns those.

    Waits up to timeout seconds (None: as long as it takes, 0: not at all); returns an empty list if
    there is nothing then. A queue that was shut down, and is empty, is among those returned.
    Another process may take what is there before the caller does: take with try_get() or timeout=0.

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
