# SPDX-License-Identifier: Apache-2.0
"""zeroq: a queue of fixed-size elements in shared memory."""

from functools import partial
from typing import TYPE_CHECKING

from ..transport import OneByOne, Receive, Send

if TYPE_CHECKING:
    import zeroq


class ZeroQ(OneByOne):
    library = "zeroq"
    package = "zeroq"

    def create(self) -> None:
        import zeroq

        self._kept = [
            zeroq.Queue(self.name(channel), self.spec.size, self.spec.depth, True)
            for channel in range(self.spec.channels)
        ]

    def remove(self) -> None:
        for queue in self._kept:
            queue.close()

    def _open(self, channel: int) -> "zeroq.Queue":
        import zeroq

        self.full, self.empty = (zeroq.Full,), (zeroq.Empty,)
        return zeroq.Queue(self.name(channel), create=False)

    def sender(self, channel: int) -> Send:
        return self._open(channel).put

    def receiver(self, channel: int, timeout: float) -> Receive:
        return partial(self._open(channel).get, timeout)

    def poller(self, channel: int) -> Receive:
        return self._open(channel).get_nowait
