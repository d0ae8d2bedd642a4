# SPDX-License-Identifier: Apache-2.0
"""The handler: what it holds, and which pool a name stands for."""

import pytest
from conftest import MakePool

import shmpool
from shmpool.rpc.protocol import Describe, GetMembers, GetStats, List
from shmpool.service import handlers
from shmpool.service.alarms import Policy


def test_a_name_that_stands_for_another_pool(make_pool: MakePool, pool_name: str) -> None:
    """Every answer is of the pool that has the name now, also before the held one is released;
    holding it again holds the new one."""
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
        assert (128, False) == (summary.capacity, summary.held)
    again = pools.watch(pool_name, Policy())
    assert again is not held
    assert 128 == again.view.geometry.capacity
    pools.release(pool_name)


def test_more_pools_than_can_be_held(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit a pool is refused, so that there is always room to put the others right;
    those that are held can be held again."""
    monkeypatch.setattr(handlers, "WATCHED_MAX", 2)
    pools = handlers.RequestHandler("0")
    names = [make_pool().name for _ in range(3)]
    for name in names[:2] * 2:
        pools.watch(name, Policy())
    with pytest.raises(shmpool.LimitReached, match="2 pools are held already"):
        pools.watch(names[2], Policy())
    pools.release(names[0])
    pools.watch(names[2], Policy())
    for name in names:
        pools.release(name)
