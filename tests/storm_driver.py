# SPDX-License-Identifier: Apache-2.0
"""What all rounds of the storm (storm.py) have in common: a pool, its worker processes, the signals
they get, recovery and audits. What the workers do, and what is checked of it, is in storm_round.py
for queues and in storm_topic_round.py for topics.
"""

import gc
import os
import random
import signal
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field

import shmpool
from tests.storm_log import COUNT, DOING, QUEUES, Doing, Log, Packets, Record
from tests.storm_worker import Role, Worker, start

SIZES = (64, 1500, 65536, 1 << 20)  # bytes of the largest packets of a round
CALM_KILLS = 125  # kills between two checks that everything still moves
HANG_S = 60.0  # a guard against hangs, not a measurement
PAUSE_S = 0.001  # between two signals, on average
STOPPED_MAX = 2
CLASSES_MOST = 4
CHAINED = 0.5  # share of the rounds in which some packets are chains
IN_A_STREAM = (Doing.PUT, Doing.PUT_MANY, Doing.GET, Doing.GET_MANY, Doing.PUBLISH)
HUNT = 6  # attempts to find a worker in the middle of a transfer, before any worker is chosen


def rooms(size: int, classes: int) -> list[int]:
    """Returns the sizes of the buffers of each class, of which the largest has size bytes. Those of
    64 bytes cannot be divided: the others are larger."""
    sizes = [max(SIZES[0], size >> 2 * k) for k in reversed(range(classes))]
    return sizes if len(set(sizes)) == classes else [SIZES[0] * (k + 1) for k in range(classes)]


class StormError(Exception):
    """Something was lost, doubled, blocked, or not counted."""


@dataclass
class Options:
    kills: int
    seed: int
    size: int  # 0: each of SIZES in turn
    workers: int
    nobody_recovers: bool
    recover_every: int
    classes: int = 0  # 0: one in about half of the rounds, else 2 to CLASSES_MOST
    topics: bool = False


@dataclass
class Slot:
    """The place of a worker: its present process, and what the driver did to it."""

    role: Role
    core: int
    life: int = 0
    pid: int = 0
    stopped: bool = False


@dataclass
class Figures:
    counts: Counter[str] = field(default_factory=Counter)
    operations: Counter[str] = field(default_factory=Counter)  # processes that were killed

    def as_dict(self) -> dict[str, object]:
        return {**self.counts, "killed in": dict(self.operations.most_common())}


class Driver(ABC):
    """One pool, its workers, and the signals they get.

    Workers move packets in streams, QUEUES of them: queues or topics.
    """

    pool: shmpool.Pool  # made by a subclass

    def __init__(self, options: Options, number: int, kills: int, figures: Figures) -> None:
        self.options, self.kills, self.figures = options, kills, figures
        self.number = number
        self.rng = random.Random(f"{options.seed}/{number}")
        size, several = options.size or SIZES[number % len(SIZES)], self.rng.random() < 0.5
        classes = options.classes or (self.rng.randint(2, CLASSES_MOST) if several else 1)
        self.packets = Packets(rooms(size, classes))
        if self.rng.random() < CHAINED:
            self.packets.lengthen()
        self.slots: list[Slot] = []
        self.lives = self.strikes = 0
        self.progress, self.since = 0, time.monotonic()

    def employ(self, roles: Sequence[Role]) -> None:
        """Makes the places of the workers, which take these roles in turn."""
        cores = sorted(os.sched_getaffinity(0))
        taken = [roles[i % len(roles)] for i in range(self.options.workers)]
        self.slots = [Slot(role, cores[i % len(cores)]) for i, role in enumerate(taken)]
        self.log = Log(len(self.slots))

    # What differs.

    @abstractmethod
    def worker(self, i: int, rng: random.Random) -> Worker:
        """Makes the worker of a place, in its process."""

    @abstractmethod
    def account(self, life: int, records: Iterator[Record], killed: bool, got: int | None) -> None:
        """Reads the log of a worker. got is how many buffers it had counted as got, if known."""

    @abstractmethod
    def violations(self) -> list[str]:
        """Returns what was found wrong in logs."""

    @abstractmethod
    def uses(self, role: Role) -> set[int]:
        """Returns the streams that a role has to do with."""

    @abstractmethod
    def length(self, stream: int) -> int:
        """Returns how many packets a stream holds."""

    @abstractmethod
    def streams(self) -> object:
        """Returns what check() shows of them."""

    @abstractmethod
    def attend(self) -> None:
        """Does what the driver has to do again and again."""

    @abstractmethod
    def finish(self) -> None:
        """Ends the workers, and checks everything."""

    def dead(self) -> set[Hashable]:
        """Returns what a recovery must free."""
        return {m.number for m in self.pool.members() if m.dead}

    # The round.

    def run(self) -> None:
        gc.collect()
        gc.freeze()  # a forked child that collects garbage would copy every page
        try:
            for i in range(len(self.slots)):
                self.bear(i)
            killed = 0
            while killed < self.kills:
                self.disturb()
                now = self.kill(self.kills - killed)
                if (killed + now) // CALM_KILLS > killed // CALM_KILLS:
                    self.calm()
                killed += now
            self.finish()
        except BaseException:
            self.end_all()
            raise
        finally:
            self.pool.close()

    def check(self, condition: object, text: str) -> None:
        if not condition:
            doing = [(s.life, s.pid, self.doing(i)) for i, s in enumerate(self.slots)]
            raise StormError(
                f"{text}\n{self.pool.audit()}\n{self.pool.stats()}\n{self.pool.holders()}\n"
                f"{self.streams()}\nlife, pid, doing: {doing}"
            )

    def check_logs(self) -> None:
        self.check(not self.violations(), "\n".join(self.violations()))

    def doing(self, i: int) -> str:
        word = self.log.areas[i][DOING]
        return f"{Doing(word >> 8).name.lower()} {word & 255}"

    # Processes.

    def bear(self, i: int) -> None:
        slot = self.slots[i]
        self.lives += 1
        slot.life, slot.stopped = self.lives, False
        self.log.clear(i)
        rng = random.Random(self.rng.random())
        slot.pid = start(slot.core, lambda: self.worker(i, rng), self.log.areas[i])

    def reap(self, i: int, killed: bool, dequeued: int | None = None) -> None:
        """Reads the log of a process that has ended, and reaps it."""
        slot = self.slots[i]
        _, status = os.waitpid(slot.pid, 0)
        if not killed:
            self.check(status == 0, f"a worker failed: {status} {self.log.trouble(i)}")
            self.figures.counts["ended by themselves"] += 1
        self.account(slot.life, self.log.records(i), killed, dequeued)
        slot.pid = 0
        self.check_logs()

    def ended(self, i: int) -> bool:
        how = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.slots[i].pid, how) is not None

    def tend(self) -> None:
        """Replaces processes that have ended by themselves, and checks that packets still move."""
        for i in range(len(self.slots)):
            if self.ended(i):
                self.reap(i, killed=False)
                self.bear(i)
        self.attend()
        moved, now = sum(map(self.log.moved, range(QUEUES))), time.monotonic()
        if moved != self.progress:
            self.progress, self.since = moved, now
        self.check(now - self.since < HANG_S, "nothing moves any more")

    def until(self, condition: Callable[[], bool], text: str) -> None:
        give_up = time.monotonic() + HANG_S
        while not condition():
            self.check(time.monotonic() < give_up, text)
            self.tend()
            time.sleep(0.0005)

    def end_workers(self) -> None:
        """Waits until all workers have ended that were told to."""
        give_up = time.monotonic() + HANG_S
        for i, slot in enumerate(self.slots):
            while slot.pid:
                if self.ended(i):
                    self.reap(i, killed=False)
                self.check(time.monotonic() < give_up, f"life {slot.life} does not end")
                self.attend()
                time.sleep(0.0005)

    def end_all(self) -> None:
        for slot in self.slots:
            if slot.pid:
                os.kill(slot.pid, signal.SIGKILL)
                os.waitpid(slot.pid, 0)

    # Signals.

    def stop(self, i: int) -> None:
        os.kill(self.slots[i].pid, signal.SIGSTOP)
        self.slots[i].stopped = True
        self.figures.counts["stops"] += 1

    def resume(self, i: int) -> None:
        slot = self.slots[i]
        if slot.stopped:
            os.kill(slot.pid, signal.SIGCONT)
            slot.stopped = False

    def in_transfer(self) -> list[int]:
        """The workers whose op records say that they are in the middle of one."""
        pids = {m.pid for m in self.pool.members() if m.operation}
        return [i for i, slot in enumerate(self.slots) if slot.pid in pids]

    def target(self, tries: int) -> int:
        """Returns any worker; one in the middle of a transfer, if one is found in a few attempts.

        Usually the kernel has preempted that worker, so a signal finds it at that instruction.
        """
        for _ in range(tries):
            found = self.in_transfer()
            if found:
                return self.rng.choice(found)
            time.sleep(0.0001)
        return self.any_worker()

    def any_worker(self) -> int:
        """Returns a worker, usually one that has done something. Others may not have attached
        yet."""
        begun = [i for i in range(len(self.slots)) if self.log.areas[i][COUNT]]
        if begun and self.rng.random() < 0.9:
            return self.rng.choice(begun)
        return self.rng.randrange(len(self.slots))

    def disturb(self) -> None:
        """Pauses. A worker may be suspended or continued."""
        time.sleep(min(self.rng.expovariate(1 / PAUSE_S), 10 * PAUSE_S))
        self.tend()
        stopped = [i for i, slot in enumerate(self.slots) if slot.stopped]
        if stopped and self.rng.random() < 0.4:
            self.resume(self.rng.choice(stopped))
        elif len(stopped) < STOPPED_MAX and self.rng.random() < 0.6:
            i = self.target(self.rng.choice((0, HUNT)))
            if not self.slots[i].stopped:
                self.stop(i)

    def kill(self, most: int) -> int:
        """Kills one or several workers at once. Returns how many of them had not ended by
        themselves."""
        victims = {self.target(self.rng.choice((0, HUNT)))}
        while len(victims) < most and self.rng.random() < 0.75:
            victims.add(self.any_worker())
        for i in victims:
            os.kill(self.slots[i].pid, signal.SIGKILL)
        killed = {}
        for i in victims:
            how = os.waitid(os.P_PID, self.slots[i].pid, os.WEXITED | os.WNOWAIT)
            assert how is not None
            killed[i] = how.si_code == os.CLD_KILLED
            if killed[i]:
                self.figures.operations[self.doing(i).split()[0]] += 1
        in_transfer = set(self.in_transfer())
        self.figures.counts["kills inside a transfer"] += len(victims & in_transfer)
        counted = {m.pid: m.counters["dequeue"] for m in self.pool.members()}
        dequeued = {i: counted.get(self.slots[i].pid) for i in victims}
        zombies = {i for i in victims if self.rng.random() < 0.5}
        for i in victims - zombies:
            self.reap(i, killed[i], dequeued[i])
        self.strikes += 1
        if not self.options.nobody_recovers and self.strikes % self.options.recover_every == 0:
            self.recover()
        for i in zombies:
            self.reap(i, killed[i], dequeued[i])
        self.audit()
        for i in victims:
            self.bear(i)
        self.figures.counts["kills"] += sum(killed.values())
        return sum(killed.values())

    def recover(self) -> None:
        dead = self.dead()
        done = self.pool.recover()
        counts = self.figures.counts
        counts["recoveries"] += 1
        counts["requeued"] += done.requeued
        counts["dead-lettered"] += done.dead_lettered
        counts["buffers taken back"] += done.buffers
        counts["postponed"] += done.postponed
        self.check(done.unknown == 0, f"{done} cannot decide which members are dead")

        def left() -> set[Hashable]:
            return self.dead() & dead

        if not done.postponed and left():  # a survivor clears a slot; the kernel may run it later
            counts["slots that a survivor was clearing"] += len(left())
            self.until(lambda: not left(), f"{done} left some of {dead}")

    def audit(self) -> None:
        self.figures.counts["audits"] += 1
        self.check(self.pool.audit().ok, "the audit fails")

    # Without kills.

    def calm(self) -> None:
        """Checks without kills: every stream moves on by more than it holds.

        Then one worker is suspended in the middle of a transfer. The streams that it does not
        use move on in the same way.
        """
        for i in range(len(self.slots)):
            self.resume(i)
        self.moves(range(QUEUES), "all streams move")
        i = self.target(20 * HUNT)
        word = self.log.areas[i][DOING]
        if i in self.in_transfer() and Doing(word >> 8) in IN_A_STREAM:
            self.stop(i)
            its = self.uses(self.slots[i].role)
            self.moves([q for q in range(QUEUES) if q not in its], "the other streams move")
            self.figures.counts["stops inside a transfer, others moved"] += i in self.in_transfer()
            self.resume(i)

    def moves(self, streams: "range | list[int]", text: str) -> None:
        targets = [(q, self.log.moved(q) + self.length(q) + 1) for q in streams]
        self.until(lambda: all(self.log.moved(q) >= to for q, to in targets), f"not true: {text}")
