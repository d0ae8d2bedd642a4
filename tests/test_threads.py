# SPDX-License-Identifier: Apache-2.0
"""Threads of one process: each a member of its own, sharing buffers and queues."""

import contextlib
import contextvars
import os
import random
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import Eventually, MakePool, join

import shmpool
import shmpool.process_exit


def in_thread(call: Callable[[], object]) -> object:
    """Returns the result of a call in a thread, after the thread has ended."""
    result: list[object] = []
    thread = threading.Thread(target=lambda: result.append(call()))
    thread.start()
    join(thread)
    return result[0]


def test_a_thread_is_a_member_while_it_lives(
    cached_pool: shmpool.Pool, eventually: Eventually
) -> None:
    """It is a member from its first call to its end, when its cache is returned."""
    pool = cached_pool
    worked, leave = threading.Event(), threading.Event()
    tids: list[int] = []

    def work() -> None:
        tids.append(threading.get_native_id())
        pool.alloc().free()
        worked.set()
        leave.wait(60)

    thread = threading.Thread(target=work)
    thread.start()
    worked.wait(60)
    (member,) = pool.members()
    assert (tids[0], True) == (member.tid, member.cached > 0)
    leave.set()
    join(thread)
    eventually(lambda: not pool.members())
    assert (256, 0) == (pool.stats().free, pool.stats().cached)
    assert 1 == pool.stats().counters["alloc"]


def test_another_thread_may_free(pool: shmpool.Pool) -> None:
    """A Buffer can be written, read and freed by a thread that did not allocate it."""
    buf = pool.alloc()
    in_thread(lambda: buf.write(b"from there"))
    assert b"from there" == bytes(buf)
    in_thread(buf.free)
    assert (True, True, {}) == (buf.released, pool.audit().ok, pool.audit().held)
    with pytest.raises(shmpool.BufferReleased):
        buf.free()


def test_another_thread_may_put(pool: shmpool.Pool) -> None:
    """A Buffer and a Burst can be put by a thread that did not allocate them."""
    queue = pool.create_queue("q", capacity=8)
    buf, burst = pool.alloc(), pool.alloc_many(3)
    in_thread(lambda: (queue.put(buf), queue.put_many(burst)))
    assert (True, 4, {}) == (buf.released, len(queue), pool.audit().held)
    assert pool.stats().counters["adopt"] == 4


@pytest.mark.parametrize("succeeds", [True, False])
@pytest.mark.parametrize("many", [False, True])
def test_no_view_of_what_waits_in_a_put(
    make_pool: MakePool, eventually: Eventually, many: bool, succeeds: bool
) -> None:
    """The Buffer is released for every thread while its put waits. If the put fails it is
    restored."""
    pool = make_pool()
    work = pool.create_queue("work", capacity=2)
    work.send_many([b"1", b"2"])
    burst = pool.alloc_many(2)
    buf = burst[1] if many else pool.alloc()
    buf.write(b"mine")
    failed: list[shmpool.Full] = []

    def put() -> None:
        try:
            work.put_many(burst, 60 if succeeds else 0.5) if many else work.put(
                buf, 60 if succeeds else 0.5
            )
        except shmpool.Full as error:
            failed.append(error)

    thread = threading.Thread(target=put)
    thread.start()
    eventually(lambda: buf.released)
    for use in (lambda: buf.view, lambda: buf.write(b"x"), buf.free, lambda: memoryview(buf)):
        with pytest.raises(shmpool.BufferReleased):
            use()
    if succeeds:
        assert [b"1", b"2"] == work.recv_many(2)
    join(thread)
    assert [] == failed if succeeds else 1 == len(failed)
    assert succeeds == buf.released
    if not succeeds:
        assert b"mine" == bytes(buf)
        assert not many or (2 == len(burst) and burst[1] is buf)
        work.recv_many(2)
        work.put_many(burst) if many else work.put(buf)
    assert b"mine" == work.recv_many(2)[-1]


@pytest.mark.parametrize("many", [False, True])
def test_buffers_outlive_their_thread(
    pool: shmpool.Pool, eventually: Eventually, many: bool
) -> None:
    """Buffers that an ended thread allocated stay usable. The last free ends its membership."""
    queue = pool.create_queue("q", capacity=8)

    def allocate() -> list[shmpool.Buffer]:
        got = list(pool.alloc_many(6)) if many else [pool.alloc() for _ in range(6)]
        for i, buf in enumerate(got):
            buf.write(b"%d" % i)
        return got

    held = in_thread(allocate)
    assert isinstance(held, list)
    assert [b"%d" % i for i in range(6)] == [bytes(buf) for buf in held]
    assert (True, [6]) == (pool.audit().ok, list(pool.audit().held.values()))
    queue.put(held.pop())
    held.pop().free()
    for buf in held:
        in_thread(buf.free)
    assert (True, {}, b"5") == (pool.audit().ok, pool.audit().held, queue.recv())
    eventually(lambda: {threading.get_native_id()} == {member.tid for member in pool.members()})


def test_a_burst_outlives_its_thread(pool: shmpool.Pool, eventually: Eventually) -> None:
    """The same for a burst, freed in one call."""
    burst = in_thread(lambda: pool.alloc_many(20))
    assert isinstance(burst, shmpool.Burst)
    burst.set_column(0, range(20), "u1")
    assert list(range(20)) == burst.column(0, "u1").tolist()
    burst.free()
    assert (True, {}) == (pool.audit().ok, pool.audit().held)
    eventually(lambda: 1 == len(pool.members()))


@pytest.mark.parametrize("kind", ["buffer", "burst", "view", "array"])
def test_a_thread_local_ends_with_its_thread(make_pool: MakePool, kind: str) -> None:
    """What a thread keeps in a threading.local is free when join() returns, and its slot too."""
    pool = make_pool(members=2)
    pool.alloc().free()
    local = threading.local()
    take: dict[str, Callable[[], object]] = {
        "buffer": pool.alloc,
        "burst": lambda: pool.alloc_many(5),
        "view": lambda: pool.alloc().data,
        "array": lambda: pool.array(8, "u1"),
    }

    def work() -> None:
        local.kept = take[kind]()

    for _ in range(300):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert (True, {}) == (pool.audit().ok, pool.audit().held)


def test_a_context_variable_of_an_ended_thread(make_pool: MakePool) -> None:
    """A buffer in one is freed, also if its thread's member has ended before."""
    pool = make_pool(members=64)
    variables = [contextvars.ContextVar[object](str(i)) for i in range(40)]  # in any order
    for variable in variables:
        in_thread(lambda variable=variable: variable.set(pool.alloc()) and None)
        assert (True, {}) == (pool.audit().ok, pool.audit().held)


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("dropped", [False, True])
def test_a_free_when_all_slots_are_taken(make_pool: MakePool, many: bool, dropped: bool) -> None:
    """A thread that is no member frees what an ended thread left, in whose slot it then is."""
    pool = make_pool(members=1)
    held = in_thread(lambda: pool.alloc_many(6) if many else pool.alloc())
    if not dropped:
        held.free()  # type: ignore[attr-defined]
    del held
    assert (True, {}) == (pool.audit().ok, pool.audit().held)
    assert pool.capacity == len(pool.alloc_many(pool.capacity))
    assert shmpool.LimitReached is in_thread(lambda: failure_of(pool.alloc))


def test_a_call_when_all_slots_are_those_of_ended_threads(make_pool: MakePool) -> None:
    """Each thread is the member that the last one was, whose Buffers live on."""
    pool = make_pool(members=1)
    held = [in_thread(pool.alloc) for _ in range(8)]
    assert (True, 8) == (pool.audit().ok, sum(pool.audit().held.values()))
    assert 1 == len(pool.members())
    for buf in held[::2]:
        in_thread(buf.free)  # type: ignore[attr-defined]
    del held, buf
    assert (True, {}) == (pool.audit().ok, pool.audit().held)


def failure_of(call: Callable[[], object]) -> type[Exception] | None:
    try:
        call()
    except shmpool.ShmpoolError as error:
        return type(error)
    return None


def test_more_threads_than_members(make_pool: MakePool) -> None:
    """One thread too many gets LimitReached. The other threads continue."""
    pool = make_pool(members=2)
    held = pool.alloc()
    ready, leave = threading.Event(), threading.Event()

    def second() -> None:
        pool.alloc().free()
        ready.set()
        leave.wait(60)

    def third() -> object:
        try:
            return pool.alloc(timeout=0)
        except shmpool.LimitReached as error:
            return type(error)

    thread = threading.Thread(target=second)
    thread.start()
    ready.wait(60)
    assert shmpool.LimitReached is in_thread(third)
    assert shmpool.Recovery(0, 0, 0, 0, 0, 0) == in_thread(pool.recover)  # no member is dead
    held.free()
    leave.set()
    join(thread)
    assert 2 == pool.geometry.members


def test_many_short_threads(make_pool: MakePool) -> None:
    """Member slots are reused: many more threads than slots, one after the other."""
    pool = make_pool(members=8, capacity=256)
    queue = pool.create_queue("q", capacity=256)
    for i in range(100):
        while True:
            try:
                in_thread(lambda: queue.send(b"%d" % i))  # noqa: B023
                break
            except IndexError:  # LimitReached: the last ones are still ending
                continue
    assert [b"%d" % i for i in range(100)] == queue.recv_many(256)


@pytest.mark.parametrize("workers", [1, 4])
def test_every_message_once(make_pool: MakePool, workers: int) -> None:
    """Concurrent producers and consumers: each message arrives exactly once; of one each: in
    order."""
    pool = make_pool(capacity=512)
    queue = pool.create_queue("q", capacity=64)
    got: list[list[tuple[int, int]]] = [[] for _ in range(workers)]
    each = 1500

    def produce(number: int) -> None:
        for i in range(0, each, 3):
            buf = pool.alloc(timeout=60)
            buf.write(b"%d %d" % (number, i))
            queue.put(buf, timeout=60)
            queue.send(b"%d %d" % (number, i + 1), timeout=60)
            queue.send_many([b"%d %d" % (number, i + 2)], timeout=60)

    def consume(number: int) -> None:
        while True:
            with queue.get(timeout=60) as buf:
                data = bytes(buf)
            if not data:
                break
            who, i = data.split()
            got[number].append((int(who), int(i)))

    producers = [threading.Thread(target=produce, args=(k,)) for k in range(workers)]
    consumers = [threading.Thread(target=consume, args=(k,)) for k in range(workers)]
    for thread in producers + consumers:
        thread.start()
    for thread in producers:
        join(thread)
    for _ in consumers:
        queue.send(b"", timeout=60)
    for thread in consumers:
        join(thread)
    for one in got:
        for who in range(workers):
            mine = [i for k, i in one if k == who]
            assert sorted(mine) == mine
    everything = [(who, i) for who in range(workers) for i in range(each)]
    assert everything == sorted(message for one in got for message in one)
    assert (True, {}) == (pool.audit().ok, pool.audit().held)


BULK = 1 << 14  # bytes: send() copies so many without the interpreter's lock


@pytest.mark.parametrize("first", ["send_many", "send", "trim", "recover"])
def test_a_first_call_without_the_lock(first: str, pool_name: str) -> None:
    """A thread whose first call releases the interpreter's lock is no member after join() either.

    With one slot left, each thread would find it taken by the one before.
    """
    with shmpool.Pool.create(pool_name, buffer_size=BULK, capacity=8, members=2) as pool:
        queue = pool.create_queue("q", capacity=2)
        calls: dict[str, Callable[[], object]] = {
            "send_many": lambda: queue.send_many([b"x"]),
            "send": lambda: queue.send(bytes(BULK)),
            "trim": pool.trim,
            "recover": pool.recover,
        }
        queue.drain()  # makes this thread a member
        for _ in range(50):
            in_thread(calls[first])
            assert 1 == len(pool.members())
            queue.drain()
    shmpool.Pool.unlink(pool_name)


def test_many_created_pools(new_name: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads create pools while another one forgets the oldest that this process has created."""
    monkeypatch.setattr(shmpool.process_exit, "MADE_MAX", 8)
    access, names = os.access, [new_name() for _ in range(40)]

    def create(name: str) -> None:
        options = {"members": 2, "queues": 1, "unlink_on_close": True}
        shmpool.Pool.create(name, buffer_size=64, capacity=2, **options).close()  # type: ignore[arg-type]

    def accessed(path: str, mode: int) -> bool:
        if threading.current_thread() is threading.main_thread() and names:
            name = names.pop()
            in_thread(lambda: create(name))
        return access(path, mode)

    monkeypatch.setattr(os, "access", accessed)
    while names:
        create(names.pop())


@pytest.fixture
def many_switches() -> Iterator[None]:
    """Python changes threads after nearly every bytecode."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


Item = shmpool.Buffer | shmpool.Burst


def test_threads_share_buffers(make_pool: MakePool, many_switches: None) -> None:
    """Four threads use the same Buffers and Bursts at the same time, which they may not: each call
    succeeds or is refused, and every buffer is freed, or put, once."""
    pool = make_pool(capacity=1024, members=16)
    queue = pool.create_queue("q", capacity=1024)
    shared: list[Item] = [pool.alloc() for _ in range(100)]
    shared += [pool.alloc_many(4) for _ in range(100)]
    refusals = (
        shmpool.BufferReleased, shmpool.BufferInUse, shmpool.InvalidArgument, IndexError,
    )  # fmt: skip

    def touch(item: Item) -> None:
        if isinstance(item, shmpool.Burst):
            item[1:2].free()
            item = item[0]
        item.write(b"some bytes")
        item.mark += 1
        with memoryview(item) as view:
            assert bytes(view) == b"some bytes"

    def put(item: Item) -> None:
        if isinstance(item, shmpool.Burst):
            queue.put_many(item, 0)
        else:
            queue.put(item, 0)

    def work(seed: int) -> None:
        order = random.Random(seed)
        for item in order.sample(shared, len(shared)):
            for call in (touch, order.choice((put, type(item).free))):
                with contextlib.suppress(*refusals):
                    call(item)

    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(work, seed) for seed in range(4)]:
            done.result()
    for item in shared:  # that a view of another thread has kept
        with contextlib.suppress(shmpool.BufferReleased):
            item.free()
    audit, stats = pool.audit(), pool.stats()
    assert (True, {}) == (audit.ok, audit.held)
    assert stats.created == stats.free + stats.cached + stats.queued
    indices = [buf.index for buf in queue.get_many(1024)]
    assert 0 < len(indices) == len(set(indices)) == stats.queued
