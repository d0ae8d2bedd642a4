# SPDX-License-Identifier: Apache-2.0
"""The shared-memory file under a pool: made, mapped, removed. What lies in it is C's business.

A pool is made under a temporary name and gets its own when it is complete: whoever finds a name
finds a whole pool, and nobody waits for a creator. Who has a pool open holds a token: a write lock
of the kernel's that no child inherits and no reader can take (native/token.h). Who takes a name
away locks the whole file first, which fails while anybody holds a token. No call here waits for a
lock.
"""

import contextlib
import errno
import grp
import os
import pwd
import resource
from collections.abc import Callable, Iterator

from . import errors, os_errors
from ._ffi import Native, ffi, lib
from ._hot import SegmentBase
from .codes import check
from .options import native_refusal
from .pool_files import (
    TEMPORARY,
    locked_whole,
    names_file,
    open_file,
    path_of,
    system_errors,
    unlink,
)
from .process_exit import made

HEADER = 4096  # bytes that hold what shmpool_check() reads
GROUP_MAX = 2**32 - 2  # the number after it stands for no group
CREATE_TRIES = 100  # each lost to somebody who removed a name in between
ANONYMOUS = "(anonymous)"  # in place of a name: no pool can be called so
Group = str | int | None  # by name, by number, or none
USER_MAX = 2**32 - 2  # the number after it stands for no user


def group_id(group: Group) -> int:
    """The number of a group given by name or number; -1 for none, which changes nothing."""
    if group is None:
        return -1
    return _id("group", group, GROUP_MAX, lambda name: grp.getgrnam(name).gr_gid, "group")


def user_id(owner: str | int) -> int:
    """The number of a user given by name or number. InvalidArgument."""
    return _id("owner", owner, USER_MAX, lambda name: pwd.getpwnam(name).pw_uid, "user")


def _id(what: str, given: str | int, most: int, find: Callable[[str], int], kind: str) -> int:
    if isinstance(given, int):
        if isinstance(given, bool) or not 0 <= given <= most:
            raise errors.InvalidArgument(f"{what} is {given!r}; allowed are 0 to {most}")
        return given
    if not isinstance(given, str):
        raise TypeError(f"{what} is {given!r}; it must be a str, an int, or None")
    try:
        return find(given)
    except (KeyError, ValueError):  # the latter: no name can hold such characters
        raise errors.InvalidArgument(
            f"{what} is {given!r}; this machine has no such {kind}"
        ) from None


_FAULTS: dict[int, str] = {
    lib.SHMPOOL_FAULT_NONE: "its file was truncated",
    lib.SHMPOOL_FAULT_SHORT: "it is {value} bytes long; a header has {expected}",
    lib.SHMPOOL_FAULT_MAGIC: "its magic is {value:#x}, not {expected:#x}: not a pool",
    lib.SHMPOOL_FAULT_VERSION: "its layout is version {value}, this is version {expected}",
    lib.SHMPOOL_FAULT_READY: "its initialised word is {value:#x}, not {expected:#x}",
    lib.SHMPOOL_FAULT_LAYOUT: "its layout hash is {value:#x}, this build's is {expected:#x}",
    lib.SHMPOOL_FAULT_SIZE: "it is {value} bytes long; its header says {expected}",
    lib.SHMPOOL_FAULT_FILE: "its file cannot be examined",
    lib.SHMPOOL_FAULT_OFFSETS: "its offsets do not follow from its geometry",
    lib.SHMPOOL_FAULT_CHECKSUM: "its header's checksum is {value:#x}, of what it holds "
    "{expected:#x}",
}


class Segment(SegmentBase):
    """One mapping of one pool's file, which C owns (hot/segment.c): it ends with close(), or with
    the object."""

    def __init__(self, name: str, file: SegmentBase, size: int, read_only: bool = False) -> None:
        """Takes the file over. SegmentInvalid, OutOfSharedMemory."""
        self._take(file)
        self.name = name
        self.path = "" if name == ANONYMOUS else path_of(name)
        self.status = os.fstat(self.fd)
        self.inode = self.status.st_ino
        self.file = (self.status.st_dev, self.status.st_ino)
        _map(self, size, read_only)

    @property
    def base(self) -> Native:
        return ffi.cast("void *", self.address)

    @classmethod
    def create(
        cls, name: str, geometry: Native, mode: int, group: Group, replace: bool = False
    ) -> "Segment":
        """Makes and initialises the file; replace: in the place of one that has the name.

        PoolExists, OutOfSharedMemory, InvalidArgument, AccessDenied, LimitReached.
        """
        number = group_id(group)
        with system_errors(f"pool {name!r} cannot be created"):
            if not replace:
                _refuse_existing(name)
            for _ in range(CREATE_TRIES):
                segment = cls._create_once(name, geometry, mode, group, number, replace)
                if segment is not None:
                    made(segment.path)
                    return segment
                if not replace:
                    _refuse_existing(name)
        raise errors.PoolExists(
            f"pool {name!r} was created and removed {CREATE_TRIES} times by others meanwhile"
        )

    @classmethod
    def _create_once(
        cls, name: str, geometry: Native, mode: int, group: Group, number: int, replace: bool
    ) -> "Segment | None":
        """The segment, or None to try again: somebody has removed the unfinished file, or is about
        to, or has the name."""
        temporary = f"{TEMPORARY}{os.urandom(8).hex()}"
        file, segment = SegmentBase(), None
        try:
            # Until it has its name, nobody removes it as abandoned.
            code = file._create(path_of(temporary))
            if code == -errno.EDEADLK:  # somebody prunes, and has locked it
                return None
            check(code, f"pool {name!r}")
            fd = file.fd
            if os.fstat(fd).st_nlink == 0:  # somebody was faster
                return None
            _refuse_hopeless(name, fd, geometry)
            _resize(fd, geometry.size)
            segment = cls(name, file, geometry.size)
            _fill(segment, geometry)
            # In this order: nobody but the creator may open it before it has its group.
            _give_to_group(name, fd, group, number)
            os.fchmod(fd, mode)
            if replace:
                os.rename(path_of(temporary), path_of(name))
                return segment
            try:
                os.link(path_of(temporary), path_of(name), follow_symlinks=False)
            except FileExistsError:
                segment.close()
                return None
            return segment
        except BaseException:
            (segment or file).close()  # now: a traceback keeps it
            raise
        finally:
            file._finish()

    @classmethod
    def anonymous(cls, geometry: Native) -> "Segment":
        """Makes and initialises a file without a name. OutOfSharedMemory, LimitReached."""
        with system_errors("an anonymous pool cannot be created"):
            file, segment = SegmentBase(), None
            try:
                file._anonymous(None)
                _resize(file.fd, geometry.size)
                segment = cls(ANONYMOUS, file, geometry.size)
                _fill(segment, geometry)
            except BaseException:
                (segment or file).close()  # now: a traceback keeps it
                raise
        return segment

    @classmethod
    def of_descriptor(cls, fd: int) -> "Segment":
        """That of an anonymous pool which the parent process has passed on. fd is its own."""
        file = SegmentBase()
        file._anonymous(fd)
        with system_errors("an anonymous pool cannot be opened"):
            return cls._of_file(ANONYMOUS, file, read_only=False)

    @classmethod
    def attach(cls, name: str, read_only: bool = False, owner: int | None = None) -> "Segment":
        """Maps the file; AccessDenied if it belongs to another than the owner.

        What the file holds is checked when it is opened: PoolBase._hot_open, _enter.
        PoolNotFound, AccessDenied, SegmentInvalid.
        """
        with system_errors(f"pool {name!r} cannot be opened"):
            file = open_file(name, read_only)
            there = os.fstat(file.fd).st_uid  # the file that is open: the name may change its own
            if owner is not None and there != owner:
                file.close()  # now: a traceback keeps it
                raise os_errors.another_owner(name, there, owner)
            return cls._of_file(name, file, read_only)

    @classmethod
    def look(cls, name: str) -> "Segment":
        """Maps the file read-only. As attach."""
        return cls.attach(name, read_only=True)

    @classmethod
    def _of_file(cls, name: str, file: SegmentBase, read_only: bool) -> "Segment":
        segment = None
        try:
            size = os.fstat(file.fd).st_size
            if size == 0:
                raise errors.SegmentInvalid(
                    f"pool {name!r}: {path_of(name)} is an empty file, not a pool: remove it"
                )
            segment = cls(name, file, size, read_only)
        except BaseException:
            (segment or file).close()  # now: a traceback keeps it
            raise
        return segment

    @contextlib.contextmanager
    def opening(self) -> Iterator[None]:
        """Closes the segment if the block fails; a refusal of C's gets its reason.

        C checks the segment once, as it opens it. Only where it refuses, this checks again, to word
        the reason.
        """
        try:
            yield
        except errors.SegmentInvalid:
            why = ffi.new("struct shmpool_refusal *")
            code = lib.shmpool_check(self.base, self.size, self.fd, why)
            self.close()
            if code == 0:
                raise  # corrupted elsewhere, or only for a moment
            raise errors.SegmentInvalid(f"pool {self.name!r}: {_fault(code, why)}") from None
        except BaseException:
            self.close()  # now: a traceback keeps it
            raise

    def named(self) -> bool:
        """Whether the file still has a name."""
        with system_errors(f"pool {self.name!r} cannot be looked at"):
            return os.fstat(self.fd).st_nlink > 0


def _fault(code: int, why: Native) -> str:
    """Why shmpool_check() refuses a segment, in words."""
    if code == -errno.EAGAIN:
        return "its creator died before it was complete"
    if why.fault == lib.SHMPOOL_FAULT_OPTION:
        return str(native_refusal(why, int(ffi.cast("int64_t", why.value))))
    return _FAULTS[why.fault].format(value=why.value, expected=why.expected)


def _resize(fd: int, size: int) -> None:
    """Gives a new file its size. One over RLIMIT_FSIZE is refused here: the kernel would send
    SIGXFSZ, which ends a process that does not ignore it."""
    most = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if most != resource.RLIM_INFINITY and size > most:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    os.ftruncate(fd, size)


def _fill(segment: Segment, geometry: Native) -> None:
    """Makes an empty pool in a new file."""
    code = lib.shmpool_create_wait(segment.base, segment.fd, geometry)
    if code == -errno.ENOSPC:
        raise os_errors.does_not_fit(segment.name, geometry, os.fstat(segment.fd).st_blocks * 512)
    check(code, f"pool {segment.name!r}")


def _map(segment: Segment, size: int, read_only: bool) -> None:
    """Maps the file. SegmentInvalid, OutOfSharedMemory."""
    name = segment.name
    if os.fstat(segment.fd).st_size < size:  # it is shorter than it was a moment ago
        raise errors.SegmentInvalid(f"pool {name!r}: its file was truncated")
    try:
        segment._map(size, read_only)
    except OSError as error:
        if error.errno != errno.ENOMEM:
            raise os_errors.failure(f"pool {name!r} cannot be mapped", error) from None
        raise errors.OutOfSharedMemory(
            f"pool {name!r} takes {size} bytes of addresses, over this process's limits: "
            "raise RLIMIT_AS (ulimit -v unlimited) or vm.max_map_count"
        ) from None


def state_of(fd: int) -> tuple[int, bool]:
    """What C says of the file: 0 a pool, -EAGAIN never finished, -EBADMSG something else; whether
    its creator has closed it.

    Its header is read and not mapped: that needs no addresses.
    """
    size = os.fstat(fd).st_size
    header = bytearray(HEADER)
    os.preadv(fd, [header], 0)
    native = ffi.from_buffer(header)
    code: int = lib.shmpool_check(native, size, fd, ffi.new("struct shmpool_refusal *"))
    return code, code == 0 and bool(lib.shmpool_left(native))


def _refuse_existing(name: str) -> None:
    """PoolExists if there is a pool of that name, or a file that was not left by a creator's death
    before there were temporary names."""
    try:
        file = open_file(name)
    except errors.PoolNotFound:
        return
    except (errors.AccessDenied, errors.SegmentInvalid):
        raise os_errors.exists(name) from None
    fd = file.fd
    try:
        with locked_whole(fd) as alone:
            if alone and names_file(name, fd) and state_of(fd)[0] == -errno.EAGAIN:
                unlink(name)
                return
    finally:
        file.close()
    raise os_errors.exists(name)


def _give_to_group(name: str, fd: int, group: Group, number: int) -> None:
    try:
        os.fchown(fd, -1, number)
    except OSError as error:
        raise errors.AccessDenied(
            f"pool {name!r} cannot be given to group {group!r}: {error.strerror}"
        ) from None


def _refuse_hopeless(name: str, fd: int, geometry: Native) -> None:
    """Before it takes memory: what cannot fit would fill /dev/shm for everybody until it fails."""
    status = os.fstatvfs(fd)
    free = status.f_bavail * status.f_frsize
    if status.f_blocks and sum(os_errors.taken_at_once(geometry)) > free:
        raise os_errors.does_not_fit(name, geometry)
