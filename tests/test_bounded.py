# SPDX-License-Identifier: Apache-2.0
"""Reading a pool takes bounded time and memory, whatever its segment contains."""

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

import pytest
from conftest import MakePool, room
from test_page_memory import bytes_of

import shmpool
from shmpool._ffi import ffi, lib
from shmpool.stats import LIMIT_S, Counting
from shmpool.view import View
from tests.fuzz_words import Row, Segment

TRANSIT = 1 << 63
CALL_S = 1.0  # of processor time


@pytest.fixture
def craft() -> Iterator[Callable[[shmpool.Pool], Segment]]:
    """craft(pool): the words of its segment, which a test overwrites."""
    made: list[Segment] = []

    def craft(pool: shmpool.Pool) -> Segment:
        made.append(Segment(f"/dev/shm/shmpool.{pool.name}"))
        return made[-1]

    yield craft
    for segment in made:
        segment.close()


Craft = Callable[[shmpool.Pool], Segment]


def row(rows: list[Row], name: str) -> Row:
    (found,) = [row for row in rows if row.name == name]
    return found


def fill(segment: Segment, row: Row, value: int) -> None:
    for i in range(row.count):
        segment.write(row.word(i), value)


def reserved(pool: shmpool.Pool) -> int:
    return os.stat(f"/dev/shm/shmpool.{pool.name}").st_blocks * 512


def nowhere(make_pool: MakePool, craft: Craft, capacity: int = 1 << 16) -> shmpool.Pool:
    """A pool in which every buffer's position is wrong and every member is in an operation."""
    pool = make_pool(buffer_size=64, capacity=capacity, prealloc=capacity, members=4095)
    segment = craft(pool)
    fill(segment, row(segment.buffers, "buffer.owner"), TRANSIT | 5)
    fill(segment, row(segment.members, "member.op"), 7 << 29 | 3 << 12 | 5 << 2 | 1)
    return pool


@pytest.mark.slow
@pytest.mark.parametrize("what", ["audit", "holders"])
def test_a_walk_ends_at_its_limit(make_pool: MakePool, craft: Craft, what: str) -> None:
    """The longest possible walk ends after its limit of processor time, and reports it."""
    pool = nowhere(make_pool, craft, 1 << 18)
    began = time.thread_time()
    if what == "audit":
        audit = pool.audit()
        assert (False, False) == (audit.ok, audit.complete)
        assert 0 < audit.total < pool.capacity
    else:
        with pytest.raises(shmpool.LimitReached, match="buffers were counted"):
            pool.holders()
    assert time.thread_time() - began < LIMIT_S + 0.3


def test_a_walk_in_steps(make_pool: MakePool) -> None:
    """An audit in the smallest steps has the same result as one in a single step."""
    pool = make_pool(capacity=1024, prealloc=1000, cache_size=64, bulk=16)
    queue = pool.create_queue("q", capacity=256)
    queue.put_many(pool.alloc_many(200))
    held = pool.alloc_many(100)
    counting, steps = Counting(pool._number, pool.capacity, pool.geometry.members, {1: "q"}), 0
    while not counting.step(1e-9):
        steps += 1
        assert not counting.audit().complete
    assert steps > 0
    assert pool.audit() == counting.audit()
    assert (True, 1000, {"q": 200}) == (counting.audit().ok, 1000, counting.audit().queued)
    assert [100] == [holder.buffers for holder in counting.holders()]
    held.free()


def test_a_signal_ends_a_walk(make_pool: MakePool, craft: Craft) -> None:
    """An exception of a signal handler ends a walk that has no limit."""
    pool = nowhere(make_pool, craft)

    def alarm(number: int, frame: FrameType | None) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, alarm)
    try:
        with pytest.raises(TimeoutError):  # noqa: PT012
            for _ in range(1000):
                signal.setitimer(signal.ITIMER_REAL, 0.02)
                pool.audit(None)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_other_threads_run_during_a_walk(make_pool: MakePool, craft: Craft) -> None:
    """A walk does not keep the interpreter's lock.

    Threads are not switched by time here, so another thread runs only if the call releases the
    lock.
    """
    pool = nowhere(make_pool, craft)
    counting = Counting(pool._number, pool.capacity, pool.geometry.members, {})
    ran, walking, stop = 0, threading.Event(), threading.Event()

    def run() -> None:
        nonlocal ran
        while not stop.is_set():
            ran += walking.is_set()
            time.sleep(0)

    thread = threading.Thread(target=run)
    thread.start()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        while not ran:
            walking.set()
            counting.step(0.001)  # one call into C
            walking.clear()
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        thread.join()


def test_reading_allocates_no_memory(make_pool: MakePool, craft: Craft) -> None:
    """A sparse file that claims that all its buffers exist is damaged for calls that would read
    them all.

    The buffers may be out of the free ring. No read-only call makes the kernel fill the holes.
    """
    pool = make_pool(buffer_size=64, capacity=1 << 20, bulk=16, refill_multiplier=1)
    segment = craft(pool)
    fill(segment, segment.classes[0].extents, 2**64 - 1)
    segment.write(segment.named("queue.bypassed"), 2 << 20)
    segment.write(segment.named("queue.queue.prod"), 2 << 20)
    before = reserved(pool)
    with View(pool.name) as view:
        for call in (view.stats, view.members, view.queues, pool.stats, pool.members):
            began = time.thread_time()
            with contextlib.suppress(shmpool.SegmentInvalid):
                call()
            assert time.thread_time() - began < CALL_S
    for walk in (pool.audit, pool.holders):
        with pytest.raises(shmpool.SegmentInvalid):
            walk()
    assert reserved(pool) - before < 1 << 20


def test_a_hole_in_the_free_ring(make_pool: MakePool, craft: Craft) -> None:
    """The same if the free ring itself is a hole."""
    pool = make_pool(buffer_size=64, capacity=1 << 22, cache_size=0)
    segment = craft(pool)
    ring = segment.classes[0].free_ring
    hole = (ctypes.c_long(ring.offset), ctypes.c_long(8 * ring.count))
    keep_size_and_punch = 3
    assert 0 == ctypes.CDLL(None).fallocate(segment.fd, keep_size_and_punch, *hole)
    segment.write(segment.named("queue.bypassed"), 2 << 22)
    segment.write(segment.named("queue.queue.prod"), 2 << 22)
    before = reserved(pool)
    with View(pool.name) as view:
        view.stats()
    with pytest.raises(shmpool.SegmentInvalid):
        pool.audit()
    assert reserved(pool) - before < 1 << 20


def test_many_stale_slots(make_pool: MakePool, craft: Craft) -> None:
    """The number of free buffers is an estimate, and marked as one, if stats() cannot read every
    slot."""
    capacity = 1 << 16
    pool = make_pool(buffer_size=64, capacity=capacity, prealloc=capacity, cache_size=0)
    segment = craft(pool)
    assert (capacity, False) == (pool.stats().free, pool.stats().estimated)
    owner = row(segment.buffers, "buffer.owner")
    for i in range(0, capacity, 2):  # half of the buffers are allocated, and their slots are stale
        segment.write(owner.word(i), 1)
    segment.write(segment.named("queue.bypassed"), 2 * capacity)
    stats = pool.stats()
    assert stats.estimated
    assert stats.capacity == stats.free + stats.held


@pytest.mark.parametrize(("stale", "estimated"), [(1, False), (4, True)])
def test_stale_slots_of_many_rings(
    make_pool: MakePool, craft: Craft, stale: int, estimated: bool
) -> None:
    """stats() reads no more slots of several rings of free buffers than of one."""
    slots = 1 << 13  # of each side ring
    pool = make_pool(
        buffer_size=64, capacity=4 * slots, prealloc=4 * slots, cache_size=0, free_rings=4
    )
    pool.alloc_many(4 * slots).free()  # as many into the caller's side ring as it has room for
    segment = craft(pool)
    bypassed = row(segment.queues, "queue.bypassed")
    for i in range(stale):
        segment.write(bypassed.word(bypassed.count - 1 - i), 2 * slots)
    assert (4 * slots, estimated) == (pool.stats().free, pool.stats().estimated)


@pytest.mark.parametrize(
    "options",
    [
        {"buffer_size": 1 << 22, "capacity": 1 << 24},
        {"buffer_size": 64, "capacity": 1 << 24, "bulk": 16, "refill_multiplier": 1},
        {"buffer_size": 1 << 30, "capacity": 1 << 16},
    ],
)
def test_extents_are_few(options: dict[str, int]) -> None:
    """No pool has more than 131,072 extents: stats() reads all their words."""
    geometry = ffi.new("struct shmpool_geometry *")
    for name in ("cache_size", "bulk", "refill_multiplier", "members", "queues"):
        setattr(geometry, name, lib.SHMPOOL_DEFAULT)
    for name, value in options.items():
        setattr(geometry, name, value)
    assert 0 == lib.shmpool_plan(geometry, ffi.new("struct shmpool_refusal *"))
    assert options["capacity"] / geometry.extent_buffers <= 131072


def test_a_damaged_pool_is_read_in_time(make_pool: MakePool, craft: Craft) -> None:
    """With random data in every word of every member and queue, each call ends in bounded time."""
    pool = make_pool(buffer_size=64, capacity=1 << 16, prealloc=1 << 16, members=4095, queues=1023)
    pool.create_queue("q", capacity=8)
    segment = craft(pool)
    with View(pool.name) as view:
        for words in segment.members:
            fill(segment, words, 2**64 - 1 >> 64 - 8 * words.width)
        for words in segment.queues:
            if words.width > 1:
                fill(segment, words, 2**64 - 1 >> 64 - 8 * words.width)
        fill(segment, row(segment.queues, "queue.queue.capacity"), 1 << 20)
        calls: list[Callable[[], object]] = [pool.stats, pool.members, pool.audit, view.stats]
        calls += [view.queues, view.members, view.dead, view.operating]
        for call in calls:
            began = time.thread_time()
            with contextlib.suppress(shmpool.SegmentInvalid):
                call()
            assert time.thread_time() - began < CALL_S


@pytest.mark.parametrize("claimed", [False, True], ids=["new", "all buffers claimed"])
def test_stats_read_little(make_pool: MakePool, craft: Craft, claimed: bool) -> None:
    """Figures of a pool of 16 million buffers read as little of it as those of a small one: the
    words of at most 131,072 extents, whatever they say."""
    if room() < 1 << 30:
        pytest.skip("/dev/shm has no room for the ring of 16 million free buffers")
    pool = make_pool(buffer_size=64, capacity=1 << 24, members=4, queues=4)
    if claimed:
        segment = craft(pool)
        fill(segment, segment.classes[0].extents, 2**64 - 1)
    before = reserved(pool)
    with shmpool.Pool.attach(pool.name, readonly=True) as other:
        stats = other.stats()
        assert ((1 << 24) if claimed else 0, 1 << 24) == (stats.created, stats.capacity)
        assert bytes_of(other, "Rss") < 3 << 20
        other.members()
        assert bytes_of(other, "Rss") < 3 << 20
    assert before == reserved(pool)
