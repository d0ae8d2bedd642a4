# SPDX-License-Identifier: Apache-2.0
"""What is measured: who takes part, how many messages, on which cores, and the goal for shmpool.

Polling on one core is left out: a process that polls without sleeping keeps the other one off the
core until the scheduler's slice ends, and that is what would be measured.
"""

from dataclasses import dataclass
from enum import Enum

from . import ours, peers
from .way import Way


class Cores(Enum):
    """Where the processes run, of the two cores of a run."""

    EACH_ITS_OWN = "a core each"
    ONE = "one core"
    SHARED = "both cores for all"


@dataclass(frozen=True)
class Goal:
    """at_least (of a rate) or at_most (of a latency): times the best peer, or by itself."""

    limit: float
    of_best_peer: bool

    def met(self, value: float, ratio: float | None, more_is_better: bool) -> bool | None:
        """None if the peers to compare with are missing."""
        compared = ratio if self.of_best_peer else value
        if compared is None:
            return None
        return compared >= self.limit if more_is_better else compared <= self.limit


@dataclass(frozen=True)
class Cell:
    """One line of work: the first of the ways is shmpool's."""

    key: str
    title: str
    ways: tuple[type[Way], ...]
    count: int  # messages of a producer, or round trips
    cores: Cores
    goal: Goal
    producers: int = 1
    consumers: int = 1
    latency: bool = False

    @property
    def unit(self) -> str:
        return "us" if self.latency else "M/s"

    def goal_text(self) -> str:
        sign = "<=" if self.latency else ">="
        return f"{sign} {self.goal.limit:g} " + ("x best" if self.goal.of_best_peer else self.unit)


STREAM = (ours.SendRecv, peers.CloudtoidStream, peers.SubethaStream)
MANY = (ours.SendRecvMany, peers.SubethaStreamMany)
POLLING = (ours.Polling, peers.CloudtoidPolling, peers.SubethaPolling)
BLOCKING = (ours.Blocking, peers.CloudtoidBlocking, peers.KickmsgBlocking)
BEST = Goal(1.0, of_best_peer=True)
TWO = Cores.EACH_ITS_OWN

CELLS = (
    Cell("burst", "bursts of 256 as columns, 1 to 1", (ours.Bursts,), 256 * 40_000, TWO,
         Goal(14.88, of_best_peer=False)),
    Cell("buffer", "one Buffer at a time, 1 to 1", (ours.Buffers,), 1_000_000, TWO,
         Goal(2.0, of_best_peer=False)),
    Cell("send", "send, recv, 2 to 2", STREAM, 400_000, Cores.SHARED,
         Goal(1.2, of_best_peer=True), producers=2, consumers=2),
    Cell("many", "send_many, recv_many of 256, 2 to 2", MANY, 1_000_000, Cores.SHARED,
         BEST, producers=2, consumers=2),
    Cell("poll", "ping-pong, polling, a core each", POLLING, 100_000, TWO, BEST, latency=True),
    Cell("block", "ping-pong, blocking, a core each", BLOCKING, 10_000, TWO, BEST, latency=True),
    Cell("block-one", "ping-pong, blocking, one core", BLOCKING, 30_000, Cores.ONE, BEST,
         latency=True),
)  # fmt: skip
QUICK = 4  # times fewer messages
