# SPDX-License-Identifier: Apache-2.0
"""The throughput of single messages without any library: an upper bound for queues that copy.

It includes making and checking each message, the two loops, and a plain copy on either side. A
producer writes all its messages to one place in its own memory; a consumer reads one place again
and again. They pass nothing, and neither waits. Small messages are not copied by the producer but
passed to deque.append(): any copy in Python costs more than a call of a fast library.
"""

import struct
import time
from collections import deque
from functools import partial

from . import message
from .consuming import consume
from .message import STEP
from .producing import produce
from .scoreboard import SLOTS, length
from .throughput import LONGER, WARM_S
from .transport import OneByOne, Receive, Send, Spec
from .workers import RunError, running


class Nowhere(OneByOne):
    """No contestant: memory of the process's own."""

    library = "nothing"

    def create(self) -> None:
        """Nothing."""

    def remove(self) -> None:
        """Nothing."""

    def sender(self, channel: int) -> Send:
        size = self.spec.size
        if size <= message.SMALL:
            last: deque[bytes] = deque(maxlen=1)
            return last.append
        # A slice assignment takes three times as long.
        return partial(struct.Struct(f"{size}s").pack_into, bytearray(size), 0)

    def receiver(self, channel: int, timeout: float) -> Receive:
        size = self.spec.size
        word = message.base(0) + STEP
        packet = message.packer(size).pack(word, message.body(size), word & 255)
        return memoryview(bytearray(packet)).tobytes


def measure(name: str, size: int, pairs: int, seconds: float, cores: list[int]) -> float:
    """Messages a second that so many pairs of processes could pass on the cores. Raises
    RunError."""
    each = [_seconds(name, size, produces, seconds, cores) for produces in (True, False)]
    return min(pairs / max(each), len(cores) / sum(each))


def _seconds(name: str, size: int, produces: bool, seconds: float, cores: list[int]) -> float:
    """What one message costs a producer or a consumer."""
    with running(Nowhere(Spec(name, size)), cores, pin=False) as workers:
        board = workers.board
        worker = (
            workers.add(produce, range(1), False) if produces else workers.add(consume, 0, False)
        )
        workers.start()
        log = board.log(worker.slot)

        def count() -> int:
            if produces:
                return (board.words[SLOTS + worker.slot] - message.base(worker.slot)) // STEP
            return length(log)

        time.sleep(WARM_S)
        began, before = time.perf_counter(), count()
        passed, counted = 0.0, 0
        while not counted and passed < LONGER * seconds:
            time.sleep(seconds)
            passed, counted = time.perf_counter() - began, count() - before
        if not counted:
            raise RunError(f"the {'producer' if produces else 'consumer'} did nothing")
        return passed / counted
