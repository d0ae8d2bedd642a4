# SPDX-License-Identifier: Apache-2.0
"""The child processes of a program: Ctrl-C ends the program, and the program ends them."""

import multiprocessing
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from typing import Any, Literal, Protocol


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Lets Ctrl-C wait until the block ends: no process is half started there, or forgotten.

    Processes that are started in the block never see Ctrl-C, which a terminal sends to all of a
    program: they inherit that SIGINT is blocked. For the block itself that is not enough. The
    kernel gives the signal to another thread, say of numpy's library, and Python then interrupts
    the main thread. So its handler only notes the signal, and the former one is called at the end.
    """
    noted: list[int] = []
    former = signal.getsignal(signal.SIGINT)
    # Only the main thread is interrupted. SIG_IGN and SIG_DFL raise nothing.
    postpones = callable(former) and threading.current_thread() is threading.main_thread()
    try:
        if postpones:
            signal.signal(signal.SIGINT, lambda number, _: noted.append(number))
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)  # a pending signal is noted, too
    finally:
        if postpones:
            signal.signal(signal.SIGINT, former)
        if noted and callable(former):
            former(noted[0], None)


class Start(Protocol):
    def __call__(self, work: object, *arguments: object) -> BaseProcess:
        """Starts a process that calls work with the arguments."""


@contextmanager
def children(method: Literal["spawn", "fork"] = "spawn") -> Iterator[Start]:
    """Yields what starts child processes. Kills those that still run when the block ends. They
    cannot start processes of their own with multiprocessing."""
    context: Any = multiprocessing.get_context(method)
    started: list[BaseProcess] = []

    def start(work: object, *arguments: object) -> BaseProcess:
        process: BaseProcess = context.Process(target=work, args=arguments, daemon=True)
        if method == "spawn":
            with uninterrupted():
                resource_tracker.ensure_running()  # or start() does so, and unblocks SIGINT
        with uninterrupted():
            process.start()
            started.append(process)
        return process

    try:
        yield start
    finally:
        with uninterrupted():  # a second Ctrl-C
            for process in started:
                process.kill()
                process.join()
