# SPDX-License-Identifier: Apache-2.0
"""The contestants of clients.bench.topics.

Messages are written in place and read in place wherever the contestant allows it, and of a large
one only the numbers at its ends. So what is measured is not the bandwidth of the memory, except for
multiprocessing.Queue, which copies.
"""

import ctypes
import importlib
import mmap
import multiprocessing
import os
import shutil
import struct
from pathlib import Path
from queue import Empty
from typing import Any

import numpy as np

import shmpool

from .topic_contestant import Contestant, Publish, Receive

WAIT_S = 0.05  # longest wait of one receive
SMALL = 4096  # bytes of a message


class QueueEach(Contestant):
    """A multiprocessing.Queue for each subscriber, which pickles each message for each of them."""

    name, module, slow, copies = "multiprocessing", "multiprocessing", 8, True

    def create(self) -> None:
        context = multiprocessing.get_context("fork")
        self.queues = [context.Queue(self.spec.depth) for _ in range(self.spec.subscribers)]

    def remove(self) -> None:
        for queue in self.queues:
            queue.cancel_join_thread()
            queue.close()

    def publisher(self) -> Publish:
        put = [queue.put for queue in self.queues]
        body, pack = bytes(self.spec.size - 16), struct.Struct("<Q").pack

        def publish(start: int, stop: int) -> None:
            for n in range(start, stop):
                number = pack(n)
                message = number + body + number
                for put_one in put:
                    put_one(message)

        return publish

    def subscriber(self, index: int) -> Receive:
        get, numbers = self.queues[index].get, self.numbers

        def receive() -> tuple[Any, Any] | None:
            try:
                return numbers(get(True, WAIT_S))
            except Empty:
                return None

        return receive


class FlagRing(Contestant):
    """The ring of chunks that vLLM broadcasts with, in shape: no line of it is vLLM's.

    Each chunk has a flag that it is written, and for each reader one that this reader is done. The
    writer waits for the oldest chunk until it has the flags of all readers; everybody polls and
    yields the processor while it waits. There is one writer, and readers are there from the
    beginning. The order of stores is that of x86; elsewhere such a ring needs fences.
    """

    name, module, slow = "ring with flags", "mmap", 0.5

    def create(self) -> None:
        spec = self.spec
        self.row = 1 + spec.subscribers
        self.flags = mmap.mmap(-1, spec.depth * self.row)
        self.data = mmap.mmap(-1, spec.depth * spec.size)

    def remove(self) -> None:
        self.flags.close()
        self.data.close()

    def publisher(self) -> Publish:
        flags, row, data, number = self.flags, self.row, self.data, self.number
        depth, size, unread = self.spec.depth, self.spec.size, bytes(self.spec.subscribers)
        rest, give_way = size - 8, os.sched_yield

        def publish(start: int, stop: int) -> None:
            for n in range(start, stop):
                at = n % depth
                flag, place = at * row, at * size
                readers = slice(flag + 1, flag + row)
                while flags[flag] and 0 in flags[readers]:
                    give_way()
                flags[flag] = 0
                number(data, place, n)
                number(data, place + rest, n)
                flags[readers] = unread
                flags[flag] = 1

        return publish

    def subscriber(self, index: int) -> Receive:
        flags, row, data, numbers = self.flags, self.row, self.data, self.numbers
        depth, size, mine, n = self.spec.depth, self.spec.size, index + 1, 0
        give_way = os.sched_yield

        def receive() -> tuple[Any, Any]:
            nonlocal n
            at = n % depth
            flag = at * row
            while not flags[flag] or flags[flag + mine]:
                give_way()
            found = numbers(data, at * size)
            flags[flag + mine] = 1
            n += 1
            return found

        return receive


class Iceoryx2(Contestant):
    """iceoryx2: samples are loaned, written in place, sent, and read in place.

    Without overflow; the publisher retries until each subscriber has a message. Under load the
    library loses some all the same. Subscribers poll and yield the processor.
    """

    name = module = "iceoryx2"
    loses = True

    def create(self) -> None:
        self.opened: list[Any] = []
        self.folder = Path("/tmp") / self.spec.name  # noqa: S108

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        for path in Path("/dev/shm").glob(f"{self.spec.name}_*"):  # noqa: S108
            path.unlink(missing_ok=True)

    def node(self) -> Any:
        lib: Any = importlib.import_module(self.module)
        lib.set_log_level(lib.LogLevel.Fatal)
        config = lib.config.default()
        config.global_cfg.root_path = lib.Path.new(str(self.folder))
        config.global_cfg.prefix = lib.FileName.new(f"{self.spec.name}_")
        builder = lib.NodeBuilder.new().config(config)
        builder = builder.signal_handling_mode(lib.SignalHandlingMode.Disabled)
        return builder.create(lib.ServiceType.Ipc)

    def service(self) -> tuple[Any, Any]:
        lib: Any = importlib.import_module(self.module)
        spec, node = self.spec, self.node()
        service = (
            node.service_builder(lib.ServiceName.new("topic"))
            .publish_subscribe(lib.Slice[ctypes.c_uint8])
            .max_publishers(1)
            .max_subscribers(spec.subscribers)
            .max_nodes(spec.subscribers + 2)
            .subscriber_max_buffer_size(spec.depth)
            .enable_safe_overflow(False)
            .open_or_create()
        )
        self.opened += [node, service]
        return lib, service

    def message(self) -> Any:
        """The type of a message. An object of it at an address reads and writes in place."""
        body = ctypes.c_uint8 * (self.spec.size - 16)
        fields = [("first", ctypes.c_uint64), ("body", body), ("last", ctypes.c_uint64)]
        return type("Message", (ctypes.Structure,), {"_fields_": fields}).from_address  # type: ignore[attr-defined]

    def publisher(self) -> Publish:
        lib, service = self.service()
        publisher = (
            service.publisher_builder()
            .initial_max_slice_len(self.spec.size)
            .backpressure_strategy(lib.BackpressureStrategy.RetryUntilDelivered)
            .create()
        )
        self.opened.append(publisher)
        loan, size, place = publisher.loan_slice_uninit, self.spec.size, self.message()

        def publish(start: int, stop: int) -> None:
            for n in range(start, stop):
                sample = loan(size)
                message = place(sample.payload_ptr)
                message.first = message.last = n
                sample.assume_init().send()

        return publish

    def subscriber(self, index: int) -> Receive:
        _, service = self.service()
        subscriber = service.subscriber_builder().buffer_size(self.spec.depth).create()
        self.opened.append(subscriber)
        receive_one, place, give_way = subscriber.receive, self.message(), os.sched_yield

        def receive() -> tuple[Any, Any] | None:
            sample = receive_one()
            if sample is None:
                give_way()
                return None
            message = place(sample.payload_ptr)
            return message.first, message.last

        return receive

    def clean_up(self) -> None:
        self.node().try_cleanup_dead_nodes()


class Kickmsg(Contestant):
    """kickmsg: slots written in place and viewed in place. A publisher does not wait: what a slow
    subscriber has not read is overwritten, and that subscriber has lost it."""

    name = module = "kickmsg"
    loses = True

    def create(self) -> None:
        spec, lib = self.spec, self.library()
        config = lib.Config()
        config.max_subscribers = spec.subscribers
        config.sub_ring_capacity = spec.depth
        config.pool_size = 2 * spec.depth * spec.subscribers
        config.max_payload_size = spec.size
        self.region = lib.SharedRegion.create(f"/{spec.name}", lib.ChannelType.PubSub, config)

    def remove(self) -> None:
        self.library().unlink_shm(f"/{self.spec.name}")

    def library(self) -> Any:
        return importlib.import_module(self.module)

    def open(self) -> Any:
        self.opened = self.library().SharedRegion.open(f"/{self.spec.name}")
        return self.opened

    def publisher(self) -> Publish:
        allocate, size = self.library().Publisher(self.open()).allocate, self.spec.size
        number, rest = self.number, self.spec.size - 8

        def publish(start: int, stop: int) -> None:
            for n in range(start, stop):
                while (slot := allocate()) is None:
                    os.sched_yield()
                place = memoryview(slot)
                number(place, 0, n)
                number(place, rest, n)
                slot.publish(size)

        return publish

    def subscriber(self, index: int) -> Receive:
        subscriber = self.library().Subscriber(self.open())
        receive_view, numbers = subscriber.receive_view, self.numbers

        def receive() -> tuple[Any, Any] | None:
            view = receive_view(WAIT_S)
            return None if view is None else numbers(view)

        return receive


class Ours(Contestant):
    """shmpool, one buffer at a time. Each subscriber blocks the publisher when it is behind."""

    name = module = "shmpool"
    slow = 0.4

    def create(self) -> None:
        spec, burst = self.spec, self.burst
        each = 1024 if spec.size <= SMALL else 2 * burst  # what a process may keep, to have it soon
        capacity = 1 << (spec.depth + (spec.subscribers + 1) * each).bit_length()
        self.pool = shmpool.Pool.create(
            spec.name,
            buffer_size=spec.size,
            capacity=capacity,
            prealloc=capacity if spec.size <= SMALL else 0,
            unlink_on_close=True,
        )
        self.topic = self.pool.create_topic("topic", depth=spec.depth)

    def remove(self) -> None:
        self.pool.close()

    @property
    def burst(self) -> int:
        """Buffers that are published at once, and got at once."""
        return min(self.spec.depth, 256)

    def publisher(self) -> Publish:
        alloc, publish_one, number = self.pool.alloc, self.topic.publish, self.number
        size, rest = self.spec.size, self.spec.size - 8

        def publish(start: int, stop: int) -> None:
            for n in range(start, stop):
                buf = alloc()
                buf.length = size
                number(buf, 0, n)
                number(buf, rest, n)
                publish_one(buf)

        return publish

    def subscriber(self, index: int) -> Receive:
        self.subscription = self.topic.subscribe(policy="block")
        get, numbers = self.subscription.get, self.numbers

        def receive() -> tuple[Any, Any] | None:
            return numbers(get())

        return receive


class OurBursts(Ours):
    """shmpool, a burst at a time, with its fields as columns."""

    name = "shmpool bursts"
    many = True
    slow = 0.1

    def publisher(self) -> Publish:
        alloc_many, publish_many, most = self.pool.alloc_many, self.topic.publish, self.burst
        size, rest = self.spec.size, self.spec.size - 8

        def publish(start: int, stop: int) -> None:
            for first in range(start, stop, most):
                numbers = np.arange(first, min(first + most, stop), dtype=np.uint64)
                burst = alloc_many(len(numbers))
                burst.set_column(0, numbers)
                burst.set_column(rest, numbers)
                burst.lengths = size
                publish_many(burst)

        return publish

    def subscriber(self, index: int) -> Receive:
        self.subscription = self.topic.subscribe(policy="block")
        get_many, most, words = self.subscription.get_many, self.burst, self.spec.size // 8
        numbers, small = self.numbers, self.spec.size <= SMALL

        def receive() -> tuple[Any, Any] | None:
            samples = get_many(most)
            if small:
                found = np.frombuffer(b"".join(samples), np.uint64).reshape(-1, words)
                return found[:, 0], found[:, -1]
            firsts, lasts = zip(*map(numbers, samples), strict=True)
            return firsts, lasts

        return receive


CONTESTANTS: tuple[type[Contestant], ...] = (
    OurBursts,
    Ours,
    Iceoryx2,
    Kickmsg,
    FlagRing,
    QueueEach,
)
