# SPDX-License-Identifier: Apache-2.0
"""The API of several processes against a model of plain lists, with kills as one of the rules.

The workers are forked children that make one call at a time, as requested through a pipe. So the
model knows exactly what each owns when it is killed, and where recovery must put it.
"""

import itertools
import mmap
import multiprocessing
import os
import signal
import struct
import threading
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import shmpool
from tests.fuzz_words import SHARED_OFFSET, layout

CAPACITY, ROOM, MOST, WORKERS = 256, 8, 2, 3  # MOST redeliveries of queue "requeue"
# By name: on_death, the dead-letter queue.
QUEUES = {
    "grave": ("free", None),
    "free": ("free", None),
    "single": ("free", None),  # one producer, one consumer
    "requeue": ("requeue", "grave"),
    "endless": ("requeue", None),
    "letter": ("dead-letter", "grave"),
}
_numbers = itertools.count()
names, some = st.sampled_from(list(QUEUES)), st.integers(0)
payloads = st.lists(st.binary(max_size=64), min_size=1, max_size=ROOM // 2)


def serve(pool: shmpool.Pool, pipe: Connection) -> None:
    """A worker: makes the requested calls, and answers with the result or the kind of exception."""
    held: dict[int, shmpool.Buffer] = {}
    while True:
        what, *args = pipe.recv()
        answer: Any = None
        queue = pool.queue(args[0]) if args and isinstance(args[0], str) else None
        try:
            match what, queue:
                case "alloc", None:
                    new = [pool.alloc(timeout=0) for _ in args[0]]
                    for buf, data in zip(new, args[0], strict=True):
                        buf.write(data)
                        held[buf.index] = buf
                    answer = [buf.index for buf in new]
                case "put", shmpool.AlfQueue():
                    queue.put(held[args[1]], timeout=0)
                    del held[args[1]]
                case "get", shmpool.AlfQueue():
                    buf = queue.get(timeout=0)
                    held[buf.index] = buf
                    answer = buf.index, bytes(buf), buf.redelivered
                case "nack", None:
                    held[args[0]].nack(timeout=0)
                    del held[args[0]]
                case "free", None:
                    held.pop(args[0]).free()
                case "send", shmpool.AlfQueue():
                    queue.send_many(args[1], timeout=0)
                case "put_many", shmpool.AlfQueue():
                    with pool.alloc_many(len(args[1]), timeout=0) as burst:
                        for buf, data in zip(burst, args[1], strict=True):
                            buf.write(data)
                        queue.put_many(burst, timeout=0)
                case "recv", shmpool.AlfQueue():
                    answer = queue.recv_many(args[1], timeout=0)
                case "move", shmpool.AlfQueue():
                    with queue.get_many(args[2], timeout=0) as burst:
                        pool.queue(args[1]).put_many(burst, timeout=0)
        except shmpool.ShmpoolError as error:
            answer = type(error)
        pipe.send(answer)


@dataclass
class Packet:
    data: bytes
    redelivered: int = 0
    origin: str | None = None  # the queue that its owner got it from


@dataclass
class Worker:
    pid: int
    pipe: Connection
    held: dict[int, Packet] = field(default_factory=dict)  # by the buffer's index


class RecoveryIsNotDue:
    """Until close(), members do not recover by themselves.

    The pool's shared word always says that another member has just asked which members are dead
    (native/recover_due.c). Pool.recover() ignores that word.
    """

    AHEAD_NS = 900_000_000  # less than the longest pause, REST_MOST_NS

    def __init__(self, name: str) -> None:
        with open(f"/dev/shm/shmpool.{name}", "r+b") as file:
            self._map = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        self._at = SHARED_OFFSET + layout().offsetof("struct pool_shared", "inquired")
        self._ended = threading.Event()
        self._say()
        self._thread = threading.Thread(target=self._go_on, daemon=True)
        self._thread.start()

    def _say(self) -> None:
        word = (time.clock_gettime_ns(time.CLOCK_REALTIME) + self.AHEAD_NS) & ~7
        struct.pack_into("=Q", self._map, self._at, word)

    def _go_on(self) -> None:
        while not self._ended.wait(0.05):
            self._say()

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        self._map.close()


class Kills(RuleBasedStateMachine):
    """dead: buffers of killed workers; left: recovered buffers that found no room in their queue.

    Both are by the buffer's index.
    """

    def __init__(self) -> None:
        super().__init__()
        name = f"test-{os.getpid()}-kills-{next(_numbers)}"
        # Caches, but never an empty pool: a member that finds no buffer may recover.
        self.pool = shmpool.Pool.create(
            name, buffer_size=64, capacity=CAPACITY, cache_size=16, bulk=16, queues=8, members=64
        )
        try:  # a pool that stayed open would fail the following examples and tests
            self.quiet = RecoveryIsNotDue(name)
            shmpool.Pool.unlink(name)
            for queue, (on_death, letter) in QUEUES.items():
                kind = "single" if queue == "single" else "multi"
                self.pool.create_queue(
                    queue,
                    capacity=ROOM,
                    producers=kind,
                    consumers=kind,
                    on_death=on_death,
                    dead_letter=letter,
                    max_redeliveries=MOST if letter else 0,
                )
            self.queued: dict[str, list[Packet]] = {queue: [] for queue in QUEUES}
            self.dead: dict[int, Packet] = {}
            self.left: dict[int, Packet] = {}
            self.roles: dict[str, int] = {}  # of queue "single": "put" and "get", by pid
            self.unrecovered: set[int] = set()  # pids
            self.workers = [self.fork() for _ in range(WORKERS)]
        except BaseException:
            self.pool.close()
            raise

    def fork(self) -> Worker:
        ours, its = multiprocessing.Pipe()
        pid = os.fork()
        if pid:
            its.close()
            return Worker(pid, ours)
        try:
            serve(self.pool, its)
        finally:
            os._exit(1)

    def ask(self, worker: Worker, *what: object) -> Any:
        worker.pipe.send(what)
        assert worker.pipe.poll(60), "it hangs"
        return worker.pipe.recv()

    def busy(self, side: str, queue: str, worker: Worker) -> bool:
        """True if another worker has the role of this side of the queue, as seen by this call."""
        if queue != "single":
            return False
        if self.unrecovered and self.roles.get(side, worker.pid) != worker.pid:
            self.recover()  # or the worker might, if the last attempt was long ago
        return self.roles.setdefault(side, worker.pid) != worker.pid

    # The rules.

    @rule(w=st.integers(0, WORKERS - 1), data=payloads)
    def alloc(self, w: int, data: list[bytes]) -> None:
        worker = self.workers[w]
        if len(worker.held) < 2 * ROOM:
            indices = self.ask(worker, "alloc", data)
            worker.held |= zip(indices, map(Packet, data), strict=True)

    @precondition(lambda self: any(worker.held for worker in self.workers))
    @rule(i=some, queue=names, free=st.booleans())
    def end(self, i: int, queue: str, free: bool) -> None:
        """Puts or frees a worker's buffer."""
        all_held = [(worker, index) for worker in self.workers for index in worker.held]
        worker, index = all_held[i % len(all_held)]
        if free:
            assert self.ask(worker, "free", index) is None
            del worker.held[index]
        elif self.busy("put", queue, worker):
            assert shmpool.QueueBusy is self.ask(worker, "put", queue, index)
        elif len(self.queued[queue]) == ROOM:
            assert shmpool.Full is self.ask(worker, "put", queue, index)
        else:
            assert self.ask(worker, "put", queue, index) is None
            self.queued[queue].append(worker.held.pop(index))

    @precondition(lambda self: any(worker.held for worker in self.workers))
    @rule(i=some)
    def nack(self, i: int) -> None:
        """Returns a worker's buffer to its queue."""
        all_held = [(worker, index) for worker in self.workers for index in worker.held]
        worker, index = all_held[i % len(all_held)]
        packet, answer = worker.held[index], None
        to = self.destination(packet, nacked=True)
        if packet.origin is None or packet.origin == "single":
            answer = shmpool.InvalidArgument
        elif len(self.queued[to or ""]) == ROOM:
            answer = shmpool.Full
        else:
            del worker.held[index]
            self.queued[to or ""].append(Packet(packet.data, packet.redelivered + 1))
        assert answer is self.ask(worker, "nack", index)

    @rule(w=st.integers(0, WORKERS - 1), queue=names, data=payloads, how=st.booleans())
    def send(self, w: int, queue: str, data: list[bytes], how: bool) -> None:
        worker, what = self.workers[w], "send" if how else "put_many"
        answer = None
        if self.busy("put", queue, worker):
            answer = shmpool.QueueBusy
        else:
            room = ROOM - len(self.queued[queue])
            fits = len(data) <= room
            answer = None if fits else shmpool.Full
            # send_many() sends as many as there is room for, put_many() all or none.
            self.queued[queue] += map(Packet, data if fits else data[:room] if how else [])
        assert answer is self.ask(worker, what, queue, data)

    @rule(w=st.integers(0, WORKERS - 1), queue=names, n=st.integers(1, ROOM))
    def get(self, w: int, queue: str, n: int) -> None:
        for _ in range(min(n, max(len(self.queued[queue]), 1))):
            answer = self.ask_get(w, queue, "get")
            if isinstance(answer, tuple):
                packet = self.queued[queue].pop(0)
                index, data, redelivered = answer
                assert (packet.data, packet.redelivered) == (data, redelivered)
                packet.origin = queue
                self.workers[w].held[index] = packet

    @rule(w=st.integers(0, WORKERS - 1), queue=names, full=st.booleans())
    def get_some_and_die(self, w: int, queue: str, full: bool) -> None:
        """Tests each policy. With full, there is no room to put anything back."""
        if not self.queued[queue]:
            self.send(w, queue, [b"first", b"second"], True)
        self.get(w, queue, 2)
        if full and len(self.queued[queue]) < ROOM:
            self.send(w, queue, [b"more"] * (ROOM - len(self.queued[queue])), False)
        self.kill(w, True)

    @rule(w=st.integers(0, WORKERS - 1), queue=names, n=st.integers(1, ROOM))
    def recv(self, w: int, queue: str, n: int) -> None:
        answer = self.ask_get(w, queue, "recv", n)
        if isinstance(answer, list):
            assert [packet.data for packet in self.queued[queue][:n]] == answer
            del self.queued[queue][:n]

    @rule(w=st.integers(0, WORKERS - 1), queue=names, to=names, n=st.integers(1, ROOM))
    def move(self, w: int, queue: str, to: str, n: int) -> None:
        """Forwards the buffers of a burst. If there is no room for them, they are freed."""
        worker = self.workers[w]
        if "single" in (queue, to):
            return
        moved = self.queued[queue][:n]
        answer = shmpool.Empty if not moved else None
        del self.queued[queue][:n]
        if len(self.queued[to]) + len(moved) > ROOM:
            answer = shmpool.Full
        else:
            self.queued[to] += moved
        assert answer is self.ask(worker, "move", queue, to, n)

    def ask_get(self, w: int, queue: str, *what: object) -> Any:
        worker = self.workers[w]
        expected = None
        if self.busy("get", queue, worker):
            expected = shmpool.QueueBusy
        elif not self.queued[queue]:
            expected = shmpool.Empty
        answer = self.ask(worker, what[0], queue, *what[1:])
        assert expected is None or expected is answer
        return answer

    @rule(w=st.integers(0, WORKERS - 1), at_once=st.booleans())
    def kill(self, w: int, at_once: bool) -> None:
        worker = self.workers[w]
        os.kill(worker.pid, signal.SIGKILL)
        os.waitpid(worker.pid, 0)
        worker.pipe.close()
        self.dead |= worker.held
        self.unrecovered.add(worker.pid)
        self.workers[w] = self.fork()
        if at_once:
            self.recover()

    @rule()
    def recover(self) -> None:
        """In the order of the buffers: each is freed, or goes to the end of a queue if there is
        room."""
        taken = requeued = letters = 0
        dead, self.dead = self.dead | self.left, {}
        self.left = {}
        for index, packet in sorted(dead.items()):
            to = self.destination(packet)
            if to and len(self.queued[to]) == ROOM:
                self.left[index] = packet
                continue
            taken += 1
            if to:
                requeued += to == packet.origin
                letters += to != packet.origin
                self.queued[to].append(Packet(packet.data, packet.redelivered + 1))
        done = self.pool.recover()
        assert (requeued, letters) == (done.requeued, done.dead_lettered)
        assert done.buffers >= taken  # and what dead members had cached
        assert bool(self.left) == bool(done.postponed)
        self.roles = {k: pid for k, pid in self.roles.items() if pid not in self.unrecovered}
        self.unrecovered.clear()

    def destination(self, packet: Packet, nacked: bool = False) -> str | None:
        if packet.origin is None:
            return None
        on_death, letter = QUEUES[packet.origin]
        if nacked and on_death == "free":
            return packet.origin
        if on_death == "requeue" and not (letter and packet.redelivered >= MOST):
            return packet.origin
        return None if on_death == "free" else letter

    # Invariants.

    @invariant()
    def the_audit_is_the_model(self) -> None:
        audit, members = self.pool.audit(), self.pool.members()
        assert audit.ok
        assert {name: len(packets) for name, packets in self.queued.items()} == audit.queued
        pids = {member.number: member.pid for member in members}
        held = {pids[number]: n for number, n in audit.held.items()}
        for worker in self.workers:
            assert len(worker.held) == held.pop(worker.pid, 0)
        assert set(held) <= self.unrecovered
        assert sum(held.values()) >= len(self.dead)  # and what they had cached
        if not self.unrecovered:
            assert {} == held

    def teardown(self) -> None:
        try:
            self.recover_all()
        finally:
            self.quiet.close()
            self.pool.close()

    def recover_all(self) -> None:
        """All workers are killed. Nothing is lost or duplicated."""
        for worker in self.workers:
            os.kill(worker.pid, signal.SIGKILL)
            os.waitpid(worker.pid, 0)
            worker.pipe.close()
            self.dead |= worker.held
            self.unrecovered.add(worker.pid)
        while (
            self.dead or self.left
        ):  # a buffer that finds no room, while there is some elsewhere, waits for it
            self.recover()
            for queue in QUEUES:
                packets = self.pool.queue(queue).recv_many(ROOM) if self.queued[queue] else []
                assert [packet.data for packet in self.queued[queue]] == packets
                self.queued[queue].clear()
        self.recover()
        audit = self.pool.audit()
        queued = sum(map(len, self.queued.values()))
        assert (True, {}, audit.total - queued) == (audit.ok, audit.held, audit.free + audit.cached)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_kills_in_any_order_of_calls() -> None:
    """Whatever several processes do, and whenever they are killed, the state equals the model's.

    That is: contents, order, redeliveries, exceptions and the audit.
    """
    bounds = settings(max_examples=15, stateful_step_count=40, deadline=None, database=None)
    run_state_machine_as_test(Kills, settings=bounds)
