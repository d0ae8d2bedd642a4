# SPDX-License-Identifier: Apache-2.0
"""Listening sockets. One daemon at a path, no change to files of others, and connections accepted
only while there is room for them.
"""

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import re
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from .. import errors
from .config_values import lock_path

log = logging.getLogger("shmpool")

BACKLOG = 1024  # connections
BATCH = 64  # connections accepted before other tasks run
SHORT_S = 0.1  # until accept() is tried again when there are no descriptors or no memory
FULL_S = 0.5  # a connection that waited this long for room is accepted and refused
_LOCK_MAX = 20  # bytes of a lock file: a pid and a line break
_TRIES = 100  # to lock the file while others remove it


class CannotListen(errors.ShmpoolError):
    """The daemon cannot listen; the message is one line."""


@contextlib.contextmanager
def listening(path: Path, group: int) -> Iterator[socket.socket]:
    """A socket that listens at the path, for this user, and for a group unless it is -1.

    Its file is removed when the block ends. CannotListen: a daemon or another program listens
    there, the path is not a socket, or permission is missing.
    """
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(mode=0o700 if group == -1 else 0o755, parents=True, exist_ok=True)
            stack.enter_context(_lock(path))
            _remove_stale(path)
            sock = stack.enter_context(
                socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            )
            before = os.umask(0o177)  # no other user can connect between bind() and chmod()
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


@contextlib.contextmanager
def tcp_sockets(host: str, port: int, only_check: bool = False) -> Iterator[list[socket.socket]]:
    """Sockets that listen at every address of a host, closed when the block ends. CannotListen.

    With only_check they do not listen, and addresses where a program listens are left out.
    """
    at = f"{host}:{port}" if ":" not in host else f"[{host}]:{port}"
    with contextlib.ExitStack() as stack:
        try:
            # Not the event loop's: uvloop loses the scope of a link-local address.
            infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            found = []
            for family, kind, number, _, address in infos:
                sock = stack.enter_context(socket.socket(family, kind, number))
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.setblocking(False)
                try:
                    sock.bind(address)
                    found.append(sock)
                except OSError as error:
                    if not (only_check and error.errno == errno.EADDRINUSE):
                        raise
            for sock in [] if only_check else found:  # after all are bound
                sock.listen(BACKLOG)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise CannotListen(f"cannot serve http://{at}: {reason}") from None
        yield found


def check_path(path: Path) -> None:
    """Checks that a socket can be at the path, as far as that shows without creating anything. A
    daemon may listen there. CannotListen."""
    there = next(place for place in (path, *path.absolute().parents) if os.path.lexists(place))
    if there == path:
        _refuse_other_files(path, os.lstat(path).st_mode)
    elif not there.is_dir():
        raise CannotListen(f"cannot listen at {path}: {there} is not a directory")


def give_to_group(path: Path, group: int) -> None:
    """Allows a group to connect to a socket of this user. OSError.

    Works on a descriptor, so that the file cannot be replaced between check and change.
    """
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if not stat.S_ISSOCK(status.st_mode) or status.st_uid != os.geteuid():
            raise OSError("it is not a socket of this user")
        os.chown(f"/proc/self/fd/{fd}", -1, group)
        os.chmod(f"/proc/self/fd/{fd}", 0o660)
    finally:
        os.close(fd)


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Holds the lock of the path, so that there is one daemon at it. The kernel drops the lock of a
    process that dies."""
    lock = lock_path(path)
    for _ in range(_TRIES):
        fd = _open_lock(path, lock)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            exists = os.fstat(fd).st_nlink > 0
        except BlockingIOError:
            pid = os.pread(fd, _LOCK_MAX, 0).decode("ascii", "replace").strip()
            os.close(fd)
            raise CannotListen(f"a daemon, process {pid}, listens at {path} already") from None
        except OSError:
            os.close(fd)
            raise
        if exists:
            break
        os.close(fd)  # the daemon that held the lock has just removed the file
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
    """Removes a file of ours. A failure is ignored: the file does no harm."""
    with contextlib.suppress(OSError):
        path.unlink()


def _open_lock(path: Path, lock: Path) -> int:
    """Opens the lock file, or creates it. CannotListen if it is not a lock file of this user.

    Follows no link, and neither writes to a file of another user nor waits for it.
    """
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
        raise CannotListen(f"cannot listen at {path}: {lock} is not a lock file of this user")
    return fd


def _remove_stale(path: Path) -> None:
    """Removes the socket file of a daemon that was killed. CannotListen if a process listens."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    _refuse_other_files(path, mode)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
    raise CannotListen(f"cannot listen at {path}: another program listens there")


def _refuse_other_files(path: Path, mode: int) -> None:
    if not stat.S_ISSOCK(mode):
        raise CannotListen(f"cannot listen at {path}: it exists and is not a socket")


class Acceptor:
    """Accepts connections while there is room. Further connections wait in the socket's backlog.

    A connection that has waited for FULL_S is accepted nevertheless, so that its protocol can say
    why it is refused. If accept() fails because there are no descriptors, it is tried again every
    SHORT_S: tried at once, it would keep the event loop busy.
    """

    def __init__(
        self,
        sock: socket.socket,
        protocol: Callable[[], asyncio.BaseProtocol],
        has_room: Callable[[], bool],
    ) -> None:
        """Starts to accept. has_room() is called before each accept()."""
        self._loop = asyncio.get_running_loop()
        self._sock, self._protocol, self._has_room = sock, protocol, has_room
        self._tasks: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None
        self._short = False  # of descriptors or memory
        self._loop.add_reader(sock, self._accept)

    @property
    def pending(self) -> int:
        """Connections that are accepted and have no protocol yet."""
        return len(self._tasks)

    def has_room_again(self) -> None:
        """Must be called when a connection has ended."""
        if self._pause is not None and not self._short:
            self._resume()

    def close(self) -> None:
        """Accepts no more connections. The socket stays open."""
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
                    log.warning("no connection can be accepted now: %s", error.strerror)
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
        except OSError as error:  # it has ended, or there is no memory for it
            log.debug("a connection was lost: %s", error)
            sock.close()
        except BaseException:
            sock.close()
            raise
