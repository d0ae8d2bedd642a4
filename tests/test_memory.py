# SPDX-License-Identifier: Apache-2.0
"""Each allocation of a call fails once, in Python's allocator: the call raises MemoryError, every
buffer keeps exactly one owner, and the next call succeeds.
"""

import gc
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import Child, MakePool
from test_interrupted import owned_by

import shmpool

pytestmark = pytest.mark.skipif(
    sys.version_info >= (3, 12), reason="CPython 3.12 itself crashes where a function has no memory"
)
_testcapi = pytest.importorskip(
    "_testcapi", reason="this Python has no _testcapi, which makes allocations fail"
)

# Runs an operation with its n-th allocation failing, for n from 0 until there are no more. What
# the operation returns is dropped, and all buffers are free again before the next run.
SCRIPT = """
    import sys, _testcapi, shmpool
    sys.settrace(None)  # a tracer allocates too, and must not fail
    UNHARMED = 3  # an operation that succeeds so often in a row has no more allocations
    pool = shmpool.Pool.create(sys.argv[1], buffer_size=256, capacity=64)
    work, other = (pool.create_queue(name, capacity=32) for name in ("work", "other"))

    def filled(n=3):
        work.send_many([b"payload %d" % i for i in range(n)])

    def indexed():
        burst = pool.alloc_many(3)
        burst[1]
        return burst

    def queued():
        filled()
        return work.get()

    import numpy
    numbers = numpy.arange(3, dtype="u1")
    OPERATIONS = {
        "alloc": (lambda: None, lambda _: pool.alloc()),
        "alloc with a timeout": (lambda: None, lambda _: pool.alloc(timeout=1.5)),
        "alloc_many": (lambda: None, lambda _: pool.alloc_many(3)),
        "put": (pool.alloc, lambda buf: work.put(buf)),
        "put to a full queue": (lambda: filled(32), lambda _: work.put(pool.alloc(), timeout=0)),
        "put_many": (lambda: pool.alloc_many(3), lambda burst: work.put_many(burst)),
        "put_many of elements": (indexed, lambda burst: work.put_many(burst)),
        "get": (filled, lambda _: work.get()),
        "get of an empty queue": (lambda: None, lambda _: work.get(timeout=0)),
        "try_get": (filled, lambda _: work.try_get()),
        "get_many": (filled, lambda _: work.get_many(3)),
        "send": (lambda: None, lambda _: work.send(b"x")),
        "send of a view": (lambda: None, lambda _: work.send(memoryview(b"x"))),
        "recv": (filled, lambda _: work.recv()),
        "try_recv": (filled, lambda _: work.try_recv()),
        "send_many": (lambda: None, lambda _: work.send_many([b"x"] * 3)),
        "send_many of views": (lambda: None, lambda _: work.send_many([memoryview(b"x")] * 3)),
        "recv_many": (filled, lambda _: work.recv_many(3)),
        "move": (queued, lambda buf: other.put(buf)),
        "nack": (queued, lambda buf: buf.nack()),
        "view": (pool.alloc, lambda buf: memoryview(buf)),
        "data": (pool.alloc, lambda buf: buf.data),
        "write": (pool.alloc, lambda buf: buf.write(b"x")),
        "fields": (pool.alloc, lambda buf: (buf.mark, buf.timestamp, buf.generation, buf.length)),
        "element": (lambda: pool.alloc_many(3), lambda burst: burst[1]),
        "elements": (lambda: pool.alloc_many(3), lambda burst: list(burst)),
        "free of elements": (indexed, lambda burst: burst.free()),
        "lengths": (lambda: pool.alloc_many(3), lambda burst: burst.lengths),
        "column": (lambda: pool.alloc_many(3), lambda burst: burst.column(0, "u1")),
        "set_column": (
            lambda: pool.alloc_many(3), lambda burst: burst.set_column(0, numbers, "u1")
        ),
        "peek": (filled, lambda _: work.peek(3)),
        "stats": (lambda: None, lambda _: pool.stats()),
        "attach": (lambda: None, lambda _: shmpool.Pool.attach(pool.name).close()),
    }

    def clear():
        for queue in (work, other):
            while queue.try_recv() is not None:
                pass

    for name, (prepare, operation) in OPERATIONS.items():
        raised, nth, unharmed = 0, 0, 0
        while unharmed < UNHARMED:
            subject = prepare()
            unharmed += 1
            _testcapi.set_nomemory(nth, nth + 1)
            try:
                result = operation(subject)
            except MemoryError:
                raised, unharmed = raised + 1, 0
            except shmpool.ShmpoolError:
                pass
            except SystemError as error:  # of CPython 3.11: no memory for a frame of Python code
                assert "exception" in str(error), name
                assert "<built-in" not in str(error), (name, error)
                assert "<method" not in str(error), (name, error)
                unharmed = 0
            finally:
                _testcapi.remove_mem_hooks()
            result = subject = None
            clear()
            audit = pool.audit()
            assert audit.ok, (name, nth, audit)
            stats = pool.stats()
            assert (0, 0) == (stats.held, stats.queued), (name, nth, stats)
            nth += 1
        subject = prepare()
        try:
            operation(subject)
        except (shmpool.Empty, shmpool.Full):
            pass
        subject = None
        clear()
        print(name, raised, flush=True)
    """


def test_an_allocation_that_fails(pool_name: str, start: Callable[..., Child]) -> None:
    """Whichever allocation of a call fails, every buffer is where it belongs."""
    child, raised = start(SCRIPT, pool_name), {}
    while line := child.line():
        name, _, times = line.rpartition(" ")
        raised[name] = int(times)
    child.end()
    assert len(raised) > 30
    for name in ("alloc", "send_many of views", "recv_many", "element", "put_many of elements"):
        assert raised[name] > 0, name


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
def test_every_buffer_of_a_burst_has_an_owner(make_pool: MakePool, name: str) -> None:
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
