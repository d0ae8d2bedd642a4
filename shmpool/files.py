# SPDX-License-Identifier: Apache-2.0
"""Files of pools: their names, how they are opened and removed, who has one locked, and what the
operating system's errors are called here. No call waits for a lock, or for somebody at a FIFO."""

import contextlib
import errno
import fcntl
import os
import re
import stat
import struct
from collections.abc import Iterator

from . import _ffi as _ffi
from . import errors
from ._hot import SegmentBase

PREFIX = "shmpool."
TEMPORARY = "~"  # in front of the name of a pool that is being made: no pool can be called so
SHM = "/dev/shm"  # noqa: S108 - where Linux keeps POSIX shared memory
NAME_MAX = 63
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)
_FLOCK = "hhqqi4x"  # struct flock of 64-bit Linux: type, whence, start, length, pid
_WHOLE = (0, 0)  # start and length of a lock on all bytes that there can be


def checked_name(name: object, what: str) -> str:
    """The name, if it can name a pool or a queue."""
    if not isinstance(name, str):
        raise TypeError(f"{what} name is {name!r}; it is a str")
    if not _NAME.fullmatch(name) or len(name) > NAME_MAX:
        raise errors.InvalidArgument(
            f"{what} name is {name!r}; allowed are 1 to {NAME_MAX} of A-Z a-z 0-9 . _ -, "
            "the first a letter or digit"
        )
    return name


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
    """The names of the pools in shared memory, of any user and version."""
    return sorted(name for name in names() if _NAME.fullmatch(name) and len(name) <= NAME_MAX)


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
    """What the file under the name is. PoolNotFound.

    It is not opened: that needs a right to it, and fails while its owner has a lease on it.
    """
    try:
        return os.stat(path_of(name), follow_symlinks=False).st_ino
    except (FileNotFoundError, NotADirectoryError):
        raise errors.PoolNotFound(_missing(name)) from None
    except OSError as error:
        raise failure(f"pool {name!r} cannot be looked at", error) from None


def open_file(name: str, read_only: bool = False) -> SegmentBase:
    """The pool's file, which is closed with the object, or before.

    As shm_open(3), which would wait at a FIFO for somebody at its other end: /dev/shm is
    everybody's, and so is what lies there under a pool's name. PoolNotFound, AccessDenied,
    LimitReached, OutOfSharedMemory, SegmentInvalid if it is no file that can be opened now.
    """
    mode = os.O_RDONLY if read_only else os.O_RDWR
    file = SegmentBase()
    try:
        file._open(path_of(name), mode | os.O_NONBLOCK | os.O_NOFOLLOW, 0)
        if stat.S_ISREG(os.fstat(file.fd).st_mode):
            return file
    except OSError as error:
        file.close()
        raise _cannot_open(name, error) from None
    file.close()
    raise errors.SegmentInvalid(f"pool {name!r}: it is no file")


def _cannot_open(name: str, error: OSError) -> errors.ShmpoolError:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return errors.PoolNotFound(_missing(name))
    if error.errno in (errno.EACCES, errno.EPERM):
        return errors.AccessDenied(_denied(name))
    if error.errno in (errno.EWOULDBLOCK, errno.ETXTBSY):
        return errors.SegmentInvalid(
            f"pool {name!r}: another process has a lease on it, or executes it"
        )
    if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.ENODEV):
        return errors.SegmentInvalid(f"pool {name!r}: it is no file")
    return failure(f"pool {name!r} cannot be opened", error)


def _missing(name: str) -> str:
    return (
        f"there is no pool {name!r} in {SHM} (in a container: is it the same {SHM}? --ipc, a "
        "shared volume)"
    )


def _denied(name: str) -> str:
    try:
        status = os.stat(path_of(name), follow_symlinks=False)
    except OSError:
        return f"no permission to open pool {name!r}"
    return (
        f"no permission to attach pool {name!r}: it belongs to uid {status.st_uid}, gid "
        f"{status.st_gid}, mode {stat.S_IMODE(status.st_mode):04o}; you are uid {os.geteuid()}. "
        "Create it with mode= and group="
    )


def unlink(name: str) -> None:
    """Removes the name; whoever has the pool open keeps it. PoolNotFound, AccessDenied."""
    try:
        os.unlink(path_of(name))
    except (FileNotFoundError, NotADirectoryError):
        raise errors.PoolNotFound(f"there is no pool {name!r} in {SHM}") from None
    except PermissionError:
        raise errors.AccessDenied(f"no permission to unlink pool {name!r}") from None
    except OSError as error:
        raise failure(f"pool {name!r} cannot be unlinked", error) from None


_KINDS: dict[int, type[errors.ShmpoolError]] = {
    errno.ENOSPC: errors.OutOfSharedMemory,
    errno.EDQUOT: errors.OutOfSharedMemory,
    errno.EFBIG: errors.OutOfSharedMemory,
    errno.ENOMEM: errors.OutOfSharedMemory,
    errno.ENOENT: errors.OutOfSharedMemory,
    errno.ENOTDIR: errors.OutOfSharedMemory,
    errno.EACCES: errors.AccessDenied,
    errno.EPERM: errors.AccessDenied,
    errno.EROFS: errors.AccessDenied,
    errno.EMFILE: errors.LimitReached,
    errno.ENFILE: errors.LimitReached,
}
_REMEDIES = {
    errno.EFBIG: " (ulimit -f limits the size of this process's files)",
    errno.EMFILE: " (ulimit -n limits this process's descriptors)",
    errno.ENFILE: " (sysctl fs.file-max limits those of all processes)",
    errno.EROFS: f": {SHM} is mounted read-only (mount -o remount,rw {SHM})",
    errno.EDQUOT: f": this user's quota of {SHM} is used up",
    errno.ENOENT: f": there is no {SHM}; mount a tmpfs there",
    errno.ENOTDIR: f": {SHM} is no directory; mount a tmpfs there",
    errno.ENOSPC: f": {SHM} has no space or no inodes left (df {SHM}; df -i {SHM})",
}


def failure(what: str, error: OSError) -> errors.ShmpoolError:
    """The exception of shmpool's hierarchy for what the system said."""
    number = error.errno or 0
    kind = _KINDS.get(number, errors.ShmpoolError)
    reason = os.strerror(number) if number else str(error)
    return kind(f"{what}: {reason}{_REMEDIES.get(number, '')}")


@contextlib.contextmanager
def system_errors(what: str) -> Iterator[None]:
    """In here an error of the operating system is one of shmpool's."""
    try:
        yield
    except errors.ShmpoolError:
        raise
    except OSError as error:
        raise failure(what, error) from None
