# SPDX-License-Identifier: Apache-2.0
"""shmpool: send and recv; send_many and recv_many; one Buffer at a time, from queues that requeue
the buffers of killed consumers; bursts as columns. To scale: one queue with a lane for each pair
of processes, and a queue for each pair.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Literal

import shmpool

from .. import message
from ..transport import (
    WAIT_S,
    Batch,
    Columns,
    InPlace,
    Many,
    OneByOne,
    Receive,
    Send,
    Shape,
    Spec,
    Transport,
)

SMALL = 4096  # bytes of a message: up to this size each process may keep a full local cache
ONE_COLUMN_MAX = 256  # bytes: up to this size one column of whole messages is faster than three
RECOVER_TRIES = 100  # while recovery is postponed by a process in the middle of an operation
CACHED, FEW = 1024, 8  # buffers for each process in addition to those in queues


class Ours(Transport):
    library = "shmpool"
    package = "shmpool"
    on_death: Literal["free", "requeue"] = (
        "free"  # what happens to the buffers that a killed consumer held
    )

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.empty = (shmpool.Empty,)
        self.full = (shmpool.Full, shmpool.PoolExhausted)

    @classmethod
    def version(cls) -> str:
        return shmpool.__version__

    def create(self) -> None:
        spec = self.spec
        ends = spec.producers + spec.consumers + spec.replacements
        if self.shape is Shape.LINK:
            ends *= spec.channels
        batch = self.batch if isinstance(self, Many) else 1
        each = CACHED if spec.size <= SMALL else FEW + 2 * batch
        depth = spec.depth * self.lanes
        most = spec.channels * depth + ends * each
        capacity = 1 << (most - 1).bit_length()
        self.pool = shmpool.Pool.create(
            spec.name,
            buffer_size=spec.size,
            capacity=capacity,
            prealloc=min(capacity, 4096) if spec.size <= SMALL else 0,
        )
        for channel in range(spec.channels):
            self.pool.create_queue(
                str(channel), capacity=depth, on_death=self.on_death, lanes=self.lanes
            )

    @property
    def lanes(self) -> int:
        """Of each queue. Each lane holds spec.depth messages."""
        return 1

    def remove(self) -> None:
        with suppress(shmpool.PoolNotFound):
            shmpool.Pool.unlink(self.spec.name)
        if hasattr(self, "pool"):
            self.pool.close()

    def recover(self) -> None:
        """Recovers at once; survivors would recover when they are stuck."""
        for _ in range(RECOVER_TRIES):
            if not self.pool.recover().postponed:
                break
            os.sched_yield()

    def leaked(self) -> int:
        """Buffers that are neither free nor cached nor queued, when no process holds any."""
        self.recover()
        audit = self.pool.audit()
        return audit.total - audit.free - audit.cached - sum(audit.queued.values())

    def queue(self, channel: int) -> shmpool.AlfQueue:
        return self.pool.queue(str(channel))


class SendRecv(Ours, OneByOne):
    call = "send, recv"

    def sender(self, channel: int) -> Send:
        return self.queue(channel).send

    def receiver(self, channel: int, timeout: float) -> Receive:
        return partial(self.queue(channel).recv, timeout)

    def poller(self, channel: int) -> Receive:
        return self.queue(channel).try_recv


class Lanes(SendRecv):
    """One queue with a lane for each pair, two at least. A lane holds as many as a queue of the
    others."""

    call = "send, recv, lanes"
    only_scaling = True

    @property
    def lanes(self) -> int:
        return max(2, self.spec.producers)  # with one lane a queue is one ring


class QueueEach(SendRecv):
    """A queue for each pair: the most that lanes can reach."""

    call = "send, recv, a queue each"
    shape = Shape.LINK
    only_scaling = True


class SendRecvMany(Ours, Batch):
    call = "send_many, recv_many"

    def sender_many(self, channel: int) -> Callable[[list[bytes]], int | None]:
        send_many = self.queue(channel).send_many

        def send(batch: list[bytes]) -> int | None:
            try:
                return send_many(batch, WAIT_S)
            except (shmpool.Full, shmpool.PoolExhausted) as error:
                return error.sent

        return send

    def receiver_many(self, channel: int) -> Callable[[], list[bytes]]:
        return partial(self.queue(channel).recv_many, self.batch, WAIT_S)


class Buffers(Ours, InPlace):
    """Buffers that a killed consumer held go to another consumer."""

    call = "Buffer"
    on_death = "requeue"

    def writer(self, channel: int) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
        alloc, put, size = self.pool.alloc, self.queue(channel).put, self.spec.size

        def acquire() -> shmpool.Buffer:
            buffer = alloc()
            buffer.length = size
            return buffer

        return acquire, put

    def receiver(self, channel: int, timeout: float) -> Receive:
        return partial(self.queue(channel).get, timeout)

    def poller(self, channel: int) -> Receive:
        return self.queue(channel).try_get


class Bursts(Ours, Columns):
    call = "burst"

    def column_writer(self, channel: int) -> Callable[[Any, Any], None]:
        alloc_many, put_many = self.pool.alloc_many, self.queue(channel).put_many
        size, n = self.spec.size, self.batch
        body = message.packets(size, 1)["body"].reshape(())  # the same for every message
        packets = message.packets(size, n)

        def write_small(words: Any, lasts: Any) -> None:
            packets["word"] = words
            packets["last"] = lasts
            burst = alloc_many(n, WAIT_S)
            burst.set_column(0, packets)
            burst.lengths = size
            put_many(burst, WAIT_S)

        def write(words: Any, lasts: Any) -> None:
            burst = alloc_many(n, WAIT_S)
            burst.set_column(0, words)
            burst.set_column(8, body)
            burst.set_column(size - 1, lasts)
            burst.lengths = size
            put_many(burst, WAIT_S)

        return write_small if size <= ONE_COLUMN_MAX else write

    def column_reader(self, channel: int) -> Callable[[], tuple[Any, Any]]:
        get_many, end, n = self.queue(channel).get_many, self.spec.size - 1, self.batch

        def read() -> tuple[Any, Any]:
            with get_many(n, WAIT_S) as burst:
                return burst.column(0, "<u8"), burst.column(end, "u1")

        return read
