# SPDX-License-Identifier: Apache-2.0
"""Codes from C: the exception for each negative code, and the reason in words.

The C types call fail() too (hot/raising.c). Not in here: messages with the figures of a pool or a
queue (os_errors.refuse() and AlfQueue._fail()).
"""

from __future__ import annotations

import errno
import os

from . import errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

# By errno: the exception, and the reason; "" where the caller's text is enough.
EXCEPTIONS: dict[int, tuple[type[errors.ShmpoolError], str]] = {
    errno.EINVAL: (errors.InvalidArgument, "this pool has no such buffer or queue"),
    errno.EDOM: (errors.InvalidArgument, ""),
    errno.EBADF: (errors.PoolClosed, "the pool is closed in this process"),
    errno.ESHUTDOWN: (errors.PoolClosed, "another thread closed the pool during the call"),
    errno.ENOENT: (errors.QueueNotFound, "there is no such queue; Pool.create_queue() makes one"),
    errno.EBUSY: (errors.QueueBusy, "the queue's single side is taken by another member"),
    errno.EAGAIN: (errors.PoolExhausted, "no buffer is free; pool.holders() shows who has them"),
    errno.ENOSPC: (errors.OutOfSharedMemory, "shared memory has no room left for the pool to grow"),
    errno.ENOMEM: (errors.OutOfSharedMemory, "this process gets no more memory from the system"),
    errno.ENOBUFS: (errors.Full, "the queue is full"),
    errno.EPIPE: (errors.ShutDown, "it was shut down"),
    errno.ESTALE: (
        errors.BufferReleased,
        "this Buffer was already freed, or put into a queue; it can no longer be used here",
    ),
    errno.ECHILD: (
        errors.BufferReleased,
        "the buffer belongs to the process that this one was forked from",
    ),
    errno.EPERM: (errors.ForeignBuffer, "the buffer belongs to another process"),
    errno.ETXTBSY: (errors.BufferInUse, ""),
    errno.ENOMSG: (errors.NoArray, ""),
    errno.EMSGSIZE: (errors.PayloadTooLarge, ""),
    errno.ERANGE: (errors.InvalidArgument, "the field lies outside the buffer"),
    errno.EXDEV: (errors.InvalidArgument, "it was not taken from a queue"),
    errno.EOPNOTSUPP: (
        errors.InvalidArgument,
        'the queue has a single producer; make it with producers="multi"',
    ),
    errno.EBADMSG: (errors.SegmentInvalid, "its shared memory is corrupted"),
    errno.EUSERS: (
        errors.LimitReached,
        "all member slots of the pool are taken; create it with members= larger",
    ),
    errno.EINPROGRESS: (
        errors.LimitReached,
        "all member slots of the pool are taken, and a dead member's is still being recovered: try "
        "again, or create it with members= larger",
    ),
    errno.ENFILE: (
        errors.LimitReached,
        "too few queue slots of the pool are left; create it with queues= larger",
    ),
    errno.EXFULL: (
        errors.LimitReached,
        "256 pools are open in this process, which is the most; close one",
    ),
    errno.EMFILE: (
        errors.LimitReached,
        "this process has all its file descriptors in use; ulimit -n raises it",
    ),
    errno.EFBIG: (
        errors.OutOfSharedMemory,
        "it is larger than this process may make files; ulimit -f unlimited",
    ),
    errno.ENODEV: (
        errors.SegmentInvalid,
        "its file system cannot reserve memory: mount a tmpfs at /dev/shm",
    ),
    errno.EDQUOT: (errors.OutOfSharedMemory, "the quota of shared memory is used up"),
    errno.EACCES: (errors.AccessDenied, "this process may not open its file for writing"),
    errno.EBADFD: (
        errors.AccessDenied,
        "its file cannot be opened again: the program closed the descriptor, and its name is gone",
    ),
    errno.EROFS: (
        errors.AccessDenied,
        "the pool was opened read-only; attach to it without readonly=True to change it",
    ),
    errno.ENAMETOOLONG: (errors.InvalidArgument, "its path is too long"),
    errno.EDEADLK: (errors.AccessDenied, "another process keeps its file locked"),
    errno.ENOLCK: (
        errors.SegmentInvalid,
        "no open file description locks, which show which members are alive: mount a tmpfs at "
        "/dev/shm, and let seccomp allow fcntl",
    ),
    errno.EEXIST: (errors.QueueExists, "it exists already; Pool.queue() finds it"),
}


def fail(code: int, what: str) -> NoReturn:
    """Raises the exception for a negative code. Its message is what, then the reason."""
    kind, why = EXCEPTIONS.get(-code) or (errors.ShmpoolError, os.strerror(-code))
    raise kind(f"{what}: {why}" if why else what)


def check(code: int, what: str) -> int:
    """Returns a code of 0 or more. Raises as fail() for a negative code."""
    if code < 0:
        fail(code, what)
    return code
