# SPDX-License-Identifier: Apache-2.0
"""shmpool's ways: bursts, one Buffer at a time, send and recv, many of them at once, ping-pong."""

from collections.abc import Callable
from contextlib import suppress

import numpy as np

import shmpool

from .messages import SIZE
from .way import DEPTH, PATIENCE, Echo, Ping, PingPong, Receive, Send, Stream, Way, clock

BURST = 256
IDLE = 0.05  # seconds after which a receiver asks whether the producers are done
PACKET = np.dtype([("number", "<u8"), ("body", "V48"), ("last", "<u8")])


class Ours(Way):
    contestant = "shmpool"
    package = "shmpool"
    queues = 1
    depth = DEPTH

    def create(self) -> None:
        self.pool = shmpool.Pool.create(self.name, buffer_size=SIZE, capacity=16384, prealloc=2304)
        for number in range(self.queues):
            self.pool.create_queue(str(number), capacity=self.depth)

    def remove(self) -> None:
        """All buffers must have come home."""
        with suppress(shmpool.PoolNotFound):
            shmpool.Pool.unlink(self.name)
        if hasattr(self, "pool"):
            audit = self.pool.audit()
            self.pool.close()
            if not audit.ok or audit.queued.get("0"):
                raise RuntimeError(f"buffers are missing: {audit}")

    def attach(self) -> None:
        self.pool = shmpool.Pool.attach(self.name)

    def queue(self, number: int = 0) -> shmpool.AlfQueue:
        return self.pool.queue(str(number))


class SendRecv(Ours, Stream):
    """send and recv, which wait by themselves."""

    def sender(self, number: int) -> Send:
        self.attach()
        send = self.queue().send

        def send_all(messages: list[bytes]) -> None:
            for message in messages:
                send(message)

        return send_all

    def receiver(self, number: int) -> Receive:
        self.attach()
        recv = self.queue().recv

        def receive_all(done: Callable[[], bool]) -> list[bytes]:
            received: list[bytes] = []
            append = received.append
            while True:
                try:
                    while True:
                        append(recv(IDLE))
                except shmpool.Empty:
                    if done():
                        return received

        return receive_all


class SendRecvMany(Ours, Stream):
    """send_many and recv_many, 256 at once."""

    def sender(self, number: int) -> Send:
        self.attach()
        send_many = self.queue().send_many

        def send_all(messages: list[bytes]) -> None:
            for at in range(0, len(messages), BURST):
                send_many(messages[at : at + BURST])

        return send_all

    def receiver(self, number: int) -> Receive:
        self.attach()
        recv_many = self.queue().recv_many

        def receive_all(done: Callable[[], bool]) -> list[bytes]:
            received: list[bytes] = []
            while True:
                try:
                    while True:
                        received += recv_many(BURST, IDLE)
                except shmpool.Empty:
                    if done():
                        return received

        return receive_all


class Buffers(Ours, Stream):
    """One Buffer at a time: alloc, write, put; get, read, free."""

    def sender(self, number: int) -> Send:
        self.attach()
        alloc, put = self.pool.alloc, self.queue().put

        def send_all(messages: list[bytes]) -> None:
            for message in messages:
                buffer = alloc()
                buffer.write(message)
                put(buffer)

        return send_all

    def receiver(self, number: int) -> Receive:
        self.attach()
        get = self.queue().get

        def receive_all(done: Callable[[], bool]) -> list[bytes]:
            received: list[bytes] = []
            append = received.append
            while True:
                try:
                    while True:
                        buffer = get(IDLE)
                        append(bytes(buffer))
                        buffer.free()
                except shmpool.Empty:
                    if done():
                        return received

        return receive_all


class Bursts(Ours):
    """Bursts of 256 packets, written and read as columns of 64 bytes."""

    depth = 4096

    def producer(self) -> Callable[[int], None]:
        self.attach()
        alloc_many, put_many = self.pool.alloc_many, self.queue().put_many
        packets = _first_packets()
        number, last = packets["number"], packets["last"]

        def produce(bursts: int) -> None:
            nonlocal number, last
            for _ in range(bursts):
                burst = alloc_many(BURST)
                burst.set_column(0, packets)
                burst.lengths = SIZE
                put_many(burst)
                number += BURST
                last -= BURST

        return produce

    def consumer(self) -> Callable[[Callable[[], bool]], tuple[int, int, int]]:
        """Gives how many packets came, how many not in their turn, how many damaged."""
        self.attach()
        get_many = self.queue().get_many
        expected = _first_packets()
        number, last = expected["number"], expected["last"]
        sizes = np.full(BURST, SIZE, np.uint32).tobytes()

        def consume(done: Callable[[], bool]) -> tuple[int, int, int]:
            nonlocal number, last
            got = strange = damaged = 0
            while True:
                try:
                    while True:
                        with get_many(BURST, IDLE) as burst:
                            packets, lengths = burst.column(0, PACKET), burst.lengths
                        n = len(packets)
                        if packets.tobytes() != expected[:n].tobytes():  # every byte
                            strange += int((packets["number"] != number[:n]).sum())
                            damaged += int((packets["last"] != ~packets["number"]).sum())
                            damaged += int((packets["body"] != expected["body"][:n]).sum())
                        damaged += lengths.tobytes() != sizes[: 4 * n]
                        got += n
                        number += n
                        last -= n
                except shmpool.Empty:
                    if done():
                        return got, strange, damaged

        return consume


def _first_packets() -> "np.ndarray[tuple[int], np.dtype[np.void]]":
    packets = np.zeros(BURST, PACKET)
    packets["body"] = np.random.default_rng(1).bytes(48)
    packets["number"] = np.arange(BURST)
    packets["last"] = ~packets["number"]
    return packets


class Blocking(Ours, PingPong):
    """send and recv, sleeping in the kernel when there is nothing."""

    queues = 2

    def pinger(self) -> Ping:
        self.attach()
        send, recv = self.queue(0).send, self.queue(1).recv

        def ping(messages: list[bytes]) -> tuple[list[int], list[bytes]]:
            times: list[int] = []
            back: list[bytes] = []
            before = clock()
            with suppress(shmpool.Empty):
                for message in messages:
                    send(message)
                    back.append(recv(PATIENCE))
                    now = clock()
                    times.append(now - before)
                    before = now
            return times, back

        return ping

    def echoer(self) -> Echo:
        self.attach()
        send, recv = self.queue(1).send, self.queue(0).recv

        def echo(count: int) -> None:
            with suppress(shmpool.Empty):
                for _ in range(count):
                    send(recv(PATIENCE))

        return echo


class Polling(Ours, PingPong):
    """empty() until there is something, then recv: no exception for an empty queue."""

    queues = 2

    def pinger(self) -> Ping:
        self.attach()
        there, here = self.queue(0), self.queue(1)
        send, recv, empty = there.send, here.recv, here.empty

        def ping(messages: list[bytes]) -> tuple[list[int], list[bytes]]:
            times: list[int] = []
            back: list[bytes] = []
            before = clock()
            for message in messages:
                send(message)
                while empty():
                    pass
                back.append(recv())
                now = clock()
                times.append(now - before)
                before = now
            return times, back

        return ping

    def echoer(self) -> Echo:
        self.attach()
        there, here = self.queue(1), self.queue(0)
        send, recv, empty = there.send, here.recv, here.empty

        def echo(count: int) -> None:
            for _ in range(count):
                while empty():
                    pass
                send(recv())

        return echo
