# SPDX-License-Identifier: Apache-2.0
"""What a BufferInUse says: which views keep a buffer, or a pool, from what was asked.

hot/ calls it when it raises. A view is found if a variable of the calling functions, or a global
variable of theirs, refers to it; of others it is only known how many there are.
"""

import contextlib
import sys
from collections.abc import Iterator, Mapping
from inspect import CO_OPTIMIZED
from types import FrameType
from typing import Any

from ._hot import ArrayMemory, Buffer

NAMED_MAX = 5  # views that a message names


def text_of(owner: Any, n: int, put: Any = None) -> str:
    """Returns which views of a Buffer, or of a Pool's buffers, are alive, and what to do.

    n is how many exports were counted. put is the array that put_array() was to move, if any; it is
    not named itself.
    """
    named, exports = _named(owner, put)
    shown = list(named)[:NAMED_MAX]
    if put is not None and not named:
        return (
            "a second name for the array, or a view or tensor of it, is alive; delete that first, "
            "or put a copy (array.copy())"
        )
    if not named:
        of = "it" if isinstance(owner, Buffer) else "its buffers"
        views = "memoryview or numpy array" if n == 1 else "memoryviews or numpy arrays"
        return f"{n} {views} of {of} {_are(n)} alive; delete {_them(n)} first (del img)"
    more = max(n - exports, 0) + len(named) - len(shown)
    text = ", ".join(named[name] for name in shown) + (f" and {more} more" if more else "")
    text += f" {_are(len(shown) + more)} alive; delete {_them(len(shown) + more)} first"
    text += f" (del {', '.join(shown)})"
    return text if put is None else f"{text}, or put a copy (array.copy())"


def _named(owner: Any, put: Any) -> tuple[dict[str, str], int]:
    """Returns a description of each view that a variable refers to, by its name; and the number of
    exports that they are views of."""
    named: dict[str, str] = {}
    exports: set[int] = set()
    for name, value in _variables():
        export = _export(value)
        if type(name) is not str or name in named or export is None:
            continue
        with contextlib.suppress(ValueError):  # a memoryview that was released
            if _keeps(export, owner):
                exports.add(id(export))
                if value is not put and name.isidentifier():
                    named[name] = _words(name, value)
    return named, len(exports)


def _are(n: int) -> str:
    return "is" if n == 1 else "are"


def _them(n: int) -> str:
    return "it" if n == 1 else "them"


def _words(name: str, value: Any) -> str:
    if isinstance(value, memoryview):
        return f"memoryview {name} of {value.nbytes} bytes"
    ndarray = sys.modules["numpy"].ndarray  # its own attributes: a subclass may have others
    shape, dtype = ndarray.shape.__get__(value), ndarray.dtype.__get__(value)
    return f"numpy array {name} of shape {shape} and dtype {dtype}"


def _export(value: Any) -> Any:
    """Returns what has the memory that a variable's value is a view of; None for other values."""
    numpy = sys.modules.get("numpy")
    while numpy is not None and issubclass(type(value), numpy.ndarray):
        value = numpy.ndarray.base.__get__(value)
    return value if type(value) in (memoryview, ArrayMemory) else None


def _keeps(export: Any, owner: Any) -> bool:
    if type(export) is ArrayMemory:
        return export.keeps(owner)
    buf = export.obj
    return buf is owner or (type(buf) is Buffer and buf.pool is owner)


def _variables() -> Iterator[tuple[str, Any]]:
    """Yields the variables of the calling functions, the innermost first, and their globals."""
    frame: FrameType | None = sys._getframe()
    seen: set[int] = set()
    while frame is not None:
        if frame.f_globals.get("__package__") != __package__:
            yield from _locals(frame).items()
            if id(frame.f_globals) not in seen:
                seen.add(id(frame.f_globals))
                yield from dict.copy(frame.f_globals).items()
        frame = frame.f_back


def _locals(frame: FrameType) -> Mapping[str, Any]:
    """Returns a copy of a function's variables, or of a class body's if these are a plain dict.

    Up to CPython 3.12 f_locals of a function is a dict that the frame keeps: it would keep the
    views. It is cleared, unless the program has it too: from locals(), or in a trace function,
    after which Python copies it back to the variables.
    """
    if sys.version_info >= (3, 13) or not frame.f_code.co_flags & CO_OPTIMIZED:
        kept = frame.f_locals
        return dict(kept) if frame.f_code.co_flags & CO_OPTIMIZED or type(kept) is dict else {}
    if sys.gettrace() or sys.getprofile():
        return {}
    kept = frame.f_locals
    copy = dict(kept)
    if sys.getrefcount(kept) == 3:  # the frame's, this variable, the argument
        kept.clear()
    return copy
