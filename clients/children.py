# SPDX-License-Identifier: Apache-2.0
"""The child processes of a program: Ctrl-C ends the program, and the program ends them."""

import multiprocessing
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import SpawnProcess
from typing import Protocol


class Start(Protocol):
    def __call__(self, work: object, *arguments: object) -> SpawnProcess:
        """Starts a process that calls work with the arguments."""


@contextmanager
def children() -> Iterator[Start]:
    """Yields what starts child processes. Kills those that still run when the block ends.

    They do not see Ctrl-C, which a terminal sends to every process of a program.
    """
    context = multiprocessing.get_context("spawn")
    started: list[SpawnProcess] = []

    def start(work: object, *arguments: object) -> SpawnProcess:
        process = context.Process(target=work, args=arguments)  # type: ignore[arg-type]
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
            started.append(process)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return process

    try:
        yield start
    finally:
        for process in started:
            process.kill()
            process.join()
