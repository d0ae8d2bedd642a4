# SPDX-License-Identifier: Apache-2.0
"""What happens to the pools' files, by inotify(7), in the event loop: NameWatch for names in
/dev/shm, CloseWatch for the files of watched pools.
"""

import asyncio
import contextlib
import ctypes
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from functools import cache

from ..pool_files import PREFIX, SHM, path_of

# linux/inotify.h
NAME_CHANGES = 0x100 | 0x80 | 0x40 | 0x200 | 0x4  # CREATE, MOVED_TO, MOVED_FROM, DELETE, ATTRIB
CLOSE_WRITE = 0x008
OVERFLOW = 0x4000
_EVENT = struct.Struct("iIII")  # watch, mask, cookie, bytes of the name
READ_MAX = 64 << 10  # bytes
READ_PAUSE_S = 0.01  # between two reads of names: bounds the cost, whatever others do to files
SLICE = 500  # names of a walk between two pauses
FIRST_SLICE = 20000  # names before the first pause, so that a daemon that is ready knows them
SLICE_PAUSE_S = 0.005
WALK_PAUSE = 5  # pause between two walks, as a multiple of the time that the last one took
WALK_PAUSE_S = 0.2  # shortest such pause
POLL_S = 1.0  # pause between two walks where there is no inotify


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


class NameWatch:
    """Calls changed(name) for each name of a pool whose file was created, changed, moved or
    removed.

    Walks /dev/shm once at the start, and again when inotify has lost events. A walk pauses after
    every few hundred names: anybody may fill the directory, and nobody waits for the walk.
    """

    def __init__(self, changed: Callable[[str], object]) -> None:
        self._loop = asyncio.get_running_loop()
        self._changed = changed
        self._walk_needed = asyncio.Event()
        self._walk_needed.set()
        self._slice = FIRST_SLICE
        self._pause: asyncio.TimerHandle | None = None
        self._fd = _watch_directory()

    async def run(self) -> None:
        """Reports changes until it is cancelled."""
        if self._fd >= 0:
            self._loop.add_reader(self._fd, self._read)
        while True:
            await self._walk_needed.wait()
            self._walk_needed.clear()
            began = self._loop.time()
            pause = WALK_PAUSE_S
            try:
                await self._walk()
                failed = False
            except OSError:  # no such directory, or no descriptor left
                failed = True
            if failed or self._fd < 0:
                self._walk_needed.set()
                pause = POLL_S
            await asyncio.sleep(max(pause, WALK_PAUSE * (self._loop.time() - began)))

    def rescan(self) -> None:
        """Makes run() walk the directory again."""
        self._walk_needed.set()

    async def _walk(self) -> None:
        with os.scandir(SHM) as entries:
            for number, entry in enumerate(entries, 1):
                if entry.name.startswith(PREFIX):
                    self._changed(entry.name.removeprefix(PREFIX))
                if number % self._slice == 0:
                    self._slice = SLICE
                    await asyncio.sleep(SLICE_PAUSE_S)
        self._slice = SLICE

    def flush(self) -> None:
        """Reports the events that inotify has queued."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                self._report(os.read(self._fd, READ_MAX))

    def _read(self) -> None:
        self._loop.remove_reader(self._fd)
        self._pause = self._loop.call_later(READ_PAUSE_S, self._resume)
        self.flush()

    def _report(self, data: bytes) -> None:
        names: dict[str, None] = {}  # each once, in order
        for mask, name in _events(data):
            if mask & OVERFLOW:
                self._walk_needed.set()
            elif name.startswith(PREFIX):
                names[name.removeprefix(PREFIX)] = None
        for name in names:
            self._changed(name)

    def _resume(self) -> None:
        self._loop.add_reader(self._fd, self._read)

    def close(self) -> None:
        """Ends the reports. run() must be cancelled before."""
        if self._pause is not None:
            self._pause.cancel()
        _close(self._loop, self._fd)
        self._fd = -1


class CloseWatch:
    """Calls closed() when a process has closed the file of a watched pool that it could write to.

    A process that dies closes its files, and drops its token with them. Each file is watched by
    itself: what others do in the directory causes no event here. Without inotify closed() is never
    called, and only the periodic scans find dead members.
    """

    def __init__(self, closed: Callable[[], object]) -> None:
        self._loop, self._closed = asyncio.get_running_loop(), closed
        self._watches: dict[str, tuple[int, int]] = {}  # inode and watch, by the pool's name
        self._fd: int = _libc().inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd >= 0:
            self._loop.add_reader(self._fd, self._read)

    def follow(self, inodes: Mapping[str, int]) -> None:
        """Watches these pools, whose inodes are given by name, and no others."""
        for name, (inode, watch) in list(self._watches.items()):
            if inodes.get(name) != inode:
                _libc().inotify_rm_watch(self._fd, watch)  # fails if the file is gone
                del self._watches[name]
        for name in inodes.keys() - self._watches.keys():
            watch = _libc().inotify_add_watch(self._fd, path_of(name).encode(), CLOSE_WRITE)
            if watch >= 0:
                self._watches[name] = inodes[name], watch

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            os.read(self._fd, READ_MAX)
            self._closed()

    def close(self) -> None:
        """Ends the calls."""
        _close(self._loop, self._fd)
        self._fd = -1


def _watch_directory() -> int:
    """An inotify descriptor for names in /dev/shm, or -1 if the kernel gives none."""
    fd: int = _libc().inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if fd >= 0 and _libc().inotify_add_watch(fd, SHM.encode(), NAME_CHANGES) < 0:
        os.close(fd)
        return -1
    return fd


def _close(loop: asyncio.AbstractEventLoop, fd: int) -> None:
    if fd >= 0:
        loop.remove_reader(fd)
        os.close(fd)


def _events(data: bytes) -> Iterator[tuple[int, str]]:
    """The mask and the file's name of each event."""
    at = 0
    while at + _EVENT.size <= len(data):
        _, mask, _, length = _EVENT.unpack_from(data, at)
        at += _EVENT.size
        yield mask, os.fsdecode(data[at : at + length].rstrip(b"\0"))
        at += length
