# SPDX-License-Identifier: Apache-2.0
"""The end of a process: leaves the pools that it has open, so that its buffers are freed.

Also marks the pools that it has created as closed by their creator, so that prune() keeps them.
Not in here: processes that are killed (native/recover.h).

A child that multiprocessing forks does not run atexit. It runs the finalizers of multiprocessing,
but clears them when it starts, and then runs the after-fork hooks. So such a hook registers the
finalizer again. The hook is set whenever a pool is opened or a process forks. A child that opens
its first pool itself registers the finalizer then.

A daemon thread that waits in a pool then gets PoolClosed, and ends without a traceback.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
import weakref

from ._ffi import lib
from .errors import PoolClosed
from .free_after import EXIT_S, settle
from .leases import outlive

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .pool import Pool

MADE_MAX = 1024  # the most created pools that are remembered
# No WeakSet: its callback is in Python, and an exception of a signal handler is lost in a callback.
_open: set[weakref.ref[Pool]] = set()
_made: dict[tuple[int, int], str] = {}  # paths, by device and inode
_finalized = 0  # the process that has the finalizer


def leave_at_the_end(pool: Pool) -> None:
    """Leaves the pool when the process ends, if the object still exists then."""
    _open.add(weakref.ref(pool, _open.discard))
    _hook_multiprocessing()
    process = sys.modules.get("multiprocessing.process")
    if process is not None and process.parent_process() is not None:
        _leave_at_exit()


def made(path: str, file: os.stat_result) -> None:
    """Remembers that this process has created a pool's file, whose name is or will be path."""
    if len(_made) >= MADE_MAX:
        known = list(_made.items())  # other threads change _made
        gone = [key for key, path in known if not os.access(path, os.F_OK)]
        for old in gone or [key for key, _ in known[:1]]:
            _made.pop(old, None)
    _made[file.st_dev, file.st_ino] = path


def open_pools() -> list[Pool]:
    """Returns the pools given to leave_at_the_end() that still exist."""
    return [pool for known in list(_open) if (pool := known()) is not None]


def _end_daemon_threads_silently() -> None:
    hook = threading.excepthook

    def ended(args: threading.ExceptHookArgs) -> None:
        daemon = args.thread is not None and args.thread.daemon
        if not (daemon and issubclass(args.exc_type, PoolClosed)):
            hook(args)

    threading.excepthook = ended


def _leave_all() -> None:
    _end_daemon_threads_silently()
    try:
        settle(None, EXIT_S)
    finally:
        outlive()
        for pool in open_pools():
            pool._leave()
    for key, path in list(_made.items()):
        with contextlib.suppress(OSError):
            fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                file = os.fstat(fd)
                if (file.st_dev, file.st_ino) == key:
                    lib.shmpool_leave_file(fd)
            finally:
                os.close(fd)


def _leave_at_exit() -> None:
    global _finalized
    if _finalized != os.getpid():
        sys.modules["multiprocessing.util"].Finalize(None, _leave_all, exitpriority=0)
        _finalized = os.getpid()


def _hook_multiprocessing() -> None:
    util = sys.modules.get("multiprocessing.util")
    if util is not None and _open:
        util.register_after_fork(_leave_at_exit, lambda hook: hook())


atexit.register(_leave_all)
os.register_at_fork(after_in_child=_made.clear)
os.register_at_fork(after_in_child=_hook_multiprocessing)
