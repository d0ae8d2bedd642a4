# SPDX-License-Identifier: Apache-2.0
"""The exceptions for what the operating system refuses on a pool's file, and their messages.

Each message names the pool, what was found, and what to do. No file is opened here.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
from collections.abc import Callable

from . import errors
from .codes import EXCEPTIONS, fail
from .names import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from .pool import Pool

SHM = "/dev/shm"  # noqa: S108 - where Linux keeps POSIX shared memory
MOUNT_SHM = f"mount -t tmpfs -o mode=1777,size=1g tmpfs {SHM}"
MAKE_SHM = f"mkdir -p {SHM} && {MOUNT_SHM}"
OPEN_SHM = f"chmod 1777 {SHM}"
WRITABLE_SHM = f"mount -o remount,rw {SHM}"
# By the first letter of `ls -l`.
_FILES = {"d": "a directory", "l": "a symbolic link", "p": "a FIFO", "s": "a socket",
          "c": "a device", "b": "a device"}  # fmt: skip


class Suppressed:
    """Ends its block at an OSError of the kernel.

    One without a number is not the kernel's: a signal handler raised it, for example a
    TimeoutError. It leaves the block.
    """

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        return isinstance(error, OSError) and error.errno is not None


def not_found(name: str) -> errors.PoolNotFound:
    """Returns the exception for a name that no file has."""
    mode = 0
    with Suppressed():
        mode = os.stat(SHM).st_mode
    if not stat.S_ISDIR(mode):
        return errors.PoolNotFound(f"there is no pool {name!r}: {_NO_SHM}")
    return errors.PoolNotFound(
        f"there is no pool {name!r} in {SHM} "
        f"(in a container: is it the same {SHM}? --ipc, a shared volume)"
    )


def exists(name: str, refusal: errors.ShmpoolError | None = None) -> errors.PoolExists:
    """Returns the exception for a name that is taken. refusal is why its file cannot be opened."""
    if refusal is not None:
        why = str(refusal).removeprefix(f"pool {name!r}: ")
        return errors.PoolExists(f"pool {name!r} exists already: {why}")
    return errors.PoolExists(
        f'pool {name!r} exists already: Pool.attach("{name}") uses it, '
        f'Pool.unlink("{name}") or shmpool.prune() removes it'
    )


def no_file(name: str, path: str) -> errors.SegmentInvalid:
    """Returns the exception for a name that is not a regular file's but a directory's, a link's."""
    return errors.SegmentInvalid(f"pool {name!r}: {path} is {_kind(path)}, not a pool: remove it")


def cannot_open(
    name: str, path: str, error: OSError, doing: str = "attach to"
) -> errors.ShmpoolError | OSError:
    """Returns the exception for a file that cannot be opened. doing is the purpose of the open."""
    code = error.errno
    if code in (errno.ENOENT, errno.ENOTDIR):
        return not_found(name)
    if code in (errno.EACCES, errno.EPERM):
        return errors.AccessDenied(
            f"no permission to {doing} pool {name!r}: {_owner(path)}. {_PERMIT[doing]}"
        )
    if code in (errno.EAGAIN, errno.EWOULDBLOCK):
        return errors.AccessDenied(
            f"pool {name!r} cannot be opened now: its owner has a lease on the file "
            "(F_SETLEASE of fcntl(2)): try again, or use another name"
        )
    if code == errno.ETXTBSY:
        return errors.SegmentInvalid(
            f"pool {name!r}: {path} is a program that is running, not a pool: use another name"
        )
    if code in (errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.ENODEV, errno.ENOTEMPTY):
        return no_file(name, path)
    return failure(f"pool {name!r} cannot be {_PAST[doing]}", error)


_OTHERS = "Only its owner or root can remove it: ask them, or use another name"
_PERMIT = {
    "attach to": "Create it with mode= and group=",
    "create": _OTHERS,
    "replace": _OTHERS,
    "unlink": _OTHERS,
}
_PAST = {"attach to": "opened", "create": "created", "replace": "replaced", "unlink": "unlinked"}
_NO_SHM = f"there is no {SHM}: {MAKE_SHM}"
# By errno of a call that works on files of /dev/shm: the exception, and what to do, "" if nothing.
_FAILURES: dict[int, tuple[type[errors.ShmpoolError], str]] = {
    errno.ENOSPC: (
        errors.OutOfSharedMemory,
        f"{SHM} has no space or no inodes left (df {SHM}, df -i {SHM}): shmpool prune removes "
        "abandoned pools",
    ),
    errno.EDQUOT: (
        errors.OutOfSharedMemory,
        f"this user's quota of {SHM} is used up: shmpool prune removes abandoned pools",
    ),
    errno.EFBIG: EXCEPTIONS[errno.EFBIG],
    errno.ENOMEM: (errors.OutOfSharedMemory, ""),
    errno.ENOENT: (errors.OutOfSharedMemory, _NO_SHM),
    errno.ENOTDIR: (errors.OutOfSharedMemory, _NO_SHM),
    errno.EACCES: (
        errors.AccessDenied,
        f"no permission to write to {SHM}: {OPEN_SHM} lets everybody",
    ),
    errno.EPERM: (errors.AccessDenied, ""),
    errno.EROFS: (errors.AccessDenied, f"{SHM} is mounted read-only: {WRITABLE_SHM}"),
    errno.EMFILE: EXCEPTIONS[errno.EMFILE],
    errno.ENFILE: (
        errors.LimitReached,
        "this machine has all its open files in use: sysctl fs.file-max raises the limit",
    ),
}


def failure(what: str, error: OSError) -> errors.ShmpoolError | OSError:
    """Returns the exception for an OSError. what says what could not be done.

    An OSError without a number is not the kernel's: a signal handler raised it, for example a
    TimeoutError. It is returned as it is.
    """
    if error.errno is None:
        return error
    number = error.errno
    kind, remedy = _FAILURES.get(number, (errors.ShmpoolError, ""))
    reason = os.strerror(number) if number else printable(error)
    return kind(": ".join(filter(None, (what, reason, remedy))))


def refuse(pool: Pool, code: int, what: str = "") -> NoReturn:
    """Raises the exception for a negative code from C, with the pool's figures where they help.

    what names the part of the pool that the call was for; "" means the pool.
    """
    if code == -errno.ENOSPC:
        raise errors.OutOfSharedMemory(
            _cannot_grow(
                pool.name, sum(one.capacity * one.buffer_size for one in pool.geometry.sizes)
            )
        )
    if code == -errno.EUSERS:
        raise errors.LimitReached(
            f"pool {pool.name!r}: all {pool.geometry.members} member slots are taken; create the "
            "pool with members= larger, or see pool.members()"
        )
    fail(code, what or f"pool {pool.name!r}")


def refuse_readonly(pool: Pool) -> None:
    """Raises AccessDenied if the pool was opened read-only."""
    if pool.readonly:
        refuse(pool, -errno.EROFS)


def another_owner(name: str, uid: int, owner: int) -> errors.AccessDenied:
    """Returns the exception for a pool that user uid owns, and not the user owner."""
    return errors.AccessDenied(
        f"pool {name!r} belongs to {_user(uid)}, not to owner={_user(owner)}: refused; "
        "use another name, or have that user unlink it"
    )


def _user(uid: int) -> str:
    name = _name_of(uid, pwd.getpwuid)
    return f"{name} (uid {uid})" if name else f"uid {uid}"


def _name_of(number: int, find: Callable[[int], tuple[Any, ...]]) -> str:
    """Returns the name of a user or a group, "" if it has none."""
    try:
        return printable(find(number)[0])
    except KeyError:
        return ""


def _cannot_grow(name: str, most: int) -> str:
    total, free = shared_memory()
    if most > total:
        return (
            f"pool {name!r} can grow to {size_text(most, up=True)}, but {SHM} has only "
            f"{size_text(total)}: lower capacity or {enlarge(most)}"
        )
    return (
        f"pool {name!r} cannot grow: {SHM} has {size_text(free)} free of {size_text(total)}: "
        f"shmpool prune and shmpool trim free some, or {enlarge(most)}"
    )


def shared_memory() -> tuple[int, int]:
    """Returns the size and the free bytes of /dev/shm; zeros if there is no /dev/shm."""
    with Suppressed():
        status = os.statvfs(SHM)
        return status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize
    return 0, 0


def size_text(octets: int, up: bool = False) -> str:
    """Returns a number of bytes as text, with one decimal place, rounded down, or up.

    The unit is the largest of MiB, GiB and TiB that does not exceed the number, else KiB.
    """
    name, unit = "KiB", 2**10
    for larger in ("MiB", "GiB", "TiB"):
        if octets >= unit << 10:
            name, unit = larger, unit << 10
    tenths = -(-octets * 10 // unit) if up else octets * 10 // unit
    return f"{tenths / 10:,.1f}".removesuffix(".0") + f" {name}"


def enlarge(needed: int) -> str:
    """Returns how to enlarge /dev/shm so that needed bytes are free."""
    total, free = shared_memory()
    size = 1 << max(total - free + needed, 2**20).bit_length()
    text = f"{size >> 30}g" if size >= 2**30 else f"{size >> 20}m"
    return f"enlarge it (mount -o remount,size={text} {SHM}; container: --shm-size={text})"


def _owner(path: str) -> str:
    user = f"you are uid {os.geteuid()}"
    with Suppressed():
        status = os.lstat(path)
        owner = _name_of(status.st_uid, pwd.getpwuid) or status.st_uid
        group = _name_of(status.st_gid, grp.getgrgid) or status.st_gid
        return f"it belongs to {owner}:{group}, mode {stat.S_IMODE(status.st_mode):04o}; {user}"
    return user


def _kind(path: str) -> str:
    with Suppressed():
        return _FILES.get(stat.filemode(os.lstat(path).st_mode)[0], "no file")
    return "no file"
