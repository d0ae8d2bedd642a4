# SPDX-License-Identifier: Apache-2.0
"""When somebody closes a held pool that he could write to: inotify(7), in the event loop.

A process that dies closes its files, and its token with them. Each pool's own file is watched, and
not the directory: what others do to theirs is no event here. Where there is no inotify nothing is
told, and scans find the dead alone.
"""

import asyncio
import contextlib
import ctypes
import os
from collections.abc import Callable, Mapping

from ..pool_files import path_of

CLOSE_WRITE = 0x008  # linux/inotify.h
READ_MAX = 64 << 10


class ProcessWatch:
    """Calls changed() when a followed pool's file was closed."""

    def __init__(self, loop: asyncio.AbstractEventLoop, changed: Callable[[], object]) -> None:
        self._loop, self._changed = loop, changed
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._followed: dict[str, tuple[int, int]] = {}  # by name: inode, watch
        self._fd: int = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd >= 0:
            loop.add_reader(self._fd, self._read)

    def follow(self, inodes: Mapping[str, int]) -> None:
        """From now on these pools, by name, and only these."""
        for name, (inode, watch) in list(self._followed.items()):
            if inodes.get(name) != inode:
                self._libc.inotify_rm_watch(self._fd, watch)  # fails if the file is gone
                del self._followed[name]
        for name in inodes.keys() - self._followed.keys():
            watch = self._libc.inotify_add_watch(self._fd, path_of(name).encode(), CLOSE_WRITE)
            if watch >= 0:
                self._followed[name] = inodes[name], watch

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            os.read(self._fd, READ_MAX)
            self._changed()

    def close(self) -> None:
        """Tells nothing any more."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
