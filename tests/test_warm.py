# SPDX-License-Identifier: Apache-2.0
"""Large buffers stay warm: those that were freed a moment ago are allocated first."""

import threading

import pytest
from conftest import MakePool

import shmpool

SIZE = 1 << 20  # bytes of a buffer
WARM = 8  # buffers of that size in a warm ring
CAPACITY = 32


def large(make_pool: MakePool, prealloc: int = CAPACITY) -> shmpool.Pool:
    return make_pool(buffer_size=SIZE, capacity=CAPACITY, prealloc=prealloc)


def whole(pool: shmpool.Pool) -> tuple[int, int, bool]:
    """Returns how many buffers are free by the figures and by an audit, and whether that is ok."""
    audit = pool.audit()
    return pool.stats().free, audit.free, audit.ok


def test_one_buffer_after_the_other(make_pool: MakePool) -> None:
    """A thread that frees a buffer before it allocates the next one always gets the same one."""
    pool, seen = large(make_pool), set()
    for _ in range(2 * CAPACITY):
        with pool.alloc() as buf:
            seen.add(buf.index)
    assert 1 == len(seen)


def test_few_buffers_take_turns(make_pool: MakePool) -> None:
    """Where one thread allocates and another one frees, few of all buffers are used."""
    pool = large(make_pool)
    queue, seen, back = pool.create_queue("q", capacity=4), set(), threading.Event()

    def consume() -> None:
        for _ in range(4 * CAPACITY):
            with queue.get() as buf:
                seen.add(buf.index)
            back.set()

    thread = threading.Thread(target=consume)
    thread.start()
    for _ in range(4 * CAPACITY):
        back.clear()
        queue.put(pool.alloc())
        back.wait()
    thread.join()
    assert len(seen) <= 2
    assert (CAPACITY, CAPACITY, True) == whole(pool)


@pytest.mark.parametrize("n", [1, WARM, WARM + 1, CAPACITY])
def test_what_was_freed_comes_first(make_pool: MakePool, n: int) -> None:
    """The last of many buffers that were freed at once are allocated next; all others can be
    had too."""
    pool = large(make_pool)
    burst = pool.alloc_many(n)
    freed = [burst[i].index for i in range(n)]
    burst.free()
    assert (CAPACITY, CAPACITY, True) == whole(pool)
    warm = min(n, WARM)
    held = [pool.alloc() for _ in range(CAPACITY)]
    assert freed[n - warm :] == [buf.index for buf in held[:warm]]
    assert CAPACITY == len({buf.index for buf in held})
    with pytest.raises(shmpool.PoolExhausted):
        pool.alloc(timeout=0)
    assert (0, 0, True) == whole(pool)
    for buf in held:
        buf.free()
    burst = pool.alloc_many(CAPACITY, timeout=0)
    assert CAPACITY == len(burst)


def test_waiting_for_many(make_pool: MakePool) -> None:
    """Who waits for more buffers than the warm ring has room for is woken once there are enough."""
    pool = large(make_pool)
    held = [pool.alloc() for _ in range(CAPACITY)]
    got: list[int] = []
    thread = threading.Thread(target=lambda: got.append(len(pool.alloc_many(CAPACITY - 1))))
    thread.start()
    for buf in held[1:]:
        buf.free()
    thread.join()
    assert [CAPACITY - 1] == got


def test_trim(make_pool: MakePool) -> None:
    """Buffers in the warm ring are trimmed as others are."""
    pool = large(make_pool, prealloc=0)
    held = [pool.alloc() for _ in range(CAPACITY)]
    for buf in held:
        buf.free()
    assert CAPACITY == pool.stats().created
    assert pool.trim() >= (CAPACITY - WARM) * SIZE
    assert (0, 0) == (pool.stats().created, pool.stats().free)
    assert (0, 0, True) == whole(pool)


def test_defaults(make_pool: MakePool) -> None:
    """Classes whose buffers have 64 KiB or more have no local caches, unless asked for."""
    pool = make_pool(buffer_size=[32 << 10, 64 << 10, SIZE], capacity=[512, 512, 2])
    assert [64, 0, 0] == [one.cache_size for one in pool.geometry.sizes]
    assert 32 == make_pool(buffer_size=64 << 10, capacity=256, cache_size=32).geometry.cache_size


def test_queue_numbers(make_pool: MakePool) -> None:
    """A warm ring takes one of the numbers of queues."""
    with pytest.raises(shmpool.InvalidArgument, match="from 1 to 1022, as buffer_size is 1048576"):
        make_pool(buffer_size=SIZE, capacity=2, queues=1023)
    pool = make_pool(buffer_size=SIZE, capacity=2, queues=1022)
    assert 1022 == pool.geometry.queues
