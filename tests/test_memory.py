# SPDX-License-Identifier: Apache-2.0
"""Python's allocator fails: a call raises MemoryError, loses no buffer, and succeeds next time."""

import sys
from collections.abc import Callable

import pytest
from conftest import Child

pytest.importorskip("numpy", reason="numpy is not installed")
pytestmark = pytest.mark.skipif(
    sys.version_info >= (3, 12), reason="CPython 3.12 itself crashes where a function has no memory"
)
pytest.importorskip(
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
