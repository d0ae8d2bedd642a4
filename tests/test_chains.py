# SPDX-License-Identifier: Apache-2.0
"""Chains: messages of several buffers, which are owned, put, got and freed as one."""

import os
import random
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Child, Eventually, MakePool, join

import shmpool

Start = Callable[..., Child]
SIZE = 256


@pytest.fixture
def chained(make_pool: MakePool) -> shmpool.Pool:
    return make_pool(buffer_size=SIZE, capacity=64, prealloc=0, cache_size=0)


@pytest.fixture
def sized(make_pool: MakePool) -> shmpool.Pool:
    return make_pool(buffer_size=[64, SIZE, 4096], capacity=[64, 64, 4], headroom=32, prealloc=0)


def content(n: int) -> bytes:
    return random.Random(n).randbytes(n)


def all_back(pool: shmpool.Pool) -> bool:
    """True if no buffer is held or chained, and each is counted once."""
    audit, stats = pool.audit(), pool.stats()
    return audit.ok and not audit.held and not audit.chained and stats.chained == stats.held == 0


@pytest.mark.parametrize("n", [0, 1, SIZE, SIZE + 1, 2 * SIZE, 5000, 64 * SIZE])
def test_any_size(chained: shmpool.Pool, n: int) -> None:
    """From nothing to the whole pool, what was written comes out of the queue."""
    queue = chained.create_queue("q", capacity=4)
    data = content(n)
    buf = chained.alloc(size=n)
    assert n == buf.write(data) == buf.length == len(buf)
    pieces = max(-(-n // SIZE), 1)
    assert [SIZE] * (pieces - 1) == [len(part) for part in buf.segments][: pieces - 1]
    assert (1, pieces - 1) == (sum(chained.audit().held.values()), chained.audit().chained)
    queue.put(buf)
    assert (0, pieces - 1) == (chained.stats().held, chained.stats().chained)
    with queue.get(timeout=0) as got:
        assert data == bytes(got) == b"".join(got.segments)
    assert all_back(chained)


@pytest.mark.parametrize("n", [33, 225, 4065, 4096 + 100, 9000, 12_345, 24 * SIZE])
def test_of_several_classes(sized: shmpool.Pool, n: int) -> None:
    """Large buffers first; the rest goes into a smaller one, and into whatever is there."""
    data = content(n)
    with sized.alloc(size=n) as buf:
        buf.write(data)
        assert data == bytes(buf)
    whole = sized.geometry.room
    with sized.alloc(size=whole) as buf:
        assert whole == buf.write(content(whole))
        assert content(whole) == bytes(buf)
        with pytest.raises(shmpool.PoolExhausted):
            sized.alloc(timeout=0)
    with pytest.raises(shmpool.PayloadTooLarge, match=f"{whole + 1} bytes"):
        sized.alloc(size=whole + 1)
    assert all_back(sized)


def test_from_what_is_free(sized: shmpool.Pool) -> None:
    """If the large buffers are in use, many small ones do."""
    held = [sized.alloc(size=4000) for _ in range(4)]
    with sized.alloc(timeout=0, size=5000) as buf:
        buf.write(content(5000))
        assert {SIZE, SIZE - 32} >= {len(part) for part in buf.segments[:-1]}
        assert content(5000) == bytes(buf)
    del held
    assert all_back(sized)


def test_written_in_parts(chained: shmpool.Pool) -> None:
    """writelines() of anything that has bytes; readinto() from any offset; a view of each part."""
    buf = chained.alloc(size=1000)
    parts = [b"", content(300), bytearray(b"x" * 5), np.arange(100, dtype="u2"), memoryview(b"end")]
    whole = b"".join(bytes(part) for part in parts)
    assert len(whole) == buf.writelines(parts) == len(buf)
    assert whole == bytes(buf)
    for offset in (0, 1, SIZE - 1, SIZE, SIZE + 1, len(whole) - 1, len(whole), 10**30):
        target = bytearray(300)
        n = buf.readinto(target, offset)
        assert whole[offset : offset + 300] == target[:n]
    buf.segments[1][:3] = b"abc"
    assert b"abc" == bytes(buf)[SIZE : SIZE + 3]
    buf.length = 10
    assert (1, whole[:10]) == (len(buf.segments), bytes(buf))
    with pytest.raises(shmpool.PayloadTooLarge, match=r"1025 bytes; the buffer has room for 1024"):
        buf.write(bytes(1025))
    with pytest.raises(shmpool.PayloadTooLarge, match="1025"):
        buf.length = 1025
    assert 10 == len(buf)


@pytest.mark.parametrize(
    "arguments",
    [(), (b"read-only",), (bytearray(3), -1), (bytearray(3), 1.5), (bytearray(3), 1, 2)],
)
def test_no_target(chained: shmpool.Pool, arguments: tuple[object, ...]) -> None:
    buf = chained.alloc(size=1000)
    buf.write(b"abc")
    with pytest.raises((TypeError, BufferError, shmpool.InvalidArgument)):
        buf.readinto(*arguments)  # type: ignore[arg-type]


def test_the_same_for_a_single_buffer(chained: shmpool.Pool) -> None:
    with chained.alloc() as buf:
        assert 5 == buf.writelines([b"he", b"llo"])
        target = bytearray(9)
        assert (3, b"llo") == (buf.readinto(target, 2), target[:3])
        (view,) = buf.segments
        view[0] = ord("H")
        del view
        assert b"Hello" == bytes(buf)


def test_files(chained: shmpool.Pool, tmp_path: Path) -> None:
    """os.preadv() and os.pwritev() take the segments as they are."""
    data = content(3000)
    path = tmp_path / "file"
    path.write_bytes(data)
    with path.open("r+b", buffering=0) as file, chained.alloc(size=3000) as buf:
        buf.length = 3000
        assert 3000 == os.preadv(file.fileno(), buf.segments, 0)
        assert data == bytes(buf)
        assert 3000 == os.pwritev(file.fileno(), buf.segments, 3000)
    assert data * 2 == path.read_bytes()


def test_not_in_one_place(chained: shmpool.Pool) -> None:
    """What needs all bytes in one place says what to use instead."""
    buf = chained.alloc(size=1000)
    buf.write(content(1000))
    for use in (memoryview, np.frombuffer, lambda buf: buf.data, lambda buf: buf.view):
        with pytest.raises(BufferError, match=r"a chain of 4 buffers.*segments"):
            use(buf)
    with pytest.raises(BufferError, match="headroom"):
        buf.headroom = 1
    queue = chained.create_queue("q", capacity=2)
    queue.put(buf)
    with pytest.raises(shmpool.NoArray, match="chain"):
        queue.get_array()
    assert content(1000) == queue.recv()
    assert all_back(chained)


def test_views_keep_it(chained: shmpool.Pool) -> None:
    """While a view of a segment is alive, the chain can be neither freed nor put."""
    queue = chained.create_queue("q", capacity=2)
    buf = chained.alloc(size=1000)
    buf.write(content(1000))
    view = buf.segments[2]
    for give in (buf.free, lambda: queue.put(buf)):
        with pytest.raises(shmpool.BufferInUse):
            give()
    with pytest.raises(ZeroDivisionError), buf:
        print(1 // 0)
    assert content(1000)[2 * SIZE : 3 * SIZE] == view
    assert 3 == chained.audit().chained
    del view
    assert buf.released
    assert all_back(chained)


def test_sent(sized: shmpool.Pool) -> None:
    """send() and recv(), one and many, of payloads below and above any buffer's size."""
    queue = sized.create_queue("q", capacity=16)
    payloads = [content(n) for n in (1, 5000, 10, 6000, 0, 200)]
    for payload in payloads:
        queue.send(payload, timeout=0)
    assert payloads == [queue.recv(timeout=0) for _ in payloads]
    queue.send_many(payloads, timeout=0)
    assert payloads == queue.recv_many(16)
    queue.send(np.arange(2000, dtype="u4"))
    assert np.arange(2000, dtype="u4").tobytes() == queue.try_recv()
    assert all_back(sized)


def test_no_room_for_it(sized: shmpool.Pool) -> None:
    """What there is no room for is refused, and nothing is lost."""
    queue = sized.create_queue("q", capacity=2)
    with sized.alloc(size=sized.geometry.room - 2000):
        with pytest.raises(shmpool.PoolExhausted):
            queue.send(bytes(5000), timeout=0)
        with pytest.raises(shmpool.PoolExhausted) as refused:
            queue.send_many([b"a", bytes(5000), b"b"], timeout=0.01)
        assert 1 == refused.value.sent
    queue.send(b"second")
    with pytest.raises(shmpool.Full):
        queue.send(bytes(5000), timeout=0.01)
    queue.drain()
    assert all_back(sized)


def test_waits_for_room(chained: shmpool.Pool) -> None:
    """alloc() of a chain waits until enough buffers are free, and takes none before."""
    held = chained.alloc(size=60 * SIZE)
    made = []
    thread = threading.Thread(target=lambda: made.append(bytes(filled(chained.alloc(size=5000)))))
    thread.start()
    with pytest.raises(shmpool.PoolExhausted):
        chained.alloc(timeout=0.05, size=5000)
    held.free()
    join(thread)
    assert [content(5000)] == made
    assert all_back(chained)


def filled(buf: shmpool.Buffer) -> shmpool.Buffer:
    buf.write(content(5000))
    return buf


def test_bursts(sized: shmpool.Pool) -> None:
    """A burst carries chains beside single buffers; lengths are those of the messages."""
    queue, other = (sized.create_queue(name, capacity=16) for name in ("q", "other"))
    payloads = [content(n) for n in (10, 5000, 60, 9000)]
    queue.send_many(payloads)
    burst = queue.get_many(16)
    assert [10, 5000, 60, 9000] == burst.lengths.tolist()
    assert payloads[1] == bytes(burst[1])
    burst.lengths = [1, 4500, 2, 20]
    assert [1, 4500, 2, 20] == [len(buf) for buf in burst]
    assert payloads[1][:4500] == bytes(burst[1])
    part = burst[[1, 3]]
    other.put_many(part)
    queue.put_many(burst)
    assert [payloads[1][:4500], payloads[3][:20]] == other.recv_many(16)
    queue.get_many(16).free()
    with sized.burst([sized.alloc(size=5000), sized.alloc()]) as mixed:
        assert [0, 0] == mixed.lengths.tolist()
    assert all_back(sized)


def test_returned(sized: shmpool.Pool) -> None:
    """nack(), dead letters, redrive() and peek() are of the whole message."""
    letters = sized.create_queue("letters", capacity=4)
    queue = sized.create_queue("q", capacity=4, dead_letter=letters, max_redeliveries=1)
    data = content(5000)
    queue.send(data)
    assert (5000, data[:4500]) == (queue.peek(1, 4500)[0].length, queue.peek(1, 4500)[0].payload)
    queue.get().nack()
    buf = queue.get()
    assert (1, data) == (buf.redelivered, bytes(buf))
    buf.nack()
    assert (0, "q", data) == (
        len(queue),
        letters.peek(1)[0].origin,
        letters.peek(1, 9999)[0].payload,
    )
    letters.redrive(1)
    assert data == queue.recv(timeout=0)
    assert all_back(sized)


def test_threads(chained: shmpool.Pool) -> None:
    """A thread may free what another one allocated; one that has ended leaves nothing."""
    made: list[shmpool.Buffer] = []
    for _ in range(20):
        thread = threading.Thread(target=lambda: made.append(chained.alloc(size=600)))
        thread.start()
        join(thread)
    for buf in made:
        buf.write(content(600))
        assert content(600) == bytes(buf)
        buf.free()
    made.clear()
    del buf
    assert 1 == len(chained.members())
    assert all_back(chained)


def test_a_fork(chained: shmpool.Pool) -> None:
    """A child reads its parent's chain by views made before, and owns nothing of it."""
    buf = chained.alloc(size=600)
    buf.write(content(600))
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            buf.free()
        except shmpool.BufferReleased:
            code = 0
        os._exit(code)
    assert 0 == os.waitpid(pid, 0)[1]
    assert content(600) == bytes(buf)
    buf.free()
    assert all_back(chained)


def test_closed_with_chains(chained: shmpool.Pool) -> None:
    """close() gives back the chains that the process holds."""
    with shmpool.Pool.attach(chained.name) as other:
        held = [other.alloc(size=600) for _ in range(5)]
        assert 10 == chained.audit().chained
    assert held[0].released
    assert all_back(chained)


def test_trimmed(make_pool: MakePool) -> None:
    """Memory that chains have used is given back when they are free, and not before."""
    pool = make_pool(buffer_size=4096, capacity=512, prealloc=0, cache_size=0)
    with pool.alloc(size=4096 * 300):
        created = pool.stats().created
        pool.trim()
        assert pool.stats().created >= 300
    assert pool.trim() > 4096 * 200
    assert pool.stats().created < created
    assert all_back(pool)


HOLDS = """
    import sys
    import shmpool
    pool = shmpool.Pool.attach(sys.argv[1])
    queue = pool.queue("q")
    got = [queue.get() for _ in range(3)]
    made = [pool.alloc(size=600) for _ in range(3)]
    print(len(got), flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize("on_death", ["free", "requeue"])
def test_killed_with_chains(
    chained: shmpool.Pool, start: Start, on_death: shmpool.choices.OnDeath
) -> None:
    """What a killed process held is free, or back in the queue: whole, and once."""
    queue = chained.create_queue("q", capacity=8, on_death=on_death)
    payloads = [content(n) for n in (700, 1500, 5, 900)]
    queue.send_many(payloads)
    child = start(HOLDS, chained.name)
    child.line()
    child.kill()
    assert 1 == chained.recover().members
    expected = payloads[3:] + (payloads[:3] if on_death == "requeue" else [])
    assert sorted(expected) == sorted(queue.recv_many(8))
    assert all_back(chained)
    assert 64 == len(chained.alloc_many(64, timeout=0))


WORKS = """
    import sys
    import shmpool
    pool = shmpool.Pool.attach(sys.argv[1])
    source, sink = pool.queue("source"), pool.queue("sink")
    print(flush=True)
    while True:
        buf = source.get()
        data = bytes(buf)
        assert data == data[:1] * len(data), "a mixture"
        with pool.alloc(size=len(data)) as copy:
            copy.write(data)
        sink.put(buf)
"""


@pytest.mark.slow
def test_killed_at_any_moment(chained: shmpool.Pool, start: Start, eventually: Eventually) -> None:
    """Workers that are killed while they move chains lose none and double none."""
    source = chained.create_queue("source", capacity=16, on_death="requeue")
    sink = chained.create_queue("sink", capacity=16)
    rng = random.Random(7)
    sent = [bytes([i]) * rng.choice((10, 300, 600, 1500)) for i in range(10)]
    for payload in sent:
        source.send(payload)
    for _ in range(60):
        children = [start(WORKS, chained.name) for _ in range(2)]
        for child in children:
            child.line()
        for _ in range(30):
            source.put(sink.get())
        for child in children:
            os.kill(child.pid, signal.SIGKILL)
            child.kill()
        chained.recover()
        assert chained.audit().ok
    got = sorted(source.recv_many(16, timeout=0) if len(source) else [])
    got = sorted(got + (sink.recv_many(16, timeout=0) if len(sink) else []))
    assert sorted(sent) == got
    eventually(lambda: all_back(chained))
