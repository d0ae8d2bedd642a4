# SPDX-License-Identifier: Apache-2.0
"""Reading a huge pool, or one of garbage, takes a bounded number of steps: counted, not timed.

A step of an audit is at most STEP_WORDS words of the segment. What Python does for a pool's queues
is counted in calls of the C library.
"""

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from conftest import MakePool, room
from test_bounded import craft  # noqa: F401

import shmpool
from shmpool import view as view_module
from shmpool.stats import Counting
from shmpool.view import View
from tests.fuzz_words import LANED, RING_SLOTS, Segment, Word

STEP_WORDS = 4096  # of native/audit.c: CLOCK_WORK
QUEUES, MEMBERS = 1000, 4000
ATTEMPTS = 4  # times that an audit begins again, at most

Craft = Callable[[shmpool.Pool], Segment]


class Calls:
    """The C library, with the calls counted."""

    def __init__(self, lib: Any) -> None:
        self._lib, self.made = lib, Counter[str]()

    def __getattr__(self, name: str) -> Any:
        self.made[name] += 1
        return getattr(self._lib, name)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each C function was called for a View, outside of the records of members."""
    counted = Calls(view_module.lib)
    monkeypatch.setattr(view_module, "lib", counted)
    return counted.made


def steps(pool: shmpool.Pool) -> tuple[int, shmpool.stats.Audit]:
    """Audits in the smallest steps. Returns how many, and the result."""
    geometry = pool.geometry
    names = {i: str(i) for i in range(1, geometry.queues + 1)}
    counting = Counting(pool._number, pool.capacity, geometry.members, names)
    n = 1
    while not counting.step(1e-9):
        n += 1
    return n, counting.audit()


def most(pool: shmpool.Pool, in_rings: int) -> int:
    """The most steps that an audit may take if its rings hold so many entries: two words for each
    of them, a few for each buffer and its inspections, and each member's cache and op record."""
    geometry = pool.geometry
    members = geometry.members * (5 + geometry.cache_size)
    words = 2 * in_rings + 3 * pool.stats().created + members
    return ATTEMPTS * (words // STEP_WORDS + geometry.queues + 8)


def big(make_pool: MakePool, **options: Any) -> shmpool.Pool:
    return make_pool(
        **{"buffer_size": 64, "capacity": 8192, "members": MEMBERS, "queues": QUEUES,
           "cache_size": 16, "bulk": 16} | options
    )  # fmt: skip


def test_an_audit_of_many_queues_and_members(make_pool: MakePool) -> None:
    """1,000 queues and 4,000 member slots: as many steps as their words make."""
    pool = big(make_pool, prealloc=8192)
    for i in range(QUEUES):
        pool.create_queue(f"q{i}", capacity=4).put(pool.alloc())
    n, audit = steps(pool)
    assert (True, 8192) == (audit.ok, audit.total)
    assert n <= most(pool, 8192)


def test_an_audit_of_garbage(make_pool: MakePool, craft: Craft) -> None:  # noqa: F811
    """With random words in every buffer's header, member and queue the number of steps has a bound,
    and the audit finds that the buffers are nowhere."""
    pool = big(make_pool, prealloc=8192, members=64)
    for i in range(64):
        pool.create_queue(f"q{i}", capacity=64)
    bound, chance, segment = most(pool, 8192 + 64 * 64), random.Random(1), craft(pool)
    for rows in (segment.buffers, segment.members, segment.queues):
        for words in rows:
            for i in range(words.count):
                segment.write(words.word(i), chance.getrandbits(8 * words.width))
    counting = Counting(pool._number, pool.capacity, pool.geometry.members, {})
    n = 0
    try:
        while not counting.step(1e-9):
            n += 1
            assert n <= 100 * bound  # buffers that may be in motion are inspected up to 64 times
    except shmpool.SegmentInvalid:
        return  # it says what is wrong: the file lacks memory that its queues claim
    audit = counting.audit()
    assert not audit.ok
    assert audit.unaccounted > 0


def test_an_audit_of_16_million_buffers(make_pool: MakePool) -> None:
    """Buffers that were never created cost a step for each extent, of which there are 131,072 at
    most."""
    if room() < 1 << 30:
        pytest.skip("/dev/shm has no room for the ring of 16 million free buffers")
    pool = make_pool(buffer_size=64, capacity=1 << 24, members=8, queues=8)
    held = pool.alloc_many(64)
    n, audit = steps(pool)
    assert audit.ok
    assert n <= most(pool, pool.stats().created) + ATTEMPTS * 131072 * 3 // STEP_WORDS
    held.free()


def claim_lanes(segment: Segment) -> None:
    """Makes all queues queues with 64 lanes each, and lanes of another one."""
    chance = random.Random(2)
    values = {
        "queue.state": lambda: 2**64 - 1,
        "queue.queue.flags": lambda: chance.choice((16, 48, 80)),
        "queue.laned": lambda: chance.randrange(1, QUEUES),
    }
    for words in segment.queues:
        for i in range(1, QUEUES + 1 if words.name in values else 0):
            segment.write(words.word(i), values[words.name]())
    for words in segment.lanes:
        for queue in range(1, QUEUES):
            at = words.offset + (queue - LANED) * RING_SLOTS * 8
            value = chance.randrange(1, QUEUES) if "number" in words.name else 64
            segment.write(Word(words.name, at, words.width), value)


@pytest.mark.parametrize("garbage", [False, True])
def test_describing_many_queues(
    make_pool: MakePool,
    craft: Craft,  # noqa: F811
    calls: Counter[str],
    garbage: bool,
) -> None:
    """The queues of a pool are read with three calls for each at most, also if all of them claim to
    be queues with lanes, and lanes of each other."""
    pool = big(make_pool, members=8)
    for i in range(QUEUES - 8):
        pool.create_queue(f"q{i}", capacity=4)
    pool.create_queue("lanes", capacity=16, lanes=4)
    if garbage:
        claim_lanes(craft(pool))
    with View(pool.name) as view:
        found = view.queues()
        topics = view.topics()
        view.members()
        view.stats()
    assert len(found) + len(topics) <= QUEUES
    assert garbage or QUEUES - 7 == len(found)
    assert sum(len(queue.lane_stats) for queue in found) <= QUEUES
    assert sum(calls.values()) <= 3 * QUEUES + 64
