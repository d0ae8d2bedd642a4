# SPDX-License-Identifier: Apache-2.0
"""What the processes of a run tell each other: a folder in /dev/shm with one board and the logs.

The board is an array of 64-bit words: "stop" for the producers, "done" for the consumers, then
one word for each seat. A producer keeps the last word it sent in its seat's; a consumer appends
each word it received to a log of its own, whose length is where the zeros begin. So whoever is
killed leaves exact accounts, and nobody looks at a clock.
"""

import contextlib
import mmap
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from .message import Words
from .way import BOARD

STOP, DONE, SEATS = 0, 1, 8  # places on the board
SEATS_MOST = 500
LOG_WORDS = 1 << 25  # messages one consumer can log; the file is sparse

PREFIX = "shmpool-bench-"


class Board:
    """The board, as every process maps it."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.words = self._map("board", 8 * (SEATS + SEATS_MOST))

    @classmethod
    @contextmanager
    def made(cls, name: str) -> "Iterator[Board]":
        """A new one, removed in the end."""
        folder = Path("/dev/shm") / f"{name}{BOARD}"  # noqa: S108
        folder.mkdir()
        try:
            yield cls(str(folder))
        finally:
            shutil.rmtree(folder)

    def _map(self, name: str, size: int) -> memoryview:
        fd = os.open(f"{self.folder}/{name}", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(fd, size)
            return memoryview(mmap.mmap(fd, size)).cast("Q")
        finally:
            os.close(fd)

    def log(self, seat: int) -> memoryview:
        """The log of the consumer on that seat."""
        return self._map(f"log-{seat}", 8 * LOG_WORDS)

    def logged(self, seat: int) -> Words:
        """What is in it."""
        path = f"{self.folder}/log-{seat}"
        if not os.path.exists(path):
            return np.empty(0, np.uint64)
        words = np.memmap(path, np.uint64, "r")
        return np.array(words[: length(words)])


def length(log: "memoryview | Words") -> int:
    """How many words a log has: it is filled from the front, and no word is zero."""
    low, high = 0, len(log)
    while low < high:
        middle = (low + high) // 2
        if log[middle]:
            low = middle + 1
        else:
            high = middle
    return low


def sweep() -> None:
    """Removes what this run, and runs that were killed, left in /dev/shm."""
    for path in Path("/dev/shm").glob(f"*{PREFIX}*"):  # noqa: S108
        pid = path.name.partition(PREFIX)[2].partition("-")[0]
        if not pid.isdecimal():
            continue
        if pid == str(os.getpid()) or not Path(f"/proc/{pid}").exists():
            with contextlib.suppress(OSError):  # it belongs to another user
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
