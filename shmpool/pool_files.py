# SPDX-License-Identifier: Apache-2.0
"""Files of pools: how they are found, opened and removed, and who has one locked. No call waits for
a lock, or for somebody at a FIFO."""

import contextlib
import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator

import posix_ipc

from . import _ffi as _ffi
from . import errors, os_errors
from ._hot import SegmentBase
from .names import is_name

PREFIX = "shmpool."
SHM = os_errors.SHM
TEMPORARY = "~"  # in front of the name of a pool that is being made: no pool can be called so
_FLOCK = "hhqqi4x"  # struct flock of 64-bit Linux: type, whence, start, length, pid
_WHOLE = (0, 0)  # start and length of a lock on all bytes that there can be


def path_of(name: str) -> str:
    """Where the file of a pool is."""
    return f"{SHM}/{PREFIX}{name}"


def names() -> Iterator[str]:
    """What stands behind the prefix in shared memory, of any user; nothing where there is none.
    LimitReached."""
    nowhere = (FileNotFoundError, NotADirectoryError, PermissionError)
    with (
        system_errors(f"{SHM} cannot be listed"),
        contextlib.suppress(*nowhere),
        os.scandir(SHM) as entries,
    ):
        for entry in entries:
            if entry.name.startswith(PREFIX):
                yield entry.name.removeprefix(PREFIX)


def pool_names() -> list[str]:
    """The names of the pools in shared memory, of any user and version.

    Files whose names no pool can have are left out; shmpool doctor lists them.
    """
    return sorted(name for name in names() if is_name(name))


def strange_names() -> list[str]:
    """The files, as Python's os names them, that only look like those of pools."""
    return sorted(
        PREFIX + name for name in names() if not (is_name(name) or name.startswith(TEMPORARY))
    )


def in_use(fd: int) -> bool:
    """Whether a process holds a token of the pool, or is making it."""
    ask = struct.pack(_FLOCK, fcntl.F_RDLCK, os.SEEK_SET, *_WHOLE, 0)
    answer: tuple[int, ...] = struct.unpack(_FLOCK, fcntl.fcntl(fd, fcntl.F_OFD_GETLK, ask))
    return answer[0] != fcntl.F_UNLCK


@contextlib.contextmanager
def locked_whole(fd: int) -> Iterator[bool]:
    """Meanwhile nobody can take a token. False if somebody has one, or another lock."""
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, fcntl.F_WRLCK, 0, *_WHOLE, 0))
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        yield False
        return
    try:
        yield True
    finally:
        # Not only by closing: a child forked meanwhile may have inherited the description.
        with contextlib.suppress(OSError):
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, fcntl.F_UNLCK, 0, *_WHOLE, 0))


def names_file(name: str, fd: int) -> bool:
    """Whether the name stands for the file."""
    try:
        there = os.stat(path_of(name), follow_symlinks=False)
    except OSError:
        return False
    mine = os.fstat(fd)
    return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)


def replaced(name: str, mine: os.stat_result) -> bool:
    """Whether the name stands for another file of the same owner. A stranger's does not count."""
    try:
        there = os.stat(path_of(name), follow_symlinks=False)
    except OSError:
        return False
    other = (there.st_dev, there.st_ino) != (mine.st_dev, mine.st_ino)
    return other and stat.S_ISREG(there.st_mode) and there.st_uid == mine.st_uid


def inode_of(name: str) -> int:
    """What the file under the name is. PoolNotFound, AccessDenied.

    It is not opened: that fails while its owner has a lease on it, and costs him the lease.
    """
    try:
        return os.lstat(path_of(name)).st_ino
    except OSError as error:
        raise os_errors.cannot_open(name, path_of(name), error) from None


def open_file(name: str, read_only: bool = False) -> SegmentBase:
    """The pool's file, which is closed with the object, or before.

    As shm_open(3), which would wait at a FIFO for somebody at its other end: /dev/shm is
    everybody's, and so is what lies there under a pool's name. PoolNotFound, AccessDenied,
    LimitReached, OutOfSharedMemory, SegmentInvalid if it is no file that can be opened now.
    """
    mode = os.O_RDONLY if read_only else os.O_RDWR
    path = path_of(name)
    file = SegmentBase()
    try:
        file._open(path, mode | os.O_NONBLOCK | os.O_NOFOLLOW, 0)
        if stat.S_ISREG(os.fstat(file.fd).st_mode):
            return file
    except OSError as error:
        file.close()
        raise os_errors.cannot_open(name, path, error) from None
    file.close()
    raise os_errors.no_file(name, path)


def unlink(name: str) -> None:
    """Removes the name; whoever has the pool open keeps it. PoolNotFound, AccessDenied."""
    try:
        posix_ipc.unlink_shared_memory(f"/{PREFIX}{name}")
        return
    except posix_ipc.ExistentialError:
        reason = OSError(errno.ENOENT, "")
    except posix_ipc.PermissionsError:
        reason = OSError(errno.EACCES, "")
    except OSError as error:
        reason = error
    except posix_ipc.Error as error:
        raise errors.ShmpoolError(f"pool {name!r} cannot be unlinked: {error}") from None
    raise os_errors.cannot_open(name, path_of(name), reason, "unlink")


@contextlib.contextmanager
def system_errors(what: str) -> Iterator[None]:
    """In here an error of the operating system is one of shmpool's."""
    try:
        yield
    except errors.ShmpoolError:
        raise
    except OSError as error:
        raise os_errors.failure(what, error) from None
