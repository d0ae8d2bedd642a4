# SPDX-License-Identifier: Apache-2.0
"""The whole chain: an interface, workers that are killed at random, and every packet counted."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
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
PACKETS = int(os.environ.get("CHAIN_PACKETS", "60000"))
KILLS = PACKETS // 5000
WORKER = """
import shmpool, sys
pool = shmpool.Pool.attach(sys.argv[1])
work, done = pool.queue(sys.argv[2]), pool.queue("done")
print("ready", flush=True)
try:
    while True:
        burst = work.get_many(64)
        burst.marks = burst.column(14, ">u4")  # looks at every packet
        done.put_many(burst)
except shmpool.ShutDown:
    pass
"""


@pytest.fixture(scope="module")
def spaces() -> Iterator[tuple[Space, Space]]:
    with made() as both:
        yield both


def worker(pool: shmpool.Pool, number: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", WORKER, pool.name, f"work-{number}"]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert "ready\n" == child.stdout.readline()
    return child


def send(space: Space, pool: shmpool.Pool, ended: threading.Event) -> None:
    """Sends numbered packets, each from a sender of its own."""
    with space.entered():
        sink = PacketSink(pool, "veth")
    with sink:
        for first in range(0, PACKETS, 100):
            burst = pool.alloc_many(100)
            burst.lengths = 60
            numbers = np.arange(first, first + 100, dtype=">u4")
            burst.set_column(0, np.full(100, b"\xff" * 6, "S6"))
            burst.set_column(6, numbers, ">u4")
            burst.set_column(12, 0x88B5, ">u2")
            burst.set_column(14, numbers, ">u4")
            sink.drain(burst)
    ended.set()


@pytest.mark.slow
@pytest.mark.timeout(120 + PACKETS // 5000)
@pytest.mark.parametrize("seed", [1])
def test_every_packet_is_counted(
    spaces: tuple[Space, Space], make_pool: MakePool, seed: int
) -> None:
    """sent = processed + freed by deaths + dropped by the kernel + no room in a queue, to the
    packet, none of them twice, while workers are killed and nobody stops receiving."""
    pool = make_pool(buffer_size=128, capacity=32768, queues=8, members=64)
    sender_pool = make_pool(buffer_size=128, capacity=1024)
    queues = [pool.create_queue(f"work-{i}", capacity=4096) for i in range(WORKERS)]
    done = pool.create_queue("done", capacity=32768)
    with spaces[1].entered():
        source = PacketSource(pool, "veth", filter="ether proto 0x88b5")
    rng = random.Random(seed)
    seen = np.zeros(PACKETS, np.uint8)  # how many times each packet came out
    refused = kills = 0

    def take_done() -> None:
        with contextlib.suppress(shmpool.Empty):
            while True:
                with done.get_many(1024, timeout=0) as burst:
                    assert (burst.marks == burst.column(14, ">u4")).all()
                    np.add.at(seen, burst.marks, 1)

    ended = threading.Event()
    sender = threading.Thread(target=send, args=(spaces[0], sender_pool, ended))
    children = [worker(pool, i) for i in range(WORKERS)]
    try:
        sender.start()
        while True:
            last = ended.is_set()
            try:
                burst = source.get_many(timeout=0.1)
            except shmpool.Empty:
                if last:
                    break
                continue
            try:
                burst.spread(queues, burst.column(14, ">u4").astype(np.uint32), timeout=0)
            except shmpool.Full:
                refused += len(burst)
                burst.free()
            take_done()
            if kills < KILLS and source.statistics().packets > kills * PACKETS // (2 * KILLS):
                victim = rng.randrange(WORKERS)
                children[victim].send_signal(signal.SIGKILL)
                children[victim].communicate()
                children[victim] = worker(pool, victim)
                kills += 1
        for queue in queues:
            queue.shutdown()
        for child in children:
            child.communicate(timeout=60)
            assert 0 == child.returncode
    finally:
        sender.join()
        for child in children:
            child.kill()
            child.communicate()
    pool.recover()
    take_done()
    counts = source.statistics()
    source.close()
    with View(pool.name) as view:
        died = sum(queue.dropped for queue in view.queues())
    assert KILLS == kills
    assert PACKETS == counts.packets + counts.dropped
    assert counts.packets == int(seen.sum()) + died + refused
    assert 1 == seen.max()
    assert seen.sum() > PACKETS / 20
    stats = pool.stats()
    assert stats.created == stats.free + stats.cached
    assert pool.audit().ok
