# SPDX-License-Identifier: Apache-2.0
"""Several rings of free buffers: none hides a buffer, also if the member that freed it is dead."""

import functools
import multiprocessing as mp
import os
import subprocess
import threading
import time

import pytest
from conftest import MakePool

import shmpool
from clients.bench import instructions
from clients.bench.building import built
from shmpool.geometry import free_rings_of

CAPACITY = 1024
RINGS = [1, 3, 8]
BULK = 16
ROOM = {1: 1024, 3: 256, 8: 128}  # slots of each


def sharing(make_pool: MakePool, rings: int, **options: int) -> shmpool.Pool:
    given = {"prealloc": CAPACITY, "bulk": BULK, "cache_size": 0, "members": 32} | options
    return make_pool(buffer_size=64, capacity=CAPACITY, free_rings=rings, **given)


def whole(pool: shmpool.Pool) -> tuple[int, int, bool]:
    """Returns how many buffers are free by the figures and by an audit, and whether that is ok."""
    audit = pool.audit()
    return pool.stats().free, audit.free, audit.ok


def spread(pool: shmpool.Pool, threads: int) -> None:
    """Allocates all buffers, and frees them from so many threads in turns, each a member."""
    turns = threading.Barrier(threads)

    def work() -> None:
        burst = pool.alloc_many(CAPACITY // threads)
        turns.wait()
        burst.free()
        turns.wait()

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for one in workers:
        one.start()
    for one in workers:
        one.join()


@pytest.mark.parametrize("rings", RINGS)
@pytest.mark.parametrize("threads", [1, 8])
def test_one_member_finds_what_all_have_freed(
    make_pool: MakePool, rings: int, threads: int
) -> None:
    """An allocation is exhausted only once it has every buffer of every ring."""
    pool = sharing(make_pool, rings)
    spread(pool, threads)
    assert (CAPACITY, CAPACITY, True) == whole(pool)
    held = [pool.alloc() for _ in range(CAPACITY)]
    assert CAPACITY == len({buf.index for buf in held})
    with pytest.raises(shmpool.PoolExhausted):
        pool.alloc(timeout=0)
    for buf in held:
        buf.free()
    with pool.alloc_many(CAPACITY) as burst:
        assert (0, 0, True) == whole(pool)
        assert CAPACITY == len(burst)


@pytest.mark.parametrize("rings", RINGS)
def test_the_pool_does_not_grow_while_a_ring_has_buffers(make_pool: MakePool, rings: int) -> None:
    pool = sharing(make_pool, rings, prealloc=CAPACITY // 2)
    pool.alloc_many(CAPACITY // 2).free()
    thread = threading.Thread(target=lambda: pool.alloc_many(CAPACITY // 2).free())
    thread.start()
    thread.join()
    assert CAPACITY // 2 == pool.stats().created


def _free_and_die(pool: shmpool.Pool, queue: str) -> None:
    """Frees what comes from the queue into this process's ring, takes some back, and is killed."""
    pool.queue(queue).get_many(ROOM[8], timeout=60).free()
    held = pool.alloc_many(BULK)
    assert held
    os._exit(9)


def test_a_dead_members_ring_is_not_lost(make_pool: MakePool) -> None:
    """Others allocate what a member had freed before it died, and what it held."""
    pool = sharing(make_pool, 8)
    queue = pool.create_queue("q", capacity=CAPACITY)
    queue.put_many(pool.alloc_many(ROOM[8]))
    child = mp.get_context("fork").Process(target=_free_and_die, args=(pool, "q"))
    child.start()
    child.join()
    assert 9 == child.exitcode
    pool.recover()
    assert (CAPACITY, CAPACITY, True) == whole(pool)
    assert CAPACITY == len(pool.alloc_many(CAPACITY))


@pytest.mark.parametrize("n", [1, 2 * ROOM[8]])
def test_a_put_into_any_ring_wakes(make_pool: MakePool, n: int) -> None:
    """Who waits for buffers is woken by members that free into rings of their own."""
    pool = sharing(make_pool, 8)
    bursts = [pool.alloc_many(CAPACITY // 8) for _ in range(8)]
    got: list[int] = []
    sleeper = threading.Thread(target=lambda: got.append(len(pool.alloc_many(n, timeout=60))))
    sleeper.start()
    while not pool.stats().counters["sleep"]:
        time.sleep(0.001)
    for burst in bursts[: 1 + n // ROOM[8]]:
        thread = threading.Thread(target=burst.free)
        thread.start()
        thread.join()
    sleeper.join()
    assert [n] == got


def test_a_trim_finds_every_ring(make_pool: MakePool) -> None:
    pool = sharing(make_pool, 8, prealloc=0)
    spread(pool, 8)
    assert CAPACITY == pool.stats().created
    assert pool.trim() > 0
    assert 0 == pool.stats().created


def test_the_option(make_pool: MakePool) -> None:
    """It is in the geometry, and each ring takes a number of queues; small classes have none."""
    pool = sharing(make_pool, 3)
    assert 3 == pool.geometry.free_rings
    assert 0 == make_pool(buffer_size=64, capacity=64).geometry.free_rings
    with pytest.raises(shmpool.InvalidArgument, match="from 1 to 1020, as free_rings is 3"):
        sharing(make_pool, 3, queues=1021)
    with pytest.raises(shmpool.InvalidArgument, match='from 0 to 32, or "auto"'):
        sharing(make_pool, 33)
    with pytest.raises(TypeError, match=r'^free_rings is 1\.5; it must be an int, or "auto"$'):
        sharing(make_pool, 1.5)  # type: ignore[arg-type]
    with pytest.raises(shmpool.InvalidArgument, match=r"to 1022, as buffer_size is 1048576$"):
        make_pool(buffer_size=1 << 20, capacity=4, queues=1023, free_rings=8)  # its warm ring
    both = functools.partial(make_pool, buffer_size=[64, 1 << 20], capacity=[1024, 4], free_rings=3)
    large = "buffer_size has 2 values, 1 of them large"
    for queues, why in (1021, "free_rings is 3$"), (1022, f"free_rings is 3 and {large}$"):
        with pytest.raises(shmpool.InvalidArgument, match=f"from 1 to 1018, as {why}"):
            both(queues=queues)
    most = CAPACITY // (4 * sharing(make_pool, 32).geometry.bulk)  # that it has room for
    assert 0 < most < 32
    sharing(make_pool, 32, queues=1023 - most)
    why = f"free_rings is 32, which makes {most} rings$"
    with pytest.raises(shmpool.InvalidArgument, match=f"from 1 to {1023 - most}, as {why}"):
        sharing(make_pool, 32, queues=1024 - most)


@pytest.mark.slow
def test_pairs_have_rings_of_their_own() -> None:
    """Where there are twice as many rings as pairs, each pair soon has one for itself, in whichever
    order their members attach; with as many, some pairs at most meet in one."""
    if lack := instructions.missing():
        pytest.skip(lack)
    printed = subprocess.run(
        [built("side_lines")], capture_output=True, text=True, check=True
    ).stdout
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines()[2:]]
    assert 12 == len(rows)
    for pairs, rings, attached, transfers, cold in rows:
        some = 0.2 if attached != "any order" else 0.8
        most = 0 if int(rings) > int(pairs) else some
        assert float(transfers) <= most, (pairs, rings, attached)
        assert float(cold) <= most / 4, (pairs, rings, attached)


@pytest.mark.parametrize(("cores", "rings"), [(None, 0), (2, 0), (7, 0), (8, 8), (64, 32)])
def test_auto(cores: int | None, rings: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With few cores there are none."""
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    auto = functools.partial(shmpool.PoolOptions, 64, CAPACITY, free_rings="auto")
    assert rings == free_rings_of(auto(), 1)
    assert min(rings, 4) == free_rings_of(auto(members=4), 1)
    assert min(rings, 6) == free_rings_of(auto(queues=1023 - 16), 2)
    assert 0 == free_rings_of(auto(queues=1023), 1)
