# SPDX-License-Identifier: Apache-2.0
"""Queues with a single producer or a single consumer: the roles are enforced."""

import os
import threading
from collections.abc import Callable

import pytest
from conftest import Child, Eventually, MakePool, join

import shmpool

OTHER = """
import shmpool, sys
pool = shmpool.Pool.attach(sys.argv[1])
queue = pool.queue("q")
queue.{first}
print("done", flush=True)
input()
"""


@pytest.mark.parametrize("producers", ["single", "multi"])
@pytest.mark.parametrize("consumers", ["single", "multi"])
def test_all_four_kinds_work(pool: shmpool.Pool, producers: str, consumers: str) -> None:
    """Every kind moves buffers singly and in bulk, in order, many laps of the ring."""
    queue = pool.create_queue("q", capacity=4, producers=producers, consumers=consumers)
    for i in range(0, 40, 4):
        queue.send(b"%d" % i)
        queue.send_many([b"%d" % (i + 1), b"%d" % (i + 2)])
        queue.put(pool.alloc())
        with pytest.raises(shmpool.Full):
            queue.send(b"x", timeout=0)
        assert [b"%d" % i, b"%d" % (i + 1)] == queue.recv_many(2)
        assert (b"%d" % (i + 2), b"") == (queue.recv(), bytes(queue.get()))
        with pytest.raises(shmpool.Empty):
            queue.recv(timeout=0)


def test_a_second_producer_is_refused(make_pool: MakePool, start: Callable[..., Child]) -> None:
    """It is QueueBusy that names the producer. The buffer stays the caller's."""
    pool = make_pool()
    queue = pool.create_queue("q", capacity=8, producers="single")
    child = start(OTHER.format(first="send(b'x')"), pool.name)
    assert "done" == child.line()
    buf, burst = pool.alloc(), pool.alloc_many(2)
    for put in (
        lambda: queue.put(buf),
        lambda: queue.put_nowait(buf),
        lambda: queue.put_many(burst),
    ):
        with pytest.raises(shmpool.QueueBusy, match=f"producer.*{child.pid}"):
            put()
    for send in (lambda: queue.send(b"y"), lambda: queue.send_many([b"y"])):
        with pytest.raises(shmpool.QueueBusy, match=f"producer.*{child.pid}"):
            send()
    assert (False, 2, 1) == (buf.released, len(burst), len(queue))
    assert b"x" == queue.recv()
    child.send()
    child.end()
    queue.put(buf)  # the role is free again
    assert 1 == len(queue)


def test_a_second_consumer_is_refused(make_pool: MakePool, start: Callable[..., Child]) -> None:
    """It is QueueBusy that names the consumer. Nothing is taken."""
    pool = make_pool()
    queue = pool.create_queue("q", capacity=8, consumers="single")
    queue.send_many([b"1", b"2"])
    child = start(OTHER.format(first="recv()"), pool.name)
    assert "done" == child.line()
    for get in (
        queue.get,
        queue.get_nowait,
        queue.recv,
        lambda: queue.get_many(2),
        lambda: queue.recv_many(2),
    ):
        with pytest.raises(shmpool.QueueBusy, match=f"consumer.*{child.pid}"):
            get()
    assert 1 == len(queue)
    child.send()
    child.end()
    assert b"2" == queue.recv()


def test_a_role_can_be_released(pool: shmpool.Pool) -> None:
    """After release() another thread of the process can take the role."""
    queue = pool.create_queue("q", capacity=8, producers="single", consumers="single")
    queue.send(b"mine")
    outcome: list[object] = []

    def other(text: bytes) -> None:
        try:
            queue.send(text)
            outcome.append("sent")
            queue.release()
        except shmpool.QueueBusy:
            outcome.append("busy")

    for text in (b"early", b"late"):
        thread = threading.Thread(target=other, args=(text,))
        thread.start()
        join(thread)
        queue.release()
    assert ["busy", "sent"] == outcome
    queue.send(b"again")
    assert [b"mine", b"late", b"again"] == queue.recv_many(8)


def test_the_role_ends_with_the_thread(pool: shmpool.Pool, eventually: Eventually) -> None:
    """When the single producer's thread has ended another one may produce."""
    queue = pool.create_queue("q", capacity=8, producers="single")
    thread = threading.Thread(target=queue.send, args=(b"1",))
    thread.start()
    join(thread)

    def sent() -> bool:
        try:
            queue.send(b"2", timeout=0)
        except shmpool.QueueBusy:
            return False
        return True

    eventually(sent)
    assert [b"1", b"2"] == queue.recv_many(8)


def test_the_other_side_stays_open(pool: shmpool.Pool) -> None:
    """A single producer does not restrict consumers: any number of threads may get."""
    queue = pool.create_queue("q", capacity=8, producers="single")
    queue.send_many([b"1", b"2", b"3"])
    got = [queue.recv()]
    thread = threading.Thread(target=lambda: got.append(queue.recv()))
    thread.start()
    join(thread)
    assert [b"1", b"2", b"3"] == [*got, queue.recv()]


def test_busy_names_this_process(pool: shmpool.Pool) -> None:
    """The message has pid and thread of the member that has the role."""
    queue = pool.create_queue("q", capacity=8, consumers="single")
    queue.send(b"1")
    queue.recv()
    caught: list[Exception] = []

    def other() -> None:
        try:
            queue.get(timeout=0)
        except shmpool.QueueBusy as error:
            caught.append(error)

    thread = threading.Thread(target=other)
    thread.start()
    join(thread)
    assert f"process {os.getpid()}, thread {threading.get_native_id()}" in str(caught[0])


def test_the_role_ends_with_the_process(make_pool: MakePool, start: Callable[..., Child]) -> None:
    """A consumer that dies while its queue is full is replaced. Its buffers wait for room.

    Its successor makes that room. The dead member's producer role is not lost.
    """
    pool = make_pool()
    queue = pool.create_queue("q", capacity=4, consumers="single", on_death="requeue")
    other = pool.create_queue("other", capacity=4, producers="single")
    for i in range(4):
        queue.send(b"%d" % i)
    child = start(
        """
        import shmpool, sys
        pool = shmpool.Pool.attach(sys.argv[1])
        held = pool.queue("q").get_many(2)
        pool.queue("other").send(b"x")
        print("done", flush=True)
        input()
        """,
        pool.name,
    )
    assert "done" == child.line()
    queue.send_many([b"4", b"5"])
    child.kill()
    done = pool.recover()
    assert (1, 1) == (done.members, done.postponed)
    assert [b"2", b"3"] == queue.recv_many(2, timeout=0)
    other.send(b"y")
    assert (0, 2) == (pool.recover().postponed, len(other))
    assert [b"4", b"5", b"0", b"1"] == queue.recv_many(4, timeout=0)
    assert (True, {}) == (pool.audit().ok, pool.audit().held)
