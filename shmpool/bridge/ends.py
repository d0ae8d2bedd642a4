# SPDX-License-Identifier: Apache-2.0
"""The end of a link that is here: what a sender takes from, and what a receiver puts into.

A queue that is sent must requeue what a dead consumer had taken, so that nothing is lost with the
bridge. What a subscriber of a topic had taken is lost with it.
"""

import contextlib
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from .. import errors
from .._hot import Buffer, packed_longest
from ..burst import Burst
from ..pool import Pool
from ..queue import AlfQueue
from ..topic import PUBLISH_MAX, Samples, Subscriber, Topic
from .packing import checked, measured, pack, unpack
from .stopping import Stop

RETURNS_MAX = 16  # batches that wait for room in the queue that they return to
GIVE_BACK_S = 2.0  # that a full queue has to take returned packets
FIND_S = 0.5  # that a queue or topic may take to appear in one attempt
SLICE_S = 0.1  # of a wait, between two questions whether the link ends
PAUSE_S = 0.001  # between two attempts at once
ROOM_S = 0.002  # for which a count of free buffers serves


class Refused(errors.ShmpoolError):
    """A link cannot work as it is configured, or the other side refuses it."""


Packed = tuple[bytes, bytes | Buffer]


@dataclass(slots=True)
class Batch:
    """Packets that a sender has taken, and owns until the other side has them."""

    packets: Burst | Samples
    n: int
    doubtful: bool = False  # another receiver may have put them

    def packed(self) -> Packed:
        """Returns the packets' table, and their bytes, or the buffer that has them."""
        return pack(self.packets)

    def split(self, n: int) -> tuple["Batch", "Batch"]:
        """Moves the first n packets, of more, into one batch and the others into another."""
        left, doubtful = self.n - n, self.doubtful
        if isinstance(self.packets, Burst):
            first = self.packets[:n]
            return Batch(first, n, doubtful), Batch(self.packets, left, doubtful)
        ours, rest = Samples(self.packets[:n]), Samples(self.packets[n:])
        return Batch(ours, n, doubtful), Batch(rest, left, doubtful)

    def singles(self) -> list["Batch"]:
        """Moves each packet into a batch of its own."""
        found, rest = [], self
        while rest.n > 1:
            first, rest = rest.split(1)
            found.append(first)
        return [*found, rest]

    def free(self) -> None:
        """The other side has them."""
        with contextlib.suppress(errors.BufferReleased):  # it was given back
            self.packets.free()

    def give_back(self, seconds: float = GIVE_BACK_S) -> None:
        """Returns them to their queue, each as redelivered once more. A topic has no such place.

        Waits so long for room. What finds none is left to recovery: it returns it when this process
        ends. So only for a link that ends.
        """
        if not self.went_back(seconds) and isinstance(self.packets, Burst):
            for buf in self.packets:
                if not buf.released:
                    buf._outlive()

    def went_back(self, seconds: float) -> bool:
        """give_back(), but the batch keeps what finds no room in that time. Returns whether all
        found some. May be repeated."""
        if not isinstance(self.packets, Burst):
            self.packets.free()
            return True
        try:
            self.packets.nack(seconds)
        except errors.Full:
            return False
        except errors.BufferReleased:  # given back before
            pass
        return True


class Returns:
    """Batches on their way back to their queue, each as redelivered once more. For one thread.

    Nobody waits for room: a sender that waited would not take, and perhaps nobody else does.
    """

    def __init__(self) -> None:
        self._left: deque[Batch] = deque()

    def add(self, batch: Batch) -> None:
        """Returns a batch now, or by place()."""
        self._left.append(batch)
        self.place()

    def place(self) -> None:
        """Returns what the queue has room for, the oldest first. Called after each take, it finds
        the room of what was taken before a producer does."""
        while self._left and self._left[0].went_back(0):
            self._left.popleft()

    @property
    def crowded(self) -> bool:
        """Whether so many wait that no more should be taken: they go to a queue of dead letters
        that is full, and so make no room for themselves."""
        return len(self._left) >= RETURNS_MAX

    def end(self, more: Iterable[Batch]) -> int:
        """Returns these and more, when the link ends. Waits for room, GIVE_BACK_S for all of them.
        Returns how many packets there were more."""
        deadline, n = time.monotonic() + GIVE_BACK_S, 0
        for batch in more:
            self._left.append(batch)
            n += batch.n
        for batch in self._left:
            batch.give_back(max(deadline - time.monotonic(), 0))
        self._left.clear()
        return n


class Source(ABC):
    """A queue, or a subscriber of a topic. For one thread."""

    @abstractmethod
    def take(self, most: int, seconds: float) -> Batch | None:
        """Takes up to so many packets that are there. Waits so long for the first one. ShutDown
        after the last one."""

    @abstractmethod
    async def atake(self, most: int) -> Batch:
        """take(), in an event loop: awaits the first packet."""

    @property
    @abstractmethod
    def waiting(self) -> int:
        """How many packets are there."""

    @abstractmethod
    def close(self) -> None:
        """Ends it."""


class QueueSource(Source):
    """Takes from a queue that requeues."""

    def __init__(self, queue: AlfQueue) -> None:
        """Refused: it loses what a dead consumer had taken. ShutDown: nothing comes any more."""
        if queue.on_death != "requeue":
            raise Refused(
                f"queue {queue.pool.name}/{queue.name} has on_death {queue.on_death!r}; what a "
                'bridge sends must have on_death="requeue", or it is lost with the bridge'
            )
        if queue.ended and not len(queue):
            raise errors.ShutDown(f"queue {queue.name!r} was shut down, and is empty")
        self._queue = queue

    def take(self, most: int, seconds: float) -> Batch | None:
        try:
            burst = self._queue.get_many(most, seconds)
        except errors.Empty:
            return None
        return Batch(burst, len(burst))

    async def atake(self, most: int) -> Batch:
        burst = await self._queue.aget_many(most)
        return Batch(burst, len(burst))

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def close(self) -> None:
        self._queue.close()


class TopicSource(Source):
    """Takes from a topic, and holds its publishers up while the link is full."""

    def __init__(self, topic: Topic) -> None:
        """ShutDown: nothing comes any more."""
        if topic.ended:
            raise errors.ShutDown(f"topic {topic.name!r} was shut down")
        self._subscriber: Subscriber = topic.subscribe(policy="block")

    def take(self, most: int, seconds: float) -> Batch | None:
        try:
            samples = self._subscriber.get_many(most, seconds)
        except errors.Empty:
            return None
        return Batch(samples, len(samples))

    async def atake(self, most: int) -> Batch:
        samples = await self._subscriber.aget_many(most)
        return Batch(samples, len(samples))

    @property
    def waiting(self) -> int:
        return self._subscriber.lag

    def close(self) -> None:
        self._subscriber.close()


def source_of(pool: Pool, name: str) -> Source:
    """Returns the queue or topic of that name. QueueNotFound, Refused, ShutDown."""
    found = _find(pool, name)
    return QueueSource(found) if isinstance(found, AlfQueue) else TopicSource(found)


@dataclass
class Progress:
    """How many packets of a message have been put, and where in its data the next one begins."""

    packets: int = 0
    at: int = 0


class Target:
    """A queue or a topic that packets are put into. For one thread."""

    def __init__(self, pool: Pool, name: str) -> None:
        """QueueNotFound. ShutDown: nothing can be put there."""
        self._pool, self._to = pool, _find(pool, name)
        if self._to.ended:
            raise errors.ShutDown(f"{name!r} was shut down")
        capacity = pool.geometry.capacity
        if isinstance(self._to, AlfQueue):
            self._most = min(self._to._bulk, max(capacity // 2, 1))
        else:
            self._most = min(self._to.depth, PUBLISH_MAX, max(capacity // 2, 1))
        self._free, self._free_until = 0, 0.0
        self.largest = pool.geometry.room  # bytes of a packet

    def room(self) -> int:
        """How many packets it has room for, by its queue and by the pool's free buffers."""
        now = time.monotonic()
        if now >= self._free_until:
            stats = self._pool.stats()
            self._free = stats.capacity - stats.held - stats.queued - stats.chained
            self._free_until = now + ROOM_S
        if isinstance(self._to, AlfQueue):
            return max(min(self._to._room(), self._free), 0)
        return max(self._free, 0)

    def place(self, table: memoryview, data: memoryview, again: bool, stop: Stop) -> int:
        """Puts packets in, in order, and waits for buffers and room. Returns how many.

        again marks each as redelivered once more. In the end all are in, or an exception says why
        not.

        Raises:
            Ending: the link ends; some may be in.
            PayloadTooLarge: a packet is larger than the pool; none is in.
            BadMessage: it is not what a bridge sends.
        """
        n, longest = measured(table, data)
        first, at, most = 0, 0, self._most
        if longest > self.largest:
            raise errors.PayloadTooLarge(
                f"a packet has {longest} bytes; pool {self._pool.name!r} holds {self.largest}"
            )
        while first < n:
            try:
                burst, at = unpack(self._pool, table, data, first, at, most, again, SLICE_S)
            except errors.PoolExhausted:  # fewer may be free
                most = max(most // 2, 1)
                stop.wait(PAUSE_S)
                stop.check()
                continue
            first += len(burst)
            self._free -= len(burst)
            self._put(burst, stop)
        return n

    async def aplace(self, table: memoryview, data: memoryview, again: bool, done: Progress) -> int:
        """place(), in an event loop, from where done says. A call that is cancelled has put what
        done says then.

        Raises what place() raises, but not Ending.
        """
        n, most = checked(table, data), self._most
        while done.packets < n:
            try:
                burst, at = unpack(self._pool, table, data, done.packets, done.at, most, again, 0)
            except errors.PoolExhausted:
                if most > 1:  # fewer may be free
                    most //= 2
                else:
                    size, _ = packed_longest(table, done.packets, 1)
                    (await self._pool.aalloc(size)).free()
                continue
            put = len(burst)
            with burst:
                if isinstance(self._to, AlfQueue):
                    await self._to.aput_many(burst)
                else:
                    await self._to.apublish(burst)
            done.packets, done.at = done.packets + put, at
        return n

    def _put(self, burst: Burst, stop: Stop) -> None:
        put = self._to.put_many if isinstance(self._to, AlfQueue) else self._to.publish
        with burst:
            while True:
                try:
                    return put(burst, SLICE_S)
                except errors.Full:
                    stop.check()

    def close(self) -> None:
        """Ends it."""
        self._to.close()


def _find(pool: Pool, name: str) -> AlfQueue | Topic:
    try:
        return pool.queue(name, timeout=FIND_S)
    except errors.QueueNotFound:
        return pool.topic(name, timeout=0)
