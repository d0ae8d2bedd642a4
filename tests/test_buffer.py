# SPDX-License-Identifier: Apache-2.0
"""Buffer: writing, reading, its header, and its release."""

import gc
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import Handles, MakePool

import shmpool


def test_a_new_buffer_is_empty(pool: shmpool.Pool) -> None:
    """Length, marks and time are zero, whatever the last owner left."""
    with pool.alloc() as old:
        old.write(b"x" * 256)
        old.mark, old.flow_hash, old.timestamp, old.headroom = 1, 2, 3, 0
    for _ in range(pool.capacity):  # the same buffer is allocated again
        with pool.alloc() as buf:
            assert (0, 0, b"", 0, 0, 0, 0, 0, 0) == (
                len(buf),
                buf.length,
                bytes(buf),
                buf.mark,
                buf.flow_hash,
                buf.timestamp,
                buf.headroom,
                buf.queue_number,
                buf.redelivered,
            )
            buf.mark = 9


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, np.frombuffer])
def test_write_copies_any_bytes(pool: shmpool.Pool, kind: Callable[[bytes], object]) -> None:
    """write takes any bytes-like object, sets length, and returns it."""
    with pool.alloc() as buf:
        payload = b"payload" if kind is not np.frombuffer else b"payload!"
        assert len(payload) == buf.write(kind(payload))  # type: ignore[arg-type]
        assert (payload, len(payload)) == (bytes(buf), len(buf))
        assert 0 == buf.write(b"")
        assert b"" == bytes(buf)


def test_data_then_length(pool: shmpool.Pool) -> None:
    """data is the whole data room, writable; view has the buffer's length."""
    with pool.alloc() as buf:
        buf.data[:5] = b"hello"
        assert (256, 0) == (len(buf.data), len(buf.view))
        buf.length = 5
        assert (b"hello", b"hello") == (bytes(buf.view), bytes(buf))
        buf.view[0] = ord("j")
        assert b"jello" == bytes(memoryview(buf))
        assert not buf.view.readonly


def test_a_payload_fills_the_buffer_to_the_last_byte(pool: shmpool.Pool) -> None:
    """buffer_size bytes fit. One more is PayloadTooLarge, which names both numbers."""
    with pool.alloc() as buf:
        assert 256 == buf.write(bytes(range(256)))
        assert bytes(range(256)) == bytes(buf)
        with pytest.raises(shmpool.PayloadTooLarge, match=r"257 .* 256"):
            buf.write(bytes(257))
        with pytest.raises(shmpool.PayloadTooLarge, match=r"257 .* 256"):
            buf.length = 257
        assert bytes(range(256)) == bytes(buf)


def test_neighbours_do_not_overlap(pool: shmpool.Pool) -> None:
    """Each buffer has bytes of its own."""
    held = [pool.alloc() for _ in range(64)]
    for buf in held:
        buf.write(bytes([buf.index]) * 256)
    assert all(bytes([buf.index]) * 256 == bytes(buf) for buf in held)


def test_the_data_room_is_aligned(pool: shmpool.Pool) -> None:
    """Data begins at a multiple of 64 bytes."""
    held = [pool.alloc() for _ in range(8)]
    addresses = [np.frombuffer(buf.data, "u1").__array_interface__["data"][0] for buf in held]
    assert {0} == {address % 64 for address in addresses}


@pytest.mark.parametrize(
    ("field", "most"), [("mark", 2**32 - 1), ("flow_hash", 2**32 - 1), ("timestamp", 2**63 - 1)]
)
def test_user_fields(pool: shmpool.Pool, field: str, most: int) -> None:
    """The user's fields travel with the buffer; a value out of range is named."""
    queue = pool.create_queue("q", capacity=2)
    buf = pool.alloc()
    for value in (0, 1, most):
        setattr(buf, field, value)
        queue.put(buf)
        buf = queue.get()
        assert value == getattr(buf, field)
    for value in (-1, most + 1, 2**70):
        with pytest.raises(shmpool.InvalidArgument, match=f"{field} is {value}; allowed .* {most}"):
            setattr(buf, field, value)
    with pytest.raises(TypeError):
        setattr(buf, field, "x")
    assert most == getattr(buf, field)


@pytest.mark.parametrize("length", [-1, -(2**62)])
def test_a_negative_length_is_named(pool: shmpool.Pool, length: int) -> None:
    """A negative length is InvalidArgument, like every value that is not allowed."""
    with pool.alloc() as buf:
        with pytest.raises(shmpool.InvalidArgument, match=str(length)):
            buf.length = length
        with pytest.raises(TypeError):
            buf.length = "x"  # type: ignore[assignment]


def test_headroom_moves_the_data(make_pool: MakePool) -> None:
    """Data begins after the headroom. A smaller headroom uncovers the bytes before."""
    pool = make_pool(headroom=64)
    queue = pool.create_queue("q", capacity=2)
    buf = pool.alloc()
    assert (64, 192) == (buf.headroom, len(buf.data))
    buf.write(b"payload")
    buf.headroom -= 8
    buf.length = 15
    buf.data[:8] = b"ETHERNET"
    queue.put(buf)
    buf = queue.get()
    assert (56, b"ETHERNETpayload") == (buf.headroom, bytes(buf))
    queue.put(buf)
    assert b"ETHERNETpayload" == queue.recv()
    buf = pool.alloc()
    with pytest.raises(shmpool.PayloadTooLarge, match=r"193 .* 192"):
        buf.write(bytes(193))
    buf.write(bytes(192))


def test_headroom_stays_inside(make_pool: MakePool) -> None:
    """Headroom and length together never pass the end of the buffer."""
    pool = make_pool(headroom=64)
    with pool.alloc() as buf:
        buf.write(bytes(100))
        buf.headroom = 156
        with pytest.raises(shmpool.InvalidArgument, match="157"):
            buf.headroom = 157
        with pytest.raises(shmpool.InvalidArgument, match="-1"):
            buf.headroom = -1
        with pytest.raises(shmpool.PayloadTooLarge, match=r"101 .* 100"):
            buf.length = 101
        assert (156, 100) == (buf.headroom, len(buf.data))


def test_headroom_does_not_move_under_a_view(make_pool: MakePool) -> None:
    """Setting the headroom is BufferError while a view is alive."""
    with make_pool(headroom=64).alloc() as buf:
        view = buf.data
        with pytest.raises(BufferError):
            buf.headroom = 0
        del view
        buf.headroom = 0


def test_numpy_shares_the_bytes(pool: shmpool.Pool) -> None:
    """numpy.frombuffer on the view and on the buffer shares the memory, without a copy."""
    with pool.alloc() as buf:
        buf.write(struct.pack(">4H", 1, 2, 3, 4))
        assert [1, 2, 3, 4] == np.frombuffer(buf.view, ">u2").tolist()
        window = np.frombuffer(buf, ">u2")
        window[0] = 513
        assert b"\x02\x01" == bytes(buf)[:2]
        del window


EXPORTS: list[Callable[[shmpool.Buffer], object]] = [
    lambda buf: buf.data,
    lambda buf: buf.view,
    memoryview,
    lambda buf: memoryview(buf)[2:4],
    lambda buf: buf.data[100:].cast("H"),
    lambda buf: np.frombuffer(buf.view, "u1"),
    lambda buf: np.frombuffer(buf, "u1")[1:],  # type: ignore[call-overload]
]


@pytest.mark.parametrize("export", EXPORTS)
def test_an_exported_view_keeps_its_buffer(
    pool: shmpool.Pool, export: Callable[[shmpool.Buffer], object]
) -> None:
    """free, put and close are BufferError while a view is alive, and work afterwards."""
    queue = pool.create_queue("q", capacity=2)
    buf = pool.alloc()
    buf.write(b"01234567")
    view = export(buf)
    for call in (buf.free, lambda: queue.put(buf), lambda: queue.put_nowait(buf), pool.close):
        with pytest.raises(BufferError):
            call()
    with pytest.raises(BufferError):
        buf.__exit__(None, None, None)
    assert (b"01234567", 0) == (bytes(buf), len(queue))
    del view
    queue.put(buf)
    view = export(again := queue.get())
    del view
    again.free()


def test_a_view_outlives_the_name_of_its_buffer(pool: shmpool.Pool) -> None:
    """A dropped buffer is freed when its last view is released, not before."""
    buf = pool.alloc()
    buf.write(b"kept")
    view = buf.view
    del buf
    assert (b"kept", 1) == (bytes(view), sum(pool.audit().held.values()))
    del view
    assert {} == pool.audit().held


def released_buffers(pool: shmpool.Pool) -> list[shmpool.Buffer]:
    """Buffers that were released in each possible way."""
    freed, left, put = pool.alloc(), pool.alloc(), pool.alloc()
    freed.free()
    with left:
        pass
    pool.create_queue("q", capacity=2).put(put)
    burst = pool.alloc_many(2)
    member = burst[0]
    burst.free()
    return [freed, left, put, member]


@pytest.mark.parametrize("which", range(4))
def test_a_released_buffer_refuses_everything(pool: shmpool.Pool, which: int) -> None:
    """Every use after the release is BufferReleased. The pool does not change."""
    buf = released_buffers(pool)[which]
    before = pool.audit()
    assert buf.released
    assert "<shmpool.Buffer released>" == repr(buf)

    def put() -> None:
        pool.queue("q").put(buf)

    for call in (
        buf.free,
        lambda: buf.write(b"x"),
        lambda: bytes(buf),
        lambda: len(buf),
        lambda: buf.data,
        lambda: buf.view,
        lambda: memoryview(buf),
        lambda: buf.length,
        lambda: setattr(buf, "length", 1),
        lambda: buf.mark,
        lambda: setattr(buf, "mark", 1),
        lambda: buf.headroom,
        lambda: buf.index,
        buf.__enter__,
        put,
    ):
        with pytest.raises(shmpool.BufferReleased):
            call()
    with pytest.raises((BufferError, shmpool.BufferReleased)):
        np.frombuffer(buf, "u1")  # type: ignore[call-overload]
    assert before == pool.audit()


def test_a_released_buffer_is_named(pool: shmpool.Pool) -> None:
    """BufferReleased names the buffer and its pool."""
    queue = pool.create_queue("q", capacity=2)
    put, freed = pool.alloc(), pool.alloc()
    which = [put.index, freed.index]
    queue.put(put)
    freed.free()
    for index, buf in zip(which, (put, freed), strict=True):
        for call in (buf.free, lambda b=buf: queue.put(b), lambda b=buf: b.mark):
            with pytest.raises(
                shmpool.BufferReleased,
                match=f": buffer {index} of pool '{pool.name}': this Buffer was already freed, "
                "or put into a queue; it can no longer be used here$",
            ):
                call()


def test_a_buffer_freed_behind_its_back_is_named(pool: shmpool.Pool) -> None:
    """A buffer that the C core finds to be no longer ours is named too, also by put."""
    queue = pool.create_queue("q", capacity=2)
    buf = pool.alloc()
    Handles(pool).free([buf.generation << 32 | buf.index])
    for call in (
        buf.free,
        lambda: queue.put(buf),
        lambda: buf.mark,
        lambda: setattr(buf, "mark", 1),
        lambda: setattr(buf, "headroom", 1),
        lambda: setattr(buf, "length", 1),
        lambda: buf.write(b"x"),
    ):
        with pytest.raises(
            shmpool.BufferReleased, match=f": buffer {buf.index} of pool '{pool.name}': "
        ):
            call()


def test_a_length_of_another_type(pool: shmpool.Pool) -> None:
    """Whatever its size or type, the exception shows the value and what is allowed."""
    buf = pool.alloc()
    buf.length = 7
    with pytest.raises(
        shmpool.PayloadTooLarge, match=f"^length is {2**70} bytes; .* room for 256$"
    ):
        buf.length = 2**70
    with pytest.raises(shmpool.InvalidArgument, match=f"length is {-(2**70)} bytes; it cannot"):
        buf.length = -(2**70)
    setter: Any = buf
    for field in ("length", "mark", "headroom", "flow_hash", "timestamp"):
        for value in ("x", 1.5, None):
            with pytest.raises(TypeError, match=f"^{field} is {value!r}; it must be an int$"):
                setattr(setter, field, value)
        with pytest.raises(AttributeError, match=f"^{field} cannot be deleted$"):
            delattr(setter, field)
    assert 7 == len(buf)


def test_with_allows_the_buffer_to_be_handed_on(pool: shmpool.Pool) -> None:
    """The end of the block frees the buffer unless it was put or freed inside."""
    queue = pool.create_queue("q", capacity=2)
    with pool.alloc() as buf:
        buf.write(b"on its way")
        queue.put(buf)
    with pool.alloc() as buf:
        buf.free()
    assert b"on its way" == queue.recv()
    with pytest.raises(ZeroDivisionError), pool.alloc() as buf:
        _ = 1 / 0
    assert buf.released
    assert {} == pool.audit().held


def test_a_dropped_buffer_is_freed(pool: shmpool.Pool) -> None:
    """The end of the last reference frees it, also in a reference cycle."""
    buf = pool.alloc()
    assert 1 == pool.stats().held
    del buf
    cycle: list[object] = [pool.alloc()]
    cycle.append(cycle)
    del cycle
    gc.collect()
    assert (True, {}) == (pool.audit().ok, pool.audit().held)


def test_generation_changes_with_every_free(pool: shmpool.Pool) -> None:
    """A buffer that is allocated again has another generation than before its free."""
    seen = set()
    for _ in range(3 * pool.capacity):
        with pool.alloc() as buf:
            assert (buf.index, buf.generation) not in seen
            seen.add((buf.index, buf.generation))


def test_it_knows_its_pool_and_has_no_constructor(pool: shmpool.Pool) -> None:
    """Only a pool creates buffers."""
    with pool.alloc() as buf:
        assert pool is buf.pool
        assert f"<shmpool.Buffer {buf.index}, 0 of 256 bytes>" == repr(buf)
    with pytest.raises(TypeError):
        shmpool.Buffer()


def test_queue_number_says_where_it_came_from(pool: shmpool.Pool) -> None:
    """It is 0 for a new buffer and the queue's number after a get."""
    queue = pool.create_queue("q", capacity=2)
    buf = pool.alloc()
    assert 0 == buf.queue_number
    queue.put(buf)
    assert queue.number == queue.get().queue_number


@pytest.mark.parametrize("export", EXPORTS)
def test_with_keeps_the_exception_in_flight(
    pool: shmpool.Pool, export: Callable[[shmpool.Buffer], object]
) -> None:
    """A view that is alive when an exception leaves the block does not hide the exception.

    The buffer is released, and freed with its last view.
    """
    buf = pool.alloc()
    buf.write(b"01234567")
    views = [export(buf), buf.data]
    with pytest.raises(ZeroDivisionError), buf:
        _ = 1 / 0
    assert (True, 1) == (buf.released, sum(pool.audit().held.values()))
    for call in (buf.free, lambda: buf.write(b"x"), lambda: buf.view):
        with pytest.raises(shmpool.BufferReleased):
            call()
    with pytest.raises(BufferError):
        pool.close()
    views.pop()
    assert 1 == sum(pool.audit().held.values())
    views.pop()
    assert (True, {}) == (pool.audit().ok, pool.audit().held)


def test_with_a_pool_keeps_the_exception_in_flight(pool: shmpool.Pool) -> None:
    """The pool's own block keeps the exception too, and the pool stays open for the view."""
    view = pool.alloc().data
    with pytest.raises(ZeroDivisionError), pool:
        _ = 1 / 0
    view[0] = 1
    del view
    pool.close()


def test_what_runs_in_between(pool: shmpool.Pool) -> None:
    """An argument may free the buffer while it is converted to a number or to bytes. No freed
    memory is accessed."""

    class Frees:
        def __init__(self, buf: shmpool.Buffer) -> None:
            self.buf = buf

        def __index__(self) -> int:
            self.buf.free()
            return 5

    for field in ("length", "mark", "headroom"):
        buf: Any = pool.alloc()
        with pytest.raises(shmpool.BufferReleased):
            setattr(buf, field, Frees(buf))
    burst = pool.alloc_many(2)
    with pytest.raises(shmpool.BufferReleased):
        burst[Frees(burst)]  # type: ignore[arg-type]
    queue = pool.create_queue("q", capacity=2)
    queue.send_many([b"x"] * 2)
    buf = pool.alloc()
    with pytest.raises(shmpool.BufferReleased):
        queue.put(buf, Frees(buf))
    assert (True, {}) == (pool.audit().ok, pool.audit().held)
