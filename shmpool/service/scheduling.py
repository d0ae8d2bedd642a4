# SPDX-License-Identifier: Apache-2.0
"""Shares time between pools, so that none delays the others: in the event loop (TimeBudgets) and
in threads (StepRunner).
"""

import asyncio
import contextlib
import time
import weakref
from collections.abc import Awaitable, Callable, Collection, Generator, Iterator
from typing import Any

from ..rpc.protocol import AnyRequest
from ..stats import LIMIT_S
from .handlers import RequestHandler

SHARE = 0.5  # of the event loop's time that inspections of all pools together may take


class TimeBudgets:
    """When the event loop may inspect each pool again. The longer an inspection took, the later
    the next one may be: with n pools, each gets at most SHARE / n of the time."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        used: Callable[[], float] = time.thread_time,
    ) -> None:
        """used is the thread's processor time in seconds: a busy machine does not lengthen it."""
        self._clock = clock
        self._used = used
        self._next: dict[str, float] = {}
        self._reported: set[str] = set()

    def pause(self, pool: str) -> float:
        """Seconds until the pool may be inspected again; not positive if it may be now."""
        return self._next.get(pool, 0.0) - self._clock()

    @contextlib.contextmanager
    def use(self, pool: str) -> Iterator[None]:
        """Charges the block's processor time to the pool."""
        self._next.setdefault(pool, 0.0)
        began = self._used()
        try:
            yield
        finally:
            took = self._used() - began
            self._next[pool] = self._clock() + took * len(self._next) / SHARE

    def slowed(self, pool: str, period: float) -> float | None:
        """The pool's pause in seconds if it exceeds the period; once for each pool, else None."""
        pause = self.pause(pool)
        if pause <= period or pool in self._reported:
            return None
        self._reported.add(pool)
        return pause

    def keep(self, pools: Collection[str]) -> None:
        """Forgets all other pools."""
        self._next = {pool: at for pool, at in self._next.items() if pool in pools}
        self._reported &= set(pools)


class StepRunner:
    """Answers requests in threads. A request that walks a whole pool runs in steps of some
    milliseconds, and requests for other pools run between them. A pool runs one request at a time,
    however many are waiting.

    A request keeps its pool open from its first step to its last, and a process can have few pools
    open. So at most `places` requests are in progress. Others wait for a place, in their order.
    """

    def __init__(
        self, handler: RequestHandler, call: Callable[..., Awaitable[Any]], places: int
    ) -> None:
        """call(function, *arguments) runs the function in one of the threads."""
        self._handler = handler
        self._call = call
        self._places = asyncio.Semaphore(places)
        # Of the requests in progress: a lock is dropped with the last caller that waits for it.
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    async def run(self, request: AnyRequest, limit: float | None = LIMIT_S) -> Any:
        """Returns the answer; limit is in seconds of processor time. ShmpoolError, OSError."""
        pool = getattr(request, "pool", "")
        lock = self._locks.setdefault(pool, asyncio.Lock())
        async with lock:
            await self._places.acquire()
            steps = self._handler.steps(request, limit)
            step: asyncio.Future[Any] | None = None
            done = False
            try:
                while not done:
                    step = asyncio.ensure_future(self._call(_step, steps))
                    done, answer = await asyncio.shield(step)
            finally:
                # A caller that is cancelled does not wait for the step that a thread is in.
                if step is None or step.done():
                    self._end(steps)
                else:
                    step.add_done_callback(lambda last: self._end(steps, last))
        return answer

    def _end(
        self, steps: Generator[None, None, Any], last: "asyncio.Future[Any] | None" = None
    ) -> None:
        """Closes the pool of a request, and gives its place to the next."""
        if last is not None and not last.cancelled():
            last.exception()  # mark it as seen: nobody waits for it
        try:
            steps.close()
        finally:
            self._places.release()


def _step(steps: Generator[None, None, Any]) -> tuple[bool, Any]:
    """True and the result if the steps have ended, else False. A future cannot carry the
    StopIteration itself."""
    try:
        next(steps)
    except StopIteration as end:
        return True, end.value
    return False, None
