# SPDX-License-Identifier: Apache-2.0
"""Threads in the C types under ThreadSanitizer: what a thread does to a Buffer, a Burst or a queue
without the interpreter's lock is ordered with what another one does.

The interpreter itself is not instrumented; its lock is made of calls that the sanitizer knows.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import DEADLINE_S

ROOT = Path(__file__).resolve().parent.parent
FOUND = 66  # exit status of a program with a data race
NOT_COPIED = shutil.ignore_patterns("*.so", "*.o", "__pycache__", "_native.c")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

OBJECTS = """
import contextlib, random, sys, threading
from concurrent.futures import ThreadPoolExecutor
import shmpool
sys.setswitchinterval(1e-6)
refusals = shmpool.BufferReleased, shmpool.BufferInUse, shmpool.InvalidArgument, IndexError
pool = shmpool.Pool.create(None, buffer_size=64, capacity=1024, members=32)
queue = pool.create_queue("q", capacity=1024)

def touch(item):
    if isinstance(item, shmpool.Burst):
        item[1:2].free()
        item = item[0]
    item.write(b"some bytes")
    item.mark += 1
    with memoryview(item) as view:
        bytes(view)

def put(item):
    (queue.put_many if isinstance(item, shmpool.Burst) else queue.put)(item, 0)

def work(seed, shared):
    order = random.Random(seed)
    for item in order.sample(shared, len(shared)):
        for call in (touch, order.choice((put, type(item).free))):
            with contextlib.suppress(*refusals):
                call(item)

with ThreadPoolExecutor(4) as threads:
    for turn in range(10):
        shared = [pool.alloc() for _ in range(50)] + [pool.alloc_many(4) for _ in range(50)]
        for done in [threads.submit(work, 4 * turn + n, shared) for n in range(4)]:
            done.result()
        for item in shared:
            with contextlib.suppress(shmpool.BufferReleased):
                item.free()
        del item, shared
        while (buf := queue.try_get()) is not None:
            buf.free()
assert pool.audit().ok
assert shmpool.__file__.startswith(sys.argv[1])
print("done")
"""

# Calls that wait, and release the lock.
WAITS = """
import sys, threading
import shmpool
sys.setswitchinterval(1e-6)
pool = shmpool.Pool.create(None, buffer_size=64, capacity=1024, members=32)
small = pool.create_queue("small", capacity=4)
topic = pool.create_topic("ticks", depth=4)
sub = topic.subscribe(policy="block")
calls = [lambda: small.send(b"x"), lambda: bytes(small.get()), lambda: topic.send(b"x"),
         lambda: sub.get().free(), pool.stats, lambda: pool.alloc_many(8).free()]
threads = [threading.Thread(target=lambda call=call: [call() for _ in range(1000)])
           for call in calls]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert pool.audit().ok
assert shmpool.__file__.startswith(sys.argv[1])
print("done")
"""

RACE = """
import ctypes, sys, threading
count = ctypes.CDLL(sys.argv[1]).count
for thread in [threading.Thread(target=count) for _ in range(2)]:
    thread.start()
"""


def sanitized(script: str, *arguments: object, path: Path) -> subprocess.CompletedProcess[str]:
    """Runs Python code with the sanitizer, at fixed addresses, which old sanitizers need.

    In path: the package of the present folder would be imported before, whose atomics the sanitizer
    does not see.
    """
    name = subprocess.run(
        ["gcc", "-print-file-name=libtsan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    environ = {"PYTHONPATH": str(path), "LD_PRELOAD": name, "TSAN_OPTIONS": f"exitcode={FOUND}"}
    return subprocess.run(
        ["setarch", "-R", sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=path,
        env=os.environ | environ,
        timeout=4 * DEADLINE_S,
    )


@pytest.fixture(autouse=True)
def works(tmp_path: Path) -> None:
    """Skips where a race of a C function that two threads call is not found."""
    if not shutil.which("gcc") or not shutil.which("setarch"):
        pytest.skip("gcc or setarch is not installed")
    source, library = tmp_path / "race.c", tmp_path / "race.so"
    source.write_text(
        "static int n;\nint count(void) { for (int i = 0; i < 5000000; i++) n++; return n; }\n"
    )
    flags = ["-fsanitize=thread", "-g", "-O0", "-shared", "-fPIC"]
    made = subprocess.run(["gcc", *flags, "-o", library, source], capture_output=True, text=True)
    if made.returncode:
        pytest.skip("gcc has no ThreadSanitizer")
    found = sanitized(RACE, library, path=tmp_path)
    if found.returncode != FOUND or "data race" not in found.stderr:
        pytest.skip(f"ThreadSanitizer does not work here: {found.stderr[-300:]}")


def test_threads_share_objects(tmp_path: Path) -> None:
    """Four threads use the same Buffers and Bursts; others wait in queues and topics: no race."""
    tree = tmp_path / "tree"
    for name in ("shmpool", "packaging"):
        shutil.copytree(ROOT / name, tree / name, ignore=NOT_COPIED)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    environ = {"CFLAGS": "-fsanitize=thread -g", "LDFLAGS": "-fsanitize=thread"}
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=tree,
        env=os.environ | environ,
        check=True,
        capture_output=True,
    )
    (module,) = (tree / "shmpool").glob("_native*.so")
    assert b"__tsan_atomic64_load" in module.read_bytes()
    for script in (OBJECTS, WAITS):
        done = sanitized(script, tree, path=tree)
        assert (0, "done\n") == (done.returncode, done.stdout), done.stderr[-3000:]
