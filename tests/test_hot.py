# SPDX-License-Identifier: Apache-2.0
"""The C types by themselves: objects that nobody opened, and arguments that our own Python never
gives, are exceptions. A subclass, or a mistake in a later version, must not crash the process."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import shmpool
from shmpool import _hot

SURROGATE = "\ud800"  # has no UTF-8


def test_what_nobody_opened(pool: shmpool.Pool) -> None:
    """Neither alloc nor a queue's calls find a pool; what ends an object may be called."""
    buf, burst = pool.alloc(), pool.alloc_many(2)
    opened, queue = _hot.PoolBase.__new__(_hot.PoolBase), _hot.QueueBase.__new__(_hot.QueueBase)
    calls: tuple[Callable[[], object], ...] = (
        opened.alloc,
        opened.__enter__,
        lambda: _hot.BurstBase(opened, 3)._alloc(None, None),
        queue.get,
        queue.try_get,
        queue.recv,
        queue.try_recv,
        queue.empty,
        lambda: len(queue),
        lambda: queue.send(b"x"),
        lambda: queue.send_many([b"x"]),
        lambda: queue.recv_many(1),
        lambda: queue.put(buf),
    )
    for call in calls:
        with pytest.raises(AttributeError, match=r"has no attribute '(_fail|name)'"):  # Pool has it
            call()
    assert queue._move(1, 0) < 0  # type: ignore[operator]
    for other in (_hot.BurstBase(opened, 3), _hot.BurstBase(pool, 3)):
        with pytest.raises(TypeError, match="is not a queue of the burst's pool"):
            other._get(queue, 0)
    with pytest.raises(TypeError, match="is not a queue of the burst's pool"):
        burst._put(queue, None)
    with pytest.raises(shmpool.BufferReleased):
        len(_hot.BurstBase(pool, 3))
    opened._leave()
    for given in ((), (None, None, None), (KeyError, None, None)):
        opened.__exit__(*given)
    opened.close()
    assert opened._segment is None
    assert (True, 3) == (pool.audit().ok, pool.stats().held)


def test_a_segment_has_one_file(pool: shmpool.Pool) -> None:
    """It takes no second file or mapping, and needs a file for one; names must have UTF-8."""
    segment = _hot.SegmentBase.__new__(_hot.SegmentBase)
    assert (0, True) == (segment.address, segment._enter() < 0)
    other = pool._segment
    assert other is not None
    assert other._enter() < 0
    calls: tuple[tuple[Callable[[], object], type[Exception], str], ...] = (
        (lambda: segment._map(4096, False), OSError, "Bad file descriptor"),
        (lambda: segment._open("/nonexistent/x", 0), FileNotFoundError, "/nonexistent/x"),
        (lambda: segment._create("/nonexistent/x"), FileNotFoundError, "/nonexistent/x"),
        (lambda: segment._create(SURROGATE), UnicodeEncodeError, "surrogates"),
        (lambda: segment._unlink_at_the_end(SURROGATE), UnicodeEncodeError, "surrogates"),
        (lambda: segment._anonymous("x"), TypeError, "integer"),  # type: ignore[arg-type]
        (lambda: segment._take(1), ValueError, "no file to take"),  # type: ignore[arg-type]
        (lambda: other._open("/dev/null", 0), ValueError, "it has a file"),
        (lambda: other._anonymous(None), ValueError, "it has a file"),
        (lambda: other._create("/tmp/x"), ValueError, "it has a file"),
        (lambda: other._map(4096, False), ValueError, "it is mapped"),
        (lambda: other._take(segment), ValueError, "no file to take"),
        (lambda: pool._hot_open(other, "x", False), TypeError, "takes a segment, not"),
    )
    for call, kind, words in calls:
        with pytest.raises(kind, match=words):
            call()
    for _ in range(2):
        segment.close()


def test_a_segment_has_one_name(tmp_path: Path) -> None:
    """A new file has its temporary name until it gets another one, once; a refusal keeps it."""
    segment = _hot.SegmentBase.__new__(_hot.SegmentBase)
    given: tuple[tuple[object, type[Exception], str], ...] = (
        (("x", False), ValueError, "takes .path, replace., once"),
        ("x", ValueError, "takes .path, replace., once"),
        ((1, False), TypeError, "str"),
        (("x",), TypeError, "exactly 2 arguments"),
        ((SURROGATE, False), UnicodeEncodeError, "surrogates"),
        (("x" * 5000, False), OSError, "name too long"),
        ((str(tmp_path / "missing" / "x"), True), FileNotFoundError, "missing"),
        ((str(tmp_path / "taken"), False), FileExistsError, "taken"),
    )
    (tmp_path / "taken").touch()
    for value, kind, words in given[:2]:
        with pytest.raises(kind, match=words):
            segment._file_name = value  # type: ignore[assignment]
        if segment.fd < 0:
            assert 0 == segment._create(str(tmp_path / "temporary"))
    for value, kind, words in given[2:]:
        with pytest.raises(kind, match=words):
            segment._file_name = value  # type: ignore[assignment]
    with pytest.raises(ValueError, match="once"):
        del segment._file_name
    assert {"taken", "temporary"} == set(os.listdir(tmp_path))
    segment._file_name = str(tmp_path / "taken"), True
    assert ["taken"] == os.listdir(tmp_path)
    assert (tmp_path / "taken").samefile(f"/proc/self/fd/{segment.fd}")
    with pytest.raises(ValueError, match="once"):
        segment._file_name = str(tmp_path / "other"), False
    segment.close()
    assert ["taken"] == os.listdir(tmp_path)


def test_a_burst_is_filled_once(pool: shmpool.Pool) -> None:
    """Its arrays have the bytes that it needs; every refusal leaves its buffers where they are."""
    queue = pool.create_queue("q", capacity=8)
    burst = pool.alloc_many(2)
    calls: tuple[tuple[Callable[[], object], type[Exception], str], ...] = (
        (lambda: burst._alloc(None, None), ValueError, "was filled before"),
        (lambda: burst._get(queue, None), ValueError, "was filled before"),
        (lambda: burst._lengths(b"12345678"), BufferError, "not writable"),  # type: ignore[arg-type]
        (lambda: burst._lengths(bytearray(3)), ValueError, "array has 3 bytes"),  # type: ignore[arg-type]
        (lambda: burst._set_lengths(b"abc", False), ValueError, "array has 3 bytes"),
        (lambda: burst._column(0, 4, bytearray(3)), ValueError, "array has 3 bytes"),  # type: ignore[arg-type]
        (lambda: burst._set_column(0, 4, b"x", False), ValueError, "array has 1 bytes"),  # type: ignore[arg-type]
        (lambda: burst._check_movable(SURROGATE), UnicodeEncodeError, "surrogates"),
    )
    for call, kind, words in calls:
        with pytest.raises(kind, match=words):
            call()
    burst.free()
    assert (True, {}) == (pool.audit().ok, pool.audit().held)


def test_arguments_of_another_number_or_type(pool: shmpool.Pool) -> None:
    """TypeError, from every call that reads its arguments."""
    queue, buf, burst = pool.create_queue("q", capacity=8), pool.alloc(), pool.alloc_many(2)
    fresh, kinds = _hot.PoolBase.__new__(_hot.PoolBase), _hot.SegmentBase.__new__(_hot.SegmentBase)
    for call, arguments in (
        (pool.alloc, (1, 2, 3)),
        (queue.get, (1, 2, 3)),
        (queue.recv, (1, 2, 3)),
        (queue.send, ()),
        (queue.put, ()),
        (queue.put, (1,)),
        (queue.send_many, ()),
        (queue.send_many, (1,)),
        (queue.recv_many, ()),
        (queue.recv_many, ("x",)),
        (queue._move, ("x",)),
        (queue._hot_open, (1,)),
        (buf.nack, (1, 2, 3)),
        (burst._put, (1,)),
        (burst._get, (1,)),
        (burst._alloc, ("x",)),
        (burst._set_lengths, (1,)),
        (burst._column, (1,)),
        (burst._set_column, (1,)),
        (burst._check_movable, (1,)),
        (_hot.BurstBase, (1, 2)),
        (fresh._hot_open, (1,)),
        (fresh._hot_open, (1, "x", False)),
        (kinds._map, ("x",)),
        (kinds._open, (1,)),
    ):
        with pytest.raises(TypeError):
            call(*arguments)  # type: ignore[operator]
    assert (True, 3, 0) == (pool.audit().ok, pool.stats().held, len(queue))
