# SPDX-License-Identifier: Apache-2.0
"""Burst: many buffers, which one call moves together; their fields as numpy columns.

Not in here: the moves themselves (hot/moves.c, divide.c, spread.c), arrays for C (columns.py), and
the headers of packets (packets.py).
"""

from __future__ import annotations

import errno
import time
from collections.abc import Iterable, Iterator
from sys import byteorder

from . import errors
from ._ffi import lib
from ._hot import Buffer, timeout_seconds
from .codes import check, fail
from .columns import (
    INT64_MAX,
    UINT32_MAX,
    boolean_mask,
    bytes_of,
    column_values,
    int_values,
    keys_of,
    length_values,
    offset_of,
    refuse_outside,
    sort_keys,
)
from .packets import PacketColumns

TYPE_CHECKING = False
if TYPE_CHECKING:
    import typing

    import numpy as np
    import numpy.typing as npt

    from . import hints
else:
    from .later import hints, np, npt, typing


class Burst(PacketColumns):
    """Buffers of one pool, owned by this process, in an order.

    Pool.alloc_many, AlfQueue.get_many and Pool.burst return one. It is released when it is freed,
    put, or garbage-collected; any later use raises BufferReleased. burst[i] is a Buffer. It stays
    part of the burst until that Buffer is freed or put. A with block frees the burst at its end.

    burst[2:9], burst[mask] and burst[indices] move buffers into a new Burst, which owns them from
    then on, since a buffer cannot have two owners. The new burst has them in the order of the
    index: burst[::-1] and burst[order] reorder. The old burst keeps the others in their order, and
    may be empty then. A Buffer that burst[i] returned goes with its position, and so do its views.
    A position whose Buffer was freed or put by itself stays behind. A mask has one bool for each
    position. An index that is out of range, and a mask of another length, raise IndexError; a
    position that is selected twice raises InvalidArgument. Nothing has moved then.

    Masks, arrays and lists as an index, columns and spread need numpy (the extra shmpool[numpy]);
    slices do not. Any thread of the process may use a burst, one thread at a time; a forked child
    may not.

    >>> import shmpool
    >>> with shmpool.Pool.create("doc-burst", buffer_size=64, capacity=64) as pool:
    ...     with pool.alloc_many(3) as burst:
    ...         burst.set_column(0, [1, 2, 3], ">u2")
    ...         burst.lengths = 2
    ...         print(len(burst), bytes(burst[2]), burst.column(0, ">u2"))
    3 b'\\x00\\x03' [1 2 3]
    >>> with shmpool.Pool.attach("doc-burst") as pool:
    ...     burst = pool.alloc_many(10)
    ...     burst.marks = range(10)
    ...     odd, first = burst[burst.marks % 2 == 1], burst[:2]
    ...     print(odd.marks, first.marks, burst.marks)
    [1 3 5 7 9] [0 2] [4 6 8]
    >>> shmpool.Pool.unlink("doc-burst")
    """

    __slots__ = ()

    def __iter__(self) -> Iterator[Buffer]:
        for i in range(len(self)):
            yield self[i]

    def _selection(self, index: object) -> npt.NDArray[typing.Any]:
        """Returns a mask or indices as C reads them. Raises TypeError, IndexError."""
        import numpy as np

        try:
            values = np.asarray(None if isinstance(index, tuple) else index)
        except ValueError:  # a list of lists
            values = np.empty(0)
        kind = values.dtype.kind
        if values.ndim == 1 and (kind in "biu" or (isinstance(index, list) and not index)):
            if kind == "u" and values.size and values.max() > INT64_MAX:
                raise IndexError(f"burst index is {values.max()}; allowed are ints of 64 bits")
            return np.ascontiguousarray(values, np.bool_ if kind == "b" else np.int64)
        raise TypeError(
            f"burst index is {index!r:.80}; it must be an int, a slice, or a one-dimensional mask, "
            "array or list of ints"
        )

    def spread(
        self,
        queues: Iterable[hints.AlfQueue],
        keys: npt.ArrayLike,
        timeout: float | None = None,
    ) -> None:
        """Puts each buffer into one of several queues: key k into queues[k % len(queues)].

        keys has an integer of 0 or more for each buffer, shape (n,): a queue's place in queues, or
        a hash such as flow_hashes. queues is then what RSS calls the indirection table. A queue may
        be in it more than once, and gets as many more of the hashes. Buffers of one queue keep
        their order.

        Each queue takes what it has room for at once. For the others the call waits up to timeout
        seconds in total (None: as long as it takes, 0: not at all); a queue that stays full does
        not delay the others. What was put has left the burst. With the last buffer the burst is
        released. What had no room in time stays in the burst, in its order.

        Raises:
            Full: a queue had no room for all of its buffers in time; sent says how many buffers
                were put.
            InvalidArgument: a key is negative, there are not n keys, or no queue.
            TypeError: keys are no ints; a queue is none of this Pool object.
            BufferInUse: a view of one of the buffers is alive; none was put.
            BufferReleased: the burst was freed or put before.
            QueueBusy: a queue has a single producer, and that is another thread.
            PoolClosed, PoolReplaced: see Pool.

        >>> import shmpool
        >>> with shmpool.Pool.create("doc-spread", buffer_size=64, capacity=64) as pool:
        ...     workers = [pool.create_queue(f"w{i}", capacity=8) for i in range(2)]
        ...     burst = pool.alloc_many(5)
        ...     burst.flow_hashes = [70, 71, 70, 71, 72]
        ...     burst.spread(workers, burst.flow_hashes)
        ...     print([len(worker) for worker in workers])
        [3, 2]
        >>> shmpool.Pool.unlink("doc-spread")
        """
        rest = self._spread(tuple(queues), keys_of(keys, len(self)), timeout)
        if rest is not None:
            raise _full(*rest)

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
    def indices(self) -> npt.NDArray[np.uint32]:
        """The buffers' numbers in the pool: shape (n,), read-only."""
        import numpy as np

        return np.frombuffer(self._indices(), np.uint32)

    @property
    def lengths(self) -> npt.NDArray[np.uint32]:
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
    def lengths(self, value: npt.ArrayLike | int) -> None:
        if isinstance(value, int) and 0 <= value <= UINT32_MAX:  # quicker than a numpy array
            code = self._set_lengths(value.to_bytes(4, byteorder), True)
        else:
            lengths, one = length_values(value, len(self), self.pool.buffer_size)
            code = self._set_lengths(lengths, one)
        if code < 0:
            most = value if isinstance(value, int) else lengths.max()
            fail(code, f"lengths go up to {most} bytes; a buffer holds {self.pool.buffer_size}")

    @property
    def timestamps(self) -> npt.NDArray[np.int64]:
        """Nanoseconds on the application's clock, of every buffer: a copy, shape (n,).

        Assign an array of n integers, or one integer for all, each from 0 to 2**63 - 1.

        Raises:
            InvalidArgument: a value is out of range, or there are not n; none was changed.
        """
        return self._read_field("timestamp", "int64")

    @timestamps.setter
    def timestamps(self, value: npt.ArrayLike | int) -> None:
        self._write_field("timestamp", value, INT64_MAX)

    @property
    def marks(self) -> npt.NDArray[np.uint32]:
        """32 bits of every buffer for the application: a copy, shape (n,).

        Assign an array of n integers, or one integer for all, each from 0 to 2**32 - 1.

        Raises:
            InvalidArgument: a value is out of range, or there are not n; none was changed.
        """
        return self._read_field("mark", "uint32")

    @marks.setter
    def marks(self, value: npt.ArrayLike | int) -> None:
        self._write_field("mark", value, UINT32_MAX)

    @property
    def flow_hashes(self) -> npt.NDArray[np.uint32]:
        """A hash of every packet's flow, 32 bits: a copy, shape (n,).

        Assign an array of n integers, or one integer for all, each from 0 to 2**32 - 1.

        Raises:
            InvalidArgument: a value is out of range, or there are not n; none was changed.
        """
        return self._read_field("flow_hash", "uint32")

    @flow_hashes.setter
    def flow_hashes(self, value: npt.ArrayLike | int) -> None:
        self._write_field("flow_hash", value, UINT32_MAX)

    @property
    def redelivered(self) -> npt.NDArray[np.uint32]:
        """How many times every buffer was returned to a queue: a copy, shape (n,)."""
        return self._read_field("redelivered", "uint32")

    def _read_field(self, name: str, dtype: str) -> npt.NDArray[typing.Any]:
        import numpy as np

        out = np.empty(len(self), dtype)
        code = self._field(name, out)
        if code < 0:
            fail(code, f"burst of pool {self.pool.name!r}")
        return out

    def _write_field(self, name: str, value: npt.ArrayLike | int, most: int) -> None:
        width = 8 if most > UINT32_MAX else 4
        if isinstance(value, int) and 0 <= value <= most:  # quicker than a numpy array
            code = self._set_field(name, value.to_bytes(width, byteorder), True)
        else:
            what = "flow_hashes" if name == "flow_hash" else f"{name}s"
            values, one = int_values(value, len(self), what)
            refuse_outside(values, most, what)
            code = self._set_field(name, values.astype(f"u{width}", copy=False), one)
        if code < 0:
            fail(code, f"burst of pool {self.pool.name!r}")

    def column(self, offset: int, dtype: npt.DTypeLike) -> npt.NDArray[typing.Any]:
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
        code = self._column(offset_of(offset), width, bytes_of(values))
        _check_column(code, offset, width)
        return values

    def set_column(
        self, offset: int, values: npt.ArrayLike, dtype: npt.DTypeLike | None = None
    ) -> None:
        """Writes a field of every packet: an array of n values, or one value for all.

        offset is in bytes from the start of data. dtype is the format in the packet, for example
        ">u2"; without it the values keep the format of the array. Lengths do not change.

        Raises:
            InvalidArgument: the field lies outside the buffer, there are not n values, or a value
                does not fit the dtype.
        """
        array, one, width = column_values(values, dtype, len(self))
        code = self._set_column(offset_of(offset), width, bytes_of(array), one)
        _check_column(code, offset, width)

    def select(self, mask: npt.ArrayLike) -> Burst:
        """Moves the packets for which mask is true into a new Burst, in order: burst[mask]."""
        return self[boolean_mask(mask, len(self))]

    def sort(self, by: npt.ArrayLike) -> Burst:
        """Moves all packets into a new Burst, in the order of by: burst[np.argsort(by)].

        by has a value for each packet, of any type that numpy sorts. Equal ones keep their order.
        A position whose Buffer was freed or put by itself stays behind.
        """
        import numpy as np

        return self[np.argsort(sort_keys(by, len(self)), kind="stable")]

    def partition(self, by: npt.ArrayLike) -> dict[typing.Any, Burst]:
        """Moves the packets into a new Burst for each value of by, which has one for each packet.

        Returns the Bursts by value, in the order of the values; packets keep their order. An
        exception on the way (of a signal handler) frees what was moved before it.
        """
        import numpy as np

        keys = sort_keys(by, len(self))
        order = np.argsort(keys, kind="stable")
        values, starts = np.unique(keys[order], return_index=True)
        rest = self[order]
        parts = [rest[start:] for start in starts.tolist()[::-1]]  # no packet moves twice
        return dict(zip(values.tolist(), reversed(parts), strict=True))


def _full(sent: int, full: list[tuple[hints.AlfQueue, int]]) -> errors.Full:
    """Returns the exception for a spread that put sent buffers, and counts the others as refused.

    full has each queue that had no room, and for how many buffers. The caller keeps no name of the
    exception: its traceback keeps the caller's frame, and so the burst, alive.
    """
    for queue, n in full:
        lib.shmpool_refused(queue.pool._number, queue.number, n)
    names, left = ", ".join(repr(queue.name) for queue, _ in full), sum(n for _, n in full)
    error = errors.Full(
        f"no room in queue {names}: {sent} buffers were put, {left} are still in the burst"
    )
    error.sent = sent
    return error


def _check_column(code: int, offset: int, width: int) -> None:
    """Raises the exception for a negative code of a call that copies a column."""
    if code < 0:
        fail(code, f"column of {width} bytes at offset {offset}")
