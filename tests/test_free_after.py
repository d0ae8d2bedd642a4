# SPDX-License-Identifier: Apache-2.0
"""Buffer.free_after(): a buffer is freed when an event has completed, without anybody waiting."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import ClassVar

import pytest

import shmpool
from tests.conftest import Child, Eventually, MakePool, at_rest


class Event:
    """An event as torch.cuda has it. The test says when it has completed."""

    made: ClassVar[list["Event"]] = []

    def __init__(self) -> None:
        self.completed = threading.Event()
        self.asked = 0
        self.made.append(self)

    def query(self) -> bool:
        self.asked += 1
        return self.completed.is_set()


@pytest.fixture(autouse=True)
def all_complete(make_pool: MakePool) -> Iterator[None]:
    """Lets every event complete before the pools are closed, which waits for it."""
    yield
    for event in Event.made:
        event.completed.set()
    Event.made.clear()


def held(pool: shmpool.Pool) -> int:
    """How many buffers are owned by members."""
    return sum(pool.audit().held.values())


def test_goes_home_when_the_event_has_completed(pool: shmpool.Pool, eventually: Eventually) -> None:
    """The Buffer is released at once; the buffer is owned until the event has completed, whichever
    of several events comes first."""
    events = [Event() for _ in range(3)]
    for event in events:
        buf = pool.alloc()
        assert buf.free_after(event) is None
        assert buf.released
        for call in (buf.free, lambda buf=buf: buf.free_after(Event()), lambda buf=buf: bytes(buf)):
            with pytest.raises(shmpool.BufferReleased):
                call()
    for left, event in zip((2, 1, 0), reversed(events), strict=True):
        asked = event.asked
        eventually(lambda event=event, asked=asked: event.asked > asked)
        assert left + 1 == held(pool)
        event.completed.set()
        eventually(lambda left=left: held(pool) == left)
    assert at_rest(pool)


def test_other_kinds_of_events(pool: shmpool.Pool, eventually: Eventually) -> None:
    """done is a property of CuPy's events; of others only synchronize() is known, which blocks."""

    class CuPy:
        done = False

    class Plain:
        def __init__(self) -> None:
            self.completed = threading.Event()

        def synchronize(self) -> None:
            self.completed.wait()

    cupy, plain = CuPy(), Plain()
    pool.alloc().free_after(cupy)
    cupy.done = True
    eventually(lambda: at_rest(pool))
    pool.alloc().free_after(plain)
    assert 1 == held(pool)
    plain.completed.set()
    eventually(lambda: at_rest(pool))


def test_no_event(pool: shmpool.Pool) -> None:
    """What is no event is refused, and the buffer stays the caller's."""
    with pool.alloc() as buf:
        with pytest.raises(TypeError, match="event is 'now'; it must have query"):
            buf.free_after("now")
        assert not buf.released
    assert at_rest(pool)


def test_an_event_that_fails(
    pool: shmpool.Pool, eventually: Eventually, capsys: pytest.CaptureFixture[str]
) -> None:
    """An error of the device ends its accesses: the buffer is freed, and the error is shown."""

    class Broken:
        def query(self) -> bool:
            raise RuntimeError("an illegal memory access was encountered")

    pool.alloc().free_after(Broken())
    eventually(lambda: at_rest(pool))
    assert "RuntimeError: an illegal memory access" in capsys.readouterr().err


def test_with_views_alive(pool: shmpool.Pool, eventually: Eventually) -> None:
    """A view keeps the buffer longer than the event; the event keeps it longer than the view."""
    for event_first in (True, False):
        buf, event = pool.alloc(), Event()
        buf.write(b"frame")
        view = memoryview(buf)
        buf.free_after(event)
        if event_first:
            event.completed.set()
            eventually(lambda: pool._exports == 1)
            assert (1, b"frame") == (held(pool), bytes(view))
            view.release()
        else:
            view.release()
            asked = event.asked
            eventually(lambda event=event, asked=asked: event.asked > asked)
            assert 1 == held(pool)
            event.completed.set()
        eventually(lambda: at_rest(pool))


def test_elements_of_a_burst(pool: shmpool.Pool, eventually: Eventually) -> None:
    """An element of a burst can go after an event; the burst goes on with the others."""
    event = Event()
    with pool.alloc_many(4) as burst:
        burst[2].free_after(event)
        pool.create_queue("q", capacity=8).put_many(burst)
        assert (3, 1) == (len(pool.queue("q")), held(pool))
        event.completed.set()
        eventually(lambda: held(pool) == 0)
    assert at_rest(pool)


def test_close_waits(make_pool: MakePool) -> None:
    """close() waits for the events of its own pool, and frees the buffers. Ctrl-C ends the wait,
    and the pool stays open."""
    pool, other = make_pool(), make_pool()
    event, never = Event(), Event()
    pool.alloc().free_after(event)
    other.alloc().free_after(never)
    threading.Timer(0.05, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        pool.close()
    assert 1 == held(pool)
    threading.Timer(0.05, event.completed.set).start()
    pool.close()
    with shmpool.Pool.attach(pool.name) as again:
        assert at_rest(again)
    never.completed.set()
    other.close()


def test_a_view_still_refuses_a_close(pool: shmpool.Pool) -> None:
    """After the events, close() refuses because of a view, as always."""
    buf, event = pool.alloc(), Event()
    event.completed.set()
    buf.length = 5
    view = memoryview(buf)
    buf.free_after(event)
    with pytest.raises(shmpool.BufferInUse, match="memoryview view of 5 bytes is alive"):
        pool.close()
    view.release()


SCRIPT = """
import os, sys, threading
import shmpool
from shmpool import free_after

class Event:
    completed = False
    def query(self):
        return self.completed

pool = shmpool.Pool.attach(sys.argv[1])
event = Event()
pool.alloc().free_after(event)
"""


def test_the_end_of_the_process(
    make_pool: MakePool, start: Callable[..., Child], eventually: Eventually
) -> None:
    """The interpreter's end waits for the event for a while. If it does not complete, and after
    kill -9, the buffer is recovered as a dead member's."""
    pool = make_pool(prealloc=64)
    ends = {
        "threading.Timer(0.1, lambda: setattr(event, 'completed', True)).start()": (0, 0),
        "free_after.EXIT_S = shmpool.process_exit.EXIT_S = 0.05": (0, 1),
        "os.kill(os.getpid(), 9)": (-9, 1),
    }
    for end, (status, left) in ends.items():
        child = start(SCRIPT + end, pool.name)
        assert status == child.process.wait()
        eventually(lambda left=left: held(pool) == left)
        pool.recover()
        assert at_rest(pool)


def test_fork(make_pool: MakePool, eventually: Eventually) -> None:
    """The buffer stays the parent's: the child neither frees it nor waits for the event, and can
    close the pool."""
    pool, event = make_pool(), Event()
    pool.alloc().free_after(event)
    child = os.fork()
    if child == 0:
        try:
            later = Event()
            later.completed.set()
            pool.alloc().free_after(later)
            pool.close()
            os._exit(0)
        finally:
            os._exit(1)
    assert 0 == os.waitpid(child, 0)[1]
    assert 1 == held(pool)
    event.completed.set()
    eventually(lambda: at_rest(pool))


def test_no_member_slot_for_the_thread(make_pool: MakePool, eventually: Eventually) -> None:
    """If all member slots are taken, the background thread cannot free the buffer. It is freed
    when a slot is free, or with the close of the pool."""
    pool = make_pool(members=1)
    event = Event()
    pool.alloc().free_after(event)
    event.completed.set()
    asked = event.asked
    eventually(lambda: event.asked > asked + 3)
    assert 1 == held(pool)
    pool.close()
    with shmpool.Pool.attach(pool.name) as again:
        assert at_rest(again)
