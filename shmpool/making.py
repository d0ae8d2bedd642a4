# SPDX-License-Identifier: Apache-2.0
"""Who is making a pool's file, and who may take its name away: told by record locks of fcntl(2).

The kernel drops one with its process, and no child of a fork inherits it, as it does an flock(2)'s.
But it belongs to the process, not to a descriptor: any descriptor of the file that the process
closes drops it. So whoever makes a pool announces it within its process, and the others there leave
the file alone.
"""

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

_FLOCK = "hhqqi4x"  # struct flock of 64-bit Linux: type, whence, start, length, pid
_CREATOR, _NAME = 0, 1  # bytes of the file that are locked, whether they exist or not

_here: dict[str, object] = {}  # pools being made, each with its maker's token
os.register_at_fork(after_in_child=_here.clear)


@contextmanager
def announced(name: str) -> Iterator[bool]:
    """Meanwhile here(name) holds. False if it did before: another thread is making the pool."""
    token = object()
    alone = _here.setdefault(name, token) is token
    try:
        yield alone
    finally:
        if alone:
            del _here[name]


def here(name: str) -> bool:
    """Whether a thread of this process is making the pool."""
    return name in _here


def begin(fd: int) -> None:
    """Says that this process makes the file, whatever becomes of it."""
    fcntl.lockf(fd, fcntl.LOCK_EX, 1, _CREATOR)


def end(fd: int) -> None:
    fcntl.lockf(fd, fcntl.LOCK_UN, 1, _CREATOR)


def at_work(fd: int) -> bool:
    """Whether another process that lives is making the file."""
    ask = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, _CREATOR, 1, 0)
    answer: tuple[int, ...] = struct.unpack(_FLOCK, fcntl.fcntl(fd, fcntl.F_GETLK, ask))
    return answer[0] != fcntl.F_UNLCK


@contextmanager
def deciding(fd: int) -> Iterator[bool]:
    """Meanwhile no other process decides whether the file keeps its name. Whether it has it."""
    fcntl.lockf(fd, fcntl.LOCK_EX, 1, _NAME)
    try:
        yield os.fstat(fd).st_nlink > 0
    finally:
        fcntl.lockf(fd, fcntl.LOCK_UN, 1, _NAME)
