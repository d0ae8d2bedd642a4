# SPDX-License-Identifier: Apache-2.0
"""Objects as messages: pickled into a buffer of a pool, and unpickled from it.

A small object is its pickle. Of a larger one that has memory of its own (numpy arrays do) that
memory lies behind the pickle, and is read in place (little endian):

    0           MARK, which no pickle begins with
    8           n, how many blocks of memory there are; bytes of the pickle
    24          the length of each block, in bytes
    ...         the pickle
    ...         the blocks, each at a multiple of LINE
"""

import contextlib
import copyreg
import pickle
import struct
from collections.abc import Iterator
from multiprocessing.reduction import ForkingPickler
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from .._hot import SHORT, Buffer, pickled, use_pickler

if TYPE_CHECKING:
    from ..pool import Pool

MARK = b"\x00shmobj1"
LINE = 64  # bytes
_HEAD = struct.Struct("<8sQQ")
PROTOCOL = 5
Part = bytes | bytearray | memoryview


class _Reducers:
    """What multiprocessing's pickler knows beside copyreg, such as how to pass a Connection."""

    def __getitem__(self, kind: type) -> Any:
        extra = ForkingPickler._extra_reducers  # type: ignore[attr-defined]
        return extra[kind] if kind in extra else copyreg.dispatch_table[kind]


def _pickler() -> tuple[Any, ...]:
    """Returns a pickler as hot/objects.c uses it: dump, forget, parts, blocks."""
    parts: list[bytes] = []
    blocks: list[memoryview] = []

    def block(memory: pickle.PickleBuffer) -> bool:
        """Returns true if the memory is to be part of the pickle."""
        raw = memory.raw()
        if raw.nbytes < SHORT:
            return True
        blocks.append(raw)
        return False

    pickler = pickle.Pickler(SimpleNamespace(write=parts.append), PROTOCOL, buffer_callback=block)
    pickler.dispatch_table = _Reducers()  # type: ignore[assignment]
    return pickler.dump, pickler.clear_memo, parts, blocks


def _message(parts: list[bytes], blocks: list[memoryview]) -> list[Part]:
    return list(_laid_out(parts, blocks)) if blocks else list(parts)


use_pickler(_pickler, _message)
# dumps(obj) pickles an object. Returns the pickle, or a list: the parts of a message, which refer
# to the object's memory. Raises what pickling the object raises.
dumps = pickled


def _laid_out(parts: list[bytes], blocks: list[memoryview]) -> Iterator[Part]:
    size = sum(map(len, parts))
    lengths = struct.pack(f"<{len(blocks)}Q", *(block.nbytes for block in blocks))
    yield _HEAD.pack(MARK, len(blocks), size) + lengths
    yield from parts
    at = _HEAD.size + len(lengths) + size
    for block in blocks:
        yield bytes(-at % LINE)
        yield block
        at += -at % LINE + block.nbytes


def size_of(message: Any) -> int:
    """Returns how many bytes a message of dumps() has."""
    return len(message) if type(message) is bytes else sum(memoryview(p).nbytes for p in message)


def written(pool: "Pool", message: Any, size: int, timeout: float | None) -> Buffer:
    """Returns a new buffer of the pool with a message of dumps() in it, which has size bytes.

    Waits up to timeout seconds for the buffer (None: as long as it takes).

    Raises:
        PoolExhausted: no buffer became free.
        PayloadTooLarge: all buffers of the pool together do not hold the message.
        OutOfSharedMemory: there is no memory for it.
    """
    buf = pool.alloc(timeout, size)
    try:
        buf.writelines([message] if type(message) is bytes else message)
    except BaseException:
        buf.free()
        raise
    return buf


def loads(buf: Buffer, copy: bool) -> Any:
    """Unpickles the object in a buffer.

    Its memory is that of the buffer: the buffer is in use until the object is gone. With copy, and
    if the message is a chain of buffers, it is memory of this process.

    Raises what unpickling raises; UnpicklingError if the message is corrupted.
    """
    if len(buf) < SHORT:
        return pickle.loads(bytes(buf))
    if len(buf.segments) > 1:  # its bytes are not in one place
        view, copy = memoryview(bytearray(len(buf))), False
        buf.readinto(view)
    else:
        view = buf.view
    blocks: list[memoryview | bytearray] = []
    try:
        if view[:8] != MARK:
            with view:
                return pickle.loads(view)
        begin, end, lengths = _table(view)
        at = end
        for length in lengths:
            at += -at % LINE
            blocks.append(view[at : at + length])
            at += length
        if at != len(view):
            raise pickle.UnpicklingError(f"it has {len(view)} bytes, and its table says {at}")
        if copy:
            blocks[:] = map(bytearray, blocks)
        return pickle.loads(view[begin:end], buffers=blocks)
    except BaseException:
        for used in (*blocks, view):  # the traceback keeps them
            if isinstance(used, memoryview):
                with contextlib.suppress(BufferError):
                    used.release()
        raise


def _table(view: memoryview) -> tuple[int, int, tuple[int, ...]]:
    """Returns where the pickle begins and ends, and the lengths of the blocks behind it."""
    try:
        _, n, size = _HEAD.unpack_from(view)
        lengths = struct.unpack_from(f"<{n}Q", view, _HEAD.size)
    except (struct.error, OverflowError, MemoryError) as error:
        raise pickle.UnpicklingError(f"the table of its blocks is corrupted: {error}") from None
    begin = _HEAD.size + 8 * n
    return begin, begin + size, lengths
