# SPDX-License-Identifier: Apache-2.0
"""The end of a process: every pool that it has open is left, so that what it holds goes back; and
in those that it has made and dropped stands that they were left on purpose (pruning.py).

atexit does not run in a forked child of multiprocessing. That has a registry of its own, but clears
it when it starts, and then runs the hooks for after a fork; so such a hook is set whenever a pool
is opened or a process forked.
"""

import atexit
import contextlib
import os
import sys
import weakref
from typing import Protocol

from ._ffi import lib


class Leaves(Protocol):
    """What is left at the end."""

    def _leave(self) -> None: ...


MADE_MAX = 1024  # pools of one process that are remembered
# No WeakSet: its callback is Python, where a signal handler may raise, and what it raises is lost.
_open: "set[weakref.ref[Leaves]]" = set()
_made: dict[str, tuple[int, int]] = {}  # by path: device and inode


def leave_at_the_end(pool: Leaves) -> None:
    """From now on, as long as the pool is there."""
    _open.add(weakref.ref(pool, _open.discard))
    _hook_multiprocessing()


def made(path: str) -> None:
    """This process has made the pool that is there."""
    if len(_made) >= MADE_MAX:
        for old in [path for path in _made if not os.path.exists(path)] or list(_made)[:1]:
            del _made[old]
    with contextlib.suppress(OSError):
        _made[path] = _file(os.stat(path, follow_symlinks=False))


def _file(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def open_pools() -> list[Leaves]:
    """What is left at the end."""
    return [pool for known in list(_open) if (pool := known()) is not None]


def _leave_all() -> None:
    for pool in open_pools():
        pool._leave()
    for path, file in _made.items():
        with contextlib.suppress(OSError):
            fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
            if _file(os.fstat(fd)) == file:
                lib.shmpool_leave_file(fd)
            os.close(fd)


def _leave_at_exit() -> None:
    sys.modules["multiprocessing.util"].Finalize(None, _leave_all, exitpriority=0)


def _hook_multiprocessing() -> None:
    util = sys.modules.get("multiprocessing.util")
    if util is not None and _open:
        util.register_after_fork(_leave_at_exit, lambda hook: hook())


atexit.register(_leave_all)
os.register_at_fork(after_in_child=_made.clear)
os.register_at_fork(after_in_child=_hook_multiprocessing)
