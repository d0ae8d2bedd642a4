# SPDX-License-Identifier: Apache-2.0
"""Whose turn it is: no pool holds up others, in the event loop (Budgets) or in threads (Turns)."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Collection, Generator, Iterator
from typing import Any

from ..rpc.protocol import AnyRequest
from ..stats import LIMIT_S
from .handlers import RequestHandler

SHARE = 0.5  # of the event loop's time that all pools together may have


class Budgets:
    """When the event loop may look at each pool again. A look that took long makes the next one
    late: with n pools, each has 1/n of the SHARE at most."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        used: Callable[[], float] = time.thread_time,
    ) -> None:
        """used is the thread's processor time, which a busy machine does not make longer."""
        self._clock = clock
        self._used = used
        self._next: dict[str, float] = {}
        self._told: set[str] = set()

    def ready(self, pool: str) -> bool:
        """Whether it is the pool's turn."""
        return self.pause(pool) <= 0.0

    def pause(self, pool: str) -> float:
        """The seconds until its turn."""
        return self._next.get(pool, 0.0) - self._clock()

    @contextlib.contextmanager
    def use(self, pool: str) -> Iterator[None]:
        """What is done in here is done for the pool."""
        self._next.setdefault(pool, 0.0)
        began = self._used()
        try:
            yield
        finally:
            took = self._used() - began
            self._next[pool] = self._clock() + took * len(self._next) / SHARE

    def slowed(self, pool: str, period: float) -> float | None:
        """The seconds until its turn, if they are more than the period: once for each pool."""
        pause = self.pause(pool)
        if pause <= period or pool in self._told:
            return None
        self._told.add(pool)
        return pause

    def keep(self, pools: Collection[str]) -> None:
        """Forgets all others."""
        self._next = {pool: at for pool, at in self._next.items() if pool in pools}
        self._told &= set(pools)


class Turns:
    """Answers requests in threads. One that goes through a whole pool is answered in steps of some
    milliseconds, and between them others have their turn; a pool has one such request at a time,
    whoever asks how often."""

    def __init__(self, handler: RequestHandler, call: Callable[..., Awaitable[Any]]) -> None:
        """call(function, *arguments) is made by one of the threads."""
        self._handler = handler
        self._call = call
        self._locks: dict[str, asyncio.Lock] = {}

    async def run(self, request: AnyRequest, limit: float | None = LIMIT_S) -> Any:
        """The answer; limit is in seconds of processor time. ShmpoolError, OSError."""
        pool = getattr(request, "pool", "")
        lock = self._locks.setdefault(pool, asyncio.Lock())
        async with lock:
            steps = self._handler.steps(request, limit)
            ended = False
            while not ended:
                ended, answer = await self._call(_step, steps)
        if not lock.locked():
            self._locks.pop(pool, None)
        return answer


def _step(steps: Generator[None, None, Any]) -> tuple[bool, Any]:
    """Whether the steps have ended, and with what: a future cannot hold a StopIteration."""
    try:
        next(steps)
    except StopIteration as end:
        return True, end.value
    return False, None
