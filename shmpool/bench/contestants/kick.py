# SPDX-License-Identifier: Apache-2.0
"""kickmsg: publish and subscribe. A subscriber that is too slow loses messages by design."""

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

from ..transport import InPlace, OneByOne, Receive, Send, Shape, Spec, Transport


class Kickmsg(Transport):
    library = "kickmsg"
    package = module = "kickmsg"
    shape = Shape.TOPIC
    prefix = "/"

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.full = (BlockingIOError,)
        self._opened: list[Any] = []

    def create(self) -> None:
        spec, lib, config = self.spec, self.lib, self.lib.Config()
        config.max_subscribers = spec.consumers + spec.replacements
        config.sub_ring_capacity = spec.depth
        config.pool_size = 2 * spec.depth * spec.consumers
        config.max_payload_size = spec.size
        create, kind = lib.SharedRegion.create, lib.ChannelType.PubSub
        self._kept = self.each(lambda channel: create(self.name(channel), kind, config))

    def remove(self) -> None:
        for channel in range(self.spec.channels):
            self.lib.unlink_shm(self.name(channel))

    def recover(self) -> None:
        """The repairs that are allowed while others send."""
        for region in self._kept:
            region.repair_locked_entries()
            region.reset_retired_rings()

    def leaked(self) -> int:
        for region in self._kept:
            region.reclaim_orphaned_slots()
        stats = [region.stats() for region in self._kept]
        return sum(s.pool_size - s.pool_free for s in stats)

    def _open(self, channel: int) -> Any:
        region = self.lib.SharedRegion.open(self.name(channel))
        self._opened.append(region)  # publishers and subscribers do not keep it open
        return region

    def publisher(self, channel: int) -> Any:
        return self.lib.Publisher(self._open(channel))

    def subscriber(self, channel: int) -> Any:
        return self.lib.Subscriber(self._open(channel))


class SendReceive(Kickmsg, OneByOne):
    call = "send, receive"

    def sender(self, channel: int) -> Send:
        return self.publisher(channel).send

    def receiver(self, channel: int, timeout: float) -> Receive:
        return partial(self.subscriber(channel).receive, timedelta(seconds=timeout))

    def poller(self, channel: int) -> Receive:
        return self.subscriber(channel).try_receive


class AllocateView(Kickmsg, InPlace):
    call = "allocate, view"

    def writer(self, channel: int) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
        size = self.spec.size

        return self.publisher(channel).allocate, lambda slot: slot.publish(size)

    def receiver(self, channel: int, timeout: float) -> Receive:
        return partial(self.subscriber(channel).receive_view, timedelta(seconds=timeout))

    def poller(self, channel: int) -> Receive:
        return self.subscriber(channel).try_receive_view
