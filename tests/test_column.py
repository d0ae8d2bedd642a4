# SPDX-License-Identifier: Apache-2.0
"""The columns of a burst: one field of every packet as one array."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import MakePool

import shmpool


@pytest.mark.parametrize(
    "dtype", ["u1", "<u2", ">u2", "<u4", ">u4", "<u8", ">u8", "<f8", "S6", "V3"]
)
def test_columns_of_every_width(pool: shmpool.Pool, dtype: str) -> None:
    """set_column and then column give the same values. Nothing beside the field is written."""
    kind = np.dtype(dtype)
    burst = pool.alloc_many(20)
    burst.lengths = 64
    for buf in burst:
        buf.data[:] = b"\xaa" * 256
    raw = np.random.default_rng(1).integers(1, 120, 20 * kind.itemsize, "u1")
    values = raw.view(kind)
    burst.set_column(3, values, dtype)
    assert values.tobytes() == burst.column(3, dtype).tobytes()
    assert kind == burst.column(3, dtype).dtype
    for i, buf in enumerate(burst):
        field = values[i : i + 1].tobytes()
        assert b"\xaa" * 3 + field + b"\xaa" * (253 - len(field)) == bytes(buf.data)
    assert {64} == set(burst.lengths.tolist())


def test_byte_order_of_the_field(pool: shmpool.Pool) -> None:
    """dtype gives the byte order of the field in the packet, whatever that of the values is."""
    burst = pool.alloc_many(2)
    burst.lengths = 4
    burst.set_column(0, [258, 772], ">u2")
    burst.set_column(2, np.array([258, 772], "<u4"), ">u2")
    assert [b"\1\2\1\2", b"\3\4\3\4"] == [bytes(buf) for buf in burst]
    assert [258, 772] == burst.column(0, ">u2").tolist()
    assert [0x0201, 0x0403] == burst.column(0, "<u2").tolist()
    assert [0x01020102, 0x03040304] == burst.column(0, ">u4").tolist()


def test_one_value_for_all(pool: shmpool.Pool) -> None:
    """A scalar goes into every packet."""
    burst = pool.alloc_many(4)
    burst.set_column(6, 0x0800, ">u2")
    assert [0x0800] * 4 == burst.column(6, ">u2").tolist()
    burst.set_column(0, np.uint32(7))
    assert [7] * 4 == burst.column(0, "=u4").tolist()
    single = pool.alloc_many(1)
    single.set_column(0, [9], "u1")
    assert [9] == single.column(0, "u1").tolist()


def test_structured_columns(pool: shmpool.Pool) -> None:
    """A record type reads several fields in one call."""
    header = np.dtype([("port", ">u2"), ("size", ">u4")])
    burst = pool.alloc_many(3)
    values = np.array([(80, 1), (443, 2), (53, 3)], header)
    burst.set_column(10, values)
    assert [80, 443, 53] == burst.column(10, header)["port"].tolist()
    assert [1, 2, 3] == burst.column(12, ">u4").tolist()


def test_a_strided_source(pool: shmpool.Pool) -> None:
    """Values need not be contiguous."""
    burst = pool.alloc_many(3)
    burst.set_column(0, np.arange(30, dtype="u2").reshape(3, 10)[:, 4])
    assert [4, 14, 24] == burst.column(0, "u2").tolist()


def test_columns_end_with_the_buffer(pool: shmpool.Pool) -> None:
    """The last byte can be read. The byte behind it is InvalidArgument that names the position."""
    burst = pool.alloc_many(2)
    burst.set_column(255, [1, 2], "u1")
    assert [1, 2] == burst.column(255, "u1").tolist()
    assert 2 == len(burst.column(248, "u8"))
    for offset, dtype in ((256, "u1"), (249, "u8"), (-1, "u1"), (2**40, "u1"), (0, "S257")):
        for call in (
            lambda o=offset, d=dtype: burst.column(o, d),
            lambda o=offset, d=dtype: burst.set_column(o, np.zeros(2, d), d),
        ):
            with pytest.raises(shmpool.InvalidArgument, match=str(offset)):
                call()
    for far in (2**64, 2**64 - 1, 2**70, -(2**70)):
        for call in (lambda o=far: burst.column(o, "u1"), lambda o=far: burst.set_column(o, 1)):
            with pytest.raises(shmpool.InvalidArgument, match=f"offset .*{far}"):
                call()


def test_columns_begin_after_the_headroom(make_pool: MakePool) -> None:
    """Offsets count from each packet's own data."""
    pool = make_pool(headroom=64)
    burst = pool.alloc_many(2)
    burst[0].headroom = 60
    for buf in burst:
        buf.write(b"abcd")
    assert [b"abcd", b"abcd"] == burst.column(0, "S4").tolist()
    with pytest.raises(shmpool.InvalidArgument):
        burst.column(192, "u1")
    with pytest.raises(shmpool.PayloadTooLarge):
        burst.lengths = 195
    queue = pool.create_queue("q", capacity=2)
    queue.put_many(burst)
    assert [b"abcd", b"abcd"] == [bytes(buf) for buf in queue.get_many(2)]


def test_wrong_columns(pool: shmpool.Pool) -> None:
    """Other shapes and Python objects are refused."""
    burst = pool.alloc_many(3)
    for values in ([1, 2], [1, 2, 3, 4], [[1, 2, 3]], []):
        with pytest.raises(shmpool.InvalidArgument, match="shape"):
            burst.set_column(0, values, "u1")
    with pytest.raises(shmpool.InvalidArgument, match="object"):
        burst.column(0, object)
    with pytest.raises(shmpool.InvalidArgument, match="object"):
        burst.set_column(0, [object()] * 3, object)
    with pytest.raises(TypeError):
        burst.column(0, "no such type")
    call: Callable[..., object] = burst.column
    for offset in ("x", 1.5, None):
        with pytest.raises(TypeError, match=f"offset is {offset!r}; it must be an int"):
            call(offset, "u1")
    assert burst.column(np.int64(3), "u1").tolist() == burst.column(3, "u1").tolist()
    for value, dtype in ((300, "u1"), (-1, "u1"), ("x", "u1"), ([1, [2], 3], "u4")):
        with pytest.raises(shmpool.InvalidArgument, match="values do not fit"):
            burst.set_column(0, value, dtype)


def test_columns_leave_out_a_buffer_that_was_put(pool: shmpool.Pool) -> None:
    """After one Buffer was put, the burst's columns cannot write into it."""
    queue = pool.create_queue("q", capacity=8)
    burst = pool.alloc_many(3)
    burst.lengths = 1
    burst.set_column(0, 1, "u1")
    queue.put(burst[1])
    try:
        burst.set_column(0, 2, "u1")
        burst.lengths = 200
    except shmpool.BufferReleased:
        pass
    assert b"\1" == queue.recv()


@pytest.mark.parametrize("offset", [2**64 - 1, 2**64 - 64, 2**64 - 128, 2**63, 2**64, 129, 128])
def test_an_offset_does_not_wrap(make_pool: MakePool, offset: int) -> None:
    """An offset that wraps into the headroom, or before it, is out of range."""
    pool = make_pool(headroom=128)
    with pool.alloc_many(2) as burst:
        for call in (lambda: burst.column(offset, "u1"), lambda: burst.set_column(offset, 7, "u1")):
            with pytest.raises(shmpool.InvalidArgument, match=str(offset)):
                call()


def test_columns_of_sub_arrays(pool: shmpool.Pool) -> None:
    """A dtype that is an array itself takes as many bytes as it has. Its shape follows the n."""
    mac = np.dtype(("u1", (6,)))
    values = np.arange(18, dtype="u1").reshape(3, 6)
    with pool.alloc_many(3) as burst:
        for buf in burst:
            buf.data[:] = b"\xaa" * 256
        burst.set_column(5, values, mac)
        assert values.tolist() == burst.column(5, mac).tolist()
        assert ((3, 6), np.dtype("u1")) == (burst.column(5, mac).shape, burst.column(5, mac).dtype)
        assert b"\xaa" * 5 + bytes(range(6)) + b"\xaa" == bytes(burst[0].data[:12])
        burst.set_column(0, [[1, 2], [3, 4]], np.dtype((">u2", (2, 2))))
        assert [[[1, 2], [3, 4]]] * 3 == burst.column(0, np.dtype((">u2", (2, 2)))).tolist()
        header = np.dtype([("mac", "u1", (6,)), ("kind", ">u2")])
        assert [1, 2] == burst.column(0, header)["mac"][0].tolist()[1::2][:2]
        for offset in (251, 256, 2**64 - 3):
            with pytest.raises(shmpool.InvalidArgument):
                burst.column(offset, mac)
            with pytest.raises(shmpool.InvalidArgument):
                burst.set_column(offset, values, mac)
        for shape in ((3,), (6, 3), (3, 5), (2, 6)):
            with pytest.raises(shmpool.InvalidArgument, match="shape"):
                burst.set_column(0, np.zeros(shape, "u1"), mac)
        with pytest.raises(shmpool.InvalidArgument, match="objects"):
            burst.column(0, np.dtype(("O", (2,))))


FIELDS = [("mark", "marks", "u4"), ("flow_hash", "flow_hashes", "u4"),
          ("timestamp", "timestamps", "i8")]  # fmt: skip


@pytest.mark.parametrize(("name", "column", "dtype"), FIELDS)
def test_metadata_as_a_column(pool: shmpool.Pool, name: str, column: str, dtype: str) -> None:
    """It is the attribute of every Buffer, read and written, by an array or by one value."""
    most = 2**63 - 1 if dtype == "i8" else 2**32 - 1
    burst = pool.alloc_many(4)
    assert ((4,), dtype, [0] * 4) == (
        (found := getattr(burst, column)).shape, found.dtype.str[1:], found.tolist()
    )  # fmt: skip
    for values in (
        [1, 2, 3, most], np.array([5, 6, 7, 8], "u1"), np.arange(8, dtype=">i8")[::2], range(4),
        np.array([9, 8, 7, most], object),
    ):  # fmt: skip
        setattr(burst, column, values)
        assert list(values) == getattr(burst, column).tolist()
        assert list(values) == [getattr(buf, name) for buf in burst]
    for one in (3, np.uint8(4), np.int64(5), most):
        setattr(burst, column, one)
        assert [one] * 4 == [getattr(buf, name) for buf in burst]
    setattr(burst[2], name, 1)
    assert [most, most, 1, most] == getattr(burst, column).tolist()


@pytest.mark.parametrize(("name", "column", "dtype"), FIELDS)
def test_wrong_metadata(pool: shmpool.Pool, name: str, column: str, dtype: str) -> None:
    """Values that do not fit are refused, with the value and the range; none is written."""
    most = 2**63 - 1 if dtype == "i8" else 2**32 - 1
    burst = pool.alloc_many(3)
    setattr(burst, column, 7)
    for far in (-1, most + 1, 2**70, -(2**70)):
        for value in (far, [1, far, 2]):
            words = re.escape(f"{column} are {far}; allowed are 0 to {most}")
            with pytest.raises(shmpool.InvalidArgument, match=words):
                setattr(burst, column, value)
    for shape in ([1, 2], [[1, 2, 3]], []):
        with pytest.raises(shmpool.InvalidArgument, match="shape"):
            setattr(burst, column, shape)
    wrong: list[Any] = [1.0, np.float32(1), "x", None, [1, 2, 3.0], np.ones(3, bool), np.True_]
    for value in wrong:
        with pytest.raises(TypeError, match=re.escape(f"{column} are {value!r}; they must be")):
            setattr(burst, column, value)
    assert [7] * 3 == getattr(burst, column).tolist()


def test_redelivered_is_read_only(pool: shmpool.Pool) -> None:
    """It counts what nack() returned, and cannot be assigned."""
    queue = pool.create_queue("q", capacity=8)
    queue.send_many([b"a", b"b"])
    queue.get().nack()
    burst = queue.get_many(2)
    assert ([0, 1], np.uint32) == (burst.redelivered.tolist(), burst.redelivered.dtype)
    with pytest.raises(AttributeError):
        burst.redelivered = 1  # type: ignore[misc, assignment]
    with pytest.raises(AttributeError, match="redelivered cannot be set"):
        burst._set_field("redelivered", bytes(4), True)
    with pytest.raises(ValueError, match="no field owner"):
        burst._field("owner", bytearray(8))


def test_metadata_does_not_reach_what_has_left(pool: shmpool.Pool) -> None:
    """Neither read nor written once one of the Buffers was put; the others keep their values."""
    queue = pool.create_queue("q", capacity=8)
    burst = pool.alloc_many(3)
    burst.marks = 1
    queue.put(burst[1])
    for column in ("marks", "flow_hashes", "timestamps", "redelivered"):
        with pytest.raises(shmpool.BufferReleased):
            getattr(burst, column)
        if column != "redelivered":
            with pytest.raises(shmpool.BufferReleased):
                setattr(burst, column, 2)
    assert [1, 1, 1] == [queue.get().mark, burst[0].mark, burst[2].mark]


def test_columns_of_an_empty_burst(pool: shmpool.Pool) -> None:
    """They have no entries; assigning nothing, or one value for all, is nothing."""
    burst = pool.alloc_many(2)[[]]
    for column in ("marks", "flow_hashes", "timestamps", "lengths"):
        setattr(burst, column, [])
        setattr(burst, column, 5)
        assert [] == getattr(burst, column).tolist()
    burst.set_column(0, [], ">u2")
    burst.set_column(0, 7, ">u2")
    assert ([], (0,)) == (burst.redelivered.tolist(), burst.column(0, ">u2").shape)
    burst.free()


def test_columns_of_times(pool: shmpool.Pool) -> None:
    """numpy's dates and durations, which have no buffer interface, can be written and read."""
    with pool.alloc_many(2) as burst:
        dates = np.array(["2014-12-10", "2026-11-26"], "M8[ns]")
        burst.set_column(8, dates)
        assert dates.tolist() == burst.column(8, "M8[ns]").tolist()


@pytest.mark.parametrize(
    "dtype",
    [
        ("u1", (2**30,)),
        {"names": ["a"], "formats": ["u1"], "offsets": [2**31 - 2]},
        {
            "names": ["a"],
            "formats": ["u1"],
            "offsets": [2**31 - 1],
        },  # numpy's minimum is negative
    ],
)
def test_a_column_wider_than_any_memory(pool: shmpool.Pool, dtype: Any) -> None:
    """It is refused before an array is allocated for it."""
    with (
        pool.alloc_many(64) as burst,
        pytest.raises(shmpool.InvalidArgument, match="outside the buffer"),
    ):
        burst.column(0, dtype)
