# SPDX-License-Identifier: Apache-2.0
"""When somebody closes a segment that he could write to: inotify(7), in the event loop.

A process that dies closes its files, so one that became a member a moment ago, and is not watched
yet, is noticed at once too. Where there is no inotify nothing is told, and scans find it alone.
"""

import asyncio
import ctypes
import os
from collections.abc import Callable

from .files import PREFIX, SHM

CLOSE_WRITE = 0x008  # linux/inotify.h
READ_MAX = 64 << 10


class Closes:
    """Calls changed() when a pool's file was closed."""

    def __init__(self, loop: asyncio.AbstractEventLoop, changed: Callable[[], object]) -> None:
        self._loop, self._changed = loop, changed
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd >= 0:
            libc.inotify_add_watch(self._fd, SHM.encode(), CLOSE_WRITE)
            loop.add_reader(self._fd, self._read)

    def _read(self) -> None:
        if PREFIX.encode() in os.read(self._fd, READ_MAX):
            self._changed()

    def close(self) -> None:
        """Tells nothing any more."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
