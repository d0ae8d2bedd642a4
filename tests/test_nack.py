# SPDX-License-Identifier: Apache-2.0
"""A worker that raises has not died: nack() and requeue() return its buffers."""

import os
import signal
import threading
import types
from collections.abc import Callable

import pytest

import shmpool
from tests.conftest import DEADLINE_S, Child, Eventually, MakePool, join

Start = Callable[..., Child]


def fill(queue: shmpool.AlfQueue, n: int) -> None:
    for i in range(n):
        queue.send(b"%d" % i)


def payloads(queue: shmpool.AlfQueue) -> list[bytes]:
    return [m.payload for m in queue.peek(queue.capacity)]


def at_rest(pool: shmpool.Pool) -> bool:
    """True if every buffer is free or queued, counted once, and the counters agree."""
    audit, stats = pool.audit(), pool.stats()
    return audit.ok and not audit.held and stats.held == 0


def test_back_to_the_end(pool: shmpool.Pool) -> None:
    """The buffer goes to the end of its queue and is counted. The Buffer is released; contents and
    fields stay."""
    queue = pool.create_queue("q", capacity=8)
    fill(queue, 2)
    buf = queue.get()
    buf.mark, buf.timestamp = 7, 123
    buf.nack()
    assert buf.released
    with pytest.raises(shmpool.BufferReleased):
        buf.nack()
    assert [(b"1", 0, 0), (b"0", 1, 7)] == [
        (m.payload, m.redelivered, m.mark) for m in queue.peek(8)
    ]
    queue.get().free()
    again = queue.get()
    assert (1, 0, 123) == (again.redelivered, again.origin_number, again.timestamp)
    queue.requeue(again)
    assert 2 == queue.get().redelivered
    assert at_rest(pool)


def test_in_a_with_block(pool: shmpool.Pool) -> None:
    """The idiom of a worker: the buffer returns to the queue, and the exception propagates."""
    queue = pool.create_queue("q", capacity=8)
    fill(queue, 1)

    def work() -> None:
        with queue.get() as buf:
            try:
                print(1 // (len(buf) - 1))
            except Exception:
                buf.nack()
                raise

    with pytest.raises(ZeroDivisionError):
        work()
    assert [1] == [m.redelivered for m in queue.peek(8)]
    assert at_rest(pool)


def test_too_often(pool: shmpool.Pool) -> None:
    """After max_redeliveries it is a dead letter, which names its origin."""
    letters = pool.create_queue("letters", capacity=8)
    queue = pool.create_queue("q", capacity=8, dead_letter=letters, max_redeliveries=2)
    fill(queue, 1)
    for _ in range(3):
        assert 0 == len(letters)
        queue.get().nack()
    assert (0, 1) == (len(queue), len(letters))
    letter = letters.get()
    assert (3, queue.number) == (letter.redelivered, letter.origin_number)
    letter.nack()  # the dead-letter queue has no limit
    assert 4 == letters.get().redelivered


@pytest.mark.parametrize("on_death", ["free", "requeue"])
def test_whatever_on_death_is(pool: shmpool.Pool, on_death: str) -> None:
    """It is put back even if on_death frees a dead member's buffers.

    Without a dead-letter queue it is put back any number of times.
    """
    queue = pool.create_queue("q", capacity=8, on_death=on_death, max_redeliveries=1)
    fill(queue, 1)
    for i in range(5):
        buf = queue.get()
        assert i == buf.redelivered
        buf.nack()
    assert 1 == len(queue)


def test_to_the_dead_letters(pool: shmpool.Pool) -> None:
    """With on_death="dead-letter" it goes there at once, even from a single producer."""
    letters = pool.create_queue("letters", capacity=8)
    queue = pool.create_queue(
        "q", capacity=8, producers="single", on_death="dead-letter", dead_letter=letters
    )
    fill(queue, 1)
    queue.get().nack()
    assert [(b"0", 1, "q")] == [(m.payload, m.redelivered, m.origin) for m in letters.peek()]


def test_what_cannot_go_back(pool: shmpool.Pool, make_pool: MakePool) -> None:
    """These stay the caller's: a buffer of a single producer's queue, of no queue, or of another
    queue."""
    single = pool.create_queue("single", capacity=8, producers="single")
    queue, other = pool.create_queue("q", capacity=8), make_pool()
    fill(single, 1)
    buf, new = single.get(), pool.alloc()
    with pytest.raises(shmpool.InvalidArgument, match="single producer"):
        buf.nack()
    with pytest.raises(shmpool.InvalidArgument, match="not taken from a queue"):
        new.nack()
    for wrong in (buf, new):
        with pytest.raises(shmpool.InvalidArgument, match="was not got from queue 'q'"):
            queue.requeue(wrong)
    with pytest.raises(shmpool.ForeignBuffer):
        queue.requeue(other.alloc())
    with pytest.raises(TypeError, match="not bytes"):
        queue.requeue(b"x")  # type: ignore[arg-type]
    with memoryview(buf), pytest.raises(shmpool.BufferInUse):
        buf.nack()
    buf.free()
    new.free()
    # A buffer that was freed and allocated again does not remember the queue.
    fill(queue, 1)
    queue.recv()
    with pytest.raises(shmpool.InvalidArgument, match="not taken from a queue"):
        pool.alloc_many(64, timeout=0).nack()
    assert 0 == len(queue)


def test_no_room(pool: shmpool.Pool) -> None:
    """Full after the timeout, and the buffer stays the caller's, unchanged. With room it is put
    back."""
    queue = pool.create_queue("q", capacity=2)
    fill(queue, 2)
    buf = queue.get()
    queue.send(b"2")
    for timeout in (0, 0.01):
        with pytest.raises(shmpool.Full):
            buf.nack(timeout=timeout)
    with pytest.raises(shmpool.InvalidArgument):
        buf.nack(timeout=-1)
    assert (b"0", 0) == (bytes(buf), buf.redelivered)
    queue.recv()
    buf.nack(0)
    assert [b"2", b"0"] == payloads(queue)


def test_waits_for_room(pool: shmpool.Pool, eventually: Eventually) -> None:
    """A nack that sleeps is woken by a consumer. The buffer cannot be used while it waits."""
    queue = pool.create_queue("q", capacity=2)
    fill(queue, 2)
    buf = queue.get()
    queue.send(b"2")
    waiter = threading.Thread(target=buf.nack, args=(DEADLINE_S,))
    waiter.start()
    eventually(lambda: buf.released)
    with pytest.raises(shmpool.BufferReleased):
        bytes(buf)
    assert b"1" == queue.recv()
    join(waiter)
    assert [b"2", b"0"] == payloads(queue)


def test_wakes_a_consumer(pool: shmpool.Pool) -> None:
    """A consumer that sleeps gets the buffer that another one returns."""
    queue = pool.create_queue("q", capacity=8)
    fill(queue, 1)
    buf, got = queue.get(), list[bytes]()
    reader = threading.Thread(target=lambda: got.append(queue.recv()))
    reader.start()
    buf.nack()
    join(reader)
    assert [b"0"] == got


def test_a_handler_that_raises(pool: shmpool.Pool) -> None:
    """An alarm used as a timeout: the buffer stays the caller's, and is not in the queue."""
    queue = pool.create_queue("q", capacity=2)
    fill(queue, 2)
    buf = queue.get()
    queue.send(b"2")

    def ring(number: int, frame: types.FrameType | None) -> None:
        raise InterruptedError

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with pytest.raises(InterruptedError):
            buf.nack(timeout=DEADLINE_S)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert (b"0", [b"1", b"2"]) == (bytes(buf), payloads(queue))


def test_a_burst(pool: shmpool.Pool) -> None:
    """Each of its buffers is put back, in order, except those that were freed before."""
    queue = pool.create_queue("q", capacity=8)
    fill(queue, 5)
    burst = queue.get_many(4)
    burst[1].free()
    burst[2].nack()
    burst.nack()
    with pytest.raises(shmpool.BufferReleased):
        len(burst)
    assert [b"4", b"2", b"0", b"3"] == payloads(queue)
    burst = queue.get_many(4)
    queue.requeue(burst, timeout=0)
    assert [1, 2, 2, 2] == [m.redelivered for m in queue.peek(8)]
    with pytest.raises(shmpool.BufferReleased):
        queue.requeue(burst)
    assert at_rest(pool)


def test_a_burst_without_room(pool: shmpool.Pool) -> None:
    """Full: the buffers that were put back are released, the others are still in the burst."""
    queue = pool.create_queue("q", capacity=4)
    fill(queue, 4)
    burst = queue.get_many(3)
    queue.send_many([b"5", b"6"])
    with pytest.raises(shmpool.Full):
        burst.nack(timeout=0.01)
    assert ([True, False, False], [b"3", b"5", b"6", b"0"]) == (
        [buf.released for buf in burst],
        payloads(queue),
    )
    with memoryview(burst[2]), pytest.raises(shmpool.BufferInUse):
        burst.nack(timeout=0)
    assert 2 == queue.drain(2)
    burst.nack(timeout=0)
    assert [b"6", b"0", b"1", b"2"] == payloads(queue)
    assert at_rest(pool)


def test_a_burst_never_waits(pool: shmpool.Pool) -> None:
    """With a timeout of 0 no buffer of the burst waits for room."""
    queue = pool.create_queue("q", capacity=4)
    fill(queue, 4)
    burst = queue.get_many(3)
    queue.send_many([b"5", b"6"])
    before = pool.stats().counters["sleep"]
    with pytest.raises(shmpool.Full):
        burst.nack(timeout=0)
    assert before == pool.stats().counters["sleep"]


def test_a_child_of_a_fork(pool: shmpool.Pool) -> None:
    """A child cannot return a Buffer of its parent."""
    queue = pool.create_queue("q", capacity=8)
    fill(queue, 1)
    buf = queue.get()
    pid = os.fork()
    if pid == 0:
        try:
            buf.nack()
        except shmpool.BufferReleased:
            os._exit(7)
        os._exit(0)
    assert 7 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    buf.nack()
    assert 1 == len(queue)


def test_returned_and_killed(make_pool: MakePool, start: Start) -> None:
    """A worker returns some buffers and is killed: each comes out once, and is counted once."""
    pool = make_pool()
    queue = pool.create_queue("q", capacity=16, on_death="requeue")
    fill(queue, 8)
    child = start(
        """
        import sys
        import shmpool
        pool = shmpool.Pool.attach(sys.argv[1])
        queue = pool.queue("q")
        taken = [queue.get() for _ in range(8)]
        for buf in taken[:4]:
            buf.nack()
        print(flush=True)
        sys.stdin.readline()
        """,
        pool.name,
    )
    child.line()
    child.kill()
    assert 4 == pool.recover().requeued
    assert [1] * 8 == [m.redelivered for m in queue.peek(16)]
    assert {b"%d" % i for i in range(8)} == set(payloads(queue))
    assert at_rest(pool)


@pytest.mark.parametrize("on_death", ["requeue", "free"])
def test_consumers_of_a_full_queue(pool: shmpool.Pool, on_death: str) -> None:
    """All consumers return their buffers while producers keep the queue full: nothing is lost.

    No consumer waits for room that only consumers could make.
    """
    queue = pool.create_queue("q", capacity=4, on_death=on_death)
    fill(queue, 4)
    held = [queue.get() for _ in range(4)]
    queue.send_many([b"%d" % i for i in range(4, 8)])
    for buf in held:
        buf.nack()
    assert all(buf.released for buf in held)
    assert (True, {}, 4) == (pool.audit().ok, pool.audit().held, len(queue))
    got = queue.recv_many(4)
    while len(got) < 8:
        pool.recover()
        got += queue.recv_many(4)
    assert [b"%d" % i for i in range(8)] == sorted(got)
    assert (True, {}) == (pool.audit().ok, pool.audit().held)
