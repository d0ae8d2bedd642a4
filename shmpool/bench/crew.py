# SPDX-License-Identifier: Apache-2.0
"""The processes of one run: started ready, let go together, pinned, measured, stopped or killed.

They come from a fork server that has loaded the harness but no contestant, so that a newcomer is
there within milliseconds. A process opens its ends, says so, waits to be let go, works, says what
it saw, and keeps its ends open until all are done: what is on its way must not be lost with them.

A process keeps the memory that it frees: else most of what a list of large messages costs is that
malloc gives their pages back to the kernel and gets new ones, whatever the library.
"""

import contextlib
import ctypes
import fcntl
import gc
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

from .board import DONE, STOP, Board
from .way import Way

READY_S = 20.0  # to open the ends
_CPU_CLOCK = 2  # CLOCK_PROCESS_CPUTIME_ID's bits in the number of another process's clock

_TRIM, _MAP = -1, -3  # glibc's M_TRIM_THRESHOLD and M_MMAP_THRESHOLD
_TRIM_BYTES, _MAP_BYTES = 1 << 28, 32 << 20  # what it keeps, and below which it maps nothing anew

# What a process opens its ends with: open(way, board, seat, *arguments) gives its work.
Role = Callable[..., Callable[[], Any]]


class RunError(Exception):
    """A run that gave no figures."""


@dataclass(frozen=True)
class Usage:
    """What processes used so far."""

    cpu: float  # seconds
    memory: int  # bytes: Pss, in which shared pages count once altogether


def context() -> ForkServerContext:
    """The fork server's; numpy's threads would not survive a fork, so it has none."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    forkserver = multiprocessing.get_context("forkserver")
    forkserver.set_forkserver_preload([f"{__package__}.pingpong"])
    return forkserver


def _end_with(parent: Connection) -> None:
    """Lets the kernel end this process (SIGIO) when the other end closes, however that comes."""
    fd = parent.fileno()
    fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)
    if parent.poll():  # closed already
        os._exit(1)


def _keep_memory() -> None:
    """Where malloc is not glibc's it has no such settings."""
    with contextlib.suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_TRIM, _TRIM_BYTES)
        mallopt(_MAP, _MAP_BYTES)


def _work(
    way: Way, number: int, role: Role, folder: str, seat: int, arguments: tuple[Any, ...],
    cores: set[int], pipe: Connection, parent: Connection,
) -> None:  # fmt: skip
    _end_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    os.sched_setaffinity(0, cores)
    _keep_memory()
    board = Board(folder)
    work: Callable[[], Any] | None = None
    way.number = number
    try:
        pipe.send(("opening", _memory(os.getpid())))
        work = role(way, board, seat, *arguments)
        gc.collect()
        gc.disable()
        pipe.send(("ready", None))
        pipe.recv()
        pipe.send(("done", work()))
    except Exception as error:
        pipe.send(("error", f"{type(error).__name__}: {error}".rstrip(": ")))
    with contextlib.suppress(EOFError):
        pipe.recv()
    work = None  # and with it the ends that it has
    way.leave()


def _waking(way: Way, board: Board, seat: int) -> Callable[[], None]:
    return way.wake


def _memory(pid: int) -> int:
    """Pss in bytes; 0 if the process is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


class Worker:
    """One process."""

    spent = 0.0  # seconds of processor time of all that have ended

    def __init__(
        self, way: Way, board: Board, seat: int, number: int, role: Role,
        arguments: tuple[Any, ...], cores: set[int],
    ) -> None:  # fmt: skip
        self.seat, self.number, self.role, self.arguments = seat, number, role, arguments
        self.result: Any = None
        self.error: str | None = None
        self.done = False
        self.opened_with = 0  # bytes of memory
        self._pipe, there = context().Pipe()
        parent, self._life = context().Pipe(duplex=False)
        self.process: ForkServerProcess = context().Process(
            target=_work,
            args=(way, number, role, board.folder, seat, arguments, cores, there, parent),
            daemon=True,
        )
        self.process.start()
        there.close()
        parent.close()

    @property
    def pid(self) -> int:
        return self.process.pid or 0

    def cpu(self) -> float:
        """Seconds of processor time so far."""
        return time.clock_gettime(~self.pid << 3 | _CPU_CLOCK)

    def ready(self) -> None:
        """Waits until its ends are open. RunError if that fails."""
        self.opened_with = self._answer("opening", READY_S)
        self._answer("ready", READY_S)

    def go(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._pipe.send(None)

    def _answer(self, what: str, seconds: float) -> Any:
        try:
            if not self._pipe.poll(seconds):
                raise RunError(f"a process hung for {seconds:g} s before it was ready")
            said, value = self._pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join(1)
            raise RunError(f"a process ended with exit code {self.process.exitcode}") from None
        if said != what:
            raise RunError(str(value))
        return value

    def collect(self) -> None:
        """Takes what it says of its work."""
        try:
            said, value = self._pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join(1)
            said, value = "error", f"ended with exit code {self.process.exitcode}"
        self.done = True
        if said == "done":
            self.result = value
        else:
            self.error = value

    def leave(self) -> None:
        """Lets it close its ends and go; kills it if it does not."""
        with contextlib.suppress(OSError):
            Worker.spent += self.cpu()
            self._pipe.send(None)
        self.process.join(2)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self._close()

    def kill(self) -> None:
        with contextlib.suppress(OSError):
            Worker.spent += self.cpu()
        self.process.kill()
        self.process.join()
        self._close()

    def _close(self) -> None:
        self._pipe.close()
        self._life.close()


class Crew:
    """The processes of one run; a context manager that ends them all."""

    def __init__(self, way: Way, board: Board, cores: list[int], pin: bool) -> None:
        self.way, self.board = way, board
        self.workers: list[Worker] = []
        self._cores, self._pin = cores, pin
        self._seats = 0

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *what: object) -> None:
        self.board.words[STOP] = self.board.words[DONE] = 1
        for worker in self.workers:
            if worker.done:
                worker.leave()
            else:
                worker.kill()

    def add(self, role: Role, *arguments: Any, number: int = 0, core: int | None = None) -> Worker:
        """Starts a process; ready() and go() let it work.

        It is pinned to that core of the run's or, when asked to pin, to one after the other."""
        seat, self._seats = self._seats, self._seats + 1
        if core is None and self._pin:
            core = seat % len(self._cores)
        cores = set(self._cores) if core is None else {self._cores[core % len(self._cores)]}
        worker = Worker(self.way, self.board, seat, number, role, arguments, cores)
        self.workers.append(worker)
        return worker

    def start(self) -> None:
        """Lets all go at once, the last ones first: consumers wait before anything comes."""
        for worker in self.workers:
            worker.ready()
        for worker in reversed(self.workers):
            worker.go()

    def finish(self, producing: list[Worker], seconds: float) -> list[Worker]:
        """Stops the producing ones, then lets all know; gives those that did not stop in time."""
        self.board.words[STOP] = 1
        late = self.wait(producing, seconds)
        self.board.words[DONE] = 1
        if type(self.way).wake is not Way.wake:
            waker = self.add(_waking)
            waker.ready()
            waker.go()
        return late

    def wait(self, workers: list[Worker], seconds: float) -> list[Worker]:
        """Waits for those to be done with their work; gives those that were not in time."""
        deadline = time.monotonic() + seconds
        while left := [worker for worker in workers if not worker.done]:
            pipes = {worker._pipe: worker for worker in left}
            ready = wait(list(pipes), max(0.0, deadline - time.monotonic()))
            if not ready:
                return left
            for pipe in ready:
                pipes[pipe].collect()  # type: ignore[index]
        return []

    def usage(self, memory: bool = False) -> Usage:
        """Of all that live; memory beyond what they had before they opened their ends."""
        live = [worker for worker in self.workers if worker.process.is_alive()]
        used = sum(_memory(w.pid) - w.opened_with for w in live) if memory else 0
        return Usage(sum(w.cpu() for w in live), used)
