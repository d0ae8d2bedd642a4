# SPDX-License-Identifier: Apache-2.0
"""cloudtoid-interprocess: byte queues in files. Sends never block; receives may."""

from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Any

from ..transport import Batch, InFolder, OneByOne, Receive, Send

HEADER = 24  # bytes: what the library stores beside a message, with padding


class Cloudtoid(InFolder):
    library = "cloudtoid-interprocess"
    package = "cloudtoid-interprocess"
    module = "cloudtoid_interprocess"

    def create(self) -> None:
        """The queues exist as long as the parent has them open."""
        super().create()
        self._kept = self.each(self.publisher)

    def remove(self) -> None:
        for publisher in self._kept:
            publisher.close()
        super().remove()

    def _arguments(self, channel: int) -> tuple[str, int, str]:
        capacity = self.spec.depth * (self.spec.size + HEADER) // 8 * 8
        return self.name(channel), capacity, str(self.folder)

    def publisher(self, channel: int) -> Any:
        return self.lib.Publisher(*self._arguments(channel))

    def subscriber(self, channel: int) -> Any:
        return self.lib.Subscriber(*self._arguments(channel))


class TrySendReceive(Cloudtoid, OneByOne):
    call = "try_send, receive"

    def sender(self, channel: int) -> Send:
        return self.publisher(channel).try_send

    def receiver(self, channel: int, timeout: float) -> Receive:
        return partial(self.subscriber(channel).receive, timeout)

    def poller(self, channel: int) -> Receive:
        return self.subscriber(channel).try_receive


class TrySendBatch(Cloudtoid, Batch):
    call = "try_send_batch"
    polls = True

    def sender_many(self, channel: int) -> Callable[[list[bytes]], int]:
        return self.publisher(channel).try_send_batch

    def receiver_many(self, channel: int) -> Callable[[], list[bytes]]:
        try_receive, n = self.subscriber(channel).try_receive, self.batch
        return lambda: list(islice(iter(try_receive, None), n))
