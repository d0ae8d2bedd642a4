# SPDX-License-Identifier: Apache-2.0
"""Descriptors of queues, and wait(): readable while something is there, in whatever asks."""

import asyncio
import gc
import multiprocessing.connection
import os
import select
import selectors
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import uvloop
from conftest import Child, Eventually, MakePool, at_rest, descriptors
from test_descriptors import CLOSES

import shmpool

Start = Callable[..., Child]
Queues = list[shmpool.AlfQueue]
Readable = Callable[[Queues, float], Queues]


def by_select(queues: Queues, seconds: float) -> Queues:
    return select.select(queues, [], [], seconds)[0]


def by_poll(queues: Queues, seconds: float) -> Queues:
    poll = select.poll()
    for queue in queues:
        poll.register(queue, select.POLLIN)
    ready = {fd for fd, _ in poll.poll(seconds * 1000)}
    return [queue for queue in queues if queue.fileno() in ready]


def by_epoll(queues: Queues, seconds: float) -> Queues:
    with select.epoll() as epoll:
        for queue in queues:
            epoll.register(queue, select.EPOLLIN)
        ready = {fd for fd, _ in epoll.poll(seconds)}
    return [queue for queue in queues if queue.fileno() in ready]


def by_selectors(queues: Queues, seconds: float) -> Queues:
    with selectors.DefaultSelector() as selector:
        for queue in queues:
            selector.register(queue, selectors.EVENT_READ, queue)
        return [key.data for key, _ in selector.select(seconds)]


def by_connection_wait(queues: Queues, seconds: float) -> Queues:
    return multiprocessing.connection.wait(queues, seconds)  # type: ignore[return-value,arg-type]


WAYS: dict[str, Readable] = {
    "select": by_select,
    "poll": by_poll,
    "epoll": by_epoll,
    "selectors": by_selectors,
    "connection.wait": by_connection_wait,
    "shmpool.wait": shmpool.wait,
}
PRODUCER = """
    import sys
    import shmpool
    pool = shmpool.Pool.attach(sys.argv[1])
    for name in sys.stdin:
        pool.queue(name.strip()).send(b"hello")
"""


@pytest.fixture
def queues(make_pool: MakePool) -> Queues:
    """Three queues, of two pools."""
    one, other = make_pool(), make_pool()
    return [
        pool.create_queue(name, capacity=8) for pool, name in ((one, "a"), (one, "b"), (other, "c"))
    ]


@pytest.mark.parametrize("way", WAYS)
def test_readable_while_something_is_there(queues: Queues, start: Start, way: str) -> None:
    """Of several queues those are ready in which another process puts something, until it is
    taken."""
    readable = WAYS[way]
    first, second, third = queues
    child, other = start(PRODUCER, first.pool.name), start(PRODUCER, third.pool.name)
    assert [] == readable(queues, 0)
    for expected, producer in ((second, child), (third, other), (first, child), (second, child)):
        producer.send(expected.name)
        assert [expected] == readable(queues, 60)
        assert [expected] == readable(queues, 0)
        assert b"hello" == expected.recv()
        assert [] == readable(queues, 0.001)
    third.send_many([b"x", b"y"])
    second.send(b"z")
    assert [second, third] == readable(queues, 60)
    third.recv()
    assert [second, third] == readable(queues, 60)


TAKES: dict[str, Callable[[shmpool.AlfQueue], object]] = {
    "get": lambda queue: queue.get().free(),
    "get_nowait": lambda queue: queue.get_nowait().free(),
    "try_get": lambda queue: queue.try_get().free(),  # type: ignore[union-attr]
    "recv": lambda queue: queue.recv(),
    "try_recv": lambda queue: queue.try_recv(),
    "get_many": lambda queue: queue.get_many(2).free(),
    "recv_many": lambda queue: queue.recv_many(2),
    "drain": lambda queue: queue.drain(),
    "arecv": lambda queue: asyncio.run(queue.arecv()),
    "aget_many": lambda queue: asyncio.run(queue.aget_many(1)).free(),
}


@pytest.mark.parametrize("take", TAKES)
def test_not_readable_after_the_last_get(queue: shmpool.AlfQueue, take: str) -> None:
    """Right after a get that takes the last message the descriptor is not readable."""
    with select.epoll() as epoll:
        epoll.register(queue, select.EPOLLIN)
        for _ in range(3):
            queue.send(b"hello")
            assert epoll.poll(60)
            TAKES[take](queue)
            assert not epoll.poll(0)
            assert queue.try_get() is None


@pytest.mark.parametrize("edge", [0, select.EPOLLET], ids=["level", "edge"])
def test_taken_by_another_object(pool: shmpool.Pool, eventually: Eventually, edge: int) -> None:
    """After a get that the descriptor's object knows nothing of it becomes unreadable by itself,
    and readable with the next message."""
    queue = pool.create_queue("q", capacity=8)
    with select.epoll() as epoll:
        epoll.register(queue, select.EPOLLIN | edge)
        for _ in range(3):
            queue.send(b"hello")
            assert epoll.poll(60)
            assert b"hello" == pool.queue("q").recv()
            eventually(lambda: not select.select([queue.fileno()], [], [], 0)[0])


def test_of_a_fired_descriptor_by_itself(pool: shmpool.Pool, eventually: Eventually) -> None:
    """A descriptor that nobody refreshes is not readable for long after another object's get."""
    queue = pool.create_queue("q", capacity=8)
    fd = queue.fileno()
    queue.send(b"hello")
    assert select.select([fd], [], [], 60)[0]
    pool.queue("q").recv()
    eventually(lambda: not select.select([fd], [], [], 0)[0])


@pytest.mark.parametrize("run_loop", [asyncio.run, uvloop.run])
def test_add_reader(queues: Queues, start: Start, run_loop: Callable[..., object]) -> None:
    """loop.add_reader() calls for each message of several queues."""
    got: list[str] = []

    async def main() -> None:
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def readable(queue: shmpool.AlfQueue) -> None:
            while queue.try_recv():
                got.append(queue.name)
            if len(got) == 60:
                done.set()

        for queue in queues:
            loop.add_reader(queue.fileno(), readable, queue)
        child, other = start(PRODUCER, queues[0].pool.name), start(PRODUCER, queues[2].pool.name)
        for _ in range(20):
            child.send("a")
            other.send("c")
            child.send("b")
        await done.wait()
        for queue in queues:
            loop.remove_reader(queue.fileno())

    run_loop(main())
    assert {"a": 20, "b": 20, "c": 20} == {name: got.count(name) for name in "abc"}


def test_the_end(make_pool: MakePool) -> None:
    """The descriptor is readable once the queue is shut down, and once its pool is closed."""
    pool = make_pool()
    queue, other = pool.create_queue("q", capacity=8), pool.create_queue("r", capacity=8)
    fd, fd_of_other = queue.fileno(), other.fileno()
    queue.shutdown()
    assert [fd] == select.select([fd, fd_of_other], [], [], 60)[0]
    with pytest.raises(shmpool.ShutDown):
        queue.get(0)
    assert [queue] == shmpool.wait([queue, other], 60)
    pool.close()
    assert [fd_of_other] == select.select([fd_of_other], [], [], 60)[0]
    with pytest.raises(shmpool.PoolClosed):
        other.fileno()
    with pytest.raises(shmpool.PoolClosed):
        shmpool.wait([other], 1)


def test_wait(queues: Queues, pool: shmpool.Pool) -> None:
    """wait() ends at its timeout, for no queues too, and with PoolClosed and PoolReplaced."""
    assert [] == shmpool.wait(queues, 0.01)
    assert [] == shmpool.wait([], 0.01)
    with pytest.raises(shmpool.InvalidArgument):
        shmpool.wait(queues, -1)
    reader = shmpool.Pool.attach(pool.name, readonly=True)
    pool.create_queue("q", capacity=8)
    with pytest.raises(shmpool.AccessDenied):
        shmpool.wait([reader.queue("q")], 1)
    with pytest.raises(shmpool.AccessDenied):
        reader.queue("q").fileno()
    reader.close()
    shmpool.Pool.create(pool.name, buffer_size=256, capacity=64, replace=True).close()
    with pytest.raises(shmpool.PoolReplaced):
        shmpool.wait([pool.queue("q")])
    closer = threading.Timer(0.05, queues[2].pool.close)
    closer.start()
    with pytest.raises(shmpool.PoolClosed):
        shmpool.wait([queues[2]])
    closer.join()


def test_descriptors_are_closed(pool: shmpool.Pool, eventually: Eventually) -> None:
    """close() of a queue closes its descriptor, as does the end of the object."""
    queue = pool.create_queue("q", capacity=8)
    pool.queue("q").fileno()
    gc.collect()
    before = descriptors(os.getpid())
    for _ in range(100):
        again = pool.queue("q")
        again.fileno()
        again.close()
        pool.queue("q").fileno()
        shmpool.wait([queue], 0.0001)
    gc.collect()
    eventually(lambda: before == descriptors(os.getpid()))


def test_a_queue_that_is_used_again_has_no_descriptor(eventually: Eventually) -> None:
    """A dropped queue of the program is used again: the descriptor that it had is closed, and the
    next queue is as any other."""
    shmpool.Queue().fileno()
    gc.collect()
    before = descriptors(os.getpid())
    for _ in range(20):
        queue = shmpool.Queue()
        assert queue._queue._waker is None
        queue.put(1)
        queue.fileno()
        assert 1 == queue.get()
        del queue
        gc.collect()
        eventually(lambda: before == descriptors(os.getpid()))


def test_fork(pool: shmpool.Pool) -> None:
    """A child has a descriptor of its own for the same object: what it does there its parent does
    not notice."""
    queue = pool.create_queue("q", capacity=8)
    assert [] == by_select([queue], 0)
    pid = os.fork()
    if pid == 0:
        ok = [] == by_select([queue], 0)
        queue.send(b"hello")
        ok = ok and [queue] == by_select([queue], 60) and queue.try_recv() == b"hello"
        ok = ok and [] == by_select([queue], 0)
        os._exit(0 if ok else 1)
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    queue.send(b"again")
    assert [queue] == by_select([queue], 60)
    assert b"again" == queue.recv()
    assert [] == by_select([queue], 0)


def test_all_descriptors_closed(make_pool: MakePool, start: Start, tmp_path: Path) -> None:
    """A program closes all its descriptors and opens files under their numbers: no file gets a
    byte, and queues have descriptors again."""
    pool = make_pool()
    pool.create_queue("q", capacity=8)
    child = start(
        CLOSES
        + """
import select
pool = shmpool.Pool.attach(sys.argv[1])
queue = pool.queue("q")
fd = queue.fileno()
close_all(sys.argv[2])
queue.send(b"hello")
print(select.select([queue], [], [], 60)[0] == [queue], queue.recv(), flush=True)
print(select.select([queue], [], [], 0.3)[0], same_bytes(sys.argv[2]), flush=True)
print(shmpool.wait([queue], 0.3), same_bytes(sys.argv[2]), flush=True)
""",
        pool.name,
        tmp_path,
    )
    assert ["True b'hello'", "[] True", "[] True"] == [child.line() for _ in range(3)]
    child.end()


def square(number: int) -> int:
    return number * number


def test_executor(context: shmpool.mp.Context) -> None:
    """concurrent.futures.ProcessPoolExecutor takes shmpool's context."""
    with ProcessPoolExecutor(2, mp_context=context) as executor:  # type: ignore[arg-type]
        assert [i * i for i in range(50)] == list(executor.map(square, range(50)))


@pytest.mark.parametrize("kind", [shmpool.Queue, shmpool.SimpleQueue, shmpool.JoinableQueue])
def test_queues_of_objects(kind: type[shmpool.Queue]) -> None:
    """A drop-in queue, and its _reader, are readable while an object is there."""
    queue, other = kind(), kind()
    wait = multiprocessing.connection.wait
    reader = queue._reader
    assert [] == wait([reader, other], 0)  # type: ignore[list-item]
    queue.put("one")
    queue.put(bytes(100_000))
    assert [reader] == wait([reader, other], 60)  # type: ignore[list-item]
    assert "one" == reader.recv()
    assert reader.poll()
    assert bytes(100_000) == queue.get()
    assert [] == wait([reader, other], 0)  # type: ignore[list-item]
    assert not reader.poll()
    other.put("two")
    assert [other] == shmpool.wait([queue, other])
    assert "two" == other.get()
    assert not reader.closed
    queue.close()
    assert reader.closed
    with pytest.raises(OSError, match="closed"):
        queue.fileno()


def test_nothing_stays(pool: shmpool.Pool) -> None:
    """After wants have come and gone every buffer is where it was."""
    queue = pool.create_queue("q", capacity=8)
    for _ in range(50):
        queue.send(b"x")
        assert [queue] == by_select([queue], 60)
        queue.recv()
    assert at_rest(pool)
