# SPDX-License-Identifier: Apache-2.0
"""Pruning: removes abandoned pools, and says why each other pool stays."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterable

from . import errors
from .options import seconds_of
from .os_errors import Suppressed
from .pool_files import (
    TEMPORARY,
    in_use,
    locked_whole,
    names,
    names_file,
    open_file,
    path_of,
    pool_names,
    unlink,
)
from .segment import state_of


def prune(*, age: float | None = None) -> list[str]:
    """Removes every abandoned pool that no process has open for writing. Returns their names.

    A pool is abandoned if its creator died without closing or unlinking it; with age, also if it
    was not used for age seconds. Buffers in its queues are lost. The kernel says whether a process
    has a pool open, in any PID namespace. Files that are not pools of this version, or that this
    user may not open, stay. Any number of threads and processes may call this at the same time.

    Raises:
        InvalidArgument, LimitReached: age is negative; this process has no descriptor left.
    """
    return survey(age=age)[0]


def survey(
    among: Iterable[str] | None = None, *, age: float | None = None
) -> tuple[list[str], dict[str, str]]:
    """Prunes. Returns the names of the pools that were removed, and why each other pool stays.

    among limits it to these names, temporary names included.
    """
    seconds_of(age, "age")
    removed, left = [], {}
    there = names() if among is None else among
    for name in [name for name in there if name.startswith(TEMPORARY)]:
        _remove_unfinished(name)
    for name in pool_names() if among is None else among:
        if name.startswith(TEMPORARY):
            continue
        reason = _removed(name, age)
        if reason is None:
            removed.append(name)
        else:
            left[name] = reason
    return removed, left


def _removed(name: str, age: float | None) -> str | None:
    """Removes a pool if it is abandoned and not open. Returns None, or why the pool stays."""
    try:
        file = open_file(name)
    except errors.ShmpoolError as error:
        return str(error)
    fd = file.fd
    try:
        if in_use(fd):
            return "a process has it open"
        with locked_whole(fd) as alone:
            if not alone:
                return "a process keeps its file locked"
            if not names_file(name, fd):
                return "another pool has its name now"
            reason = _needed(fd, age)
            if reason is None:
                unlink(name)
            return reason
    except errors.ShmpoolError as error:
        return str(error)
    except OSError as error:
        if error.errno is None:  # a signal handler raised it
            raise
        return str(error)
    finally:
        file.close()


def _needed(fd: int, age: float | None) -> str | None:
    """Returns why a pool that no process has open must stay, or None if it is abandoned."""
    state, left = state_of(fd)
    if state == -errno.EBADMSG:
        return "it is no pool of this version"
    idle = time.time() - os.fstat(fd).st_ctime
    if (state == 0 and not left) or state == -errno.EAGAIN or (age is not None and idle >= age):
        return None
    return f"its creator closed it and left it on purpose; not used for {idle:.0f} s (--age)"


def _remove_unfinished(name: str) -> None:
    """Removes a temporary name if its creator has died, or if the file has its own name too."""
    with contextlib.suppress(errors.ShmpoolError), Suppressed():
        file = open_file(name)
        finished = os.fstat(file.fd).st_nlink > 1
        with locked_whole(file.fd) as alone:
            if (alone or finished) and names_file(name, file.fd):
                os.unlink(path_of(name))
