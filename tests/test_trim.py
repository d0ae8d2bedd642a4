# SPDX-License-Identifier: Apache-2.0
"""pool.trim(): memory of unused buffers is returned to the kernel, and reserved again later."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

import shmpool
from tests.conftest import Child, MakePool


def used(pool: shmpool.Pool) -> int:
    """Bytes of memory that the segment takes."""
    return Path(f"/dev/shm/shmpool.{pool.name}").stat().st_blocks * 512


def grown(pool: shmpool.Pool) -> None:
    """Creates every buffer up to the capacity, and frees them."""
    pool.alloc_many(pool.capacity).free()


def test_trim_gives_memory_back(make_pool: MakePool) -> None:
    """The file shrinks by the reported number of bytes. The rest of the pool works, and grows
    again."""
    pool = make_pool(buffer_size=4096, capacity=2048, prealloc=256)
    small = used(pool)
    grown(pool)
    large = used(pool)
    given = pool.trim()
    assert (2048 - 256) * 4096 == given
    assert large - given == used(pool)
    assert used(pool) - small < 2048 * 64 + 4096  # the headers stay
    assert (256, True) == (pool.stats().created, pool.audit().ok)
    grown(pool)
    assert (2048, large) == (pool.stats().created, used(pool))
    assert pool.audit().ok


def test_trim_keeps(make_pool: MakePool) -> None:
    """At least the given number stay free. Owned and queued buffers stay, with their extents."""
    pool = make_pool(buffer_size=4096, capacity=2048, cache_size=0)
    queue = pool.create_queue("q", capacity=8)
    grown(pool)
    pool.trim(keep=1000)
    assert 1000 <= pool.stats().free < 1000 + 128
    burst, held = pool.alloc_many(600), pool.alloc()
    held.write(b"held")
    queue.send(b"queued")
    burst.free()
    pool.trim()
    assert 2 <= pool.stats().created <= 2 * 128
    assert (b"held", 1, True) == (bytes(held), len(queue), pool.audit().ok)
    with pytest.raises(shmpool.InvalidArgument, match="-1"):
        pool.trim(keep=-1)


def test_trim_takes_from_idle_caches(make_pool: MakePool, start: Callable[..., Child]) -> None:
    """Buffers in the local cache of an idle process do not keep their extents."""
    pool = make_pool(buffer_size=4096, capacity=1024)
    child = start(
        """
        import sys
        import shmpool
        pool = shmpool.Pool.attach(sys.argv[1])
        pool.alloc_many(1024).free()
        print(pool.stats().cached, flush=True)
        sys.stdin.readline()
        pool.alloc_many(1024).free()
        print(pool.audit().ok, flush=True)
        """,
        pool.name,
    )
    assert int(child.line()) > 0
    assert 1024 * 4096 == pool.trim()
    assert 0 == pool.stats().created
    child.send()
    assert "True" == child.line()
    child.end()


def test_trim_while_others_work(make_pool: MakePool, start: Callable[..., Child]) -> None:
    """Messages pass whole and in order while another process trims all the time."""
    pool = make_pool(buffer_size=4096, capacity=1024, cache_size=0)
    queue = pool.create_queue("q", capacity=256)
    child = start(
        """
        import sys
        import shmpool
        pool = shmpool.Pool.attach(sys.argv[1])
        queue = pool.queue("q")
        for i in range(0, 20000, 100):
            queue.send_many([b"%d" % n * 100 for n in range(i, i + 100)])
        """,
        pool.name,
    )
    seen, given = 0, 0
    while seen < 20000:
        for message in queue.recv_many(256):
            assert b"%d" % seen * 100 == message
            seen += 1
        given += pool.trim()
    child.end()
    assert given > 0
    audit = pool.audit()
    assert (True, {}) == (audit.ok, audit.held)


@pytest.mark.slow
def test_killed_while_trimming(make_pool: MakePool, start: Callable[..., Child]) -> None:
    """A trimmer may be killed at any moment: recovery repairs what it leaves."""
    pool = make_pool(buffer_size=4096, capacity=1024, cache_size=0)
    for i in range(20):
        grown(pool)
        child = start(
            """
            import sys
            import shmpool
            pool = shmpool.Pool.attach(sys.argv[1])
            print(flush=True)
            while True:
                pool.trim(keep=int(sys.argv[2]))
                pool.alloc_many(1024 - int(sys.argv[2])).free()
            """,
            pool.name,
            i * 40,
        )
        child.line()
        os.kill(child.pid, signal.SIGKILL)
        child.process.communicate()
        pool.recover()
        audit = pool.audit()
        assert (True, {}, audit.total) == (audit.ok, audit.held, audit.free)
        assert 1024 == len(pool.alloc_many(1024, timeout=0))


def test_others_find_buffers_during_a_trim(
    make_pool: MakePool, start: Callable[..., Child]
) -> None:
    """A call that does not wait finds buffers in a pool that only the trimmer uses besides."""
    pool = make_pool(buffer_size=64, capacity=2**15, bulk=16, refill_multiplier=16)
    child = start(
        """
        import sys
        import shmpool
        pool = shmpool.Pool.attach(sys.argv[1])
        for keep in (0, 0, 20000, 0):
            for _ in range(5):
                pool.alloc_many(2**14).free()
                pool.trim(keep)
        """,
        pool.name,
    )
    while child.process.poll() is None:
        for n in (1, 100, 2000):
            pool.alloc_many(n, timeout=0).free()
    child.end()


def test_the_last_extent_stays(make_pool: MakePool) -> None:
    """If no memory could be reserved again, the only free buffers stay."""
    pool = make_pool(buffer_size=4096, capacity=64)
    grown(pool)
    assert (0, 64) == (pool.trim(), pool.stats().created)
    with pool.alloc(timeout=0):
        pass
