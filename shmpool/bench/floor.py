# SPDX-License-Identifier: Apache-2.0
"""What one message at a time costs without any library: the making and the check of it, the two
loops, and a plain copy on either side. A queue that copies can hardly be quicker, in this harness.

A producer writes all its messages to one place, a consumer reads one place again and again, each
alone: they pass nothing, and nobody waits. A small message is not written, only handed over: what
Python has for that costs more than a library's whole call.
"""

import struct
import time
from collections import deque
from functools import partial

from . import message
from .board import SEATS, Board, length
from .consuming import consume
from .crew import Crew, RunError
from .message import STEP
from .producing import produce
from .throughput import LONGER, WARM_S
from .way import OneByOne, Receive, Send, Spec


class Nowhere(OneByOne):
    """No contestant: a memory of the process's own."""

    library = "nothing"
    call = ""
    package = None

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
    """Messages a second that so many pairs of processes could pass on those cores. RunError."""
    each = [_seconds(name, size, role, seconds, cores) for role in ("producer", "consumer")]
    busy = max(each) if pairs == 1 and len(cores) > 1 else sum(each) / len(cores)
    return 1 / busy


def _seconds(name: str, size: int, role: str, seconds: float, cores: list[int]) -> float:
    """That a message costs one of the two."""
    way = Nowhere(Spec(name, size))
    with Board.made(name) as board, Crew(way, board, cores, pin=False) as crew:
        if role == "producer":
            worker = crew.add(produce, range(1), False)
        else:
            worker = crew.add(consume, 0, False)
        crew.start()
        log = board.log(worker.seat)

        def done() -> int:
            if role == "producer":
                return (board.words[SEATS + worker.seat] - message.base(worker.seat)) // STEP
            return length(log)

        time.sleep(WARM_S)
        began, before = time.perf_counter(), done()
        passed, count = 0.0, 0
        while not count and passed < LONGER * seconds:
            time.sleep(seconds)
            passed, count = time.perf_counter() - began, done() - before
        if not count:
            raise RunError(f"the {role} did nothing")
        return passed / count
