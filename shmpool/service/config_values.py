# SPDX-License-Identifier: Apache-2.0
"""Values of the configuration with a syntax of their own: addresses, paths, users, tokens,
files, large numbers.

Each function parses one kind; InvalidArgument says what is allowed.
"""

import ipaddress
import os
import pwd
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import errors
from ..names import printable

PATH_MAX = 107  # bytes of a socket's path
SIZE_MAX = 1 << 20  # bytes of a file
SHOWN = 80  # characters of a value or a line in a message
TOKEN = re.compile(r"[!-~]{16,4096}")  # what may stand in http_token_file
NUMBER_BITS = 2048  # of a number; Python does not convert a much longer one to decimal
EVERYBODY = "*"  # in adopt_users
_HOST = re.compile(r"(?=.{1,253}$)([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?(\.(?!$)|$))+")


@dataclass(frozen=True)
class Owners:
    """The users whose pools a daemon watches: its own user, root, the members of its groups where
    the pool's mode lets the group write, and the users that its configuration names."""

    users: frozenset[int]
    groups: frozenset[int]
    everybody: bool = False

    @classmethod
    def named(cls, users: list[str]) -> "Owners":
        """Returns these users and those that are always included. InvalidArgument."""
        numbers = {user_id(user) for user in users if user != EVERYBODY}
        return cls(
            frozenset({os.geteuid(), 0} | numbers),
            frozenset({os.getegid(), *os.getgroups()}),
            EVERYBODY in users,
        )

    def own(self, status: os.stat_result) -> bool:
        """True for the daemon's user, root and its groups: their pools are watched before those of
        the users that adopt_users names."""
        ours = status.st_uid in (os.geteuid(), 0)
        return ours or (status.st_gid in self.groups and bool(status.st_mode & stat.S_IWGRP))

    def include(self, status: os.stat_result) -> bool:
        """True if the pool in the file is watched."""
        return self.everybody or status.st_uid in self.users or self.own(status)


def user_id(user: str) -> int:
    """Returns the number of a user given by name or number. InvalidArgument."""
    try:
        return pwd.getpwnam(user).pw_uid
    except (KeyError, ValueError):  # ValueError: characters that no name can have
        if re.fullmatch("[0-9]{1,9}", user):
            return int(user)
        raise errors.InvalidArgument(f"user is {user!r}; there is no such user") from None


def http_address(text: str) -> tuple[str, int] | Path:
    """Returns host and port, or the path of a Unix socket. InvalidArgument."""
    if text.startswith("unix:"):
        return socket_path(text.removeprefix("unix:"))
    host, _, port = text.rpartition(":")
    if not host or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
        raise errors.InvalidArgument("it must be host:port, the port at most 65535")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not is_host(bare):
        raise errors.InvalidArgument("the host must be a name or an address")
    return bare, int(port)


def is_host(text: str) -> bool:
    """True if it is an IP address or a valid host name."""
    return is_address(text) or bool(_HOST.fullmatch(text))


def is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def socket_path(text: str) -> Path:
    """Returns the path, if a socket can have it. InvalidArgument."""
    if not text or "\0" in text or len(os.fsencode(text)) > PATH_MAX:
        raise errors.InvalidArgument(f"it must be a path of at most {PATH_MAX} bytes")
    if os.path.basename(text) in ("", ".", ".."):
        raise errors.InvalidArgument("it must be the path of a socket, not of a directory")
    return Path(text)


def lock_path(path: Path) -> Path:
    """Returns the path of the lock file beside a daemon's socket."""
    return path.with_name(path.name + ".lock")


def share_a_file(one: Path, other: Path) -> bool:
    """True if two sockets, each with its lock file, would be in each other's place."""
    files = [
        {path.parent.resolve() / path.name for path in (socket, lock_path(socket))}
        for socket in (one, other)
    ]
    return bool(files[0] & files[1])


def http_token(path: str) -> bytes:
    """Returns the token in a file that only the daemon's user and group can read.
    InvalidArgument."""
    try:
        status, text = os.stat(path), read_file(Path(path)).decode().strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise errors.InvalidArgument(f"it cannot be read: {reason}") from None
    if status.st_mode & 0o007:
        raise errors.InvalidArgument("everybody can read it; its mode must be 0600 or 0640")
    if status.st_uid not in (os.geteuid(), 0):
        raise errors.InvalidArgument(
            f"it belongs to user {status.st_uid}; it must belong to the daemon's user or root"
        )
    if not TOKEN.fullmatch(text):
        raise errors.InvalidArgument("it must hold 16 or more printable characters without spaces")
    return text.encode()


def read_file(path: Path) -> bytes:
    """Returns the contents of a regular file of at most SIZE_MAX bytes. Any other file could make
    the reader wait, or never end. OSError, ValueError."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):  # first: open() leaves a directory's fd open
            raise ValueError("it is not a regular file")
        with open(fd, "rb", closefd=False) as file:
            text = file.read(SIZE_MAX + 1) or b""
    finally:
        os.close(fd)
    if len(text) > SIZE_MAX:
        raise ValueError(f"it is longer than {SIZE_MAX} bytes")
    return text


def too_large(data: dict[str, Any]) -> tuple[str, ...] | None:
    """Returns the key of a number of more than NUMBER_BITS, or None. Python refuses such a number
    itself if it is decimal, but not if it is hexadecimal, octal or binary."""
    left: list[tuple[tuple[str, ...], Any]] = [((), data)]
    while left:
        path, value = left.pop()
        if isinstance(value, dict):
            left += [((*path, key), inner) for key, inner in value.items()]
        elif isinstance(value, list):
            left += [(path, inner) for inner in value]
        elif isinstance(value, int) and value.bit_length() > NUMBER_BITS:
            return path
    return None


def as_toml(value: Any) -> str:
    """Returns a value as a message shows it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return printable(value if value.bit_length() <= NUMBER_BITS else hex(value), SHOWN)
    try:
        return printable(f'"{value}"' if isinstance(value, str) else value, SHOWN)
    except (RecursionError, ValueError):  # ValueError: an array with a number that is too large
        return "..."
