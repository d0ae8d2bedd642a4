# SPDX-License-Identifier: Apache-2.0
"""Objects that do not pickle or unpickle, or that change in that time; and processes killed in the
middle."""

import os
import pickle
import signal
import sys
import threading
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import DEADLINE_S, Begin, at_rest

import shmpool
from shmpool.mp import objects

pytestmark = pytest.mark.usefixtures("own_memory")


class Broken:
    """Raises when it is pickled."""

    def __reduce__(self) -> Any:
        raise RuntimeError("not this one")


def raises(error: type[BaseException], text: str = "") -> None:
    raise error(text)


class Unreadable:
    """Raises when it is unpickled."""

    def __init__(self, error: type[BaseException] = ValueError) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        return raises, (self.error, "not here")


def test_pickling_that_raises() -> None:
    """put() raises what pickling raises, at any depth, and nothing was put."""
    for q in (shmpool.Queue(), shmpool.JoinableQueue(), shmpool.SimpleQueue()):
        big = np.zeros(10_000)
        for obj in (Broken(), [big, Broken()], {"a": b"x" * 200_000, "b": Broken()}):
            with pytest.raises(RuntimeError, match="not this one"):
                q.put(obj)
        with pytest.raises((AttributeError, pickle.PicklingError)):
            q.put(lambda: None)
        assert q.empty()
        assert at_rest(q._queue.pool)
        q.put("next")
        assert "next" == q.get()
        if isinstance(q, shmpool.JoinableQueue):
            q.task_done()


class Reentrant:
    """Puts into the queue when it is pickled."""

    queue: shmpool.Queue

    def __reduce__(self) -> Any:
        self.queue.put("inner")
        self.queue.put(np.zeros(2000))
        return str, ("outer",)


def test_pickling_that_re_enters_the_queue() -> None:
    """What an object puts while it is pickled comes first, and both arrive whole."""
    q = Reentrant.queue = shmpool.Queue()
    q.put([Reentrant(), np.ones(3000)])
    assert "inner" == q.get()
    assert 2000 == len(q.get())
    outer, array = q.get()
    assert ("outer", 3000) == (outer, len(array))


class InterruptionError(Exception):
    """Raised by a signal handler."""


class Signals:
    """Is interrupted by a signal when it is pickled, or unpickled."""

    def __reduce__(self) -> Any:
        signal.raise_signal(signal.SIGUSR1)
        return str, ("never",)


def test_pickling_that_is_interrupted() -> None:
    """An exception of a signal handler leaves put() with nothing put, and the next put() works."""

    def handler(number: int, frame: types.FrameType | None) -> None:
        raise InterruptionError

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        q = shmpool.Queue()
        for _ in range(3):
            with pytest.raises(InterruptionError):
                q.put([np.zeros(1000), Signals()])
            assert q.empty()
        q.put([np.zeros(1000)])
        assert 1000 == len(q.get()[0])
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert at_rest(q._queue.pool)


def test_memory_that_changes_its_size() -> None:
    """Memory cannot change its size between its pickling and its copy."""
    data = bytearray(b"a" * 10_000)
    message = objects.dumps(pickle.PickleBuffer(data))
    assert isinstance(message, list)
    with pytest.raises(BufferError):
        data.extend(b"b")
    assert 10_000 < sum(memoryview(part).nbytes for part in message) < 10_200
    del message
    data.extend(b"b")


def test_memory_that_changes() -> None:
    """What a thread writes during put() arrives as some mixture of old and new, and whole."""
    q = shmpool.Queue()
    array = np.zeros(1 << 20, "u1")
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            array[:] += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(20):
            q.put(array)
            assert array.shape == q.get().shape
    finally:
        stop.set()
        thread.join(DEADLINE_S)
    assert at_rest(q._queue.pool)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, MemoryError])
def test_unpickling_that_raises(error: type[BaseException]) -> None:
    """get() raises it with a note that names the queue. The buffer is free, and get() goes on."""
    q = shmpool.Queue()
    for obj in (Unreadable(error), [np.zeros(1000), Unreadable(error)]):
        q.put(obj)
        q.put("next")
        with pytest.raises(error, match="not here") as caught:
            q.get()
        assert q._queue.name in caught.value.__notes__[0]
        assert "next" == q.get()
        if isinstance(obj, list):
            del caught  # its traceback has the array
        assert at_rest(q._queue.pool)


def test_a_task_that_cannot_be_unpickled_is_done() -> None:
    """join() does not wait for it."""
    tasks = shmpool.JoinableQueue()
    tasks.put(Unreadable())
    with pytest.raises(ValueError, match="not here"):
        tasks.get()
    assert tasks.join(timeout=0)
    with pytest.raises(ValueError, match="too many"):
        tasks.task_done()


def test_many_of_which_one_cannot_be_unpickled() -> None:
    """get_many() raises; those before it are in the exception, those behind it in the queue."""
    q = shmpool.Queue()
    q.put_many([1, 2, Unreadable(), 4, 5])
    with pytest.raises(ValueError, match="not here") as caught:
        q.get_many()
    assert [1, 2] == caught.value.objects  # type: ignore[attr-defined]
    assert [4, 5] == q.get_many()
    assert at_rest(q._queue.pool)


def test_messages_that_are_no_objects() -> None:
    """A message that another program wrote, or that is corrupted, raises and is gone."""
    q = shmpool.Queue()
    whole = objects.dumps(np.zeros(1000))
    data = b"".join(bytes(part) for part in whole)
    head = objects.MARK
    for message in (
        b"",
        b"x",
        b"\x80\x05",
        b"y" * 5000,
        data[:-1],
        data[:5000],
        head + b"\xff" * 5000,
        head + (2**60).to_bytes(8, "little") + b"\0" * 5000,
        head + (1).to_bytes(8, "little") + (2**63).to_bytes(8, "little") * 700,
        data + b"z",
    ):
        q._queue.send(message)
        with pytest.raises((pickle.UnpicklingError, EOFError, ValueError, struct_error())):
            q.get()
        assert at_rest(q._queue.pool)


def struct_error() -> type[Exception]:
    import struct

    return struct.error


def test_a_class_that_only_one_side_can_import(
    context: shmpool.mp.Context,
    begin: Begin,
) -> None:
    """The consumer gets an ImportError that names the queue, and goes on."""
    q, said = context.Queue(), context.Queue()
    begin(context, get_three, q, said)
    assert "ready" == said.get(timeout=DEADLINE_S)  # it was forked before the module exists
    module = types.ModuleType("only_here")
    module.Only = type("Only", (), {"__module__": "only_here"})  # type: ignore[attr-defined]
    sys.modules["only_here"] = module
    try:
        q.put("first")
        q.put(module.Only())
        q.put("third")
        assert ["first", "The object came from <shmpool.Queue ", "third"] == said.get(
            timeout=DEADLINE_S
        )
    finally:
        del sys.modules["only_here"]
    assert at_rest(q._queue.pool)


def get_three(q: shmpool.Queue, said: shmpool.Queue) -> None:
    got = []
    said.put("ready")
    for _ in range(3):
        try:
            got.append(q.get())
        except ImportError as error:
            got.append(error.__notes__[0][:36])
    said.put(got)


class Stops:
    """Kills the process that unpickles it."""

    def __init__(self, victim: Callable[[], None]) -> None:
        self.victim = victim

    def __reduce__(self) -> Any:
        return self.victim, ()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def consume(q: shmpool.Queue) -> None:
    while True:
        q.get()


@pytest.mark.parametrize("filler", [0, 20_000])
@pytest.mark.parametrize("on_death", ["requeue", "free"])
def test_a_consumer_killed_while_it_unpickles(
    context: shmpool.mp.Context,
    begin: Begin,
    on_death: shmpool.OnDeath,
    filler: int,
) -> None:
    """Its object goes back to the queue, or is gone, as on_death says; nothing else is lost."""
    tasks = context.JoinableQueue(on_death=on_death)
    tasks.put([np.zeros(filler), Stops(die)])
    tasks.put("next")
    process = begin(context, consume, tasks)
    process.join(DEADLINE_S)
    assert -signal.SIGKILL == process.exitcode
    assert "next" == tasks.get(timeout=DEADLINE_S)
    tasks.task_done()
    if on_death == "requeue":
        assert 1 == tasks.unfinished
        buf = tasks._queue.get(timeout=DEADLINE_S)
        assert 1 == buf.redelivered
        buf.free()
    tasks._queue.pool.recover()
    assert tasks.join(timeout=0)
    assert at_rest(tasks._queue.pool)


def test_a_putter_killed_while_it_pickles(
    context: shmpool.mp.Context,
    begin: Begin,
) -> None:
    """Nothing of its object is in the queue, and no buffer is lost."""
    q = context.Queue()
    process = begin(context, put_deadly, q)
    process.join(DEADLINE_S)
    assert -signal.SIGKILL == process.exitcode
    assert ["before"] == q.get_many()
    q._queue.pool.recover()
    assert at_rest(q._queue.pool)


class Deadly:
    def __reduce__(self) -> Any:
        die()


def put_deadly(q: shmpool.Queue) -> None:
    q.put("before")
    q.put([np.zeros(100_000), Deadly()])
