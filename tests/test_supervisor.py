# SPDX-License-Identifier: Apache-2.0
"""The supervisor: when it repeats its work."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from conftest import DEADLINE_S, Child, MakePool

pytest.importorskip("aiohttp", reason="shmpool[daemon] is not installed")

import shmpool
from shmpool import errors
from shmpool.rpc.protocol import AnyRequest, List, Recover, RunAudit, Trim
from shmpool.service import supervisor
from shmpool.service.alarms import Policy
from shmpool.service.config import Config, PoolConfig
from shmpool.service.handlers import (
    WATCHED_MAX,
    RequestHandler,
)
from shmpool.service.scheduling import TimeBudgets
from shmpool.service.supervisor import Supervisor
from shmpool.service.watched_pool import Rank
from shmpool.stats import Counting, Recovery
from shmpool.view import View


def supervise(work: Callable[[Supervisor], Awaitable[None]]) -> None:
    """Does the work with a supervisor that has not started: only the test's pools are watched."""

    async def go() -> None:
        watcher = Supervisor(RequestHandler("0"))
        try:
            async with asyncio.timeout(DEADLINE_S):
                await work(watcher)
        finally:
            await watcher.close()

    asyncio.run(go())


def test_a_declared_pool(pool_name: str) -> None:
    """A declared pool exists and is watched when declare() returns, before its file is noticed."""

    async def work(watcher: Supervisor) -> None:
        pools = {pool_name: PoolConfig(buffer_size=256, capacity=64)}
        await watcher.declare(Config(pools=pools))
        assert Rank.DECLARED == watcher.handler.watched[pool_name].rank

    supervise(work)


def test_what_is_postponed(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recovery that is not complete is tried again after the shortest pause, then later."""
    name = make_pool().name
    monkeypatch.setattr(supervisor, "RETRY_S", (0.001, 1e9))
    monkeypatch.setattr(View, "dead", lambda view: 1)

    async def work(watcher: Supervisor) -> None:
        asked: asyncio.Queue[float] = asyncio.Queue()

        async def run(request: AnyRequest) -> Recovery:
            asked.put_nowait(time.monotonic())
            return Recovery(0, 0, 0, 0, postponed=1, unknown=0)

        monkeypatch.setattr(watcher, "run", run)
        watcher.handler.watch(name, Policy())
        watcher._spawn(watcher._every(0.001, watcher._scan))
        _, second, _ = [await asked.get() for _ in range(3)]
        due, pause = watcher._retry[name]
        assert pause >= 4 * 0.001
        assert due >= second + pause / 2

    supervise(work)


def test_one_trim_at_a_time(pool_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool is trimmed once when it is due. It is due again after trim_after_s."""

    async def work(watcher: Supervisor) -> None:
        trims = []

        async def run(request: AnyRequest) -> int:
            trims.append(request)
            return 0

        config = PoolConfig(buffer_size=256, capacity=64, prealloc=0, trim_to=1, trim_after_s=3600)
        await watcher.declare(Config(pools={pool_name: config}))
        monkeypatch.setattr(watcher, "run", run)
        with shmpool.Pool.attach(pool_name) as pool:
            pool.alloc_many(64).free()
        watched = watcher.handler.watched[pool_name]
        monkeypatch.setattr(watched, "_trimmable_since", time.monotonic() - 3600)
        monkeypatch.setattr(watcher._inspect_budgets, "pause", lambda name: 0.0)
        for _ in range(2):
            await watcher._inspect()
            await asyncio.sleep(0)
        assert [Trim(pool_name, 1)] == trims

    supervise(work)


def test_a_repeated_fault(
    pool: shmpool.Pool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A fault is logged when it begins, not each time it is found. A released pool leaves none."""
    fault = errors.LimitReached("no descriptor left")
    faults = iter([fault, fault, None, fault])

    def dead(view: View) -> int:
        if (found := next(faults)) is not None:
            raise found
        return 0

    monkeypatch.setattr(View, "dead", dead)

    async def work(watcher: Supervisor) -> None:
        watcher._scan_budgets = TimeBudgets(used=lambda: 0.0)
        watcher.handler.watch(pool.name, Policy())
        logged = []
        for _ in range(4):
            watcher._scan()
            logged.append(len(caplog.records))
        assert [1, 1, 1, 2] == logged
        watcher.handler.release(pool.name)
        watcher._forget_released()
        assert not watcher._last_error

    supervise(work)


def test_a_pool_that_was_just_made(make_pool: MakePool) -> None:
    """The next list names it, although the event loop has not yet read its file's event."""

    async def work(watcher: Supervisor) -> None:
        name = make_pool().name
        config = Config()
        watcher.adoption.configure(replace(config, daemon=replace(config.daemon, adopt=[name])))
        assert name in [pool.name for pool in await watcher.run_for_client(List())]

    supervise(work)


def test_what_took_long_is_not_due_soon() -> None:
    """Short work is due by its period alone. Long work is due after many times its duration.

    Other pools are not affected.
    """

    async def work(watcher: Supervisor) -> None:
        watcher._put_off("holders", "rx", 0.0)
        assert watcher._is_due("holders", "rx", 0.0)
        watcher._put_off("holders", "rx", 1000.0)
        watcher._put_off("holders", "rx", 0.0)
        assert not watcher._is_due("holders", "rx", 0.0)
        assert watcher._is_due("holders", "tx", 0.0)
        assert watcher._is_due("prune", "rx", 1e9)
        assert not watcher._is_due("prune", "rx", 1e9)

    supervise(work)


KILLED = """
    import shmpool, sys
    pool = shmpool.Pool.attach(sys.argv[1])
    held = pool.alloc_many(3)
    print("held", flush=True)
    input()
"""


def test_audits_leave_room_for_recovery(
    make_pool: MakePool, start: Callable[..., Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Audits of many pools, each in progress for long, take no place that a recovery needs: as many
    pools are watched as may be, and a process can have 64 open."""
    step = Counting.step
    monkeypatch.setattr(Counting, "step", lambda counting, seconds=1e-6: step(counting, seconds))
    pools = [make_pool(buffer_size=64, prealloc=64) for _ in range(WATCHED_MAX - 9)]
    large = [make_pool(buffer_size=64, capacity=4096, prealloc=4096) for _ in range(9)]
    names = [pool.name for pool in pools + large]
    for pool in pools + large:
        pool.close()
    victim = start(KILLED, names[0])
    assert "held" == victim.line()
    victim.kill()

    async def work(watcher: Supervisor) -> None:
        for name in names:
            watcher.handler.watch(name, Policy())

        async def audit(name: str) -> None:
            while not recovered.done():
                await watcher.run_for_client(RunAudit(name))

        async def recover() -> Recovery:
            found: list[Recovery] = [await watcher.run(Recover(name)) for name in names]
            return found[0]

        recovered = asyncio.ensure_future(recover())
        what, *_ = await asyncio.gather(recovered, *(audit(pool.name) for pool in large))
        assert (1, 3) == (what.members, what.buffers)

    supervise(work)
