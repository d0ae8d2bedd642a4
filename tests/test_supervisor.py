# SPDX-License-Identifier: Apache-2.0
"""The supervisor: when it repeats its own work."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from conftest import DEADLINE_S, MakePool

pytest.importorskip("cattrs", reason="shmpool[daemon] is not installed")

from shmpool.rpc.protocol import AnyRequest, List
from shmpool.service import supervisor
from shmpool.service.alarms import Policy
from shmpool.service.config import Config
from shmpool.service.handlers import RequestHandler
from shmpool.service.supervisor import Supervisor
from shmpool.stats import Recovery
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


def test_what_is_postponed(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recovery that is not complete is tried again after the shortest pause, then later."""
    name = make_pool().name
    monkeypatch.setattr(supervisor, "RETRY_S", (0.001, 1e9))
    monkeypatch.setattr(View, "dead", lambda view: 1)

    async def work(watcher: Supervisor) -> None:
        asked: asyncio.Queue[AnyRequest] = asyncio.Queue()

        async def run(request: AnyRequest) -> Recovery:
            asked.put_nowait(request)
            return Recovery(0, 0, 0, 0, postponed=1, unknown=0)

        monkeypatch.setattr(watcher, "run", run)
        watcher.handler.watch(name, Policy())
        watcher._spawn(watcher._every(0.001, watcher._scan))
        for _ in range(3):
            await asked.get()
        _, pause = watcher._retry[name]
        assert pause >= 4 * 0.001

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
    """What took no time is due by its period alone; what took long only after many times as long,
    and in no pool but that."""

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
