# SPDX-License-Identifier: Apache-2.0
"""Many processes at once, each in the place of a killed one.

Each newcomer gets in while there is such a place, however many others recover it at the same time.
A place is what a pool has a limited number of: member slots, queue slots, extents,
subscribers of a topic, the single side of a queue.
"""

import ctypes
import os
import signal
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

import pytest

import shmpool
from tests.conftest import DEADLINE_S, MakePool

CROWD = 24  # processes; a topic has as many subscribers
ROUNDS = 4
BUFFERS = 1 << 18  # a recovery takes so long that others are in the middle of theirs
ANSWER = 200  # bytes that a process says how it went
Work = Callable[[int], object]


def _answer(work: Work, number: int, go: tuple[int, int], answers: int) -> NoReturn:
    """A process of a crowd: keeps what the work returned until it is killed."""
    try:
        os.close(go[1])
        os.read(go[0], 1)  # the end of the file, once all are there
        kept: object = ""
        try:
            kept = work(number)
            text = ""
        except BaseException as error:
            text = repr(error)
        os.write(answers, text.encode()[:ANSWER].ljust(ANSWER))
        signal.pause()
        del kept
    finally:
        os._exit(1)


def _end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


@contextmanager
def crowd(n: int, work: Work) -> Iterator[list[str]]:
    """So many processes that begin work(0), work(1), ... at once. Gives the exceptions, "" where
    there was none. All are killed at the end of the block."""
    go, answers = os.pipe(), os.pipe()
    children = list[int]()
    try:
        for number in range(n):
            pid = os.fork()
            if pid == 0:
                _answer(work, number, go, answers[1])
            children.append(pid)
        os.close(go[1])
        yield [os.read(answers[0], ANSWER).decode().strip() for _ in children]
    finally:
        for pid in children:
            _end(pid)
        for end in (go[0], *answers):
            os.close(end)


def gone(n: int, work: Work) -> None:
    """So many processes that have done the work, all at once, and were killed then."""
    with crowd(n, work) as said:
        assert [""] * n == said


def _die_in_fallocate() -> None:
    """From now on the kernel kills this process where it calls fallocate(2)."""
    load, equal, end, allow, kill = 0x20, 0x15, 0x06, 0x7FFF0000, 0x80000000
    number = {"x86_64": 285, "aarch64": 47}[os.uname().machine]
    lines = [(load, 0, 0, 0), (equal, 0, 1, number), (end, 0, 0, kill), (end, 0, 0, allow)]
    text = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in lines))
    program = struct.pack("HxxxxxxP", len(lines), ctypes.addressof(text))
    libc, zero = ctypes.CDLL(None), ctypes.c_ulong(0)
    no_new_privileges, set_seccomp = 38, 22
    assert libc.prctl(no_new_privileges, ctypes.c_ulong(1), zero, zero, zero) == 0
    if libc.prctl(set_seccomp, ctypes.c_ulong(2), program, zero, zero):
        os._exit(2)


def killed_in_the_middle(n: int, work: Work) -> None:
    """So many processes, one after the other, that are killed where the work reserves memory."""
    for number in range(n):
        pid = os.fork()
        if pid == 0:
            try:
                _die_in_fallocate()
                work(number)
            finally:
                os._exit(1)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code == 2:
            pytest.skip("the kernel has no seccomp filters")
        assert -signal.SIGSYS == code


def test_member_slots(make_pool: MakePool) -> None:
    """Each slot of the pool was a killed process's, or is the caller's."""
    pool = make_pool(buffer_size=64, capacity=BUFFERS, prealloc=BUFFERS, members=CROWD + 1)
    pool.alloc().free()
    for _ in range(ROUNDS):
        gone(CROWD, lambda _: pool.alloc(DEADLINE_S))
    assert pool.recover().unknown == 0
    assert [os.getpid()] == [one.pid for one in pool.members()]


def test_member_slot_for_a_suspended_newcomer(make_pool: MakePool) -> None:
    """A process that is suspended while it recovers others for their slots gets in, although
    another one has taken the slots in the meantime."""
    pool = make_pool(buffer_size=64, capacity=BUFFERS, prealloc=BUFFERS, members=3)
    pool.alloc().free()
    for turn in range(5 * ROUNDS):
        gone(2, lambda _: pool.alloc(DEADLINE_S))
        ready, go, answers = os.pipe(), os.pipe(), os.pipe()

        def attach(_: int, ready: int = ready[1]) -> object:
            os.write(ready, b"x")
            return pool.alloc(DEADLINE_S)

        pid = os.fork()
        if pid == 0:
            _answer(attach, 0, go, answers[1])
        try:
            os.close(go[1])
            os.read(ready[0], 1)
            time.sleep(1e-4 * 1.4**turn)  # anywhere in its recovery
            os.kill(pid, signal.SIGSTOP)
            os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
            gone(1, lambda _: pool.alloc(DEADLINE_S))
            os.kill(pid, signal.SIGCONT)
            assert "" == os.read(answers[0], ANSWER).decode().strip()
        finally:
            _end(pid)
            for end in (*ready, go[0], *answers):
                os.close(end)


def test_queue_slots(make_pool: MakePool) -> None:
    """Each queue slot was about to be a killed process's queue. Nobody has recovered it."""
    pool = make_pool(capacity=1024, members=4 * CROWD, queues=CROWD)
    killed_in_the_middle(CROWD, lambda i: pool.create_queue(f"dead-{i}", capacity=8))
    gone(CROWD, lambda i: pool.create_queue(f"q-{i}", capacity=8))
    assert {f"q-{i}" for i in range(CROWD)} == {queue.name for queue in pool.queues()}
    with pytest.raises(shmpool.LimitReached, match="queue slots"):
        pool.create_queue("more", capacity=8)


def test_queue_slots_of_topics(make_pool: MakePool) -> None:
    """The same of topics."""
    pool = make_pool(capacity=1024, queues=4)
    killed_in_the_middle(4, lambda i: pool.create_topic(f"dead-{i}", depth=8))
    gone(4, lambda i: pool.create_topic(f"t-{i}", depth=8))
    assert {f"t-{i}" for i in range(4)} == {topic.name for topic in pool.topics()}


def test_queues_with_lanes(make_pool: MakePool) -> None:
    """Each creation takes several slots. Of many at once as many succeed as there is room for,
    though they take slots from each other."""
    for _ in range(ROUNDS):
        pool = make_pool(queues=2 * 5)
        killed_in_the_middle(
            2, lambda i, pool=pool: pool.create_queue(f"dead-{i}", capacity=8, lanes=4)
        )
        with crowd(
            6, lambda i, pool=pool: pool.create_queue(f"q-{i}", capacity=8, lanes=4)
        ) as said:
            assert 2 == said.count("")
            assert 4 == sum("LimitReached" in text for text in said)
        assert 2 == len(pool.queues())


def test_one_name(make_pool: MakePool) -> None:
    """Of many that create a queue of one name one succeeds, and the others find the queue."""
    pool = make_pool(capacity=1024, members=4 * CROWD, queues=ROUNDS + 1)

    def find(name: str) -> shmpool.AlfQueue | None:
        try:
            pool.create_queue(name, capacity=8)
            return None
        except shmpool.QueueExists:
            return pool.queue(name)

    def create_or_find(name: str) -> None:
        if found := find(name):
            raise KeyError(found.name)

    for i in range(ROUNDS):
        name = f"q-{i}"
        with crowd(CROWD, lambda _, name=name: create_or_find(name)) as said:
            assert ["", *[f"KeyError('{name}')"] * (CROWD - 1)] == sorted(said)


def test_subscribers(make_pool: MakePool) -> None:
    """Each subscriber of a topic was a killed process's."""
    topic = make_pool(capacity=1024, members=4 * CROWD).create_topic("ticks", depth=8)
    for _ in range(ROUNDS):
        gone(CROWD, lambda _: topic.subscribe(policy="drop-newest"))
    with crowd(CROWD, lambda _: topic.subscribe()) as said:
        assert [""] * CROWD == said
        with pytest.raises(shmpool.LimitReached, match="24 subscribers"):
            topic.subscribe()


def test_subscribers_that_died_early(make_pool: MakePool) -> None:
    """The same of processes that were killed while they reserved memory for what they keep."""
    topic = make_pool(capacity=1024, members=4 * CROWD).create_topic("ticks", depth=8)
    killed_in_the_middle(CROWD, lambda _: topic.subscribe(policy="drop-newest"))
    gone(CROWD, lambda _: topic.subscribe(policy="drop-newest"))


def test_extents(make_pool: MakePool) -> None:
    """Each extent of the pool was about to be added by a killed process."""
    pool = make_pool(capacity=512, bulk=16, refill_multiplier=1, cache_size=0)
    extent = pool.alloc_many(1)
    parts = pool.capacity // pool.stats().created
    extent.free()
    assert pool.trim() > 0
    killed_in_the_middle(parts, lambda _: pool.alloc())
    gone(CROWD, lambda _: pool.alloc(DEADLINE_S))


def test_single_side(make_pool: MakePool) -> None:
    """One of many takes a killed process's side of a queue. The others hear that it is taken."""
    pool = make_pool()
    queue = pool.create_queue("q", capacity=64, producers="single", consumers="single")
    for _ in range(ROUNDS):
        with crowd(CROWD, lambda _: queue.send(b"message")) as said:
            assert 1 == said.count("")
            assert CROWD - 1 == sum("QueueBusy" in text for text in said)


def test_single_side_soon_after_an_inquiry(make_pool: MakePool) -> None:
    """A successor asks whether the process is dead whose side it is, though the pool as a whole has
    just been asked, and rests."""
    pool = make_pool()
    queue = pool.create_queue("q", capacity=64, producers="single", consumers="single")
    with crowd(1, lambda _: queue.send(b"message")) as said:
        assert [""] == said
        for _ in range(6):  # each finds nobody dead, and the pool rests longer
            with pytest.raises(shmpool.QueueBusy):
                queue.send(b"another")
            with pytest.raises(shmpool.PoolExhausted):
                pool.alloc_many(pool.capacity, timeout=0.01)
    queue.send(b"another")
    with crowd(1, lambda _: queue.recv()) as said:
        assert [""] == said
    assert b"another" == queue.recv(timeout=DEADLINE_S)
    with crowd(1, lambda _: queue.send(b"last")) as said:
        assert 1 == len(said)
        assert "QueueBusy" in said[0]
    queue.shutdown()
