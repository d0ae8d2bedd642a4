# SPDX-License-Identifier: Apache-2.0
"""zeroq: a queue of fixed-size elements in shared memory."""

from functools import partial
from typing import TYPE_CHECKING

from ..way import OneByOne, Receive, Send

if TYPE_CHECKING:
    import zeroq


class ZeroQ(OneByOne):
    library = "zeroq"
    call = ""
    package = "zeroq"

    def _name(self, channel: int) -> str:
        return f"{self.spec.name}-{channel}"

    def create(self) -> None:
        import zeroq

        self._kept = [
            zeroq.Queue(self._name(channel), self.spec.size, self.spec.depth, True)
            for channel in range(self.spec.channels)
        ]

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "_kept"}

    def remove(self) -> None:
        for queue in getattr(self, "_kept", []):
            queue.close()

    def _open(self, channel: int) -> "zeroq.Queue":
        import zeroq

        self.full, self.empty = (zeroq.Full,), (zeroq.Empty,)
        return zeroq.Queue(self._name(channel), create=False)

    def sender(self, channel: int) -> Send:
        return self._open(channel).put

    def receiver(self, channel: int, timeout: float) -> Receive:
        return partial(self._open(channel).get, timeout)

    def poller(self, channel: int) -> Receive:
        return self._open(channel).get_nowait
