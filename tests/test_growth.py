# SPDX-License-Identifier: Apache-2.0
"""Growth on demand, very large pools, a full /dev/shm, and buffers in other members' caches."""

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Child, Eventually, MakePool, room

import shmpool


def test_a_pool_grows_by_extents(make_pool: MakePool) -> None:
    """Buffers are created on demand, bulk x refill_multiplier at a time, up to the capacity."""
    pool = make_pool(capacity=256, prealloc=10, bulk=16, refill_multiplier=2)
    created, held = [pool.stats().created], []
    for _ in range(256):
        held.append(pool.alloc(timeout=0))
        created.append(pool.stats().created)
    assert [10, *range(42, 256, 32), 256] == sorted(set(created))
    with pytest.raises(shmpool.PoolExhausted):
        pool.alloc(timeout=0)
    assert set(range(256)) == {buf.index for buf in held}


def test_memory_is_reserved_as_it_grows(make_pool: MakePool) -> None:
    """The file is sparse: buffers that do not exist yet take no memory."""
    pool = make_pool(buffer_size=65536, capacity=1024, members=1, queues=1)
    path = Path(f"/dev/shm/shmpool.{pool.name}")
    before = path.stat().st_blocks * 512
    assert before < 2**20 < 64 * 2**20 < path.stat().st_size
    with pool.alloc_many(64):
        assert path.stat().st_blocks * 512 >= before + 64 * 65536


@pytest.mark.parametrize("prealloc", [0, 2**20])
@pytest.mark.skipif(room() < 2**28, reason="needs 256 MB in /dev/shm")
def test_a_million_buffers(make_pool: MakePool, prealloc: int) -> None:
    """2**20 small buffers can be created, allocated and freed, each once."""
    pool = make_pool(buffer_size=64, capacity=2**20, prealloc=prealloc)
    burst = pool.alloc_many(2**20, timeout=0)
    assert 2**20 == len(set(burst.indices.tolist()))
    burst.set_column(0, burst.indices)
    assert burst.indices.tolist() == burst.column(0, "u4").tolist()
    with pytest.raises(shmpool.PoolExhausted):
        pool.alloc(timeout=0)
    burst.free()
    audit = pool.audit()
    assert (True, 2**20, {}) == (audit.ok, audit.total, audit.held)


@pytest.mark.skipif(room() < 2**31, reason="needs 2 GB in /dev/shm")
def test_the_largest_capacity(make_pool: MakePool) -> None:
    """A capacity of 16,777,216 buffers is allowed. The unused ones take no memory."""
    pool = make_pool(buffer_size=64, capacity=2**24, prealloc=1000)
    status = os.stat(f"/dev/shm/shmpool.{pool.name}")
    assert status.st_blocks * 512 < 2**28 < status.st_size
    with pool.alloc_many(5000) as burst:
        assert 5000 == len(set(burst.indices.tolist()))
    assert (True, {}) == (pool.audit().ok, pool.audit().held)


@pytest.mark.parametrize("cache_size", [0, 32, 64, 128])
@pytest.mark.parametrize("kept", [0, 1, 17, 31, 33])
def test_bursts_of_every_size_are_freed(make_pool: MakePool, cache_size: int, kept: int) -> None:
    """A burst larger than the room in the local cache is freed, whatever is in the cache."""
    pool = make_pool(capacity=512, cache_size=cache_size)
    for n in (1, 15, 31, 32, 33, 63, 64, 65, 100, 128, 300):
        burst = pool.alloc_many(n)
        held = [pool.alloc() for _ in range(kept)]
        burst.free()
        assert (True, kept) == (pool.audit().ok, sum(pool.audit().held.values()))
        del held
    audit = pool.audit()
    assert (True, {}, audit.total) == (audit.ok, audit.held, audit.free + audit.cached)


HOARDER = """
    import shmpool, sys
    pool = shmpool.Pool.attach(sys.argv[1])
    pool.alloc().free()
    print(pool.members()[0].cached, flush=True)
    input()
"""


@pytest.mark.parametrize("stopped", [False, True])
@pytest.mark.parametrize("timeout", [0, 60])
def test_other_caches_are_stolen_from(
    make_pool: MakePool, start: Callable[..., Child], stopped: bool, timeout: float
) -> None:
    """An exhausted pool takes buffers from the caches of idle members, suspended ones too."""
    pool = make_pool(capacity=256, prealloc=256)
    child = start(HOARDER, pool.name)
    assert int(child.line()) > 0
    if stopped:
        os.kill(child.pid, signal.SIGSTOP)
        os.waitpid(child.pid, os.WUNTRACED)
    try:
        burst = pool.alloc_many(256, timeout=timeout)
        assert 256 == len(set(burst.indices.tolist()))
        assert pool.stats().counters["steal"] >= 1
        with pytest.raises(shmpool.PoolExhausted):
            pool.alloc(timeout=0)
        burst.free()
    finally:
        os.kill(child.pid, signal.SIGCONT)
    child.send()
    child.end()
    assert (True, {}) == (pool.audit().ok, pool.audit().held)


def test_many_caches_are_stolen_from(make_pool: MakePool, start: Callable[..., Child]) -> None:
    """The caches of several processes are emptied, and their owners continue."""
    pool = make_pool(capacity=512, prealloc=512)
    script = """
        import shmpool, sys
        pool = shmpool.Pool.attach(sys.argv[1])
        for line in sys.stdin:
            pool.alloc(timeout=60).free()
            print("ok", flush=True)
    """
    children = [start(script, pool.name) for _ in range(4)]
    for _ in range(5):
        for child in children:
            child.send()
        assert ["ok"] * 4 == [child.line() for child in children]
        assert pool.stats().cached > 0
        with pool.alloc_many(512, timeout=0) as burst:
            assert 512 == len(set(burst.indices.tolist()))
    for child in children:
        child.end()
    assert (True, {}) == (pool.audit().ok, pool.audit().held)


def small_shm(size: str) -> tuple[str, ...]:
    """A command prefix that gives a command a /dev/shm of its own, of that size."""
    user = () if os.getuid() == 0 else ("-r",)
    mount = f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$@"'
    prefix = ("unshare", "-m", *user, "sh", "-c", mount, "sh")
    try:
        done = subprocess.run([*prefix, "true"], capture_output=True, timeout=60)
    except FileNotFoundError:
        pytest.skip("there is no unshare(1)")
    if done.returncode:
        pytest.skip(f"cannot mount: {done.stderr.decode().strip()}")
    return prefix


FULL = """
    import os
    import shmpool

    size, capacity = 4096, 1024
    pool = shmpool.Pool.create(
        "full", buffer_size=size, capacity=capacity, bulk=16, refill_multiplier=1, members=4
    )
    pool.create_queue("q", capacity=capacity).send(b"before")
    filler = os.open("/dev/shm/filler", os.O_CREAT | os.O_RDWR)
    status = os.statvfs("/dev/shm")
    os.posix_fallocate(filler, 0, {filler})

    held = []
    for timeout in (0, 0.05, None):
        try:
            while True:
                held.append(pool.alloc(timeout))
                held[-1].write(b"x" * size)
        except shmpool.OutOfSharedMemory as error:
            assert "full" in str(error) and isinstance(error, MemoryError)
    assert {least} <= len(held) < capacity, len(held)
    try:
        pool.alloc_many(capacity - len(held))
        raise AssertionError("there was room")
    except shmpool.OutOfSharedMemory:
        pass
    try:
        pool.create_queue("p", capacity=65536).send(b"x")
        raise AssertionError("there was room for a ring")
    except shmpool.OutOfSharedMemory:
        pass
    try:
        shmpool.Pool.create("second", buffer_size=size, capacity=8, prealloc=8)
        raise AssertionError("there was room for a pool")
    except shmpool.OutOfSharedMemory as error:
        assert "second" in str(error)
    assert not os.path.exists("/dev/shm/shmpool.second")

    queue, n = pool.queue("q"), len(held)
    assert queue.recv() == b"before"
    for buf in held:
        buf.free()
    held = [pool.alloc() for _ in range(n)]  # it works with what it has
    for buf in held:
        buf.write(b"y" * size)
        queue.put(buf)
    del held[:]
    assert queue.recv_many(16)[0] == b"y" * size
    while not queue.empty():
        queue.recv()
    os.ftruncate(filler, 0)
    assert len(pool.alloc_many(capacity)) == capacity  # and grows when there is room again
    audit = pool.audit()
    assert audit.ok and audit.total == capacity and not audit.held, audit
    pool.close()
"""


@pytest.mark.parametrize(
    ("filler", "least"),
    [
        ("status.f_bavail * status.f_frsize - (1 << 20)", 32),
        ("status.f_bavail * status.f_frsize", 0),
    ],
)
def test_a_full_dev_shm(run: Callable[..., str], filler: str, least: int) -> None:
    """Growth raises OutOfSharedMemory, never SIGBUS. The pool works on, and grows later."""
    script = FULL.replace("{filler}", filler).replace("{least}", str(least))
    assert "" == run(script, prefix=small_shm("8m"))


def test_a_larger_class_where_one_cannot_grow(run: Callable[..., str]) -> None:
    """Where /dev/shm is full an allocation takes a buffer of a larger class that has memory, and
    raises OutOfSharedMemory when there is none."""
    printed = run(
        """
        import shmpool
        pool = shmpool.Pool.create(
            "sizes", buffer_size=[65536, 131072], capacity=[1024, 2], prealloc=[0, 2], cache_size=0
        )
        held = []
        try:
            while True:
                held.append(pool.alloc(timeout=0, size=1))
        except shmpool.OutOfSharedMemory:
            print([len(buf.data) for buf in held[-3:]])
        audit = pool.audit()
        print(audit.ok, audit.held[0] == len(held) > 60)
        shmpool.Pool.unlink("sizes")
        """,
        prefix=small_shm("8m"),
    )
    assert "[65536, 131072, 131072]\nTrue True\n" == printed


def test_sizes_against_a_small_dev_shm(run: Callable[..., str]) -> None:
    """The capacity may exceed /dev/shm. The preallocated part must fit, or nothing is left behind.

    A growth that fails names both sizes in MiB, and how to enlarge /dev/shm.
    """
    printed = run(
        """
        import os
        import shmpool
        pool = shmpool.Pool.create("large", capacity=1024, buffer_size=65536)
        held = []
        try:
            while True:
                held.append(pool.alloc())
        except shmpool.OutOfSharedMemory as error:
            print(len(held) > 60, error)
        shmpool.Pool.unlink("large")
        try:
            shmpool.Pool.create("other", capacity=128, buffer_size=65536, prealloc=128)
        except shmpool.OutOfSharedMemory as error:
            print(error)
        print(os.listdir("/dev/shm"))
        """,
        prefix=small_shm("8m"),
    )
    grown, made, left = printed.splitlines()
    assert grown.startswith("True pool 'large' can grow to 64 MiB, but /dev/shm has only 8 MiB: ")
    assert "(mount -o remount,size=128m /dev/shm; container: --shm-size=128m)" in grown
    assert "prealloc 128 x buffer_size 65536; /dev/shm has " in made
    assert "[]" == left


def test_what_does_not_fit(run: Callable[..., str]) -> None:
    """The message names the size with the pool's own part, also if nothing is preallocated.

    The size that it names as needed is larger than the one it names as free.
    """
    printed = run(
        """
        import os, re
        import shmpool
        filler = os.open("/dev/shm/filler", os.O_CREAT | os.O_RDWR)
        for left, prealloc in ((24576, 0), (1 << 20, 2048)):
            status = os.statvfs("/dev/shm")
            os.posix_fallocate(filler, 0, status.f_blocks * status.f_frsize - left)
            try:
                shmpool.Pool.create("large", buffer_size=960, capacity=4096, prealloc=prealloc)
            except shmpool.OutOfSharedMemory as error:
                print(error)
            os.ftruncate(filler, 0)
        print(os.listdir("/dev/shm"))
        """,
        prefix=small_shm("8m"),
    )
    bare, filled, files = printed.splitlines()
    assert "of it for itself and the rest for prealloc 0 x buffer_size 960; " in bare
    assert "/dev/shm has 24 KiB free of 8 MiB: enlarge it (mount -o remount,size=" in bare
    assert "the rest for prealloc 2048 x buffer_size 960; /dev/shm has 1 MiB free" in filled
    assert "of 8 MiB: lower prealloc, or enlarge it" in filled
    assert "['filler']" == files


LIMITED = """
    import os, resource, sys
    import shmpool
    from shmpool.view import View

    name, large = sys.argv[1], {"buffer_size": 65536, "capacity": 65536}
    shmpool.Pool.create(name, **large).close()
    resource.setrlimit(resource.RLIMIT_AS, (2**30, resource.getrlimit(resource.RLIMIT_AS)[1]))
    for call in (
        lambda: shmpool.Pool.create(f"{name}-2", **large),
        lambda: shmpool.Pool.attach(name),
        lambda: View(name),
    ):
        try:
            call()
        except shmpool.OutOfSharedMemory as error:
            size = os.stat(f"/dev/shm/shmpool.{name}").st_size
            print(name in str(error), str(size) in str(error), "RLIMIT_AS" in str(error))
    print(os.path.exists(f"/dev/shm/shmpool.{name}-2"))
"""


def test_the_addresses_of_a_process(run: Callable[..., str]) -> None:
    """A pool over the process's address limit is OutOfSharedMemory that names pool, size and limit.

    Attaching to an existing pool raises the same. Nothing is left.
    """
    printed = run(LIMITED, "limited", prefix=small_shm("8g"))
    assert "True True True\n" * 3 + "False\n" == printed


def test_alloc_is_woken_by_a_free_elsewhere(
    make_pool: MakePool, start: Callable[..., Child], eventually: Eventually
) -> None:
    """A process that waits for a buffer gets the buffer that another process frees."""
    pool = make_pool()
    burst = pool.alloc_many(64)
    child = start(
        """
        import shmpool, sys
        with shmpool.Pool.attach(sys.argv[1]) as pool:
            print(pool.alloc(timeout=None).index, flush=True)
            print(len(pool.alloc_many(40, timeout=60)), flush=True)
        """,
        pool.name,
    )
    eventually(lambda: pool.stats().counters["sleep"] >= 1)
    index = burst[5].index
    burst[5].free()
    assert str(index) == child.line()
    burst.free()
    assert "40\n" == child.end()
    assert (True, {}) == (pool.audit().ok, pool.audit().held)


def test_signals_arrive_while_a_large_buffer_is_created(
    make_pool: MakePool, run: Callable[..., str]
) -> None:
    """A buffer of 128 MiB is reserved in pieces, and C signal handlers run in between."""
    pool = make_pool(buffer_size=128 << 20, capacity=2)
    printed = run(
        """
        import os, shmpool, signal, sys
        pool = shmpool.Pool.attach(sys.argv[1])
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.signal(signal.SIGALRM, lambda number, frame: None)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
        buf = pool.alloc()
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(len(os.read(reader, 65536)) > 3)
        buf.data[-1] = 1
        buf.free()
        """,
        pool.name,
    )
    assert "True\n" == printed
    assert 128 << 20 == pool.trim()
