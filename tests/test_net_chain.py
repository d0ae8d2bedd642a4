# SPDX-License-Identifier: Apache-2.0
"""The whole chain: an interface, workers with flow tables that are killed at random, and every
packet counted."""

import contextlib
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import MakePool
from network_spaces import Space, made

import shmpool
from shmpool.net import PacketSink, PacketSource
from shmpool.view import View

ROOT = Path(__file__).resolve().parent.parent
WORKERS = 4
SECONDS = int(os.environ.get("CHAIN_SECONDS", "0"))  # of the soak, with a kill in each
RATE = 20_000  # packets/s then
PACKETS = SECONDS * RATE or 60_000
KILLS = SECONDS or 12
AHEAD = 2  # kills that the sender may be ahead of
PORTS = 64  # flows
HEADERS = bytes.fromhex(
    "0200000000630200000000010800"  # Ethernet
    "4500002e0000000040110000c0000201c6336401"  # IPv4
    "00000009001a0000"  # UDP
)
NUMBER = 42  # offset of a packet's number: behind Ethernet, IPv4 and UDP
WORKER = """
import pickle, shmpool, sys
from clients.flows import FlowTable
pool = shmpool.Pool.attach(sys.argv[1])
work, done, tables = (pool.queue(name) for name in (sys.argv[2], "done", "tables"))
number, table, held = int(sys.argv[3]), FlowTable(), None  # a burst is held until the next comes
ended = False
while not ended:
    burst = None
    try:
        burst = work.get_many(64, timeout=None if held is None else 0.05)
        table.add(burst.headers(), burst.timestamps)
        burst.flow_hashes = number
        burst.marks = burst.column(42, ">u4")
    except shmpool.Empty:
        pass
    except shmpool.ShutDown:
        ended = True
    if held is not None:
        done.put_many(held)
    held = burst
tables.send(pickle.dumps((number, [flow.packets for flow in table.values()])))
"""


@pytest.fixture(scope="module")
def spaces() -> Iterator[tuple[Space, Space]]:
    with made() as both:
        yield both


def packets(pool: shmpool.Pool, first: int, n: int) -> shmpool.Burst:
    """Datagrams with numbers, of 64 flows."""
    burst = pool.alloc_many(n)
    numbers = np.arange(first, first + n)
    burst.lengths = 60
    burst.set_column(0, np.frombuffer(HEADERS * n, f"V{len(HEADERS)}"))
    burst.set_column(34, 1024 + numbers % PORTS, ">u2")
    burst.set_column(NUMBER, numbers, ">u4")
    burst.set_checksums()
    return burst


class Workers:
    """The processes; those that are killed are started again, each with a number of its own."""

    def __init__(self, pool: shmpool.Pool) -> None:
        self._pool = pool
        self._next = 0
        self.numbers = [0] * WORKERS
        self.kills = 0
        self.children = [self._start(i) for i in range(WORKERS)]

    def _start(self, place: int) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-c", WORKER, self._pool.name, f"work-{place}"]
        self.numbers[place] = self._next
        self._next += 1
        return subprocess.Popen([*command, str(self.numbers[place])], cwd=ROOT)

    def kill(self, place: int) -> None:
        """Kills one and starts it again. Does not wait until it runs."""
        self.children[place].send_signal(signal.SIGKILL)
        self.children[place].wait()
        self.children[place] = self._start(place)
        self.kills += 1


@pytest.mark.slow
@pytest.mark.timeout(120 + 4 * SECONDS)
@pytest.mark.parametrize("seed", [1])
def test_every_packet_is_counted(
    spaces: tuple[Space, Space], make_pool: MakePool, seed: int
) -> None:
    """sent = processed + freed by deaths + dropped by the kernel + no room in a queue, to the
    packet, none of them twice. What a dead worker of half of the queues had is delivered again. A
    worker's flow table has what it has passed on. Receiving never waits for a worker."""
    pool = make_pool(buffer_size=128, capacity=32768, queues=10, members=64)
    sender_pool = make_pool(buffer_size=128, capacity=1024)
    queues = [
        pool.create_queue(f"work-{i}", capacity=4096, on_death="requeue" if i % 2 else "free")
        for i in range(WORKERS)
    ]
    done = pool.create_queue("done", capacity=32768)
    tables = pool.create_queue("tables", capacity=64)
    with spaces[1].entered():
        source = PacketSource(pool, "veth", filter="udp dst port 9")
    seen = np.zeros(PACKETS, np.uint8)  # how many times each packet came out
    passed_on = np.zeros((KILLS + WORKERS, PORTS), np.int64)  # by which worker, of which flow
    redelivered = refused = received = 0
    workers = Workers(pool)
    ended = threading.Event()  # the sender
    failed = threading.Event()

    def send() -> None:
        """Sends all packets, not far ahead of the kills while workers have some to do."""
        with spaces[0].entered():
            sink = PacketSink(sender_pool, "veth")
        began = time.monotonic()
        with sink:
            for first in range(0, PACKETS, 100):
                while (
                    first > (workers.kills + AHEAD) * PACKETS // KILLS
                    and any(map(len, queues))
                    and not failed.is_set()
                ):
                    time.sleep(0.001)
                if SECONDS:
                    time.sleep(max(0, began + first / RATE - time.monotonic()))
                sink.drain(packets(sender_pool, first, 100))
        ended.set()

    def kill() -> None:
        """Kills workers, each when it has passed on so many packets; in the soak, in its time."""
        rng = random.Random(seed)
        while workers.kills < KILLS and not failed.is_set():
            victim, enough = rng.randrange(WORKERS), rng.randrange(1, 1000)
            while not (ended.is_set() or failed.is_set()):
                if passed_on[
                    workers.numbers[victim]
                ].sum() >= enough and received >= workers.kills * PACKETS // (2 * KILLS):
                    break
                time.sleep(0.001)
            workers.kill(victim)

    def take_done() -> int:
        n = 0
        with contextlib.suppress(shmpool.Empty):
            while True:
                with done.get_many(1024, timeout=0) as burst:
                    numbers = burst.marks
                    assert (numbers == burst.column(NUMBER, ">u4")).all()
                    np.add.at(seen, numbers, 1)
                    np.add.at(passed_on, (burst.flow_hashes, numbers % PORTS), 1)
                    n += int(np.count_nonzero(burst.redelivered))
        return n

    threads = [threading.Thread(target=send), threading.Thread(target=kill)]
    try:
        for thread in threads:
            thread.start()
        while True:
            last = ended.is_set()
            try:
                burst = source.get_many(timeout=0.1)
            except shmpool.Empty:
                if last:
                    break
                continue
            except shmpool.PoolExhausted:  # until those of dead workers are recovered
                redelivered += take_done()
                continue
            received += len(burst)
            hashes = burst.flow_hash(symmetric=True)
            try:
                burst.spread(queues, hashes, timeout=0)
            except shmpool.Full:
                refused += len(burst)
                burst.free()
            redelivered += take_done()
        for thread in threads:
            thread.join()
        pool.recover()
        for queue in queues:
            queue.shutdown()
        for child in workers.children:
            assert 0 == child.wait(timeout=60)
    finally:
        failed.set()
        for thread in threads:
            thread.join()
        for child in workers.children:
            child.kill()
            child.wait()
    pool.recover()
    redelivered += take_done()
    counts = source.statistics()
    source.close()
    with View(pool.name) as view:
        died = sum(queue.dropped for queue in view.queues())
    print(
        f"sent {PACKETS:,} received {counts.packets:,} dropped by the kernel {counts.dropped:,} "
        f"processed {seen.sum():,} of these delivered again {redelivered:,} freed by deaths "
        f"{died:,} no room {refused:,} kills {workers.kills:,}"
    )
    assert KILLS == workers.kills
    assert PACKETS == counts.packets + counts.dropped
    assert counts.packets == int(seen.sum()) + died + refused
    assert 1 == seen.max()
    assert seen.sum() > PACKETS / 20
    assert died + redelivered > 0
    for _ in range(WORKERS):  # the last ones of each queue, which ended by themselves
        number, flows = pickle.loads(tables.recv(timeout=0))
        assert sorted(flows) == sorted(passed_on[number][passed_on[number] > 0].tolist())
    stats = pool.stats()
    assert stats.created == stats.free + stats.cached
    assert pool.audit().ok
