# SPDX-License-Identifier: Apache-2.0
"""The files of pools in /dev/shm: lists, opens, locks and removes them. No call waits for a lock.
Not in here: their contents (segment.py).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator

import posix_ipc

from . import errors, os_errors
from ._hot import SegmentBase
from .names import is_name

PREFIX = "shmpool."
SHM = os_errors.SHM
TEMPORARY = "~"  # prefix of the name of an unfinished pool; no valid name begins so
_FLOCK = struct.Struct("hhqqi4x")  # struct flock of 64-bit Linux: type, whence, start, length, pid


def path_of(name: str) -> str:
    """Returns the path of a pool's file."""
    return f"{SHM}/{PREFIX}{name}"


def names() -> Iterator[str]:
    """Yields the part after PREFIX of each file name in /dev/shm that has it, of any user.

    Yields nothing if there is no /dev/shm. Raises LimitReached.
    """
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
    """Returns the names of the pools in shared memory, of any user and version.

    Files whose names no pool can have are left out; shmpool doctor lists them.
    """
    return sorted(name for name in names() if is_name(name))


def strange_names() -> list[str]:
    """Returns the files with PREFIX that no pool can have, as os.fsdecode() gives their names."""
    return sorted(
        PREFIX + name for name in names() if not (is_name(name) or name.startswith(TEMPORARY))
    )


def record_lock(
    fd: int, kind: int, start: int = 0, length: int = 0, command: int = fcntl.F_OFD_SETLK
) -> int:
    """Sets an open file description lock on some bytes, without waiting. Raises OSError.

    kind is F_WRLCK or F_UNLCK. Length 0 has no end. With F_OFD_GETLK as command, returns the kind
    of a lock that is in the way, F_UNLCK for none.
    """
    lock = _FLOCK.pack(kind, os.SEEK_SET, start, length, 0)
    return int(_FLOCK.unpack(fcntl.fcntl(fd, command, lock))[0])


def in_use(fd: int) -> bool:
    """True if a process holds a token of the pool, or is creating the pool."""
    return record_lock(fd, fcntl.F_RDLCK, command=fcntl.F_OFD_GETLK) != fcntl.F_UNLCK


@contextlib.contextmanager
def locked_whole(fd: int) -> Iterator[bool]:
    """Locks the whole file during the block, so that no process can take a token.

    Gives False, and locks nothing, if another process holds a token or another lock.
    """
    try:
        record_lock(fd, fcntl.F_WRLCK)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        yield False
        return
    try:
        yield True
    finally:
        # Closing fd is not enough: a child forked during the block shares the description.
        with os_errors.Suppressed():
            record_lock(fd, fcntl.F_UNLCK)


def status_of(name: str) -> os.stat_result | None:
    """Returns what the file of that name is, None if there is no file."""
    with os_errors.Suppressed():
        return os.lstat(path_of(name))
    return None


def names_file(name: str, fd: int) -> bool:
    """True if the pool's name stands for the file that fd has open."""
    there = status_of(name)
    return there is not None and os.path.samestat(there, os.fstat(fd))


def replaced(name: str, mine: os.stat_result) -> bool:
    """True if the name stands for another file than mine, of the same owner."""
    there = status_of(name)
    if there is None or os.path.samestat(there, mine):
        return False
    return stat.S_ISREG(there.st_mode) and there.st_uid == mine.st_uid


def inode_of(name: str) -> int:
    """Returns the inode number of the file of that name. Raises PoolNotFound, AccessDenied.

    Does not open the file: that fails while its owner has a lease on it, and breaks the lease.
    """
    try:
        return os.lstat(path_of(name)).st_ino
    except OSError as error:
        raise os_errors.cannot_open(name, path_of(name), error) from None


def open_file(name: str, read_only: bool = False, doing: str = "attach to") -> SegmentBase:
    """Opens a pool's file. The object that is returned owns the descriptor. doing is for messages.

    Opens it without waiting, unlike shm_open(3): any user can put a FIFO there, under any name.

    Raises:
        PoolNotFound, AccessDenied, LimitReached, OutOfSharedMemory.
        SegmentInvalid: it is not a regular file, or a program that is running.
    """
    mode = os.O_RDONLY if read_only else os.O_RDWR
    path = path_of(name)
    file = SegmentBase()
    try:
        file._open(path, mode | os.O_NONBLOCK | os.O_NOFOLLOW)
        if stat.S_ISREG(os.fstat(file.fd).st_mode):
            return file
    except OSError as error:
        file.close()
        raise os_errors.cannot_open(name, path, error, doing) from None
    file.close()
    raise os_errors.no_file(name, path)


def unlink(name: str) -> None:
    """Removes the name. Processes that have the pool open keep it. Raises as inode_of()."""
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
    """Turns an OSError of the block into a ShmpoolError. what says what could not be done."""
    try:
        yield
    except errors.ShmpoolError:
        raise
    except OSError as error:
        raise os_errors.failure(what, error) from None
