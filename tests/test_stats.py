# SPDX-License-Identifier: Apache-2.0
"""stats, audit and members: a pool's report of itself."""

import dataclasses
import os
import threading
from collections.abc import Callable

import pytest
from conftest import Child, MakePool

import shmpool
from shmpool.stats import SizeStats

COUNTERS = {
    "alloc", "free", "enqueue", "dequeue", "adopt", "refill", "flush", "full", "empty", "grow",
    "steal", "sleep", "exhausted", "recover",
}  # fmt: skip


def test_stats_of_a_new_pool(make_pool: MakePool) -> None:
    """Only preallocated buffers exist, and reading makes no process a member."""
    pool = make_pool(capacity=256, prealloc=100)
    assert (
        shmpool.Stats(
            capacity=256,
            created=100,
            free=100,
            cached=0,
            held=0,
            queued=0,
            sizes=[SizeStats(256, 256, 100, 100, 0)],
            members=0,
            recovered=0,
            counters=dict.fromkeys(COUNTERS, 0),
        )
        == pool.stats()
    )
    assert [] == pool.members()
    assert shmpool.Audit(ok=True, total=100, free=100, cached=0) == pool.audit()


def test_stats_add_up(cached_pool: shmpool.Pool) -> None:
    """free + cached + held + queued = created, wherever the buffers are."""
    pool = cached_pool
    queue = pool.create_queue("q", capacity=64)
    held = [pool.alloc() for _ in range(5)]
    queue.put_many(pool.alloc_many(20))
    burst = queue.get_many(7)
    stats = pool.stats()
    assert (256, 12, 13) == (stats.created, stats.held, stats.queued)
    assert stats.created == stats.free + stats.cached + stats.held + stats.queued
    audit = pool.audit()
    assert (True, 256, 0) == (audit.ok, audit.total, audit.unaccounted)
    assert (stats.free, stats.cached) == (audit.free, audit.cached)
    assert ({"q": 13}, [12]) == (audit.queued, list(audit.held.values()))
    assert (5, 7) == (len(held), len(burst))


def test_audit_names_every_queue(pool: shmpool.Pool) -> None:
    """queued has each queue by its name, empty queues too."""
    for n, name in enumerate(("a", "b", "c")):
        pool.create_queue(name, capacity=8).send_many([b"x"] * n)
    assert {"a": 0, "b": 1, "c": 2} == pool.audit().queued


def test_counters_count(make_pool: MakePool) -> None:
    """Each counter counts what its name says, in buffers or in events."""
    pool = make_pool(capacity=256, bulk=16, cache_size=64, refill_multiplier=2)
    queue = pool.create_queue("q", capacity=8)
    queue.put_many(pool.alloc_many(8))
    buf = pool.alloc()
    with pytest.raises(shmpool.Full):
        queue.put(buf, timeout=0)
    queue.get_many(8).free()
    with pytest.raises(shmpool.Empty):
        queue.get(timeout=0)
    buf.free()
    counters = pool.stats().counters
    assert (9, 9, 8, 8) == tuple(counters[k] for k in ("alloc", "free", "enqueue", "dequeue"))
    assert (1, 1, 0, 0) == tuple(counters[k] for k in ("full", "empty", "exhausted", "adopt"))
    assert (1, 0) == (counters["grow"], counters["flush"])
    assert counters["refill"] >= 1
    everything = pool.alloc_many(256)
    with pytest.raises(shmpool.PoolExhausted):
        pool.alloc(timeout=0)
    everything.free()
    assert (8, 256) == (pool.stats().counters["grow"], pool.stats().created)
    assert pool.stats().counters["exhausted"] >= 1
    assert pool.stats().counters["flush"] >= 1


def test_a_member_is_described(pool: shmpool.Pool) -> None:
    """Number, process, thread, time, cache and counters of the calling thread."""
    pool.alloc().free()
    (member,) = pool.members()
    assert (os.getpid(), threading.get_native_id()) == (member.pid, member.tid)
    assert (1, 1) == (member.counters["alloc"], member.counters["free"])
    assert COUNTERS == set(member.counters) == set(pool.stats().counters)
    assert member.attached_ns > 0
    assert 1 == pool.stats().members


def test_records_are_frozen(pool: shmpool.Pool) -> None:
    """A record is a snapshot: none of its fields can be assigned."""
    pool.alloc().free()
    for record in (pool.stats(), pool.audit(), pool.members()[0]):
        for field in dataclasses.fields(record):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(record, field.name, getattr(record, field.name))


def test_held_by_member(make_pool: MakePool, start: Callable[..., Child]) -> None:
    """audit().held has the number of buffers of each member, by the number of members()."""
    pool = make_pool()
    mine = pool.alloc_many(3)
    child = start(
        """
        import shmpool, sys
        pool = shmpool.Pool.attach(sys.argv[1])
        held = pool.alloc_many(5)
        print("held", flush=True)
        input()
        """,
        pool.name,
    )
    assert "held" == child.line()
    number = {member.pid: member.number for member in pool.members()}
    assert {number[os.getpid()]: 3, number[child.pid]: 5} == pool.audit().held
    child.send()
    child.end()
    assert {number[os.getpid()]: 3} == pool.audit().held
    mine.free()


def test_counters_survive_their_member(make_pool: MakePool, run: Callable[..., str]) -> None:
    """The sums include members that have ended."""
    pool = make_pool()
    run(
        """
        import shmpool, sys
        with shmpool.Pool.attach(sys.argv[1]) as pool:
            pool.alloc_many(9).free()
        """,
        pool.name,
    )
    stats = pool.stats()
    assert (0, 9, 9) == (stats.members, stats.counters["alloc"], stats.counters["free"])
