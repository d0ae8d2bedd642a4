# SPDX-License-Identifier: Apache-2.0
"""Other libraries, each through the best of its documented calls. Imported when they are used."""

import os
import shutil
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from .messages import SIZE
from .way import DEPTH, PATIENCE, CallPingPong, Receive, Send, Stream, Way

if TYPE_CHECKING:
    import cloudtoid_interprocess
    import subetha

BATCH = 256


class InFolder(Way):
    """A library that keeps its files in a folder."""

    @property
    def folder(self) -> Path:
        return Path("/dev/shm") / self.name  # noqa: S108

    def create(self) -> None:
        self.folder.mkdir()

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


class Cloudtoid(InFolder):
    contestant = "cloudtoid"
    package = "cloudtoid-interprocess"
    queues = 1
    capacity = DEPTH * (SIZE + 16)  # bytes, with a header for each

    def create(self) -> None:
        super().create()  # the parent's ends keep the queues alive
        self.kept = [self.publisher(number) for number in range(self.queues)]

    def remove(self) -> None:
        for publisher in getattr(self, "kept", []):
            publisher.close()
        super().remove()

    def publisher(self, number: int = 0) -> "cloudtoid_interprocess.Publisher":
        from cloudtoid_interprocess import Publisher

        return Publisher(f"{self.name}-{number}", self.capacity, self.folder)

    def subscriber(self, number: int = 0) -> "cloudtoid_interprocess.Subscriber":
        from cloudtoid_interprocess import Subscriber

        return Subscriber(f"{self.name}-{number}", self.capacity, self.folder)


class CloudtoidStream(Cloudtoid, Stream):
    def sender(self, number: int) -> Send:
        try_send, wait = self.publisher().try_send, os.sched_yield

        def send_all(messages: list[bytes]) -> None:
            for message in messages:
                while not try_send(message):
                    wait()

        return send_all

    def receiver(self, number: int) -> Receive:
        try_receive, wait = self.subscriber().try_receive, os.sched_yield

        def receive_all(done: Callable[[], bool]) -> list[bytes]:
            received: list[bytes] = []
            append = received.append
            while True:
                ending = done()
                while (message := try_receive()) is not None:
                    append(message)
                if ending:
                    return received
                wait()

        return receive_all


class CloudtoidPolling(Cloudtoid, CallPingPong):
    queues = 2
    polling = True

    def ends(self, me: int) -> tuple[Callable[[bytes], object], Callable[[], bytes | None]]:
        return self.publisher(me).try_send, self.subscriber(1 - me).try_receive


class CloudtoidBlocking(Cloudtoid, CallPingPong):
    queues = 2
    polling = False

    def ends(self, me: int) -> tuple[Callable[[bytes], object], Callable[[], bytes | None]]:
        return self.publisher(me).try_send, partial(self.subscriber(1 - me).receive, PATIENCE)


class Subetha(InFolder):
    """Its Ring: the Channel, which can wait, takes at most 52 bytes."""

    contestant = "subetha"
    package = "subetha-ipc"
    queues = 1
    ends_each = 2

    def create(self) -> None:
        import subetha

        super().create()
        self.kept = [
            subetha.Ring(str(self.folder / str(number)), DEPTH, self.ends_each, self.ends_each)
            for number in range(self.queues)
        ]

    def ring(self, number: int = 0) -> "subetha.Ring":
        import subetha

        path = str(self.folder / str(number))
        return subetha.Ring.open(path, DEPTH, self.ends_each, self.ends_each)


class SubethaStream(Subetha, Stream):
    def sender(self, number: int) -> Send:
        ring, wait = self.ring(), os.sched_yield
        send, me = ring.send, ring.register_producer()

        def send_all(messages: list[bytes]) -> None:
            for message in messages:
                while not send(me, message):
                    wait()

        return send_all

    def receiver(self, number: int) -> Receive:
        ring, wait = self.ring(), os.sched_yield
        recv, me = ring.recv, ring.register_consumer()

        def receive_all(done: Callable[[], bool]) -> list[bytes]:
            received: list[bytes] = []
            append = received.append
            while True:
                ending = done()
                while (message := recv(me)) is not None:
                    append(message)
                if ending:
                    return received
                wait()

        return receive_all


class SubethaStreamMany(Subetha, Stream):
    def sender(self, number: int) -> Send:
        ring, wait = self.ring(), os.sched_yield
        send_many, me = ring.send_many, ring.register_producer()

        def send_all(messages: list[bytes]) -> None:
            for at in range(0, len(messages), BATCH):
                batch = messages[at : at + BATCH]
                while (sent := send_many(me, batch)) < len(batch):
                    batch = batch[sent:]
                    wait()

        return send_all

    def receiver(self, number: int) -> Receive:
        ring, wait = self.ring(), os.sched_yield
        recv_many, me = ring.recv_many, ring.register_consumer()

        def receive_all(done: Callable[[], bool]) -> list[bytes]:
            received: list[bytes] = []
            while True:
                ending = done()
                while batch := recv_many(me, BATCH):
                    received += batch
                if ending:
                    return received
                wait()

        return receive_all


class SubethaPolling(Subetha, CallPingPong):
    queues = 2
    ends_each = 1
    polling = True

    def ends(self, me: int) -> tuple[Callable[[bytes], object], Callable[[], bytes | None]]:
        there, here = self.ring(me), self.ring(1 - me)
        producer, consumer = there.register_producer(), here.register_consumer()
        return partial(there.send, producer), partial(here.recv, consumer)


class KickmsgBlocking(CallPingPong):
    contestant = "kickmsg"
    package = "kickmsg"
    polling = False

    def region(self, number: int) -> str:
        return f"/{self.name}-{number}"

    def create(self) -> None:
        import kickmsg

        config = kickmsg.Config()
        config.max_subscribers = 1
        config.sub_ring_capacity = 64
        config.pool_size = 256
        config.max_payload_size = SIZE
        self.kept = [
            kickmsg.SharedRegion.create(self.region(n), kickmsg.ChannelType.PubSub, config)
            for n in range(2)
        ]

    def remove(self) -> None:
        import kickmsg

        for number in range(2):
            kickmsg.unlink_shm(self.region(number))

    def ends(self, me: int) -> tuple[Callable[[bytes], object], Callable[[], bytes | None]]:
        import kickmsg

        self.opened: list[kickmsg.SharedRegion] = [
            kickmsg.SharedRegion.open(self.region(number)) for number in (me, 1 - me)
        ]
        publisher = kickmsg.Publisher(self.opened[0])
        subscriber = kickmsg.Subscriber(self.opened[1])
        receive = cast("Callable[[timedelta], bytes | None]", subscriber.receive)
        return publisher.send, partial(receive, timedelta(seconds=PATIENCE))
