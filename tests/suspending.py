# SPDX-License-Identifier: Apache-2.0
"""Processes that a test suspends."""

import contextlib
import os
import signal
import time
from pathlib import Path

DEADLINE_S = 60.0  # a guard against hangs


def suspend(pid: int) -> None:
    """Sends SIGSTOP. Returns when all threads are stopped: kill() returns before, and a thread that
    has a processor, of ZeroMQ for instance, goes on until another one takes the signal."""
    os.kill(pid, signal.SIGSTOP)
    give_up = time.monotonic() + DEADLINE_S
    while not _stopped(pid):
        assert time.monotonic() < give_up
        time.sleep(0.001)


def _stopped(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread has just ended
        stats = [task.read_text() for task in Path(f"/proc/{pid}/task").glob("*/stat")]
        return all(stat.rpartition(")")[2].split()[0] == "T" for stat in stats)
    return False
