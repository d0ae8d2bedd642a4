# SPDX-License-Identifier: Apache-2.0
"""What the daemon does by itself: holds pools, watches their members, recovers, trims, prunes, and
raises alarms. No sockets.

The event loop's thread only looks, through read-only mappings. One thread recovers, one makes,
trims and prunes, others answer clients; all in steps, so that no pool holds up others: turns.py.
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
from ..stats import LIMIT_S, Holder, Recovery
from . import declared_pools, handlers
from .adoption import Adoption
from .config import Config
from .name_watch import NameWatch
from .process_watch import ProcessWatch
from .scheduling import Budgets, Turns
from .watched_pool import DECLARED, Changes, RecoveryEvent, WatchedPool

log = logging.getLogger("shmpool")

SCAN_S = 0.1  # between two looks for dead members
SCAN_SOON_S = 0.002  # after a token was dropped: inotify tells it before the lock is free
AGAIN_S = 0.02, 30.0  # first and longest pause until what was postponed is tried again
PRUNE_S = 10.0
RECOVER_S = 10.0  # of processor time, in steps: more than the largest pool takes
REST = 10  # times as long as it took, until what was postponed is tried again
LOOK_SHARE = 500  # times as long as it took, until the holders are looked at again, or pruned
HOLDERS_S = 5.0  # of processor time, in steps, to look at the holders of the largest pool
ALARMS_LOGGED = 20  # of a pool at a time
CLIENT_THREADS = 2  # for audits and the like, which nothing waits for but who asked
STOP_S = 3.0  # until what a thread is doing must be done when the daemon ends

Run = Callable[[AnyRequest], Awaitable[Any]]


class Supervisor:
    """Keeps the pools of a handler, in the event loop it is made in."""

    def __init__(self, pools: handlers.RequestHandler) -> None:
        self.registry = pools
        self.config = Config()
        self.watchers: set[Callable[[RecoveryEvent], None]] = set()  # told of each recovery
        self._thread = ThreadPoolExecutor(1, "keeper")
        self._maker = ThreadPoolExecutor(1, "maker")
        self._client_threads = ThreadPoolExecutor(CLIENT_THREADS, "client")
        self._tasks: set[asyncio.Task[None]] = set()
        self._wanted: dict[str, float] = {}  # pools to recover: since when
        self._recovering: set[str] = set()
        self._again: dict[str, tuple[float, float]] = {}  # pools to try again: when, pause in s
        self._due: dict[tuple[str, str], float] = {}  # what of which pool
        self._running: set[Future[Any]] = set()  # what the threads were given
        self._declaring: set[str] = set()  # pools that were refused and are tried again
        self.stuck = False  # after close(): a thread could not be ended
        self._failed: dict[str, str] = {}  # what went wrong with a request: logged once
        self._budgets, self._scans = Budgets(), Budgets()

        self._loop = asyncio.get_running_loop()
        self._recoveries = Turns(pools, functools.partial(self._in, self._thread))
        self._requests = Turns(pools, functools.partial(self._in, self._client_threads))
        self._process_watch = ProcessWatch(self._loop, self._scan_soon)
        self._scanning: asyncio.TimerHandle | None = None
        self.adoption = Adoption(pools, self._declare_again)
        self._name_watch = NameWatch(self.adoption.changed)

    def start(self) -> None:
        """Begins to look and to watch."""
        self._spawn(self._name_watch.run())
        self._spawn(self._every(SCAN_S, self._scan))
        self._spawn(self._every(self.config.daemon.interval, self._look))

    async def close(self) -> None:
        """Ends what is going on, and releases the pools, which stay. What a thread does not end in
        time is left to it: whatever a pool does, it does not keep the daemon."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._process_watch.close()
        self._name_watch.close()
        if self._scanning is not None:
            self._scanning.cancel()
        for threads in (self._thread, self._maker, self._client_threads):
            threads.shutdown(wait=False, cancel_futures=True)
        until = time.monotonic() + STOP_S
        while self._running and time.monotonic() < until:
            await asyncio.sleep(0.01)
        self.stuck = bool(self._running)
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

    async def _every(self, seconds: float, what: Callable[[], Awaitable[None] | None]) -> None:
        while True:
            try:
                more = what()
                if more is not None:
                    await more
            except Exception:
                log.exception("looking at the pools failed")
            await asyncio.sleep(seconds)

    # What the configuration declares.

    async def declare(self, config: Config) -> None:
        """Makes what is declared and missing: all of it, or nothing. ConfigError.

        A pool whose name something has that cannot be it is refused, and made when that is gone:
        anybody may put a file there, and nobody may keep the daemon from the others with it.
        """
        refused = await self._in(self._maker, declared_pools.make, config)
        self.config = config
        self.adoption.configure(config)
        for name in config.pools:
            self._declared(name, refused.get(name))
        self._name_watch.all_again()

    def _declared(self, name: str, why: str | None) -> None:
        """Holds a declared pool that is there; why: it is not, but another under its name."""
        pool = self.config.pools.get(name)
        if pool is None:
            return
        try:
            if why is None:
                self.adoption.hold(name, pool, DECLARED)
            self.adoption.declare(name, why)
        except (errors.ShmpoolError, OSError) as error:
            self.adoption.declare(name, str(error))

    def _declare_again(self, name: str) -> None:
        if name not in self._declaring and name in self.config.pools:
            self._declaring.add(name)
            self._spawn(self._make_again(name))

    async def _make_again(self, name: str) -> None:
        """Makes a declared pool that was refused, if it can be had now."""
        config = self.config
        try:
            alone = replace(config, pools={name: config.pools[name]})
            refused = await self._in(self._maker, declared_pools.make, alone)
            self._declared(name, refused.get(name))
        except (errors.ShmpoolError, OSError) as error:
            self.adoption.declare(name, "; ".join(str(error).splitlines()))
        finally:
            self._declaring.discard(name)

    # Looking.

    def _scan_soon(self, pause: float = SCAN_SOON_S) -> None:
        if self._scanning is None:
            self._scanning = self._loop.call_later(pause, self._scan)

    def _scan(self) -> None:
        """In which pools a member is dead, or something abandoned waits to be placed."""
        if self._scanning is not None:
            self._scanning.cancel()
            self._scanning = None
        self._process_watch.follow({name: held.inode for name, held in self.registry.held.items()})
        now = time.monotonic()
        for name, held in list(self.registry.held.items()):
            if (pause := self._scans.pause(name)) > 0:
                self._scan_soon(pause)
                continue
            with self._scans.use(name), self._reading(name):
                if held.view.dead() and now >= self._again.get(name, (0.0, 0.0))[0]:
                    self._want(name)

    @contextlib.contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        """A pool that turns out to be damaged in here is released, and the others are not; nor does
        anything else that one pool makes fail keep the daemon from them."""
        try:
            yield
        except errors.SegmentInvalid as error:
            self.adoption.damaged(name, str(error))
        except Exception as error:
            if self._failed.get(name) != str(error):
                self._failed[name] = str(error)
                unknown = None if isinstance(error, errors.ShmpoolError) else error
                log.error("looking at pool %s failed: %s", name, error, exc_info=unknown)

    async def _look(self) -> None:
        """Pools that came and went, alarms, and what is due."""
        self._scan()
        self.adoption.look()
        self._forget_released()
        self._budgets.keep(self.registry.held)
        self._scans.keep(self.registry.held)
        for name, held in list(self.registry.held.items()):
            await asyncio.sleep(0)  # the clients' turn
            if self.registry.held.get(name) is not held or not self._budgets.ready(name):
                continue
            with self._budgets.use(name), self._reading(name):
                self._log_alarms(name, held.look())
            if (pause := self._budgets.slowed(name, self.interval)) is not None:
                log.warning("pool %s takes long to look at: next in %.1f s", name, pause)
            if not held.writable:
                continue
            if held.should_trim() and held.policy.trim_to is not None:
                held.trimmed()
                self._spawn(self._trim(name, held.policy.trim_to))
            if self._is_due("holders", name, max(held.policy.held_s / 4, 0.25)):
                self._spawn(self._look_at_holders(name, held))
        if self.config.daemon.prune and self._is_due("prune", "", PRUNE_S):
            self._spawn(self._prune())

    def _is_due(self, what: str, of: str, period: float) -> bool:
        now = time.monotonic()
        if now < self._due.get((what, of), 0.0):
            return False
        self._due[what, of] = now + period
        return True

    def _put_off(self, what: str, of: str, took: float) -> None:
        """Until what took so long may be due again: it costs a small share of the time."""
        due = time.monotonic() + LOOK_SHARE * took
        self._due[what, of] = max(self._due.get((what, of), 0.0), due)

    def _forget_released(self) -> None:
        there = self.registry.held.keys() | {""}
        self._due = {key: due for key, due in self._due.items() if key[1] in there}
        self._again = {name: again for name, again in self._again.items() if name in there}

    def _log_alarms(self, name: str, changes: Changes) -> None:
        raised, over = changes
        for alarm in raised[:ALARMS_LOGGED]:
            log.warning("alarm %s: pool %s: %s: %s", alarm.kind, name, alarm.subject, alarm.message)
        for alarm in over[:ALARMS_LOGGED]:
            log.info("alarm %s over: pool %s: %s", alarm.kind, name, alarm.subject)
        if (more := max(len(raised), len(over)) - ALARMS_LOGGED) > 0:
            log.warning("pool %s: and %d alarms more", name, more)

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
                held = self.registry.held.get(name)
                if held is None or not held.writable:
                    continue  # who cannot write to it cannot recover it: said when it was adopted
                began = time.monotonic()
                what = await self._quietly(Recover(name))
                now = time.monotonic()
                if what is None or what.postponed or not what.members:
                    _, pause = self._again.get(name, (0.0, AGAIN_S[0]))
                    rest = max(pause, REST * (now - began))
                    self._again[name] = now + rest, min(pause * 2, AGAIN_S[1])
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
        """The answer, made by one of the keeper's own threads."""
        if isinstance(request, Recover):
            return await self._recoveries.run(request, RECOVER_S)
        return await self._in(self._maker, self.registry.answer, request)

    async def run_for_client(self, request: AnyRequest, limit: float = LIMIT_S) -> Any:
        """The answer, made where it holds up nothing that the daemon does by itself."""
        if isinstance(request, List):
            self._name_watch.now()
        return await self._requests.run(request, limit)

    async def idle(self) -> None:
        """Returns when the thread that recovers is not stuck."""
        await self._in(self._thread, int)

    async def _in(self, threads: ThreadPoolExecutor, call: Callable[..., Any], *args: Any) -> Any:
        """What the call comes to, made by one of the threads."""
        try:
            future = threads.submit(call, *args)
        except RuntimeError as error:
            raise errors.LimitReached(f"no thread for it: {error} (ulimit -u)") from None
        self._running.add(future)
        future.add_done_callback(self._running.discard)
        return await asyncio.wrap_future(future)

    @property
    def interval(self) -> float:
        """Seconds between two looks at every pool."""
        return self.config.daemon.interval

    async def _trim(self, name: str, keep: int) -> None:
        freed = await self._quietly(Trim(name, keep))
        if freed:
            log.info("pool %s: %d bytes given back to the kernel", name, freed)

    async def _look_at_holders(self, name: str, held: WatchedPool) -> None:
        """Goes through every buffer, so a large pool is looked at less often."""
        if self.registry.held.get(name) is not held:
            return  # it was released meanwhile
        began = time.monotonic()
        holders: list[Holder] | None = []
        with self._reading(name):
            if held.view.stats().held:
                run = functools.partial(self.run_for_client, limit=HOLDERS_S)
                holders = await self._quietly(GetHolders(name), run)
        if holders is not None and self.registry.held.get(name) is held:
            self._log_alarms(name, held.look_at_holders(holders))
        self._put_off("holders", name, time.monotonic() - began)

    async def _prune(self) -> None:
        """Files of strangers are their own business, however many there are. It opens each of the
        others, so it is none of the keeper's own thread's work."""
        began = time.monotonic()
        names = self.adoption.own_names()
        try:
            removed, _ = await self._in(self._maker, survey, names)
            for name in removed:
                log.info("segment %s removed: it was abandoned", name)
        except (errors.ShmpoolError, OSError) as error:
            log.warning("prune: %s", error)
        self._put_off("prune", "", (time.monotonic() - began) / 10)

    async def _quietly(self, request: AnyRequest, run: Run | None = None) -> Any:
        what = f"{request.method} {getattr(request, 'pool', '')}".rstrip()
        try:
            answer = await (run or self.run)(request)
        except (errors.ShmpoolError, OSError) as error:
            if self._failed.get(what) != str(error):
                self._failed[what] = str(error)
                log.warning("%s: %s", what, error)
        else:
            self._failed.pop(what, None)
            return answer
