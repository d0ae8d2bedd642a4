# SPDX-License-Identifier: Apache-2.0
"""membridge: its SpscRingBuffer."""

from contextlib import suppress
from typing import TYPE_CHECKING

from ..transport import OneByOne, Receive, Send, Shape

if TYPE_CHECKING:
    import membridge

HEADER, LENGTH = 24, 4  # bytes: header of the ring, length field of each message


class Spsc(OneByOne):
    library = "membridge"
    call = "SpscRingBuffer"
    package = "membridge"
    shape = Shape.LINK
    polls = True
    blocks = False
    prefix = "/"

    def create(self) -> None:
        import membridge

        data = 1 << (self.spec.depth * (self.spec.size + LENGTH) - 1).bit_length()
        for channel in range(self.spec.channels):
            membridge.SharedMemory.create(self.name(channel), data + HEADER).spsc()

    def remove(self) -> None:
        import membridge

        for channel in range(self.spec.channels):
            with suppress(OSError):
                membridge.SharedMemory.remove(self.name(channel))

    def _open(self, channel: int) -> "membridge.SpscRingBuffer":
        import membridge

        self._memory = membridge.SharedMemory.open(self.name(channel))
        return self._memory.spsc()

    def sender(self, channel: int) -> Send:
        return self._open(channel).push

    def receiver(self, channel: int, timeout: float) -> Receive:
        return self._open(channel).pop
