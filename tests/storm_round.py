# SPDX-License-Identifier: Apache-2.0
"""One round of the storm (storm.py): a pool, its workers, the signals they get, and the checks."""

import contextlib
import functools
import gc
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import shmpool
from shmpool.options import Lanes
from tests.storm_ledger import Ledger
from tests.storm_log import COUNT, DOING, QUEUES, STOP, UNKNOWN, Doing, Log, Packets
from tests.storm_worker import Role, Worker, start

SIZES = (64, 1500, 65536, 1 << 20)  # bytes of the largest packets of a round
CALM_KILLS = 125  # kills between two checks that every queue still moves
HANG_S = 60.0  # a guard against hangs, not a measurement
PAUSE_S = 0.001  # between two signals, on average
STOPPED_MAX = 2
CLASSES_MOST = 4
CHAINED = 0.5  # share of the rounds in which some packets are chains
HUNT = 6  # attempts to find a worker in the middle of a transfer, before any worker is chosen
QUEUE_CAPACITY = 64
ON_DEMAND_CAPACITY = 2048  # of queues whose memory is reserved as they fill: several parts
ON_DEMAND_SIZE = 1500  # bytes of packets; the pool has more buffers than such a queue holds
MAX_REDELIVERIES = 2
ON_A_QUEUE = (Doing.PUT, Doing.PUT_MANY, Doing.GET, Doing.GET_MANY)

# Queue 2 has one of these in a round: producers, consumers, on_death.
SINGLE = (
    ("single", "single", "free"),
    ("multi", "single", "requeue"),
    ("single", "multi", "free"),
    ("single", "single", "dead-letter"),
)
ROLES = (
    Role(puts=(0, 1)),
    Role(puts=(2,)),
    Role(gets=(0,)),
    Role(gets=(1,)),
    Role(gets=(2,), forwards=((2, 0),)),
    Role(forwards=((0, 1), (1, 0))),
    Role(puts=(0, 1), gets=(0, 1)),
    Role(forwards=((1, 0),), puts=(1,)),
)


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


class Round:
    """One pool, its workers, and the signals they get."""

    def __init__(self, options: Options, number: int, kills: int, figures: Figures) -> None:
        self.options, self.kills, self.figures = options, kills, figures
        self.number = number
        self.rng = random.Random(f"{options.seed}/{number}")
        size, several = options.size or SIZES[number % len(SIZES)], self.rng.random() < 0.5
        classes = options.classes or (self.rng.randint(2, CLASSES_MOST) if several else 1)
        self.packets = Packets(rooms(size, classes))
        if self.rng.random() < CHAINED:
            self.packets.lengthen()
        # A generator of its own, so that a seed means the same round as before there was this.
        on_demand = random.Random(f"{options.seed}/{number}/memory").random() < 0.5
        self.on_demand = self.packets.size <= ON_DEMAND_SIZE and on_demand
        self.pool = self.make_pool(number)
        self.queues, self.letters = self.make_queues()
        self.ledger = Ledger(
            [q.on_death != "free" for q in self.queues],
            [q.on_death == "requeue" for q in self.queues],
        )
        cores = sorted(os.sched_getaffinity(0))
        roles = [ROLES[i % len(ROLES)] for i in range(options.workers)]
        self.slots = [Slot(role, cores[i % len(cores)]) for i, role in enumerate(roles)]
        self.log = Log(len(self.slots))
        self.lives = self.strikes = 0
        self.progress, self.since = 0, time.monotonic()

    def make_pool(self, number: int) -> shmpool.Pool:
        name = f"storm-{os.getpid()}-{number}"
        # More than fit into one queue: those behind a stopped producer must not be all there are.
        n = ON_DEMAND_CAPACITY if self.on_demand else QUEUE_CAPACITY
        capacity = 2 * n if self.packets.size > 65536 else 4 * n
        pool = shmpool.Pool.create(
            name,
            buffer_size=self.packets.rooms,
            capacity=capacity,
            bulk=16,
            cache_size=[self.rng.choice((0, 0, 16, 32)) for _ in self.packets.rooms],
            refill_multiplier=1,
            members=2 * self.options.workers + 2,
            queues=24,  # those of lanes included
        )
        shmpool.Pool.unlink(name)  # the workers have it from their fork
        return pool

    def make_queues(self) -> tuple[list[shmpool.AlfQueue], list[shmpool.AlfQueue]]:
        make, n = self.pool.create_queue, QUEUE_CAPACITY
        if self.on_demand:
            n = ON_DEMAND_CAPACITY
            make = functools.partial(make, memory="on-demand")
        lanes = self.lanes(n)
        letters = [make(f"letter-{i}", capacity=n, lanes=lanes()) for i in (1, 2)]
        producers, consumers, on_death = self.rng.choice(SINGLE)
        queues = [
            make("free", capacity=n, lanes=lanes()),
            make(
                "requeue",
                capacity=n,
                lanes=lanes(),
                on_death="requeue",
                dead_letter=letters[0],
                max_redeliveries=MAX_REDELIVERIES,
            ),
            make(
                "single",
                capacity=n // 2,
                producers=producers,
                consumers=consumers,
                on_death=on_death,
                dead_letter=None if on_death == "free" else letters[1],
            ),
        ]
        return queues, letters

    def lanes(self, capacity: int) -> Callable[[], Lanes]:
        """Returns what chooses the lanes of a queue: none in half of the rounds. A lane has room
        for the largest burst."""
        own = random.Random(f"{self.options.seed}/{self.number}/lanes")
        if own.random() < 0.5:
            return lambda: 1
        some: tuple[Lanes, ...] = (1, 2, 2, "auto" if capacity > QUEUE_CAPACITY else 2)
        return lambda: own.choice(some)

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
                f"{self.queues} {self.letters}\nlife, pid, doing: {doing}"
            )

    def doing(self, i: int) -> str:
        word = self.log.areas[i][DOING]
        return f"{Doing(word >> 8).name.lower()} {word & 255}"

    # Processes.

    def bear(self, i: int) -> None:
        slot = self.slots[i]
        self.lives += 1
        slot.life, slot.stopped = self.lives, False
        self.log.clear(i)
        area, life = self.log.areas[i], slot.life
        rng = random.Random(self.rng.random())

        def make() -> Worker:
            return Worker(life, slot.role, self.pool, self.queues, self.packets, area, rng)

        slot.pid = start(slot.core, make, area)

    def reap(self, i: int, killed: bool, dequeued: int | None = None) -> None:
        """Reads the log of a process that has ended, and reaps it."""
        slot = self.slots[i]
        _, status = os.waitpid(slot.pid, 0)
        if not killed:
            self.check(status == 0, f"a worker failed: {status} {self.log.trouble(i)}")
            self.figures.counts["ended by themselves"] += 1
        self.ledger.life(slot.life, self.log.records(i), killed, dequeued)
        slot.pid = 0
        self.check(not self.ledger.violations, "\n".join(self.ledger.violations))

    def ended(self, i: int) -> bool:
        how = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.slots[i].pid, how) is not None

    def tend(self) -> None:
        """Replaces processes that have ended by themselves, and checks that packets still move."""
        for i in range(len(self.slots)):
            if self.ended(i):
                self.reap(i, killed=False)
                self.bear(i)
        self.take_letters()
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
        dead = {m.number for m in self.pool.members() if m.dead}
        done = self.pool.recover()
        counts = self.figures.counts
        counts["recoveries"] += 1
        counts["requeued"] += done.requeued
        counts["dead-lettered"] += done.dead_lettered
        counts["buffers taken back"] += done.buffers
        counts["postponed"] += done.postponed
        self.check(done.unknown == 0, f"{done} cannot decide which members are dead")

        def left() -> set[int]:
            return {m.number for m in self.pool.members() if m.dead} & dead

        if not done.postponed and left():  # a survivor clears a slot; the kernel may run it later
            counts["slots that a survivor was clearing"] += len(left())
            self.until(lambda: not left(), f"{done} left some of {dead}")

    def audit(self) -> None:
        self.figures.counts["audits"] += 1
        self.check(self.pool.audit().ok, "the audit fails")

    def take_letters(self) -> None:
        for queue, letter in enumerate(self.letters, 1):
            while len(letter):
                try:
                    buf = letter.get(timeout=0)
                except shmpool.Empty:
                    break
                self.deliver(buf, queue)
                self.figures.counts["letters"] += 1

    def deliver(self, buf: shmpool.Buffer, queue: int) -> None:
        with buf:
            try:
                stamp = self.packets.stamp_of(buf, queue)
            except ValueError as error:
                self.check(False, str(error))
            self.ledger.got(queue, stamp, min(buf.redelivered, UNKNOWN - 1), final=True)

    # Without kills.

    def calm(self) -> None:
        """Checks without kills: every queue moves on by more than its capacity.

        Then one worker is suspended in the middle of a transfer. The queues that it does not use
        move on in the same way.
        """
        for i in range(len(self.slots)):
            self.resume(i)
        self.moves(range(QUEUES), "all queues move")
        i = self.target(20 * HUNT)
        word = self.log.areas[i][DOING]
        if i in self.in_transfer() and Doing(word >> 8) in ON_A_QUEUE:
            self.stop(i)
            role = self.slots[i].role
            its = {*role.puts, *role.gets, *(q for pair in role.forwards for q in pair)}
            self.moves([q for q in range(QUEUES) if q not in its], "the other workers' queues move")
            self.figures.counts["stops inside a transfer, others moved"] += i in self.in_transfer()
            self.resume(i)

    def moves(self, queues: "range | list[int]", text: str) -> None:
        targets = [(q, self.log.moved(q) + self.queues[q].capacity + 1) for q in queues]
        self.until(lambda: all(self.log.moved(q) >= to for q, to in targets), f"not true: {text}")

    # The end.

    def finish(self) -> None:
        for i in range(len(self.slots)):
            self.resume(i)
        for i in range(len(self.slots)):
            self.log.areas[i][STOP] = 1
        give_up = time.monotonic() + HANG_S
        for i, slot in enumerate(self.slots):
            while slot.pid:
                if self.ended(i):
                    self.reap(i, killed=False)
                self.check(time.monotonic() < give_up, f"life {slot.life} does not end")
                self.take_letters()
                time.sleep(0.0005)
        for _ in range(2):  # buffers that found no room are put back when there is room
            self.recover()
            self.drain()
        audit, stats, members = self.pool.audit(), self.pool.stats(), self.pool.members()
        free = (audit.ok, audit.free + audit.cached, audit.held)
        self.check(free == (True, stats.created, {}), "not everything is free")
        self.check_classes(stats)
        self.check([m.pid for m in members] == [os.getpid()], f"members are left: {members}")
        self.check(stats.recovered <= self.kills, "more deaths than kills")
        self.ledger.settle()
        self.check(not self.ledger.violations, "\n".join(self.ledger.violations))
        self.figures.counts += self.ledger.figures
        self.figures.counts["lost with dead members"] += sum(self.ledger.lost.values())
        self.figures.counts["could be lost"] += sum(self.ledger.may_be_lost.values())
        self.figures.counts["deaths"] += stats.recovered
        self.figures.counts["lives"] += self.lives
        self.figures.counts["rounds of several classes"] += len(stats.sizes) > 1
        self.figures.counts["rounds with chains"] += self.packets.chains
        self.figures.counts["rounds with lanes"] += any(q.lanes > 1 for q in self.queues)

    def check_classes(self, stats: shmpool.Stats) -> None:
        """Each class was used, has all its buffers back, and only those: it can give out as many
        as its capacity, each of its size."""
        held = []
        for size in reversed(stats.sizes):
            used = size.created or self.kills < CALM_KILLS
            self.check(used, f"no packet of {size.buffer_size} bytes was sent")
            back = size.free + size.cached
            self.check(size.created == back, f"{size} has not all its buffers")
            for _ in range(size.capacity):
                held.append(self.pool.alloc(timeout=0, size=size.buffer_size))
                self.check(len(held[-1].data) == size.buffer_size, f"{held[-1]} of {size}")
        with contextlib.suppress(shmpool.PoolExhausted):
            held.append(self.pool.alloc(timeout=0))
        self.check(len(held) == stats.capacity, f"{len(held)} of {stats.capacity} buffers")

    def drain(self) -> None:
        for number, queue in enumerate(self.queues):
            while not queue.empty():
                self.deliver(queue.get(timeout=0), number)
        self.take_letters()

    def end_all(self) -> None:
        for slot in self.slots:
            if slot.pid:
                os.kill(slot.pid, signal.SIGKILL)
                os.waitpid(slot.pid, 0)
