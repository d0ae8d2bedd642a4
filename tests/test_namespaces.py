# SPDX-License-Identifier: Apache-2.0
"""A pool shared by containers: PID namespaces, no /proc, seccomp, containers killed as a whole."""

import os
import re
import subprocess
import sys
from collections.abc import Callable

import pytest
from conftest import Child, Eventually, MakePool

import shmpool

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for PID namespaces"),
    pytest.mark.skipif(
        subprocess.run(["unshare", "--pid", "--fork", "true"], check=False).returncode != 0,
        reason="no permission to make a PID namespace",
    ),
]

IN_A_NAMESPACE = """
    import os, sys
    code = '''
    import os, sys
    import shmpool
    print(os.getpid(), flush=True)
    sys.stdin.readline()
    pool = shmpool.Pool.attach(sys.argv[1])
    {then}
    '''
    import textwrap
    os.execvp("unshare", ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc",
                          sys.executable, "-c", textwrap.dedent(code), *sys.argv[1:]])
"""
HOLDS = """buf = pool.alloc()
    buf.write(b"mine")
    print("holds", flush=True)
    sys.stdin.readline()
    print(bytes(buf), flush=True)
    sys.stdin.readline()
    """
RECOVERS = """pool.alloc().free()
    print(pool.recover().members, flush=True)
    sys.stdin.readline()
    """


@pytest.mark.slow
def test_a_storm_over_namespaces() -> None:
    """Workers in three namespaces, and whole namespaces, are killed, without /proc and under
    seccomp too.

    No live member is disturbed, and no message is lost or duplicated.
    """
    done = subprocess.run(
        [sys.executable, "-m", "tests.storm_namespaces", "--kills", "60", "--seed", "3"],
        capture_output=True,
        text=True,
    )
    assert (0, "") == (done.returncode, done.stderr), done.stdout
    assert re.match(r"6\d kills, \d+ whole namespaces; 0 live members disturbed, 0 ", done.stdout)


def test_two_first_processes(make_pool: MakePool, start: Callable[..., Child]) -> None:
    """Python is process 1 in two containers. Neither is taken for the dead other one."""
    pool = make_pool(capacity=8, cache_size=0)
    holder, other = (
        start(IN_A_NAMESPACE.format(then=then), pool.name) for then in (HOLDS, RECOVERS)
    )
    assert ["1", "1"] == [holder.line(), other.line()]
    holder.send()
    assert "holds" == holder.line()
    other.send()
    assert "0" == other.line()
    mine = pool.alloc_many(7)
    with pytest.raises(shmpool.PoolExhausted):
        pool.alloc(timeout=0)
    holder.send()
    assert "b'mine'" == holder.line()
    mine.free()
    for child in (holder, other):
        child.kill()


def test_a_container_killed_as_a_whole(make_pool: MakePool, start: Callable[..., Child]) -> None:
    """Its buffers are recovered, by the host and by a container that replaces it."""
    pool = make_pool(capacity=8, cache_size=0)
    queue = pool.create_queue("jobs", capacity=4, on_death="requeue")
    queue.send(b"job")
    then = """jobs = pool.queue("jobs")
    held = jobs.get(), pool.alloc_many(3)
    print("holds", flush=True)
    import signal
    signal.pause()
    """
    for _ in range(2):
        child = start(IN_A_NAMESPACE.format(then=then), pool.name)
        assert "1" == child.line()
        child.send()
        assert "holds" == child.line()
        child.kill()
    assert b"job" == queue.recv()  # a waiting consumer recovers it by itself
    assert (True, {}) == (pool.audit().ok, pool.audit().held)


def test_a_sleeper_in_another_container(
    make_pool: MakePool, start: Callable[..., Child], eventually: Eventually
) -> None:
    """A consumer that sleeps in one container gets the job of a process killed in another."""
    pool = make_pool(capacity=8, cache_size=0)
    pool.create_queue("jobs", capacity=4, on_death="requeue").send(b"job")
    killed, waits = (
        start(
            IN_A_NAMESPACE.format(
                then=f"""jobs = pool.queue("jobs")
    {then}
    sys.stdin.readline()
    """
            ),
            pool.name,
        )
        for then in (
            'held = jobs.get(); print("holds", flush=True); import signal; signal.pause()',
            "print(jobs.recv(), flush=True)",
        )
    )
    assert ["1", "1"] == [killed.line(), waits.line()]
    killed.send()
    assert "holds" == killed.line()
    waits.send()
    eventually(lambda: pool.stats().counters["sleep"])
    killed.kill()
    assert "b'job'" == waits.line()
