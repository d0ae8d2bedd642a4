# SPDX-License-Identifier: Apache-2.0
"""One worker process of the storm: a forked child that produces, consumes or forwards.

It runs until it is stopped, its log is full, or it is killed.
"""

import contextlib
import ctypes
import gc
import os
import random
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import shmpool
from tests.storm_log import (
    COUNT,
    DOING,
    HEAD,
    MOVED,
    STAMP,
    STOP,
    TROUBLE,
    TROUBLE_BYTES,
    UNKNOWN,
    Doing,
    Kind,
    Packets,
    stamp_of,
)

PATIENCE_S = 0.01  # seconds of a call that waits; then something else is tried
WAITS = 0.05  # share of calls that wait: mostly in a system call, where a kill proves little
CHURNS = 0.5  # share of jobs that begin with a period of nothing but native code
NACKS = 0.2  # share of the buffers taken from a queue that they can return to
FAILED = 3  # exit status
PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


@dataclass(frozen=True)
class Role:
    """What a worker does: the queues that it puts into, gets from, and forwards between."""

    puts: tuple[int, ...] = ()
    gets: tuple[int, ...] = ()
    forwards: tuple[tuple[int, int], ...] = ()


class Worker:
    """The child's side. area is its part of the log."""

    def __init__(
        self,
        life: int,
        role: Role,
        pool: shmpool.Pool,
        queues: Sequence[shmpool.AlfQueue | shmpool.Topic],
        packets: Packets,
        area: "memoryview[int]",
        rng: random.Random,
    ) -> None:
        self.life, self.role, self.pool, self.queues = life, role, pool, queues
        self.packets, self.area, self.rng = packets, area, rng
        self.written = 0
        self.room = len(area) - HEAD - 100  # records that it may write before it ends
        self.sequence = [0] * len(queues)
        self.most = 32 if packets.size <= 2048 else 4

    def run(self) -> None:
        jobs: list[Callable[[], None]] = [lambda q=q: self.produce(q) for q in self.role.puts]
        jobs += [lambda q=q: self.consume(q) for q in self.role.gets]
        jobs += [lambda a=a, b=b: self.forward(a, b) for a, b in self.role.forwards]
        while not self.area[STOP] and self.written < self.room:
            if self.rng.random() < CHURNS:
                self.churn()
            try:
                self.rng.choice(jobs)()
            except (shmpool.PoolExhausted, shmpool.Empty, shmpool.Full):
                self.churn()
            except (shmpool.QueueBusy, shmpool.LimitReached):
                time.sleep(0.001)  # until its predecessor has been recovered
        self.doing(Doing.CLOSE)
        self.pool.close()

    def log(self, kind: Kind, queue: int, small: int = 0, stamp: int = 0) -> None:
        self.area[HEAD + self.written] = kind << 60 | queue << 56 | small << 48 | stamp
        self.written += 1
        self.area[COUNT] = self.written

    def doing(self, what: Doing, queue: int = 0) -> None:
        self.area[DOING] = what << 8 | queue

    def patience(self) -> float:
        return PATIENCE_S if self.rng.random() < WAITS else 0

    def few(self) -> int:
        return self.rng.randint(1, self.most)

    # Producing.

    def packet(self, queue: int, ahead: int = 0) -> bytearray:
        stamp = stamp_of(self.life, self.sequence[queue] + ahead)
        return self.packets.stamped(self.rng.randrange(64), queue, stamp)

    def publish(self, queue: int, n: int, kind: Kind, put: Callable[[], None]) -> bool:
        """Logs before and after a call that puts n packets. Returns False if not all of them were
        put."""
        self.log(kind, queue, n, stamp_of(self.life, self.sequence[queue]))
        sent = 0
        try:
            put()
            sent = n
        except (shmpool.Full, shmpool.PoolExhausted) as error:
            sent = error.sent
        except shmpool.QueueBusy:
            pass
        self.log(Kind.PUT, queue, sent)
        self.sequence[queue] += sent
        return sent == n

    def produce(self, queue: int) -> None:
        q, how = self.queues[queue], self.rng.randrange(5)
        if how == 0:
            packet = self.packet(queue)
            self.doing(Doing.SEND, queue)
            self.publish(queue, 1, Kind.PUTTING, lambda: q.send(packet, timeout=self.patience()))
        elif how == 1:
            many = [bytes(self.packet(queue, i)) for i in range(self.few())]
            self.doing(Doing.SEND_MANY, queue)
            self.publish(
                queue, len(many), Kind.PUTTING, lambda: q.send_many(many, timeout=self.patience())
            )
        elif how == 2:
            packet = self.packet(queue)
            self.doing(Doing.ALLOC)
            buf = self.pool.alloc(timeout=self.patience(), size=len(packet))
            self.doing(Doing.WRITE)
            buf.write(packet)
            self.doing(Doing.PUT, queue)
            if not self.publish(
                queue, 1, Kind.PUTTING, lambda: q.put(buf, timeout=self.patience())
            ):
                buf.free()
        elif how == 3:
            many = [bytes(self.packet(queue, i)) for i in range(self.few())]
            burst = self.burst_for(many)
            self.doing(Doing.WRITE)
            for buf, packet in zip(burst, many, strict=True):
                buf.write(packet)
            self.put_burst(burst, queue, Kind.PUTTING)
        else:
            self.churn()

    def burst_for(self, packets: list[bytes]) -> shmpool.Burst:
        """Allocates buffers of one size class for these packets, or each of the one that fits.

        A packet for which no buffer has room gets a chain."""
        self.doing(Doing.ALLOC_MANY)
        sizes = [len(packet) for packet in packets]
        apart = len(self.packets.rooms) > 1 and self.rng.random() < 0.5
        if apart or max(sizes) > self.packets.size:
            return self.pool.burst([self.pool.alloc(self.patience(), n) for n in sizes])
        return self.pool.alloc_many(len(sizes), self.patience(), max(sizes))

    def churn(self) -> None:
        """Keeps the rings of free buffers busy. Nearly all of this is native code."""
        for _ in range(self.rng.randrange(48)):
            self.doing(Doing.ALLOC_MANY)
            with contextlib.suppress(shmpool.PoolExhausted):
                size = self.rng.choice(self.packets.rooms)
                burst = self.pool.alloc_many(2 * self.most, timeout=0, size=size)
                self.doing(Doing.FREE_MANY)
                burst.free()

    def put_burst(self, burst: shmpool.Burst, queue: int, kind: Kind) -> None:
        q, n = self.queues[queue], len(burst)
        self.doing(Doing.PUT_MANY, queue)
        if not self.publish(queue, n, kind, lambda: q.put_many(burst, timeout=self.patience())):
            if kind == Kind.FORWARDING:
                self.log(Kind.FREEING, queue)
            self.doing(Doing.FREE_MANY)
            burst.free()
            if kind == Kind.FORWARDING:
                self.log(Kind.FREED, queue)

    # Consuming.

    def got(self, queue: int, packet: "bytes | shmpool.Buffer", redelivered: int) -> None:
        if isinstance(packet, bytes):
            stamp = self.packets.stamp_in(memoryview(packet), queue)
        else:
            stamp = self.packets.stamp_of(packet, queue)
        self.log(Kind.GOT, queue, redelivered, stamp)
        self.area[MOVED + queue] += 1

    def receive(self, queue: int) -> None:
        q, n = self.queues[queue], self.few() if self.rng.random() < 0.5 else 1
        self.doing(Doing.RECV if n == 1 else Doing.RECV_MANY, queue)
        self.log(Kind.RECEIVING, queue, n)
        packets: list[bytes] = []
        try:
            if n == 1:
                packets.append(q.recv(timeout=self.patience()))
            else:
                packets += q.recv_many(n, timeout=self.patience())
        finally:
            self.log(Kind.TOOK, queue, len(packets))
        self.doing(Doing.CHECK, queue)
        for packet in packets:
            self.got(queue, packet, UNKNOWN)

    def take(self, queue: int) -> shmpool.Burst | shmpool.Buffer:
        """Takes one buffer or a burst, logs it and checks it."""
        q, n = self.queues[queue], self.few() if self.rng.random() < 0.5 else 1
        self.doing(Doing.GET if n == 1 else Doing.GET_MANY, queue)
        self.log(Kind.TAKING, queue, n)
        taken: shmpool.Burst | shmpool.Buffer | None = None
        try:
            taken = (
                q.get(timeout=self.patience()) if n == 1 else q.get_many(n, timeout=self.patience())
            )
        finally:
            k = 0 if taken is None else len(taken) if n > 1 else 1
            self.log(Kind.TOOK, queue, k)
        self.doing(Doing.CHECK, queue)
        for buf in [taken] if isinstance(taken, shmpool.Buffer) else taken:
            self.got(queue, buf, min(buf.redelivered, UNKNOWN - 1))
        return taken

    def consume(self, queue: int) -> None:
        if self.rng.random() < 0.5:
            self.receive(queue)
            return
        taken = self.take(queue)
        goes_back = self.queues[queue].on_death != "free" and self.rng.random() < NACKS
        if goes_back and self.nack(queue, taken):
            return
        self.doing(Doing.FREE if isinstance(taken, shmpool.Buffer) else Doing.FREE_MANY, queue)
        self.log(Kind.FREEING, queue)
        taken.free()
        self.log(Kind.FREED, queue)

    def nack(self, queue: int, taken: shmpool.Burst | shmpool.Buffer) -> bool:
        """Returns it to its queue. Returns False if there was no room for all of it."""
        n = gone = 1 if isinstance(taken, shmpool.Buffer) else len(taken)
        self.doing(Doing.NACK, queue)
        self.log(Kind.NACKING, queue, n)
        try:
            taken.nack(timeout=self.patience())
        except shmpool.Full:
            gone = 0 if isinstance(taken, shmpool.Buffer) else sum(b.released for b in taken)
        self.log(Kind.NACKED, queue, gone)
        return gone == n

    def forward(self, queue: int, to: int) -> None:
        taken = self.take(queue)
        buffers = [taken] if isinstance(taken, shmpool.Buffer) else list(taken)
        self.doing(Doing.WRITE, queue)
        for i, buf in enumerate(buffers):
            with buf.segments[0] as head:
                STAMP.pack_into(head, to * STAMP.size, stamp_of(self.life, self.sequence[to] + i))
        if isinstance(taken, shmpool.Burst):
            buffers.clear()
            self.put_burst(taken, to, Kind.FORWARDING)
            return
        q = self.queues[to]
        self.doing(Doing.PUT, to)
        if not self.publish(to, 1, Kind.FORWARDING, lambda: q.put(taken, timeout=self.patience())):
            self.log(Kind.FREEING, queue)
            taken.free()
            self.log(Kind.FREED, queue)


def start(core: int, make: Callable[[], Worker], area: "memoryview[int]") -> int:
    """Forks a worker onto the core. Returns its pid."""
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    status = FAILED
    try:
        _libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if os.getppid() == parent:
            os.sched_setaffinity(0, {core})
            os.nice(5)  # so that the driver's kills arrive
            gc.disable()
            make().run()
            status = 0
    except BaseException:
        text = traceback.format_exc().encode()[-TROUBLE_BYTES:]
        with contextlib.suppress(ValueError):
            area[TROUBLE:HEAD].cast("B")[: len(text)] = text
    finally:
        os._exit(status)
