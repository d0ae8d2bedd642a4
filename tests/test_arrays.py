# SPDX-License-Identifier: Apache-2.0
"""Arrays over buffers: what arrives is what was put, and what cannot travel is refused."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from conftest import MakePool, at_rest
from numpy.typing import NDArray

import shmpool

Array = NDArray[Any]


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
    if kind.kind == "c" or kind.char == "g":  # any bytes may be a NaN, unequal to itself
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
