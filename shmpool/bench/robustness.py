# SPDX-License-Identifier: Apache-2.0
"""One fault test: processes are killed, or suspended for a while, at random moments under load.

Two producers and two consumers work. After a kill the library's own documented repair is called
and a replacement takes the victim's place; every process must then make progress within hung_s. The
message counts do not depend on who was killed when: every process leaves exact ones
(scoreboard.py).
"""

import os
import random
import signal
import time
from dataclasses import asdict, dataclass, replace
from enum import Enum
from typing import Any

from . import message
from .scoreboard import SLOTS, Scoreboard, length
from .throughput import Load, finish
from .transport import Shape, Transport
from .workers import RunError, Worker, Workers

PAUSE_S = (0.002, 0.02)  # between two faults, at random
START_S = 5.0
AFTER_S = 0.2
POLL_S = 0.0005
SEED = 1


class Fault(Enum):
    """The signal that the victim gets; SIGSTOP is followed by SIGCONT."""

    KILL = "SIGKILL"
    STOP = "SIGSTOP"


@dataclass(frozen=True)
class FaultTest:
    """Which fault which process suffers, and how often."""

    fault: Fault
    victim: str  # "producer" or "consumer"
    size: int  # bytes of a message
    times: int
    stop_s: float = 1.0
    hung_s: float = 3.0  # a process without progress for so long counts as hung


def measure(kind: type[Transport], name: str, test: FaultTest, cores: list[int]) -> dict[str, Any]:
    """The outcome of a fault test. Raises RunError if it does not even start, and
    UnsupportedError."""
    load = Load(2, 2, test.size)
    transport = kind(replace(load.spec(kind, name), replacements=test.times))
    outcome: dict[str, Any] = {}
    try:
        transport.create()
        with Scoreboard.create(name) as board:
            with Workers(transport, board, cores, pin=False) as workers:
                trial = _Trial(workers, test)
                trial.run(load)
                outcome = trial.outcome()
            outcome["leaked"] = None if outcome["hung"] else transport.leaked()
    finally:
        transport.remove()
    return outcome | {"files_left": len(transport.files_left())}


class _Trial:
    def __init__(self, workers: Workers, test: FaultTest) -> None:
        self.workers, self.test = workers, test
        self.live: dict[str, list[Worker]] = {}
        self.logs: dict[int, memoryview] = {}
        self.random = random.Random(SEED)
        self.faults = 0
        self.stalled = 0
        self.longest_s = 0.0
        self.hung = ""
        self.errors: list[str] = []

    def run(self, load: Load) -> None:
        producers, consumers = load.add(self.workers, exact=True)
        self.live = {"producer": producers, "consumer": consumers}
        self.workers.start()
        if not self._all_progress(self._everybody(), START_S):
            raise RunError("not every process made progress at the start")
        inject = self._kill if self.test.fault is Fault.KILL else self._stop
        while self.faults < self.test.times and not self.hung:
            time.sleep(self.random.uniform(*PAUSE_S))
            victim = self.random.choice(self.live[self.test.victim])
            self.faults += 1
            try:
                inject(victim)
            except RunError as error:
                self.hung = f"a replacement: {error}"
        if not self.hung:
            time.sleep(AFTER_S)
            try:
                finish(self.workers, producers, consumers)
            except RunError as error:
                self.hung = f"at the end: {error}"

    def _everybody(self) -> list[Worker]:
        return [worker for workers in self.live.values() for worker in workers]

    def _kill(self, victim: Worker) -> None:
        began = time.monotonic()
        victim.kill()
        try:
            self.workers.transport.recover()
        except Exception as error:
            self.errors.append(f"the repair: {type(error).__name__}: {error}")
        replacement = self.workers.add(victim.role, *victim.arguments, number=victim.number)
        replacement.ready()
        replacement.go()
        live = self.live[self.test.victim]
        live[live.index(victim)] = replacement
        if not self._all_progress(self._everybody(), self.test.hung_s):
            self.hung = f"after kill {self.faults}"
        self.longest_s = max(self.longest_s, time.monotonic() - began)

    def _stop(self, victim: Worker) -> None:
        survivors = [w for w in self._everybody() if not self._depends(w, victim)]
        os.kill(victim.pid, signal.SIGSTOP)
        try:
            time.sleep(self.test.stop_s / 2)
            self.stalled += not self._all_progress(survivors, self.test.stop_s / 2)
        finally:
            os.kill(victim.pid, signal.SIGCONT)
        if not self._all_progress(self._everybody(), self.test.hung_s):
            self.hung = f"after stop {self.faults}"

    def _depends(self, worker: Worker, victim: Worker) -> bool:
        """True for the victim, and for a worker whose channel it shares with the victim alone."""
        if self.workers.transport.shape is Shape.QUEUE:
            return worker is victim
        places = {w.slot: i for workers in self.live.values() for i, w in enumerate(workers)}
        return places[worker.slot] == places[victim.slot]

    def _count(self, worker: Worker) -> int:
        """A number that grows with each message it sends or receives."""
        if worker in self.live["producer"]:
            return self.workers.board.words[SLOTS + worker.slot]
        if worker.slot not in self.logs:
            self.logs[worker.slot] = self.workers.board.log(worker.slot)
        return length(self.logs[worker.slot])

    def _all_progress(self, workers: list[Worker], seconds: float) -> bool:
        """True as soon as each of them has sent or received; False after that time, or if one
        failed."""
        deadline = time.monotonic() + seconds
        before = {worker.slot: self._count(worker) for worker in workers}
        waiting = workers
        while waiting := [w for w in waiting if self._count(w) == before[w.slot]]:
            if time.monotonic() > deadline:
                return False
            self.workers.wait(waiting, 0)  # collects the errors of those that failed
            if any(worker.error for worker in waiting):
                return False
            time.sleep(POLL_S)
        return True

    def outcome(self) -> dict[str, Any]:
        board, workers = self.workers.board, self.workers.all
        roles = {w.slot: w.role.__name__ for w in workers}
        sent = {s: board.words[SLOTS + s] for s, role in roles.items() if role == "produce"}
        logs = [board.logged(s) for s, role in roles.items() if role == "consume"]
        consumers_killed = self.test.fault is Fault.KILL and self.test.victim == "consumer"
        errors = [worker.error for worker in workers if worker.error]
        return asdict(message.check(sent, logs, in_flight=True)) | {
            "faults": self.faults,
            "hung": self.hung,
            "stalled": self.stalled,
            "longest_ms": self.longest_s * 1e3,
            "held": self.faults if consumers_killed else 0,  # by victims: one message each at most
            "sent": sum((last - message.base(s)) // message.STEP for s, last in sent.items()),
            "errors": list(dict.fromkeys(self.errors + errors)),
        }
