# SPDX-License-Identifier: Apache-2.0
"""Names of pools over time: waited for, replaced, and removed with the pool; pools without a
name."""

import contextlib
import multiprocessing
import os
import pickle
import re
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import shmpool
from tests.conftest import Child, Eventually, MakePool, join
from tests.test_waiting import BLOCKING, blocked

SIZES = {"buffer_size": 256, "capacity": 64}
Start = Callable[..., Child]


def there(name: str) -> bool:
    return os.path.exists(f"/dev/shm/shmpool.{name}")


# Replaced names.


@pytest.mark.parametrize("kind", BLOCKING)
def test_every_wait_ends(make_pool: MakePool, eventually: Eventually, kind: str) -> None:
    """A call that waits without limit is PoolReplaced when another pool gets the name.

    It has moved no buffer.
    """
    pool = make_pool()
    queue, held = blocked(pool, kind)
    before = pool.stats().queued
    caught: list[BaseException] = []

    def wait() -> None:
        try:
            BLOCKING[kind](pool, queue)
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    eventually(lambda: pool.stats().counters["sleep"] >= 1)
    assert not pool.replaced
    make_pool(name=pool.name, replace=True)
    assert pool.replaced
    join(thread)
    assert [shmpool.PoolReplaced] == [type(error) for error in caught]
    caught.clear()
    assert (True, before) == (pool.audit().ok, pool.stats().queued)
    del held


def test_a_nack_that_waits(make_pool: MakePool) -> None:
    """Its wait ends too, and the caller keeps the buffer."""
    pool = make_pool()
    queue = pool.create_queue("q", capacity=2)
    queue.send_many([b"1", b"2"])
    buf = queue.get()
    queue.send(b"3")
    make_pool(name=pool.name, replace=True)
    with pytest.raises(shmpool.PoolReplaced, match=pool.name):
        buf.nack(timeout=60)
    assert b"1" == bytes(buf)


def test_short_waits(make_pool: MakePool) -> None:
    """A loop of short waits gets PoolReplaced too. A call that does not wait, or succeeds,
    continues."""
    pool = make_pool()
    queue = pool.create_queue("q", capacity=2)
    pool.unlink(pool.name)
    with pytest.raises(shmpool.Empty):
        queue.get(timeout=0.001)  # a name that was only removed has not been replaced
    assert not pool.replaced
    make_pool(name=pool.name)
    for call in (queue.get, queue.recv, lambda timeout: queue.get_many(2, timeout)):
        with pytest.raises(shmpool.PoolReplaced):
            call(timeout=0.001)
        with pytest.raises(shmpool.Empty):
            call(timeout=0)
    queue.send(b"x")
    assert b"x" == queue.recv(timeout=0.001)
    queue.send_many([b"x"] * 2)
    for send in (queue.send, lambda payload, timeout: queue.send_many([payload], timeout)):
        with pytest.raises(shmpool.PoolReplaced):
            send(b"x", timeout=0.001)
        with pytest.raises(shmpool.Full):
            send(b"x", timeout=0)
    with pool.alloc_many(60, timeout=0.001), pytest.raises(shmpool.PoolReplaced):
        pool.alloc_many(5, timeout=0.001)


def test_a_file_of_another_user(pool: shmpool.Pool) -> None:
    """A file of another user with the pool's former name does not disturb the pool's members."""
    if os.geteuid():
        pytest.skip("needs root")
    queue = pool.create_queue("q", capacity=2)
    pool.unlink(pool.name)
    path = Path(f"/dev/shm/shmpool.{pool.name}")
    path.touch()
    os.chown(path, 65534, -1)
    assert not pool.replaced
    with pytest.raises(shmpool.Empty):
        queue.get(timeout=0.3)
    path.unlink()
    path.symlink_to("/dev/null")
    assert not pool.replaced


def test_in_one_step(make_pool: MakePool, start: Start) -> None:
    """An attach while a pool is replaced finds the old one or the new one, never none."""
    pool = make_pool()
    child = start(
        """
        import sys
        import shmpool
        print(flush=True)
        found = set()
        for _ in range(2000):
            with shmpool.Pool.attach(sys.argv[1]) as pool:
                found.add(pool.capacity)
        print(len(found))
        """,
        pool.name,
    )
    child.line()
    capacity = 64
    while child.process.poll() is None:
        capacity = 192 - capacity
        make_pool(name=pool.name, capacity=capacity, replace=True).close()
    assert "2" == child.line()


# Created if it is missing.


def test_exist_ok(make_pool: MakePool, pool_name: str) -> None:
    """It creates the pool, or attaches if the pool is as asked for. Options left out may differ."""
    first = make_pool(name=pool_name, exist_ok=True, headroom=16, cache_size=0)
    second = make_pool(name=pool_name, exist_ok=True, buffer_size=200)  # which makes 256
    assert first._same(second)
    with pytest.raises(shmpool.PoolExists, match="capacity 64, not 128; headroom 16, not 32"):
        make_pool(name=pool_name, exist_ok=True, capacity=128, headroom=32)
    with pytest.raises(shmpool.PoolExists):
        make_pool(name=pool_name)


def test_options_that_exclude_each_other(pool_name: str) -> None:
    """They are refused, and nothing is created."""
    for name, options in (
        (pool_name, {"exist_ok": True, "replace": True}),
        (None, {"exist_ok": True}),
        (None, {"replace": True}),
        (None, {"unlink_on_close": True}),
        (None, {"group": 0}),
    ):
        with pytest.raises(shmpool.InvalidArgument):
            shmpool.Pool.create(name, **SIZES, **options)  # type: ignore[arg-type]
    assert not there(pool_name)


def test_many_that_make_it(start: Start, pool_name: str) -> None:
    """Of processes that start together one creates the pool and all have it."""
    script = """
        import sys
        import shmpool
        sys.stdin.readline()
        with shmpool.Pool.create(
            sys.argv[1], buffer_size=64, capacity=64, exist_ok=True
        ) as pool, pool.alloc():
            print(pool._segment.inode, flush=True)
            sys.stdin.readline()
        """
    children = [start(script, pool_name) for _ in range(6)]
    for child in children:
        child.send()
    assert 1 == len({child.line() for child in children})
    for child in children:
        child.send()
        child.end()


# Waited for.


def test_attach_waits(make_pool: MakePool, start: Start, pool_name: str) -> None:
    """A worker starts before the pool and its queue are created."""
    for timeout in (0, 0.01):
        with pytest.raises(shmpool.PoolNotFound):
            shmpool.Pool.attach(pool_name, timeout=timeout)
    child = start(
        """
        import sys
        import shmpool
        print(flush=True)
        with shmpool.Pool.attach(sys.argv[1], timeout=None) as pool:
            print(pool.queue("work", timeout=60).recv())
        """,
        pool_name,
    )
    child.line()
    pool = make_pool(name=pool_name)
    with pytest.raises(shmpool.QueueNotFound):
        pool.queue("work", timeout=0.01)
    pool.create_queue("work", capacity=4).send(b"x")
    assert "b'x'" == child.line()
    child.end()
    for wrong in (-1, float("nan")):
        with pytest.raises(shmpool.InvalidArgument):
            shmpool.Pool.attach(pool_name, timeout=wrong)
        with pytest.raises(shmpool.InvalidArgument):
            pool.queue("work", timeout=wrong)
    with pytest.raises(TypeError):
        shmpool.Pool.attach(pool_name, timeout="1")  # type: ignore[arg-type]


# Unlinked on close.


@pytest.mark.parametrize("how", ["close", "with", "drop"])
def test_the_name_ends_with_the_object(pool_name: str, how: str) -> None:
    """However the object ends, the name is removed. Processes that have the pool open continue."""
    pool = shmpool.Pool.create(pool_name, **SIZES, unlink_on_close=True)
    other = shmpool.Pool.attach(pool_name)
    if how == "with":
        with pool:
            assert there(pool_name)
    elif how == "close":
        pool.close()
        pool.close()
    del pool
    assert not there(pool_name)
    other.create_queue("q", capacity=2).send(b"x")
    other.close()


@pytest.mark.usefixtures("own_pools")
def test_the_name_ends_with_the_process(start: Start, pool_name: str) -> None:
    """The exit of the process removes it, that of a forked child does not. After a kill prune()
    does."""
    script = """
        import os, sys
        import shmpool
        pool = shmpool.Pool.create(sys.argv[1], buffer_size=64, capacity=64, unlink_on_close=True)
        if os.fork() == 0:
            with pool:
                pool.alloc().free()
            sys.exit()
        os.wait()
        print(os.path.exists("/dev/shm/shmpool." + sys.argv[1]), flush=True)
        sys.stdin.readline()
        """
    child = start(script, pool_name)
    assert "True" == child.line()
    child.send()
    child.end()
    assert not there(pool_name)
    child = start(script, pool_name)
    child.line()
    child.kill()
    assert there(pool_name)
    assert pool_name in shmpool.prune()


def test_another_ones_name(make_pool: MakePool, pool_name: str) -> None:
    """A name that another pool has now is left to that pool."""
    pool = shmpool.Pool.create(pool_name, **SIZES, unlink_on_close=True)
    make_pool(name=pool_name, replace=True)
    pool.close()
    assert there(pool_name)


# Without a name.


def worker(pool: shmpool.Pool, work: shmpool.AlfQueue, done: shmpool.AlfQueue) -> None:
    """Runs in a process that got pool and queues as arguments."""
    assert work.pool is pool is done.pool
    done.send(work.recv(timeout=60))


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_passed_to_a_child(method: str) -> None:
    """A child gets it as an argument, with its queues. It has no file in /dev/shm, so no other
    process finds it."""
    with shmpool.Pool.create(None, **SIZES) as pool:
        assert pool.name not in shmpool.pool_names()
        work, done = pool.create_queue("work", capacity=4), pool.create_queue("done", capacity=4)
        child = multiprocessing.get_context(method).Process(target=worker, args=(pool, work, done))
        child.start()
        work.send(b"x")
        assert b"x" == done.recv(timeout=60)
        child.join()
        assert 0 == child.exitcode
        assert not pool.replaced
        for thing in (pool, work):
            with pytest.raises(TypeError, match="multiprocessing process"):
                pickle.dumps(thing)
        with pytest.raises(shmpool.InvalidArgument):
            shmpool.Pool.attach(pool.name)


def test_a_child_that_dies(eventually: Eventually) -> None:
    """Its buffers are recovered as in any pool."""
    with shmpool.Pool.create(None, **SIZES) as pool:
        queue = pool.create_queue("q", capacity=4, on_death="requeue")
        queue.send(b"x")
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                taken = queue.get()
                while taken:
                    signal.pause()
            os._exit(1)
        eventually(lambda: len(queue) == 0)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert 1 == pool.recover().requeued
        assert 1 == queue.get().redelivered
        assert pool.audit().ok


def test_core_files(pool: shmpool.Pool) -> None:
    """They do not contain payloads: of pools with a name, whose name was removed, and without
    one."""
    with shmpool.Pool.create(None, **SIZES), shmpool.Pool.attach(pool.name) as second:
        pool.unlink(pool.name)
        text = Path("/proc/self/smaps").read_text()
    found = set()
    for mapping in re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", text):
        kind = re.search(r" rw-s .*(memfd:shmpool|shmpool\.test)", mapping)
        if kind:
            found.add((kind[1], " dd" in mapping[mapping.index("VmFlags") :]))
    assert {("shmpool.test", True), ("memfd:shmpool", True)} == found
    del second


def test_a_replacement_that_cannot_be_opened(pool_name: str, start: Callable[..., Child]) -> None:
    """A process with 256 pools open is refused before the name is taken: the old pool keeps it."""
    child = start(
        """
        import sys, shmpool
        name = sys.argv[1]
        make = dict(buffer_size=64, capacity=64)
        old = shmpool.Pool.create(name, **make)
        more = [shmpool.Pool.create(None, **make) for _ in range(255)]
        for options in (dict(replace=True), dict(exist_ok=True), {}):
            try:
                shmpool.Pool.create(name, **make, **options)
            except shmpool.LimitReached as error:
                print(error)
        print(old.replaced)
        """,
        pool_name,
    )
    *said, replaced = child.end().splitlines()
    assert 3 == len(said)
    assert all("256 pools are open" in text for text in said)
    assert "False" == replaced
    assert pool_name in shmpool.pool_names()
    shmpool.Pool.unlink(pool_name)


@pytest.mark.parametrize("options", [{"replace": True}, {}, {"unlink_on_close": True}])
def test_a_pool_whose_opening_fails(
    make_pool: MakePool, new_name: Callable[[], str], options: dict[str, bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The name is given last: a replaced pool keeps its name, a new name never existed."""
    old = make_pool()
    name = old.name if "replace" in options else new_name()

    def fails(pool: shmpool.Pool) -> None:
        assert (name == old.name) == Path(f"/dev/shm/shmpool.{name}").exists()
        raise MemoryError

    monkeypatch.setattr(shmpool.pool, "leave_at_the_end", fails)
    with pytest.raises(MemoryError):
        shmpool.Pool.create(name, **SIZES, **options)  # type: ignore[arg-type]
    assert not old.replaced
    assert (name == old.name) == (name in shmpool.pool_names())
