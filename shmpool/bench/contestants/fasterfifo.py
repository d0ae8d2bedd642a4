# SPDX-License-Identifier: Apache-2.0
"""faster-fifo: a circular buffer with POSIX mutexes; its dumps and loads do nothing here."""

import queue
from collections.abc import Callable
from functools import partial
from importlib import import_module

from ..transport import WAIT_S, Batch, OneByOne, Receive, Send, Spec, Transport

HEADER = 64  # bytes: what the library stores beside a message


def _unchanged(message: bytes) -> bytes:
    return message


class FasterFifo(Transport):
    library = "faster-fifo"
    package = "faster-fifo"
    module = "faster_fifo"

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.full, self.empty = (queue.Full,), (queue.Empty,)

    def create(self) -> None:
        import_module("faster_fifo_reduction")  # registers how to pickle a queue
        size = self.spec.depth * (self.spec.size + HEADER)
        self.queues = self.each(lambda _: self.lib.Queue(size, loads=bytes, dumps=_unchanged))

    def remove(self) -> None:
        self.queues = []  # the memory has no name


class PutGet(FasterFifo, OneByOne):
    call = "put, get"

    def sender(self, channel: int) -> Send:
        return self.queues[channel].put

    def receiver(self, channel: int, timeout: float) -> Receive:
        return partial(self.queues[channel].get, True, timeout)

    def poller(self, channel: int) -> Receive:
        return self.queues[channel].get_nowait


class PutGetMany(FasterFifo, Batch):
    call = "put_many, get_many"

    def sender_many(self, channel: int) -> Callable[[list[bytes]], None]:
        return self.queues[channel].put_many

    def receiver_many(self, channel: int) -> Callable[[], list[bytes]]:
        return partial(self.queues[channel].get_many, True, WAIT_S, self.batch)
