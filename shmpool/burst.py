# SPDX-License-Identifier: Apache-2.0
"""Burst: many buffers handled in one call each, their fields as numpy columns."""

import errno
import time
from collections.abc import Iterator
from operator import index
from sys import byteorder
from typing import TYPE_CHECKING, Any

from . import errors
from ._ffi import check
from .buffer import Buffer, BurstBase

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, DTypeLike, NDArray

LENGTH_MAX = 2**32 - 1
SIZE_MAX = 2**64 - 1


class Burst(BurstBase):
    """1..n buffers of one pool, in this process's hands.

    Made by Pool.alloc_many and AlfQueue.get_many; ends when it is freed, put, or dropped. burst[i]
    is a Buffer that stays part of the burst until it is itself freed or put. indices, lengths and
    columns need numpy (the extra shmpool[numpy]). Not for two threads at once.
    """

    __slots__ = ()

    def __iter__(self) -> Iterator[Buffer]:
        for i in range(len(self)):
            yield self[i]

    def nack(self, timeout: float | None = None) -> None:
        """Returns every buffer to the queue it was got from, in order: Buffer.nack() of each.

        Waits up to timeout seconds for room in all, then Full: what has gone is released, the rest
        stays in the burst. BufferInUse, before any has gone, while a view of one is alive.
        """
        self._movable("nack")
        begun, left = time.monotonic(), timeout
        for buffer in self:
            if not buffer.released:
                buffer.nack(left)
                left = timeout and max(begun + timeout - time.monotonic(), 0)
        self.free()

    @property
    def indices(self) -> "NDArray[np.uint32]":
        """The buffers' numbers in the pool, shape (n,), read-only."""
        import numpy as np

        return np.frombuffer(self._indices(), np.uint32)

    @property
    def lengths(self) -> "NDArray[np.uint32]":
        """Bytes in use, shape (n,), a copy. Assign an array of n, or one number for all."""
        import numpy as np

        lengths = np.empty(len(self), np.uint32)
        check(self._lengths(lengths), f"burst of pool {self.pool.name!r}")
        return lengths

    @lengths.setter
    def lengths(self, value: "ArrayLike | int") -> None:
        if isinstance(value, int) and 0 <= value <= LENGTH_MAX:  # quicker than an array of one
            code = self._set_lengths(value.to_bytes(4, byteorder), True)
            most = value
        else:
            lengths, one = _length_values(value, len(self), self.pool.buffer_size)
            code = self._set_lengths(lengths, one)
            most = int(lengths.max())
        check(code, f"lengths go up to {most} bytes; a buffer holds {self.pool.buffer_size}")

    def column(self, offset: int, dtype: "DTypeLike") -> "NDArray[Any]":
        """The field at offset bytes of every packet: a copy, shape (n,), or (n, *shape) if dtype is
        a sub-array.

        InvalidArgument if it lies outside the buffer; bytes past a packet's length are whatever
        was there before.
        """
        import numpy as np

        width = np.dtype(dtype).itemsize
        if not 0 <= width <= self.pool.buffer_size:  # before it takes memory
            check(-errno.ERANGE, f"column of {width} bytes at offset {offset}")
        values = np.empty(len(self), dtype)
        code = self._column(_offset(offset), width, _bytes_of(values))
        check(code, f"column of {width} bytes at offset {offset}")
        return values

    def set_column(
        self, offset: int, values: "ArrayLike", dtype: "DTypeLike | None" = None
    ) -> None:
        """Writes the field at offset bytes of every packet: an array of n, or one value for all.

        dtype says how the values lie in the packet, e.g. ">u2"; without it they are as numpy has
        them. Lengths are not changed.
        """
        array, one, width = _column_values(values, dtype, len(self))
        code = self._set_column(_offset(offset), width, _bytes_of(array), one)
        check(code, f"column of {width} bytes at offset {offset}")


def _offset(offset: int) -> int:
    """Clamps to uint64; C rejects the limit as it would the value."""
    try:
        number = index(offset)
    except TypeError:
        raise TypeError(f"offset is {offset!r}; it must be an int") from None
    if number < 0:
        raise errors.InvalidArgument(f"offset is {offset} bytes; it cannot be negative")
    return number if number < SIZE_MAX else SIZE_MAX


def _bytes_of(values: "NDArray[Any]") -> "NDArray[Any]":
    kind = values.dtype
    if kind.kind in "biufc":
        return values
    if kind.hasobject:
        raise errors.InvalidArgument(f"dtype is {kind}; Python objects cannot lie in a packet")
    # numpy takes long to describe a structure to a buffer's user, and cannot describe a time.
    return values.view("u1") if values.nbytes else values[:0].astype("u1")


def _column_values(
    value: "ArrayLike", dtype: "DTypeLike | None", n: int
) -> "tuple[NDArray[Any], bool, int]":
    """The values as a contiguous array, whether one is for all, and the bytes of each."""
    import numpy as np

    kind = None if dtype is None else np.dtype(dtype)
    inner: tuple[int, ...] = () if kind is None else kind.shape
    try:
        values = np.asarray(value, None if kind is None else kind.base, order="C")
    except (OverflowError, ValueError) as error:
        raise errors.InvalidArgument(f"values do not fit the dtype: {error}") from None
    if values.shape not in (inner, (n, *inner)):
        raise errors.InvalidArgument(
            f"values have shape {values.shape}; allowed are {inner} and {(n, *inner)}"
        )
    one = values.shape == inner
    return values.reshape(-1), one, values.nbytes // (1 if one else n)


def _length_values(value: "ArrayLike", n: int, room: int) -> "tuple[NDArray[Any], bool]":
    """The same of lengths."""
    import numpy as np

    values, one, _ = _column_values(value, None, n)
    if values.dtype != np.uint32:
        if values.dtype.kind not in "iu" and not all(isinstance(v, int) for v in values.flat):
            raise TypeError(f"lengths are {value!r:.80}; they must be ints")
        least, most = values.min(), values.max()
        if least < 0:
            raise errors.InvalidArgument(f"lengths are {least} bytes; they cannot be negative")
        if most > LENGTH_MAX:
            raise errors.PayloadTooLarge(f"lengths go up to {most} bytes; a buffer holds {room}")
        values = values.astype(np.uint32)
    return values, one
