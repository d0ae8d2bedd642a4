# SPDX-License-Identifier: Apache-2.0
"""A Burst is divided by slices, masks and indices, and each buffer has one owner at any time."""

import re
from typing import Any

import numpy as np
import pytest

import shmpool


def marked(pool: shmpool.Pool, n: int = 10) -> shmpool.Burst:
    """A burst whose marks are 0 to n - 1."""
    burst = pool.alloc_many(n)
    burst.marks = range(n)
    return burst


MASK = np.array([True, False] * 5)
SELECTIONS = [
    slice(2, 9), slice(None), slice(None, None, -1), slice(-3, None), slice(8, 1, -3),
    slice(np.int64(1), np.uint8(6), np.int8(2)), slice(5, 5), slice(-100, 100), slice(7, 2),
    MASK, ~MASK, MASK & ~MASK, MASK.tolist(), np.ones(20, bool)[::2],
    [3], [9, 0, 4], [-1, 0], [], np.array([2, 3], "u1"), np.array([5, -10], ">i2"),
    np.arange(10)[::-3], np.array([], np.int64), np.array([1, 2], "u8"), [np.int64(4), 5],
    np.array([8, 1]).view(np.recarray), range(2, 8, 3), memoryview(bytes([6, 0])),
]  # fmt: skip


@pytest.mark.parametrize("index", SELECTIONS, ids=range(len(SELECTIONS)))
def test_the_part_is_what_numpy_selects(pool: shmpool.Pool, index: Any) -> None:
    """In the order of the index; the others stay in theirs, and both own what they have."""
    burst, array = marked(pool), np.arange(10)
    expected = array[np.asarray(index) if isinstance(index, (range, memoryview)) else index]
    part = burst[index]
    assert type(part) is shmpool.Burst
    assert expected.tolist() == part.marks.tolist()
    assert [i for i in range(10) if i not in expected] == burst.marks.tolist()
    assert (len(expected), 10 - len(expected)) == (len(part), len(burst))
    part.free()
    assert 10 - len(expected) == pool.stats().held
    del burst
    assert (True, {}) == (pool.audit().ok, pool.audit().held)


@pytest.mark.parametrize(
    ("index", "kind", "words"),
    [
        ([0, 0], ValueError, "burst index is 0, and position 0 is selected twice"),
        ([4, -1], ValueError, "burst index is -1, and position 4 is selected twice"),
        ([5], IndexError, "burst index is 5; allowed are -5 to 4"),
        (np.array([0, -6]), IndexError, "burst index is -6; allowed are -5 to 4"),
        ([2**62], IndexError, f"burst index is {2**62}; allowed are -5 to 4"),
        (np.array([2**64 - 1], "u8"), IndexError, f"burst index is {2**64 - 1}; allowed"),
        ([True] * 4, IndexError, "the mask has 4 entries; the burst has 5 buffers"),
        (np.zeros(6, bool), IndexError, "the mask has 6 entries; the burst has 5 buffers"),
        (np.True_, TypeError, "burst index is"),
        (np.float32(1), TypeError, "burst index is"),
        ([1.0], TypeError, "burst index is [1.0]; it must be an int, a slice, or a one-dim"),
        (np.zeros((1, 5), bool), TypeError, "burst index is array"),
        (np.array(["a"]), TypeError, "burst index is array"),
        ((0, 1), TypeError, "burst index is (0, 1); it must be"),
        ((), TypeError, "burst index is (); it must be"),
        ([[0], [1, 2]], TypeError, "burst index is [[0], [1, 2]]; it must be"),
        ({0: 1}, TypeError, "burst index is {0: 1}; it must be"),
        ("01", TypeError, "burst index is '01'; it must be"),
        (slice(0, 1.5), TypeError, "slice indices must be integers"),
        (slice(0, 1, 0), ValueError, "slice step cannot be zero"),
    ],
)
def test_a_wrong_index_moves_nothing(
    pool: shmpool.Pool, index: Any, kind: type[Exception], words: str
) -> None:
    """The message names the value and what is allowed."""
    burst = marked(pool, 5)
    with pytest.raises(kind, match=re.escape(words)):
        burst[index]
    assert [0, 1, 2, 3, 4] == burst.marks.tolist()
    assert (True, 5) == (pool.audit().ok, pool.stats().held)


def test_an_empty_burst(pool: shmpool.Pool) -> None:
    """It can be divided, moved and freed; it has no position."""
    queue = pool.create_queue("q", capacity=2)
    burst = marked(pool, 2)
    whole = burst[:]
    assert (0, 2, []) == (len(burst), len(whole), list(burst))
    assert "<shmpool.Burst of 0 buffers>" == repr(burst)
    for index in (0, -1, [0]):
        with pytest.raises(IndexError, match=r"burst index is -?\d; the burst is empty"):
            burst[index]
    parts = [burst[:], burst[[]], burst[np.zeros(0, bool)]]
    assert [0, 0, 0] == [len(part) for part in parts]
    parts[0].free()
    queue.put_many(parts[1], timeout=0)
    queue.put_many([], timeout=0)
    with parts[2]:
        pass
    with pytest.raises(shmpool.BufferReleased):
        len(parts[1])
    assert 0 == len(queue)


def test_elements_go_with_their_position(pool: shmpool.Pool) -> None:
    """Buffers that were handed out stay the same objects, and so do their views."""
    burst = marked(pool)
    three, six, seven = burst[3], burst[6], burst[7]
    view = three.data
    part = burst[2:7]
    assert (True, True, True) == (part[1] is three, part[4] is six, burst[2] is seven)
    view[:2] = b"ok"
    three.length = 2
    assert b"ok" == part.column(0, "S2")[1]
    burst.free()
    assert (False, True) == (six.released, seven.released)
    with pytest.raises(shmpool.BufferInUse):
        part.free()
    del view
    part.free()
    assert (True, True, {}) == (three.released, six.released, pool.audit().held)


def test_holes_stay_behind(pool: shmpool.Pool) -> None:
    """A position whose Buffer was freed or put by itself is not moved: burst[:] leaves them."""
    queue = pool.create_queue("q", capacity=8)
    burst = marked(pool, 6)
    burst[1].free()
    queue.put(burst[4])
    part = burst[:5]
    assert ([0, 2, 3], 3, 5) == (part.marks.tolist(), len(burst), burst[2].mark)
    with pytest.raises(shmpool.BufferReleased):
        _ = burst.marks
    with pytest.raises(shmpool.InvalidArgument, match="position 0 is selected twice"):
        burst[[0, 0]]
    assert ([5], 2) == (burst[:].marks.tolist(), len(burst))
    burst.free()
    part.free()
    assert ({}, 4) == (pool.audit().held, queue.get().mark)


def test_a_burst_that_is_released(pool: shmpool.Pool) -> None:
    """It cannot be divided."""
    burst = marked(pool, 2)
    burst.free()
    for index in (slice(1), [0], [True, True]):
        with pytest.raises(shmpool.BufferReleased):
            burst[index]


def test_an_index_that_changes_the_burst(pool: shmpool.Pool) -> None:
    """The burst is read after the index, whose code may do anything to the burst."""

    class Divides:
        def __init__(self, values: list[int]) -> None:
            self.values = values

        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            parts.append(burst[:3])
            return np.array(self.values)

        def __index__(self) -> int:
            parts.append(burst[:3])
            return self.values[0]

    parts: list[shmpool.Burst] = []
    burst = marked(pool, 10)
    assert [9] == burst[slice(Divides([6]), None)].marks.tolist()  # type: ignore[misc]
    burst, parts = marked(pool, 10), []
    with pytest.raises(IndexError, match="allowed are -7 to 6"):
        burst[Divides([7])]
    assert [[0, 1, 2]] == [part.marks.tolist() for part in parts]
    parts.clear()
    burst.free()


def test_a_subclass_is_divided_into_its_own(pool: shmpool.Pool) -> None:
    """The part has the type of the burst."""

    class Packets(shmpool.Burst):
        pass

    packets = Packets(pool, 0)
    packets._take([pool.alloc_many(3)])
    assert [Packets, Packets] == [type(packets[1:]), type(packets)]


def test_a_burst_is_filled_once(pool: shmpool.Pool) -> None:
    """What it has is not overwritten, and what is refused stays with its owner."""
    burst, buf = pool.alloc_many(2), pool.alloc()
    with pytest.raises(ValueError, match="filled before"):
        burst._take([buf])
    assert (2, False, 3) == (len(burst), buf.released, pool.stats().held)
