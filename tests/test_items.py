# SPDX-License-Identifier: Apache-2.0
"""Buffers and Bursts given away together: AlfQueue.put_many of a list, and Pool.burst."""

import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import Eventually, MakePool, join

import shmpool

Give = Callable[[list[Any]], object]


@pytest.fixture(params=["put_many", "burst"])
def give(request: pytest.FixtureRequest, pool: shmpool.Pool) -> Give:
    """One of the calls."""
    if request.param == "burst":
        return pool.burst
    queue = pool.create_queue("given", capacity=64)
    return lambda items: queue.put_many(items, timeout=0)


def numbered(pool: shmpool.Pool, *marks: int) -> list[shmpool.Buffer]:
    bufs = [pool.alloc() for _ in marks]
    for buf, mark in zip(bufs, marks, strict=True):
        buf.mark = mark
    return bufs


def test_a_burst_of_buffers(pool: shmpool.Pool) -> None:
    """It owns them, in order; they are released, and its own Buffers stand for them."""
    bufs = numbered(pool, 5, 6, 7)
    bufs[0].write(b"five")
    burst = pool.burst(bufs)
    assert ([5, 6, 7], b"five") == (burst.marks.tolist(), bytes(burst[0]))
    assert [True] * 3 == [buf.released for buf in bufs]
    del bufs
    assert (True, 3) == (pool.audit().ok, pool.stats().held)
    del burst
    assert (True, {}) == (pool.audit().ok, pool.audit().held)


def test_what_makes_a_burst(pool: shmpool.Pool) -> None:
    """Any iterable of Buffers and Bursts, none too; elements and holes of a Burst count once."""
    first, second = pool.alloc_many(4), pool.alloc_many(2)
    first.marks, second.marks = [1, 2, 3, 4], [8, 9]
    element = first[1]
    first[2].free()
    (single,) = numbered(pool, 0)

    def items() -> Iterator[Any]:
        yield single
        yield first
        yield from (second[1], second)

    with pytest.raises(shmpool.InvalidArgument, match="is given twice"):
        pool.burst(items())
    second[1].free()
    burst = pool.burst((single, first, second))
    assert [0, 1, 2, 4, 8] == burst.marks.tolist()
    assert element.released
    for released in (first, second):
        with pytest.raises(shmpool.BufferReleased):
            len(released)
    assert (0, 5) == (len(pool.burst([])), len(pool.burst(burst)))


def test_put_many_of_a_list(pool: shmpool.Pool) -> None:
    """The buffers are in the queue in the order of the list, and released here."""
    queue = pool.create_queue("q", capacity=8)
    bufs, burst = numbered(pool, 1, 2), pool.burst(numbered(pool, 3, 4))
    queue.put_many((bufs[1], burst, bufs[0]))
    assert [2, 3, 4, 1] == queue.get_many(8).marks.tolist()
    assert (True, True) == (bufs[0].released, bufs[1].released)
    with pytest.raises(shmpool.BufferReleased):
        len(burst)
    assert (True, {}) == (pool.audit().ok, pool.audit().held)


@pytest.mark.parametrize("timeout", [0, 0.01])
def test_put_many_of_a_list_is_all_or_nothing(pool: shmpool.Pool, timeout: float) -> None:
    """Full leaves every Buffer with its owner, and counts what was refused."""
    queue = pool.create_queue("q", capacity=4)
    queue.send_many([b"x"] * 2)
    bufs, burst = numbered(pool, 1, 2), pool.alloc_many(2)
    element = burst[1]
    with pytest.raises(shmpool.Full):
        queue.put_many([*bufs, burst], timeout=timeout)
    with pytest.raises(shmpool.Full, match="burst has 5 buffers; queue 'q' never holds more"):
        queue.put_many([pool.alloc_many(5)], timeout=timeout)
    assert [False] * 3 == [buf.released for buf in (*bufs, element)]
    assert (2, 2, 9) == (len(queue), len(burst), pool.stats().refused)
    queue.put_many(bufs, timeout=timeout)
    assert (True, 4) == (pool.audit().ok, len(queue))


def test_what_is_refused(pool: shmpool.Pool, make_pool: MakePool, give: Give) -> None:
    """Nothing has moved then, wherever in the list it is; the message names it."""
    other = make_pool()
    twin = shmpool.Pool.attach(pool.name)
    good, burst, gone = pool.alloc(), pool.alloc_many(3), pool.alloc()
    number = gone.index
    gone.free()
    viewed, freed = pool.alloc(), pool.alloc_many(1)
    freed.free()
    view, element = memoryview(viewed), burst[1]
    foreign, foreign_burst, through = other.alloc(), other.alloc_many(2), twin.alloc()
    inside = f"buffer {foreign.index} of pool '{other.name}' cannot go into "
    wrong: list[tuple[Any, type[Exception], str]] = [
        (gone, shmpool.BufferReleased, f"buffer {number} of pool"),
        (freed, shmpool.BufferReleased, "a burst of pool"),
        (viewed, shmpool.BufferInUse, f"buffer {viewed.index} cannot be"),
        (foreign, shmpool.ForeignBuffer, inside),
        (foreign_burst, shmpool.ForeignBuffer, f"a burst of 2 of pool '{other.name}' cannot go"),
        (through, shmpool.ForeignBuffer, "another Pool object of the same pool"),
        (good, shmpool.InvalidArgument, f"buffer {good.index} is given twice; each"),
        (element, shmpool.InvalidArgument, f"buffer {element.index} is given twice; each"),
        (burst, shmpool.InvalidArgument, "<shmpool.Burst of 3 buffers> is given twice; each"),
        (b"bytes", TypeError, "item 2 is b'bytes'; it must be a shmpool.Buffer or a"),
        (None, TypeError, "item 2 is None; it must be"),
    ]
    for item, kind, words in wrong:
        with pytest.raises(kind, match=re.escape(words)):
            give([good, burst, item])
        if not isinstance(item, (bytes, type(None))):
            with pytest.raises((kind, shmpool.InvalidArgument)):
                give([item, good, burst, item])
        assert (False, 3, False) == (good.released, len(burst), element.released)
    for nothing in (5, None, good):
        with pytest.raises(TypeError, match="or a list of Buffers and Bursts, not"):
            give(nothing)  # type: ignore[arg-type]
    view.release()
    inner = memoryview(element)
    with pytest.raises(shmpool.BufferInUse):
        give([good, burst])
    inner.release()
    assert (True, 6) == (pool.audit().ok, pool.stats().held)
    for buf in (foreign, through):
        buf.free()
    foreign_burst.free()
    twin.close()
    give([good, burst])
    assert (True, True) == (good.released, element.released)


def test_a_closed_or_read_only_pool(make_pool: MakePool) -> None:
    """PoolClosed; a read-only pool takes no buffer of the same pool."""
    pool = make_pool()
    queue = pool.create_queue("q", capacity=4)
    bufs = [pool.alloc(), pool.alloc()]
    with shmpool.Pool.attach(pool.name, readonly=True) as reader:
        for call in (reader.burst, reader.queue("q").put_many):
            with pytest.raises(shmpool.AccessDenied):
                call(bufs)
    queue.close()
    with pytest.raises(shmpool.PoolClosed):
        queue.put_many(bufs)
    pool.close()
    for give in (pool.burst, queue.put_many):
        with pytest.raises(shmpool.PoolClosed):
            give(bufs)
        with pytest.raises(shmpool.PoolClosed):
            give([])


def test_what_waits_cannot_be_used(pool: shmpool.Pool, eventually: Eventually) -> None:
    """A list that waits in a put belongs to nobody else; after a failure it is whole again, and a
    Buffer that another thread is putting by itself is left alone."""
    queue, alone = pool.create_queue("q", capacity=2), pool.create_queue("alone", capacity=2)
    queue.send_many([b"x"] * 2)
    alone.send_many([b"x"] * 2)
    buf, burst = pool.alloc(), pool.alloc_many(3)
    element, single = burst[0], burst[2]
    failed: list[BaseException] = []

    def put_alone() -> None:
        alone.put(single)

    def put_list() -> None:
        try:
            queue.put_many([buf, burst[:1]])
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=target) for target in (put_alone, put_list)]
    threads[0].start()
    eventually(lambda: pool.stats().counters["sleep"] >= 1)
    with pytest.raises(shmpool.Full):
        queue.put_many(burst, timeout=0.01)  # without the one that is being put
    assert single.released
    threads[1].start()
    eventually(lambda: buf.released and element.released)
    with pytest.raises(shmpool.BufferReleased):
        memoryview(element)
    with pytest.raises(shmpool.BufferReleased):
        pool.burst([buf])
    queue.recv_many(2)
    join(threads[1])
    assert ([], 2, 2) == (failed, len(queue), len(burst))
    alone.recv()
    join(threads[0])
    assert (True, 2) == (single.released, len(alone))
    queue.drain()
    alone.drain()
    burst.free()
    assert (True, {}) == (pool.audit().ok, pool.audit().held)
