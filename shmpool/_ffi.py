# SPDX-License-Identifier: Apache-2.0
"""The only way into C: the library, its codes turned into exceptions, and its deadlines.

Any is allowed here and nowhere else.
"""

import errno
import os
import time
from collections.abc import Callable
from typing import Any, NoReturn

from . import errors
from ._native import ffi, lib  # type: ignore[import-not-found]

__all__ = ["FOREVER", "Native", "check", "fail", "ffi", "lib", "until", "waited"]

Native = Any
FOREVER = 2**63 - 1

_EXCEPTIONS: dict[int, tuple[type[errors.ShmpoolError], str]] = {
    errno.EINVAL: (errors.InvalidArgument, "not one of this pool's"),
    errno.EDOM: (errors.InvalidArgument, ""),
    errno.EBADF: (errors.PoolClosed, "the pool is closed"),
    errno.ESHUTDOWN: (errors.PoolClosed, "the pool was closed meanwhile"),
    errno.ENOENT: (errors.QueueNotFound, "no such queue"),
    errno.EBUSY: (errors.QueueBusy, "the queue's single side is taken by another member"),
    errno.EAGAIN: (errors.PoolExhausted, "no buffer is free"),
    errno.ENOSPC: (errors.OutOfSharedMemory, "no room left in shared memory to grow the pool"),
    errno.ENOMEM: (errors.OutOfSharedMemory, "this process can get no more memory"),
    errno.ENOBUFS: (errors.Full, "no room in the queue"),
    errno.ESTALE: (errors.BufferReleased, "the buffer was freed or handed on"),
    errno.ECHILD: (errors.BufferReleased, "the buffer is of the process this one was forked from"),
    errno.EPERM: (errors.ForeignBuffer, "the buffer belongs to another process"),
    errno.ETXTBSY: (errors.BufferInUse, ""),
    errno.EMSGSIZE: (errors.PayloadTooLarge, ""),
    errno.ERANGE: (errors.InvalidArgument, "it lies outside the buffer"),
    errno.EBADMSG: (errors.SegmentInvalid, "the segment is damaged"),
    errno.EUSERS: (errors.LimitReached, "every member slot of the pool is taken"),
    errno.ENFILE: (errors.LimitReached, "every queue slot of the pool is taken"),
    errno.EXFULL: (errors.LimitReached, "64 pools are open in this process"),
    errno.EMFILE: (errors.LimitReached, "no descriptor is left to this process (ulimit -n)"),
    errno.EFBIG: (errors.OutOfSharedMemory, "it is over this process's limit (ulimit -f)"),
    errno.EACCES: (errors.AccessDenied, "this process may not open its file for writing"),
    errno.EROFS: (errors.AccessDenied, "it was opened to read it only"),
    errno.ENAMETOOLONG: (errors.InvalidArgument, "its path is too long"),
    errno.EDEADLK: (errors.AccessDenied, "another process keeps its file locked"),
    errno.ENOLCK: (
        errors.SegmentInvalid,
        "its file system has no open file description locks, which tell who is alive",
    ),
    errno.EEXIST: (errors.QueueExists, "there is a queue of that name"),
}


def fail(code: int, what: str) -> NoReturn:
    """Raises the exception for a negative code from C; where it has no reason, what says it all."""
    kind, why = _EXCEPTIONS.get(-code, (None, ""))
    if kind is None:
        raise errors.ShmpoolError(f"{what}: {os.strerror(-code)}")
    raise kind(f"{what}: {why}" if why else what)


def check(code: int, what: str) -> int:
    """The result of a call into C, if it is one."""
    if code < 0:
        fail(code, what)
    return code


def until(timeout: float | None) -> int:
    """The CLOCK_MONOTONIC deadline, in ns, of a timeout in seconds (None: never; 0: at once)."""
    if timeout is None:
        return FOREVER
    if not isinstance(timeout, (int, float)):
        raise TypeError(f"timeout is {timeout!r}; it is a number of seconds, or None")
    if not timeout >= 0:
        raise errors.InvalidArgument(f"timeout is {timeout!r} seconds; it cannot be negative")
    if timeout == 0:
        return 0
    if timeout > 2**32:
        return FOREVER
    return time.monotonic_ns() + int(timeout * 1e9)


def waited(call: Callable[[int], int], timeout: float | None) -> int:
    """call(deadline), again after each signal; Python runs the handlers in between."""
    deadline = until(timeout)
    while True:
        code = call(deadline)
        if code != -errno.EINTR:
            return code


if lib.hot_install(id(fail)):
    raise ImportError("shmpool._hot could not be made")
