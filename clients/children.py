# SPDX-License-Identifier: Apache-2.0
"""The child processes of a program: Ctrl-C ends the program, and the program ends them."""

import multiprocessing
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnProcess
from typing import Protocol


def start_child(process: SpawnProcess) -> SpawnProcess:
    """Starts a process that does not see Ctrl-C, which a terminal sends to all of a program."""
    resource_tracker.ensure_running()  # or process.start() does so, and unblocks SIGINT
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return process


class Start(Protocol):
    def __call__(self, work: object, *arguments: object) -> SpawnProcess:
        """Starts a process that calls work with the arguments."""


@contextmanager
def children() -> Iterator[Start]:
    """Yields what starts child processes. Kills those that still run when the block ends."""
    context = multiprocessing.get_context("spawn")
    started: list[SpawnProcess] = []

    def start(work: object, *arguments: object) -> SpawnProcess:
        process = context.Process(target=work, args=arguments)  # type: ignore[arg-type]
        started.append(process)
        return start_child(process)

    try:
        yield start
    finally:
        for process in started:
            if process.pid is not None:
                process.kill()
                process.join()
