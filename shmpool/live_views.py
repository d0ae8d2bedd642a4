# SPDX-License-Identifier: Apache-2.0
"""What a BufferInUse says: which views keep a buffer, or a pool, from what was asked.

hot/ calls it when it raises. A view is found if a variable of the calling functions, or a global
variable of theirs, refers to it; of others it is only known how many there are.
"""

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
    try:
        for name, value in _variables():
            export = _export(value)
            if name in named or export is None or not _keeps(export, owner):
                continue
            exports.add(id(export))
            if value is not put and name.isidentifier():
                named[name] = _words(name, value)
    except Exception:  # a program's class may raise whatever it likes
        return {}, 0
    return named, len(exports)


def _are(n: int) -> str:
    return "is" if n == 1 else "are"


def _them(n: int) -> str:
    return "it" if n == 1 else "them"


def _words(name: str, value: Any) -> str:
    if isinstance(value, memoryview):
        return f"memoryview {name} of {value.nbytes} bytes"
    return f"numpy array {name} of shape {value.shape} and dtype {value.dtype}"


def _export(value: Any) -> Any:
    """Returns what has the memory that a variable's value is a view of; None for other values."""
    numpy = sys.modules.get("numpy")
    while numpy is not None and issubclass(type(value), numpy.ndarray):
        value = value.base
    return value if type(value) in (memoryview, ArrayMemory) else None


def _keeps(export: Any, owner: Any) -> bool:
    if type(export) is ArrayMemory:
        return export.keeps(owner)
    try:
        buf = export.obj
    except ValueError:  # released
        return False
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
                yield from dict(frame.f_globals).items()
        frame = frame.f_back


def _locals(frame: FrameType) -> Mapping[str, Any]:
    """Returns a copy of a function's variables.

    Up to CPython 3.12 f_locals of a function is a dict that the frame keeps: it would keep the
    views. It is cleared, unless the program has it too: from locals(), or in a trace function,
    after which Python copies it back to the variables.
    """
    if sys.version_info >= (3, 13) or not frame.f_code.co_flags & CO_OPTIMIZED:
        return dict(frame.f_locals)
    if sys.gettrace() or sys.getprofile():
        return {}
    kept = frame.f_locals
    copy = dict(kept)
    if sys.getrefcount(kept) == 3:  # the frame's, this variable, the argument
        kept.clear()
    return copy
