# SPDX-License-Identifier: Apache-2.0
"""faster-fifo: a circular buffer under POSIX mutexes, given dumps and loads that do nothing."""

import queue
from collections.abc import Callable
from functools import partial

from ..way import PATIENCE_S, Batch, OneByOne, Receive, Send, Spec, Way

HEADER = 64  # bytes allowed for what it stores beside a message


def _as_it_is(message: bytes) -> bytes:
    return message


class FasterFifo(Way):
    library = "faster-fifo"
    package = "faster-fifo"

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.full, self.empty = (queue.Full,), (queue.Empty,)

    def create(self) -> None:
        import faster_fifo
        import faster_fifo_reduction  # makes it picklable

        del faster_fifo_reduction
        size = self.spec.depth * (self.spec.size + HEADER)
        self.queues = [
            faster_fifo.Queue(size, loads=bytes, dumps=_as_it_is) for _ in range(self.spec.channels)
        ]

    def remove(self) -> None:
        self.queues = []  # its memory has no name


class PutGet(FasterFifo, OneByOne):
    call = "put, get"

    def sender(self, channel: int) -> Send:
        put: Send = self.queues[channel].put
        return put

    def receiver(self, channel: int, timeout: float) -> Receive:
        return partial(self.queues[channel].get, True, timeout)

    def poller(self, channel: int) -> Receive:
        get_nowait: Receive = self.queues[channel].get_nowait
        return get_nowait


class PutGetMany(FasterFifo, Batch):
    call = "put_many, get_many"

    def sender_many(self, channel: int) -> Callable[[list[bytes]], None]:
        put_many: Callable[[list[bytes]], None] = self.queues[channel].put_many
        return put_many

    def receiver_many(self, channel: int) -> Callable[[], list[bytes]]:
        return partial(self.queues[channel].get_many, True, PATIENCE_S, self.batch)
