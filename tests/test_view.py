# SPDX-License-Identifier: Apache-2.0
"""View: a pool's figures through a read-only mapping."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Child, MakePool

import shmpool
from shmpool import Geometry, PoolOptions
from shmpool.geometry import planned
from shmpool.pool_files import path_of
from shmpool.view import View


def mapped(name: str) -> set[str]:
    """The permissions of this process's mappings of the pool."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {line.split()[1] for line in lines if line.endswith(f"/shmpool.{name}")}


def test_the_mapping_is_read_only(make_pool: MakePool) -> None:
    """A view cannot change the pool: the kernel would not let it."""
    pool = make_pool()
    name = pool.name
    pool.close()
    with View(name) as view:
        assert {"r--s"} == mapped(name)
        assert 0 == view.stats().members
    assert set() == mapped(name)


def test_a_pool_that_may_only_be_read(pool: shmpool.Pool) -> None:
    """A file without permission to write can be viewed."""
    path = Path(f"/dev/shm/shmpool.{pool.name}")
    path.chmod(0o400)
    with View(pool.name) as view:
        assert ("0400", os.geteuid()) == (view.file().mode, view.file().uid)


def test_figures_are_the_pools(cached_pool: shmpool.Pool) -> None:
    """Stats and members equal the pool's own. A member's buffers are counted."""
    work = cached_pool.create_queue("work", capacity=8)
    work.send_many([b"x"] * 5)
    with cached_pool.alloc_many(7), View(cached_pool.name) as view:
        assert cached_pool.stats() == view.stats()
        assert cached_pool.members() == view.members()
        (member,) = view.members()
        assert (os.getpid(), 7) == (member.pid, member.held)
        (queue,) = view.queues()
        assert ("work", 8, 5, 5, 0) == (
            queue.name, queue.capacity, queue.depth, queue.enqueued, queue.dequeued,
        )  # fmt: skip
        assert [b"x", b"x"] == work.recv_many(2)
        (queue,) = view.queues()
        assert (3, 5, 2) == (queue.depth, queue.enqueued, queue.dequeued)


def test_processes(pool: shmpool.Pool, start: type[Child]) -> None:
    """A process with several threads in the pool is listed once, by its pid and start time."""
    child = start(
        """
        import sys, threading, shmpool
        pool = shmpool.Pool.attach(sys.argv[1])
        inside, leave = threading.Barrier(3), threading.Event()
        def work():
            with pool.alloc():
                inside.wait()
                leave.wait()
        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads: thread.start()
        inside.wait()
        print("ready", flush=True)
        input()
        leave.set()
        for thread in threads: thread.join()
        """,
        pool.name,
    )
    assert "ready" == child.line()
    with View(pool.name) as view:
        assert [child.pid] * 2 == [member.pid for member in view.members()]
        assert (0, []) == (view.dead(), view.dead_members())
        assert [] == view.operating()
    child.send()
    child.end()


def test_dead_members(make_pool: MakePool, start: Callable[..., Child]) -> None:
    """A reader of a pool sees which members are dead, and when they have been recovered."""
    pool = make_pool()
    child = start(
        """
        import sys, shmpool
        held = shmpool.Pool.attach(sys.argv[1]).alloc_many(3)
        print("ready", flush=True)
        input()
        """,
        pool.name,
    )
    assert "ready" == child.line()
    pool.alloc().free()
    with View(pool.name) as view:
        assert 0 == view.dead()
        child.kill()
        assert (1, [child.pid]) == (view.dead(), [m.pid for m in view.dead_members()])
        pool.recover()
        assert (0, []) == (view.dead(), view.dead_members())


def test_stale(make_pool: MakePool, pool_name: str) -> None:
    """A view knows when its name stands for another pool, or for none."""
    make_pool(name=pool_name)
    with View(pool_name) as view:
        assert not view.stale()
        shmpool.Pool.unlink(pool_name)
        assert view.stale()
        make_pool(name=pool_name)
        assert view.stale()
        assert 64 == view.stats().capacity  # it still reads its own pool


def test_what_cannot_be_viewed(pool_name: str) -> None:
    """A name without a pool, and a pool of another layout, give the errors of attach."""
    with pytest.raises(shmpool.PoolNotFound):
        View(pool_name)
    Path(f"/dev/shm/shmpool.{pool_name}").write_bytes(b"x" * 8192)
    with pytest.raises(shmpool.SegmentInvalid):
        View(pool_name)


def test_a_closed_view(pool: shmpool.Pool) -> None:
    """A second close does nothing. A later read raises and does not crash."""
    view = View(pool.name)
    view.close()
    view.close()
    for read in (view.stats, view.queues, view.members, view.dead, view.file):
        with pytest.raises(shmpool.PoolClosed, match="the view of pool"):
            read()


def test_a_file_of_another_size(pool: shmpool.Pool) -> None:
    """Nothing is read of a pool whose file has grown or shrunk: it counts as no pool."""
    with View(pool.name) as view:
        size = Path(path_of(pool.name)).stat().st_size
        for more in (4096, -4096):
            os.truncate(path_of(pool.name), size + more)
            for read in (view.stats, view.queues, view.members, view.dead, view.file):
                with pytest.raises(shmpool.SegmentInvalid):
                    read()
        os.truncate(path_of(pool.name), size)
        assert 64 == view.stats().capacity


def test_planned_geometry(make_pool: MakePool) -> None:
    """The planned geometry is the one that the pool gets. Invalid and huge numbers are refused."""
    expected = Geometry.of(planned("x", PoolOptions(100, 4096)))
    with View(make_pool(buffer_size=100, capacity=4096).name) as view:
        assert expected == view.geometry
    for capacity in (100, 2**80, -(2**80)):
        with pytest.raises(shmpool.InvalidArgument, match="capacity"):
            planned("x", PoolOptions(64, capacity))


def test_pool_names(make_pool: MakePool, pool_name: str) -> None:
    """pool_names() lists a pool from its creation to its unlinking, sorted."""
    assert pool_name not in shmpool.pool_names()
    make_pool(name=pool_name)
    assert pool_name in shmpool.pool_names()
    assert sorted(shmpool.pool_names()) == shmpool.pool_names()
    shmpool.Pool.unlink(pool_name)
    assert pool_name not in shmpool.pool_names()
