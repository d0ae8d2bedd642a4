# SPDX-License-Identifier: Apache-2.0
"""The keeper: when it does again what it has done."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from conftest import DEADLINE_S, MakePool

pytest.importorskip("cattrs", reason="shmpool[daemon] is not installed")

from shmpool import keeper
from shmpool.alarms import Policy
from shmpool.config import Config
from shmpool.keeper import Keeper
from shmpool.protocol import AnyRequest, List
from shmpool.registry import Registry
from shmpool.stats import Recovery
from shmpool.view import View


def keeping(work: Callable[[Keeper], Awaitable[None]]) -> None:
    """Does the work with a keeper that has not started, so that only the test's pools are held."""

    async def go() -> None:
        keep = Keeper(Registry("0"))
        try:
            async with asyncio.timeout(DEADLINE_S):
                await work(keep)
        finally:
            await keep.close()

    asyncio.run(go())


def test_what_is_postponed(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recovery that is not complete is tried again after the shortest pause, then later."""
    name = make_pool().name
    monkeypatch.setattr(keeper, "AGAIN_S", (0.001, 1e9))
    monkeypatch.setattr(View, "dead", lambda view: 1)

    async def work(keep: Keeper) -> None:
        asked: asyncio.Queue[AnyRequest] = asyncio.Queue()

        async def run(request: AnyRequest) -> Recovery:
            asked.put_nowait(request)
            return Recovery(0, 0, 0, 0, postponed=1, unknown=0)

        monkeypatch.setattr(keep, "run", run)
        keep.registry.hold(name, Policy())
        keep._spawn(keep._every(0.001, keep._scan))
        for _ in range(3):
            await asked.get()
        _, pause = keep._again[name]
        assert pause >= 4 * 0.001

    keeping(work)


def test_a_pool_that_was_just_made(make_pool: MakePool) -> None:
    """It is in the list of who asks next, whenever the daemon would have been told of it."""

    async def work(keep: Keeper) -> None:
        name = make_pool().name
        config = Config()
        keep.adoption.configure(replace(config, daemon=replace(config.daemon, adopt=[name])))
        assert name in [pool.name for pool in await keep.run_for_client(List())]

    keeping(work)


def test_what_took_long_is_not_due_soon() -> None:
    """What took no time is due by its period alone; what took long only after many times as long,
    and in no pool but that."""

    async def work(keep: Keeper) -> None:
        keep._put_off("holders", "rx", 0.0)
        assert keep._is_due("holders", "rx", 0.0)
        keep._put_off("holders", "rx", 1000.0)
        keep._put_off("holders", "rx", 0.0)
        assert not keep._is_due("holders", "rx", 0.0)
        assert keep._is_due("holders", "tx", 0.0)
        assert keep._is_due("prune", "rx", 1e9)
        assert not keep._is_due("prune", "rx", 1e9)

    keeping(work)
