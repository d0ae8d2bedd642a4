# SPDX-License-Identifier: Apache-2.0
"""Burst: many buffers handled in one call each, their fields as numpy columns."""

from array import array
from collections.abc import Iterator
from operator import index
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from . import errors
from ._ffi import Native, fail, ffi, lib
from .buffer import Buffer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, DTypeLike, NDArray

    from .pool import Pool

LENGTH_MAX = 2**32 - 1
SIZE_MAX = 2**64 - 1

_Spent = tuple["array[int] | None", Native | None, dict[int, Buffer], list[tuple[Buffer, int]]]


class Burst:
    """1..n buffers of one pool, in this process's hands.

    Made by Pool.alloc_many and AlfQueue.get_many; ends when it is freed, put, or dropped. burst[i]
    is a Buffer that stays part of the burst until it is itself freed or put. indices, lengths and
    columns need numpy (the extra shmpool[numpy]). Not for two threads at once.
    """

    __slots__ = ("_buffers", "_handles", "_key", "_pointer", "pool")

    def __init__(
        self, pool: "Pool", key: int, handles: "array[int]", pointer: Native | None = None
    ) -> None:
        self.pool = pool
        self._key = key
        self._handles: array[int] | None = handles
        self._pointer = ffi.from_buffer("uint64_t[]", handles) if pointer is None else pointer
        self._buffers: dict[int, Buffer] = {}

    def _live(self) -> "array[int]":
        if self._handles is None:
            raise errors.BufferReleased(f"the burst of pool {self.pool.name!r} was freed or put")
        return self._handles

    def _native(self) -> tuple[Native, int]:
        return self._pointer, len(self._live())

    def __len__(self) -> int:
        return len(self._live())

    def __repr__(self) -> str:
        if self._handles is None:
            return "<shmpool.Burst released>"
        return f"<shmpool.Burst of {len(self._handles)} buffers>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self!r} cannot be pickled: pass it by queue.put_many()")

    def __getitem__(self, i: int) -> Buffer:
        handles = self._live()
        n = len(handles)
        if not isinstance(i, int):
            raise TypeError(f"burst index is {i!r}; it must be an int")
        at = i + n if i < 0 else i
        if not 0 <= at < n:
            raise IndexError(f"burst index is {i}; allowed are {-n} to {n - 1}")
        buffer = self._buffers.get(at)
        if buffer is None:
            buffer = self.pool._adopt(handles[at])
            self._buffers[at] = buffer
        return buffer

    def __iter__(self) -> Iterator[Buffer]:
        for i in range(len(self)):
            yield self[i]

    def _take(self) -> tuple[Native, int]:
        """The handles still in the burst, which its Buffers no longer own. BufferInUse."""
        handles = self._live()
        if not self._buffers:
            return self._pointer, len(handles)
        for buffer in self._buffers.values():
            if not buffer.released and buffer._exports:
                buffer._reclaim()  # raises
        gone = {i for i, buffer in self._buffers.items() if buffer.released}
        rest = array("Q", (h for i, h in enumerate(handles) if i not in gone))
        return ffi.from_buffer("uint64_t[]", rest), len(rest)

    def _spend(self) -> "_Spent":
        """The burst and its Buffers are spent. What _restore() takes. BufferInUse."""
        spent: _Spent = self._handles, self._pointer, self._buffers, []
        self._handles = self._pointer = None
        if self._buffers:
            self._buffers = {}
            try:
                for buffer in spent[2].values():
                    if not buffer.released:
                        spent[3].append((buffer, buffer._reclaim()))
            except errors.BufferInUse:  # another thread has just taken a view
                self._restore(spent)
                raise
        return spent

    def _restore(self, spent: "_Spent") -> None:
        self._handles, self._pointer, self._buffers, lives = spent
        for buffer, life in lives:
            buffer._restore(life)

    def free(self) -> None:
        """Returns every buffer to the pool. BufferInUse while a view of one is alive."""
        code = lib.shmpool_free_many(self._key, *self._take())
        if code < 0:
            fail(code, f"burst of pool {self.pool.name!r}")
        self._spend()

    def __enter__(self) -> "Burst":
        self._live()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._handles is not None:
            self.free()

    def __del__(self) -> None:
        # What burst[i] gave out frees itself when its last reference goes.
        handles = getattr(self, "_handles", None)
        if not handles:
            return
        rest = array("Q", (h for i, h in enumerate(handles) if i not in self._buffers))
        lib.shmpool_free_many(self._key, ffi.from_buffer("uint64_t[]", rest), len(rest))

    @property
    def indices(self) -> "NDArray[np.uint32]":
        """The buffers' numbers in the pool, shape (n,), read-only."""
        import numpy as np

        indices = np.frombuffer(self._live(), np.uint32)[::2]
        indices.flags.writeable = False
        return indices

    @property
    def lengths(self) -> "NDArray[np.uint32]":
        """Bytes in use, shape (n,), a copy. Assign an array of n, or one number for all."""
        import numpy as np

        handles, n = self._native()
        lengths = np.empty(n, np.uint32)
        out = ffi.from_buffer("uint32_t[]", lengths)
        code = lib.shmpool_lengths(self._key, handles, n, out)
        if code < 0:
            fail(code, f"burst of pool {self.pool.name!r}")
        return lengths

    @lengths.setter
    def lengths(self, value: "ArrayLike | int") -> None:
        handles, n = self._native()
        if isinstance(value, int) and 0 <= value <= LENGTH_MAX:  # quicker than an array of one
            lengths: Any = [value]
            step, source = 0, ffi.new("uint32_t[1]", lengths)
        else:
            lengths, step = _length_values(value, n, self.pool.buffer_size)
            source = ffi.from_buffer("uint32_t[]", lengths)
        code = lib.shmpool_set_lengths(self._key, handles, n, source, 1 if step else 0)
        if code < 0:
            fail(
                code,
                f"lengths go up to {max(lengths)} bytes; a buffer holds {self.pool.buffer_size}",
            )
        for i, buffer in self._buffers.items():
            if not buffer.released:
                buffer.length = int(lengths[i if step else 0])

    def column(self, offset: int, dtype: "DTypeLike") -> "NDArray[Any]":
        """The field at offset bytes of every packet: a copy, shape (n,).

        InvalidArgument if it lies outside the buffer; bytes past a packet's length are whatever
        was there before.
        """
        import numpy as np

        handles, n = self._native()
        values = np.empty(n, dtype)
        code = lib.shmpool_column(
            self._key, handles, n, _offset(offset), values.itemsize, _bytes_of(values)
        )
        if code < 0:
            fail(code, f"column of {values.itemsize} bytes at offset {offset}")
        return values

    def set_column(
        self, offset: int, values: "ArrayLike", dtype: "DTypeLike | None" = None
    ) -> None:
        """Writes the field at offset bytes of every packet: an array of n, or one value for all.

        dtype says how the values lie in the packet, e.g. ">u2"; without it they are as numpy has
        them. Lengths are not changed.
        """
        handles, n = self._native()
        array_, step = _column_values(values, dtype, n)
        code = lib.shmpool_set_column(
            self._key, handles, n, _offset(offset), array_.itemsize, _bytes_of(array_), step
        )
        if code < 0:
            fail(code, f"column of {array_.itemsize} bytes at offset {offset}")


def _offset(offset: int) -> int:
    """Clamps to uint64; C rejects the limit as it would the value."""
    try:
        number = index(offset)
    except TypeError:
        raise TypeError(f"offset is {offset!r}; it must be an int") from None
    if number < 0:
        raise errors.InvalidArgument(f"offset is {offset} bytes; it cannot be negative")
    return number if number < SIZE_MAX else SIZE_MAX


def _bytes_of(values: "NDArray[np.generic]") -> Native:
    kind = values.dtype
    if kind.kind not in "biufc":  # numpy takes long to describe a structure to a buffer's user
        if kind.hasobject:
            raise errors.InvalidArgument(f"dtype is {kind}; Python objects cannot lie in a packet")
        values = values.view("u1")
    return ffi.from_buffer(values)


def _column_values(
    value: "ArrayLike", dtype: "DTypeLike | None", n: int
) -> "tuple[NDArray[np.generic], int]":
    """The values as a contiguous array, and the bytes from one to the next: 0 if one is for all."""
    import numpy as np

    try:
        values = np.asarray(value, dtype, order="C")
    except (OverflowError, ValueError) as error:
        raise errors.InvalidArgument(f"values do not fit the dtype: {error}") from None
    if values.ndim == 0:
        return values.reshape(1), 0
    if values.shape != (n,):
        raise errors.InvalidArgument(f"values have shape {values.shape}; allowed are () and ({n},)")
    return values, values.itemsize


def _length_values(value: "ArrayLike", n: int, room: int) -> "tuple[NDArray[np.generic], int]":
    """The same of lengths; the step is only true or not."""
    import numpy as np

    values, step = _column_values(value, None, n)
    if values.dtype != np.uint32:
        if values.dtype.kind not in "iu" and not all(isinstance(v, int) for v in values.flat):
            raise TypeError(f"lengths are {value!r:.80}; they must be ints")
        least, most = values.min(), values.max()
        if least < 0:
            raise errors.InvalidArgument(f"lengths are {least} bytes; they cannot be negative")
        if most > LENGTH_MAX:
            raise errors.PayloadTooLarge(f"lengths go up to {most} bytes; a buffer holds {room}")
        values = values.astype(np.uint32)
    return values, step
