# SPDX-License-Identifier: Apache-2.0
"""Queues whose memory is reserved as they fill, and queues of more than one bulk."""

import os
from collections.abc import Callable

import pytest
from conftest import MakePool
from test_growth import small_shm

import shmpool
from shmpool.choices import Memory

LARGE = 1 << 20  # the largest queue


def reserved(pool: shmpool.Pool) -> int:
    """The bytes of memory that the pool's file has."""
    return os.stat(f"/dev/shm/shmpool.{pool.name}").st_blocks * 512


def test_a_queue_takes_memory_as_it_fills(make_pool: MakePool) -> None:
    """It begins with a page, and has at most twice what the buffers that it held needed."""
    pool = make_pool(buffer_size=64, capacity=1 << 17, prealloc=1 << 17, cache_size=0)
    before = reserved(pool)
    whole = pool.create_queue("whole", capacity=LARGE)
    assert before + 8 * LARGE == reserved(pool)
    queue = pool.create_queue("q", capacity=LARGE, memory="on-demand")
    assert ("reserved", "on-demand") == (whole.memory, queue.memory)
    empty = reserved(pool)
    assert before + 8 * LARGE + 4096 == empty
    for n in (1, 384, 385, 10_000, 65_536, 40_000):
        queue.put_many(pool.alloc_many(n))
        held = max(1024 * (len(queue) > 384), len(queue))
        assert reserved(pool) - empty <= 8 * 2 * (held + 128)
        assert reserved(pool) - empty >= 8 * len(queue) - 4096
    audit = pool.audit()
    assert (True, len(queue)) == (audit.ok, audit.queued["q"])
    assert queue.drain() == 1 + 384 + 385 + 10_000 + 65_536 + 40_000


@pytest.mark.parametrize("memory", ["reserved", "on-demand"])
def test_in_order_over_the_end(make_pool: MakePool, memory: Memory) -> None:
    """What is put comes out in order, several times round the ring, singly and in bulks."""
    pool = make_pool(buffer_size=64, capacity=4096, prealloc=4096, cache_size=0)
    queue = pool.create_queue("q", capacity=2048, memory=memory)
    put = got = 0
    for n in (1, 7, 64, 100, 500, 1000) * 16:
        burst = pool.alloc_many(n)
        burst.set_column(0, range(put, put + n), "<u4")
        queue.put_many(burst)
        put += n
        while len(queue) > 700:
            taken = queue.get_many(2 * n)
            assert list(range(got, got + len(taken))) == taken.column(0, "<u4").tolist()
            got += len(taken)
            taken.free()
    assert put > 4 * queue.capacity
    assert queue.drain() == put - got


def test_a_put_of_many(make_pool: MakePool) -> None:
    """One put moves up to 65,536 buffers; a get of more returns up to so many."""
    pool = make_pool(buffer_size=64, capacity=1 << 17, prealloc=1 << 17, cache_size=0)
    queue = pool.create_queue("q", capacity=LARGE)
    burst = pool.alloc_many(65_537)
    with pytest.raises(shmpool.Full, match="65537 buffers; queue 'q' takes up to 65536 at once"):
        queue.put_many(burst)
    with pytest.raises(shmpool.Full, match="takes up to 65536 at once"):
        queue.put_many(burst, timeout=0)
    first = burst[:65_536]
    queue.put_many(first)
    queue.put_many(burst)
    assert 65_537 == len(queue)
    assert [65_536, 1] == [len(queue.get_many(LARGE)) for _ in range(2)]


FULL = """
    import os
    import shmpool

    pool = shmpool.Pool.create("full", buffer_size=64, capacity=4096, prealloc=4096, cache_size=0)
    queues = [
        pool.create_queue(name, capacity=1 << 20, memory="on-demand", on_death="requeue")
        for name in ("q", "back")
    ]
    filler = os.open("/dev/shm/filler", os.O_CREAT | os.O_RDWR)
    status = os.statvfs("/dev/shm")
    os.posix_fallocate(filler, 0, status.f_bavail * status.f_frsize)

    queue, back = queues
    numbers = iter(range(4096))
    sent = []

    def send():
        number = next(numbers)
        queue.send(number.to_bytes(4, "little"), timeout=None if number % 2 else 0)
        sent.append(number)

    for _ in range(2):
        try:
            while True:
                send()
        except shmpool.OutOfSharedMemory as error:
            print(len(sent), "'full'" in str(error))
    with pool.alloc_many(64) as burst:
        try:
            queue.put_many(burst)
        except shmpool.OutOfSharedMemory:
            print(len(burst), len(queue))
    half = [int.from_bytes(queue.recv(), "little") for _ in range(100)]
    half += [int.from_bytes(data, "little") for data in queue.recv_many(100)]
    assert half == sent[: len(half)]
    try:
        send()
    except shmpool.OutOfSharedMemory:
        print("still full")

    # A consumer's buffers come back, once there is memory.
    for n in range(384):
        back.send(bytes([n % 256]))
    pid = os.fork()
    if pid == 0:
        held = [back.get() for _ in range(3)]
        os.kill(os.getpid(), 9)
    os.waitpid(pid, 0)
    recovered = pool.recover()
    print(recovered.members, len(back))
    os.ftruncate(filler, 0)
    recovered = pool.recover()
    print(recovered.requeued, len(back))
    for n in range(2000):
        send()
    left = []
    while not queue.empty():
        left += [int.from_bytes(data, "little") for data in queue.recv_many(4096)]
    print(half + left == sent, sorted(back.recv() for _ in range(len(back)))[:4])
    audit = pool.audit()
    print(audit.ok, audit.held, audit.total)
    pool.close()
"""


def test_no_memory_for_the_ring(run: Callable[..., str]) -> None:
    """A put that finds no memory raises OutOfSharedMemory and puts nothing, and what comes back
    from a dead consumer waits, without keeping its member slot. All goes on when there is some."""
    printed = run(FULL, prefix=small_shm("4m")).splitlines()
    assert [
        "384 True",
        "384 True",
        "64 384",
        "still full",
        "1 381",
        "3 384",
        "True [b'\\x00', b'\\x00', b'\\x01', b'\\x01']",
        "True {} 4096",
    ] == printed


def test_thousands_of_queues(run: Callable[..., str]) -> None:
    """4,096 Queues of a program take less than 128 MiB, and each passes an object."""
    printed = run(
        """
        import os
        import shmpool

        queues = [shmpool.Queue() for _ in range(4096)]
        for q in queues:
            q.put(1)
        files = {q._queue.pool._opened().fd for q in queues}
        memory = sum(os.fstat(fd).st_blocks * 512 for fd in files)
        print(sum(q.get() for q in queues), memory < 128 << 20)
        """
    )
    assert "4096 True\n" == printed


def test_a_million_objects() -> None:
    """A Queue without a maxsize takes a million objects before any is got, in order."""
    queue, n = shmpool.Queue(), 1_000_000
    assert LARGE == queue._queue.capacity
    for first in range(0, n, 100_000):
        queue.put_many(range(first, first + 100_000), timeout=0)
    assert n == queue.qsize()
    got: list[int] = []
    while len(got) < n:
        got += queue.get_many(100_000, timeout=0)
    assert list(range(n)) == got
    assert queue.empty()


@pytest.mark.parametrize("kind", [shmpool.Queue, shmpool.JoinableQueue, shmpool.SimpleQueue])
@pytest.mark.parametrize("pool", ["x", 0, object])
def test_what_is_no_pool(kind: type, pool: object) -> None:
    """TypeError names what was given for a pool, and what it must be."""
    with pytest.raises(TypeError, match=r"pool is .*; it must be a shmpool.Pool, or None") as error:
        kind(pool=pool)
    assert repr(pool) in str(error.value)
