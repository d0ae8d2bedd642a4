# SPDX-License-Identifier: Apache-2.0
"""Arrays over buffers: what arrives is what was put; the buffer is freed with the last view."""

import contextlib
import gc
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import Child, Eventually, MakePool
from numpy.typing import NDArray

import shmpool
from shmpool import arrays

Array = NDArray[Any]
Start = Callable[..., Child]


@pytest.fixture
def pool(make_pool: MakePool) -> shmpool.Pool:
    return make_pool(buffer_size=1024, capacity=64)


@pytest.fixture
def queue(pool: shmpool.Pool) -> shmpool.AlfQueue:
    return pool.create_queue("q", capacity=8)


def at_rest(pool: shmpool.Pool) -> bool:
    """Whether every buffer is free or queued, and no view is counted."""
    audit = pool.audit()
    return audit.ok and not audit.held and not pool._exports


DTYPES = [
    "?", "i1", "<u2", ">u2", "<i8", ">f4", "f8", "c16", "g", "S5", "<U3", ">U3", "V7", "M8[25s]",
    ">M8[ns]", "m8", "M8", np.dtype("q"), np.dtype("l"),
    [("a", "<i4"), ("b", ">f8")],
    [("a", "<i4"), ("b", ">f8", (2, 2)), ("s", "S3")],
    [("outer", [("inner", "<i2"), ("é", "f4")]), ("x", "u1")],
    [(("title", "name"), "<i4")],
    np.dtype([("a", "i1"), ("b", "f8")], align=True),
    np.dtype({"names": ["a", "b"], "formats": ["i1", "i4"], "offsets": [3, 8], "itemsize": 16}),
]  # fmt: skip
SHAPES: list[tuple[int, ...]] = [(), (0,), (1,), (5,), (2, 3), (3, 0, 2), (1, 2, 1, 3), (1,) * 30]


def filled(dtype: Any, shape: tuple[int, ...]) -> Array:
    """An array whose bytes are all different, as far as its dtype lets them be."""
    kind = np.dtype(dtype)
    count = int(np.prod(shape, dtype=int))
    data = (np.arange(count * kind.itemsize) % 2 if kind.kind == "b" else
            np.arange(count * kind.itemsize) % 97 + 1).astype("u1")  # fmt: skip
    if (
        kind.kind in "gc" or kind.char == "g"
    ):  # any bytes may be a NaN, which is not equal to itself
        return np.arange(1, count + 1).astype(kind).reshape(shape)
    if kind.kind in "mM":
        return np.arange(count, dtype=kind.str[0] + "i8").view(kind).reshape(shape)
    if kind.kind == "U":
        data = np.array(["abc"] * count, kind).view("u1") if count else data
    return np.ndarray(shape, kind, data.tobytes()).copy()


def in_memory(array: Array) -> bytes:
    """The bytes of a contiguous array as they lie in memory."""
    return (array if array.flags.c_contiguous else array.T).tobytes()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("order", ["C", "F"])
def test_what_arrives_is_what_was_put(queue: shmpool.AlfQueue, dtype: Any, order: Any) -> None:
    """dtype, byte order, shape, memory order and bytes, both written in place and copied. numpy
    itself leaves out the bytes between the fields of a structure that is written in place."""
    pool = queue.pool
    for shape in SHAPES:
        source = np.array(filled(dtype, shape), order=order)
        made = pool.array(shape, dtype, order)
        assert (source.dtype, source.shape) == (made.dtype, made.shape)
        made[...] = source
        queue.put_array(made)
        queue.put_array(source)
        assert (0,) == made.shape
        for exact in (np.dtype(dtype).names is None, True):
            got = queue.get_array(timeout=0)
            assert (source.dtype, source.dtype.descr) == (got.dtype, got.dtype.descr)
            assert (source.shape, str(source.tolist())) == (got.shape, str(got.tolist()))
            assert not exact or in_memory(source) == in_memory(got)
            assert (source.flags.c_contiguous, source.flags.f_contiguous) == (
                got.flags.c_contiguous,
                got.flags.f_contiguous,
            )
            assert (True, True) == (got.flags.writeable, got.flags.aligned)
            assert type(got) is np.ndarray
        del got
    assert at_rest(pool)


def test_the_payload_is_the_array(queue: shmpool.AlfQueue) -> None:
    """Its bytes alone, where other programs look for them; the record lies before them, as the
    decision page says."""
    array = queue.pool.array((2, 3), "<u2")
    array[:] = [[1, 2, 3], [4, 5, 6]]
    queue.put_array(array)
    with queue.get() as buf:
        assert np.arange(1, 7, dtype="<u2").tobytes() == bytes(buf)
        length, buf.headroom = len(buf), 0
        room = bytes(buf.data)
    at = 128
    assert b"shmarr01" == room[at - 32 : at - 24]
    size = int.from_bytes(room[at - 12 : at - 8], "little")
    assert 12 == length == int.from_bytes(room[at - 16 : at - 12], "little")
    text = room[at - 32 - size : at - 32].decode().rstrip()
    assert "{'descr': '<u2', 'fortran_order': False, 'shape': (2, 3)}" == text


def test_written_in_place(queue: shmpool.AlfQueue) -> None:
    """The array that arrives is the same memory, from the producer's to the consumer's."""
    array = queue.pool.array(16, "u1")
    address = array.ctypes.data
    queue.put_array(array)
    got = queue.get_array()
    assert address == got.ctypes.data
    assert 0 == address % 64
    queue.put_array(got)  # and on
    assert address == queue.get_array().ctypes.data


def test_arrays_that_are_not_contiguous(queue: shmpool.AlfQueue) -> None:
    """They arrive in order C; a slice of an array of the pool is copied, and the array stays."""
    whole = np.arange(60, dtype="i4").reshape(3, 4, 5)
    ours = queue.pool.array(whole.shape, "i4")
    ours[...] = whole
    for source in (whole, ours):
        for view in (source[:, ::2], source[::-1], source.transpose(1, 0, 2), source[1:],
                     source[:, 1, 1], np.broadcast_to(source[0], (2, 4, 5))):  # fmt: skip
            expected = view.copy()
            queue.put_array(view)
            got = queue.get_array()
            assert np.array_equal(expected, got)
            assert got.flags.c_contiguous
        del view
    assert np.array_equal(whole, ours)


def test_a_head_room_of_the_pool(make_pool: MakePool) -> None:
    """A record that fits into it takes nothing more; data are aligned whatever it is."""
    pool = make_pool(buffer_size=1024, headroom=200)
    queue = pool.create_queue("q", capacity=2)
    array = pool.array(768, "u1")
    assert 0 == array.ctypes.data % 64
    queue.put_array(array)
    with queue.get() as buf:
        assert (256, 768) == (buf.headroom, len(buf))
    with pytest.raises(shmpool.PayloadTooLarge):
        pool.array(769, "u1")


def test_arrays_too_large(queue: shmpool.AlfQueue) -> None:
    """It is refused before a buffer is taken, and says what buffer_size would do."""
    pool = queue.pool
    for call in (
        lambda: pool.array((3, 1000), "u1", timeout=0),
        lambda: queue.put_array(np.zeros((3, 1000), "u1"), timeout=0),
    ):
        with pytest.raises(shmpool.PayloadTooLarge) as caught:
            call()
        assert (
            "array is 3000 bytes, with 128 before it for its dtype and shape; a buffer holds 1024: "
            "create the pool with buffer_size=3128" == str(caught.value)
        )
    with pytest.raises(shmpool.PayloadTooLarge):
        pool.array(2**62, "f8")
    with pytest.raises(shmpool.PayloadTooLarge):
        pool.array((), f"V{2**31 - 1}")
    assert at_rest(pool)


REFUSED = [
    ("O", "its elements are objects of this process"),
    ([("a", "i4"), ("b", "O")], "its elements are objects of this process"),
    (np.dtype("f8", metadata={"unit": "m"}), r"its metadata \{'unit': 'm'\} would be lost"),
    ([("a", np.dtype("f8", metadata={"unit": "m"}))], "its metadata"),
    (np.dtype((np.record, [("a", "i4")])), "its type record would be lost"),
    (
        np.dtype({"names": ["a", "b"], "formats": ["i4", "i4"], "offsets": [4, 0]}),
        ".* out-of-order",
    ),
    ("V0", "its elements have 0 bytes"),
    (np.dtype([]), "its elements have 0 bytes"),
]


@pytest.mark.parametrize(("dtype", "words"), REFUSED, ids=str)
def test_dtypes_that_do_not_travel(queue: shmpool.AlfQueue, dtype: Any, words: str) -> None:
    """They are refused with the reason, also where equal ones were put before."""
    queue.pool.array(2, "f8")
    queue.pool.array(2, [("a", "f8")])
    with pytest.raises(shmpool.InvalidArgument, match=f"^dtype .* cannot be carried: {words}"):
        queue.pool.array(2, dtype)
    with pytest.raises(shmpool.InvalidArgument, match=words):
        queue.put_array(np.zeros(2, dtype))
    assert at_rest(queue.pool)


def test_dtypes_of_other_packages(queue: shmpool.AlfQueue) -> None:
    """numpy's own strings of any length, and ml_dtypes: refused, with what to do."""
    if hasattr(np.dtypes, "StringDType"):
        with pytest.raises(shmpool.InvalidArgument, match="objects of this process"):
            queue.put_array(np.array(["a"], np.dtypes.StringDType()))
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    for kind in (ml_dtypes.bfloat16, [("a", ml_dtypes.bfloat16)]):
        with pytest.raises(shmpool.InvalidArgument, match=r"bfloat16; view the array as integers"):
            queue.put_array(np.zeros(2, kind))


def test_names_of_fields_are_the_arrays_own(queue: shmpool.AlfQueue) -> None:
    """A program that renames the fields of an array in place changes no other array."""
    for dtype in ([("a", "i4"), ("b", "i4")], [("a", [("c", "i4")]), ("b", "i4")]):
        for _ in range(3):
            queue.put_array(np.zeros(3, dtype))
            got = queue.get_array()
            assert ("a", "b") == got.dtype.names
            if got.dtype["a"].names is not None:
                got.dtype["a"].names = ("y",)
            got.dtype.names = ("x", "y")


def test_other_arguments(queue: shmpool.AlfQueue) -> None:
    """numpy integers are integers; everything else is named."""
    pool = queue.pool
    assert (3, 2) == pool.array(np.array([3, 2]), "u1").shape
    assert (3, 2, 2) == pool.array(np.int64(3), np.dtype(("u1", (2, 2)))).shape
    for shape, kind in (((-1,), shmpool.InvalidArgument), ((2.5,), TypeError), ("x", TypeError),
                        ((1,) * 65, shmpool.InvalidArgument), (None, TypeError)):  # fmt: skip
        with pytest.raises(kind, match="shape "):
            pool.array(shape, "u1")
    with pytest.raises(shmpool.InvalidArgument, match="order is 'K'"):
        pool.array(2, "u1", order="K")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        pool.array(2, "nonsense")
    with pytest.raises(shmpool.InvalidArgument, match="mask would be lost"):
        queue.put_array(np.ma.masked_array([1, 2], [True, False]))
    for thing in ([1, 2], 5, None, "text", object()):
        with pytest.raises(TypeError, match=r"array is a .*; it must have __dlpack__"):
            queue.put_array(thing)
    with pytest.raises(TypeError, match=r"put\(\) moves a Buffer"):
        queue.put_array(pool.alloc())
    assert at_rest(pool)


class Interface:
    def __init__(self, array: Array) -> None:
        self.__array_interface__ = array.__array_interface__
        self.array = array


class OnlyArray:
    def __array__(self, dtype: object = None, copy: object = None) -> Array:
        return np.arange(3)


@pytest.mark.parametrize(
    ("thing", "expected"),
    [
        (b"ab\0", np.array([97, 98, 0], "u1")),
        (bytearray(b"ab"), np.array([97, 98], "u1")),
        (memoryview(b"abcd").cast("H"), np.array([25185, 25699], "u2")),
        (memoryview(bytes(range(6)))[::2], np.array([0, 2, 4], "u1")),
        (np.float32(2.5), np.array(2.5, "f4")),
        (np.datetime64("2026-01-01"), np.array("2026-01-01", "M8[D]")),
        (Interface(np.arange(4)), np.arange(4)),
        (OnlyArray(), np.arange(3)),
        (np.arange(2).view(np.recarray), np.arange(2)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_has_memory_is_copied(queue: shmpool.AlfQueue, thing: object, expected: Array) -> None:
    """Whatever numpy can read without making elements of it."""
    queue.put_array(thing)
    got = queue.get_array()
    assert (expected.dtype, expected.tolist()) == (got.dtype, got.tolist())


# The end of a buffer's use.


def views_of(array: Array) -> list[object]:
    """A view of each kind."""
    return [array[1:], array.T, array.view("u1"), array.reshape(-1)[::2], memoryview(array),
            array.flat, array.data[1:], np.from_dlpack(array), np.broadcast_to(array, (2, 4, 4)),
            np.nditer(array), array.ctypes, np.asarray(memoryview(array))]  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
def test_the_last_view_sends_it_home(queue: shmpool.AlfQueue, seed: int) -> None:
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


# Messages that are no arrays, and records that are corrupted.


def test_a_message_that_is_no_array(queue: shmpool.AlfQueue) -> None:
    """It goes back to the queue, counted as redelivered, or to the dead letters."""
    queue.send(b"no array")
    with pytest.raises(shmpool.NoArray) as caught:
        queue.get_array()
    assert str(caught.value).startswith("queue 'q': buffer ")
    assert str(caught.value).endswith(" holds no array; it went back to the queue, as by nack()")
    assert caught.value.buffer is None
    with queue.get() as buf:
        assert (b"no array", 1) == (bytes(buf), buf.redelivered)
    pool = queue.pool
    letters = pool.create_queue("letters", capacity=2)
    work = pool.create_queue("work", capacity=2, on_death="dead-letter", dead_letter=letters)
    work.send(b"no array")
    with pytest.raises(shmpool.NoArray):
        work.get_array()
    assert b"no array" == letters.recv()
    with pytest.raises(shmpool.Empty):
        work.get_array(timeout=0)
    assert at_rest(pool)


def test_a_queue_that_takes_none_back(pool: shmpool.Pool) -> None:
    """Then the exception has the Buffer; it pickles without it."""
    queue = pool.create_queue("q", capacity=2, producers="single")
    queue.send(b"no array")
    with pytest.raises(shmpool.NoArray, match="it is this exception's attribute buffer") as caught:
        queue.get_array()
    assert caught.value.buffer is not None
    assert b"no array" == bytes(caught.value.buffer)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(caught.value), None) == (str(again), again.buffer)
    caught.value.buffer.free()


def test_a_record_of_an_earlier_message(queue: shmpool.AlfQueue) -> None:
    """It is not taken for one of this message: not after a free, nor for another length."""
    pool = queue.pool
    array = pool.array(16, "u1")
    queue.put_array(array)
    with queue.get() as buf:
        index, headroom = buf.index, buf.headroom
    held = []
    while (buf := pool.alloc()).index != index:
        held.append(buf)
    buf.headroom = headroom  # the old record lies where one of this message would
    buf.length = 16
    queue.put(buf)
    with pytest.raises(shmpool.NoArray, match="holds no array"):
        queue.get_array()
    queue.drain()
    queue.put_array(np.arange(16))
    buf = queue.get()
    buf.write(b"shorter")
    queue.put(buf)
    with pytest.raises(shmpool.NoArray, match="holds no array"):
        queue.get_array()


def test_every_corrupted_bit(queue: shmpool.AlfQueue) -> None:
    """A record with any bit changed is no array's: an exception, and no access outside."""
    pool = queue.pool
    source = np.arange(12, dtype="<f4").reshape(3, 4)
    other = np.arange(12, dtype="<i4").reshape(3, 4)  # a text that differs in little, and is kept
    queue.put_array(other)
    queue.get_array()
    queue.put_array(source)
    buf = queue.get()
    headroom, length = buf.headroom, len(buf)
    size = 32 + 64
    buf.headroom = 0
    record = bytes(buf.data[headroom - size : headroom])
    assert record.startswith(b"{'descr': '<f4'")
    for bit in range(8 * size):
        wrong = bytearray(record)
        wrong[bit // 8] ^= 1 << bit % 8
        buf.headroom, buf.length = 0, headroom + length
        buf.data[headroom - size : headroom] = wrong
        buf.length, buf.headroom = 0, headroom
        buf.length = length
        queue.put(buf)
        with pytest.raises(shmpool.NoArray):
            queue.get_array()
        buf = queue.get()
    buf.free()
    assert at_rest(pool)


def seal(text: bytes, handle: int, length: int) -> bytes:
    """A record with a hash that is right, as an attacker can write it."""

    def mix(h: int, word: int) -> int:
        h = (h ^ word) * 0x9E3779B97F4A7C15 % 2**64
        return h ^ h >> 29

    magic, sizes, hashed = (
        int.from_bytes(b"shmarr01", "little"),
        len(text) << 32 | length,
        len(text),
    )
    for i in range(0, len(text), 8):
        hashed = mix(hashed, int.from_bytes(text[i : i + 8], "little"))
    words = (magic, handle, sizes, hashed ^ mix(mix(magic, handle), sizes))
    return text + b"".join(word.to_bytes(8, "little") for word in words)


def received(queue: shmpool.AlfQueue, text: bytes, length: int) -> Array:
    """What get_array() makes of a message with that text."""
    buf = queue.pool.alloc()
    text += b" " * (-len(text) % 8)
    record = seal(text, buf.generation << 32 | buf.index, length)
    buf.headroom = len(record) + -len(record) % 64
    at, buf.headroom = buf.headroom, 0
    buf.data[at - len(record) : at] = record
    buf.headroom, buf.length = at, length
    queue.put(buf)
    try:
        return queue.get_array()
    finally:
        queue.drain()


HARM = [
    "{'descr': '<f8', 'fortran_order': False, 'shape': (5,)}",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (-1, -4)}",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (True, 4)}",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (4.0,)}",
    "{'descr': '<f8', 'fortran_order': False, 'shape': [4]}",
    "{'descr': '<f8', 'fortran_order': 0, 'shape': (4,)}",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (4,), 'more': 1}",
    "{'descr': '<f8', 'fortran_order': False}",
    "{'descr': '|O', 'fortran_order': False, 'shape': (4,)}",
    "{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (4,)}",
    "{'descr': '|V0', 'fortran_order': False, 'shape': (4,)}",
    "{'descr': '|S0', 'fortran_order': False, 'shape': (32,)}",
    "{'descr': 'nonsense', 'fortran_order': False, 'shape': (4,)}",
    "{'descr': ('<f8', (4,)), 'fortran_order': False, 'shape': ()}",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (" + "1, " * 70 + "4)}",
    f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({2**70}, {2**70}, 0)}}",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (4611686018427387904, 8)}",
    f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({2**62}, {2**62}, 0)}}",
    "__import__('os').system('true')",
    "[" * 400,
    "-" * 400 + "1",
    "\xff\xfe",
    "",
    "1",
]


@pytest.mark.parametrize("text", HARM)
def test_records_written_to_do_harm(queue: shmpool.AlfQueue, text: str) -> None:
    """Whatever the text says, it is NoArray, and nothing of it is run."""
    good = received(queue, b"{'descr': '<f8', 'fortran_order': False, 'shape': (4,)}", 32)
    assert (4,) == good.shape
    with pytest.raises(shmpool.NoArray, match="has a corrupted array record"):
        received(queue, text.encode("latin-1"), 32)
    del good
    assert at_rest(queue.pool)


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


# What it costs to have it.


def test_numpy_is_imported_with_the_first_array() -> None:
    """import shmpool, pools, queues and buffers do without."""
    script = """
import sys, shmpool
pool = shmpool.Pool.create(None, buffer_size=1024, capacity=2)
queue = pool.create_queue("q", capacity=2)
queue.put(pool.alloc()); view = queue.get().view
try:
    pool.close()
except shmpool.BufferInUse as error:
    print("numpy" in sys.modules, error)
del view
array = pool.array(1, "u1")
print("numpy" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert [
        "False pool '(anonymous)' cannot be closed: memoryview view of 0 bytes is alive; delete it "
        "first (del view)",
        "True",
    ] == done.stdout.splitlines()


# What is more than literals; Python's parser needs a frame of the C stack for each of them.
DEEP = ["-" * 5900 + "1", "not " * 4000 + "1", "lambda:" * 2300 + "1", "1**" * 5400 + "1"]


@pytest.mark.parametrize("text", DEEP, ids=["minus", "not", "lambda", "power"])
def test_a_text_that_is_code(text: str) -> None:
    """It is refused before Python's parser sees it, which would run out of a small stack."""
    failed: list[BaseException] = []

    def parse() -> None:
        try:
            arrays.parse(text.encode())
        except ValueError as error:
            failed.append(error)

    before = threading.stack_size(256 << 10)
    try:
        thread = threading.Thread(target=parse)
        thread.start()
        thread.join()
    finally:
        threading.stack_size(before)
    assert 1 == len(failed)


def test_what_a_text_may_have() -> None:
    """Names of fields with quotes, brackets and other scripts, titles, offsets and sub-arrays."""
    kinds = [
        np.dtype([("(" * 40, "u1"), ("it's", "<f8"), ('"', ">i2"), ("größe", "U3")]),
        np.dtype([(("a title", "a"), "u1", (2, 3))]),
        np.dtype({"names": ["a"], "formats": ["u1"], "offsets": [8], "itemsize": 24}),
    ]
    for kind in kinds:
        assert kind == arrays.parse(arrays.record_text(kind, (2, 0), False))[0]


@pytest.mark.parametrize(
    "dtype",
    [
        [(f"field_with_name_{i:05d}", "<f8") for i in range(600)],
        eval("[('a', " * 20 + "'u1'" + ")]" * 20),
    ],
    ids=["long", "deep"],
)
def test_a_dtype_that_no_record_holds(make_pool: MakePool, dtype: Any) -> None:
    """It is refused where it is put, not where it is got."""
    queue = make_pool(buffer_size=1 << 20, capacity=64).create_queue("q", capacity=4)
    with pytest.raises(shmpool.InvalidArgument, match="cannot be carried"):
        queue.put_array(np.zeros(2, dtype))
    with pytest.raises(shmpool.InvalidArgument, match="cannot be carried"):
        queue.pool.array(2, dtype)
    assert at_rest(queue.pool)


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


def test_a_handler_that_raises_while_a_text_is_read(queue: shmpool.AlfQueue) -> None:
    """Its exception comes out, and not NoArray."""
    kind = np.dtype([("a", [("b", "u1")])])  # nested: parsed each time

    class StopError(Exception):
        pass

    def stop(*_: object) -> None:
        raise StopError

    handler, stops = signal.signal(signal.SIGALRM, stop), 0
    try:
        for i in range(2000):
            with contextlib.suppress(StopError, shmpool.Empty):
                if not len(queue):
                    queue.put_array(np.zeros(2, kind))
                signal.setitimer(signal.ITIMER_REAL, 1e-5 * (1 + i % 20))
                queue.get_array(timeout=0)
                signal.setitimer(signal.ITIMER_REAL, 0)
                continue
            stops += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
    assert stops
