# SPDX-License-Identifier: Apache-2.0
"""The daemon's Unix socket: one daemon a path, and nobody else's file is removed."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from . import errors

BACKLOG = 1024


class CannotListen(errors.ShmpoolError):
    """Why the daemon cannot listen at its socket, in one line."""


@contextlib.contextmanager
def listening(path: Path, group: int) -> Iterator[socket.socket]:
    """A socket that listens at the path, for this user; and for a group, unless it is -1.

    Its file is gone afterwards. CannotListen: a daemon is there already, somebody else listens
    there, the path is no socket, no permission.
    """
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(mode=0o700 if group == -1 else 0o755, parents=True, exist_ok=True)
            stack.enter_context(_lock(path))
            _remove_stale(path)
            sock = stack.enter_context(
                socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            )
            before = os.umask(0o177)  # between bind and chmod nobody else gets in
            try:
                sock.bind(str(path))
            finally:
                os.umask(before)
            stack.callback(path.unlink, missing_ok=True)
            if group != -1:
                os.chown(path, -1, group)
                os.chmod(path, 0o660)
            sock.listen(BACKLOG)
            sock.setblocking(False)
        except OSError as error:
            reason = error.strerror or error
            raise CannotListen(f"cannot listen at {path}: {reason}") from None
        yield sock


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """The right to be the daemon of this path. The kernel takes it back from whoever dies."""
    lock = path.with_name(path.name + ".lock")
    while True:
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(fd, 20, 0).decode("ascii", "replace").strip()
            os.close(fd)
            raise CannotListen(f"a daemon, process {pid}, is at {path} already") from None
        if os.fstat(fd).st_nlink:
            break
        os.close(fd)  # the last holder has just removed it
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(fd)


def _remove_stale(path: Path) -> None:
    """Removes the socket file of a daemon that was killed: nobody listens at it."""
    if not path.exists():
        return
    if not path.is_socket():
        raise CannotListen(f"cannot listen at {path}: it is there and no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
    raise CannotListen(f"cannot listen at {path}: another program listens there")
