# SPDX-License-Identifier: Apache-2.0
"""Segment: the shared-memory file under a pool. Creates, maps and closes it.

Not in here: what the file contains (native/), its name and locks (pool_files.py).

A new file has a temporary name until the pool in it is complete. So a process that finds a pool's
name finds a complete pool, and never waits for the creator. A process that opens a pool for writing
holds a token: a kernel lock that children do not inherit (native/token.h). A process that removes a
name locks the whole file first, which fails while a token is held. No call here waits for a lock.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import resource
from collections.abc import Callable, Iterator
from operator import index

from . import errors, os_errors
from ._ffi import Native, ffi, lib
from ._hot import SegmentBase
from .choices import NumaNode
from .codes import check
from .geometry import does_not_fit, native_refusal, taken_at_once
from .memory import no_huge_pages, place
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

HEADER = 4096  # bytes from the start of the file that shmpool_check() reads
ID_MAX = 2**32 - 2  # of a group or a user: the next number is -1 as the kernel reads it, for none
CREATE_TRIES = 100  # a try fails if another process takes or removes the name during it
ANONYMOUS = "(anonymous)"  # stands for the name of a pool that has none; it is not a valid name
Group = str | int | None  # a name or a number; None keeps the creator's group


def group_id(group: Group) -> int:
    """Returns the number of a group, or -1 for None. Raises InvalidArgument or TypeError."""
    if group is None:
        return -1
    return _id("group", "group", group, lambda name: grp.getgrnam(name).gr_gid)


def user_id(owner: str | int) -> int:
    """Returns the number of a user. Raises InvalidArgument or TypeError."""
    return _id("owner", "user", owner, lambda name: pwd.getpwnam(name).pw_uid)


def _id(what: str, kind: str, given: str | int, find: Callable[[str], int]) -> int:
    if not isinstance(given, str):
        try:
            number = index(given)
        except TypeError:
            raise TypeError(f"{what} is {given!r}; it must be a str, an int, or None") from None
        if isinstance(given, bool) or not 0 <= number <= ID_MAX:
            raise errors.InvalidArgument(f"{what} is {given!r}; allowed are 0 to {ID_MAX}")
        return number
    try:
        return find(given)
    except (KeyError, ValueError):  # ValueError: no name can have such characters
        raise errors.InvalidArgument(
            f"{what} is {given!r}; this machine has no such {kind}"
        ) from None


_MAKE_AGAIN = ": unlink it (shmpool rm) and create it again"
_FAULTS: dict[int, str] = {
    lib.SHMPOOL_FAULT_NONE: "its file was truncated",
    lib.SHMPOOL_FAULT_CLASSES: "it has {value} size classes, or buffers in all of them; it can "
    "have from {least} to {most}",
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
    lib.SHMPOOL_FAULT_RING: "its ring of free buffers in queue slot {value} does not follow from "
    "its geometry, or holds more than it has room for",
}


class Segment(SegmentBase):
    """One mapping of one pool's file. C owns the mapping and the descriptor (hot/segment.c).

    They are released by close(), which may be repeated, or when the object is garbage-collected.
    """

    def __init__(self, name: str, file: SegmentBase, size: int, read_only: bool = False) -> None:
        """Takes over the descriptor of file, and maps size bytes.

        Raises:
            SegmentInvalid, OutOfSharedMemory: the file is shorter; no addresses are left.
        """
        self._take(file)
        self.name = name
        self.path = "" if name == ANONYMOUS else path_of(name)
        self.status = os.fstat(self.fd)
        self.inode = self.status.st_ino
        if self.status.st_size < size:  # an access past its end would be SIGBUS
            raise errors.SegmentInvalid(f"pool {name!r}: its file was truncated{_MAKE_AGAIN}")
        try:
            self._map(size, read_only)
        except OSError as error:
            if error.errno != errno.ENOMEM:
                raise os_errors.failure(f"pool {name!r} cannot be mapped", error) from None
            raise errors.OutOfSharedMemory(
                f"pool {name!r} takes {size} bytes of addresses, over this process's limits: "
                "raise RLIMIT_AS (ulimit -v unlimited) or vm.max_map_count"
            ) from None

    @property
    def base(self) -> Native:
        return ffi.cast("void *", self.address)

    @classmethod
    def create(
        cls,
        name: str,
        geometry: Native,
        mode: int,
        group: Group,
        replace: bool = False,
        node: NumaNode = None,
    ) -> Segment:
        """Creates and initialises the file, complete but for its name.

        Setting _file_name gives it the name; until then close() removes the file. Refuses a name
        that is taken, unless replace is true.

        Raises:
            PoolExists, OutOfSharedMemory, InvalidArgument, AccessDenied, LimitReached.
        """
        number = group_id(group)
        with system_errors(f"pool {name!r} cannot be created"):
            if not replace:
                _refuse_existing(name)
            for _ in range(CREATE_TRIES):
                segment = cls._create_once(name, geometry, mode, group, number, node)
                if segment is not None:
                    made(segment.path, segment.status)
                    return segment
        raise disturbed(name)

    @classmethod
    def _create_once(
        cls, name: str, geometry: Native, mode: int, group: Group, number: int, node: NumaNode
    ) -> Segment | None:
        """Tries once. Returns None if another process has locked or removed the unfinished file."""
        file, segment = SegmentBase(), None
        try:
            # Also locks byte 0 until the file gets its name, so that prune() does not remove it.
            code = file._create(path_of(f"{TEMPORARY}{os.urandom(8).hex()}"))
            if code == -errno.EDEADLK:  # another process prunes, and has locked the file
                file.close()
                return None
            check(code, f"pool {name!r}")
            fd = file.fd
            if os.fstat(fd).st_nlink == 0:  # another process has pruned the file
                file.close()
                return None
            _refuse_hopeless(name, fd, geometry)
            _resize(fd, geometry.size)
            segment = cls(name, file, geometry.size)
            _fill(segment, geometry, node)
            # The group first: mode must not admit the group that the file has now.
            _give_to_group(name, fd, group, number)
            os.fchmod(fd, mode)
        except BaseException:
            (segment or file).close()  # now: a traceback keeps the object alive
            raise
        return segment

    @classmethod
    def anonymous(cls, geometry: Native, node: NumaNode = None) -> Segment:
        """Creates and initialises a nameless file. Raises OutOfSharedMemory, LimitReached."""
        with system_errors("an anonymous pool cannot be created"):
            file, segment = SegmentBase(), None
            try:
                file._anonymous(None)
                _resize(file.fd, geometry.size)
                segment = cls(ANONYMOUS, file, geometry.size)
                _fill(segment, geometry, node)
            except BaseException:
                (segment or file).close()  # now: a traceback keeps the object alive
                raise
        return segment

    @classmethod
    def of_descriptor(cls, fd: int) -> Segment:
        """Maps the file of an anonymous pool. Takes over fd, which the parent process passed."""
        file = SegmentBase()
        file._anonymous(fd)
        with system_errors("an anonymous pool cannot be opened"):
            return cls._of_file(ANONYMOUS, file, read_only=False)

    @classmethod
    def attach(cls, name: str, read_only: bool = False, owner: int | None = None) -> Segment:
        """Maps the file. Its contents are checked later, by PoolBase._hot_open or _enter.

        Raises:
            PoolNotFound, SegmentInvalid: there is no such file, or it is not a pool's.
            AccessDenied: this user may not open the file, or another user than owner owns it.
        """
        with system_errors(f"pool {name!r} cannot be opened"):
            file = open_file(name, read_only)
            there = os.fstat(file.fd).st_uid  # not stat(2): the name may be another file's by now
            if owner is not None and there != owner:
                file.close()  # now: a traceback keeps the object alive
                raise os_errors.another_owner(name, there, owner)
            return cls._of_file(name, file, read_only)

    @classmethod
    def _of_file(cls, name: str, file: SegmentBase, read_only: bool) -> Segment:
        segment = None
        try:
            size = os.fstat(file.fd).st_size
            if size == 0:
                raise errors.SegmentInvalid(
                    f"pool {name!r}: {path_of(name)} is an empty file, not a pool: remove it"
                )
            segment = cls(name, file, size, read_only)
        except BaseException:
            (segment or file).close()  # now: a traceback keeps the object alive
            raise
        return segment

    @contextlib.contextmanager
    def opening(self) -> Iterator[None]:
        """Closes the segment if the block raises. Adds the reason to a SegmentInvalid.

        C checks the segment when it opens it, and returns only a code. So a refused segment is
        checked again here, to find the reason.
        """
        try:
            yield
        except errors.SegmentInvalid:
            why = ffi.new("struct shmpool_refusal *")
            code = lib.shmpool_check(self.base, self.size, self.fd, True, why)
            self.close()
            if code == 0:
                raise  # the second check found no reason
            raise errors.SegmentInvalid(f"pool {self.name!r}: {_fault(code, why)}") from None
        except BaseException:
            self.close()  # now: a traceback keeps the object alive
            raise

    def stat(self) -> os.stat_result:
        """Returns what the file is now. Raises ShmpoolError, for a descriptor that is closed."""
        with system_errors(f"pool {self.name!r} cannot be read"):
            return os.fstat(self.fd)


def _fault(code: int, why: Native) -> str:
    """Returns in words why shmpool_check() refuses a segment."""
    if code == -errno.EAGAIN:
        return "its creator died before it was complete"
    if why.fault == lib.SHMPOOL_FAULT_OPTION:
        return str(native_refusal(why, int(ffi.cast("int64_t", why.value))))
    told = _FAULTS[why.fault].format(
        value=why.value, expected=why.expected, least=why.least, most=why.most
    )
    if why.fault in (lib.SHMPOOL_FAULT_VERSION, lib.SHMPOOL_FAULT_LAYOUT):
        return f"{told}: use the version of shmpool that made it, or unlink it and create it again"
    return told + _MAKE_AGAIN


def _resize(fd: int, size: int) -> None:
    """Sets the size of a new file, in bytes. Raises OSError.

    Refuses a size over RLIMIT_FSIZE, for which the kernel would send SIGXFSZ: it kills a process
    that does not ignore it.
    """
    most = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if most != resource.RLIM_INFINITY and size > most:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    os.ftruncate(fd, size)


def _fill(segment: Segment, geometry: Native, node: NumaNode) -> None:
    """Initialises an empty pool in a new file. Raises OutOfSharedMemory, InvalidArgument."""
    place(segment.name, segment.base, segment.size, node)
    code = lib.shmpool_create_wait(segment.base, segment.fd, geometry)
    if code == -errno.ENOSPC:
        raise does_not_fit(segment.name, geometry, os.fstat(segment.fd).st_blocks * 512)
    if code and geometry.huge and (refusal := no_huge_pages(segment.name, code)) is not None:
        raise refusal
    check(code, f"pool {segment.name!r}")


def state_of(fd: int) -> tuple[int, bool]:
    """Returns what the file is, and whether its creator has closed it.

    The first is 0 for a pool, -EAGAIN for a pool that was never completed, -EBADMSG for anything
    else. Reads the header instead of mapping it, which takes no address space.
    """
    size = os.fstat(fd).st_size
    header = bytearray(HEADER)
    os.preadv(fd, [header], 0)
    native = ffi.from_buffer(header)
    code: int = lib.shmpool_check(native, size, fd, False, ffi.new("struct shmpool_refusal *"))
    return code, code == 0 and bool(lib.shmpool_left(native))


def _refuse_existing(name: str) -> None:
    """Raises PoolExists if a file has the name. First removes a pool that was never completed:
    versions without temporary names left such files when the creator died."""
    try:
        file = open_file(name, doing="create")
    except errors.PoolNotFound:
        return
    except (errors.AccessDenied, errors.SegmentInvalid) as refusal:
        raise os_errors.exists(name, refusal) from None
    fd = file.fd
    try:
        with locked_whole(fd) as alone:
            if alone and names_file(name, fd) and state_of(fd)[0] == -errno.EAGAIN:
                unlink(name)
                return
    finally:
        file.close()
    raise os_errors.exists(name)


def refuse_name(name: str, error: OSError, replace: bool) -> errors.ShmpoolError | OSError:
    """Returns the exception for a new pool that could not take its name."""
    refusals = (errno.EPERM, errno.EACCES, errno.EISDIR, errno.ENOTEMPTY)
    if replace and error.errno in refusals:
        return os_errors.cannot_open(name, path_of(name), error, "replace")
    return os_errors.failure(f"pool {name!r} cannot be created", error)


def disturbed(name: str) -> errors.PoolExists:
    """Returns the exception for a pool that could not be created in CREATE_TRIES tries."""
    return errors.PoolExists(
        f"pool {name!r} was created and removed {CREATE_TRIES} times by other processes"
    )


def _give_to_group(name: str, fd: int, group: Group, number: int) -> None:
    try:
        os.fchown(fd, -1, number)
    except OSError as error:
        if error.errno is None:  # a signal handler raised it
            raise
        raise errors.AccessDenied(
            f"pool {name!r} cannot be given to group {group!r}: {error.strerror}; give a group "
            "that this user is a member of (id -G)"
        ) from None


def _refuse_hopeless(name: str, fd: int, geometry: Native) -> None:
    """Raises OutOfSharedMemory if a new pool cannot fit.

    Checked before the pool takes memory: it would fill /dev/shm for all processes until it fails.
    """
    status = os.fstatvfs(fd)
    free = status.f_bavail * status.f_frsize
    if status.f_blocks and sum(taken_at_once(geometry)) > free:
        raise does_not_fit(name, geometry)
