# SPDX-License-Identifier: Apache-2.0
"""A process closes all its descriptors and opens other files under the same numbers.

Its pools work on, no live member counts as dead, and no foreign file is written to.
"""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Child, MakePool

import shmpool

Start = Callable[..., Child]

# close_all() as a daemonising program does; then each number is a file of the test.
CLOSES = """
import os, sys
from pathlib import Path
import shmpool

def close_all(directory):
    os.closerange(3, 4096)
    files = []
    while len(files) < 32:
        path = f"{directory}/{len(files)}"
        files.append(os.open(path, os.O_CREAT | os.O_RDWR))
        os.write(files[-1], b"precious" * 1024)
    return files

def same_bytes(directory):
    return all(Path(f"{directory}/{i}").read_bytes() == b"precious" * 1024 for i in range(32))

def intact(directory):
    blocks = {os.stat(f"{directory}/{i}").st_blocks for i in range(32)}
    return same_bytes(directory) and len(blocks) == 1 and max(blocks) * 512 < 1 << 16
"""


def test_a_pool_works_on(make_pool: MakePool, start: Start, tmp_path: Path) -> None:
    """The pool grows, creates queues, trims, recovers and audits. Other processes see the member as
    live.

    A child that it forks is a member too. close() leaves the foreign descriptors open.
    """
    pool = make_pool(buffer_size=4096, capacity=4096)
    child = start(
        CLOSES
        + """
pool = shmpool.Pool.attach(sys.argv[1])
pool.alloc().free()
files = close_all(sys.argv[2])
held = pool.alloc_many(2048)
queue = pool.create_queue("q", capacity=65536)
print(len(held), flush=True)
sys.stdin.readline()
print(pool.recover(), flush=True)
held.free()
trimmed = pool.trim() > 0
print(trimmed, pool.audit().ok, pool.replaced, len(pool.alloc_many(2048)), flush=True)
forked = os.fork()
if forked == 0:
    pool.alloc().free()
    os._exit(0 if pool.recover().members == 0 else 1)
print(os.waitpid(forked, 0)[1])
pool.close()
print(all(os.fstat(fd).st_size == 8192 for fd in files), intact(sys.argv[2]))
""",
        pool.name,
        tmp_path,
    )
    assert "2048" == child.line()
    assert 0 == pool.recover().members
    assert {2048} == set(pool.audit().held.values())
    dead = start(
        """
        import sys, shmpool
        pool = shmpool.Pool.attach(sys.argv[1])
        held = pool.alloc_many(5)
        print(flush=True)
        sys.stdin.readline()
        """,
        pool.name,
    )
    dead.line()
    dead.kill()
    child.send()
    assert child.line().startswith("Recovery(members=1, ")
    assert ["True True False 2048", "0", "True True"] == [child.line() for _ in range(3)]
    child.end()
    assert 1 == pool.recover().members  # the forked child, which has not closed the pool
    assert (True, {}) == (pool.audit().ok, pool.audit().held)


def test_its_death_is_noticed(make_pool: MakePool, start: Start, tmp_path: Path) -> None:
    """Neither its descriptors nor those of its children kept its token."""
    pool = make_pool()
    child = start(
        CLOSES
        + """
pool = shmpool.Pool.attach(sys.argv[1])
held = pool.alloc_many(5)
close_all(sys.argv[2])
print(len(held), flush=True)
sys.stdin.readline()
""",
        pool.name,
        tmp_path,
    )
    child.line()
    assert 0 == pool.recover().members
    os.kill(child.pid, signal.SIGKILL)
    child.process.wait()
    assert 1 == pool.recover().members


@pytest.mark.parametrize("gone", ["unlinked", "replaced", "anonymous"])
def test_a_file_that_cannot_be_opened_again(
    pool_name: str, start: Start, tmp_path: Path, gone: str
) -> None:
    """With the name removed too, the existing buffers stay usable. Growth reports why it fails.

    No live member counts as dead.
    """
    child = start(
        CLOSES
        + """
if sys.argv[3] == "anonymous":
    pool = shmpool.Pool.create(None, buffer_size=256, capacity=4096, prealloc=64)
else:
    pool = shmpool.Pool.create(sys.argv[1], buffer_size=256, capacity=4096, prealloc=64)
ready, to = os.pipe()
other = os.fork()
if other == 0:
    held = pool.alloc()
    os.write(to, b"x")
    sys.stdin.readline()
    os._exit(0)
os.read(ready, 1)
if sys.argv[3] != "anonymous":
    shmpool.Pool.unlink(sys.argv[1])
if sys.argv[3] == "replaced":
    fresh = shmpool.Pool.create(sys.argv[1], buffer_size=64, capacity=64)
close_all(sys.argv[2])
print(pool.alloc().free(), pool.recover().members, pool.audit().ok)
try:
    while True:
        pool.alloc_many(63, 0).free()
        pool.alloc_many(65, 0)
except shmpool.AccessDenied as error:
    print("closed the descriptor" in str(error))
print(pool.audit().ok, intact(sys.argv[2]))
pool.close()
print(intact(sys.argv[2]))
os.kill(other, 9)
os.wait()
""",
        pool_name,
        tmp_path,
        gone,
    )
    assert ["None 0 True", "True", "True True", "True"] == child.end().splitlines()


def test_a_thread_that_closes_them_all_the_time(
    make_pool: MakePool, start: Start, tmp_path: Path
) -> None:
    """Descriptors may be closed at the very moment in which another thread grows or trims the pool.

    A foreign file may then be extended, but no byte of it changes.
    """
    pool = make_pool(buffer_size=4096, capacity=1024, cache_size=0)
    child = start(
        CLOSES
        + """
import threading
sys.setswitchinterval(1e-5)
pool = shmpool.Pool.attach(sys.argv[1])
end = threading.Event()

def closes():
    while not end.is_set():
        close_all(sys.argv[2])

thread = threading.Thread(target=closes)
thread.start()
for _ in range(200):
    try:
        pool.alloc_many(512).free()
        pool.trim()
    except shmpool.ShmpoolError:  # another thread closed the number that it opened
        continue
end.set()
thread.join()
print(pool.audit().ok, same_bytes(sys.argv[2]))
""",
        pool.name,
        tmp_path,
    )
    assert "True True\n" == child.end()
    assert pool.audit().ok
    assert isinstance(pool.recover(), shmpool.Recovery)
