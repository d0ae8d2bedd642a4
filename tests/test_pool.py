# SPDX-License-Identifier: Apache-2.0
"""Pool: creating, sharing, allocating, closing."""

import gc
import os
from collections.abc import Callable

import pytest
from conftest import MakePool

import shmpool
from shmpool.process_exit import open_pools


def test_create_knows_its_geometry(make_pool: MakePool, pool_name: str) -> None:
    """A pool has the geometry it was created with. The buffer size is rounded up to a cache
    line."""
    pool = make_pool(
        name=pool_name,
        buffer_size=100,
        capacity=1024,
        prealloc=17,
        cache_size=64,
        bulk=16,
        refill_multiplier=2,
        headroom=32,
        members=9,
        queues=5,
    )
    expected = (pool_name, 128, 1024, 17, 64, 16, 2, 32, 9, 5)
    assert expected == (
        pool.name,
        pool.buffer_size,
        pool.capacity,
        pool.geometry.prealloc,
        pool.geometry.cache_size,
        pool.geometry.bulk,
        pool.geometry.refill_multiplier,
        pool.headroom,
        pool.geometry.members,
        pool.geometry.queues,
    )


def test_defaults(make_pool: MakePool) -> None:
    """The documented defaults hold."""
    pool = make_pool(buffer_size=2048, capacity=4096)
    assert (0, 512, 32, 4, 0, 256, 64) == (
        pool.geometry.prealloc,
        pool.geometry.cache_size,
        pool.geometry.bulk,
        pool.geometry.refill_multiplier,
        pool.headroom,
        pool.geometry.members,
        pool.geometry.queues,
    )


@pytest.mark.parametrize(
    ("size", "capacity", "kept"),
    [(4096, 2048, 512), (4160, 2048, 256), (65472, 512, 32), (65473, 512, 0), (65600, 512, 0)],
)
def test_the_default_cache_is_bounded_in_bytes(
    make_pool: MakePool, size: int, capacity: int, kept: int
) -> None:
    """A member caches at most 2 MiB by default, and no buffers of 64 KiB or more."""
    assert kept == make_pool(buffer_size=size, capacity=capacity).geometry.cache_size
    assert 64 == make_pool(buffer_size=size, capacity=capacity, cache_size=64).geometry.cache_size


def test_attach_sees_the_same_geometry(make_pool: MakePool) -> None:
    """Attach reads the geometry from the segment."""
    made = make_pool(capacity=128, prealloc=5, headroom=64)
    with shmpool.Pool.attach(made.name) as pool:
        assert (made.buffer_size, 128, 5, 64) == (
            pool.buffer_size,
            pool.capacity,
            pool.geometry.prealloc,
            pool.headroom,
        )


def test_repr_names_the_pool(pool: shmpool.Pool) -> None:
    """repr shows the name, the size, and whether the pool is closed."""
    assert f"<shmpool.Pool {pool.name} of 64 x 256 bytes>" == repr(pool)
    pool.close()
    assert f"<shmpool.Pool closed {pool.name} of 64 x 256 bytes>" == repr(pool)


def test_every_buffer_can_be_allocated_once(pool: shmpool.Pool) -> None:
    """The pool gives out its capacity, each buffer once, then PoolExhausted that names it."""
    held = [pool.alloc() for _ in range(pool.capacity)]
    assert set(range(64)) == {buf.index for buf in held}
    with pytest.raises(shmpool.PoolExhausted, match=pool.name):
        pool.alloc(timeout=0)
    with pytest.raises(shmpool.PoolExhausted, match=pool.name):
        pool.alloc(timeout=0.05)
    held.pop().free()
    assert 63 == pool.stats().held
    assert not pool.alloc(timeout=0).released


def test_alloc_with_timeout_when_there_are_buffers(pool: shmpool.Pool) -> None:
    """Every form of the timeout gives a buffer if one is free."""
    for timeout in (None, 0, 0.0, 0.05, 5, 1e9, float("inf")):
        with pool.alloc(timeout) as one, pool.alloc(timeout=timeout) as two:
            assert one.index != two.index


def test_alloc_many_is_all_or_nothing(pool: shmpool.Pool) -> None:
    """alloc_many gives n buffers or takes none."""
    first = pool.alloc_many(60)
    assert 60 == len(first)
    for timeout in (0, 0.05):
        with pytest.raises(shmpool.PoolExhausted):
            pool.alloc_many(5, timeout=timeout)
    assert 60 == sum(pool.audit().held.values())
    rest = pool.alloc_many(4, timeout=0)
    assert set(range(64)) == {buf.index for burst in (first, rest) for buf in burst}


def test_alloc_many_of_the_whole_pool(cached_pool: shmpool.Pool) -> None:
    """One burst can be the whole pool, from caches and free ring together."""
    cached_pool.alloc().free()
    assert cached_pool.stats().cached > 0
    burst = cached_pool.alloc_many(256, timeout=0)
    assert 256 == len({buf.index for buf in burst})


def test_alloc_many_of_more_than_the_capacity(pool: shmpool.Pool) -> None:
    """More than the capacity is PoolExhausted at once, whatever the timeout."""
    for n in (65, 2**70):
        for timeout in (None, 0, 60):
            with pytest.raises(
                shmpool.PoolExhausted,
                match=f"n is {n} buffers; pool '{pool.name}' never has more than 64",
            ):
                pool.alloc_many(n, timeout)


def test_two_handles_of_one_pool_in_a_process(make_pool: MakePool) -> None:
    """A process may attach to a pool that it has open. Both see the same queues and buffers."""
    one = make_pool()
    with shmpool.Pool.attach(one.name) as two:
        one.create_queue("q", capacity=8).send(b"hello")
        assert b"hello" == two.queue("q").recv(timeout=0)


def test_closing_one_handle_leaves_the_other_alone(make_pool: MakePool) -> None:
    """close() frees the buffers that were allocated through its handle, and no others."""
    one = make_pool()
    with shmpool.Pool.attach(one.name) as two:
        mine = two.alloc()
        lost = one.alloc()
        one.close()
        assert lost.released
        mine.write(b"still here")
        assert 1 == sum(two.audit().held.values())
        mine.free()
        assert two.audit().ok
        assert {} == two.audit().held


def test_close_may_be_repeated(pool: shmpool.Pool) -> None:
    """A second close does nothing."""
    pool.close()
    pool.close()


@pytest.mark.parametrize(
    "call",
    [
        lambda pool, queue: pool.alloc(timeout=0),
        lambda pool, queue: pool.alloc_many(1, timeout=0),
        lambda pool, queue: pool.create_queue("other", capacity=2),
        lambda pool, queue: pool.queue("q"),
        lambda pool, queue: pool.queues(),
        lambda pool, queue: pool.stats(),
        lambda pool, queue: pool.members(),
        lambda pool, queue: pool.audit(),
        lambda pool, queue: pool.__enter__(),
        lambda pool, queue: queue.get(),
        lambda pool, queue: queue.get_nowait(),
        lambda pool, queue: queue.recv(),
        lambda pool, queue: queue.send(b"x"),
        lambda pool, queue: queue.send_many([b"x"]),
        lambda pool, queue: queue.recv_many(1),
        lambda pool, queue: queue.get_many(1),
        lambda pool, queue: len(queue),
        lambda pool, queue: queue.full(),
        lambda pool, queue: queue.empty(),
        lambda pool, queue: queue.release(),
    ],
)
def test_a_closed_pool_refuses(
    pool: shmpool.Pool, call: Callable[[shmpool.Pool, shmpool.AlfQueue], object]
) -> None:
    """Every call on a closed pool and its queues raises PoolClosed."""
    queue = pool.create_queue("q", capacity=8)
    pool.close()
    with pytest.raises(shmpool.PoolClosed):
        call(pool, queue)


def test_buffers_and_bursts_of_a_closed_pool(pool: shmpool.Pool) -> None:
    """They are released; using them is PoolClosed."""
    queue = pool.create_queue("q", capacity=8)
    buf, burst = pool.alloc(), pool.alloc_many(3)
    pool.close()
    assert buf.released
    for call in (
        buf.free,
        lambda: buf.write(b"x"),
        lambda: bytes(buf),
        lambda: len(buf),
        lambda: buf.view,
        lambda: queue.put(buf),
        burst.free,
        lambda: burst[0],
        lambda: burst.column(0, "u1"),
        lambda: queue.put_many(burst),
    ):
        with pytest.raises(shmpool.PoolClosed):
            call()


def test_close_frees_the_buffers(make_pool: MakePool, start: Callable[..., object]) -> None:
    """Buffers that a process owns when it closes the pool are free for others."""
    pool = make_pool(capacity=256)
    script = """
        import shmpool, sys
        pool = shmpool.Pool.attach(sys.argv[1])
        held = [pool.alloc() for _ in range(10)], pool.alloc_many(20)
        print("held", flush=True)
        input()
        pool.close()
        print(held[0][0].released, flush=True)
    """
    child = start(script, pool.name)
    assert "held" == child.line()  # type: ignore[attr-defined]
    assert [30] == list(pool.audit().held.values())
    child.send()  # type: ignore[attr-defined]
    assert "True\n" == child.end()  # type: ignore[attr-defined]
    assert (True, {}) == (pool.audit().ok, pool.audit().held)
    assert 256 == len(pool.alloc_many(256, timeout=0))


def test_exit_without_close(make_pool: MakePool, run: Callable[..., str]) -> None:
    """A process that ends returns its buffers and is no longer a member."""
    pool = make_pool(capacity=256)
    run(
        """
        import shmpool, sys
        pool = shmpool.Pool.attach(sys.argv[1])
        held = [pool.alloc() for _ in range(10)]
        """,
        pool.name,
    )
    assert (True, {}, 0) == (pool.audit().ok, pool.audit().held, pool.stats().members)


def test_with_closes(make_pool: MakePool) -> None:
    """The end of the pool's with block closes it."""
    with make_pool() as pool:
        assert 64 == pool.capacity
    with pytest.raises(shmpool.PoolClosed):
        pool.alloc()


def test_an_exported_view_keeps_the_pool_open(pool: shmpool.Pool) -> None:
    """close() is BufferError while a view is alive, and works afterwards."""
    view = pool.alloc().data
    with pytest.raises(BufferError, match=pool.name) as caught:
        pool.close()
    assert isinstance(caught.value, shmpool.BufferInUse)
    view[0] = 7  # the pool is still open
    del view
    pool.close()


def test_a_dropped_pool_detaches(make_pool: MakePool) -> None:
    """The end of the last reference to a Pool ends this process's membership."""
    pool = make_pool()
    other = shmpool.Pool.attach(pool.name)
    other.alloc().free()
    assert 1 == pool.stats().members
    del other
    assert 0 == pool.stats().members


def test_unlink_leaves_open_pools(make_pool: MakePool) -> None:
    """After unlink the name is free at once. Processes that have the pool open continue to use
    it."""
    pool = make_pool()
    queue = pool.create_queue("q", capacity=8)
    shmpool.Pool.unlink(pool.name)
    queue.send(b"old")
    with pytest.raises(shmpool.PoolNotFound, match=pool.name):
        shmpool.Pool.attach(pool.name)
    with pytest.raises(shmpool.PoolNotFound, match=pool.name):
        shmpool.Pool.unlink(pool.name)
    with make_pool(name=pool.name) as new:
        assert [] == new.queues()
    assert b"old" == queue.recv()


def test_create_on_an_existing_name(pool: shmpool.Pool) -> None:
    """A second create is PoolExists, and does not change the first pool."""
    with pytest.raises(shmpool.PoolExists, match=pool.name):
        shmpool.Pool.create(pool.name, buffer_size=64, capacity=2)
    with shmpool.Pool.attach(pool.name) as again:
        assert 256 == again.buffer_size


def test_a_closed_pool_does_not_reach_its_successor(make_pool: MakePool) -> None:
    """Objects of a closed pool do not reach the pool that was opened after it."""
    old = make_pool()
    queue, buf = old.create_queue("q", capacity=8), old.alloc()
    old.close()
    new = make_pool()
    new.create_queue("q", capacity=8).send(b"new")
    with pytest.raises(shmpool.PoolClosed):
        queue.recv(timeout=0)
    with pytest.raises(shmpool.PoolClosed):
        buf.free()


def test_as_many_pools_as_allowed(make_pool: MakePool, pool_name: str) -> None:
    """A process can have 256 pools open. One more is LimitReached and leaves nothing behind."""
    gc.collect()
    # Such as the one of the program's queues.
    others = sum(pool._segment is not None for pool in open_pools())
    pools = [make_pool(members=2, queues=1) for _ in range(256 - others)]
    with pytest.raises(shmpool.LimitReached, match="256"):
        shmpool.Pool.attach(pools[0].name)
    with pytest.raises(shmpool.LimitReached, match="256"):
        shmpool.Pool.create(pool_name, buffer_size=64, capacity=2)
    assert not os.path.exists(f"/dev/shm/shmpool.{pool_name}")
    pools[5].close()
    with shmpool.Pool.attach(pools[0].name) as again:
        again.alloc().free()
