# SPDX-License-Identifier: Apache-2.0
"""The daemon's configuration: read from TOML, and checked as a whole before it is used.

Every mistake is reported, with its line and value. Pools that exist are not read here.
"""

import os
import re
import tomllib
import types
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from .. import errors
from ..bridge.config import LinkOptions, common_refusals, link_refusals
from ..geometry import Geometry, plan
from ..names import LINE_SHOWN, checked_name, printable
from ..options import (
    Option,
    PoolOptions,
    QueueOptions,
    TopicOptions,
    about,
    letters_in_a_circle,
    options_of,
    out_of_range,
    queue_refusals,
    topic_refusals,
)
from ..os_errors import SHM, shared_memory, size_text
from ..rpc import wire
from ..segment import group_id
from . import config_lines
from .alarms import Policy
from .config_values import (
    SHOWN,
    Owners,
    as_toml,
    http_address,
    http_token,
    is_host,
    read_file,
    socket_path,
    too_large,
)  # fmt: skip
from .handlers import WATCHED_MAX

FLOAT_BITS = 1024  # of an integer that no float holds
LogLevel = Literal["debug", "info", "warning", "error"]


class ConfigError(errors.InvalidArgument):
    """The configuration cannot be used; one line of the message for each reason."""


@dataclass(frozen=True)
class DaemonOptions:
    """[daemon]"""

    # fmt: off
    socket: str | None = field(default=None, metadata=about(Option(
        "Path of the socket for requests.",
        default="$SHMPOOL_SOCKET, or daemon.sock in $XDG_RUNTIME_DIR/shmpool")))
    http: str | None = field(default=None, metadata=about(Option(
        "Address of the HTTP server: host:port, or unix:PATH.", default="no HTTP")))
    http_hosts: list[str] = field(default_factory=list, metadata=about(Option(
        "Other host names under which HTTP requests are answered.",
        default="[]")))
    http_token_file: str | None = field(default=None, metadata=about(Option(
        "File with the token that HTTP requests must have.", default="no token")))
    read_group: str | None = field(default=None, metadata=about(Option(
        "Members of this group may use the read-only requests (ls, stats, ...).",
        default="no group")))
    interval: float = field(default=1.0, metadata=about(Option(
        "Time between two scans of every pool.", "seconds", 0.05, 3600)))
    adopt: list[str] = field(default_factory=lambda: ["*"], metadata=about(Option(
        "Patterns of the names of pools to watch.",
        default='["*"]')))
    adopt_users: list[str] = field(default_factory=list, metadata=about(Option(
        'Other users whose pools are watched; "*" for all users.',
        default="[]")))
    prune: bool = field(default=True, metadata=about(Option("Remove abandoned pools.")))
    max_clients: int = field(default=256, metadata=about(Option(
        "Clients that can be connected at once.", "clients", 1)))
    log_level: LogLevel = field(default="info", metadata=about(Option(
        "The least important messages that are logged.",
        choices=get_args(LogLevel))))
    # fmt: on

    def adopts(self, name: str) -> bool:
        """Whether a pool that no [pools] table declares is watched."""
        return any(fnmatchcase(name, pattern) for pattern in self.adopt)


@dataclass(frozen=True)
class PoolConfig(Policy, PoolOptions):
    """[pools.NAME]"""

    queue: dict[str, QueueOptions] = field(default_factory=dict)  # by name
    topic: dict[str, TopicOptions] = field(default_factory=dict)  # by name


@dataclass(frozen=True)
class Tables:
    """The tables that the file can have."""

    daemon: DaemonOptions = field(default_factory=DaemonOptions)
    pools: dict[str, PoolConfig] = field(default_factory=dict)
    link: list[LinkOptions] = field(default_factory=list)


class Document:
    """The file itself, to name the line and the value of a mistake."""

    def __init__(
        self, text: str = "", data: dict[str, Any] | None = None, source: str = ""
    ) -> None:
        self._text, self._data, self._source = text, data or {}, source

    @cached_property
    def _lines(self) -> dict[config_lines.Path, int]:
        return config_lines.key_lines(self._text)

    def line(self, path: config_lines.Path) -> int:
        """Returns the line of a key, or of the innermost table around it that exists."""
        while path and path not in self._lines:
            path = path[:-1]
        return self._lines.get(path, 1)

    def key(self, path: config_lines.Path) -> str:
        """Returns the key, with its value if it has one."""
        value: Any = self._data
        for key in path:
            if isinstance(value, list) and key.isdigit() and int(key) < len(value):
                value = value[int(key)]
            else:
                value = value.get(key) if isinstance(value, dict) else None
        shown = f" = {as_toml(value)}" if value is not None and not isinstance(value, dict) else ""
        return f"{'.'.join(path) or 'file'}{shown}"

    def said(self, line: int, message: str) -> str:
        """Returns the message with the file and the line before it."""
        return f"{self._source}, line {line}: {message}"

    def error(self, path: config_lines.Path, message: str) -> ConfigError:
        """Returns the exception for one wrong value."""
        return ConfigError(self.said(self.line(path), f"{self.key(path)}: {message}"))


@dataclass(frozen=True)
class Config(Tables):
    """The whole file, and the text that it was read from."""

    document: Document = field(default_factory=Document, compare=False, repr=False)


def load(path: Path) -> Config:
    """Reads the configuration in a file. ConfigError."""
    try:
        return parse(read_file(path).decode(), str(path))
    except (OSError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{str(path)!r}: {reason}") from None


def parse(text: str, source: str = "config") -> Config:
    """Reads the configuration in a text. ConfigError."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(_syntax(text, source, str(error))) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(_unreadable(text, source, error)) from None
    document = Document(text, data, source)
    trouble = _Trouble(document)
    if (path := too_large(data)) is not None:
        raise document.error(path, "the number is too large; options take at most 64 bits")
    tables = _read(Tables, data, (), trouble)
    if trouble.lines:
        raise trouble.error()
    _check(tables, trouble)
    if trouble.lines:
        raise trouble.error()
    return Config(tables.daemon, tables.pools, tables.link, document)


class _Trouble:
    """The mistakes found so far, each with its line."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self.lines: list[tuple[int, str]] = []

    def add(self, path: config_lines.Path, message: str) -> None:
        self.lines.append((self._document.line(path), f"{self._document.key(path)}: {message}"))

    def check(self, path: config_lines.Path, check: Callable[..., object], *values: object) -> None:
        """Calls check(*values), and adds its InvalidArgument."""
        try:
            check(*values)
        except errors.InvalidArgument as error:
            self.add(path, str(error))

    def error(self) -> ConfigError:
        return ConfigError("\n".join(self._document.said(*line) for line in sorted(self.lines)))


def _syntax(text: str, source: str, message: str) -> str:
    """Returns tomllib's message, with the line it is about."""
    what, _, place = message.partition(" (at ")
    lines = text.removesuffix("\n").split("\n")
    number = place.removeprefix("line ").split(",")[0]
    at = int(number) if number.isdigit() else len(lines)
    line = lines[at - 1].strip() if at <= len(lines) else ""
    return f"{source}, line {at}: {printable(line, SHOWN)}: {printable(what, LINE_SHOWN)}"


def _unreadable(text: str, source: str, error: Exception) -> str:
    """A limit of Python's, not of TOML; the line is the one that has most of it."""
    lines = text.split("\n")
    if isinstance(error, RecursionError):
        at = max(range(len(lines)), key=lambda i: sum(map(lines[i].count, "[{.")))
        return f"{source}, line {at + 1}: arrays and tables are nested too deeply"
    at = max(range(len(lines)), key=lambda i: sum(map(str.isdigit, lines[i])))
    return f"{source}, line {at + 1}: {printable(lines[at].strip(), SHOWN)}: a number is too large"


_WORDS = {
    str: "a string", int: "an integer", float: "a number", bool: "true or false",
    list: "an array", dict: "a table",
}  # fmt: skip


def _read(kind: Any, value: Any, path: config_lines.Path, trouble: _Trouble) -> Any:
    """Returns a value of tomllib as one of that type. Adds what does not fit, and where."""
    if is_dataclass(kind):
        return _read_record(kind, value, path, trouble)
    origin, inner = get_origin(kind) or kind, get_args(kind)
    if origin is Literal:
        fits, allowed = value in inner, wire.spelled(kind)
    elif origin in (Union, types.UnionType):  # with None, which TOML does not have
        choices = {get_origin(c) or c: c for c in inner if c is not types.NoneType}
        if type(value) in choices:
            return _read(choices[type(value)], value, path, trouble)
        fits, allowed = False, " or ".join(map(_WORDS.__getitem__, choices))
    else:
        fits, allowed = type(value) is origin, _WORDS[origin]
    if origin is float and type(value) is int:
        fits, allowed = value.bit_length() < FLOAT_BITS, "smaller: the number is too large"
    if not fits:
        trouble.add(path, f"it must be {allowed}")
    elif origin is list:
        return [_read(inner[0], v, (*path, str(i)), trouble) for i, v in enumerate(value)]
    elif origin is dict:
        return {key: _read(inner[1], v, (*path, key), trouble) for key, v in value.items()}
    elif origin is float:
        return float(value)
    return value


def _read_record(kind: Any, value: Any, path: config_lines.Path, trouble: _Trouble) -> Any:
    """Returns a table as a record; None if anything does not fit."""
    if type(value) is not dict:
        trouble.add(path, "it must be a table")
        return None
    known, options, found = wire.hints(kind), options_of(kind), {}
    written = {as_written(name) for name in known}
    for key in value.keys() - written:
        trouble.add((*path, key), f"unknown key; known are {', '.join(sorted(written))}")
    for option in fields(kind):
        name, key = option.name, as_written(option.name)
        at = (*path, key)
        if key not in value:
            if wire.is_required(option):
                trouble.add(path, f"{key} is missing")
        elif name in options and options[name].octal:
            found[name] = _read_octal(value[key], at, trouble)
        else:
            found[name] = _read(known[name], value[key], at, trouble)
    return None if trouble.lines else kind(**found)


def as_written(name: str) -> str:
    """Returns an option's name in the file: `from`, which no field of a record can be called."""
    return name.removesuffix("_")


def _read_octal(value: Any, path: config_lines.Path, trouble: _Trouble) -> int:
    if isinstance(value, str) and re.fullmatch("0?[0-7]{3}", value):
        return int(value, 8)
    trouble.add(path, 'it must be a string in octal, from "0000" to "0777"')
    return 0


def _check(config: Tables, trouble: _Trouble) -> None:
    """Adds the mistakes that types do not show."""
    daemon = config.daemon
    for option, check in (
        ("http", http_address),
        ("socket", socket_path),
        ("http_token_file", http_token),
        ("adopt_users", Owners.named),
    ):
        if (value := getattr(daemon, option)) is not None:
            trouble.check(("daemon", option), check, value)
    if not all(map(is_host, daemon.http_hosts)):
        trouble.add(("daemon", "http_hosts"), "each must be a name or an address, without a port")
    for key, meaning in options_of(DaemonOptions).items():
        if refusal := out_of_range(key, meaning, getattr(daemon, key)):
            trouble.add(("daemon", key), refusal.demand)
    _check_group(daemon.read_group, ("daemon", "read_group"), trouble)
    for name in list(config.pools)[WATCHED_MAX:]:
        trouble.add(("pools", name), f"a daemon watches at most {WATCHED_MAX} pools")
    room, _ = shared_memory()
    for name, pool in config.pools.items():
        _check_pool(name, pool, room, trouble)
    _check_links(config.link, trouble)


def _check_links(links: list[LinkOptions], trouble: _Trouble) -> None:
    faults = [(i, *why) for i, link in enumerate(links) for why in link_refusals(link)]
    for i, option, why in faults or common_refusals(links):
        trouble.add(("link", str(i), *as_written(option).split(".")), why)


def _check_group(group: str | int | None, path: config_lines.Path, trouble: _Trouble) -> None:
    try:
        number = group_id(group)
    except errors.InvalidArgument:
        trouble.add(path, "there is no such group")
        return
    if group is not None and os.geteuid() and number not in (os.getegid(), *os.getgroups()):
        trouble.add(path, "the daemon's user must be a member of this group to use it")


def _check_pool(name: str, pool: PoolConfig, room: int, trouble: _Trouble) -> None:
    path = ("pools", name)
    trouble.check(path, checked_name, name, "pool")
    geometry, refusal = plan(pool)
    if refusal is not None:
        option, of_class, _ = refusal.option.partition("[")
        trouble.add((*path, option), str(refusal) if of_class else refusal.demand)
    else:
        named = [("queue", name) for name in pool.queue] + [("topic", name) for name in pool.topic]
        if len(named) > geometry.queues:
            trouble.add(
                (*path, *named[geometry.queues]),
                f"the pool can have {geometry.queues} queues and topics; raise queues",
            )
        sizes = Geometry.of(geometry).sizes
        # The rest takes memory when it is used.
        wanted = sum(one.prealloc * one.buffer_size for one in sizes)
        if wanted > room:
            times = " and ".join(str(one.buffer_size) for one in sizes)
            trouble.add(
                (*path, "prealloc"),
                f"times buffer_size {times} is {size_text(wanted, up=True)}; {SHM} has "
                f"{size_text(room)}",
            )
    if pool.mode & 0o600 != 0o600:
        trouble.add((*path, "mode"), "it must include 0600, which the daemon itself needs")
    _check_group(pool.group, (*path, "group"), trouble)
    for option in ("low_water", "queue_full_s", "held_s", "trim_to", "trim_after_s"):
        if not 0 <= (getattr(pool, option) or 0) < float("inf"):
            trouble.add((*path, option), "it must be a number from 0")
    most = Geometry.of(geometry).capacity if refusal is None else None
    for option in ("low_water", "trim_to"):
        if most is not None and (getattr(pool, option) or 0) > most:
            trouble.add((*path, option), f"it must be at most the capacity, {most}")
    for queue_name, queue in pool.queue.items():
        at = (*path, "queue", queue_name)
        trouble.check(at, checked_name, queue_name, "queue")
        letter = pool.queue.get(queue.dead_letter or "")
        for refusal in queue_refusals(queue, letter.producers if letter else None):
            trouble.add((*at, refusal.option), refusal.demand)
        if queue.dead_letter is not None and letter is None:
            trouble.add((*at, "dead_letter"), "the pool declares no such queue")
    kept = 0
    for topic_name, topic in pool.topic.items():
        at = (*path, "topic", topic_name)
        trouble.check(at, checked_name, topic_name, "topic")
        for refusal in topic_refusals(topic, most, kept):
            trouble.add((*at, refusal.option), refusal.demand)
        kept += topic.depth
        if topic_name in pool.queue:
            trouble.add(at, "the pool declares a queue of the same name")
    if circle := letters_in_a_circle(pool.queue):
        trouble.add(
            (*path, "queue", circle[0], "dead_letter"),
            f"the dead letters of {', '.join(circle)} go in a circle",
        )
