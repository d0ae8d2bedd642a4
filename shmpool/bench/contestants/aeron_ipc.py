# SPDX-License-Identifier: Apache-2.0
"""pyaeron: Aeron over aeron:ipc, an exclusive publication for each channel; the media driver is the
embedded one, in the parent. A poll takes up to 10 fragments, which are copied in its handler.
"""

from collections import deque
from functools import partial
from typing import Any

from ..transport import InFolder, OneByOne, Receive, Send, Shape

TERM_MIN = 64 << 10  # bytes of a term buffer, at least
MESSAGES = 8  # a term buffer must hold so many messages of the largest size
FRAME = 32  # bytes: header of a fragment, and its alignment
CONNECTED_S = 10.0
FRAGMENTS = 10  # of a poll


class Aeron(InFolder, OneByOne):
    """A publication waits for the slowest subscription, so that nothing is lost."""

    library = "pyaeron"
    call = "offer, poll"
    package = module = "pyaeron"
    install = "shmpool[bench] on CPython 3.12 or newer"
    shape = Shape.TOPIC
    polls = True
    blocks = False

    def create(self) -> None:
        super().create()
        self._directory = str(self.folder / "driver")
        self._kept = [self.lib.MediaDriver(dir=self._directory)]

    def remove(self) -> None:
        for driver in self._kept:
            driver.close()
        self._kept = []
        super().remove()

    @property
    def _channel(self) -> str:
        """The URI. A publication may be half a term buffer ahead of its subscriptions."""
        spec = self.spec
        least = max(TERM_MIN, 2 * spec.depth * (spec.size + 2 * FRAME), MESSAGES * spec.size)
        return f"aeron:ipc?term-length={1 << (least - 1).bit_length()}"

    def _client(self) -> Any:
        client = self.lib.Aeron(dir=self._directory)
        self._kept = [*self._kept, client]
        return client

    def close(self) -> None:
        for one in reversed(self._kept):
            one.close()

    def sender(self, channel: int) -> Send:
        publication = self._client().add_exclusive_publication(self._channel, channel + 1)
        self._kept = [*self._kept, publication]
        offer = publication.offer
        return lambda packet: offer(packet) is True

    def receiver(self, channel: int, timeout: float) -> Receive:
        subscription = self._client().add_subscription(self._channel, channel + 1)
        self._kept = [*self._kept, subscription]
        arrived: deque[bytes] = deque()
        keep, take = arrived.append, arrived.popleft
        poll = partial(subscription.poll, lambda view, header: keep(view.tobytes()), FRAGMENTS)

        def receive() -> bytes | None:
            while not arrived:  # the fragments of a large message may need several polls
                if not poll():
                    return None
            return take()

        return receive
