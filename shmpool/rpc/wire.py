# SPDX-License-Identifier: Apache-2.0
"""MessagePack-RPC frames, and the records that they carry. No I/O, and no requests.

A frame is one of the three of the public specification:

    [0, msgid, method, params]      request
    [1, msgid, error, result]       answer
    [2, method, params]             notification

The reader trusts nothing: a frame is measured before anything is built from it, and a frame of
another form is a FrameError.

Records are converted here and not by msgspec (decision 0007): its errors name neither the value nor
the allowed values, and each program that uses a client would load one more compiled library.
"""

import types
from collections.abc import Iterator
from dataclasses import MISSING, Field, asdict, dataclass, fields, is_dataclass
from numbers import Real
from operator import index
from typing import Any, Literal, SupportsIndex, Union, get_args, get_origin, get_type_hints

import msgpack

from .. import errors

INTEGER_MIN, INTEGER_MAX = -(2**63), 2**64 - 1  # of MessagePack
REQUEST_MAX = 64 << 10  # bytes of a frame that a daemon takes
ANSWER_MAX = 64 << 20  # bytes of a frame that a client takes
MSGID_MAX = 2**32 - 1


class FrameError(ValueError):
    """The bytes are not a frame. The connection must be closed."""


class ShapeError(ValueError):
    """A value has a wrong type; the message says where and which is right."""


@dataclass(frozen=True)
class Call:
    """A request, as received."""

    msgid: int
    method: str
    params: list[Any]


@dataclass(frozen=True)
class Reply:
    """An answer, as received: error is None, or result is."""

    msgid: int
    error: Any
    result: Any


@dataclass(frozen=True)
class Notice:
    """A notification, as received."""

    method: str
    params: list[Any]


Frame = Call | Reply | Notice


def pack_call(msgid: int, method: str, params: list[Any]) -> bytes:
    return _pack([0, msgid, method, params])


def pack_result(msgid: int, result: Any) -> bytes:
    return _pack([1, msgid, None, result])


def pack_error(msgid: int, error: Any) -> bytes:
    return _pack([1, msgid, error, None])


def pack_notice(method: str, params: list[Any]) -> bytes:
    return _pack([2, method, params])


def _pack(frame: list[Any]) -> bytes:
    """Returns the frame as bytes. Raises InvalidArgument for integers of more than 64 bits."""
    try:
        data: bytes = msgpack.packb(frame, default=_number, unicode_errors="backslashreplace")
    except OverflowError:
        wrong = next(n for n in _integers(frame) if not INTEGER_MIN <= n <= INTEGER_MAX)
        digits = str(wrong) if wrong.bit_length() <= 256 else f"of {wrong.bit_length()} bits"
        raise errors.InvalidArgument(
            f"an integer is {digits}; allowed are {INTEGER_MIN} to {INTEGER_MAX}"
        ) from None
    return data


def _integers(value: Any) -> Iterator[int]:
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _integers(item)
    elif isinstance(value, SupportsIndex):
        yield index(value)


def _number(value: object) -> int | float:
    """Returns a number of another type, such as numpy's, as one of Python's. Raises TypeError."""
    if isinstance(value, SupportsIndex):
        return index(value)
    if isinstance(value, Real):
        return float(value)
    raise TypeError(f"{value!r:.80} is neither a number, nor text, nor a list or a map of them")


class Frames:
    """Splits a stream of bytes into frames: feed() bytes, then iterate over the complete frames.

    A frame is measured before it is built, so a claimed length costs no memory: a peer can make us
    hold `most` bytes, and the objects that they become.
    """

    def __init__(self, most: int, trusted: bool = False) -> None:
        """most: bytes of a frame. trusted: keys of maps may be numbers, which an attacker could
        make collide."""
        self._most = most
        self._trusted = trusted
        self._data = bytearray()
        self._fed = 0  # bytes of _data that the measure has seen
        self._measure = msgpack.Unpacker(max_buffer_size=2 * most)
        self._done = 0  # bytes of the stream that were returned as frames

    @property
    def unread(self) -> int:
        """Bytes that were fed and not yet returned, of one incomplete frame or of several."""
        return len(self._data)

    def feed(self, data: bytes | memoryview) -> None:
        self._data += data

    def __iter__(self) -> Iterator[Frame]:
        """Yields each complete frame once. FrameError."""
        while (size := self._complete()) is not None:
            frame = bytes(self._data[:size])
            del self._data[:size]
            self._fed -= size
            self._done += size
            yield _frame(frame, self._trusted)

    def _complete(self) -> int | None:
        """Returns the size of the first frame in bytes, None while it is incomplete."""
        while True:
            if self._fed:
                try:
                    self._measure.skip()
                    return int(self._measure.tell()) - self._done
                except msgpack.OutOfData:
                    pass
                except ValueError as error:
                    raise FrameError(f"not MessagePack: {_reason(error)}") from None
            if self._fed >= self._most:
                raise FrameError(f"a frame is longer than {self._most} bytes")
            more = self._data[self._fed : self._most]
            if not more:
                return None
            self._measure.feed(more)
            self._fed += len(more)


def _frame(data: bytes, trusted: bool) -> Frame:
    try:
        value = msgpack.unpackb(data, max_ext_len=0, strict_map_key=not trusted)
    except (ValueError, msgpack.UnpackException, TypeError) as error:
        raise FrameError(f"not MessagePack: {_reason(error)}") from None
    match value:
        case [int(kind), int(msgid), str(method), list(params)] if kind == 0 and _is_id(msgid):
            return Call(msgid, method, params)
        case [int(kind), int(msgid), error, result] if kind == 1 and _is_id(msgid):
            return Reply(msgid, error, result)
        case [int(kind), str(method), list(params)] if kind == 2:
            return Notice(method, params)
    raise FrameError("a frame is none of MessagePack-RPC: [0, msgid, method, params], for example")


def _is_id(msgid: int) -> bool:
    return not isinstance(msgid, bool) and 0 <= msgid <= MSGID_MAX


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


# Records.


def to_wire(value: Any) -> Any:
    """Converts a record, or a list or dict of records, to what MessagePack and JSON carry."""
    if isinstance(value, list):
        return [to_wire(item) for item in value]
    if isinstance(value, dict):
        return {key: to_wire(item) for key, item in value.items()}
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


_hints: dict[Any, dict[str, Any]] = {}


def hints(kind: Any) -> dict[str, Any]:
    """Returns the fields of a record and their types."""
    if kind not in _hints:
        every = get_type_hints(kind)
        _hints[kind] = {field.name: every[field.name] for field in fields(kind)}
    return _hints[kind]


def is_required(field: Field[Any]) -> bool:
    """True if a field of a record has no default."""
    return field.default is MISSING and field.default_factory is MISSING


def from_wire(kind: Any, value: Any, where: str = "result") -> Any:
    """Converts what to_wire() made to a value of that type. ShapeError says where it does not fit.

    Ignores keys that the type does not have: a newer peer may send more.
    """
    origin, inner = get_origin(kind), get_args(kind)
    record = is_dataclass(kind)
    if (record or origin is dict) and not isinstance(value, dict):
        raise ShapeError(f"{where} is {_short(value)}; it must be a map")
    if origin is list and not isinstance(value, list):
        raise ShapeError(f"{where} is {_short(value)}; it must be an array")
    if record:
        for field in fields(kind):
            if field.name not in value and is_required(field):
                raise ShapeError(f"{where}.{field.name} is missing")
        known = [(name, type_) for name, type_ in hints(kind).items() if name in value]
        return kind(**{n: from_wire(type_, value[n], f"{where}.{n}") for n, type_ in known})
    if origin is list:
        return [from_wire(inner[0], part, f"{where}[{i}]") for i, part in enumerate(value)]
    if origin is dict:
        return {
            from_wire(inner[0], name, f"a key of {where}"): from_wire(
                inner[1], part, f"{where}.{name}"
            )
            for name, part in value.items()
        }
    if kind is types.NoneType or (value is None and types.NoneType in inner):
        return None
    if kind is float and type(value) is int and abs(value) < 2**53:
        return float(value)
    if origin in (Union, types.UnionType):
        choices = [choice for choice in inner if choice is not types.NoneType]
        if len(choices) > 1:  # of one array type at most
            choices = [c for c in choices if (get_origin(c) or c) is type(value)]
        if len(choices) == 1:
            return from_wire(choices[0], value, where)
        fits = False
    elif origin is Literal:
        fits = value in inner and not isinstance(value, bool)
    else:
        fits = type(value) is kind
    if not fits:
        raise ShapeError(f"{where} is {_short(value)}; it must be {spelled(kind)}")
    return value


def spelled(kind: Any) -> str:
    """Returns a type, as a message or the documentation names it."""
    names = {int: "an int", str: "a str", float: "a number", bool: "a bool"}
    if kind in names:
        return names[kind]
    origin, inner = get_origin(kind), get_args(kind)
    if origin is list:
        return f"array of {spelled(inner[0])}"
    if origin is dict:
        return f"map of {spelled(inner[1])}"
    if origin in (Union, types.UnionType):
        return " or ".join(spelled(i) for i in inner)
    if origin is Literal:
        return " or ".join(f'"{choice}"' for choice in inner)
    return "nil" if kind is types.NoneType else f"`{kind.__name__}`"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
