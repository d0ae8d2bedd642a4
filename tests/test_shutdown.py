# SPDX-License-Identifier: Apache-2.0
"""The end of a queue: shutdown(), and whether a producer is left."""

import contextlib
import queue
import signal
import threading
from collections.abc import Callable

import pytest
from conftest import DEADLINE_S, Child, Eventually, MakePool, at_rest, join

import shmpool


def asleep(pool: shmpool.Pool, n: int = 1) -> bool:
    """Whether members have slept n times in all."""
    return pool.stats().counters["sleep"] >= n


def test_puts_end_and_gets_drain(queue: shmpool.AlfQueue) -> None:
    """Puts of every kind raise ShutDown at once. Gets take what is left, then raise ShutDown."""
    pool = queue.pool
    buf, burst = pool.alloc(), pool.alloc_many(2)
    queue.send_many([b"1", b"2", b"3"])
    assert not queue.ended
    queue.shutdown()
    queue.shutdown()  # may be repeated
    assert queue.ended
    assert 3 == len(queue)
    for put in (
        lambda: queue.send(b"x"),
        lambda: queue.send(b"x", timeout=0),
        lambda: queue.send_many([b"x", b"y"]),
        lambda: queue.put(buf),
        lambda: queue.put_nowait(buf),
        lambda: queue.put_many(burst),
        lambda: queue.put_array(b"array"),
    ):
        with pytest.raises(shmpool.ShutDown, match="queue 'q': it was shut down"):
            put()
    assert [b"1", b"2"] == queue.recv_many(2)
    assert b"3" == queue.recv()
    for get in (
        queue.recv,
        queue.get,
        queue.get_nowait,
        queue.get_array,
        queue.try_get,
        queue.try_recv,
        lambda: queue.recv_many(2),
        lambda: queue.get_many(2),
        lambda: queue.get(timeout=0.01),
    ):
        with pytest.raises(shmpool.ShutDown):
            get()
    buf.free()
    burst.free()
    assert at_rest(pool)


def test_it_is_pythons_shut_down() -> None:
    """ShutDown is queue.ShutDown where Python has that."""
    assert issubclass(shmpool.ShutDown, shmpool.ShmpoolError)
    assert issubclass(shmpool.ShutDown, getattr(queue, "ShutDown", Exception))


def test_an_immediate_end(queue: shmpool.AlfQueue) -> None:
    """What is in the queue is freed."""
    queue.send_many([b"x"] * 5)
    queue.shutdown(immediate=True)
    with pytest.raises(shmpool.ShutDown):
        queue.recv()
    assert at_rest(queue.pool)


@pytest.mark.parametrize("kind", ["get", "put", "put_many"])
def test_calls_that_wait_end(queue: shmpool.AlfQueue, eventually: Eventually, kind: str) -> None:
    """A get or a put of another thread that waits raises ShutDown."""
    pool, raised = queue.pool, []
    if kind != "get":
        queue.send_many([b"x"] * 8)

    def wait() -> None:
        with pool.alloc_many(2) as burst, contextlib.suppress(shmpool.BufferReleased):
            call: dict[str, Callable[[], object]] = {
                "get": queue.get,
                "put": lambda: queue.put(pool.alloc()),
                "put_many": lambda: queue.put_many(burst),
            }
            try:
                call[kind]()
            except shmpool.ShutDown as error:
                raised.append(str(error))

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    eventually(lambda: asleep(pool, 3))
    queue.shutdown()
    for thread in threads:
        join(thread)
    assert 3 * ["queue 'q': it was shut down"] == raised


def test_another_process_waits(queue: shmpool.AlfQueue, start: Callable[..., Child]) -> None:
    """A get of another process raises ShutDown."""
    child = start(
        """
        import sys, shmpool
        queue = shmpool.Pool.attach(sys.argv[1]).queue("q")
        print("ready", flush=True)
        try:
            while True:
                print(queue.recv(), flush=True)
        except shmpool.ShutDown:
            print("ended")
        """,
        queue.pool.name,
    )
    assert "ready" == child.line()
    queue.send(b"x")
    assert "b'x'" == child.line()
    queue.shutdown()
    assert "ended\n" == child.end()


def test_what_comes_back_enters(make_pool: MakePool) -> None:
    """nack() and the recovery of a dead consumer put into a queue that was shut down."""
    pool = make_pool()
    q = pool.create_queue("q", capacity=2, on_death="requeue")
    q.send_many([b"1", b"2"])
    first = q.get()
    q.shutdown()
    first.nack()
    assert [b"2", b"1"] == q.recv_many(2)
    with pytest.raises(shmpool.ShutDown):
        q.recv()


def test_a_consumer_that_dies_after_the_end(
    make_pool: MakePool, start: Callable[..., Child]
) -> None:
    """Its buffers come back to a queue with on_death="requeue"."""
    pool = make_pool()
    q = pool.create_queue("q", capacity=2, on_death="requeue")
    q.send(b"1")
    child = start(
        """
        import signal, sys, shmpool
        buf = shmpool.Pool.attach(sys.argv[1]).queue("q").get()
        print("got", flush=True)
        signal.pause()
        """,
        pool.name,
    )
    assert "got" == child.line()
    q.shutdown()
    with pytest.raises(shmpool.ShutDown):
        q.recv()
    child.kill()
    assert 1 == pool.recover().requeued
    assert b"1" == q.recv()


def test_a_single_producer(make_pool: MakePool) -> None:
    """Only the thread that has the single producer's role, if any, can end its queue."""
    q = make_pool().create_queue("q", capacity=4, producers="single")
    q.send(b"x")
    refused = []

    def end() -> None:
        try:
            q.shutdown()
        except shmpool.QueueBusy as error:
            refused.append(str(error))

    thread = threading.Thread(target=end)
    thread.start()
    join(thread)
    assert "has a single producer: process" in refused[0]
    q.release()
    thread = threading.Thread(target=q.shutdown)
    thread.start()
    join(thread)
    with pytest.raises(shmpool.ShutDown):
        q.send(b"y")
    assert b"x" == q.recv()


def test_refusals(make_pool: MakePool) -> None:
    """A pool that was opened read-only, and a closed queue, refuse."""
    pool = make_pool()
    q = pool.create_queue("q", capacity=4)
    with shmpool.Pool.attach(pool.name, readonly=True) as readonly:
        with pytest.raises(shmpool.AccessDenied):
            readonly.queue("q").shutdown()
        assert not readonly.queue("q").ended
    q.close()
    for call in (q.shutdown, lambda: q.ended, lambda: q.producers_alive, q.wait_producers):
        with pytest.raises(shmpool.PoolClosed):
            call()


# Producers.


def test_producers_are_counted(make_pool: MakePool) -> None:
    """Each block counts one producer of its own queue, until it ends."""
    pool = make_pool()
    q, other = (pool.create_queue(name, capacity=4) for name in ("q", "other"))
    assert 0 == q.producers_alive
    with q.producer(), other.producer():
        with q.producer():
            assert 2 == q.producers_alive
        assert [1, 1] == [q.producers_alive, other.producers_alive]
        assert not q.wait_producers(timeout=0)
        assert not q.wait_producers(timeout=0.01)
    assert q.wait_producers()
    with pytest.raises(KeyError), q.producer():
        raise KeyError
    assert 0 == q.producers_alive
    assert at_rest(pool)


def test_a_producer_that_is_killed(queue: shmpool.AlfQueue, start: Callable[..., Child]) -> None:
    """It is counted no more from then on, and whoever waits for it returns."""
    script = """
        import signal, sys, shmpool
        queue = shmpool.Pool.attach(sys.argv[1]).queue("q")
        with queue.producer():
            queue.send(b"x")
            print("here", flush=True)
            signal.pause()
        """
    children = [start(script, queue.pool.name) for _ in range(2)]
    for child in children:
        assert "here" == child.line()
    assert 2 == queue.producers_alive
    children[0].kill()
    assert 1 == queue.producers_alive
    left: list[bool] = []
    waiting = threading.Thread(target=lambda: left.append(queue.wait_producers(DEADLINE_S)))
    waiting.start()
    children[1].kill()
    waiting.join(DEADLINE_S)
    assert [True] == left
    assert 2 == len(queue)
    assert queue.pool.audit().ok


def test_a_wait_for_producers_is_interrupted(queue: shmpool.AlfQueue) -> None:
    """A signal handler's exception ends the wait."""

    def handler(number: int, frame: object) -> None:
        raise InterruptedError

    before = signal.signal(signal.SIGALRM, handler)
    try:
        with queue.producer():
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(InterruptedError):
                queue.wait_producers()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_no_buffer_for_a_producer(make_pool: MakePool) -> None:
    """A pool without a free buffer cannot take note of a producer."""
    pool = make_pool(capacity=2)
    q = pool.create_queue("q", capacity=2)
    with pool.alloc_many(2), pytest.raises(shmpool.PoolExhausted), q.producer():
        pass
