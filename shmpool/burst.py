# SPDX-License-Identifier: Apache-2.0
"""Burst: many buffers, which one call moves together; their fields as numpy columns.

Not in here: the moves themselves (hot/burst.c).
"""

import errno
import time
from collections.abc import Iterator
from sys import byteorder
from typing import TYPE_CHECKING, Any

from . import errors
from ._hot import Buffer, BurstBase, timeout_seconds
from .codes import check, fail
from .options import integer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, DTypeLike, NDArray

LENGTH_MAX = 2**32 - 1
SIZE_MAX = 2**64 - 1


class Burst(BurstBase):
    """One or more buffers of one pool, owned by this process.

    Pool.alloc_many and AlfQueue.get_many return one. It is released when it is freed, put, or
    garbage-collected; any later use raises BufferReleased. burst[i] is a Buffer. It stays part of
    the burst until that Buffer is freed or put. A with block frees the burst at its end.

    indices, lengths and columns need numpy (the extra shmpool[numpy]). Any thread of the process
    may use a burst, one thread at a time; a forked child may not.

    >>> import shmpool
    >>> with shmpool.Pool.create("doc-burst", buffer_size=64, capacity=64) as pool:
    ...     with pool.alloc_many(3) as burst:
    ...         burst.set_column(0, [1, 2, 3], ">u2")
    ...         burst.lengths = 2
    ...         print(len(burst), bytes(burst[2]), burst.column(0, ">u2"))
    3 b'\\x00\\x03' [1 2 3]
    >>> shmpool.Pool.unlink("doc-burst")
    """

    __slots__ = ()

    def __iter__(self) -> Iterator[Buffer]:
        for i in range(len(self)):
            yield self[i]

    def nack(self, timeout: float | None = None) -> None:
        """Returns every buffer to the queue that it was got from, in order, as Buffer.nack() does.

        Waits up to timeout seconds in total for room; without a timeout it never waits. A buffer
        that was returned is released. If the call fails, the other buffers stay in the burst.

        Raises:
            Full: there was no room for the next one in time.
            InvalidArgument: a buffer was not got from a queue, or from one with a single producer.
            BufferInUse: a view of one of them is alive; none was returned.
            BufferReleased: the burst was freed or put before.
            PoolClosed, PoolReplaced: see Pool.
        """
        self._check_movable("nack")
        deadline = time.monotonic() + timeout_seconds(timeout)
        left = timeout
        for buffer in self:
            if not buffer.released:
                buffer.nack(left)
                left = None if timeout is None else max(deadline - time.monotonic(), 0)
        self.free()

    @property
    def indices(self) -> "NDArray[np.uint32]":
        """The buffers' numbers in the pool: shape (n,), read-only."""
        import numpy as np

        return np.frombuffer(self._indices(), np.uint32)

    @property
    def lengths(self) -> "NDArray[np.uint32]":
        """Bytes in use of every buffer: a copy, shape (n,).

        Assign an array of n integers, or one integer for all.

        Raises:
            PayloadTooLarge: a buffer has no room for so many bytes; no length was changed.
            InvalidArgument: a length is negative, or there are not n of them.
        """
        import numpy as np

        lengths = np.empty(len(self), np.uint32)
        check(self._lengths(lengths), f"burst of pool {self.pool.name!r}")
        return lengths

    @lengths.setter
    def lengths(self, value: "ArrayLike | int") -> None:
        if isinstance(value, int) and 0 <= value <= LENGTH_MAX:  # quicker than a numpy array
            code = self._set_lengths(value.to_bytes(4, byteorder), True)
        else:
            lengths, one = _length_values(value, len(self), self.pool.buffer_size)
            code = self._set_lengths(lengths, one)
        if code < 0:
            most = value if isinstance(value, int) else lengths.max()
            fail(code, f"lengths go up to {most} bytes; a buffer holds {self.pool.buffer_size}")

    def column(self, offset: int, dtype: "DTypeLike") -> "NDArray[Any]":
        """Copies a field of every packet: shape (n,), or (n, *shape) if dtype is a sub-array.

        offset is in bytes from the start of data. Bytes after a packet's length are undefined.

        Raises:
            InvalidArgument: the field lies outside the buffer.
        """
        import numpy as np

        kind = np.dtype(dtype)
        width = kind.itemsize
        if not 0 <= width <= self.pool.buffer_size:  # before numpy allocates memory
            _check_column(-errno.ERANGE, offset, width)
        values = np.empty(len(self), kind)
        code = self._column(_offset(offset), width, _bytes_of(values))
        _check_column(code, offset, width)
        return values

    def set_column(
        self, offset: int, values: "ArrayLike", dtype: "DTypeLike | None" = None
    ) -> None:
        """Writes a field of every packet: an array of n values, or one value for all.

        offset is in bytes from the start of data. dtype is the format in the packet, for example
        ">u2"; without it the values keep the format of the array. Lengths do not change.

        Raises:
            InvalidArgument: the field lies outside the buffer, there are not n values, or a value
                does not fit the dtype.
        """
        array, one, width = _column_values(values, dtype, len(self))
        code = self._set_column(_offset(offset), width, _bytes_of(array), one)
        _check_column(code, offset, width)


def _check_column(code: int, offset: int, width: int) -> None:
    """Raises the exception for a negative code of a call that copies a column."""
    if code < 0:
        fail(code, f"column of {width} bytes at offset {offset}")


def _offset(offset: int) -> int:
    """Clamps to uint64: C rejects the limit as it would the value."""
    number = integer(offset, "offset")
    if number < 0:
        raise errors.InvalidArgument(f"offset is {offset} bytes; it cannot be negative")
    return min(number, SIZE_MAX)


def _bytes_of(values: "NDArray[Any]") -> "NDArray[Any]":
    kind = values.dtype
    if kind.kind in "biufc":
        return values
    if kind.hasobject:
        raise errors.InvalidArgument(f"dtype is {kind}; a packet cannot hold Python objects")
    # As bytes: numpy is slow to export a structure's format, and cannot export that of a time.
    return values.view("u1") if values.nbytes else values[:0].astype("u1")


def _column_values(
    value: "ArrayLike", dtype: "DTypeLike | None", n: int
) -> "tuple[NDArray[Any], bool, int]":
    """Returns a contiguous array, whether its one value is for all buffers, and bytes per value."""
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
    """Returns lengths as a contiguous array, and whether its one value is for all buffers."""
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
