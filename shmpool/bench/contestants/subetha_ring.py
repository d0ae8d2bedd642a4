# SPDX-License-Identifier: Apache-2.0
"""subetha-ipc: its Ring. Messages that exceed a slot of 64 bytes are sent as frames."""

from collections.abc import Callable
from functools import partial
from typing import Any

from ..transport import Batch, InFolder, OneByOne, Receive, Send, UnsupportedError

SLOT = 64  # bytes


class Subetha(InFolder):
    library = "subetha-ipc"
    package = "subetha-ipc"
    module = "subetha"
    polls = True

    def _arguments(self, channel: int) -> tuple[str, int, int, int]:
        spec = self.spec
        slots = spec.depth if spec.size <= SLOT else spec.depth * (spec.size // 32)
        capacity = 1 << (slots - 1).bit_length()
        ends = (spec.producers + spec.replacements, spec.consumers + spec.replacements)
        return str(self.folder / str(channel)), capacity, *ends

    def create(self) -> None:
        super().create()
        self._kept = self.each(lambda channel: self.lib.Ring(*self._arguments(channel)))
        if self.spec.size > SLOT:
            self._check_size()

    def _check_size(self) -> None:
        """Sends one frame of that size through a separate ring."""
        ring = self.lib.Ring(*self._arguments(self.spec.channels))
        producer, consumer = ring.register_producer(), ring.register_consumer()
        try:
            ring.send_frame(producer, bytes(self.spec.size))
            ring.recv_frame(consumer)
        except OSError as error:
            raise UnsupportedError(f"a frame of {self.spec.size} bytes: {error}") from None

    def ring(self, channel: int) -> Any:
        return self.lib.Ring.open(*self._arguments(channel))


class SendRecv(Subetha, OneByOne):
    call = "Ring"
    blocks = False

    def sender(self, channel: int) -> Send:
        ring = self.ring(channel)
        send = ring.send if self.spec.size <= SLOT else ring.send_frame
        return partial(send, ring.register_producer())

    def receiver(self, channel: int, timeout: float) -> Receive:
        ring = self.ring(channel)
        receive = ring.recv if self.spec.size <= SLOT else ring.recv_frame
        return partial(receive, ring.register_consumer())


class SendRecvMany(Subetha, Batch):
    call = "Ring, many"

    def create(self) -> None:
        if self.spec.size > SLOT:
            raise UnsupportedError(f"send_many takes at most {SLOT} bytes a message")
        super().create()

    def sender_many(self, channel: int) -> Callable[[list[bytes]], int]:
        ring = self.ring(channel)
        return partial(ring.send_many, ring.register_producer())

    def receiver_many(self, channel: int) -> Callable[[], list[bytes]]:
        ring = self.ring(channel)
        return partial(ring.recv_many, ring.register_consumer(), self.batch)
