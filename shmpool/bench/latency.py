# SPDX-License-Identifier: Apache-2.0
"""One sample of latency: a message to and fro between two processes; and how still a waiting one
is.

Times go into a histogram that keeps three digits (HdrHistogram), so that rare ones count exactly.
"""

import time
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from . import pingpong
from .board import SEATS, Board
from .crew import Crew, RunError, Worker
from .way import OneByOne, Spec

WARM = 0.1  # of the round trips are left out
LEAST = 100  # round trips
LONGER = 20  # times as long as asked for, until there are so many
STOP_S = 5.0
NS_MOST = 60_000_000_000
DIGITS = 3
SETTLE_S = 0.2
IDLE_TIMEOUT_S = 30.0


class Waiting(Enum):
    """How and where the two processes wait."""

    POLLING = "polling, a core each"
    BLOCKING = "blocking, a core each"
    ONE_CORE = "blocking, one core"

    def possible(self, kind: type[OneByOne]) -> bool:
        return kind.polling if self is Waiting.POLLING else kind.blocks


@dataclass(frozen=True)
class PingPong:
    waiting: Waiting
    size: int


def measure(
    kind: type[OneByOne], name: str, cell: PingPong, seconds: float, cores: list[int]
) -> dict[str, Any]:
    """Round trips in us, and the histogram. RunError, UnsupportedError."""
    way = kind(Spec(name, cell.size, channels=2))
    polling = cell.waiting is Waiting.POLLING
    second = 0 if cell.waiting is Waiting.ONE_CORE else 1
    try:
        way.create()
        with Board.made(name) as board, Crew(way, board, cores, pin=True) as crew:
            ping = crew.add(pingpong.ping, polling, core=0)
            echo = crew.add(pingpong.echo, polling, core=second)
            crew.start()
            deadline = time.monotonic() + LONGER * seconds
            time.sleep(seconds)
            while board.words[SEATS + ping.seat] < LEAST and time.monotonic() < deadline:
                time.sleep(seconds)
            _stop(crew, ping, echo)
            times, wrong = ping.result
    finally:
        way.remove()
    return summary(times) | {"damaged": wrong}


def _stop(crew: Crew, ping: Worker, echo: Worker) -> None:
    crew.finish([ping], STOP_S)
    crew.wait([ping, echo], STOP_S)
    errors = [worker.error for worker in (ping, echo) if worker.error]
    if errors or not ping.done:
        raise RunError("; ".join(errors) or "hung")


def summary(times: list[int]) -> dict[str, Any]:
    """Percentiles of round trips given in ns."""
    from hdrh.histogram import HdrHistogram

    if len(times) < LEAST:
        raise RunError(f"ended after {len(times)} round trips")
    histogram = HdrHistogram(1, NS_MOST, DIGITS)
    for ns in times[int(len(times) * WARM) :]:
        histogram.record_value(ns)
    percentiles = {"p50": 50.0, "p99": 99.0, "p99.9": 99.9}
    return {
        **{p: histogram.get_value_at_percentile(at) / 1e3 for p, at in percentiles.items()},
        "round_trips": histogram.get_total_count(),
        "histogram": histogram.encode().decode(),
    }


def idle(
    kind: type[OneByOne], name: str, size: int, seconds: float, cores: list[int]
) -> dict[str, float]:
    """How often a blocked receiver to which nothing comes is woken, and what it costs."""
    way = kind(Spec(name, size))
    try:
        way.create()
        with Board.made(name) as board, Crew(way, board, cores, pin=False) as crew:
            crew.add(pingpong.hold)
            receiver = crew.add(pingpong.idle, IDLE_TIMEOUT_S)
            crew.start()
            time.sleep(SETTLE_S)
            switches, cpu = _switches(receiver.pid), receiver.cpu()
            time.sleep(seconds)
            woken = (_switches(receiver.pid) - switches) / seconds
            return {"wakeups": woken, "cpu_percent": (receiver.cpu() - cpu) / seconds * 100}
    finally:
        way.remove()


def _switches(pid: int) -> int:
    """How often its threads went to sleep so far."""
    total = 0
    for path in Path(f"/proc/{pid}/task").glob("*/status"):
        for line in path.read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                total += int(line.split()[1])
    return total
