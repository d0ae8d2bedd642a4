# SPDX-License-Identifier: Apache-2.0
"""membridge: its SpscRingBuffer."""

from contextlib import suppress
from typing import Any

from ..transport import OneByOne, Receive, Send, Shape

HEADER, LENGTH = 24, 4  # bytes: header of the ring, length field of each message


class Spsc(OneByOne):
    library = "membridge"
    call = "SpscRingBuffer"
    package = module = "membridge"
    shape = Shape.LINK
    polls = True
    blocks = False
    prefix = "/"

    def create(self) -> None:
        data = 1 << (self.spec.depth * (self.spec.size + LENGTH) - 1).bit_length()
        for channel in range(self.spec.channels):
            self.lib.SharedMemory.create(self.name(channel), data + HEADER).spsc()

    def remove(self) -> None:
        for channel in range(self.spec.channels):
            with suppress(OSError):
                self.lib.SharedMemory.remove(self.name(channel))

    def _open(self, channel: int) -> Any:
        self._memory = self.lib.SharedMemory.open(self.name(channel))
        return self._memory.spsc()

    def sender(self, channel: int) -> Send:
        return self._open(channel).push

    def receiver(self, channel: int, timeout: float) -> Receive:
        return self._open(channel).pop
