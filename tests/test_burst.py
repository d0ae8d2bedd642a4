# SPDX-License-Identifier: Apache-2.0
"""Burst: many buffers at once. Their columns are in test_column.py."""

import ctypes
import errno
import re
from typing import Any

import numpy as np
import pytest
from conftest import Handles

import shmpool


def handle_of(burst: shmpool.Burst, i: int) -> int:
    """A buffer's handle, without making it an element of the burst."""
    at = Handles._words(burst)[0].value
    assert at
    return ctypes.c_uint64.from_address(at + 8 * i).value


def test_a_burst_is_a_sequence_of_buffers(pool: shmpool.Pool) -> None:
    """len, index from both ends, and iteration give its Buffers, the same ones each time."""
    burst = pool.alloc_many(5)
    assert 5 == len(burst)
    assert [buf.index for buf in burst] == burst.indices.tolist()
    assert burst[0] is burst[-5]
    assert burst[4] is burst[-1]
    assert f"<shmpool.Burst of {len(burst)} buffers>" == repr(burst)
    for i in (5, -6, 2**70):
        with pytest.raises(IndexError, match=f"{i}"):
            burst[i]
    for wrong in ("0", 0.0, None):
        with pytest.raises(TypeError):
            burst[wrong]  # type: ignore[call-overload]


def test_indices_and_lengths(pool: shmpool.Pool) -> None:
    """indices cannot be written; lengths are set by an array, a list, or one number for all."""
    burst = pool.alloc_many(3)
    assert ((3,), np.uint32) == (burst.indices.shape, burst.indices.dtype)
    with pytest.raises(ValueError, match="read-only"):
        burst.indices[0] = 1
    assert [0, 0, 0] == burst.lengths.tolist()
    burst.lengths = 7
    assert [7, 7, 7] == burst.lengths.tolist()
    burst.lengths = [1, 2, 3]
    assert [1, 2, 3] == [len(buf) for buf in burst]
    burst.lengths = np.array([256, 0, 5], "u8")
    assert [256, 0, 5] == [len(buf) for buf in burst]
    burst[1].length = 9
    assert [256, 9, 5] == burst.lengths.tolist()
    assert np.uint32 == burst.lengths.dtype


def test_wrong_lengths(pool: shmpool.Pool) -> None:
    """Lengths too large, negative or of another shape raise an exception that names them."""
    burst = pool.alloc_many(3)
    burst.lengths = 5
    with pytest.raises(shmpool.PayloadTooLarge, match=r"257 .* 256"):
        burst.lengths = 257
    with pytest.raises(shmpool.PayloadTooLarge, match=r"257 .* 256"):
        burst.lengths = [1, 2, 257]
    for shape in ([1, 2], [1, 2, 3, 4], [[1, 2, 3]], []):
        with pytest.raises(shmpool.InvalidArgument, match="shape"):
            burst.lengths = shape
    for negative in (-2, [1, -2, 3], np.array([1, 2, -2]), np.int8(-2)):
        with pytest.raises(shmpool.InvalidArgument, match="lengths are -2 bytes; they cannot be"):
            burst.lengths = negative
    for huge in (2**33, 2**70, 2**32 + 5):
        for value in (huge, [1, 2, huge], np.array([1, 2, huge])):
            with pytest.raises(shmpool.PayloadTooLarge, match=f"{huge} bytes; a buffer holds 256"):
                burst.lengths = value
    wrong: list[Any] = ["x", 1.5, None, [1.0, 2.0, 3.0], ["1", "2", "3"], [1, None, 2]]
    for value in wrong:
        with pytest.raises(TypeError, match=re.escape(f"lengths are {value!r}; they must be ints")):
            burst.lengths = value
    assert [5, 5, 5] == burst.lengths.tolist()


def test_put_many_and_get_many(pool: shmpool.Pool) -> None:
    """A burst is put as a whole. The receiver gets 1 to n of the available buffers, in order."""
    queue = pool.create_queue("q", capacity=64)
    burst = pool.alloc_many(10)
    burst.lengths = 4
    burst.set_column(0, range(10), "u1")
    queue.put_many(burst)
    with pytest.raises(shmpool.BufferReleased):
        len(burst)
    assert "<shmpool.Burst released>" == repr(burst)
    first, rest = queue.get_many(4), queue.get_many(64)
    assert (4, 6) == (len(first), len(rest))
    assert list(range(10)) == [*first.column(0, "u1"), *rest.column(0, "u1")]
    assert {4} == {*first.lengths, *rest.lengths}


def test_put_many_is_all_or_nothing(pool: shmpool.Pool) -> None:
    """Full leaves the burst with the caller, and the queue unchanged."""
    queue = pool.create_queue("q", capacity=8)
    queue.put_many(pool.alloc_many(5))
    burst = pool.alloc_many(4)
    burst.set_column(0, 7, "u1")
    for timeout in (0, 0.05):
        with pytest.raises(shmpool.Full):
            queue.put_many(burst, timeout=timeout)
    assert (5, [7] * 4) == (len(queue), burst.column(0, "u1").tolist())
    queue.get().free()
    queue.put_many(burst, timeout=0)
    assert 8 == len(queue)
    large = pool.alloc_many(9)
    for forever in (None, 0, 60):
        with pytest.raises(
            shmpool.Full, match=r"burst has 9 buffers; queue 'q' never holds more than 8"
        ):
            queue.put_many(large, timeout=forever)
    large.free()
    assert (True, {}) == (pool.audit().ok, pool.audit().held)


def test_a_released_burst_refuses_everything(pool: shmpool.Pool) -> None:
    """Every use after free, put or the end of its block is BufferReleased."""
    queue = pool.create_queue("q", capacity=8)
    freed, put, left = pool.alloc_many(2), pool.alloc_many(2), pool.alloc_many(2)
    freed.free()
    queue.put_many(put)
    with left:
        left[1].write(b"x")
    for burst in (freed, put, left):
        for call in (
            burst.free,
            lambda b=burst: len(b),
            lambda b=burst: b[0],
            lambda b=burst: list(b),
            lambda b=burst: b.lengths,
            lambda b=burst: b.indices,
            lambda b=burst: b.column(0, "u1"),
            lambda b=burst: b.set_column(0, 1, "u1"),
            lambda b=burst: queue.put_many(b),
            burst.__enter__,
        ):
            with pytest.raises(shmpool.BufferReleased):
                call()
    assert (True, 2, {}) == (pool.audit().ok, len(queue), pool.audit().held)


def test_a_dropped_burst_is_freed(pool: shmpool.Pool) -> None:
    """Dropping a burst frees its buffers, except Buffers that are still referenced."""
    burst = pool.alloc_many(5)
    kept = burst[2]
    kept.write(b"kept")
    del burst
    assert (True, 1) == (pool.audit().ok, pool.stats().held)
    assert b"kept" == bytes(kept)
    kept.free()
    assert {} == pool.audit().held


def test_a_view_of_one_keeps_the_burst(pool: shmpool.Pool) -> None:
    """free and put_many are BufferError while a view of one of its buffers is alive."""
    queue = pool.create_queue("q", capacity=8)
    burst = pool.alloc_many(3)
    burst.lengths = 8
    view = np.frombuffer(burst[1].view, "u1")
    for call in (burst.free, lambda: queue.put_many(burst)):
        with pytest.raises(BufferError):
            call()
    assert (3, 3, 0) == (len(burst), pool.stats().held, len(queue))
    del view
    queue.put_many(burst)
    assert 3 == len(queue)


def test_one_buffer_leaves_the_burst(pool: shmpool.Pool) -> None:
    """A Buffer of the burst that was freed or put is left out of free and put_many."""
    queue = pool.create_queue("q", capacity=8)
    burst = pool.alloc_many(4)
    burst.lengths = 1
    burst.set_column(0, [0, 1, 2, 3], "u1")
    queue.put(burst[2])
    burst[0].free()
    queue.put_many(burst)
    assert [b"\2", b"\1", b"\3"] == queue.recv_many(8)
    assert (True, {}) == (pool.audit().ok, pool.audit().held)
    burst = pool.alloc_many(2)
    burst[0].free()
    burst[1].free()
    burst.free()
    assert (True, {}) == (pool.audit().ok, pool.audit().held)


def test_a_duplicated_handle_is_refused(cached_pool: shmpool.Pool) -> None:
    """Handles that name a buffer twice can be neither freed nor put. No buffer is moved."""
    pool = cached_pool
    queue = pool.create_queue("q", capacity=8)
    burst, calls = pool.alloc_many(3), Handles(pool, queue)
    good = calls.of(burst)
    for call in (calls.free, calls.put):
        assert call([good[0], good[1], good[0]]) in (-errno.ESTALE, -errno.EPERM)
        assert (True, [3], 0) == (pool.audit().ok, list(pool.audit().held.values()), len(queue))
    burst.free()
    assert (True, {}) == (pool.audit().ok, pool.audit().held)


@pytest.mark.parametrize("bad", [0, 39])
def test_a_bad_handle_meets_a_full_cache(cached_pool: shmpool.Pool, bad: int) -> None:
    """If a bulk is refused, making room in a full cache frees none of it."""
    pool = cached_pool
    first, burst = pool.alloc_many(64), pool.alloc_many(40)
    first.free()
    pool.alloc_many(pool.stats().cached).free()
    assert 64 == pool.stats().cached
    stale = Handles.of(burst)
    stale[bad] += 1 << 32
    assert -errno.ESTALE == Handles(pool).free(stale)
    assert (True, [40]) == (pool.audit().ok, list(pool.audit().held.values()))
    burst.free()
    audit = pool.audit()
    assert (True, {}, 256) == (audit.ok, audit.held, audit.free + audit.cached)
    assert pool.stats().counters["flush"] > 0


@pytest.mark.parametrize("handle", [2**64 - 1, 2**32 - 1, 256, 255, 255 | 5 << 32])
def test_a_made_up_handle_is_refused(cached_pool: shmpool.Pool, handle: int) -> None:
    """Handles that were never issued reach no buffer."""
    pool = cached_pool
    queue = pool.create_queue("q", capacity=8)
    burst, calls = pool.alloc_many(3), Handles(pool, queue)
    for call in (calls.free, calls.put, calls.read, calls.write, calls.lengths, calls.set_lengths):
        assert call([calls.of(burst)[0], handle]) < 0
    burst.free()
    assert (True, {}, 0) == (pool.audit().ok, pool.audit().held, len(queue))


def test_a_stale_handle_is_refused(cached_pool: shmpool.Pool) -> None:
    """Handles kept from a freed burst do not free, put, read or write the next one."""
    pool = cached_pool
    calls = Handles(pool, pool.create_queue("q", capacity=8))
    stale = pool.alloc_many(3)
    handles = calls.of(stale)
    stale.free()
    new = pool.alloc_many(3)
    assert sorted(h & 0xFFFFFFFF for h in handles) == sorted(new.indices.tolist())
    new.set_column(0, 5, "u1")
    for call in (calls.free, calls.put, calls.read, calls.write, calls.lengths, calls.set_lengths):
        assert -errno.ESTALE == call(handles)
    assert [5, 5, 5] == new.column(0, "u1").tolist()
    new.free()
    assert (True, {}) == (pool.audit().ok, pool.audit().held)


def test_numpy_integers_are_integers(pool: shmpool.Pool) -> None:
    """Every argument that takes an int takes a numpy integer."""
    queue = pool.create_queue("q", capacity=np.int64(8), max_redeliveries=np.uint8(0))
    burst = pool.alloc_many(np.uint16(5), timeout=np.int32(1))
    burst.set_column(np.int64(12), np.arange(5), ">u2")
    chosen = [burst[i] for i in np.flatnonzero(burst.column(np.uint8(12), ">u2") > 2)]
    assert [burst[3], burst[4]] == chosen
    assert burst[np.int8(-1)] is burst[4]
    with pytest.raises(IndexError, match="5"):
        burst[np.int64(5)]
    burst.lengths = np.uint32(7)
    buf = burst[0]
    buf.length = np.int64(3)
    buf.mark = buf.flow_hash = buf.timestamp = np.uint32(2**32 - 1)
    assert (3, 2**32 - 1, 2**32 - 1) == (len(buf), buf.mark, buf.timestamp)
    buf.headroom = np.int16(1)
    assert 1 == buf.headroom
    for below in (np.int64(-1), np.int8(-128)):
        for field in ("length", "mark", "headroom"):
            with pytest.raises(shmpool.InvalidArgument, match=str(int(below))):
                setattr(buf, field, below)
    queue.put_many(burst, timeout=np.int64(1))
    assert 2 == len(queue.get_many(np.int64(2)))
    assert 3 == len(queue.recv_many(np.int64(9), timeout=np.uint8(0)))
    assert 0 == pool.trim(keep=np.int64(64))


def test_with_keeps_the_exception_in_flight(pool: shmpool.Pool) -> None:
    """A view that is alive when an exception leaves the block does not hide the exception.

    Buffers with views are freed with the last of these, the other buffers at once.
    """
    burst = pool.alloc_many(3)
    view, element = np.frombuffer(burst[1].data, "u1"), burst[1]
    assert burst[2].length == 0  # an element without a view
    with pytest.raises(ZeroDivisionError), burst:
        _ = 1 / 0
    assert (True, 1) == (element.released, sum(pool.audit().held.values()))
    with pytest.raises(shmpool.BufferReleased):
        len(burst)
    view[0] = 7
    del view
    assert (True, {}) == (pool.audit().ok, pool.audit().held)
    burst = pool.alloc_many(2)
    view = np.frombuffer(burst[0].data, "u1")
    with pytest.raises(BufferError):
        burst.__exit__(None, None, None)
    del view
    burst.free()
    assert {} == pool.audit().held


def test_a_buffer_freed_behind_the_bursts_back(pool: shmpool.Pool) -> None:
    """It is no element any more, and does not keep the others from being freed with the burst."""
    for end in (lambda burst: burst.__exit__(KeyError, None, None), lambda burst: None):
        burst = pool.alloc_many(3)
        Handles(pool).free([handle_of(burst, 1)])
        with pytest.raises(shmpool.BufferReleased, match=f"buffer {burst.indices[1]} of pool"):
            burst[1]
        assert 2 == pool.stats().held
        end(burst)
        del burst
        assert (True, 0) == (pool.audit().ok, pool.stats().held)


def test_a_block_whose_burst_has_gone(pool: shmpool.Pool) -> None:
    """A burst that was put or freed inside its block is left alone at the end of the block."""
    queue = pool.create_queue("q", capacity=8)
    with pool.alloc_many(3) as burst:
        queue.put_many(burst)
    with pool.alloc_many(2) as burst:
        burst.free()
    assert (3, {}) == (len(queue), pool.audit().held)


def test_elements_of_a_closed_pool(pool: shmpool.Pool) -> None:
    """They cannot be had."""
    burst = pool.alloc_many(3)
    pool.close()
    with pytest.raises(shmpool.PoolClosed):
        burst[0]
