# SPDX-License-Identifier: Apache-2.0
"""Processes: multiprocessing workers, pickling, and what a forked child may do."""

import errno
import multiprocessing
import os
import pickle
from collections.abc import Callable

import pytest
from conftest import Child, Handles, MakePool, need_wiped_memory

import shmpool

METHODS = ["fork", "spawn", "forkserver"]
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


def echo(pool: shmpool.Pool, work: shmpool.AlfQueue, done: shmpool.AlfQueue) -> None:
    """A worker: takes packets with every kind of call until an empty one arrives."""
    assert work.pool is pool
    while True:
        with work.get(timeout=60) as buf:
            data = bytes(buf)
        if not data:
            break
        answer = pool.alloc(timeout=60)
        answer.write(data + b" by %d" % os.getpid())
        done.put(answer, timeout=60)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_workers_of_multiprocessing(make_pool: MakePool, method: str) -> None:
    """Pool and queues are arguments of a Process; every packet is answered exactly once."""
    pool = make_pool(capacity=512)
    work, done = pool.create_queue("work", capacity=128), pool.create_queue("done", capacity=512)
    context = multiprocessing.get_context(method)
    workers = [context.Process(target=echo, args=(pool, work, done)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for i in range(300):
        work.send(b"%d" % i, timeout=60)
    answers = [done.recv(timeout=60) for _ in range(300)]
    for _ in workers:
        work.send(b"")
    pids = {worker.pid for worker in workers}
    for worker in workers:
        worker.join()
        assert 0 == worker.exitcode
        worker.close()
    assert list(range(300)) == sorted(int(answer.split()[0]) for answer in answers)
    assert {int(answer.split()[2]) for answer in answers} <= pids
    audit = pool.audit()
    assert (True, {}, {"work": 0, "done": 0}) == (audit.ok, audit.held, audit.queued)
    assert {os.getpid()} == {member.pid for member in pool.members()}


def hold(pool: shmpool.Pool, n: int) -> None:
    """A worker that ends while it owns buffers."""
    global kept
    kept = [pool.alloc() for _ in range(n)]


@pytest.mark.parametrize("method", METHODS)
def test_a_worker_that_just_returns(make_pool: MakePool, method: str) -> None:
    """Its buffers are returned when its function returns, without a close."""
    pool = make_pool(capacity=256)
    worker = multiprocessing.get_context(method).Process(target=hold, args=(pool, 10))
    worker.start()
    worker.join()
    assert 0 == worker.exitcode
    worker.close()
    assert (True, {}, []) == (pool.audit().ok, pool.audit().held, pool.members())


def test_pickles_name_the_pool(make_pool: MakePool) -> None:
    """A pickle is the pool itself in a process that has it open. Elsewhere it attaches to the
    pool."""
    pool = make_pool()
    queue = pool.create_queue("q", capacity=8, consumers="single")
    assert pool is pickle.loads(pickle.dumps(pool))
    again = pickle.loads(pickle.dumps(queue))
    assert (pool, "q", 8, "single") == (again.pool, again.name, again.capacity, again.consumers)
    again.send(b"x")
    assert b"x" == queue.recv()
    stored = pickle.dumps((pool, queue))
    assert len(stored) < 500
    pool.close()
    new_pool, new_queue = pickle.loads(stored)
    assert new_pool is new_queue.pool
    assert new_pool is not pool
    new_pool.close()
    shmpool.Pool.unlink(pool.name)
    with pytest.raises(shmpool.PoolNotFound, match=pool.name):
        pickle.loads(stored)


def test_pickles_follow_the_name(make_pool: MakePool) -> None:
    """If the name has been given to a new pool, a pickle is that one."""
    old = make_pool()
    old.create_queue("q", capacity=8)
    stored = pickle.dumps(old)
    shmpool.Pool.unlink(old.name)
    new = make_pool(name=old.name, capacity=128)
    assert new is pickle.loads(stored)
    with pytest.raises(shmpool.QueueNotFound):
        pickle.loads(pickle.dumps(old.queue("q")))


def test_buffers_do_not_pickle(pool: shmpool.Pool) -> None:
    """A Buffer or a Burst cannot be pickled: it is passed through a queue."""
    for thing in (pool.alloc(), pool.alloc_many(2)):
        with pytest.raises(TypeError):
            pickle.dumps(thing)


FORKED = """
    import ctypes, os, sys, threading
    import numpy
    import shmpool

    pool = shmpool.Pool.attach(sys.argv[1])
    queue = pool.queue("q")
    buf, burst, member = pool.alloc(), pool.alloc_many(4), None
    member = burst[1]
    buf.write(b"parent's")
    burst.lengths = 1
    burst.set_column(0, 7, "u1")

    def refused(call, *kinds):
        try:
            call()
        except kinds:
            return
        raise AssertionError(f"{call} was not refused")

    def wait():
        try:
            pool.queue("never").get(timeout=None)
        except shmpool.PoolClosed:
            pass  # by the end of the process

    if sys.argv[2] == "waiting":
        threading.Thread(target=wait, daemon=True).start()
        while pool.stats().counters["sleep"] < 1:
            pass
    clone = {"x86_64": 56, "aarch64": 220}[os.uname().machine]
    fork = {
        "libc": lambda: ctypes.PyDLL(None).fork(),  # none of Python's hooks
        "kernel": lambda: ctypes.PyDLL(None).syscall(clone, 17, 0, 0, 0, 0),  # no hook at all
    }.get(sys.argv[2], os.fork)
    index, theirs = buf.index, {*burst.indices.tolist()}
    child = fork()
    if not child:
        try:
            assert buf.released and member.released
            try:
                buf.free()
            except shmpool.BufferReleased as error:
                assert f"buffer {index} of pool '{pool.name}'" in str(error), error
                assert str(error).endswith("the process that this one was forked from"), error
            gone = (shmpool.BufferReleased, shmpool.ForeignBuffer)
            for call in (
                buf.free,
                lambda: buf.write(b"child's"),
                lambda: bytes(buf),
                lambda: buf.view,
                lambda: queue.put(buf),
                lambda: setattr(buf, "mark", 1),
                member.free,
                burst.free,
                lambda: queue.put_many(burst),
                lambda: burst[0].write(b"child's"),
                lambda: setattr(burst, "lengths", 2),
                lambda: burst.set_column(0, 9, "u1"),
            ):
                refused(call, *gone)
            own = pool.alloc_many(8)
            assert not {*own.indices.tolist()} & theirs
            queue.put_many(own)
            queue.send(b"child's own")
            assert os.getpid() in {member.pid for member in pool.members()}
            del buf, burst, member
            pool.close()
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert status == 0, status
    assert bytes(buf) == b"parent's" and bytes(member) == b"\\7"
    assert burst.column(0, "u1").tolist() == [7] * 4
    assert burst.lengths.tolist() == [1] * 4
    assert len(queue.get_many(8)) == 8 and queue.recv() == b"child's own"
    assert child not in {member.pid for member in pool.members()}
    assert list(pool.audit().held.values()) == [5], pool.audit()
    del member
    buf.free()
    burst.free()
    audit = pool.audit()
    assert audit.ok and not audit.held, audit
"""


@pytest.mark.parametrize("how", ["", "waiting", "libc", "kernel"])
def test_a_forked_child(make_pool: MakePool, run: Callable[..., str], how: str) -> None:
    """It is a member of its own. Its parent's Buffers and Bursts are not the child's."""
    if how == "kernel":
        need_wiped_memory()
    pool = make_pool()
    pool.create_queue("q", capacity=16)
    pool.create_queue("never", capacity=2)
    assert "" == run(FORKED, pool.name, how)


def test_a_forked_child_that_closes(make_pool: MakePool, run: Callable[..., str]) -> None:
    """close() in the child releases nothing of the parent."""
    pool = make_pool()
    run(
        """
        import os, sys
        import shmpool
        pool = shmpool.Pool.attach(sys.argv[1])
        held = pool.alloc_many(10)
        child = os.fork()
        if not child:
            pool.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert sum(pool.audit().held.values()) == 10
        held.free()
        """,
        pool.name,
    )
    assert (True, {}) == (pool.audit().ok, pool.audit().held)


PRODUCER = """
    import shmpool, sys
    with shmpool.Pool.attach(sys.argv[1]) as pool:
        queue, me, n = pool.queue("q"), int(sys.argv[2]), int(sys.argv[3])
        for i in range(0, n, 10):
            buf = pool.alloc(timeout=60)
            buf.write(b"%d %d" % (me, i))
            queue.put(buf, timeout=60)
            queue.send(b"%d %d" % (me, i + 1), timeout=60)
            queue.send_many([b"%d %d" % (me, k) for k in range(i + 2, i + 6)], timeout=60)
            burst = pool.alloc_many(4, timeout=60)
            for k, buf in enumerate(burst, i + 6):
                buf.write(b"%d %d" % (me, k))
            queue.put_many(burst, timeout=60)
"""
CONSUMER = """
    import shmpool, sys
    got, run = [], True
    with shmpool.Pool.attach(sys.argv[1]) as pool:
        queue = pool.queue("q")
        while run:
            with queue.get_many(8, timeout=60) as burst:
                data = [bytes(buf) for buf in burst]
            data.append(queue.recv(timeout=60)) if all(data) else None
            run = all(data)
            extra = data.count(b"") - 1
            for _ in range(extra):  # another consumer's
                queue.send(b"", timeout=60)
            got += [packet.decode() for packet in data if packet]
    print(*got, sep="\\n")
"""


@pytest.mark.parametrize(("workers", "kind"), [(1, "single"), (1, "multi"), (3, "multi")])
def test_every_packet_once(
    make_pool: MakePool, start: Callable[..., Child], workers: int, kind: str
) -> None:
    """Several processes put and get: each packet arrives once, each producer's packets in order."""
    each = 2000
    pool = make_pool(capacity=256)
    queue = pool.create_queue("q", capacity=64, producers=kind, consumers=kind)
    consumers = [start(CONSUMER, pool.name) for _ in range(workers)]
    producers = [start(PRODUCER, pool.name, k, each) for k in range(workers)]
    for child in producers:
        assert "" == child.end()
    for _ in consumers:
        queue.send(b"", timeout=60)
    lists = []
    for child in consumers:
        lines = filter(None, child.end().splitlines())  # a consumer may have started too late
        lists.append([(int(a), int(b)) for a, b in map(str.split, lines)])
    for got in lists:
        for who in range(workers):
            mine = [i for k, i in got if k == who]
            assert sorted(mine) == mine
    expected = [(who, i) for who in range(workers) for i in range(each)]
    assert expected == sorted(packet for got in lists for packet in got)
    audit = pool.audit()
    assert (True, {}, {"q": 0}) == (audit.ok, audit.held, audit.queued)


def test_a_handle_of_another_process(make_pool: MakePool, start: Callable[..., Child]) -> None:
    """Handles that another process allocated can be neither freed nor put here."""
    pool = make_pool()
    queue = pool.create_queue("q", capacity=8)
    child = start(
        """
        import shmpool, sys
        with shmpool.Pool.attach(sys.argv[1]) as pool:
            burst = pool.alloc_many(3)
            print(*(buf.generation << 32 | buf.index for buf in burst), flush=True)
            input()
            burst.free()
        """,
        pool.name,
    )
    burst = pool.alloc_many(2)
    theirs = [int(handle) for handle in child.line().split()]
    for call in (Handles(pool).free, Handles(pool, queue).put):
        assert -errno.EPERM == call(theirs)
    child.send()
    child.end()
    burst.free()
    assert (True, {}, 0) == (pool.audit().ok, pool.audit().held, len(queue))
