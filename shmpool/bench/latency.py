# SPDX-License-Identifier: Apache-2.0
"""One run of latency: round trips between two processes; and how often an idle receiver wakes up.

Times go into a histogram of three significant digits (HdrHistogram), so that rare ones count
exactly.
"""

import re
import time
from enum import Enum
from pathlib import Path
from typing import Any

from . import pingpong
from .scoreboard import SLOTS
from .transport import OneByOne, Spec
from .workers import RunError, running

WARM = 0.1  # share of the round trips that is left out
MIN_TRIPS = 100
LONGER = 20  # a run with fewer round trips goes on for up to so many times its length
STOP_S = 5.0
NS_MAX = 60_000_000_000
DIGITS = 3
SETTLE_S = 0.2
IDLE_TIMEOUT_S = 30.0


class Waiting(Enum):
    """How and where the two processes wait."""

    POLLING = "polling, a core each"
    BLOCKING = "blocking, a core each"
    ONE_CORE = "blocking, one core"

    def possible(self, kind: type[OneByOne]) -> bool:
        return kind.has_poller if self is Waiting.POLLING else kind.blocks


def measure(
    kind: type[OneByOne], name: str, waiting: Waiting, size: int, seconds: float, cores: list[int]
) -> dict[str, Any]:
    """Percentiles of round trips in us, and the histogram. Raises RunError and
    UnsupportedError."""
    polling = waiting is Waiting.POLLING
    second = 0 if waiting is Waiting.ONE_CORE else 1
    with running(kind(Spec(name, size, channels=2)), cores, pin=True) as workers:
        ping = workers.add(pingpong.ping, polling, core=0)
        echo = workers.add(pingpong.echo, polling, core=second)
        workers.start()
        trips, deadline = SLOTS + ping.slot, time.monotonic() + LONGER * seconds
        time.sleep(seconds)
        while workers.board.words[trips] < MIN_TRIPS and time.monotonic() < deadline:
            time.sleep(seconds)
        workers.stop([ping], STOP_S)
        workers.wait([ping, echo], STOP_S)
        errors = [worker.error for worker in (ping, echo) if worker.error]
        if errors or not ping.done:
            raise RunError("; ".join(errors) or "hung")
        times, wrong = ping.result
    return summary(times) | {"damaged": wrong}


def summary(times: list[int]) -> dict[str, Any]:
    """Percentiles in us of round trips in ns. Raises RunError if there are too few."""
    from hdrh.histogram import HdrHistogram

    if len(times) < MIN_TRIPS:
        raise RunError(f"ended after {len(times)} round trips")
    histogram = HdrHistogram(1, NS_MAX, DIGITS)
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
    """Wake-ups a second and processor share (%) of a blocked receiver that gets no message."""
    with running(kind(Spec(name, size)), cores, pin=False) as workers:
        workers.add(pingpong.hold)
        receiver = workers.add(pingpong.idle, IDLE_TIMEOUT_S)
        workers.start()
        time.sleep(SETTLE_S)
        switches, cpu = _switches(receiver.pid), receiver.cpu()
        time.sleep(seconds)
        woken = (_switches(receiver.pid) - switches) / seconds
        return {"wakeups": woken, "cpu_percent": (receiver.cpu() - cpu) / seconds * 100}


def _switches(pid: int) -> int:
    """How often the process's threads have gone to sleep so far."""
    texts = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status")]
    found = re.findall(r"^voluntary_ctxt_switches:\s*(\d+)", "".join(texts), re.MULTILINE)
    return sum(map(int, found))
