# SPDX-License-Identifier: Apache-2.0
"""The handler: which pools it has open, and which pool a name stands for."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from conftest import MakePool

import shmpool
from shmpool.pool_files import path_of
from shmpool.rpc import wire
from shmpool.rpc.protocol import (
    REQUESTS,
    AnyRequest,
    Create,
    Describe,
    Drain,
    GetMembers,
    GetStats,
    List,
    Peek,
    Redrive,
    ReportLinks,
    Watch,
)
from shmpool.service import handlers
from shmpool.service.alarms import Policy


def test_a_name_that_stands_for_another_pool(make_pool: MakePool, pool_name: str) -> None:
    """Every answer is about the pool that has the name now, also before the old one is released.

    Watching the name again watches the new pool.
    """
    pools = handlers.RequestHandler("0")
    old = make_pool(name=pool_name, capacity=64)
    held = pools.watch(pool_name, Policy())
    assert 64 == pools.answer(GetStats(pool_name)).buffers.capacity
    shmpool.Pool.unlink(pool_name)
    with pytest.raises(shmpool.PoolNotFound):
        pools.answer(GetStats(pool_name))
    make_pool(name=pool_name, capacity=128)
    with old.alloc():
        assert 128 == pools.answer(GetStats(pool_name)).buffers.capacity
        assert 128 == pools.answer(Describe(pool_name)).geometry.capacity
        assert [] == pools.answer(GetMembers(pool_name))
        (summary,) = [pool for pool in pools.answer(List()) if pool.name == pool_name]
        assert (128, False) == (summary.capacity, summary.watched)
    again = pools.watch(pool_name, Policy())
    assert again is not held
    assert 128 == again.view.geometry.capacity
    pools.release(pool_name)


def test_more_pools_than_can_be_watched(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the limit a pool is refused, so that the other pools can always be recovered.

    Pools that are watched can be watched again.
    """
    monkeypatch.setattr(handlers, "WATCHED_MAX", 2)
    pools = handlers.RequestHandler("0")
    names = [make_pool().name for _ in range(3)]
    for name in names[:2] * 2:
        pools.watch(name, Policy())
    with pytest.raises(shmpool.LimitReached, match="2 pools are watched already"):
        pools.watch(names[2], Policy())
    pools.release(names[0])
    pools.watch(names[2], Policy())
    for name in names:
        pools.release(name)


ASKED = {
    Create: {"options": shmpool.PoolOptions(64, 64)},
    Peek: {"queue": "work"},
    Redrive: {"queue": "work"},
    Drain: {"queue": "work"},
    ReportLinks: {"bridge": "one", "pid": 1, "links": []},
}


@pytest.mark.parametrize("kind", REQUESTS, ids=lambda kind: kind.method)
def test_every_request_is_answered(
    kind: type[AnyRequest], make_pool: MakePool, new_name: Callable[[], str]
) -> None:
    """The handler answers each request with the type of its class. It refuses watch, whose
    notifications the connection sends."""
    pools = handlers.RequestHandler("0")
    name = new_name()
    if kind is not Create:
        make_pool(name=name).create_queue("work", capacity=8)
    named = {"pool": name} if "pool" in kind.__dataclass_fields__ else {}
    request = kind(**named, **ASKED.get(kind, {}))
    if kind is Watch:
        with pytest.raises(shmpool.RequestRefused, match="watch needs a daemon"):
            pools.answer(request)
        return
    answer = pools.answer(request)
    assert answer == request.answer_of(wire.to_wire(answer))


def test_a_file_that_is_no_pool(new_name: Callable[[], str]) -> None:
    """It is listed with the reason, and every figure is 0."""
    name = new_name()
    Path(path_of(name)).write_bytes(bytes(10000))
    pools = handlers.RequestHandler("0")
    (summary,) = [asdict(pool) for pool in pools.answer(List()) if pool.name == name]
    assert (name, False) == (summary.pop("name"), summary.pop("held"))
    assert "its creator died before it was complete" in summary.pop("trouble")
    assert {0} == set(summary.values())


def test_options_that_are_not_given(make_pool: MakePool, pool_name: str) -> None:
    """A pool that is created with its two sizes alone is as Pool.create makes it."""
    made = make_pool(buffer_size=256, capacity=64).name
    pools = handlers.RequestHandler("0")
    asked = pools.answer(Create(pool_name, shmpool.PoolOptions(256, 64))).geometry
    assert pools.answer(Describe(made)).geometry == asked
