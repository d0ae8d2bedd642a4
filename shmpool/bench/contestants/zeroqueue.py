# SPDX-License-Identifier: Apache-2.0
"""zeroq: a queue of fixed-size elements in shared memory."""

from functools import partial
from typing import Any

from ..transport import OneByOne, Receive, Send


class ZeroQ(OneByOne):
    library = "zeroq"
    package = module = "zeroq"

    def create(self) -> None:
        size, depth = self.spec.size, self.spec.depth
        self._kept = self.each(lambda c: self.lib.Queue(self.name(c), size, depth, True))

    def remove(self) -> None:
        for queue in self._kept:
            queue.close()

    def _open(self, channel: int) -> Any:
        self.full, self.empty = (self.lib.Full,), (self.lib.Empty,)
        return self.lib.Queue(self.name(channel), create=False)

    def sender(self, channel: int) -> Send:
        return self._open(channel).put

    def receiver(self, channel: int, timeout: float) -> Receive:
        return partial(self._open(channel).get, timeout)

    def poller(self, channel: int) -> Receive:
        return self._open(channel).get_nowait
