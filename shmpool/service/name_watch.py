# SPDX-License-Identifier: Apache-2.0
"""Which pools' files came, changed or went, in the event loop.

inotify(7) says so. What there was before, and what inotify lost because too much happened at once,
is found by going through the directory, a few hundred names at a time: anybody may fill it with
names, and nobody waits for that.
"""

import asyncio
import contextlib
import ctypes
import os
import struct
from collections.abc import Callable, Iterator

from ..pool_files import PREFIX, SHM

CREATE, MOVED_TO, MOVED_FROM, DELETE, ATTRIB = 0x100, 0x80, 0x40, 0x200, 0x4  # linux/inotify.h
OVERFLOW = 0x4000
_EVENT = struct.Struct("iIII")  # watch, mask, cookie, bytes of the name
READ_MAX = 32 << 10
READ_PAUSE_S = 0.01  # between two reads of events, whatever anybody does to files
SLICE = 500  # names that are gone through at once
FIRST = 20000  # at the start, so that a daemon that is ready knows them
SLICE_PAUSE_S = 0.005
WALK_PAUSE = 5  # between two walks: times as long as the last one took
WALK_PAUSE_S = 0.2  # at least
POLL_S = 1.0  # where there is no inotify


class NameWatch:
    """Calls changed(name) for each pool's name whose file came, changed or went."""

    def __init__(self, changed: Callable[[str], object]) -> None:
        self._loop = asyncio.get_running_loop()
        self._changed = changed
        self._lost = asyncio.Event()
        self._lost.set()
        self._slice = FIRST
        self._pause: asyncio.TimerHandle | None = None
        self._fd = _watching()

    async def run(self) -> None:
        """Begins, and never ends by itself."""
        if self._fd >= 0:
            self._loop.add_reader(self._fd, self._read)
        while True:
            await self._lost.wait()
            self._lost.clear()
            began = self._loop.time()
            least = WALK_PAUSE_S
            try:
                await self._walk()
            except OSError:  # there may be no such directory, or not yet, or no descriptor now
                self._lost.set()
                least = POLL_S
            if self._fd < 0:
                self._lost.set()
                least = POLL_S
            await asyncio.sleep(max(least, WALK_PAUSE * (self._loop.time() - began)))

    def all_again(self) -> None:
        """Every name that there is counts as changed, soon."""
        self._lost.set()

    async def _walk(self) -> None:
        with os.scandir(SHM) as entries:
            for number, entry in enumerate(entries, 1):
                if entry.name.startswith(PREFIX):
                    self._changed(entry.name.removeprefix(PREFIX))
                if number % self._slice == 0:
                    self._slice = SLICE
                    await asyncio.sleep(SLICE_PAUSE_S)
        self._slice = SLICE

    def now(self) -> None:
        """Tells what is waiting to be told."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                self._tell(os.read(self._fd, READ_MAX))

    def _read(self) -> None:
        self._loop.remove_reader(self._fd)
        self._pause = self._loop.call_later(READ_PAUSE_S, self._read_on)
        self.now()

    def _tell(self, data: bytes) -> None:
        names: dict[str, None] = {}  # in their order, each once
        for mask, name in _events(data):
            if mask & OVERFLOW:
                self._lost.set()
            elif name.startswith(PREFIX):
                names[name.removeprefix(PREFIX)] = None
        for name in names:
            self._changed(name)

    def _read_on(self) -> None:
        self._loop.add_reader(self._fd, self._read)

    def close(self) -> None:
        """Tells nothing any more."""
        if self._pause is not None:
            self._pause.cancel()
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1


def _watching() -> int:
    """A descriptor that tells of what happens in the directory; -1 if the kernel gives none."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    what = CREATE | MOVED_TO | MOVED_FROM | DELETE | ATTRIB
    if fd >= 0 and libc.inotify_add_watch(fd, SHM.encode(), what) < 0:
        os.close(fd)
        return -1
    return fd


def _events(data: bytes) -> Iterator[tuple[int, str]]:
    """The mask and the file's name of each event."""
    at = 0
    while at + _EVENT.size <= len(data):
        _, mask, _, length = _EVENT.unpack_from(data, at)
        at += _EVENT.size
        yield mask, os.fsdecode(data[at : at + length].rstrip(b"\0"))
        at += length
