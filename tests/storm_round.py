# SPDX-License-Identifier: Apache-2.0
"""One round of the storm (storm.py) over queues: a pool, its workers, and the checks."""

import contextlib
import functools
import os
import random
from collections.abc import Callable, Iterator

import shmpool
from shmpool.choices import Lanes
from tests.storm_driver import CALM_KILLS, Driver, Figures, Options
from tests.storm_ledger import Ledger
from tests.storm_log import STOP, UNKNOWN, Record
from tests.storm_worker import Role, Worker

QUEUE_CAPACITY = 64
ON_DEMAND_CAPACITY = 2048  # of queues whose memory is reserved as they fill: several parts
ON_DEMAND_SIZE = 1500  # bytes of packets; the pool has more buffers than such a queue holds
MAX_REDELIVERIES = 2

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


class Round(Driver):
    """Three queues, and workers that produce, consume and forward."""

    def __init__(self, options: Options, number: int, kills: int, figures: Figures) -> None:
        super().__init__(options, number, kills, figures)
        # A generator of its own, so that a seed means the same round as before there was this.
        on_demand = random.Random(f"{options.seed}/{number}/memory").random() < 0.5
        self.on_demand = self.packets.size <= ON_DEMAND_SIZE and on_demand
        self.pool = self.make_pool(number)
        self.queues, self.letters = self.make_queues()
        self.ledger = Ledger(
            [q.on_death != "free" for q in self.queues],
            [q.on_death == "requeue" for q in self.queues],
        )
        self.employ(ROLES)

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

    def worker(self, i: int, rng: random.Random) -> Worker:
        slot, area = self.slots[i], self.log.areas[i]
        return Worker(slot.life, slot.role, self.pool, self.queues, self.packets, area, rng)

    def account(self, life: int, records: Iterator[Record], killed: bool, got: int | None) -> None:
        self.ledger.life(life, records, killed, got)

    def violations(self) -> list[str]:
        return self.ledger.violations

    def uses(self, role: Role) -> set[int]:
        return {*role.puts, *role.gets, *(q for pair in role.forwards for q in pair)}

    def length(self, stream: int) -> int:
        return self.queues[stream].capacity

    def streams(self) -> object:
        return self.queues, self.letters

    def attend(self) -> None:
        self.take_letters()

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

    # The end.

    def finish(self) -> None:
        for i in range(len(self.slots)):
            self.resume(i)
        for i in range(len(self.slots)):
            self.log.areas[i][STOP] = 1
        self.end_workers()
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
        self.check_logs()
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
