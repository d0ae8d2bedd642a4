# SPDX-License-Identifier: Apache-2.0
"""One worker process of the storm over topics: it publishes, or subscribes and reads, or both.

A worker subscribes with every policy, gets messages one by one and in bursts, holds some of them
for a while, leaves and subscribes again. It publishes until STOP is not 0, and reads until STOP is
DRAIN: then it gets what is left.
"""

import contextlib
import time
from collections.abc import Callable
from typing import get_args

import shmpool
from shmpool.choices import Policy, Start
from tests.storm_log import MOVED, QUIET, STOP, TOPIC_BITS, Doing, Told, stamp_of
from tests.storm_worker import CHURNS, Worker

DRAIN = 2  # in STOP
HELD_MOST = 6  # messages of one subscription
STAYS = 0.97  # share of the turns after which a subscription goes on
DROPPED = 0.2  # share of the messages that are let go by the garbage collector
SUBSCRIPTIONS = 3  # of one worker at once
POLICIES: tuple[Policy, ...] = get_args(Policy)
STARTS: tuple[Start, ...] = get_args(Start)


class Reading:
    """One subscription."""

    def __init__(self, worker: "TopicWorker", topic: int, place: int, how: int) -> None:
        self.worker, self.topic = worker, topic
        self.where = place << TOPIC_BITS | topic  # in the log
        self.held: list[tuple[shmpool.Sample, int]] = []
        of = worker.topics[topic]
        policy, start = POLICIES[how % len(POLICIES)], STARTS[how // len(POLICIES)]
        worker.doing(Doing.SUBSCRIBE, topic)
        worker.log(Told.SUBSCRIBING, self.where, how, of.published)
        self.sub = of.subscribe(policy, start)
        worker.log(Told.SUBSCRIBED, self.where, 0, of.published)

    def get(self, n: int, timeout: float) -> bool:
        """Gets up to n messages. Returns False if there are none."""
        worker = self.worker
        worker.doing(Doing.TAKE, self.topic)
        try:
            got = [self.sub.get(timeout)] if n == 1 else list(self.sub.get_many(n, timeout))
        except (shmpool.Empty, shmpool.ShutDown):
            return False
        worker.doing(Doing.CHECK, self.topic)
        for sample in got:
            stamp = worker.packets.stamp_of(sample, self.topic)
            worker.log(Told.SEQUENCE, self.where, 0, sample.sequence)
            worker.log(Told.MESSAGE, self.where, 0, stamp)
            worker.area[MOVED + self.topic] += 1
            self.held.append((sample, stamp))
        worker.log(Told.MISSED, self.where, 0, self.sub.gaps)
        return True

    def let_go(self, keep: int) -> None:
        """Lets all but so many go, in any order. Nobody has changed them in that time."""
        worker = self.worker
        while len(self.held) > keep:
            sample, stamp = self.held.pop(worker.rng.randrange(len(self.held)))
            worker.doing(Doing.CHECK, self.topic)
            if worker.packets.stamp_of(sample, self.topic) != stamp:
                raise ValueError(f"message {sample.sequence} has changed while it was held")
            worker.doing(Doing.LET_GO, self.topic)
            if worker.rng.random() > DROPPED:
                sample.free()
            del sample

    def leave(self, drained: bool) -> None:
        worker = self.worker
        worker.log(Told.ENDS, self.where, drained, self.sub.gaps)
        worker.log(Told.LEFT, self.where, 0, worker.topics[self.topic].published)
        worker.doing(Doing.UNSUBSCRIBE, self.topic)
        self.sub.close()
        self.let_go(0)  # also after it has left


class TopicWorker(Worker):
    """role.puts are the topics that it publishes to, role.gets those that it reads."""

    @property
    def topics(self) -> list[shmpool.Topic]:
        return [one for one in self.queues if isinstance(one, shmpool.Topic)]

    def run(self) -> None:
        self.readings: dict[int, Reading] = {}
        jobs: list[Callable[[], None]] = [lambda t=t: self.spread(t) for t in self.role.puts]
        jobs += [self.read] * (2 if self.role.gets else 0)
        while self.area[STOP] != DRAIN and self.written < self.room:
            if self.area[STOP] and not self.area[QUIET]:
                jobs = [self.read] if self.role.gets else [lambda: time.sleep(0.001)]
                self.area[QUIET] = 1
            if self.rng.random() < CHURNS / 4 and not self.area[STOP]:
                self.churn()
            self.rng.choice(jobs)()
        for one in self.readings.values():
            drained = self.area[STOP] == DRAIN
            while drained and one.get(self.most, 0):
                one.let_go(0)
            one.leave(drained)
        self.doing(Doing.CLOSE)
        self.pool.close()

    # Publishing.

    def spread(self, topic: int) -> None:
        """Publishes one message or a burst."""
        of = self.topics[topic]
        n = 1 if self.rng.random() < 0.5 else min(self.few(), of.depth)
        if n == 1 and self.rng.random() < 0.5:
            packet = bytes(self.packet(topic))
            self.doing(Doing.SEND, topic)
            with contextlib.suppress(shmpool.PoolExhausted):
                self.tell(topic, 1, lambda: of.send(packet, timeout=self.patience()))
            return
        packets = [bytes(self.packet(topic, i)) for i in range(n)]
        try:
            burst = self.burst_for(packets)
        except shmpool.PoolExhausted:
            return
        self.doing(Doing.WRITE, topic)
        for buf, packet in zip(burst, packets, strict=True):
            buf.write(packet)
        self.doing(Doing.PUBLISH, topic)
        item = burst if n > 1 else burst[0]
        if not self.tell(topic, n, lambda: of.publish(item, timeout=self.patience())):
            self.doing(Doing.FREE, topic)
            burst.free()

    def tell(self, topic: int, n: int, publish: Callable[[], None]) -> bool:
        """Logs before and after a call that publishes n messages, all or none."""
        sent = 0
        self.log(Told.PUBLISHING, topic, n, stamp_of(self.life, self.sequence[topic]))
        try:
            publish()
            sent = n
        except (shmpool.Full, shmpool.PoolExhausted):
            pass
        self.log(Told.PUBLISHED, topic, sent)
        self.sequence[topic] += sent
        return sent == n

    # Reading.

    def read(self) -> None:
        place = self.rng.randrange(SUBSCRIPTIONS)
        reading = self.readings.get(place)
        if reading is None:
            how = self.rng.randrange(len(POLICIES) * len(STARTS))
            with contextlib.suppress(shmpool.LimitReached):
                self.readings[place] = Reading(self, self.rng.choice(self.role.gets), place, how)
            return
        reading.let_go(self.rng.randrange(HELD_MOST))
        reading.get(1 if self.rng.random() < 0.5 else self.few(), self.patience())
        if self.rng.random() > STAYS:
            del self.readings[place]
            reading.leave(drained=False)


class Witness(TopicWorker):
    """Reads some topics from their first message to their last. It is never killed."""

    def run(self) -> None:
        how = POLICIES.index("block")
        self.readings = {i: Reading(self, t, i, how) for i, t in enumerate(self.role.gets)}
        self.area[QUIET] = 1
        left = dict(self.readings)
        while left and self.written < self.room:
            ends = self.area[STOP] == DRAIN  # read before the messages
            some = False
            for place, one in list(left.items()):
                there = one.get(64, 0)
                one.let_go(0)
                some |= there
                if ends and not there:
                    one.leave(drained=True)
                    del left[place]
            if not some and left:
                shmpool.wait([one.sub for one in left.values()], 0.05)
        for one in left.values():
            one.leave(drained=False)
        self.pool.close()
