# SPDX-License-Identifier: Apache-2.0
"""numpy arrays whose memory is a buffer: what their records say, and copies of other arrays.

Imports numpy, so the package imports this module with the first array. Not in here: the records
themselves, get_array, and arrays that are put without a copy (hot/arrays.c, hot/records.c).
"""

import ast
import math
import re
import time
from collections.abc import Callable, Iterable
from functools import lru_cache
from importlib import import_module
from operator import index
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex

import numpy as np
from numpy.lib import format as npy

from . import errors
from ._ffi import lib
from ._hot import Buffer, timeout_seconds, use_numpy

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

    from .pool import Pool
    from .queue import AlfQueue

LINE = 64  # bytes: data begin at a multiple of it
TAIL = 32  # bytes of a record behind its text (hot/arrays.h)
DIMENSIONS_MAX = 64
DEPTH_MAX = 32  # brackets in one another in a text: 2 for each structure within a structure
TEXT_MAX = 16384  # bytes of a text (RECORD_TEXT_MAX of hot/arrays.h)
BYTES_MAX = 2**31 - 1  # a length has 31 bits
# Each digit and space is matched alone: a repetition within the repetition would backtrack.
_STRING = rb"'(?:[^'\\]|\\.)*'" rb'|"(?:[^"\\]|\\.)*"'
_STRINGS = re.compile(_STRING)
_LITERALS = re.compile(rb"(?:" + _STRING + rb"|True|False|[0-9]|[\[\](){},: ])*")
HOST_DEVICES = frozenset((1, 3, 11, 13))  # of DLPack: processor, pinned by CUDA or ROCm, managed
Order = Literal["C", "F"]


# The text of a record.


def record_text(kind: "np.dtype[Any]", shape: tuple[int, ...], fortran: bool) -> bytes:
    """Returns the dict of a .npy file's header, padded to a multiple of 8 bytes.

    Raises:
        InvalidArgument: an array that is made from the text would not have this dtype.
    """
    if kind.names is None and kind.metadata is None:
        return _plain_text(kind, shape, fortran)
    return _text(kind, shape, fortran)  # not kept: equal dtypes may differ in metadata


def _text(kind: "np.dtype[Any]", shape: tuple[int, ...], fortran: bool) -> bytes:
    why, text = "its elements have 0 bytes" if kind.itemsize == 0 else _refusal(kind), b""
    try:
        if not why:
            descr = npy.dtype_to_descr(kind)
            text = _format(descr, fortran, shape)
            large = math.prod(shape, start=kind.itemsize) > BYTES_MAX  # refused with its size
            if parse(_format(descr, fortran, ()) if large else text)[0] != kind:
                why = "its description in a .npy file is another dtype's"
    except (TypeError, ValueError) as error:
        why = str(error)
    if why:
        raise errors.InvalidArgument(f"dtype {kind!r} cannot be carried: {why}")
    return text


def _format(descr: object, fortran: bool, shape: tuple[int, ...]) -> bytes:
    text = ascii({"descr": descr, "fortran_order": fortran, "shape": shape}).encode()
    return text + b" " * (-len(text) % 8)


_plain_text = lru_cache(1024)(_text)


def _refusal(kind: "np.dtype[Any]") -> str:
    """Returns what of a dtype the text of a record does not say, or ""."""
    if kind.hasobject:
        return "its elements are objects of this process; use a dtype of fixed size, or pickle"
    if kind.metadata is not None:
        return f"its metadata {dict(kind.metadata)!r} would be lost"
    if kind.isbuiltin == 2:
        name = f"{kind.type.__module__}.{kind.type.__name__}"
        return f'numpy has no text for {name}; view the array as integers (a.view("u2"))'
    if kind.subdtype is not None:
        return _refusal(kind.subdtype[0])
    if kind.names is None:
        return ""
    if kind.type is not np.void:
        return (
            f"its type {kind.type.__name__} would be lost: numpy.dtype((numpy.void, it)) is plain"
        )
    return next(filter(None, (_refusal(field[0]) for field in (kind.fields or {}).values())), "")


def describe(array: "NDArray[Any]") -> bytes:
    """Returns the text of an array's record; one that is not contiguous is copied in order C."""
    flags = array.flags
    return record_text(array.dtype, array.shape, flags.f_contiguous and not flags.c_contiguous)


def parse(text: bytes) -> tuple["np.dtype[Any]", tuple[int, ...], bool, bool, bool, int]:
    """Returns what a text says: dtype, shape, whether in Fortran order; whether each array needs a
    dtype of its own; whether the answer may be kept; and bytes of data.

    Raises:
        ValueError: it is no text of ours; any process may have written it.
    """
    try:
        _refuse_code(text)
        said = ast.literal_eval(text.decode("ascii").strip())
        descr, fortran, shape = said.pop("descr"), said.pop("fortran_order"), said.pop("shape")
        kind = npy.descr_to_dtype(descr)
        sizes = {type(n) for n in shape} <= {int} and all(0 <= n < 2**63 for n in shape)
        nbytes = math.prod(shape, start=kind.itemsize)
        wrong = said or type(fortran) is not bool or type(shape) is not tuple or not sizes
        wrong = wrong or len(shape) > DIMENSIONS_MAX or nbytes > BYTES_MAX
        if wrong or kind.hasobject or kind.itemsize == 0 or kind.subdtype is not None:
            raise ValueError("it is no array's")
        np.empty((0,) * len(shape) if nbytes else shape, kind)  # numpy's own limits
    except (
        ArithmeticError, AttributeError, LookupError, RecursionError, SyntaxError, TypeError,
        ValueError,
    ) as error:  # fmt: skip
        raise ValueError(f"the text of an array's record is {text[:80]!r}: {error}") from None
    fields = () if kind.fields is None else kind.fields.values()
    nested = any(field[0].base.names is not None for field in fields)
    own = kind.names is not None and not nested
    return kind, shape, fortran, own, not nested, nbytes


def _refuse_code(text: bytes) -> None:
    """Raises ValueError for a text that is more than literals in a few brackets, on which Python's
    parser may run out of stack."""
    if len(text) > TEXT_MAX or not _LITERALS.fullmatch(text):
        raise ValueError(f"it has {len(text)} bytes, or more than literals")
    depth = 0
    for byte in _STRINGS.sub(b"", text):
        depth += (byte in b"([{") - (byte in b")]}")
        if depth > DEPTH_MAX:
            raise ValueError("too many brackets")


# New arrays.


def planned_array(
    pool: "Pool",
    shape: SupportsIndex | Iterable[SupportsIndex],
    dtype: "DTypeLike",
    order: Order,
) -> tuple[int, Callable[[Buffer], "NDArray[Any]"]]:
    """Returns how many bytes Pool.array() allocates, and what makes the array of that buffer."""
    kind, sizes = np.dtype(dtype), _sizes(shape)
    if kind.subdtype is not None:
        kind, inner = kind.subdtype
        sizes += inner
    if order not in ("C", "F"):
        raise errors.InvalidArgument(f'order is {order!r}; it must be "C" or "F"')
    if len(sizes) > DIMENSIONS_MAX:
        raise errors.InvalidArgument(
            f"shape has {len(sizes)} dimensions; the most is {DIMENSIONS_MAX}"
        )
    text = record_text(kind, sizes, order == "F")
    nbytes = math.prod(sizes, start=kind.itemsize)
    headroom = _headroom(pool, text, nbytes)
    return headroom - pool.headroom + nbytes, lambda buf: buf._array(text, headroom)


def _sizes(shape: SupportsIndex | Iterable[SupportsIndex]) -> tuple[int, ...]:
    try:
        given = shape if isinstance(shape, Iterable) else (shape,)
        sizes = tuple(index(n) for n in given)
    except TypeError:
        raise TypeError(f"shape is {shape!r}; it must be an int, or several") from None
    if any(n < 0 for n in sizes):
        raise errors.InvalidArgument(f"shape is {shape!r}; no size can be negative")
    return sizes


def _headroom(pool: "Pool", text: bytes, nbytes: int) -> int:
    """Returns the head room of an array's buffer: the pool's, and at least the record's.

    Raises:
        PayloadTooLarge: a buffer does not hold both.
    """
    headroom = -(-max(pool.headroom, TAIL + len(text)) // LINE) * LINE
    if nbytes > pool.buffer_size - headroom:
        raise errors.PayloadTooLarge(
            f"array is {nbytes} bytes, with {headroom} before it for its dtype and shape; a buffer "
            f"holds {pool.buffer_size}: create the pool with buffer_size={nbytes + headroom}"
        )
    return headroom


# Other arrays.


def put_copy(queue: "AlfQueue", array: Any, timeout: float | None) -> None:
    """Copies an array into a new buffer and puts that."""
    deadline = time.monotonic() + timeout_seconds(timeout)
    source = as_array(array)
    pool = queue.pool
    text = describe(source)
    headroom = _headroom(pool, text, source.nbytes)
    try:
        buf = pool.alloc(timeout, headroom - pool.headroom + source.nbytes)
    except errors.PoolExhausted:
        lib.shmpool_refused(pool._number, queue.number, 1)
        raise
    _copy(source, buf, text, headroom)
    left = None if timeout is None else max(deadline - time.monotonic(), 0)
    queue._put_or_free(buf, left)  # an exception that the program keeps must not keep the buffer


def _copy(source: "NDArray[Any]", buf: Buffer, text: bytes, headroom: int) -> None:
    """Copies an array into a Buffer, with the bytes between the fields of a structure.

    No variable refers to the array over the Buffer: under a trace function it would live on.
    """
    flags = source.flags
    if not flags.forc:
        if source.dtype.names is not None:
            _bytes(buf._array(text, headroom))[...] = 0  # not those of earlier messages
        buf._array(text, headroom)[...] = source
    else:
        _bytes(buf._array(text, headroom))[...] = _bytes(source)


def _bytes(array: "NDArray[Any]") -> "NDArray[np.uint8]":
    """Returns the bytes of a contiguous array as they lie in memory."""
    return (array if array.flags.c_contiguous else array.T).reshape(-1).view(np.uint8)


def as_array(thing: Any) -> "NDArray[Any]":
    """Returns an array of a thing's memory, without a copy where it has memory.

    Raises:
        TypeError, InvalidArgument: it is no array; numpy cannot read it; it is not in memory.
    """
    name = type(thing).__name__
    if isinstance(thing, Buffer):
        raise TypeError("put_array() takes an array; put() moves a Buffer")
    if isinstance(thing, np.ma.MaskedArray):
        raise errors.InvalidArgument("array is a masked array, whose mask would be lost: put both")
    if isinstance(thing, (np.ndarray, np.generic)):
        return np.asarray(thing)
    try:
        if hasattr(thing, "__dlpack__"):
            device = thing.__dlpack_device__()
            if device[0] not in HOST_DEVICES:
                raise errors.InvalidArgument(
                    f"array is a {name} on the DLPack device {tuple(map(int, device))}; copy it to "
                    "the CPU first (t.cpu())"
                )
            return np.from_dlpack(thing)
        if hasattr(thing, "__array_interface__") or hasattr(thing, "__array__"):
            return np.asarray(thing)
        view = memoryview(thing)
    except errors.InvalidArgument:
        raise
    except (BufferError, RuntimeError, ValueError) as error:  # ValueError: of an unknown device
        raise errors.InvalidArgument(f"array is a {name} that cannot be read: {error}") from error
    except TypeError:
        if hasattr(thing, "__dlpack__") or hasattr(thing, "__array__"):
            raise
        raise TypeError(
            f"array is a {name}; it must have __dlpack__, __array_interface__ or the buffer "
            "protocol: numpy.asarray(it) makes an array"
        ) from None
    try:
        return np.asarray(view)
    except ValueError as error:
        raise errors.InvalidArgument(f"array is a {name} that cannot be read: {error}") from error


def bytes_of(buf: Buffer) -> "NDArray[np.uint8]":
    """Returns the bytes of a Buffer as an array, for DLPack."""
    return np.frombuffer(buf.view, np.uint8) if len(buf) else np.empty(0, np.uint8)


def _function_table() -> object:
    """Returns the capsule that extension modules get numpy's functions from."""
    core = "numpy._core" if np.__version__ >= "2" else "numpy.core"
    return import_module(f"{core}._multiarray_umath")._ARRAY_API


use_numpy(_function_table(), np.dtype(np.uint8), describe)
