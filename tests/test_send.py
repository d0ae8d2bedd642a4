# SPDX-License-Identifier: Apache-2.0
"""send, recv and their forms for many: they copy bytes in and out."""

import os
import threading
from array import array
from collections.abc import Callable

import numpy as np
import pytest
from conftest import Child, Eventually, MakePool, join

import shmpool


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, np.frombuffer])
@pytest.mark.parametrize("length", [1, 63, 64, 65, 256])
def test_any_bytes(pool: shmpool.Pool, kind: Callable[[bytes], bytes], length: int) -> None:
    """send takes bytes-like objects of every length; recv gives bytes."""
    queue = pool.create_queue("q", capacity=8)
    payload = bytes(range(length % 251)) + bytes(length - length % 251)
    source = kind(payload) if kind is not np.frombuffer else np.frombuffer(payload, "u1")
    queue.send(source)  # type: ignore[arg-type]
    queue.send_many([source, source])  # type: ignore[list-item]
    data = queue.recv()
    assert (bytes, payload) == (type(data), data)
    assert [payload, payload] == queue.recv_many(8)


def test_an_empty_payload_is_a_message(pool: shmpool.Pool) -> None:
    """b"" arrives as b"", alone and among others."""
    queue = pool.create_queue("q", capacity=8)
    queue.send(b"")
    assert (1, b"") == (len(queue), queue.recv())
    queue.send_many([b"", b"", b""])
    assert [b""] * 3 == queue.recv_many(8)
    queue.send_many([b"", b"a", b"", b"bc", b""])
    assert [b"", b"a", b"", b"bc", b""] == queue.recv_many(8)


def test_nothing_to_send(pool: shmpool.Pool) -> None:
    """send_many of no payloads does nothing."""
    queue = pool.create_queue("q", capacity=8)
    queue.send_many([])
    assert 0 == len(queue)


@pytest.mark.parametrize("n", [1, 2, 255, 256, 257, 1000])
@pytest.mark.parametrize("mixed", [False, True])
def test_many_in_order(make_pool: MakePool, n: int, mixed: bool) -> None:
    """Payloads come out whole and in order, equally long or not."""
    pool = make_pool(capacity=1024)
    queue = pool.create_queue("q", capacity=1024)
    payloads = [b"%04d" % i * (i % 7 if mixed else 2) for i in range(n)]
    queue.send_many(payloads)
    received = []
    while len(received) < n:
        received += queue.recv_many(n)
    assert payloads == received
    assert (True, {}) == (pool.audit().ok, pool.audit().held)


def test_a_message_is_counted_in_bytes(pool: shmpool.Pool) -> None:
    """Items wider than a byte are sent whole, by send and by send_many."""
    queue = pool.create_queue("q", capacity=8)
    wide = array("H", [1, 2, 3])
    queue.send(wide)
    assert wide.tobytes() == queue.recv()
    queue.send_many([wide, memoryview(wide), np.array([1, 2, 3], "u2")])  # type: ignore[list-item]
    assert [wide.tobytes()] * 3 == queue.recv_many(8)


def test_a_payload_too_large(pool: shmpool.Pool) -> None:
    """It is PayloadTooLarge that names both sizes. Nothing is sent and no buffer is lost."""
    queue = pool.create_queue("q", capacity=8)
    room = pool.geometry.room
    for send in (
        lambda: queue.send(bytes(room + 1)),
        lambda: queue.send(memoryview(bytes(room + 1)), timeout=0),
        lambda: queue.send_many([b"x", bytes(room + 1)]),
    ):
        with pytest.raises(shmpool.PayloadTooLarge, match=rf"{room + 1} .* {room}"):
            send()
    assert (0, {}) == (len(queue), pool.audit().held)


def test_full_reports_how_many_were_sent(pool: shmpool.Pool) -> None:
    """Full of send_many says how many were sent. Exactly these are in the queue."""
    queue = pool.create_queue("q", capacity=4)
    queue.send(b"first")
    payloads = [b"%d" % i for i in range(10)]
    for timeout in (0, 0.05):
        with pytest.raises(shmpool.Full) as caught:
            queue.send_many(payloads, timeout=timeout)
        got = queue.recv_many(10)
        assert payloads[: caught.value.sent] == [data for data in got if data != b"first"]
        queue.send(b"first")
    assert {} == pool.audit().held


def test_an_exhausted_pool_is_reported(make_pool: MakePool) -> None:
    """PoolExhausted of send and send_many: the queue has room, the pool has no buffers."""
    pool = make_pool(capacity=8)
    queue = pool.create_queue("q", capacity=64)
    burst = pool.alloc_many(6)
    with pytest.raises(shmpool.PoolExhausted) as caught:
        queue.send_many([b"x"] * 9, timeout=0.05)
    assert len(queue) == caught.value.sent
    burst.free()
    queue.send_many([b"y"] * (8 - len(queue)))
    for timeout in (0, 0.05):
        with pytest.raises(shmpool.PoolExhausted):
            queue.send(b"z", timeout=timeout)
    assert 8 == len(queue.recv_many(64))


def test_recv_many_takes_what_is_queued(pool: shmpool.Pool) -> None:
    """It takes 1 to n messages and does not wait for more."""
    queue = pool.create_queue("q", capacity=64)
    queue.send_many([b"1", b"2", b"3"])
    assert [b"1", b"2"] == queue.recv_many(2)
    assert [b"3"] == queue.recv_many(2)
    queue.send(b"4")
    assert [b"4"] == queue.recv_many(10**6, timeout=None)


def test_large_buffers(make_pool: MakePool) -> None:
    """Many payloads larger than one bulk's share are sent at once."""
    pool = make_pool(buffer_size=5 << 20, capacity=4)
    queue = pool.create_queue("q", capacity=4)
    payloads = [bytes([i]) * (5 << 20) for i in range(3)]
    queue.send_many(payloads)
    received: list[bytes] = []
    while len(received) < 3:
        received += queue.recv_many(3)
    assert payloads == received


LARGE = 512 * 1024  # bytes from which copy.h copies differently


@pytest.mark.parametrize("length", [LARGE - 1, LARGE, LARGE + 1, 2 * LARGE + 77])
def test_large_payloads_are_copied_whole(make_pool: MakePool, length: int) -> None:
    """Every call gives the same bytes on both sides of the size where copying changes.

    It touches no bytes beyond them.
    """
    payload = os.urandom(length)
    pool = make_pool(buffer_size=length + 64, capacity=8)
    queue = pool.create_queue("q", capacity=8)
    beyond = b"\xa5" * 64
    for _ in range(2):
        with pool.alloc() as buffer:
            buffer.data[length : length + 64] = beyond
            assert buffer.write(payload) == length
            assert bytes(buffer) == payload
            assert bytes(buffer.data[length : length + 64]) == beyond
    queue.send(payload)
    queue.send_many([payload, bytearray(payload)])
    assert queue.recv() == payload
    assert queue.recv_many(2) == [payload, payload]
    with pool.alloc_many(2) as burst:
        field = np.dtype(f"V{length}")
        burst.set_column(0, np.array([payload, payload[::-1]], field))
        burst.lengths = length
        assert [bytes(buffer.view) for buffer in burst] == [payload, payload[::-1]]
        assert burst.column(0, field).tolist() == [payload, payload[::-1]]


def test_send_and_put_are_one_queue(pool: shmpool.Pool) -> None:
    """A sent message can be got as a Buffer, and a Buffer that was put can be received."""
    queue = pool.create_queue("q", capacity=8)
    queue.send(b"sent")
    with queue.get() as buf:
        assert b"sent" == bytes(buf)
    buf = pool.alloc()
    buf.write(b"put")
    queue.put(buf)
    assert b"put" == queue.recv()


def test_more_payloads_than_the_queue_holds(
    make_pool: MakePool, start: Callable[..., Child]
) -> None:
    """send_many waits while another process drains; all arrive, in order."""
    pool = make_pool(capacity=256)
    pool.create_queue("q", capacity=16)
    child = start(
        """
        import shmpool, sys
        with shmpool.Pool.attach(sys.argv[1]) as pool:
            queue, n = pool.queue("q"), 0
            while n < 5000:
                for data in queue.recv_many(64, timeout=60):
                    assert data == b"%d" % n * (n % 5), (data, n)
                    n += 1
        """,
        pool.name,
    )
    pool.queue("q").send_many([b"%d" % i * (i % 5) for i in range(5000)], timeout=60)
    assert "" == child.end()
    assert (True, {}) == (pool.audit().ok, pool.audit().held)


def test_one_queue_object_in_two_threads(make_pool: MakePool) -> None:
    """recv_many of one AlfQueue in several threads at once mixes no messages up."""
    pool = make_pool(capacity=1024)
    queue = pool.create_queue("q", capacity=512)
    got: list[bytes] = []

    def drain() -> None:
        while (data := queue.recv_many(100, timeout=60)) and data[-1] != b"end":
            got.extend(data)
        got.extend(data[:-1])
        queue.send(b"end")

    threads = [threading.Thread(target=drain) for _ in range(3)]
    for thread in threads:
        thread.start()
    payloads = [b"%d" % i for i in range(4000)]
    queue.send_many(payloads, timeout=60)
    queue.send(b"end")
    for thread in threads:
        join(thread)
    assert sorted(payloads) == sorted(got)


def test_trying_is_no_exception(pool: shmpool.Pool) -> None:
    """try_get and try_recv return None where get and recv raise Empty, otherwise the oldest
    message."""
    queue = pool.create_queue("q", capacity=8)
    assert (None, None) == (queue.try_get(), queue.try_recv())
    queue.send_many([b"1", b"2", b""])
    assert b"1" == queue.try_recv()
    with queue.try_get() as buf:  # type: ignore[union-attr]
        assert b"2" == bytes(buf)
    assert (b"", None) == (queue.try_recv(), queue.try_recv())
    queue.close()
    for call in (queue.try_get, queue.try_recv):
        with pytest.raises(shmpool.PoolClosed):
            call()


def test_trying_is_no_second_consumer(pool: shmpool.Pool) -> None:
    """On a single consumer's queue another thread's try_recv is QueueBusy, not None."""
    queue = pool.create_queue("q", capacity=8, consumers="single")
    assert queue.try_recv() is None
    caught: list[BaseException] = []

    def other() -> None:
        for call in (queue.try_recv, queue.try_get):
            try:
                call()
            except shmpool.QueueBusy as error:
                caught.append(error)

    thread = threading.Thread(target=other)
    thread.start()
    join(thread)
    assert 2 == len(caught)


@pytest.mark.parametrize("size", [100, 16384, 1 << 20])
def test_a_payload_waits_for_room(make_pool: MakePool, size: int, eventually: Eventually) -> None:
    """A send into a full queue waits, and its payload arrives whole and last, small or large.

    Other threads run during the wait.
    """
    pool = make_pool(buffer_size=1 << 20, capacity=16)
    queue = pool.create_queue("q", capacity=4)
    payloads = [bytes([i]) * size for i in range(5)]
    queue.send_many(payloads[:4])
    thread = threading.Thread(target=queue.send, args=(bytearray(payloads[4]), 60.0))
    thread.start()
    eventually(lambda: pool.stats().counters["sleep"] >= 1)
    assert payloads[0] == queue.recv()
    join(thread)
    assert payloads[1:] == queue.recv_many(8)
    assert {} == pool.audit().held


def test_a_large_payload_without_room(make_pool: MakePool) -> None:
    """Full and PoolExhausted of a payload that is copied without the lock, at once and after a
    wait.

    No buffer is lost.
    """
    pool = make_pool(buffer_size=65536, capacity=8)
    queue = pool.create_queue("q", capacity=4)
    payload = bytes(65536)
    queue.send_many([payload] * 4)
    for timeout in (0, 0.02):
        with pytest.raises(shmpool.Full):
            queue.send(payload, timeout)
    with pool.alloc(), pool.alloc(), pool.alloc(), pool.alloc():
        for timeout in (0, 0.02):
            with pytest.raises(shmpool.PoolExhausted):
                queue.send(payload, timeout)
    assert (True, {}) == (pool.audit().ok, pool.audit().held)


def test_a_list_may_change_while_it_is_sent(make_pool: MakePool, eventually: Eventually) -> None:
    """send_many sends the contents of the list at the call, even if the list changes."""
    pool = make_pool(capacity=64)
    queue = pool.create_queue("q", capacity=4)
    payloads = [bytes(bytearray([i])) * 200 for i in range(20)]
    expected = list(payloads)
    thread = threading.Thread(target=queue.send_many, args=(payloads, 60.0))
    thread.start()
    eventually(lambda: pool.stats().counters["sleep"] >= 1)
    payloads.clear()
    received: list[bytes] = []
    while len(received) < 20:
        received += queue.recv_many(20, timeout=60)
    join(thread)
    assert expected == received


def test_a_bad_payload_sends_nothing(pool: shmpool.Pool) -> None:
    """send_many with an item that has no bytes sends none of the payloads."""
    queue = pool.create_queue("q", capacity=8)
    for bad in ("text", None, 3):
        with pytest.raises(TypeError, match="bytes-like"):
            queue.send_many([b"1", bytearray(b"2"), bad])  # type: ignore[list-item]
    assert (0, {}) == (len(queue), pool.audit().held)


def test_recv_many_ends_whatever_producers_do(
    make_pool: MakePool, start: Callable[..., Child], eventually: Eventually
) -> None:
    """It takes the queued messages and no more, however fast others put.

    Signals and other threads run in between.
    """
    pool = make_pool(buffer_size=4096, capacity=4096)
    queue = pool.create_queue("q", capacity=1024)
    script = """
        import shmpool, sys
        with shmpool.Pool.attach(sys.argv[1]) as pool:
            queue = pool.queue("q")
            print("ready", flush=True)
            while True:
                queue.send_many([bytes(4096)] * 64)
    """
    children = [start(script, pool.name) for _ in range(2)]
    for child in children:
        assert "ready" == child.line()
    for most in (2**40, 2**70):
        eventually(queue.full)
        assert 1 <= len(queue.recv_many(most)) <= 1024
    for child in children:
        child.kill()


def test_recv_many_of_large_payloads(make_pool: MakePool) -> None:
    """One call takes about 16 MiB at most. The rest stays in the queue, in order."""
    pool = make_pool(buffer_size=1 << 20, capacity=64)
    queue = pool.create_queue("q", capacity=64)
    payloads = [bytes([i]) * (1 << 20) for i in range(40)]
    queue.send_many(payloads)
    received: list[bytes] = []
    while len(received) < 40:
        got = queue.recv_many(1000)
        assert 1 <= len(got) <= 32
        received += got
    assert payloads == received


def test_no_other_thread_finds_the_list_that_recv_many_fills(
    pool_name: str, start: Callable[..., Child]
) -> None:
    """While recv_many() waits, the garbage collector lists no list with empty entries."""
    child = start(
        """
        import gc, sys, threading, time, shmpool
        pool = shmpool.Pool.create(sys.argv[1], buffer_size=64, capacity=64, unlink_on_close=True)
        queue = pool.create_queue("q", capacity=16)
        queue.send_many([b"x"] * 3)
        thread = threading.Thread(target=lambda: (queue.recv_many(3), queue.recv_many(10)))
        thread.start()
        while not any(member.counters["sleep"] for member in pool.members()):
            time.sleep(0.01)
        print(sum(repr(o)[:7] == "[<NULL>" for o in gc.get_objects() if type(o) is list))
        queue.send(b"end")
        thread.join()
        """,
        pool_name,
    )
    assert "0" == child.line()
    child.end()
