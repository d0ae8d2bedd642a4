# SPDX-License-Identifier: Apache-2.0
"""Who of the processes that have members is dead: a pidfd each, in the event loop.

The kernel makes a pidfd readable when its process has ended, a zombie included, at once and without
polling. This only says when to look: who is dead, recovery asks the kernel itself.
"""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

from .view import Process

START_MASK = (1 << 32) - 1  # as much of a start time as a segment keeps


class Deaths:
    """Watches the processes it is told of; died(process) is called once for each that ends."""

    def __init__(self, loop: asyncio.AbstractEventLoop, died: Callable[[Process], object]) -> None:
        self._loop, self._died = loop, died
        self._fds: dict[Process, int] = {}
        self._dead: set[Process] = set()

    def watch(self, processes: set[Process]) -> None:
        """From now on these, and only these."""
        for process in self._fds.keys() - processes:
            self._forget(process)
        self._dead &= processes
        for process in processes - self._fds.keys() - self._dead:
            self._begin(process)

    def dead(self) -> set[Process]:
        """Those that have ended and still have members."""
        return set(self._dead)

    def _begin(self, process: Process) -> None:
        try:
            fd = os.pidfd_open(process.pid)
        except (ProcessLookupError, OverflowError):  # the latter: no process has such a number
            self._ended(process)
            return
        except OSError:
            return  # out of descriptors: the next look tries again
        if start_of(process.pid) != process.start & START_MASK:
            os.close(fd)  # the number has gone to another process
            self._ended(process)
            return
        self._fds[process] = fd
        self._loop.add_reader(fd, self._readable, process)

    def _readable(self, process: Process) -> None:
        self._forget(process)
        self._ended(process)

    def _ended(self, process: Process) -> None:
        self._dead.add(process)
        self._died(process)

    def _forget(self, process: Process) -> None:
        fd = self._fds.pop(process)
        self._loop.remove_reader(fd)
        os.close(fd)

    def close(self) -> None:
        """Watches nobody any more."""
        for process in list(self._fds):
            self._forget(process)


def start_of(pid: int) -> int | None:
    """When the process started, in clock ticks after boot, in 32 bits; None if it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    return int(text.rpartition(b")")[2].split()[19]) & START_MASK
