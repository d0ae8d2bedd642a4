# SPDX-License-Identifier: Apache-2.0
"""Segments that are cut off while the daemon, or whoever looks, reads them."""

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

    view.survive_truncation()
    view.survive_truncation()
    name = sys.argv[1]
    path = f"/dev/shm/shmpool.{name}"
    with view.View(name) as look, shmpool.Pool.attach(name) as pool:
        assert 64 == look.stats().free
        os.truncate(path, int(sys.argv[2]))
        stats.read_stats(look._number, 64)  # as look.stats(), which has checked the size
        os.truncate(path, os.stat(path).st_size + (1 << 24))
        for call in (look.stats, look.members, look.queues, look.dead):
            try:
                call()
            except shmpool.SegmentInvalid as error:
                print("refused")
        for call in (pool.audit, pool.recover, pool.holders):
            call()
        try:
            pool._refuse_if_cut_off()
        except shmpool.SegmentInvalid:
            print("refused")
"""


@pytest.mark.parametrize("keep", [0, 4096])
def test_cut_off_between_the_check_and_the_read(
    make_pool: MakePool, run: Callable[..., str], keep: int
) -> None:
    """The very reads that would be SIGBUS come to SegmentInvalid, also when the file is long again
    before anybody looks at its size, and the pool can be closed."""
    name = make_pool(prealloc=64).name
    assert ["refused"] * 5 == run(CUT_BETWEEN_CHECK_AND_READ, name, keep).splitlines()


SOMEBODY_ELSES = """
    import faulthandler, mmap, os, sys
    from shmpool import view

    if sys.argv[1] == "handler":
        faulthandler.enable()
    view.survive_truncation()
    fd = os.memfd_create("other")
    os.truncate(fd, 4096)
    other = mmap.mmap(fd, 4096)
    os.truncate(fd, 0)
    other[0]
"""


@pytest.mark.parametrize("before", ["none", "handler"])
def test_what_is_no_pool_ends_as_before(before: str) -> None:
    """A SIGBUS at another address ends the process, after the handler that was there has run."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SOMEBODY_ELSES), before],
        capture_output=True,
        text=True,
    )
    assert -signal.SIGBUS == done.returncode
    assert (before == "handler") == ("Bus error" in done.stderr)


def test_cut_off_while_the_daemon_reads(
    start_daemon: StartDaemon, make_pool: MakePool, new_name: Callable[[], str]
) -> None:
    """Pools are cut off again and again while the daemon looks at them, counts them and puts them
    right without a pause: it answers that they are damaged, until some were cut off in the very
    middle of a read, and goes on."""
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
                        if "the segment is damaged" in str(error) or "cut it off" in str(error):
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
