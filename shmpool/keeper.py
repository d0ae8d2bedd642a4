# SPDX-License-Identifier: Apache-2.0
"""What the daemon does by itself: holds pools, watches their members, recovers, trims, prunes, and
raises alarms. No sockets.

The event loop's thread only looks, through read-only mappings. Whatever changes a pool is done by
one thread of its own, and what goes through every buffer only to look by others, so that nothing
holds up the next recovery but the last.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from . import errors, registry
from .alarms import Policy
from .answers import QueueOptions
from .closes import Closes
from .config import Config, ConfigError
from .files import pool_names
from .held import Changes, Held, RecoveryEvent
from .pool import Pool
from .protocol import AnyRequest, GetHolders, Prune, Recover, Trim
from .stats import Holder, Recovery

log = logging.getLogger("shmpool")

SCAN_S = 0.1  # between two looks for dead members
SCAN_SOON_S = 0.002  # after a token was dropped: inotify tells it before the lock is free
AGAIN_S = (
    0.02,
    30.0,
)  # first and longest pause until what a recovery had to postpone is tried again
PRUNE_S = 60.0
LOOK_SHARE = 500  # times as long as it took, until the holders are looked at again
CLIENT_THREADS = 2  # for audits and the like, which nothing waits for but who asked

Run = Callable[[AnyRequest], Awaitable[Any]]


class Keeper:
    """Keeps the pools of a registry, in the event loop it is made in."""

    def __init__(self, pools: registry.Registry) -> None:
        self.registry = pools
        self.config = Config()
        self.watchers: set[Callable[[RecoveryEvent], None]] = set()  # told of each recovery
        self._thread = ThreadPoolExecutor(1, "keeper")
        self._client_threads = ThreadPoolExecutor(CLIENT_THREADS, "client")
        self._tasks: set[asyncio.Task[None]] = set()
        self._wanted: dict[str, float] = {}  # pools to recover: since when
        self._recovering: set[str] = set()
        self._again: dict[str, tuple[float, float]] = {}  # pools to try again: when, pause in s
        self._refused: dict[str, str] = {}  # why a pool could not be adopted: logged once
        self._due: dict[str, float] = {}

        self._loop = asyncio.get_running_loop()
        self._closes = Closes(self._loop, self._scan_soon)
        self._scanning: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begins to look and to watch."""
        self._spawn(self._every(SCAN_S, self._scan))
        self._spawn(self._every(self.config.daemon.interval, self._look))

    async def close(self) -> None:
        """Ends what is going on, and releases the pools, which stay."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._closes.close()
        if self._scanning is not None:
            self._scanning.cancel()
        self._client_threads.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self._thread.shutdown)
        for name in list(self.registry.held):
            self.registry.release(name)

    def _spawn(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a task of the daemon failed", exc_info=error)

    async def _every(self, seconds: float, what: Callable[[], None]) -> None:
        while True:
            try:
                what()
            except Exception:
                log.exception("looking at the pools failed")
            await asyncio.sleep(seconds)

    # What the configuration declares.

    async def declare(self, config: Config) -> None:
        """Makes what is declared and missing: all of it, or nothing. ConfigError."""
        await self._loop.run_in_executor(self._thread, _make, config)
        self.config = config
        for name, pool in config.pools.items():
            self.registry.hold(name, pool)
        for name, held in list(self.registry.held.items()):
            if name not in config.pools:
                held.policy = Policy()
                if not config.daemon.adopts(name):
                    self.registry.release(name)
                    log.info("pool %s released: the configuration does not name it", name)

    # Looking.

    def _scan_soon(self) -> None:
        if self._scanning is None:
            self._scanning = self._loop.call_later(SCAN_SOON_S, self._scan)

    def _scan(self) -> None:
        """In which pools a member is dead, or something abandoned waits to be placed."""
        if self._scanning is not None:
            self._scanning.cancel()
            self._scanning = None
        now = time.monotonic()
        for name, held in list(self.registry.held.items()):
            with self._reading(name):
                if held.view.dead() and now >= self._again.get(name, (0.0, 0.0))[0]:
                    self._want(name)

    @contextlib.contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        """A pool that turns out to be damaged in here is released, and the others are not."""
        try:
            yield
        except errors.SegmentInvalid as error:
            self.registry.release(name)
            log.warning("pool %s released: %s", name, error)

    def _look(self) -> None:
        """Pools that came and went, alarms, and what is due."""
        self._scan()
        self._adopt()
        for name, held in list(self.registry.held.items()):
            with self._reading(name):
                self._log_alarms(name, held.look())
            if held.should_trim() and held.policy.trim_to is not None:
                held.trimmed()
                self._spawn(self._trim(name, held.policy.trim_to))
            if self._is_due(f"holders of {name}", max(held.policy.held_s / 4, 0.25)):
                self._spawn(self._look_at_holders(name, held))
        if self.config.daemon.prune and self._is_due("prune", PRUNE_S):
            self._spawn(self._prune())

    def _is_due(self, what: str, period: float) -> bool:
        now = time.monotonic()
        if now < self._due.get(what, 0.0):
            return False
        self._due[what] = now + period
        return True

    def _adopt(self) -> None:
        for name, held in list(self.registry.held.items()):
            with self._reading(name):
                if held.view.stale():
                    self.registry.release(name)
                    log.info("pool %s released: its name stands for another, or for none", name)
        for name in pool_names():
            declared = self.config.pools.get(name)
            if name in self.registry.held:
                continue
            if declared is None and not self.config.daemon.adopts(name):
                continue
            try:
                self.registry.hold(name, declared or Policy())
                log.info("pool %s adopted", name)
                self._refused.pop(name, None)
            except (errors.ShmpoolError, OSError) as error:
                if self._refused.get(name) != str(error):
                    self._refused[name] = str(error)
                    log.warning("pool %s not adopted: %s", name, error)

    def _log_alarms(self, name: str, changes: Changes) -> None:
        raised, over = changes
        for alarm in raised:
            log.warning("alarm %s: pool %s: %s: %s", alarm.kind, name, alarm.subject, alarm.message)
        for alarm in over:
            log.info("alarm %s over: pool %s: %s", alarm.kind, name, alarm.subject)

    # Recovering.

    def _want(self, name: str) -> None:
        self._wanted.setdefault(name, time.monotonic())
        if name not in self._recovering:
            self._recovering.add(name)
            self._spawn(self._recover(name))

    async def _recover(self, name: str) -> None:
        """Recovers as often as it is wanted, the last time for all that died meanwhile."""
        try:
            while (since := self._wanted.pop(name, None)) is not None:
                what = await self._quietly(Recover(name))
                now = time.monotonic()
                if what is None or what.postponed or not what.members:
                    _, pause = self._again.get(name, (0.0, AGAIN_S[0]))
                    self._again[name] = now + pause, min(pause * 2, AGAIN_S[1])
                else:
                    self._again.pop(name, None)
                if what is not None and what.members:
                    self._enter(name, what, now - since)
        finally:
            self._recovering.discard(name)

    def _enter(self, name: str, what: Recovery, seconds: float) -> None:
        held = self.registry.held.get(name)
        if held is None:
            return
        event = held.recovered(what, seconds)
        log.info(
            "pool %s recovered in %.1f ms: %d members, %d buffers, %d requeued, %d dead letters",
            name, seconds * 1e3, what.members, what.buffers, what.requeued, what.dead_lettered,
        )  # fmt: skip
        for tell in list(self.watchers):
            tell(event)

    # What may take long.

    async def run(self, request: AnyRequest) -> Any:
        """The answer, made by the keeper's own thread."""
        return await self._loop.run_in_executor(self._thread, self.registry.answer, request)

    async def run_for_client(self, request: AnyRequest) -> Any:
        """The answer, made where it holds up nothing that the daemon does by itself."""
        executor = self._client_threads
        return await self._loop.run_in_executor(executor, self.registry.answer, request)

    async def idle(self) -> None:
        """Returns when the keeper's own thread has nothing else to do."""
        await self._loop.run_in_executor(self._thread, int)

    @property
    def interval(self) -> float:
        """Seconds between two looks at every pool."""
        return self.config.daemon.interval

    async def _trim(self, name: str, keep: int) -> None:
        freed = await self._quietly(Trim(name, keep))
        if freed:
            log.info("pool %s: %d bytes given back to the kernel", name, freed)

    async def _look_at_holders(self, name: str, held: Held) -> None:
        """Goes through every buffer, so a large pool is looked at less often."""
        if self.registry.held.get(name) is not held:
            return  # it was released meanwhile
        began = time.monotonic()
        holders: list[Holder] | None = []
        with self._reading(name):
            if held.view.stats().held:
                holders = await self._quietly(GetHolders(name), self.run_for_client)
        if holders is not None and self.registry.held.get(name) is held:
            self._log_alarms(name, held.look_at_holders(holders))
        now = time.monotonic()
        due = f"holders of {name}"
        self._due[due] = max(self._due[due], now + LOOK_SHARE * (now - began))

    async def _prune(self) -> None:
        done = await self._quietly(Prune())
        for name in done.removed if done else ():
            log.info("segment %s removed: it was abandoned", name)

    async def _quietly(self, request: AnyRequest, run: Run | None = None) -> Any:
        try:
            return await (run or self.run)(request)
        except (errors.ShmpoolError, OSError) as error:
            log.warning("%s: %s", request.method, error)


def refuse_differences(config: Config) -> set[str]:
    """ConfigError if a pool that exists is not as declared; the names of all that exist."""
    there = set(pool_names())
    wrong = [
        config.document.said(config.document.line(_place(difference)), str(difference))
        for name, pool in config.pools.items()
        if name in there
        for difference in registry.differences(name, pool, pool.queues)
    ]
    if wrong:
        raise ConfigError("\n".join(wrong))
    return there


def _place(difference: registry.Difference) -> tuple[str, ...]:
    """Where the configuration says what is not so."""
    if difference.queue is not None:
        return "pools", difference.pool, "queues", difference.queue, difference.option
    option = {"members": "max_members", "queues": "max_queues"}.get(difference.option)
    return "pools", difference.pool, option or difference.option


def _make(config: Config) -> None:
    """Makes the pools and queues that are declared and missing: all, or none. ConfigError."""
    there = refuse_differences(config)
    made: list[str] = []
    try:
        for name in config.pools.keys() & there:
            _refuse_more_queues(name, config)
        for name, pool in config.pools.items():
            if name not in there:
                try:
                    registry.create_pool(name, pool, pool.queues)
                except errors.OutOfSharedMemory as error:
                    raise config.document.error(("pools", name, "prealloc"), str(error)) from None
                made.append(name)
                log.info("pool %s created", name)
        for name in config.pools.keys() & there:
            _complete(name, config)
    except BaseException:
        for name in made:
            Pool.unlink(name)
            log.info("pool %s removed again", name)
        raise


def _missing(pool: Pool, config: Config) -> dict[str, QueueOptions]:
    """The queues that a pool declares and does not have yet."""
    there = {queue.name for queue in pool.queues()}
    declared = config.pools[pool.name].queues
    return {name: queue for name, queue in declared.items() if name not in there}


def _refuse_more_queues(name: str, config: Config) -> None:
    """ConfigError if there is no place for a pool's new queues."""
    with Pool.attach(name) as pool:
        missing, room = _missing(pool, config), pool.max_queues - len(pool.queues())
    if len(missing) > room:
        first = list(missing)[room]
        raise config.document.error(
            ("pools", name, "queues", first), f"pool {name!r} has room for {room} more queues"
        )


def _complete(name: str, config: Config) -> None:
    with Pool.attach(name) as pool:
        missing = _missing(pool, config)
        registry.create_queues(pool, missing)
        for queue_name in missing:
            log.info("queue %s of pool %s created", queue_name, name)
