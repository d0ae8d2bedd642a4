# SPDX-License-Identifier: Apache-2.0
"""Processes killed, or stopped for a while, at random moments under load: what becomes of the
others.

Two producers and two consumers are at work. After a kill a newcomer takes the victim's place, and
the library's own documented repair is called; everybody has to get on within hung_s. Who killed
whom does not matter to the accounts: every process leaves an exact one (board.py).
"""

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from enum import Enum
from typing import Any

from . import message
from .board import SEATS, Board, length
from .crew import Crew, RunError, Worker
from .throughput import Load, finish
from .way import Shape, Way

PAUSE_S = (0.002, 0.02)  # between two blows, at random
START_S = 5.0
AFTER_S = 0.2
LOOK_S = 0.0005
SEED = 1


class Blow(Enum):
    KILL = "SIGKILL"
    STOP = "SIGSTOP"


@dataclass(frozen=True)
class Ordeal:
    """What is done to whom, and how often."""

    blow: Blow
    victim: str  # "producer", "consumer"
    size: int
    times: int
    stop_s: float = 1.0
    hung_s: float = 3.0  # after which whoever has not moved counts as hung


def measure(kind: type[Way], name: str, ordeal: Ordeal, cores: list[int]) -> dict[str, Any]:
    """What came of it. RunError if it does not work before the first blow; UnsupportedError."""
    load = Load(2, 2, ordeal.size)
    way = kind(replace(load.spec(kind, name), newcomers=ordeal.times))
    outcome: dict[str, Any] = {}
    try:
        way.create()
        with Board.made(name) as board:
            with Crew(way, board, cores, pin=False) as crew:
                trial = _Trial(crew, ordeal)
                trial.run(load)
                outcome = trial.outcome()
            outcome["leaked"] = None if outcome["hung"] else way.leaked()
    finally:
        way.remove()
    return outcome | {"left": len(way.left())}


class _Trial:
    def __init__(self, crew: Crew, ordeal: Ordeal) -> None:
        self.crew, self.ordeal = crew, ordeal
        self.live: dict[str, list[Worker]] = {}
        self.logs: dict[int, memoryview] = {}
        self.random = random.Random(SEED)
        self.blows = 0
        self.stood_still = 0
        self.longest_s = 0.0
        self.hung = ""
        self.saw: list[str] = []

    def run(self, load: Load) -> None:
        producers, consumers = load.staff(self.crew, exact=True)
        self.live = {"producer": producers, "consumer": consumers}
        self.crew.start()
        if not self._all_move(self._everybody(), START_S):
            raise RunError("not everybody got going")
        blow = self._kill if self.ordeal.blow is Blow.KILL else self._stop
        while self.blows < self.ordeal.times and not self.hung:
            time.sleep(self.random.uniform(*PAUSE_S))
            self._blow(blow)
        if not self.hung:
            time.sleep(AFTER_S)
            try:
                finish(self.crew, self.live["producer"], self.live["consumer"])
            except RunError as error:
                self.hung = f"at the end: {error}"

    def _everybody(self) -> list[Worker]:
        return [worker for workers in self.live.values() for worker in workers]

    def _blow(self, blow: Callable[[Worker], None]) -> None:
        victim = self.random.choice(self.live[self.ordeal.victim])
        self.blows += 1
        try:
            blow(victim)
        except RunError as error:
            self.hung = f"a newcomer: {error}"

    def _kill(self, victim: Worker) -> None:
        began = time.monotonic()
        workers = self.live[self.ordeal.victim]
        victim.kill()
        try:
            self.crew.way.recover()
        except Exception as error:
            self.saw.append(f"the repair: {type(error).__name__}: {error}")
        newcomer = self.crew.add(victim.role, *victim.arguments, number=victim.number)
        newcomer.ready()
        newcomer.go()
        workers[workers.index(victim)] = newcomer
        if not self._all_move(self._everybody(), self.ordeal.hung_s):
            self.hung = f"after kill {self.blows}"
        self.longest_s = max(self.longest_s, time.monotonic() - began)

    def _stop(self, victim: Worker) -> None:
        others = [w for w in self._everybody() if w is not victim and not self._paired(w, victim)]
        os.kill(victim.pid, signal.SIGSTOP)
        try:
            time.sleep(self.ordeal.stop_s / 2)
            self.stood_still += not self._all_move(others, self.ordeal.stop_s / 2)
        finally:
            os.kill(victim.pid, signal.SIGCONT)
        if not self._all_move(self._everybody(), self.ordeal.hung_s):
            self.hung = f"after stop {self.blows}"

    def _paired(self, worker: Worker, victim: Worker) -> bool:
        """Whether it works with nobody but the victim."""
        if self.crew.way.shape is Shape.QUEUE:
            return False
        places = {w.seat: i for workers in self.live.values() for i, w in enumerate(workers)}
        return places[worker.seat] == places[victim.seat]

    def _done_by(self, worker: Worker) -> int:
        if worker in self.live["producer"]:
            return self.crew.board.words[SEATS + worker.seat]
        if worker.seat not in self.logs:
            self.logs[worker.seat] = self.crew.board.log(worker.seat)
        return length(self.logs[worker.seat])

    def _all_move(self, workers: list[Worker], seconds: float) -> bool:
        """Whether each of them sends, or receives, within that time."""
        deadline = time.monotonic() + seconds
        before = {worker.seat: self._done_by(worker) for worker in workers}
        waiting = workers
        while waiting := [w for w in waiting if self._done_by(w) == before[w.seat]]:
            if time.monotonic() > deadline:
                return False
            self.crew.wait(waiting, 0)  # an error ends a worker's work
            if any(worker.error for worker in waiting):
                return False
            time.sleep(LOOK_S)
        return True

    def outcome(self) -> dict[str, Any]:
        board, workers = self.crew.board, self.crew.workers
        kinds = {w.seat: w.role.__name__ for w in workers}
        sent = {s: board.words[SEATS + s] for s, kind in kinds.items() if kind == "produce"}
        logs = [board.logged(s) for s, kind in kinds.items() if kind == "consume"]
        faults = message.check(sent, logs, in_flight=True)
        consumers_killed = self.ordeal.blow is Blow.KILL and self.ordeal.victim == "consumer"
        errors = [worker.error for worker in workers if worker.error]
        return asdict(faults) | {
            "blows": self.blows,
            "hung": self.hung,
            "stood_still": self.stood_still,
            "longest_ms": self.longest_s * 1e3,
            "in_hand": self.blows if consumers_killed else 0,  # the victims' last messages, at most
            "sent": sum((last - message.base(s)) // message.STEP for s, last in sent.items()),
            "saw": list(dict.fromkeys(self.saw + errors)),
        }
