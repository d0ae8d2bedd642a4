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
from typing import Any

from .._hot import Buffer

MARK = b"\x00shmobj1"
LINE = 64  # bytes
OUT_OF_BAND = 4 * 2**10  # bytes: smaller blocks are part of the pickle
KEPT = 4 * 2**10  # bytes: a pickler that has made a longer pickle is not used again
_HEAD = struct.Struct("<8sQQ")
PROTOCOL = 5
Part = bytes | bytearray | memoryview


class _Reducers:
    """What multiprocessing's pickler knows beside copyreg, such as how to pass a Connection."""

    def __getitem__(self, kind: type) -> Any:
        extra = ForkingPickler._extra_reducers  # type: ignore[attr-defined]
        return extra[kind] if kind in extra else copyreg.dispatch_table[kind]


class _Pickler:
    """A pickler that is used again: making one costs as much as pickling a small object.

    Not after a long pickle: the table of the objects in it never shrinks, and is cleared each time.
    """

    __slots__ = ("blocks", "dump", "forget", "parts", "write")

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.blocks: list[memoryview] = []
        self.write = self.parts.append
        pickler = pickle.Pickler(self, PROTOCOL, buffer_callback=self._block)
        pickler.dispatch_table = _Reducers()  # type: ignore[assignment]
        self.dump, self.forget = pickler.dump, pickler.clear_memo

    def _block(self, block: pickle.PickleBuffer) -> bool:
        """Returns true if the block is to be part of the pickle."""
        raw = block.raw()
        if raw.nbytes < OUT_OF_BAND:
            return True
        self.blocks.append(raw)
        return False


_idle: list[_Pickler] = []  # one for each thread that pickles, and for each that is in between


def dumps(obj: object) -> tuple[Any, int | None]:
    """Pickles an object. Returns the pickle and None, or the parts of a message and their size.

    The parts refer to the object's memory. Raises what pickling the object raises.
    """
    try:
        pickler = _idle.pop()
    except IndexError:
        pickler = _Pickler()
    # Not given back after an exception, nor while it is used: by other threads, or by the object.
    pickler.dump(obj)
    parts, blocks = pickler.parts, pickler.blocks
    kept = len(parts) == 1 and len(parts[0]) < KEPT
    if kept:
        pickler.forget()
    if len(parts) == 1 and not blocks:
        data = parts.pop()
        if kept:
            _idle.append(pickler)
        return data, None
    message: list[Part] = list(_laid_out(parts, blocks)) if blocks else list(parts)
    parts.clear()
    blocks.clear()
    if kept:
        _idle.append(pickler)
    return message, sum(memoryview(part).nbytes for part in message)


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


def loads(buf: Buffer, copy: bool) -> Any:
    """Unpickles the object in a buffer.

    Its memory is that of the buffer: the buffer is in use until the object is gone. With copy, and
    if the message is a chain of buffers, it is memory of this process.

    Raises what unpickling raises; UnpicklingError if the message is corrupted.
    """
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
