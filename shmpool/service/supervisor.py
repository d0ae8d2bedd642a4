# SPDX-License-Identifier: Apache-2.0
"""What the daemon does by itself: watches pools and their members, recovers dead members, trims,
prunes, and raises alarms. No sockets.

The event loop only reads, through read-only mappings. One thread recovers. One thread creates
declared pools, trims and prunes. CLIENT_THREADS threads answer clients. Work on a whole pool is
done in steps (scheduling.py), so that no pool delays the others.
"""

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from .. import errors
from ..pruning import survey
from ..rpc.protocol import AnyRequest, GetHolders, List, Recover, Trim
from ..stats import LIMIT_S, Recovery
from . import declared_pools, handlers
from .adoption import Adoption
from .alarms import Changes
from .config import Config
from .file_watch import CloseWatch, NameWatch
from .handlers import CLIENT_PLACES, RECOVERY_PLACES
from .scheduling import StepRunner, TimeBudgets
from .watched_pool import Rank, RecoveryEvent, WatchedPool

log = logging.getLogger("shmpool")

SCAN_S = 0.1  # between two scans for dead members
SCAN_SOON_S = 0.002  # after a file was closed: inotify reports it before the lock is free
RETRY_S = 0.02, 30.0  # first and longest pause until an incomplete recovery is tried again
RETRY_FACTOR = 10  # that pause is at least so many times as long as the recovery took
PRUNE_S = 10.0  # between two searches for abandoned pools
COST_FACTOR = 500  # after a slow job, so many times as long as it took until it runs again
RECOVER_S = 10.0  # of processor time, in steps: more than the largest pool takes
HOLDERS_S = 5.0  # of processor time, in steps, to list the holders of the largest pool
ALARMS_LOGGED = 20  # of a pool at a time
CLIENT_THREADS = 2  # for audits and other requests that walk a whole pool
STOP_S = 3.0  # how long close() waits for the threads


class Supervisor:
    """Supervises the pools of a handler. For the thread of the event loop that it is made in."""

    def __init__(self, handler: handlers.RequestHandler) -> None:
        self.handler = handler
        self.config = Config()
        self.on_recovery: set[Callable[[RecoveryEvent], None]] = set()  # called after each recovery
        self.stuck = False  # after close(): a thread could not be ended
        self._loop = asyncio.get_running_loop()
        self._recovery_thread = ThreadPoolExecutor(1, "recovery")
        self._upkeep_thread = ThreadPoolExecutor(1, "upkeep")
        self._client_threads = ThreadPoolExecutor(CLIENT_THREADS, "client")
        call = functools.partial(self._in, self._recovery_thread)
        self._recoveries = StepRunner(handler, call, RECOVERY_PLACES)
        call = functools.partial(self._in, self._client_threads)
        self._requests = StepRunner(handler, call, CLIENT_PLACES)
        self._running: set[Future[Any]] = set()  # in the threads
        self._tasks: set[asyncio.Task[None]] = set()
        self._to_recover: dict[str, float] = {}  # pools, and when a dead member was found
        self._recovering: set[str] = set()
        self._retry: dict[str, tuple[float, float]] = {}  # incomplete recoveries: when, pause in s
        self._due: dict[tuple[str, str], float] = {}  # when which job of which pool may run again
        self._declaring: set[str] = set()  # refused pools that are being tried again
        self._last_error: dict[tuple[str, str], str] = {}  # of which job of which pool
        self._inspect_budgets, self._scan_budgets = TimeBudgets(), TimeBudgets()
        self._next_scan: asyncio.TimerHandle | None = None
        self.adoption = Adoption(handler, self._declare_again)
        self._name_watch = NameWatch(self.adoption.changed)
        self._close_watch = CloseWatch(self._scan_soon)

    def start(self) -> None:
        self._spawn(self._name_watch.run())
        self._spawn(self._every(SCAN_S, self._scan))
        self._spawn(self._every(self.config.daemon.interval, self._inspect))

    async def close(self) -> None:
        """Ends the work and releases the pools, which stay. Sets stuck if a thread is still busy
        after STOP_S."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._close_watch.close()
        self._name_watch.close()
        if self._next_scan is not None:
            self._next_scan.cancel()
        for threads in (self._recovery_thread, self._upkeep_thread, self._client_threads):
            threads.shutdown(wait=False, cancel_futures=True)
        until = time.monotonic() + STOP_S
        while self._running and time.monotonic() < until:
            await asyncio.sleep(0.01)
        self.stuck = bool(self._running)
        for name in list(self.handler.watched):
            self.handler.release(name)

    def _spawn(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a task of the daemon failed", exc_info=error)

    async def _every(self, seconds: float, what: Callable[[], Awaitable[None] | None]) -> None:
        while True:
            try:
                more = what()
                if more is not None:
                    await more
            except Exception:
                log.exception("inspecting the pools failed")
            await asyncio.sleep(seconds)

    # Declared pools.

    async def declare(self, config: Config) -> None:
        """Creates the declared pools and queues that are missing: all of them, or none.
        ConfigError.

        A declared pool whose name is taken by a file that cannot be it is refused, and created
        when that file is gone: anybody may create such a file, and it must not keep the daemon
        from the other pools.
        """
        refused = await self._in(self._upkeep_thread, declared_pools.make, config)
        self.config = config
        self.adoption.configure(config)
        for name in config.pools:
            self._declared(name, refused.get(name))
        self._name_watch.rescan()

    def _declared(self, name: str, why: str | None) -> None:
        """Watches a declared pool. Refuses it instead if why is given."""
        pool = self.config.pools.get(name)
        if pool is None:
            return
        try:
            if why is None:
                self.adoption.watch(name, pool, Rank.DECLARED)
            self.adoption.declared(name, why)
        except (errors.ShmpoolError, OSError) as error:
            self.adoption.declared(name, str(error))

    def _declare_again(self, name: str) -> None:
        if name not in self._declaring and name in self.config.pools:
            self._declaring.add(name)
            self._spawn(self._make_again(name))

    async def _make_again(self, name: str) -> None:
        """Creates and watches a refused declared pool if that is possible now."""
        config = self.config
        try:
            alone = replace(config, pools={name: config.pools[name]})
            refused = await self._in(self._upkeep_thread, declared_pools.make, alone)
            self._declared(name, refused.get(name))
        except (errors.ShmpoolError, OSError) as error:
            self.adoption.declared(name, "; ".join(str(error).splitlines()))
        finally:
            self._declaring.discard(name)

    # Scans and inspections, in the event loop.

    def _scan_soon(self, pause: float = SCAN_SOON_S) -> None:
        if self._next_scan is None:
            self._next_scan = self._loop.call_later(pause, self._scan)

    def _scan(self) -> None:
        """Finds the pools that have dead members or abandoned buffers, and recovers them."""
        if self._next_scan is not None:
            self._next_scan.cancel()
            self._next_scan = None
        pools = self.handler.watched
        self._close_watch.follow({name: pool.inode for name, pool in pools.items()})
        now = time.monotonic()
        for name, pool in list(pools.items()):
            if (pause := self._scan_budgets.pause(name)) > 0:
                self._scan_soon(pause)
                continue
            with self._scan_budgets.use(name), self._guarded("scan", name):
                if pool.view.dead() and now >= self._retry.get(name, (0.0, 0.0))[0]:
                    self._start_recovery(name)

    @contextlib.contextmanager
    def _guarded(self, job: str, name: str) -> Iterator[None]:
        """Releases the pool if the block finds it damaged. Logs any other error of the block, so
        that one pool cannot keep the daemon from the others; once while every run of the job on
        that pool fails with it."""
        try:
            yield
        except errors.PoolNotFound:
            pass  # it was removed since: the next inspection releases it
        except errors.SegmentInvalid as error:
            self.adoption.damaged(name, str(error))
        except Exception as error:
            if self._last_error.get((job, name)) != str(error):
                self._last_error[job, name] = str(error)
                unknown = None if isinstance(error, errors.ShmpoolError) else error
                log.error("pool %s: %s failed: %s", name, job, error, exc_info=unknown)
        else:
            self._last_error.pop((job, name), None)

    async def _inspect(self) -> None:
        """Updates the set of watched pools and their alarms, and starts the jobs that are due."""
        self._scan()
        self.adoption.rescan()
        self._forget_released()
        self._inspect_budgets.keep(self.handler.watched)
        self._scan_budgets.keep(self.handler.watched)
        for name, pool in list(self.handler.watched.items()):
            await asyncio.sleep(0)  # clients' requests come in between
            if self.handler.watched.get(name) is not pool or self._inspect_budgets.pause(name) > 0:
                continue
            with self._inspect_budgets.use(name), self._guarded("inspection", name):
                self._log_alarms(name, pool.inspect())
            if (pause := self._inspect_budgets.slowed(name, self.interval)) is not None:
                log.warning("pool %s takes long to inspect; next in %.1f s", name, pause)
            if not pool.writable:
                continue
            if pool.should_trim() and pool.policy.trim_to is not None:
                pool.trimmed()
                self._spawn(self._trim(name, pool.policy.trim_to))
            if self._is_due("holders", name, max(pool.policy.held_s / 4, 0.25)):
                self._spawn(self._inspect_holders(name, pool))
        if self.config.daemon.prune and self._is_due("prune", "", PRUNE_S):
            self._spawn(self._prune())

    def _is_due(self, job: str, pool: str, period: float) -> bool:
        """True if the job may run now; it is then due again after the period, in seconds."""
        now = time.monotonic()
        if now < self._due.get((job, pool), 0.0):
            return False
        self._due[job, pool] = now + period
        return True

    def _put_off(self, job: str, pool: str, took: float) -> None:
        """Delays the job's next run, so that it takes a small share of the time. took is in
        seconds."""
        due = time.monotonic() + COST_FACTOR * took
        self._due[job, pool] = max(self._due.get((job, pool), 0.0), due)

    def _forget_released(self) -> None:
        known = self.handler.watched.keys() | {""}
        self._due = {key: due for key, due in self._due.items() if key[1] in known}
        self._retry = {name: retry for name, retry in self._retry.items() if name in known}
        self._last_error = {key: why for key, why in self._last_error.items() if key[1] in known}

    def _log_alarms(self, name: str, changes: Changes) -> None:
        raised, cleared = changes
        for alarm in raised[:ALARMS_LOGGED]:
            log.warning("alarm %s: pool %s: %s: %s", alarm.kind, name, alarm.subject, alarm.message)
        for alarm in cleared[:ALARMS_LOGGED]:
            log.info("alarm %s cleared: pool %s: %s", alarm.kind, name, alarm.subject)
        if (more := max(len(raised), len(cleared)) - ALARMS_LOGGED) > 0:
            log.warning("pool %s: %d more alarms", name, more)

    # Recoveries.

    def _start_recovery(self, name: str) -> None:
        self._to_recover.setdefault(name, time.monotonic())
        if name not in self._recovering:
            self._recovering.add(name)
            self._spawn(self._recover(name))

    async def _recover(self, name: str) -> None:
        """Recovers a pool until no dead member has been found since the last recovery began."""
        try:
            while (since := self._to_recover.pop(name, None)) is not None:
                pool = self.handler.watched.get(name)
                if pool is None or not pool.writable:
                    continue  # a pool that this user cannot write to was logged at its adoption
                began = time.monotonic()
                what: Recovery | None = None
                with self._guarded("recovery", name):
                    what = await self.run(Recover(name))
                now = time.monotonic()
                found = what is not None and (what.members or what.subscribers)
                if what is None or what.postponed or not found:
                    _, pause = self._retry.get(name, (0.0, RETRY_S[0]))
                    rest = max(pause, RETRY_FACTOR * (now - began))
                    self._retry[name] = now + rest, min(pause * 2, RETRY_S[1])
                else:
                    self._retry.pop(name, None)
                if what is not None and found:
                    self._record(name, what, now - since)
        finally:
            self._recovering.discard(name)

    def _record(self, name: str, what: Recovery, seconds: float) -> None:
        pool = self.handler.watched.get(name)
        if pool is None:
            return
        event = pool.recovered(what, seconds)
        log.info(
            "pool %s recovered in %.1f ms: %d members, %d subscribers, %d buffers, %d requeued, "
            "%d dead letters", name, seconds * 1e3, what.members, what.subscribers, what.buffers,
            what.requeued, what.dead_lettered,
        )  # fmt: skip
        for call in list(self.on_recovery):
            call(event)

    # Requests and jobs, in the threads.

    async def run(self, request: AnyRequest) -> Any:
        """Answers a request of the daemon's own in one of its threads."""
        if isinstance(request, Recover):
            return await self._recoveries.run(request, RECOVER_S)
        return await self._in(self._upkeep_thread, self.handler.answer, request)

    async def run_for_client(self, request: AnyRequest, limit: float = LIMIT_S) -> Any:
        """Answers a request in a thread that delays none of the daemon's own work. limit is in
        seconds of processor time."""
        if isinstance(request, List):
            self._name_watch.flush()
        return await self._requests.run(request, limit)

    async def call_for_client(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """Calls a function in a thread that delays none of the daemon's own work."""
        return await self._in(self._client_threads, call, *arguments)

    async def check_recovery_thread(self) -> None:
        """Returns when the thread that recovers has finished what it was given before."""
        await self._in(self._recovery_thread, int)

    async def _in(self, threads: ThreadPoolExecutor, call: Callable[..., Any], *args: Any) -> Any:
        """Calls a function in one of the threads and returns its result."""
        try:
            future = threads.submit(call, *args)
        except RuntimeError as error:
            raise errors.LimitReached(
                f"no thread can be started: {error}: raise ulimit -u, or TasksMax= of the service"
            ) from None
        self._running.add(future)
        future.add_done_callback(self._running.discard)
        return await asyncio.wrap_future(future)

    @property
    def interval(self) -> float:
        """Seconds between two inspections of every pool."""
        return self.config.daemon.interval

    async def _trim(self, name: str, keep: int) -> None:
        with self._guarded("trim", name):
            if freed := await self.run(Trim(name, keep)):
                log.info("pool %s: %d bytes returned to the kernel", name, freed)

    async def _inspect_holders(self, name: str, pool: WatchedPool) -> None:
        """Updates the alarms for buffers that are held for long. Walks every buffer, so a large
        pool is inspected less often."""
        if self.handler.watched.get(name) is not pool:
            return  # it was released before this task ran
        began = time.monotonic()
        with self._guarded("list of holders", name):
            held = pool.view.stats().held
            holders = await self.run_for_client(GetHolders(name), HOLDERS_S) if held else []
            if self.handler.watched.get(name) is pool:
                self._log_alarms(name, pool.inspect_holders(holders))
        self._put_off("holders", name, time.monotonic() - began)

    async def _prune(self) -> None:
        """Removes abandoned pools of adopted owners. Opens each file, so it runs in a thread;
        files of other users are not opened, however many there are."""
        began = time.monotonic()
        names = self.adoption.own_names()
        try:
            removed, _ = await self._in(self._upkeep_thread, survey, names)
            for name in removed:
                log.info("segment %s removed: it was abandoned", name)
        except (errors.ShmpoolError, OSError) as error:
            log.warning("prune: %s", error)
        self._put_off("prune", "", (time.monotonic() - began) / 10)
