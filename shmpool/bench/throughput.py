# SPDX-License-Identifier: Apache-2.0
"""One sample of throughput: how many messages a second the consumers get while all are at it.

The harness looks at the logs and the processor clocks at both ends of a window of time. Ways that
know only links or topics use one for each pair of processes.
"""

import time
from dataclasses import asdict, dataclass

from . import message
from .board import SEATS, Board, length
from .consuming import consume
from .crew import Crew, RunError, Usage, Worker
from .producing import produce
from .way import Shape, Spec, Way

WARM_S = 0.05
LONGER = 20  # times as long as asked for a window may be, until something has arrived
STOP_S, DRAIN_S = 3.0, 10.0  # seconds for producers to stop, for consumers to get the rest


@dataclass(frozen=True)
class Load:
    """Who sends what to whom."""

    producers: int
    consumers: int
    size: int
    to_all: bool = False  # each message to every consumer

    def spec(self, kind: type[Way], name: str) -> Spec:
        if self.to_all:
            topic = kind.shape is Shape.TOPIC
            channels, each = (1, self.consumers) if topic else (self.consumers, 1)
            return Spec(name, self.size, channels, 1, each)
        if kind.shape is Shape.QUEUE:
            return Spec(name, self.size, 1, self.producers, self.consumers)
        return Spec(name, self.size, self.producers)

    def staff(self, crew: Crew, exact: bool = False) -> tuple[list[Worker], list[Worker]]:
        """The producers and the consumers, not yet let go."""
        spec = crew.way.spec
        own = spec.channels > 1  # a channel for each
        producers = [
            crew.add(
                produce,
                range(spec.channels) if self.to_all else range(n * own, n * own + 1),
                exact,
                number=n * (not own),
            )
            for n in range(self.producers)
        ]
        consumers = [
            crew.add(consume, n * own, exact, number=n * (not own)) for n in range(self.consumers)
        ]
        return producers, consumers


def measure(
    kind: type[Way], name: str, load: Load, seconds: float, cores: list[int], pin: bool
) -> dict[str, float]:
    """The figures of one run. RunError, UnsupportedError."""
    way = kind(load.spec(kind, name))
    try:
        way.create()
        with Board.made(name) as board, Crew(way, board, cores, pin) as crew:
            producers, consumers = load.staff(crew)
            crew.start()
            logs = [board.log(worker.seat) for worker in consumers]
            time.sleep(WARM_S)
            window = _window(crew, logs, seconds)
            finish(crew, producers, consumers)
            sent = {w.seat: board.words[SEATS + w.seat] for w in producers}
            received = [board.logged(worker.seat) for worker in consumers]
            if load.to_all:
                faults = sum((message.check(sent, [log]) for log in received), message.Faults())
            else:
                faults = message.check(sent, received)
            return window | asdict(faults)
    finally:
        way.remove()


def _window(crew: Crew, logs: list[memoryview], seconds: float) -> dict[str, float]:
    def look() -> tuple[float, list[int], Usage]:
        return time.perf_counter(), [length(log) for log in logs], crew.usage()

    began, before, used = look()
    after, deadline = before, time.monotonic() + LONGER * seconds
    while after == before and time.monotonic() < deadline:
        time.sleep(seconds)
        ended, after, used_then = look()
    memory = max(0, crew.usage(memory=True).memory - 8 * sum(after))  # without the logs
    got = sum(after) - sum(before)
    if not got:
        raise RunError(f"nothing arrived in {ended - began:.1f} s")
    return {
        "rate": got / (ended - began),
        "cpu_s_per_million": (used_then.cpu - used.cpu) / got * 1e6,
        "memory_mib": memory / 2**20,
    }


def finish(crew: Crew, producers: list[Worker], consumers: list[Worker]) -> None:
    """Stops the producers, lets the consumers get what is left. RunError."""
    late = crew.finish(producers, STOP_S) + crew.wait(consumers, DRAIN_S)
    errors = [w.error for w in (*producers, *consumers) if w.error]
    if errors or late:
        raise RunError("; ".join(dict.fromkeys(errors)) or f"{len(late)} processes hung")
