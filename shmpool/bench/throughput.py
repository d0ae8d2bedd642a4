# SPDX-License-Identifier: Apache-2.0
"""One run of throughput: how many messages a second the consumers receive under full load.

The harness reads the logs and the processor clocks at both ends of a window of time. A transport
that has only links or topics uses one for each pair of processes.
"""

import time
from dataclasses import asdict, dataclass

from . import message
from .consuming import consume
from .producing import produce
from .scoreboard import SLOTS, length
from .transport import Shape, Spec, Transport
from .workers import RunError, Usage, Worker, Workers, running

WARM_S = 0.05
LONGER = 20  # a window without a message grows up to so many times its length
STOP_S, DRAIN_S = 3.0, 10.0  # for producers to stop, for consumers to receive the rest


@dataclass(frozen=True)
class Load:
    """Who sends what to whom."""

    producers: int
    consumers: int
    size: int  # bytes
    to_all: bool = False  # each message to every consumer

    def spec(self, kind: type[Transport], name: str) -> Spec:
        if self.to_all:
            topic = kind.shape is Shape.TOPIC
            channels, each = (1, self.consumers) if topic else (self.consumers, 1)
            return Spec(name, self.size, channels, 1, each)
        if kind.shape is Shape.QUEUE:
            return Spec(name, self.size, 1, self.producers, self.consumers)
        return Spec(name, self.size, self.producers)

    def add(self, workers: Workers, exact: bool = False) -> tuple[list[Worker], list[Worker]]:
        """Adds the producers and the consumers, not yet started."""
        spec = workers.transport.spec
        own = spec.channels > 1  # a channel for each process

        def channels(n: int) -> range:
            return range(spec.channels) if self.to_all else range(n * own, n * own + 1)

        producers = [
            workers.add(produce, channels(n), exact, number=n * (not own))
            for n in range(self.producers)
        ]
        consumers = [
            workers.add(consume, n * own, exact, number=n * (not own))
            for n in range(self.consumers)
        ]
        return producers, consumers


def measure(
    kind: type[Transport], name: str, load: Load, seconds: float, cores: list[int], pin: bool
) -> dict[str, float]:
    """The figures of one run. Raises RunError and UnsupportedError."""
    processes = load.producers + load.consumers
    with running(kind(load.spec(kind, name)), cores, pin, processes) as workers:
        board, (producers, consumers) = workers.board, load.add(workers)
        workers.start()
        logs = [board.log(worker.slot) for worker in consumers]
        time.sleep(WARM_S)
        figures = _window(workers, logs, seconds)
        finish(workers, producers, consumers)
        sent = {w.slot: board.words[SLOTS + w.slot] for w in producers}
        received = [board.logged(worker.slot) for worker in consumers]
        groups = [[log] for log in received] if load.to_all else [received]
        checked = (message.check(sent, logs) for logs in groups)
        return figures | asdict(sum(checked, message.MessageErrors()))


def _window(workers: Workers, logs: list[memoryview], seconds: float) -> dict[str, float]:
    def read() -> tuple[float, list[int], Usage]:
        return time.perf_counter(), [length(log) for log in logs], workers.usage()

    began, before, used = read()
    after, deadline = before, time.monotonic() + LONGER * seconds
    while after == before and time.monotonic() < deadline:
        time.sleep(seconds)
        ended, after, used_then = read()
    memory = max(0, workers.usage(memory=True).memory - 8 * sum(after))  # without the logs
    received = sum(after) - sum(before)
    if not received:
        raise RunError(f"nothing arrived in {ended - began:.1f} s")
    return {
        "rate": received / (ended - began),
        "cpu_s_per_million": (used_then.cpu - used.cpu) / received * 1e6,
        "memory_mib": memory / 2**20,
    }


def finish(workers: Workers, producers: list[Worker], consumers: list[Worker]) -> None:
    """Stops the producers and lets the consumers receive the rest. Raises RunError if one hung or
    failed."""
    late = workers.stop(producers, STOP_S) + workers.wait(consumers, DRAIN_S)
    errors = [w.error for w in (*producers, *consumers) if w.error]
    if errors or late:
        raise RunError("; ".join(dict.fromkeys(errors)) or f"{len(late)} processes hung")
