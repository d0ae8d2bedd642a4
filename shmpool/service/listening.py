# SPDX-License-Identifier: Apache-2.0
"""Listening sockets: one daemon a path, nobody else's file touched, and connections taken only
while there is room for them.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import re
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from .. import errors

log = logging.getLogger("shmpool")

BACKLOG = 1024
BATCH = 64  # connections taken before others have their turn
SHORT_S = 0.1  # until accept() is tried again after it failed: no descriptors, no memory
FULL_S = (
    0.5  # how long a connection waits for room before it is taken to be told that there is none
)
_LOCK_MAX = 20  # bytes of a lock file: a process number and a line break
_TRIES = 100  # to lock a file that its last holder removes each time


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
            stack.callback(_remove, path)
            if group != -1:
                give_to_group(path, group)
            sock.listen(BACKLOG)
            sock.setblocking(False)
        except OSError as error:
            reason = error.strerror or error
            raise CannotListen(f"cannot listen at {path}: {reason}") from None
        yield sock


def give_to_group(path: Path, group: int) -> None:
    """Lets the members of a group connect to a socket of this user's. OSError.

    By a descriptor, so that nothing else can be put under the path in between.
    """
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if not stat.S_ISSOCK(status.st_mode) or status.st_uid != os.geteuid():
            raise OSError("it is no socket of this user")
        os.chown(f"/proc/self/fd/{fd}", -1, group)
        os.chmod(f"/proc/self/fd/{fd}", 0o660)
    finally:
        os.close(fd)


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """The right to be the daemon of this path. The kernel takes it back from whoever dies."""
    lock = path.with_name(path.name + ".lock")
    for _ in range(_TRIES):
        fd = _open_lock(path, lock)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            there = os.fstat(fd).st_nlink > 0
        except BlockingIOError:
            pid = os.pread(fd, _LOCK_MAX, 0).decode("ascii", "replace").strip()
            os.close(fd)
            raise CannotListen(f"a daemon, process {pid}, is at {path} already") from None
        except OSError:
            os.close(fd)
            raise
        if there:
            break
        os.close(fd)  # the last holder has just removed it
    else:
        raise CannotListen(f"cannot listen at {path}: {lock} is removed again and again")
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        _remove(lock)
        os.close(fd)


def _remove(path: Path) -> None:
    """Removes a file of ours that does no harm where it stays."""
    with contextlib.suppress(OSError):
        path.unlink()


def _open_lock(path: Path, lock: Path) -> int:
    """The lock file, made if it is not there. CannotListen if it is not one of this user's: what a
    link leads to, or was put there by somebody else, is neither written to nor waited for."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        fd = os.open(lock, flags, 0o600)
    except OSError as error:
        raise CannotListen(f"cannot listen at {path}: {lock}: {error.strerror}") from None
    good = False
    try:
        status = os.fstat(fd)
        good = (
            stat.S_ISREG(status.st_mode)
            and status.st_uid == os.geteuid()
            and status.st_nlink <= 1
            and status.st_size <= _LOCK_MAX
            and re.fullmatch(rb"[0-9]*\n?", os.pread(fd, _LOCK_MAX, 0)) is not None
        )
    finally:
        if not good:
            os.close(fd)
    if not good:
        raise CannotListen(f"cannot listen at {path}: {lock} is no lock file of this user")
    return fd


def _remove_stale(path: Path) -> None:
    """Removes the socket file of a daemon that was killed: nobody listens at it."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise CannotListen(f"cannot listen at {path}: it exists and is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
    raise CannotListen(f"cannot listen at {path}: another program listens there")


class Acceptor:
    """Takes connections from a listening socket while there is room; others wait in its backlog.

    One that has waited for FULL_S without room is taken all the same, so that its protocol can say
    why it is refused. Where accept() fails for want of descriptors it is tried again every SHORT_S,
    not at once: the connection is still there, and the loop would do nothing else.
    """

    def __init__(
        self,
        sock: socket.socket,
        protocol: Callable[[], asyncio.BaseProtocol],
        has_room: Callable[[], bool],
    ) -> None:
        """Begins. has_room() is asked before each accept()."""
        self._loop = asyncio.get_running_loop()
        self._sock, self._protocol, self._has_room = sock, protocol, has_room
        self._tasks: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None
        self._short = False  # of descriptors: said once
        self._loop.add_reader(sock, self._accept)

    @property
    def pending(self) -> int:
        """Connections that are taken and that no protocol has yet."""
        return len(self._tasks)

    def has_room_again(self) -> None:
        """To be called when a connection has ended."""
        if self._pause is not None and not self._short:
            self._resume()

    def close(self) -> None:
        """Takes no more connections; the socket stays."""
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._sock)
        for task in self._tasks:
            task.cancel()

    def _resume(self, overdue: bool = False) -> None:
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        self._loop.add_reader(self._sock, self._accept)
        if overdue:
            self._accept(overdue)

    def _wait(self, seconds: float, overdue: bool) -> None:
        self._loop.remove_reader(self._sock)
        self._pause = self._loop.call_later(seconds, self._resume, overdue)

    def _accept(self, overdue: bool = False) -> None:
        for _ in range(BATCH):
            if not overdue and not self._has_room():
                self._wait(FULL_S, overdue=True)
                return
            try:
                sock, _ = self._sock.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                if not self._short:
                    log.warning("no connection can be taken now: %s", error.strerror)
                self._short = True
                self._wait(SHORT_S, overdue=False)
                return
            self._short = False
            task = self._loop.create_task(self._connect(sock))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _connect(self, sock: socket.socket) -> None:
        try:
            sock.setblocking(False)
            await self._loop.connect_accepted_socket(self._protocol, sock)
        except OSError as error:  # it has ended already, or there is no memory for it
            log.debug("a connection was lost: %s", error)
            sock.close()
        except BaseException:
            sock.close()
            raise
