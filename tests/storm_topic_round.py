# SPDX-License-Identifier: Apache-2.0
"""One round of the storm (storm.py) over topics: a pool, its workers, and the checks.

Topic 0 has one publisher at a time, the others have several. Subscribers of every policy come and
go. A round may have a witness for some of its topics: a subscriber that blocks, gets every message,
and is never killed.
"""

import os
import random
import signal
import time
from collections.abc import Hashable, Iterator

import shmpool
from tests.storm_driver import HANG_S, Driver, Figures, Options
from tests.storm_log import COUNT, HEAD, QUEUES, QUIET, STOP, Log, Record
from tests.storm_topic_ledger import TopicLedger
from tests.storm_topic_worker import DRAIN, SUBSCRIPTIONS, TopicWorker, Witness
from tests.storm_worker import Role, Worker, start

WITNESSED = 0.5  # share of the topics
DEPTHS = (4, 8, 16, 64)
DEPTHS_OF_LARGE = (4, 8)  # of messages with more bytes than LARGE
LARGE = 1 << 16
WITNESS_RECORDS = 1 << 23
ENDED = 0.5  # share of the topics that are shut down; the others end because nobody publishes
ROLES = (
    Role(puts=(0,)),
    Role(puts=(1, 2)),
    Role(gets=(0, 1)),
    Role(gets=(1, 2)),
    Role(gets=(2, 0)),
    Role(puts=(1,), gets=(0, 2)),
    Role(puts=(2,), gets=(1,)),
    Role(gets=(0, 1, 2)),
)


class TopicRound(Driver):
    """Three topics, and workers that publish and subscribe."""

    def __init__(self, options: Options, number: int, kills: int, figures: Figures) -> None:
        super().__init__(options, number, kills, figures)
        large = self.packets.size >= LARGE
        depths = [self.rng.choice(DEPTHS_OF_LARGE if large else DEPTHS) for _ in range(QUEUES)]
        self.pool = self.make_pool(sum(depths))
        self.topics = [self.pool.create_topic(f"topic-{i}", depth=d) for i, d in enumerate(depths)]
        watched = [t for t in range(QUEUES) if self.rng.random() < WITNESSED]
        self.ledger = TopicLedger(depths, set(watched))
        self.witness = Role(gets=tuple(watched))
        self.witness_log = Log(1, WITNESS_RECORDS)
        self.witness_pid = 0
        self.employ(ROLES)

    def make_pool(self, kept: int) -> shmpool.Pool:
        name = f"storm-{os.getpid()}-{self.number}"
        # Each subscriber that drops the newest may keep as many as its topic.
        n = (2 if self.packets.size >= LARGE else 4) * kept * (1 + SUBSCRIPTIONS)
        pool = shmpool.Pool.create(
            name,
            buffer_size=self.packets.rooms,
            capacity=1 << (n - 1).bit_length(),
            bulk=16,
            cache_size=[self.rng.choice((0, 0, 16, 32)) for _ in self.packets.rooms],
            refill_multiplier=1,
            members=2 * self.options.workers + 4,
            queues=QUEUES,
        )
        shmpool.Pool.unlink(name)  # the workers have it from their fork
        return pool

    def run(self) -> None:
        try:
            if self.witness.gets:
                self.begin_witness()
            super().run()
        finally:
            if self.witness_pid:
                os.kill(self.witness_pid, signal.SIGKILL)
                os.waitpid(self.witness_pid, 0)

    # What the driver asks for.

    def worker(self, i: int, rng: random.Random) -> Worker:
        slot, area = self.slots[i], self.log.areas[i]
        return TopicWorker(slot.life, slot.role, self.pool, self.topics, self.packets, area, rng)

    def account(self, life: int, records: Iterator[Record], killed: bool, got: int | None) -> None:
        self.ledger.life(life, records, killed)

    def violations(self) -> list[str]:
        return self.ledger.violations

    def uses(self, role: Role) -> set[int]:
        return {*role.puts, *role.gets}

    def length(self, stream: int) -> int:
        return self.topics[stream].depth

    def streams(self) -> object:
        return [(t, t.published, t.kept, t.subscribers()) for t in self.topics]

    def attend(self) -> None:
        if self.witness_pid and os.waitpid(self.witness_pid, os.WNOHANG)[0]:
            self.witness_pid = 0
            self.check(False, f"the witness ended: {self.witness_log.trouble(0)}")

    def dead(self) -> set[Hashable]:
        """Also subscribers: each of those that are dead must be freed."""
        subscribers = {
            (t.name, s.number, s.pid) for t in self.topics for s in t.subscribers() if s.dead
        }
        return super().dead() | subscribers

    # The witness.

    def begin_witness(self) -> None:
        """Starts it, and waits until it has subscribed to what it watches."""
        area = self.witness_log.areas[0]

        def make() -> Worker:
            rng = random.Random(0)
            return Witness(0, self.witness, self.pool, self.topics, self.packets, area, rng)

        self.witness_pid = start(min(os.sched_getaffinity(0)), make, area)
        give_up = time.monotonic() + HANG_S
        while not area[QUIET]:
            self.attend()
            self.check(time.monotonic() < give_up, "the witness does not subscribe")
            time.sleep(0.001)

    def end_witness(self) -> None:
        area = self.witness_log.areas[0]
        pid, self.witness_pid = self.witness_pid, 0
        if pid:
            area[STOP] = DRAIN
            _, status = os.waitpid(pid, 0)
            self.check(status == 0, f"the witness failed: {self.witness_log.trouble(0)}")
            full = area[COUNT] >= len(area) - HEAD - 100
            self.check(not full, "more messages than the witness can write down")
            self.ledger.life(0, self.witness_log.records(0), killed=False)

    # The end.

    def finish(self) -> None:
        for i in range(len(self.slots)):
            self.resume(i)
        self.quieten()
        ends = [topic.published for topic in self.topics]
        ended = [topic for topic in self.topics if self.rng.random() < ENDED]
        for topic in ended:
            topic.shutdown()
        for i in range(len(self.slots)):
            self.log.areas[i][STOP] = DRAIN
        self.end_workers()
        self.end_witness()
        self.check_logs()
        self.flush([topic for topic in self.topics if topic not in ended])
        self.check_buffers(chains=bool(ended))
        self.ledger.settle(ends)
        self.check_logs()
        self.figures.counts += self.ledger.figures
        self.figures.counts["deaths"] += self.pool.stats().recovered
        self.figures.counts["lives"] += self.lives
        self.figures.counts["rounds with chains"] += self.packets.chains
        self.figures.counts["rounds of several classes"] += len(self.packets.rooms) > 1

    def quieten(self) -> None:
        """Waits until nobody publishes any more, and all that dead publishers left is recovered."""

        def quiet() -> bool:
            for area in self.log.areas:
                area[STOP] = 1  # also those that were just born
            return all(area[QUIET] for area in self.log.areas) and not (
                self.pool.recover().postponed or self.dead()
            )

        self.until(quiet, "a worker still publishes, or dead ones are left")

    def flush(self, topics: list[shmpool.Topic]) -> None:
        """Replaces all messages that these topics keep. A bit that was left behind on one of them
        would now hold it."""
        for topic in topics:
            for _ in range(topic.depth):
                topic.send(b"last", timeout=0)

    def check_buffers(self, chains: bool) -> None:
        """All buffers are free but those that the topics keep, and nobody waits. chains: some of
        the kept messages may be chains."""
        kept = sum(topic.kept for topic in self.topics)
        audit, stats, members = self.pool.audit(), self.pool.stats(), self.pool.members()
        free = (audit.ok, audit.free + audit.cached, audit.held)
        away = kept + audit.chained
        self.check(free == (True, stats.created - away, {}), "not everything is free")
        self.check(chains or not audit.chained, "segments of chains are left")
        self.check(stats.queued == kept, f"{kept} messages are kept")
        self.check([m.pid for m in members] == [os.getpid()], f"members are left: {members}")
        self.check(not any(t.subscribers() for t in self.topics), "subscribers are left")
        self.check(not any(t._info().waiting for t in self.topics), "publishers wait")
        self.check(stats.recovered <= self.kills, "more deaths than kills")
