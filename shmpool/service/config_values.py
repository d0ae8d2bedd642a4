# SPDX-License-Identifier: Apache-2.0
"""Texts in the configuration that stand for something else: an address, a path, a user, a token.

Each is checked here as a whole, and InvalidArgument says what it may be.
"""

import ipaddress
import os
import pwd
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from .. import errors

PATH_MAX = 107  # bytes of a socket's path
SIZE_MAX = 1 << 20  # bytes of a file
SHOWN = 80  # characters of a value or a line in a message
TOKEN = re.compile(r"[!-~]{16,4096}")  # what may stand in http_token_file
EVERYBODY = "*"  # in adopt_users
_HOST = re.compile(r"(?=.{1,253}$)([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?(\.(?!$)|$))+")


@dataclass(frozen=True)
class Owners:
    """Whose pools a daemon watches over: its own user's, root's, those for a group it is in, and
    those of the users that its configuration names."""

    users: frozenset[int]
    groups: frozenset[int]
    everybody: bool = False

    @classmethod
    def named(cls, users: list[str]) -> "Owners":
        """These, and those that are always so. InvalidArgument."""
        numbers = {user_id(user) for user in users if user != EVERYBODY}
        return cls(
            frozenset({os.geteuid(), 0} | numbers),
            frozenset({os.getegid(), *os.getgroups()}),
            EVERYBODY in users,
        )

    def own(self, status: os.stat_result) -> bool:
        """Whether the file goes before those of whoever else is let in."""
        ours = status.st_uid in (os.geteuid(), 0)
        return ours or (status.st_gid in self.groups and bool(status.st_mode & stat.S_IWGRP))

    def include(self, status: os.stat_result) -> bool:
        """Whether the file's pool is watched over."""
        return self.everybody or status.st_uid in self.users or self.own(status)


def user_id(user: str) -> int:
    """The number of a user given by name or number. InvalidArgument."""
    try:
        return pwd.getpwnam(user).pw_uid
    except (KeyError, ValueError):  # the latter: no user's name can hold such characters
        if re.fullmatch("[0-9]{1,9}", user):
            return int(user)
        raise errors.InvalidArgument(f"user is {user!r}; there is no such user") from None


def http_address(text: str) -> tuple[str, int] | Path:
    """host and port, or the path of a Unix socket. InvalidArgument."""
    if text.startswith("unix:"):
        return socket_path(text.removeprefix("unix:"))
    host, _, port = text.rpartition(":")
    if not host or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
        raise errors.InvalidArgument("it is host:port, the port at most 65535")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not is_host(bare):
        raise errors.InvalidArgument("the host is a name or an address")
    return bare, int(port)


def is_host(text: str) -> bool:
    """Whether it is an IP address or can be the name of a machine."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return bool(_HOST.fullmatch(text))
    return True


def socket_path(text: str) -> Path:
    """The path, if a socket can have it. InvalidArgument."""
    if not text or "\0" in text or len(os.fsencode(text)) > PATH_MAX:
        raise errors.InvalidArgument(f"it is a path of at most {PATH_MAX} bytes")
    return Path(text)


def http_token(path: str) -> bytes:
    """The token in a file that nobody else may read. InvalidArgument."""
    try:
        status, text = os.stat(path), read_file(Path(path)).decode().strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise errors.InvalidArgument(f"it cannot be read: {reason}") from None
    if status.st_mode & 0o007:
        raise errors.InvalidArgument("everybody can read it; its mode is 0600 or 0640")
    if status.st_uid not in (os.geteuid(), 0):
        raise errors.InvalidArgument(f"it belongs to user {status.st_uid}, who so knows the token")
    if not TOKEN.fullmatch(text):
        raise errors.InvalidArgument("it holds 16 or more printable characters without spaces")
    return text.encode()


def read_file(path: Path) -> bytes:
    """What stands in a regular file of at most SIZE_MAX bytes; anything else might make the reader
    wait, or never end. OSError, ValueError."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ValueError("it is no file")
        text = file.read(SIZE_MAX + 1) or b""
    if len(text) > SIZE_MAX:
        raise ValueError(f"it is longer than {SIZE_MAX} bytes")
    return text
