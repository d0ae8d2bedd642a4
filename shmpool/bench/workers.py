# SPDX-License-Identifier: Apache-2.0
"""The processes of one run: started, released together, pinned, measured, stopped or killed.

A fork server starts them. It has loaded the harness but no contestant, so a replacement starts
within milliseconds. The pipe between a process and its parent carries these messages:

    process                             parent
    ("opening", bytes of memory)
    opens its endpoints
    ("ready", None)                     ready() waits for it
                                        go() sends None
    works
    ("done", result)                    collect() reads it
                                        end() sends None
    closes its endpoints, exits

After an exception the process sends ("error", text) instead. Endpoints stay open until all work is
done, so that messages on their way are not lost with them.

A process keeps the memory that it frees. Otherwise lists of large messages mostly measure how
malloc returns pages to the kernel and gets new ones, whatever the library.
"""

import contextlib
import ctypes
import fcntl
import gc
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

from .cores import share
from .scoreboard import DONE, STOP, Scoreboard
from .transport import Transport

READY_S = 20.0  # to open the endpoints
_CPU_CLOCK = 2  # CLOCK_PROCESS_CPUTIME_ID, as bits of the clock id of another process

_TRIM, _MAP = -1, -3  # glibc's M_TRIM_THRESHOLD and M_MMAP_THRESHOLD
_TRIM_BYTES, _MAP_BYTES = 1 << 28, 32 << 20  # free memory to keep; smaller blocks are not mapped

# role(transport, board, slot, *arguments) opens the endpoints and returns the work.
Role = Callable[..., Callable[[], Any]]


class RunError(Exception):
    """A run gave no figures; the message says why."""


@dataclass(frozen=True)
class Usage:
    """What processes have used so far."""

    cpu: float  # seconds
    memory: int  # bytes: Pss, which counts a shared page once in all


def context() -> ForkServerContext:
    """The fork server's. numpy must not have threads there: they would not survive a fork."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    forkserver = multiprocessing.get_context("forkserver")
    forkserver.set_forkserver_preload([f"{__package__}.pingpong"])
    return forkserver


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Lets Ctrl-C wait until the block ends: no process is half started there, or forgotten.

    Processes that are started in the block inherit that SIGINT is blocked: Ctrl-C is their
    parent's to handle. In the block itself, a thread of numpy's library may receive it, and Python
    would interrupt the main thread. So there its handler only notes it, and is called at the end.
    clients/children.py has the same for programs that use only public names.
    """
    noted: list[int] = []
    former = signal.getsignal(signal.SIGINT)
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


def _end_with(parent: Connection) -> None:
    """Makes the kernel end this process (SIGIO) when the parent's end of the pipe closes."""
    fd = parent.fileno()
    fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)
    if parent.poll():  # closed before that
        os._exit(1)


def _keep_memory() -> None:
    """Sets malloc's thresholds; only glibc has them."""
    with contextlib.suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_TRIM, _TRIM_BYTES)
        mallopt(_MAP, _MAP_BYTES)


def _work(
    transport: Transport, number: int, role: Role, folder: str, slot: int,
    arguments: tuple[Any, ...], cores: set[int], pipe: Connection, parent: Connection,
) -> None:  # fmt: skip
    _end_with(parent)
    os.sched_setaffinity(0, cores)
    _keep_memory()
    board = Scoreboard(folder)
    work: Callable[[], Any] | None = None
    transport.number = number
    try:
        pipe.send(("opening", _memory(os.getpid())))
        work = role(transport, board, slot, *arguments)
        gc.collect()
        gc.disable()
        pipe.send(("ready", None))
        pipe.recv()
        pipe.send(("done", work()))
    except Exception as error:
        pipe.send(("error", f"{type(error).__name__}: {error}".rstrip(": ")))
    with contextlib.suppress(EOFError):
        pipe.recv()
    work = None  # and with it the endpoints that it refers to
    transport.close()


def _wake(transport: Transport, board: Scoreboard, slot: int) -> Callable[[], None]:
    return transport.wake


def _memory(pid: int) -> int:
    """Pss in bytes; 0 if the process has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


class Worker:
    """One process, as its parent sees it."""

    ended_cpu_s = 0.0  # processor seconds of all workers that have ended

    def __init__(
        self, transport: Transport, board: Scoreboard, slot: int, number: int, role: Role,
        arguments: tuple[Any, ...], cores: set[int],
    ) -> None:  # fmt: skip
        self.slot, self.number, self.role, self.arguments = slot, number, role, arguments
        self.result: Any = None
        self.error: str | None = None
        self.done = False
        self.initial_memory = 0  # bytes, before it opened its endpoints
        self._pipe, theirs = context().Pipe()
        parent, self._life = context().Pipe(duplex=False)
        self.process: ForkServerProcess = context().Process(
            target=_work,
            args=(transport, number, role, board.folder, slot, arguments, cores, theirs, parent),
            daemon=True,
        )
        self.process.start()
        theirs.close()
        parent.close()

    @property
    def pid(self) -> int:
        return self.process.pid or 0

    def cpu(self) -> float:
        """Seconds of processor time so far."""
        return time.clock_gettime(~self.pid << 3 | _CPU_CLOCK)

    def ready(self) -> None:
        """Waits until its endpoints are open. Raises RunError if that fails."""
        self.initial_memory = self._expect("opening")
        self._expect("ready")

    def go(self) -> None:
        """Lets it work."""
        with contextlib.suppress(BrokenPipeError):
            self._pipe.send(None)

    def _expect(self, kind: str) -> Any:
        if not self._pipe.poll(READY_S):
            raise RunError(f"a process hung for {READY_S:g} s before it was ready")
        received, value = self._receive()
        if received != kind:
            raise RunError(str(value))
        return value

    def _receive(self) -> tuple[str, Any]:
        try:
            kind, value = self._pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join(1)
            return "error", f"a process ended with exit code {self.process.exitcode}"
        return kind, value

    def collect(self) -> None:
        """Reads the result of its work, or its error."""
        kind, value = self._receive()
        self.done = True
        if kind == "done":
            self.result = value
        else:
            self.error = value

    def end(self) -> None:
        """Lets it close its endpoints and exit; kills it if it does not within 2 s."""
        with contextlib.suppress(OSError):
            Worker.ended_cpu_s += self.cpu()
            self._pipe.send(None)
        self.process.join(2)
        self._kill()

    def kill(self) -> None:
        with contextlib.suppress(OSError):
            Worker.ended_cpu_s += self.cpu()
        self._kill()

    def _kill(self) -> None:
        self.process.kill()
        self.process.join()
        self._pipe.close()
        self._life.close()


class Workers:
    """The processes of one run; a context manager that ends them all."""

    def __init__(
        self, transport: Transport, board: Scoreboard, cores: list[int], pin: bool,
        processes: int | None = None,
    ) -> None:  # fmt: skip
        """processes: how many will work at once, if each shall have cores of its own."""
        self.transport, self.board = transport, board
        self.all: list[Worker] = []  # ended ones too; the index of each is its slot
        self._cores, self._pin, self._processes = cores, pin, processes

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *exception: object) -> None:
        self.board.words[STOP] = self.board.words[DONE] = 1
        for worker in self.all:
            if worker.done:
                worker.end()
            else:
                worker.kill()

    def add(self, role: Role, *arguments: Any, number: int = 0, core: int | None = None) -> Worker:
        """Starts a process; its ready() and go() let it work.

        It is pinned to the core of that index; without one, if `pin` is set, to the next core.
        Else it gets its share of the cores."""
        slot = len(self.all)
        if core is None and self._pin:
            core = slot
        if core is not None:
            cores = {self._cores[core % len(self._cores)]}
        elif self._processes:
            cores = share(self._cores, self._processes, slot)
        else:
            cores = set(self._cores)
        with uninterrupted():
            resource_tracker.ensure_running()  # or start() does so, and unblocks SIGINT
        with uninterrupted():
            worker = Worker(self.transport, self.board, slot, number, role, arguments, cores)
            self.all.append(worker)
        return worker

    def start(self) -> None:
        """Releases all at once, the last added first: consumers wait before anything is sent."""
        for worker in self.all:
            worker.ready()
        for worker in reversed(self.all):
            worker.go()

    def stop(self, producers: list[Worker], seconds: float) -> list[Worker]:
        """Stops the producers, then the consumers. Returns producers that are still busy."""
        self.board.words[STOP] = 1
        late = self.wait(producers, seconds)
        self.board.words[DONE] = 1
        if type(self.transport).wake is not Transport.wake:
            waker = self.add(_wake)
            waker.ready()
            waker.go()
        return late

    def wait(self, workers: list[Worker], seconds: float) -> list[Worker]:
        """Waits until these have done their work. Returns those that are still busy."""
        deadline = time.monotonic() + seconds
        while busy := [worker for worker in workers if not worker.done]:
            pipes = {worker._pipe: worker for worker in busy}
            ready = wait(list(pipes), max(0.0, deadline - time.monotonic()))
            if not ready:
                return busy
            for pipe in ready:
                pipes[pipe].collect()  # type: ignore[index]
        return []

    def usage(self, memory: bool = False) -> Usage:
        """Of all that live. memory counts what they took since they opened their endpoints."""
        live = [worker for worker in self.all if worker.process.is_alive()]
        used = sum(_memory(w.pid) - w.initial_memory for w in live) if memory else 0
        return Usage(sum(w.cpu() for w in live), used)


@contextlib.contextmanager
def running(
    transport: Transport, cores: list[int], pin: bool, processes: int | None = None
) -> Iterator[Workers]:
    """A run without processes yet; at its end the processes have ended and the transport is
    removed. Raises UnsupportedError."""
    try:
        transport.create()
        with (
            Scoreboard.create(transport.spec.name) as board,
            Workers(transport, board, cores, pin, processes) as workers,
        ):
            yield workers
    finally:
        transport.remove()
