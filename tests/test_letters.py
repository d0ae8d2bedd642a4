# SPDX-License-Identifier: Apache-2.0
"""Dead letters: peeked at without being taken, moved back and drained. Lost messages are
counted."""

import asyncio
import errno
import json
import struct
import threading
from collections.abc import Callable

import pytest

import shmpool
from shmpool.view import View
from tests.conftest import Child, MakePool, StartDaemon, join

Start = Callable[..., Child]


@pytest.fixture
def letters(pool: shmpool.Pool) -> shmpool.AlfQueue:
    """A queue with three dead letters of the queue "work", which were put back once each."""
    letters = pool.create_queue("letters", capacity=8, on_death="requeue")
    work = pool.create_queue("work", capacity=8, dead_letter=letters, max_redeliveries=1)
    for i in range(3):
        work.send(b"job %d" % i)
    for _ in range(6):
        work.get().nack()
    return letters


def test_a_peek(pool: shmpool.Pool, letters: shmpool.AlfQueue) -> None:
    """Oldest first, as copies, with the origin of each. Nothing is taken or changed."""
    first, *rest = letters.peek(8)
    assert (0, b"job 0", 5, 2, "work") == (
        first.position, first.payload, first.length, first.redelivered, first.origin,
    )  # fmt: skip
    assert [(1, b"job 1"), (2, b"job 2")] == [(m.position, m.payload) for m in rest]
    assert [(b"job", 5)] == [(m.payload, m.length) for m in letters.peek(size=3)]
    assert [b""] == [m.payload for m in letters.peek(size=0)]
    assert 3 == len(letters)
    letters.recv()
    assert [1, 2] == [m.position for m in letters.peek(8)]
    letters.drain()
    assert [] == letters.peek(8)
    for wrong in (0, -1):
        with pytest.raises(shmpool.InvalidArgument):
            letters.peek(wrong)
    with pytest.raises(shmpool.InvalidArgument):
        letters.peek(size=-1)
    letters.close()
    for closed in (letters.peek, letters.redrive, letters.drain):
        with pytest.raises(shmpool.PoolClosed):
            closed()


def test_a_peek_from_outside(pool: shmpool.Pool, letters: shmpool.AlfQueue) -> None:
    """A read-only view shows the same."""
    with View(pool.name) as view:
        assert letters.peek(8) == view.peek("letters", 8, 256)
        with pytest.raises(shmpool.QueueNotFound):
            view.peek("nobody", 1, 1)
        with pytest.raises(shmpool.InvalidArgument):
            view.peek("letters", 1 << 20, 1 << 20)


def test_a_peek_at_moving_messages(pool: shmpool.Pool) -> None:
    """Each copy is one whole message, however fast the messages are put and got."""
    queue = pool.create_queue("q", capacity=4)
    end, whole = threading.Event(), struct.Struct("<32Q")

    def pass_them() -> None:
        number = 0
        while not end.is_set():
            queue.send(whole.pack(*[number] * 32))
            number += 1
            with queue.get() as buf:
                buf.write(bytes(256))

    passer = threading.Thread(target=pass_them)
    passer.start()
    seen = 0
    try:
        while seen < 200:
            for message in queue.peek(4):
                assert 1 == len(set(whole.unpack(message.payload)))
                seen += 1
    finally:
        end.set()
        join(passer)


def test_redrive(pool: shmpool.Pool, letters: shmpool.AlfQueue) -> None:
    """They return in order, with counters kept or reset.

    Without a reset the next failure makes them dead letters again.
    """
    work = pool.queue("work")
    assert 2 == letters.redrive(2)
    assert [(b"job 0", 2), (b"job 1", 2)] == [(m.payload, m.redelivered) for m in work.peek(8)]
    work.get().nack()
    assert [b"job 2", b"job 0"] == [m.payload for m in letters.peek(8)]
    assert 2 == letters.redrive(reset=True)
    assert [2, 0, 0] == [m.redelivered for m in work.peek(8)]
    assert 0 == letters.redrive()
    assert pool.audit().ok


def test_redrive_elsewhere(
    pool: shmpool.Pool, letters: shmpool.AlfQueue, make_pool: MakePool
) -> None:
    """They go into another queue of the pool that takes them from any producer."""
    other = pool.create_queue("other", capacity=8)
    single = pool.create_queue("single", capacity=8, producers="single")
    assert 3 == letters.redrive(to=other)
    assert 3 == other.redrive()  # they are still dead letters of work
    assert 3 == pool.queue("work").redrive(to=letters)
    for wrong in (single, letters, make_pool().create_queue("q", capacity=8)):
        with pytest.raises(shmpool.InvalidArgument):
            letters.redrive(to=wrong)
    with pytest.raises(shmpool.InvalidArgument):
        single.redrive()
    assert 3 == len(letters)


def test_no_dead_letter_is_moved_into_a_topic(
    pool: shmpool.Pool, letters: shmpool.AlfQueue
) -> None:
    """The core refuses a topic's number: a buffer that was put there belongs to no publication."""
    topic = pool.create_topic("topic", depth=2)
    assert -errno.EOPNOTSUPP == letters._move(topic.number, False)
    assert [b"job 0", b"job 1", b"job 2"] == [m.payload for m in letters.peek(8)]
    assert topic.published == 0


def test_redrive_leaves_some(pool: shmpool.Pool, letters: shmpool.AlfQueue) -> None:
    """Messages that find no room, and those that never were dead letters, stay in the queue
    unchanged."""
    work = pool.queue("work")
    letters.send(b"new")
    for _ in range(7):
        work.send(b"x")
    assert 1 == letters.redrive(reset=True)
    assert [(b"new", 0, None), (b"job 1", 2, "work"), (b"job 2", 2, "work")] == sorted(
        ((m.payload, m.redelivered, m.origin) for m in letters.peek(8)),
        key=lambda found: found[1:2],
    )
    assert 8 == len(work)
    audit = pool.audit()
    assert (True, {}) == (audit.ok, audit.held)


def test_drain(pool: shmpool.Pool, letters: shmpool.AlfQueue) -> None:
    """The oldest are freed first. The result is their number."""
    assert 1 == letters.drain(1)
    assert [b"job 1", b"job 2"] == [m.payload for m in letters.peek(8)]
    assert [2, 0] == [letters.drain(), letters.drain()]
    assert 0 == pool.stats().queued


# Refused or dropped.


def refused(pool: shmpool.Pool) -> dict[str, int]:
    with View(pool.name) as view:
        return {q.name: q.refused for q in view.queues()}


def test_refused_without_room(pool: shmpool.Pool) -> None:
    """Each buffer that could not be put is counted, in whatever call. One that waited and was put
    is not."""
    queue = pool.create_queue("q", capacity=4)
    queue.send_many([b"x"] * 3)
    buf, taken = pool.alloc(), queue.get()
    queue.send_many([b"x"] * 2)
    burst = pool.alloc_many(3)
    for n, call in enumerate(
        (
            lambda: queue.put(buf, timeout=0),
            lambda: queue.put(buf, timeout=0.001),
            lambda: queue.put_nowait(buf),
            lambda: queue.send(b"x", timeout=0),
            lambda: queue.send(b"x", timeout=0.001),
            lambda: queue.send(bytearray(b"x"), timeout=0),
            lambda: taken.nack(timeout=0),
            lambda: taken.nack(timeout=0.001),
        ),
        1,
    ):
        with pytest.raises(shmpool.Full):
            call()
        assert {"q": n} == refused(pool)
    with pytest.raises(shmpool.Full):
        queue.put_many(burst, timeout=0)
    assert {"q": 8 + 3} == refused(pool)
    queue.recv()
    with pytest.raises(shmpool.Full) as error:
        queue.send_many([b"x"] * 5, timeout=0.001)
    assert {"q": 11 + 5 - error.value.sent} == refused(pool)
    assert pool.stats().refused == refused(pool)["q"]
    waiter = threading.Thread(target=lambda: queue.put(buf))
    waiter.start()
    queue.drain()
    join(waiter)
    for call in (lambda: queue.recv(timeout=0), lambda: queue.get_many(4, timeout=0)):
        queue.drain()
        with pytest.raises(shmpool.Empty):
            call()
    assert pool.stats().refused == refused(pool)["q"] == 11 + 5 - error.value.sent


def test_refused_without_a_buffer(pool: shmpool.Pool) -> None:
    """A send that finds no free buffer counts as refused too. An alloc concerns no queue."""
    queue = pool.create_queue("q", capacity=64)
    every = pool.alloc_many(64)
    for call in (
        lambda: queue.send(b"x", timeout=0),
        lambda: queue.send(b"x", timeout=0.001),
        lambda: queue.send_many([b"x"] * 5, timeout=0),
        lambda: pool.alloc(timeout=0),
    ):
        with pytest.raises(shmpool.PoolExhausted):
            call()
    assert {"q": 7} == refused(pool)
    every.free()


def test_dropped(make_pool: MakePool, start: Start) -> None:
    """Buffers of a dead consumer are counted in the queue where they are freed, and only there."""
    pool = make_pool()
    free = pool.create_queue("free", capacity=8)
    kept = pool.create_queue("kept", capacity=8, on_death="requeue")
    for queue in (free, kept):
        queue.send_many([b"x"] * 5)
    child = start(
        """
        import sys
        import shmpool
        pool = shmpool.Pool.attach(sys.argv[1])
        got = [pool.queue(name).get_many(3) for name in ("free", "kept")]
        new = pool.alloc_many(4)
        print(flush=True)
        sys.stdin.readline()
        """,
        pool.name,
    )
    child.line()
    child.kill()
    pool.recover()
    with View(pool.name) as view:
        assert {"free": 3, "kept": 0} == {q.name: q.dropped for q in view.queues()}
    assert (3, 0) == (pool.stats().dropped, pool.stats().refused)


# Through the daemon.


def test_through_the_daemon(
    start_daemon: StartDaemon, pool: shmpool.Pool, letters: shmpool.AlfQueue
) -> None:
    """peek, redrive and drain as requests; refused messages in stats and metrics."""
    daemon = start_daemon()
    with shmpool.Client(daemon.socket) as client:
        assert letters.peek(8) == client.peek(pool.name, "letters", 8, 256)
        assert [b"jo"] == [m.payload for m in client.peek(pool.name, "letters", 1, 2)]
        assert 1 == client.redrive(pool.name, "letters", 1, reset=True)
        assert 1 == client.redrive(pool.name, "work", to="letters")
        assert 2 == client.drain(pool.name, "letters", 2)
        assert 1 == client.drain(pool.name, "letters")
        with pytest.raises(shmpool.QueueNotFound):
            client.redrive(pool.name, "nobody")
        with pytest.raises(shmpool.InvalidArgument):
            client.peek(pool.name, "letters", 1 << 30, 1 << 30)
        letters.send_many([b"x"] * 8)
        with pytest.raises(shmpool.Full):
            letters.send(b"x", timeout=0)
        (found,) = [q for q in client.stats(pool.name).queues if q.name == "letters"]
        assert (1, 0) == (found.refused, found.dropped)


def test_metrics(pool: shmpool.Pool, letters: shmpool.AlfQueue) -> None:
    """Counters of each queue."""
    pytest.importorskip("prometheus_client", reason="shmpool[daemon] is not installed")
    from shmpool.service.alarms import Policy
    from shmpool.service.handlers import RequestHandler
    from shmpool.service.metrics import TEXT, exposition

    letters.send_many([b"x"] * 5)
    with pytest.raises(shmpool.Full):
        letters.send_many([b"x"] * 2, timeout=0)
    handler = RequestHandler("0")
    handler.watch(pool.name, Policy())
    text = asyncio.run(exposition(handler, "0", TEXT)).decode()
    handler.release(pool.name)
    label = f'{{pool="{pool.name}",queue="letters"}}'
    assert f"shmpool_queue_refused_total{label} 2.0" in text
    assert f"shmpool_queue_dropped_total{label} 0.0" in text


def test_json_of_bytes(pool: shmpool.Pool, capsys: pytest.CaptureFixture[str]) -> None:
    """The command prints any bytes, as hexadecimal digits in JSON."""
    pytest.importorskip("click", reason="shmpool[cli] is not installed")
    from shmpool.cli.json_output import print_json
    from shmpool.cli.letters import letter

    queue = pool.create_queue("q", capacity=8)
    queue.send(b"\xff\x1b[")
    (message,) = queue.peek()
    print_json(letter("q", message))
    assert "ff1b5b" == json.loads(capsys.readouterr().out)["payload"]


@pytest.mark.slow
def test_redrive_never_waits(make_pool: MakePool, start: Callable[..., Child]) -> None:
    """The queue is full, and producers fill each place that a letter leaves: the call returns, and
    no letter is lost."""
    pool = make_pool(capacity=256)
    letters, queue = (pool.create_queue(name, capacity=2) for name in ("letters", "q"))
    queue.send_many([b"q"] * 2)
    letters.send_many([b"letter"] * 2)
    children = [
        start(
            """
            import contextlib, sys, shmpool
            letters = shmpool.Pool.attach(sys.argv[1]).queue("letters")
            print(flush=True)
            while True:
                with contextlib.suppress(shmpool.Full):
                    letters.send(b"letter", timeout=0)
            """,
            pool.name,
        )
        for _ in range(2)
    ]
    for child in children:
        child.line()
    for _ in range(20000):
        assert 0 == letters.redrive(1, to=queue)
    for child in children:
        child.kill()
    pool.recover()
    audit = pool.audit()
    assert (True, {}) == (audit.ok, audit.held)
    assert [b"q"] * 2 == queue.recv_many(2)
