# SPDX-License-Identifier: Apache-2.0
"""Records: frozen dataclasses whose classes cost next to nothing to make.

@dataclass compiles half a dozen functions for each class, and its module imports inspect. For type
checkers record() and field() are dataclass() and field(). At run time all records share the methods
below. What reads a dataclass (fields(), replace(), asdict(), inspect.signature(), a dataclass that
inherits from it) finds one: the first such use makes a dataclass of the same fields, and takes from
it what is missing.

Not in here: the records of the daemon, which are dataclasses.
"""

from __future__ import annotations

from operator import itemgetter

TYPE_CHECKING = False
if TYPE_CHECKING:
    import typing
    from collections.abc import Callable, Mapping
    from dataclasses import dataclass as record
    from dataclasses import field
else:
    from .later import typing


__all__ = ["field", "metadata_of", "record"]

_ABSENT: typing.Any = object()  # no default


class _Field:
    """What field() was given."""

    __slots__ = ("default", "factory", "metadata")

    def __init__(
        self,
        *,
        default: typing.Any = _ABSENT,
        default_factory: Callable[[], typing.Any] | None = None,
        metadata: Mapping[str, typing.Any] | None = None,
    ) -> None:
        self.default = default
        self.factory = default_factory
        self.metadata = metadata or {}


class _Fields(dict[str, _Field]):
    """The fields of a record, by name, in their order."""

    __slots__ = ("factories", "plain", "values_in")

    def __init__(self, fields: dict[str, _Field]) -> None:
        super().__init__(fields)
        self.plain = {
            name: one.default for name, one in fields.items() if one.default is not _ABSENT
        }
        self.factories = {name: one.factory for name, one in fields.items() if one.factory}
        # All values of a dict, as a tuple. itemgetter() does it in C, for two and more.
        self.values_in: Callable[[dict[str, typing.Any]], tuple[typing.Any, ...]] = (
            itemgetter(*fields)
            if len(fields) > 1
            else lambda of: tuple([of[name] for name in self])
        )


def _record(*, frozen: bool) -> Callable[[type], type]:
    if not frozen:
        raise TypeError("frozen is False; records are frozen")
    return _make


def _make(kind: type) -> type:
    """Makes a record of a class, and returns it."""
    given: dict[str, _Field] = {}
    for name in kind.__annotations__:
        value = vars(kind).get(name, _ABSENT)
        given[name] = value if type(value) is _Field else _Field(default=value)
        if given[name] is value:
            delattr(kind, name)
            if value.default is not _ABSENT:
                setattr(kind, name, value.default)
    methods: dict[str, typing.Any] = {
        "__record__": _Fields(given),
        "__match_args__": tuple(given),
        "__init__": _init,
        "__repr__": _repr,
        "__eq__": _eq,
        "__hash__": _hash,
        "__setattr__": _setattr,
        "__delattr__": _delattr,
        "__replace__": _replace,
    }
    for name in ("__dataclass_fields__", "__dataclass_params__", "__signature__"):
        methods[name] = _Later(kind, name)
    for name, method in methods.items():
        setattr(kind, name, method)
    return kind


def _init(self: typing.Any, /, *values: typing.Any, **named: typing.Any) -> None:
    fields = self.__record__
    found = self.__dict__
    if len(values) == len(fields) and not named:
        found.update(zip(fields, values, strict=True))
        return
    if not values:
        found.update(fields.plain)
        found.update(named)
        for name, make in fields.factories.items():
            if name not in named:
                found[name] = make()
        if found.keys() == fields.keys():
            return
        found.clear()
    if len(values) > len(fields):
        raise TypeError(
            f"{type(self).__name__} takes {len(fields)} arguments, and {len(values)} were given"
        )
    found.update(zip(fields, values, strict=False))
    for name, field in fields.items():
        if name in found:
            continue
        if name in named:
            found[name] = named.pop(name)
        elif field.factory is not None:
            found[name] = field.factory()
        elif field.default is not _ABSENT:
            found[name] = field.default
        else:
            raise TypeError(f"{type(self).__name__} needs the argument {name!r}")
    for name in named:
        what = "two values for the argument" if name in fields else "no argument"
        raise TypeError(f"{type(self).__name__} takes {what} {name!r}")


def _values(one: typing.Any) -> tuple[typing.Any, ...]:
    found: tuple[typing.Any, ...] = one.__record__.values_in(one.__dict__)
    return found


def _repr(self: typing.Any) -> str:
    found = self.__dict__
    shown = [f"{name}={found[name]!r}" for name in self.__record__]
    return f"{type(self).__qualname__}({', '.join(shown)})"


def _eq(self: typing.Any, other: object) -> bool:
    return _values(self) == _values(other) if type(self) is type(other) else NotImplemented


def _hash(self: typing.Any) -> int:
    return hash(_values(self))


def _setattr(self: typing.Any, name: str, value: object) -> None:
    _refuse(self, name, "assign to")
    object.__setattr__(self, name, value)


def _delattr(self: typing.Any, name: str) -> None:
    _refuse(self, name, "delete")
    object.__delattr__(self, name)


def _refuse(one: typing.Any, name: str, what: str) -> None:
    """Raises FrozenInstanceError, unless it is another attribute of a subclass."""
    if name in one.__record__ or "__record__" in vars(type(one)):
        from dataclasses import FrozenInstanceError

        raise FrozenInstanceError(f"cannot {what} field {name!r}")


def _replace(self: typing.Any, /, **changes: typing.Any) -> typing.Any:
    return type(self)(**dict(zip(self.__record__, _values(self), strict=True)) | changes)


class _Later:
    """An attribute that only what reads dataclasses asks for."""

    def __init__(self, kind: typing.Any, name: str) -> None:
        self._kind = kind
        self._name = name

    def __get__(self, one: object, kind: type | None = None) -> typing.Any:
        _complete(self._kind)
        if self._name == "__signature__":  # from now on it is __init__'s
            raise AttributeError(self._name)
        return vars(self._kind)[self._name]


def _complete(kind: typing.Any) -> None:
    """Gives a record what @dataclass would have given it besides."""
    from dataclasses import dataclass, field

    own: dict[str, typing.Any] = {}
    for name, given in kind.__record__.items():
        metadata = given.metadata
        if given.factory is not None:
            own[name] = field(default_factory=given.factory, metadata=metadata)
        elif given.default is not _ABSENT:
            own[name] = field(default=given.default, metadata=metadata)
        else:
            own[name] = field(metadata=metadata)
    for name in ("__annotations__", "__module__", "__qualname__"):
        own[name] = getattr(kind, name)
    made: typing.Any = dataclass(frozen=True)(type(kind.__name__, (), own))
    for name in ("__init__", "__dataclass_params__", "__dataclass_fields__"):
        setattr(kind, name, vars(made)[name])
    if "__signature__" in vars(kind):
        del kind.__signature__


def metadata_of(kind: typing.Any) -> dict[str, Mapping[str, typing.Any]]:
    """Returns the metadata of each field of a record, or of a dataclass."""
    if "__record__" in vars(kind):
        return {name: given.metadata for name, given in kind.__record__.items()}
    from dataclasses import fields

    return {one.name: one.metadata for one in fields(kind)}


if not TYPE_CHECKING:
    record, field = _record, _Field
