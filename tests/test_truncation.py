# SPDX-License-Identifier: Apache-2.0
"""Segments that are truncated while the daemon, or another reader, reads them."""

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable

import pytest
from conftest import DEADLINE_S, MakePool, StartDaemon

import shmpool

CUT_BETWEEN_CHECK_AND_READ = """
    import os, sys
    import shmpool
    from shmpool import stats, view

    name = sys.argv[1]
    path = f"/dev/shm/shmpool.{name}"
    with view.View(name) as reader, shmpool.Pool.attach(name) as pool:
        assert 64 == reader.stats().free
        os.truncate(path, int(sys.argv[2]))
        read = lambda: stats.read_stats(reader._number, 64)  # reader.stats() checks the size first
        calls = [read, pool.audit, pool.audit, pool.recover, pool.holders, pool.stats]
        for call in calls + [reader.stats, reader.members, reader.queues, reader.dead]:
            try:
                call()
            except shmpool.SegmentInvalid as error:
                print("refused")
            if call is read:
                os.truncate(path, os.stat(path).st_size + (1 << 24))
"""


@pytest.mark.parametrize("keep", [0, 4096])
def test_truncated_between_check_and_read(
    make_pool: MakePool, run: Callable[..., str], keep: int
) -> None:
    """A read that would be SIGBUS is SegmentInvalid, also if the file grows again before it is
    checked.

    The pool can be closed.
    """
    name = make_pool(prealloc=64).name
    assert ["refused"] * 10 == run(CUT_BETWEEN_CHECK_AND_READ, name, keep).splitlines()


WORKER = """
    import os, sys, threading
    import shmpool

    name = sys.argv[1]
    path = f"/dev/shm/shmpool.{name}"
    size = os.stat(path).st_size

    def meet(call):
        try:
            call()
        except shmpool.ShmpoolError as error:
            return type(error).__name__
        return "done"

    pool = shmpool.Pool.attach(name)
    queue = pool.queue("q")
    held, burst = pool.alloc(), pool.alloc_many(3)
    asleep = []
    sleeper = threading.Thread(target=lambda: asleep.append(meet(queue.get)))
    sleeper.start()
    while not pool.stats().counters["sleep"]:
        pass
    os.truncate(path, 0)
    meet(lambda: queue.send(b"x"))  # the first call that meets the hole may fail in any way
    meet(pool.stats)
    calls = [
        lambda: queue.send(b"x"), lambda: queue.recv(timeout=0), queue.get, lambda: queue.put(held),
        lambda: pool.alloc(), held.free, burst.free, lambda: held.write(b"x"),
        lambda: queue.send_many([b"x"] * 3), lambda: queue.recv_many(3), lambda: burst.lengths,
        lambda: queue.put_many(burst), lambda: queue.get_many(3), lambda: pool.alloc_many(3),
        pool.stats, pool.members, pool.audit, pool.holders, pool.recover, pool.trim,
        lambda: pool.queue("q"), lambda: pool.create_queue("r", capacity=8), lambda: len(queue),
    ]
    print(*[meet(call) for call in calls])
    sleeper.join()
    print(*asleep)
    pool.close()
    for n in range(300):  # 256 pools are the most that may be open
        more = shmpool.Pool.create(f"{name}-{n}", buffer_size=64, capacity=64, prealloc=64)
        os.truncate(f"/dev/shm/shmpool.{name}-{n}", 4096)
        meet(more.alloc)
        shmpool.Pool.unlink(more.name)
        more.close()
    print(meet(pool.stats))
"""


def test_truncated_under_a_worker(make_pool: MakePool, run: Callable[..., str]) -> None:
    """A worker whose pool is truncated survives: from then on all its calls are SegmentInvalid.

    Sleeping calls end, and the pool can be closed.
    """
    pool = make_pool(prealloc=64)
    pool.create_queue("q", capacity=8)
    calls, asleep, after = run(WORKER, pool.name).splitlines()
    assert {"SegmentInvalid"} == set(calls.split()), calls
    assert asleep in ("SegmentInvalid", "PoolClosed", "done")  # done: this call met the hole first
    assert "PoolClosed" == after


OTHER_ADDRESS = """
    import faulthandler, mmap, os, sys
    import shmpool

    if sys.argv[1] == "handler":
        faulthandler.enable()
    shmpool.Pool.create(sys.argv[2], buffer_size=64, capacity=2)
    shmpool.Pool.unlink(sys.argv[2])
    fd = os.memfd_create("other")
    os.truncate(fd, 4096)
    other = mmap.mmap(fd, 4096)
    os.truncate(fd, 0)
    other[0]
"""


@pytest.mark.parametrize("before", ["none", "handler"])
def test_other_addresses_end_the_process(pool_name: str, before: str) -> None:
    """A SIGBUS at another address ends the process, after the earlier handler has run."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(OTHER_ADDRESS), before, pool_name],
        capture_output=True,
        text=True,
    )
    assert -signal.SIGBUS == done.returncode
    assert (before == "handler") == ("Bus error" in done.stderr)


@pytest.mark.slow
def test_truncated_while_the_daemon_reads(
    start_daemon: StartDaemon, make_pool: MakePool, new_name: Callable[[], str]
) -> None:
    """Pools are truncated again and again while the daemon reads, counts and recovers them.

    It answers that they are damaged, until some were truncated in the middle of a read, and goes
    on.
    """
    good = make_pool()
    daemon = start_daemon(options="interval = 0.05")
    caught: list[str] = []
    stop = threading.Event()
    target = [good.name]

    def ask(method: str) -> None:
        with shmpool.Client(daemon.socket) as client:
            while not stop.is_set():
                with contextlib.suppress(shmpool.PoolNotFound):
                    try:
                        getattr(client, method)(target[0])
                    except shmpool.SegmentInvalid as error:
                        if "is corrupted" in str(error) or "was truncated" in str(error):
                            caught.append(method)

    askers = [
        threading.Thread(target=ask, args=(method,))
        for method in ("audit", "holders", "recover", "stats", "members", "describe")
    ]
    for asker in askers:
        asker.start()
    try:
        give_up = time.monotonic() + DEADLINE_S
        rounds = 0
        while len(caught) < 5 or rounds < 20:
            assert time.monotonic() < give_up, f"{rounds} rounds, {caught}"
            assert daemon.process.poll() is None, daemon.output()
            rounds += 1
            pool = make_pool(name=new_name(), capacity=65536, prealloc=65536, buffer_size=64)
            target[0] = pool.name
            pool.close()
            time.sleep(0.01 + rounds % 7 * 0.005)
            os.truncate(f"/dev/shm/shmpool.{target[0]}", (0, 4096, 1 << 20)[rounds % 3])
            shmpool.Pool.unlink(target[0])
    finally:
        stop.set()
        for asker in askers:
            asker.join()
    with shmpool.Client(daemon.socket) as client:
        assert daemon.pid == client.ping().pid
        assert client.audit(good.name).ok
    assert 0 == daemon.end()
    assert "Traceback" not in daemon.output()
