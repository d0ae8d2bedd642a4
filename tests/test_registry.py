# SPDX-License-Identifier: Apache-2.0
"""The registry: what it holds, and which pool a name stands for."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from conftest import MakePool

import shmpool
from shmpool import registry
from shmpool.alarms import Policy
from shmpool.answers import PoolOptions
from shmpool.files import path_of
from shmpool.protocol import Create, Describe, GetMembers, GetStats, List


def test_a_name_that_stands_for_another_pool(make_pool: MakePool, pool_name: str) -> None:
    """Every answer is of the pool that has the name now, also before the held one is released;
    holding it again holds the new one."""
    pools = registry.Registry("0")
    old = make_pool(name=pool_name, capacity=64)
    held = pools.hold(pool_name, Policy())
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
    again = pools.hold(pool_name, Policy())
    assert again is not held
    assert 128 == again.view.geometry.capacity
    pools.release(pool_name)


def test_more_pools_than_can_be_held(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit a pool is refused, so that there is always room to put the others right;
    those that are held can be held again."""
    monkeypatch.setattr(registry, "HELD_MAX", 2)
    pools = registry.Registry("0")
    names = [make_pool().name for _ in range(3)]
    for name in names[:2] * 2:
        pools.hold(name, Policy())
    with pytest.raises(shmpool.LimitReached, match="2 pools are held already"):
        pools.hold(names[2], Policy())
    pools.release(names[0])
    pools.hold(names[2], Policy())
    for name in names:
        pools.release(name)


def test_a_file_that_is_no_pool(new_name: Callable[[], str]) -> None:
    """It is listed with why, and with no figure but 0."""
    name = new_name()
    Path(path_of(name)).write_bytes(bytes(10000))
    pools = registry.Registry("0")
    (summary,) = [asdict(pool) for pool in pools.answer(List()) if pool.name == name]
    assert (name, False) == (summary.pop("name"), summary.pop("held"))
    assert "never finished" in summary.pop("trouble")
    assert {0} == set(summary.values())


def test_options_that_are_not_given(make_pool: MakePool, pool_name: str) -> None:
    """A pool that is asked for by its size alone is as Pool.create makes it."""
    made = make_pool(buffer_size=256, capacity=64).name
    pools = registry.Registry("0")
    asked = pools.answer(Create(pool_name, PoolOptions(256, 64), {})).geometry
    assert pools.answer(Describe(made)).geometry == asked
