# SPDX-License-Identifier: Apache-2.0
"""Each allocation of a call on bursts fails once: every buffer keeps exactly one owner."""

import gc
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import MakePool
from test_interrupted import owned_by

import shmpool

pytestmark = pytest.mark.skipif(
    sys.version_info >= (3, 12), reason="CPython 3.12 itself crashes where a function has no memory"
)
_testcapi = pytest.importorskip("_testcapi", reason="this Python has no test modules")

Call = Callable[[shmpool.Pool, list[shmpool.AlfQueue], list[Any]], object]
KEYS = np.array([0, 1, 0, 1, 0, 1], "u4")
CALLS: dict[str, Call] = {
    "slice": lambda pool, queues, items: items[0][1:4],
    "mask": lambda pool, queues, items: items[0][KEYS == 1],
    "indices": lambda pool, queues, items: items[0][np.array([5, 0, 3])],
    "burst": lambda pool, queues, items: pool.burst(items),
    "put_many": lambda pool, queues, items: queues[0].put_many(items, 0),
    "spread": lambda pool, queues, items: items[0].spread(queues, KEYS, 0),
    "spread, no room": lambda pool, queues, items: items[0].spread(queues[2:], KEYS, 0),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_every_buffer_has_an_owner(make_pool: MakePool, name: str) -> None:
    """Whichever allocation fails, this process holds what its objects own."""
    pool = make_pool(capacity=64, prealloc=64, cache_size=16, bulk=16)
    queues = [pool.create_queue(f"q{i}", capacity=2 if i == 2 else 16) for i in range(3)]
    call, failed, passed, at = CALLS[name], 0, 0, 0
    while passed < 5:  # in a row: no allocation is left to fail
        items: list[Any] = [pool.alloc_many(6), pool.alloc()]
        items.append(items[0][2])
        items[0][4].free()
        result: object = None
        arguments = items[: 2 if name in ("burst", "put_many") else 1]
        _testcapi.set_nomemory(at, at + 1)
        try:
            result = call(pool, queues, arguments)
            passed += 1
        except shmpool.Full:
            passed += 1
        except (MemoryError, SystemError):  # CPython says SystemError where it has no frame
            passed, failed = 0, failed + 1
        finally:
            _testcapi.remove_mem_hooks()
        owned = owned_by([*items, result])
        assert owned == sum(pool.audit().held.values()), at
        del items, arguments, result
        gc.collect()  # a failed call may leave a cycle
        assert (True, {}) == (pool.audit().ok, pool.audit().held), at
        for queue in queues:
            queue.drain()
        at += 1
    assert failed >= 2
