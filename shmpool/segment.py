# SPDX-License-Identifier: Apache-2.0
"""The shared-memory file under a pool: made, mapped, removed. What lies in it is C's business.

A creator holds an exclusive flock(2) on the file until it is initialised, and everybody who has it
open a shared one. The kernel drops them with the last descriptor, whatever its process died of: an
abandoned segment is so told from one in use. A half-made one is told from one being made by a lock
that a creator's children do not inherit: making.py.
"""

import contextlib
import errno
import fcntl
import grp
import mmap
import os
import stat
import time

import posix_ipc

from . import errors, making, refusals
from ._ffi import Native, check, ffi, lib
from .names import is_name

PREFIX = "shmpool."
SHM = refusals.SHM
HEADER = 4096  # bytes that hold what shmpool_check() reads
GROUP_MAX = 2**32 - 2  # the number after it stands for no group
BEING_MADE_S = 10.0
Group = str | int | None  # by name, by number, or none


def group_id(group: Group) -> int:
    """The number of a group given by name or number; -1 for none, which changes nothing."""
    if group is None:
        return -1
    if isinstance(group, int):
        if isinstance(group, bool) or not 0 <= group <= GROUP_MAX:
            raise errors.InvalidArgument(f"group is {group!r}; allowed are 0 to {GROUP_MAX}")
        return group
    if not isinstance(group, str):
        raise TypeError(f"group is {group!r}; it must be a str, an int, or None")
    try:
        return grp.getgrnam(group).gr_gid
    except (KeyError, ValueError):  # the latter: no group's name can hold such characters
        raise errors.InvalidArgument(
            f"group is {group!r}; this machine has no such group"
        ) from None


def _check_mode(mode: int) -> None:
    if not isinstance(mode, int):
        raise TypeError(f"mode is {mode!r}; it must be an int")
    if isinstance(mode, bool) or not 0 <= mode <= 0o777:
        raise errors.InvalidArgument(
            f"mode is {mode!r} ({mode:#o}); allowed are 0 to 0o777, for example 0o660"
        )


class Segment:
    """One mapping of one pool's file. close() unmaps it; the pool numbers it in C."""

    def __init__(self, name: str, fd: int, size: int, read_only: bool = False) -> None:
        self.name = name
        self.fd = fd
        self.size = size
        self.map = _mapped(name, fd, size, read_only)
        self.base: Native = ffi.from_buffer(self.map)
        self.inode = os.fstat(fd).st_ino

    @classmethod
    def create(cls, name: str, geometry: Native, mode: int, group: Group) -> "Segment":
        """Makes and initialises the file. PoolExists, OutOfSharedMemory, InvalidArgument,
        AccessDenied."""
        why = ffi.new("char[256]")
        if lib.shmpool_plan(geometry, why, 256):
            raise errors.InvalidArgument(f"pool {name!r}: {ffi.string(why).decode()}")
        _check_mode(mode)
        group_id(group)  # refused before there is a file
        while True:
            segment = cls._create_once(name, geometry, mode, group)
            if segment is not None:
                return segment

    @classmethod
    def _create_once(cls, name: str, geometry: Native, mode: int, group: Group) -> "Segment | None":
        """The segment, or None to try again after an abandoned one was removed."""
        with making.announced(name) as alone:
            if not alone:
                raise errors.PoolExists(
                    f"pool {name!r} is being created by another thread of this process"
                )
            fd = _create_file(name, mode)
            return None if fd is None else cls._made(name, fd, geometry, mode, group)

    @classmethod
    def _made(
        cls, name: str, fd: int, geometry: Native, mode: int, group: Group
    ) -> "Segment | None":
        why = ffi.new("char[256]")
        segment = None
        try:
            os.fchmod(fd, mode)
            _give_to_group(name, fd, group)
            _refuse_hopeless(name, fd, geometry)
            os.ftruncate(fd, geometry.size)
            segment = cls(name, fd, geometry.size)
            code = lib.shmpool_create_wait(segment.base, fd, geometry, why, 256)
            if code == -errno.ENOSPC:
                raise refusals.does_not_fit(name, geometry, os.fstat(fd).st_blocks * 512)
            check(code, f"pool {name!r}")
        except BaseException:
            with contextlib.suppress(errors.PoolNotFound):
                unlink(name)
            if segment is not None:
                segment.close()
            else:
                os.close(fd)
            raise
        # Not one step: somebody may take the file for abandoned in between, and remove it.
        fcntl.flock(fd, fcntl.LOCK_SH)
        with making.deciding(fd) as named:
            making.end(fd)
        if named:
            return segment
        segment.close()
        return None

    @classmethod
    def attach(cls, name: str) -> "Segment":
        """Maps the file and checks it. PoolNotFound, AccessDenied, SegmentInvalid."""
        give_up = time.monotonic() + BEING_MADE_S
        while True:
            segment = cls._attach_once(name)
            if segment is not None:
                return segment
            if time.monotonic() > give_up:
                raise errors.PoolNotFound(
                    f"pool {name!r} is still being made after {BEING_MADE_S:g} s"
                )
            time.sleep(0.005)

    @classmethod
    def look(cls, name: str) -> "Segment":
        """Maps the file read-only, and waits for nobody. As attach, and PoolNotFound meanwhile."""
        segment = cls._attach_once(name, read_only=True)
        if segment is None:
            raise errors.PoolNotFound(f"pool {name!r} is still being made")
        return segment

    @classmethod
    def _attach_once(cls, name: str, read_only: bool = False) -> "Segment | None":
        """The segment, or None while its creator is at work."""
        if making.here(name):
            return None
        fd = _open_file(name, read_only)
        segment = None
        try:
            # Before the size is read: they say if it is final.
            free = _lock(fd, fcntl.LOCK_SH)
            given_up = free or not making.at_work(fd)
            size = os.fstat(fd).st_size
            why = ffi.new("char[256]")
            code = -errno.EAGAIN
            if size:
                segment = cls(name, fd, size, read_only)
                geometry = ffi.new("struct shmpool_geometry *")
                code = lib.shmpool_check(segment.base, size, fd, geometry, why, 256)
            if code == 0 and free:
                return segment
            if code == -errno.EAGAIN and given_up:
                raise errors.PoolNotFound(f"pool {name!r}: its creator died while making it")
            if code not in (0, -errno.EAGAIN):  # 0: about to be shared, or removed
                raise errors.SegmentInvalid(f"pool {name!r}: {ffi.string(why).decode()}")
        except BaseException:
            _drop(segment, fd)
            raise
        _drop(segment, fd)
        return None

    def close(self) -> None:
        """Unmaps it."""
        ffi.release(self.base)
        self.map.close()
        os.close(self.fd)


def _mapped(name: str, fd: int, size: int, read_only: bool) -> mmap.mmap:
    """The file in this process's addresses. SegmentInvalid, OutOfSharedMemory."""
    try:
        return mmap.mmap(fd, size, access=mmap.ACCESS_READ if read_only else mmap.ACCESS_WRITE)
    except ValueError:  # it is shorter than it was a moment ago
        raise errors.SegmentInvalid(f"pool {name!r}: its file was truncated") from None
    except OSError as error:
        if error.errno != errno.ENOMEM:
            raise refusals.cannot_open(name, _path(name), error) from None
        raise errors.OutOfSharedMemory(
            f"pool {name!r} takes {size} bytes of addresses, over this process's limits: "
            "raise RLIMIT_AS (ulimit -v unlimited) or vm.max_map_count"
        ) from None


def unlink(name: str) -> None:
    """Removes the name; whoever has the pool open keeps it. PoolNotFound, AccessDenied."""
    try:
        posix_ipc.unlink_shared_memory(f"/{PREFIX}{name}")
    except posix_ipc.ExistentialError:
        raise refusals.not_found(name) from None
    except (posix_ipc.PermissionsError, PermissionError) as error:
        denied = OSError(errno.EACCES, str(error))
        raise refusals.cannot_open(name, _path(name), denied, "unlink") from None
    except OSError as error:
        raise refusals.cannot_open(name, _path(name), error, "unlink") from None


def pool_names() -> list[str]:
    """The names of the pools in shared memory, of any user and version.

    Files whose names no pool can have are left out; shmpool doctor lists them.
    """
    return sorted(name for name in _names_after_prefix() if is_name(name))


def strange_names() -> list[str]:
    """The names, as Python's os has them, that only look like those of pools' files."""
    names = _names_after_prefix()
    return sorted(PREFIX + name for name in names if not is_name(name))


def _names_after_prefix() -> list[str]:
    try:
        with os.scandir(SHM) as entries:
            return [e.name.removeprefix(PREFIX) for e in entries if e.name.startswith(PREFIX)]
    except (FileNotFoundError, NotADirectoryError):
        return []  # no shared memory, no pools
    except PermissionError:
        raise errors.AccessDenied(f"no permission to list {SHM}: chmod 1777 {SHM}") from None


def _path(name: str) -> str:
    return f"{SHM}/{PREFIX}{name}"


def prune() -> list[str]:
    """Removes the pools that nobody has open any more; their names.

    Only what the kernel proves: no process has the file open, whatever became of those that had,
    in whatever namespace. What is no pool of this version, or not ours to open, stays.
    """
    return [name for name in pool_names() if _pruned(name)]


def _pruned(name: str) -> bool:
    if making.here(name):
        return False
    try:
        fd = _open_file(name)
    except errors.ShmpoolError:
        return False
    try:
        unused = _lock(fd, fcntl.LOCK_EX)
        given_up = unused or not making.at_work(fd)
        state = _state(fd)
        proven = {0: unused, -errno.EAGAIN: given_up}.get(state, False)
        return proven and _remove(name, fd, state)
    except errors.AccessDenied:
        return False
    finally:
        os.close(fd)


def _remove(name: str, fd: int, state: int) -> bool:
    """Takes the name from a file that had been in that state, if it still is and has it."""
    with making.deciding(fd) as named:
        if not named or _state(fd) != state:
            return False
        with contextlib.suppress(errors.PoolNotFound):
            unlink(name)
    return True


def _state(fd: int) -> int:
    """What C says of the file: 0 a pool, -EAGAIN never finished, -EBADMSG something else.

    Its header is read and not mapped: a mapping has a descriptor of its own, and closing that drops
    the locks of making.py.
    """
    size = os.fstat(fd).st_size
    header = bytearray(HEADER)
    os.preadv(fd, [header], 0)
    why = ffi.new("char[256]")
    geometry = ffi.new("struct shmpool_geometry *")
    code: int = lib.shmpool_check(ffi.from_buffer(header), size, fd, geometry, why, 256)
    return code


def inode_of(name: str) -> int:
    """What the file under the name is. PoolNotFound, AccessDenied.

    It is not opened: that fails while its owner has a lease on it, and costs him the lease.
    """
    try:
        return os.lstat(_path(name)).st_ino
    except OSError as error:
        raise refusals.cannot_open(name, _path(name), error) from None


def _drop(segment: Segment | None, fd: int) -> None:
    if segment is not None:
        segment.close()
    else:
        os.close(fd)


def _open_file(name: str, read_only: bool = False) -> int:
    """As shm_open(3), which would wait at a FIFO for somebody at its other end: /dev/shm is
    everybody's, and so is what lies there under a pool's name. SegmentInvalid if it is no file."""
    mode = os.O_RDONLY if read_only else os.O_RDWR
    path = _path(name)
    try:
        fd = os.open(path, mode | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise refusals.cannot_open(name, path, error) from None
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise refusals.no_file(name, path)


def _lock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _create_file(name: str, mode: int) -> int | None:
    """A new, empty, locked file; None to try again after an abandoned one was removed."""
    try:
        fd: int = posix_ipc.SharedMemory(f"/{PREFIX}{name}", posix_ipc.O_CREX, mode=mode).fd
    except posix_ipc.ExistentialError:
        if not _abandoned(name):
            raise refusals.exists(name) from None
        return None
    except (posix_ipc.PermissionsError, PermissionError) as error:
        denied = OSError(errno.EACCES, str(error))
        raise refusals.cannot_create(name, _path(name), denied) from None
    except OSError as error:
        raise refusals.cannot_create(name, _path(name), error) from None
    making.begin(fd)
    # Between the calls somebody may have taken the file for abandoned: then it has no name.
    if _lock(fd, fcntl.LOCK_EX) and os.fstat(fd).st_nlink:
        return fd
    os.close(fd)
    return None


def _abandoned(name: str) -> bool:
    """Whether the file's creator died before it was initialised; then it is removed."""
    try:
        fd = _open_file(name)
    except errors.PoolNotFound:
        return True
    except errors.ShmpoolError:
        return False
    try:
        given_up = _lock(fd, fcntl.LOCK_EX) or not making.at_work(fd)
        if os.fstat(fd).st_nlink == 0:
            return True
        state = _state(fd)
        return given_up and state == -errno.EAGAIN and _remove(name, fd, state)
    finally:
        os.close(fd)


def _give_to_group(name: str, fd: int, group: Group) -> None:
    try:
        os.fchown(fd, -1, group_id(group))
    except OSError as error:
        raise errors.AccessDenied(
            f"pool {name!r} cannot be given to group {group!r}: {error.strerror}"
        ) from None


def _refuse_hopeless(name: str, fd: int, geometry: Native) -> None:
    """Before it takes memory: what cannot fit would fill /dev/shm for everybody until it fails."""
    status = os.fstatvfs(fd)
    free = status.f_bavail * status.f_frsize
    if status.f_blocks and sum(refusals.taken_at_once(geometry)) > free:
        raise refusals.does_not_fit(name, geometry)
