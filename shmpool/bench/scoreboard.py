# SPDX-License-Identifier: Apache-2.0
"""How the processes of a run report: a folder in /dev/shm with a scoreboard and logs.

The scoreboard is an array of 64-bit words: STOP ends the producers, DONE says to consumers that
no more will be sent, then follows one slot for each process. A producer stores the word of the last
message it sent in its slot. A consumer appends the word of each message it received to its own log;
the log ends at the first zero. So the counts are exact even if a process is killed, and no worker
reads a clock.
"""

import contextlib
import mmap
import os
import shutil
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from .message import Words
from .transport import SCOREBOARD

STOP, DONE, SLOTS = 0, 1, 8  # indices of words
SLOTS_MAX = 500
LOG_WORDS = 1 << 25  # messages that one consumer can log; the file is sparse

PREFIX = "shmpool-bench-"


class Scoreboard:
    """The scoreboard, mapped into this process."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.words = self._map("words", 8 * (SLOTS + SLOTS_MAX))

    @classmethod
    @contextmanager
    def create(cls, name: str) -> "Iterator[Scoreboard]":
        """Creates a scoreboard for a run, and removes it at the end."""
        folder = Path("/dev/shm") / f"{name}{SCOREBOARD}"  # noqa: S108
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

    def log(self, slot: int) -> memoryview:
        """The log of the consumer in that slot, mapped."""
        return self._map(f"log-{slot}", 8 * LOG_WORDS)

    def logged(self, slot: int) -> Words:
        """A copy of the words in that log."""
        path = f"{self.folder}/log-{slot}"
        if not os.path.exists(path):
            return np.empty(0, np.uint64)
        words = np.memmap(path, np.uint64, "r")
        return np.array(words[: length(words)])


def length(log: "memoryview | Words") -> int:
    """How many words a log has: it is filled from the front, and no word is zero."""
    return bisect_left(log, True, key=lambda word: word == 0)


def sweep() -> None:
    """Removes the files of this benchmark, and of benchmarks that were killed, from /dev/shm."""
    for path in Path("/dev/shm").iterdir():  # noqa: S108
        name = path.name.replace("_", "-")  # a contestant has no hyphens in the names of its files
        pid = name.partition(PREFIX)[2].partition("-")[0]
        if not pid.isdecimal():
            continue
        if pid == str(os.getpid()) or not Path(f"/proc/{pid}").exists():
            with contextlib.suppress(OSError):  # it belongs to another user
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
