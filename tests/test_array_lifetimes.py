# SPDX-License-Identifier: Apache-2.0
"""How an array over a buffer ends: with its last view, by a put without a copy, with a process."""

import contextlib
import gc
import os
import random
import signal
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import Child, Eventually, MakePool, at_rest
from numpy.typing import NDArray

import shmpool
from shmpool import arrays

Array = NDArray[Any]
Start = Callable[..., Child]


def views_of(array: Array) -> list[object]:
    """A view of each kind."""
    return [array[1:], array.T, array.view("u1"), array.reshape(-1)[::2], memoryview(array),
            array.flat, array.data[1:], np.from_dlpack(array), np.broadcast_to(array, (2, 4, 4)),
            np.nditer(array), array.ctypes, np.asarray(memoryview(array))]  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
def test_the_last_view_frees_the_buffer(queue: shmpool.AlfQueue, seed: int) -> None:
    """In whatever order the array and its views end."""
    pool = queue.pool
    order = random.Random(seed)
    kept: list[object] = [pool.array((4, 4), "i2")]
    array = kept[0]
    assert isinstance(array, np.ndarray)
    kept += views_of(array)
    del array
    order.shuffle(kept)
    while kept:
        assert {1} == set(pool.audit().held.values())
        assert 1 == pool._exports
        with pytest.raises(shmpool.BufferInUse):
            pool.close()
        kept.pop()
    assert at_rest(pool)


def test_a_pool_is_closed_after_its_arrays(make_pool: MakePool) -> None:
    """close() refuses while one is alive; a dropped pool stays open for it."""
    pool = make_pool(buffer_size=1024)
    array = pool.array(8, "u1")
    with pytest.raises(shmpool.BufferInUse, match="cannot be closed"):
        pool.close()
    with pytest.raises(ZeroDivisionError), pool:
        _ = 1 / 0
    array[:] = 5
    del array
    pool.close()
    other = shmpool.Pool.create(None, buffer_size=1024, capacity=2)
    array, gone = other.array(8, "u1"), weakref.ref(other)
    del other
    gc.collect()
    array[:] = 6
    assert gone() is not None
    del array
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(
    "held",
    ["array", "array[1:]", "memoryview(array)", "(array, array.T)", "[array.base]",
     "threading.local.__setattr__(local := threading.local(), 'array', array) or local"],
)  # fmt: skip
def test_at_interpreter_exit(make_pool: MakePool, run: Callable[..., str], held: str) -> None:
    """A process that ends with arrays alive leaves its buffers to recovery, without a word: one of
    its threads may write to them until then."""
    pool = make_pool(buffer_size=1024)
    pool.create_queue("q", capacity=4).put_array(np.arange(8))
    script = f"""
        import sys, threading
        import shmpool
        pool = shmpool.Pool.attach(sys.argv[1])
        array = pool.queue("q").get_array()
        kept = {held}
        pool.kept = kept  # a cycle that numpy does not let the collector see
        del array, pool
        """
    assert "" == run(script, pool.name)
    pool.recover()
    assert at_rest(pool)


def test_a_forked_child(queue: shmpool.AlfQueue) -> None:
    """It reads its parent's array; ending there gives nothing back, and a put is a copy."""
    array = queue.pool.array(8, "u1")
    array[:] = 9
    child = os.fork()
    if not child:
        status = 1
        try:
            queue.put_array(array)
            status = int(array.tolist() != [9] * 8)
            del array
        finally:
            os._exit(status)
    assert 0 == os.waitpid(child, 0)[1]
    assert 1 == queue.pool._exports
    assert [9] * 8 == queue.get_array().tolist() == array.tolist()
    array[:] = 3
    queue.pool.recover()
    del array
    assert at_rest(queue.pool)


# Handing over.


def test_a_view_keeps_an_array_from_being_put(queue: shmpool.AlfQueue) -> None:
    """BufferInUse names it; the array is as it was, and goes when the view is gone."""
    array = queue.pool.array((4, 4), "i2")
    array[...] = 7
    for i in range(len(views_of(array))):
        view: object = views_of(array)[i]
        with pytest.raises(shmpool.BufferInUse, match=r"array of buffer .* cannot be put: "):
            queue.put_array(array)
        del view
        assert (0, [7] * 16) == (len(queue), array.ravel().tolist())
    queue.put_array(array)
    assert (1, (0,), 0) == (len(queue), array.shape, queue.pool._exports)


def test_no_view_gets_around_it(queue: shmpool.AlfQueue) -> None:
    """A view that outlives the array, its base, and a second name are told from the array alone."""
    array = queue.pool.array((4, 4), "i2")
    view = array[1:]
    queue.put_array(view.base)  # a copy: the view may not be of memory that was put
    queue.get_array()[:] = 1
    del array
    queue.put_array(view)
    assert (3, 4) == view.shape == queue.get_array().shape
    again = view.base
    assert again is not None
    whole = again[:].view("i2")
    with pytest.raises(shmpool.BufferInUse):
        queue.put_array(whole)
    del view
    with pytest.raises(shmpool.BufferInUse):
        queue.put_array(whole)
    del again
    queue.put_array(whole)
    assert (0,) == whole.shape

    array = queue.pool.array(4, "u1")
    second = array
    with pytest.raises(shmpool.BufferInUse, match="a second name for the array, or a view"):
        queue.put_array(array)
    del second
    queue.put_array(array)


def test_a_whole_view_is_moved(queue: shmpool.AlfQueue) -> None:
    """Another shape or dtype of all of the bytes is put without a copy, as what it is."""
    for change in (
        lambda array: array.reshape(4, 3, 2),
        lambda array: array.T,
        lambda array: array.view("u2"),
        lambda array: array.reshape(6, 4).T[None],
        lambda array: array[...],
    ):
        view = change(queue.pool.array((6, 4), "i2"))
        view[...] = np.arange(24).reshape(view.shape)
        expected, address = view.copy(order="A"), view.ctypes.data
        queue.put_array(view)
        got = queue.get_array()
        assert (address, (0,)) == (got.ctypes.data, view.shape)
        assert (expected.dtype, expected.tolist()) == (got.dtype, got.tolist())
        assert expected.flags.f_contiguous == got.flags.f_contiguous
        del got


def test_an_emptied_array(queue: shmpool.AlfQueue) -> None:
    """It can be used like any empty array, in place too, and be put."""
    array = queue.pool.array(4, "u1")
    weak = weakref.ref(array)
    queue.put_array(array)
    assert weak() is array
    assert ((0,), 0, []) == (array.shape, array.nbytes, array.tolist())
    array[:] = 1
    with pytest.raises(ValueError, match=r"does not own its data|resize"):
        array.resize(3, refcheck=False)
    queue.put_array(array)
    assert (4, 0) == (queue.get_array().size, queue.get_array().size)
    del array
    assert weak() is None
    assert at_rest(queue.pool)


def test_a_record_that_has_no_room(make_pool: MakePool) -> None:
    """An array whose record became longer than the head room is copied."""
    pool = make_pool(buffer_size=2048)
    queue = pool.create_queue("q", capacity=2)
    array = pool.array(64, "u1")
    array[:] = range(64)
    longer = array.reshape((1,) * 24 + (64,))
    address = longer.ctypes.data
    queue.put_array(longer)
    assert (address, longer.shape) != (queue.get_array().ctypes.data, (0,))
    assert list(range(64)) == longer.ravel().tolist() == array.tolist()


def test_a_full_queue_changes_nothing(queue: shmpool.AlfQueue) -> None:
    """A put that fails leaves the array with its memory, and is counted."""
    pool = queue.pool
    array = pool.array((2, 2), "f8", "F")
    array[...] = [[1, 2], [3, 4]]
    address = array.ctypes.data
    queue.send_many([b"x"] * 8)
    for timeout in (0, 0.01):
        with pytest.raises(shmpool.Full):
            queue.put_array(array, timeout)
        with pytest.raises(shmpool.Full):
            queue.put_array(np.zeros(3), timeout)
    assert (address, [[1, 2], [3, 4]]) == (array.ctypes.data, array.tolist())
    assert array.flags.f_contiguous
    assert 1 == sum(pool.audit().held.values()) == pool._exports
    queue.recv()
    queue.put_array(array)
    rest = pool.alloc_many(pool.capacity - len(queue))
    with pytest.raises(shmpool.PoolExhausted):
        queue.put_array(np.zeros(3), timeout=0.01)
    with pytest.raises(shmpool.PoolExhausted):
        pool.array(3, "u1", timeout=0)
    rest.free()
    assert at_rest(pool)


def test_an_array_cannot_be_used_while_a_put_of_it_waits(
    queue: shmpool.AlfQueue, eventually: Eventually
) -> None:
    """It is empty for other threads; once there is room it arrives."""
    queue.send_many([b"x"] * 8)
    made = [queue.pool.array((2, 2), "u1")]
    made[0][...] = 4
    waits = weakref.ref(made[0])
    thread = threading.Thread(target=lambda: queue.put_array(made.pop()))
    thread.start()

    def is_empty() -> bool:
        array = waits()
        return array is None or array.size == 0

    eventually(is_empty)
    queue.drain(8)
    assert [[4, 4], [4, 4]] == queue.get_array(timeout=60).tolist()
    thread.join()
    assert at_rest(queue.pool)


def test_a_handler_that_raises_while_a_put_waits(queue: shmpool.AlfQueue) -> None:
    """The array has its memory again; what the handler did with the empty array is no matter."""
    queue.send_many([b"x"] * 8)
    array = queue.pool.array(4, "u1")
    array[:] = 5
    seen: list[Array] = []

    class AlarmError(Exception):
        pass

    def ring(*_: object) -> None:
        seen.append(array[:])
        raise AlarmError

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(AlarmError):
            queue.put_array(array)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert ([5] * 4, [[]]) == (array.tolist(), [view.tolist() for view in seen])
    seen.clear()
    queue.drain()
    queue.put_array(array)
    assert [5] * 4 == queue.get_array().tolist()


def test_arrays_of_another_pool(queue: shmpool.AlfQueue, make_pool: MakePool) -> None:
    """They are copied, and stay."""
    array = make_pool(buffer_size=1024).array(4, "u1")
    array[:] = 2
    queue.put_array(array)
    assert [2] * 4 == queue.get_array().tolist() == array.tolist()


def test_an_exception_that_is_kept_keeps_no_buffer(queue: shmpool.AlfQueue) -> None:
    """Those of puts that found no room."""
    queue.send_many([b"x"] * 8)
    kept = []
    for _ in range(5):
        with pytest.raises(shmpool.Full) as caught:
            queue.put_array(np.arange(8), timeout=0)
        kept.append(caught.value)
    assert (5, 0) == (len(kept), queue.pool.stats().held)


def test_an_array_that_outlives_an_exception(pool: shmpool.Pool) -> None:
    """A with block of the Buffer that an exception leaves frees it with the last array."""
    buf = pool.alloc()
    with contextlib.suppress(KeyError), buf:
        array = buf._array(arrays.record_text(np.dtype("u1"), (8,), False), 128)
        raise KeyError
    assert 1 == pool.stats().held
    del array
    assert 0 == pool.stats().held


# Processes that are killed.

PRODUCER = """
    import shmpool, sys
    pool = shmpool.Pool.attach(sys.argv[1])
    array = pool.array((4, 4), "f8")
    array[:2] = 1
    print("filling", flush=True)
    sys.stdin.readline()
    """
CONSUMER = """
    import shmpool, sys
    array = shmpool.Pool.attach(sys.argv[1]).queue(sys.argv[2]).get_array()
    view = array[1:]
    print(array.tolist(), flush=True)
    sys.stdin.readline()
    """


def test_a_producer_that_is_killed_while_it_fills(pool: shmpool.Pool, start: Start) -> None:
    """Its buffer comes back; nothing was put."""
    producer = start(PRODUCER, pool.name)
    assert "filling" == producer.line()
    assert 1 == sum(pool.audit().held.values())
    producer.kill()
    assert 1 == pool.recover().members
    assert at_rest(pool)


@pytest.mark.parametrize("policy", ["free", "requeue", "dead-letter"])
def test_a_consumer_that_is_killed_with_an_array(
    pool: shmpool.Pool, start: Start, policy: Any
) -> None:
    """The queue's on_death says what becomes of it; it is still the array."""
    letters = pool.create_queue("letters", capacity=2)
    to = letters if policy == "dead-letter" else None
    work = pool.create_queue("work", capacity=2, on_death=policy, dead_letter=to)
    work.put_array(np.arange(3.0))
    consumer = start(CONSUMER, pool.name, "work")
    assert "[0.0, 1.0, 2.0]" == consumer.line()
    consumer.kill()
    pool.recover()
    found = {"free": None, "requeue": work, "dead-letter": letters}[policy]
    assert [int(found is queue) for queue in (work, letters)] == [len(work), len(letters)]
    if found is not None:
        assert [0.0, 1.0, 2.0] == found.get_array(timeout=0).tolist()
    assert at_rest(pool)
