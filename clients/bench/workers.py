# SPDX-License-Identifier: Apache-2.0
"""One round of one contestant: its processes, on their cores, from a common start to their ends.

Processes are spawned, not forked: some libraries have threads. A worker opens its ends, waits at
the barrier, works, and sends its result through a pipe. Whatever happens, the parent ends them all
and removes what the contestant left: everything of a run has one prefix in /dev/shm.

The rate of a stream is taken from the start to the end of the last producer, when at most one
queue's depth (1 message in 400 or fewer) is still under way.
"""

import multiprocessing
import os
import shutil
import signal
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from . import messages, ours
from .cells import Cell, Cores
from .messages import Faults
from .way import PingPong, Stream, Way, clock

PREFIX = "shmpool-bench-"
LIMIT = 60.0  # seconds until a round counts as hung
spawn = multiprocessing.get_context("spawn")


@dataclass
class Outcome:
    """Figures by name, the first one is the one that counts; and what was wrong."""

    figures: dict[str, float]
    faults: Faults = field(default_factory=Faults)


class RoundError(Exception):
    """A round that gave no figures: a worker died or hung."""


Role = Callable[["Start", Any, int, int], Any]  # the way, its number, how many messages


@dataclass
class Start:
    """What a worker shares with the others."""

    barrier: Barrier
    producing: Any  # ctypes.c_bool in shared memory

    def done(self) -> bool:
        return not self.producing.value


def _produce(start: Start, way: Stream, number: int, count: int) -> tuple[int, int]:
    send = way.sender(number)
    what = messages.make(number, count)
    start.barrier.wait(LIMIT)
    began = clock()
    send(what)
    return began, clock()


def _consume(start: Start, way: Stream, number: int, count: int) -> tuple[messages.Words, int]:
    receive = way.receiver(number)
    start.barrier.wait(LIMIT)
    return messages.numbers(receive(start.done))


def _produce_bursts(start: Start, way: ours.Bursts, number: int, count: int) -> tuple[int, int]:
    produce = way.producer()
    start.barrier.wait(LIMIT)
    began = clock()
    produce(count // ours.BURST)
    return began, clock()


def _consume_bursts(start: Start, way: ours.Bursts, number: int, count: int) -> tuple[int, ...]:
    consume = way.consumer()
    start.barrier.wait(LIMIT)
    return consume(start.done)


def _ping(start: Start, way: PingPong, number: int, count: int) -> tuple[list[int], Faults]:
    ping = way.pinger()
    what = messages.make(0, count)
    start.barrier.wait(LIMIT)
    times, back = ping(what)
    wrong = sum(a != b for a, b in zip(what, back, strict=False))
    return times, Faults(lost=count - len(back), damaged=wrong)


def _echo(start: Start, way: PingPong, number: int, count: int) -> None:
    echo = way.echoer()
    start.barrier.wait(LIMIT)
    echo(count)


def _work(
    role: Role, start: Start, way: Way, number: int, count: int, cores: set[int], pipe: Connection
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    os.sched_setaffinity(0, cores)
    pipe.send(role(start, way, number, count))


def run(cell: Cell, kind: type[Way], number: int, count: int, cores: list[int]) -> Outcome:
    """One round. RoundError if a worker ends without a result, or the round hangs."""
    way = kind(f"{PREFIX}{os.getpid()}-{number}")
    crew = _Crew(cell, way.name, kind, count, cores)
    try:
        way.create()
        if isinstance(way, PingPong):
            (times, faults), _ = crew.work([(_ping, 0), (_echo, 1)])
            return _latency(times, faults)
        roles: tuple[Role, Role] = (_produce, _consume)
        if isinstance(way, ours.Bursts):
            roles = (_produce_bursts, _consume_bursts)
        producers = [(roles[0], n) for n in range(cell.producers)]
        consumers = [(roles[1], n) for n in range(cell.consumers)]
        results = crew.work(producers + consumers, producers=cell.producers)
        return _stream(cell, results, count)
    finally:
        crew.end()
        way.remove()


def _latency(times: list[int], faults: Faults) -> Outcome:
    if len(times) < 100:
        raise RoundError(f"ended after {len(times)} round trips")
    cut = statistics.quantiles(times[len(times) // 10 :], n=100)  # without the warming up
    return Outcome({"p50": cut[49] / 1e3, "p99": cut[98] / 1e3}, faults)


def _stream(cell: Cell, results: list[Any], count: int) -> Outcome:
    spans, got = results[: cell.producers], results[cell.producers :]
    ns = max(end for _, end in spans) - min(begin for begin, _ in spans)
    rate = {"rate": cell.producers * count / ns * 1e3}
    if cell.ways == (ours.Bursts,):
        (number, strange, damaged), total = got[0], count // ours.BURST * ours.BURST
        return Outcome(rate, Faults(lost=total - number, damaged=damaged, disordered=strange))
    faults = messages.check([words for words, _ in got], cell.producers, count)
    faults.damaged = sum(damaged for _, damaged in got)
    return Outcome(rate, faults)


class _Crew:
    """The processes of one round."""

    def __init__(
        self, cell: Cell, name: str, kind: type[Way], count: int, cores: list[int]
    ) -> None:
        self._cell, self._name, self._kind = cell, name, kind
        self._count, self._cores = count, cores
        self._processes: list[BaseProcess] = []

    def work(self, roles: list[tuple[Role, int]], producers: int = 0) -> list[Any]:
        """What each of the roles gave. When the producers are done, the others are told."""
        start = Start(spawn.Barrier(len(roles)), spawn.Value("b", 1, lock=False))
        pipes = []
        for i, (role, number) in enumerate(roles):
            here, there = spawn.Pipe(duplex=False)
            arguments = (
                role, start, self._kind(self._name), number, self._count, self._place(i), there
            )  # fmt: skip
            process = spawn.Process(target=_work, args=arguments, daemon=True)
            process.start()
            there.close()
            self._processes.append(process)
            pipes.append(here)
        results: dict[int, Any] = {}
        deadline = time.monotonic() + LIMIT
        while len(results) < len(roles):
            left = [pipe for i, pipe in enumerate(pipes) if i not in results]
            ready = wait(left, max(0.0, deadline - time.monotonic()))
            if not ready:
                raise RoundError(f"hung for {LIMIT:g} s")
            for pipe in ready:
                i = pipes.index(pipe)  # type: ignore[arg-type]
                results[i] = self._result(i, pipes[i])
            if all(i in results for i in range(producers)):
                start.producing.value = 0
        return [results[i] for i in range(len(roles))]

    def _place(self, i: int) -> set[int]:
        if self._cell.cores is Cores.ONE:
            return {self._cores[0]}
        if self._cell.cores is Cores.EACH_ITS_OWN:
            return {self._cores[i % len(self._cores)]}
        return set(self._cores)

    def _result(self, i: int, pipe: Connection) -> Any:
        try:
            return pipe.recv()
        except EOFError:
            self._processes[i].join(1)
            code = self._processes[i].exitcode
            raise RoundError(f"a process ended with exit code {code}") from None

    def end(self) -> None:
        for process in self._processes:
            process.join(1.0 if process.exitcode is None else None)
        for process in self._processes:
            process.kill()
            process.join()


def sweep() -> None:
    """Removes what this run, and runs that were killed, left in /dev/shm."""
    for path in Path("/dev/shm").glob(f"*{PREFIX}*"):  # noqa: S108
        pid = path.name.partition(PREFIX)[2].partition("-")[0]
        if pid == str(os.getpid()) or not Path(f"/proc/{pid}").exists():
            with suppress(OSError):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
