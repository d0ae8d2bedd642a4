# SPDX-License-Identifier: Apache-2.0
"""The daemon's configuration: read from TOML, checked as a whole before anything is made of it.

What is wrong is said with its line and value, all of it at once. Of the machine only the size of
/dev/shm is asked; what exists there already is the registry's business.
"""

import operator
import os
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, Literal, get_origin

from cattrs import Converter
from cattrs.errors import (
    AttributeValidationNote,
    ForbiddenExtraKeysError,
    IterableValidationNote,
)
from cattrs.gen import make_dict_structure_fn

from .. import errors
from ..names import LINE_SHOWN, checked_name, printable
from ..os_errors import SHM, mib, shared_memory
from ..rpc import records
from ..segment import group_id
from ..view import Geometry
from . import config_lines
from .alarms import Policy
from .config_values import SHOWN, Owners, http_address, http_token, is_host, read_file, socket_path
from .handlers import WATCHED_MAX

INTERVAL_MAX = 3600.0  # s
REDELIVERIES_MAX = 2**32 - 1


class ConfigError(errors.InvalidArgument):
    """The configuration cannot be used; one line of the message for each reason."""


@dataclass(frozen=True)
class DaemonOptions:
    """[daemon]"""

    socket: str | None = None  # $SHMPOOL_SOCKET, or in $XDG_RUNTIME_DIR/shmpool
    http: str | None = None  # host:port, or unix:PATH; without it there is no HTTP
    http_hosts: list[str] = field(default_factory=list)  # other names that HTTP is asked by
    http_token_file: str | None = None  # a file with the token that HTTP asks for
    read_group: str | None = (
        None  # members of this group may use the read-only requests (ls, stats, ...)
    )
    interval: float = 1.0  # s between two scans of every pool
    adopt: list[str] = field(default_factory=lambda: ["*"])  # patterns of the pools to watch
    adopt_users: list[str] = field(default_factory=list)  # whose, besides its own; "*": everybody's
    prune: bool = True  # remove abandoned pools
    max_clients: int = 256  # the most that may be connected at once
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    def adopts(self, name: str) -> bool:
        """Whether a pool that no [pools] table declares is watched over."""
        return any(fnmatchcase(name, pattern) for pattern in self.adopt)


@dataclass(frozen=True)
class PoolConfig(Policy, records.PoolOptions):
    """[pools.NAME]"""

    queues: dict[str, records.QueueOptions] = field(default_factory=dict)  # by name


@dataclass(frozen=True)
class Tables:
    """What may stand in the file."""

    daemon: DaemonOptions = field(default_factory=DaemonOptions)
    pools: dict[str, PoolConfig] = field(default_factory=dict)


class Document:
    """The file itself, so that whoever finds something wrong can say where it stands."""

    def __init__(
        self, text: str = "", data: dict[str, Any] | None = None, source: str = ""
    ) -> None:
        self._text, self._data, self._source = text, data or {}, source

    @cached_property
    def _lines(self) -> dict[config_lines.Path, int]:
        return config_lines.key_lines(self._text)

    def line(self, path: config_lines.Path) -> int:
        """The line of a key, or of the innermost table around it that is there."""
        while path and path not in self._lines:
            path = path[:-1]
        return self._lines.get(path, 1)

    def key(self, path: config_lines.Path) -> str:
        """The key with its value, if the file gives it one."""
        value: Any = self._data
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        shown = f" = {_toml(value)}" if value is not None and not isinstance(value, dict) else ""
        return f"{'.'.join(path) or 'file'}{shown}"

    def said(self, line: int, message: str) -> str:
        """The message with the file and the line before it."""
        return f"{self._source}, line {line}: {message}"

    def error(self, path: config_lines.Path, message: str) -> ConfigError:
        """What is wrong with one value."""
        return ConfigError(self.said(self.line(path), f"{self.key(path)}: {message}"))


@dataclass(frozen=True)
class Config(Tables):
    """The whole file, and where it says so."""

    document: Document = field(default_factory=Document, compare=False, repr=False)


def load(path: Path) -> Config:
    """The configuration in a file. ConfigError."""
    try:
        return parse(read_file(path).decode(), str(path))
    except (OSError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{str(path)!r}: {reason}") from None


def parse(text: str, source: str = "config") -> Config:
    """The configuration in a text. ConfigError."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(_syntax(text, source, str(error))) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(_unreadable(text, source, error)) from None
    document = Document(text, data, source)
    trouble = _Trouble(document)
    try:
        tables = _converter().structure(data, Tables)
    except Exception as error:  # an ExceptionGroup: cattrs collects
        _collect(error, (), trouble)
        raise trouble.error() from None
    _check(tables, trouble)
    if trouble.lines:
        raise trouble.error()
    return Config(tables.daemon, tables.pools, document)


class _Trouble:
    """What is wrong, by where it stands."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self.lines: list[tuple[int, str]] = []

    def add(self, path: config_lines.Path, message: str) -> None:
        self.lines.append((self._document.line(path), f"{self._document.key(path)}: {message}"))

    def error(self) -> ConfigError:
        return ConfigError("\n".join(self._document.said(*line) for line in sorted(self.lines)))


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    try:
        return printable(f'"{value}"' if isinstance(value, str) else value, SHOWN)
    except RecursionError:
        return "..."


def _syntax(text: str, source: str, message: str) -> str:
    """tomllib's message, with the line it is about."""
    what, _, place = message.partition(" (at ")
    lines = text.removesuffix("\n").split("\n")
    number = place.removeprefix("line ").split(",")[0]
    at = int(number) if number.isdigit() else len(lines)
    line = lines[at - 1].strip() if at <= len(lines) else ""
    return f"{source}, line {at}: {printable(line, SHOWN)}: {printable(what, LINE_SHOWN)}"


def _unreadable(text: str, source: str, error: Exception) -> str:
    """What Python, not TOML, has no room for; the line is where there is most of it."""
    lines = text.split("\n")
    if isinstance(error, RecursionError):
        at = max(range(len(lines)), key=lambda i: sum(map(lines[i].count, "[{.")))
        return f"{source}, line {at + 1}: arrays and tables are nested too deeply"
    at = max(range(len(lines)), key=lambda i: sum(map(str.isdigit, lines[i])))
    return f"{source}, line {at + 1}: {printable(lines[at].strip(), SHOWN)}: a number is too large"


Hook = Callable[[Any, Any], Any]
_WORDS = {
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "true or false",
    list: "an array",
    dict: "a table",
}


def _strict(kind: type, go_on: Hook) -> Hook:
    """A hook that takes only what has that type in the file; cattrs by itself would convert."""

    def structure(value: Any, wanted: Any) -> Any:
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise TypeError(f"it is {_WORDS[kind]}")
        return go_on(value, wanted)

    return structure


@cache  # the code that it generates stays for good
def _converter() -> Converter:
    converter = Converter(forbid_extra_keys=True, detailed_validation=True)
    for plain in (str, int, float, bool):
        converter.register_structure_hook(plain, _strict(plain, lambda value, kind: kind(value)))
    # Each before those that contain it: cattrs looks for a field's hook when it makes the record's.
    ordered: tuple[Any, ...] = (
        list[str], records.QueueOptions, dict[str, records.QueueOptions],
        PoolConfig, dict[str, PoolConfig], DaemonOptions,
    )  # fmt: skip
    for kind in ordered:
        origin = get_origin(kind)
        if origin is None:
            fill = make_dict_structure_fn(kind, converter, _cattrs_forbid_extra_keys=True)
            converter.register_structure_hook(kind, _strict(dict, fill))
        else:
            strict = _strict(origin, converter.get_structure_hook(kind))
            converter.register_structure_hook_func(partial(operator.eq, kind), strict)
    return converter


def _collect(error: BaseException, path: config_lines.Path, trouble: _Trouble) -> None:
    """The leaves of what cattrs raises, each with its path."""
    for note in getattr(error, "__notes__", ()):
        if isinstance(note, IterableValidationNote):
            path = (*path, str(note.index))
        elif isinstance(note, AttributeValidationNote):
            path = (*path, note.name)
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            _collect(inner, path, trouble)
    elif isinstance(error, ForbiddenExtraKeysError):
        known = ", ".join(sorted(known.name for known in fields(error.cl)))
        for key in sorted(error.extra_fields):
            trouble.add((*path, key), f"unknown key; known are {known}")
    elif isinstance(error, KeyError):
        trouble.add(path[:-1] if path and path[-1] == error.args[0] else path,
                    f"{error.args[0]} is missing")  # fmt: skip
    else:
        trouble.add(path, str(error))


def _check(config: Tables, trouble: _Trouble) -> None:
    """What types cannot say."""
    daemon = config.daemon
    for option, check in (
        ("http", http_address),
        ("socket", socket_path),
        ("http_token_file", http_token),
        ("adopt_users", Owners.named),
    ):
        value = getattr(daemon, option)
        try:
            if value is not None:
                check(value)
        except errors.InvalidArgument as error:
            trouble.add(("daemon", option), str(error))
    if not all(map(is_host, daemon.http_hosts)):
        trouble.add(("daemon", "http_hosts"), "each is a name or an address, without a port")
    if not 0.05 <= daemon.interval <= INTERVAL_MAX:
        trouble.add(("daemon", "interval"), f"it is from 0.05 to {INTERVAL_MAX} seconds")
    if daemon.max_clients < 1:
        trouble.add(("daemon", "max_clients"), "it is at least 1")
    _check_group(daemon.read_group, ("daemon", "read_group"), trouble)
    for name in list(config.pools)[WATCHED_MAX:]:
        trouble.add(("pools", name), f"{WATCHED_MAX} pools are the most")
    room, _ = shared_memory()
    for name, pool in config.pools.items():
        _check_pool(name, pool, room, trouble)


def _check_group(group: str | None, path: config_lines.Path, trouble: _Trouble) -> None:
    try:
        number = group_id(group)
    except errors.InvalidArgument:
        trouble.add(path, "there is no such group")
        return
    if group is not None and os.geteuid() and number not in (os.getegid(), *os.getgroups()):
        trouble.add(path, "the daemon's user is not in this group, and so cannot give it anything")


def _check_pool(name: str, pool: PoolConfig, room: int, trouble: _Trouble) -> None:
    path = ("pools", name)
    try:
        checked_name(name, "pool")
        geometry = Geometry.planned(name, pool.geometry())
    except errors.InvalidArgument as error:
        message = str(error).removeprefix(f"pool {name!r}: ")
        option = message.split()[0]
        option = {"members": "max_members", "queues": "max_queues"}.get(option, option)
        known = option in records.PoolOptions.__dataclass_fields__
        trouble.add((*path, option) if known else path, message)
    else:
        if len(pool.queues) > geometry.queues:
            trouble.add(
                (*path, "queues", list(pool.queues)[geometry.queues]),
                f"it is one more than max_queues, {geometry.queues}",
            )
        wanted = geometry.prealloc * geometry.buffer_size  # the rest takes memory when it is used
        if wanted > room:
            trouble.add(
                (*path, "prealloc"),
                f"times buffer_size {geometry.buffer_size} is {mib(wanted, up=True)}; "
                f"{SHM} has {mib(room)}",
            )
    if not (pool.mode.isdigit() and set(pool.mode) <= set("01234567") and int(pool.mode, 8) < 512):
        trouble.add((*path, "mode"), 'it is octal, from "0000" to "0777"')
    elif int(pool.mode, 8) & 0o600 != 0o600:
        trouble.add((*path, "mode"), "it keeps the daemon itself out; it is at least 0600")
    _check_group(pool.group, (*path, "group"), trouble)
    for option in ("low_water", "queue_full_s", "held_s", "trim_to", "trim_after_s"):
        if not 0 <= (getattr(pool, option) or 0) < float("inf"):
            trouble.add((*path, option), "it is a number from 0 on")
    for option in ("low_water", "trim_to"):
        if (getattr(pool, option) or 0) > pool.capacity > 0:
            trouble.add((*path, option), f"the capacity, {pool.capacity}, is the most")
    for queue_name, queue in pool.queues.items():
        _check_queue(queue_name, queue, pool, (*path, "queues", queue_name), trouble)
    circle = letters_in_a_circle(pool.queues)
    if circle:
        trouble.add(
            (*path, "queues", circle[0], "dead_letter"),
            f"the dead letters of {', '.join(circle)} go in a circle",
        )


def letters_in_a_circle(queues: dict[str, records.QueueOptions]) -> list[str]:
    """The queues whose dead letters come back to them, if there are any."""
    done: set[str | None] = set()
    for first in queues:
        chain: list[str] = []
        at: str | None = first
        while at is not None and at in queues and at not in done:
            done.add(at)
            chain.append(at)
            at = queues[at].dead_letter
        if at is not None and at in chain:
            return sorted(chain[chain.index(at) :])
    return []


def _check_queue(
    name: str,
    queue: records.QueueOptions,
    pool: PoolConfig,
    path: config_lines.Path,
    trouble: _Trouble,
) -> None:
    try:
        checked_name(name, "queue")
    except errors.InvalidArgument as error:
        trouble.add(path, str(error))
    if not 2 <= queue.capacity <= 65536 or queue.capacity & queue.capacity - 1:
        trouble.add((*path, "capacity"), "allowed is a power of two from 2 to 65536")
    if not 0 <= queue.max_redeliveries <= REDELIVERIES_MAX:
        trouble.add((*path, "max_redeliveries"), f"it is from 0 to {REDELIVERIES_MAX}")
    if queue.on_death == "dead-letter" and queue.dead_letter is None:
        trouble.add((*path, "on_death"), "it needs dead_letter, the queue they go to")
    if queue.on_death == "requeue" and queue.producers == "single":
        trouble.add((*path, "on_death"), 'it needs producers = "multi"')
    if queue.dead_letter is not None:
        letter = pool.queues.get(queue.dead_letter)
        if letter is None:
            trouble.add((*path, "dead_letter"), "the pool declares no such queue")
        elif letter.producers == "single":
            trouble.add((*path, "dead_letter"), 'that queue needs producers = "multi"')
