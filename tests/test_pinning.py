# SPDX-License-Identifier: Apache-2.0
"""pool.pin(): which memory is registered with the driver, when it is unregistered, and that trim
leaves it alone.

The driver's library is stand_in_cuda.c, in processes of its own: it writes down each call, and what
the driver would refuse.
"""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import shmpool
from shmpool._ffi import ffi, lib
from tests.conftest import Child, Eventually, MakePool

MB = 1 << 20
SOURCE = Path(__file__).parent / "native" / "stand_in_cuda.c"
Start = Callable[..., Child]

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc")


class Driver:
    """What the stand-in has written."""

    def __init__(self, directory: Path) -> None:
        self.log = directory / "log"
        self.gate = directory / "gate"

    def calls(self) -> list[list[str]]:
        """One list for each call: the pid, what it was, and its numbers."""
        return [line.split() for line in self.log.read_text().splitlines()]

    def registered(self, pid: int) -> dict[int, int]:
        """The sizes of the ranges that a process has registered now, by address. Nothing may have
        been wrong."""
        found: dict[int, int] = {}
        for number, what, *values in self.calls():
            assert what != "wrong", values
            if int(number) == pid and what == "register":
                found[int(values[0])] = int(values[1])
            elif int(number) == pid:
                del found[int(values[0])]
        return found


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the stand-in, compiled once in each test process."""
    directory = tmp_path_factory.mktemp("cuda")
    flags = ["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-pthread"]
    subprocess.run(["gcc", *flags, "-o", directory / "libcuda.so.1", SOURCE], check=True)
    return directory


@pytest.fixture
def driver(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Driver:
    """Child processes find the stand-in."""
    found = Driver(tmp_path)
    found.log.touch()
    monkeypatch.setenv("LD_LIBRARY_PATH", str(library))
    monkeypatch.setenv("CUDA_LOG", str(found.log))
    return found


# Attaches to a pool, and then runs each line that it gets.
OBEY = """
import os, sys, threading, time
import shmpool
pool = shmpool.Pool.attach(sys.argv[1])

def later(done):
    while not done():
        time.sleep(0.001)

for line in sys.stdin:
    exec(line)
    print("done", flush=True)
"""


def tell(child: Child, line: str) -> str:
    """Lets the process run a line. Returns what the line prints."""
    child.send(line)
    said = []
    while (text := child.line()) != "done":
        assert text or child.process.poll() is None, "it has ended"
        said.append(text)
    return "\n".join(said)


SHOW = "print(pool.pinned.state, pool.pinned.bytes, pool.pinned.total)"


def test_registers_what_exists_and_what_grows(
    make_pool: MakePool, start: Start, driver: Driver, eventually: Eventually
) -> None:
    """All that exists is registered when pin() returns, in pieces, and new extents by themselves;
    close() unregisters each piece while it is mapped."""
    pool = make_pool(buffer_size=65536, capacity=512, prealloc=272, refill_multiplier=1, bulk=16)
    child = start(OBEY, pool.name)
    assert "off 0 17825792" == tell(child, SHOW)
    assert "registered" == tell(child, "print(pool.pin(timeout=None).state)")
    ranges = driver.registered(child.pid)
    assert (17 * MB, 16 * MB) == (sum(ranges.values()), max(ranges.values()))
    pool.alloc_many(512).free()
    eventually(lambda: sum(driver.registered(child.pid).values()) == 32 * MB)
    assert "registered 33554432 33554432" == tell(child, SHOW)
    assert "" == tell(child, "pool.close()")
    assert {} == driver.registered(child.pid)


def test_trim_leaves_a_pinned_pool(make_pool: MakePool, start: Start, driver: Driver) -> None:
    """As long as a process that lives has the pool pinned, no process trims it: not the process
    itself, nor others. After unpin(), close, exit or kill -9 they can."""
    pool = make_pool(buffer_size=4096, capacity=1024)

    def grow() -> None:
        pool.alloc_many(1024).free()

    for end in ("pool.unpin()", "pool.close()", "exit", "kill"):
        child = start(OBEY, pool.name)
        grow()
        tell(child, "pool.pin(timeout=None)")
        assert 1024 * 4096 == sum(driver.registered(child.pid).values())
        assert (0, "0") == (pool.trim(), tell(child, "print(pool.trim())"))
        assert 1024 == pool.stats().created
        if end == "kill":
            child.kill()
            assert 1024 * 4096 == sum(driver.registered(child.pid).values())
        else:
            tell(child, end) if end != "exit" else child.process.stdin.close()  # type: ignore[union-attr]
            if end == "exit":
                child.process.wait()
            assert {} == driver.registered(child.pid)
        assert 1024 * 4096 == pool.trim()
    assert pool.audit().ok


def test_several_sizes_and_openings(make_pool: MakePool, start: Start, driver: Driver) -> None:
    """Each class's data is registered, and that of each opening of a pool, which is other memory
    for the driver. Two processes can pin one pool."""
    pool = make_pool(buffer_size=[1024, 65536], capacity=[256, 32], prealloc=[256, 32])
    child, other = start(OBEY, pool.name), start(OBEY, pool.name)
    tell(child, "again = shmpool.Pool.attach(pool.name); again.pin(timeout=None)")
    tell(child, "pool.pin(timeout=None)")
    tell(other, "pool.pin(timeout=None)")
    assert 2 * (256 * 1024 + 32 * 65536) == sum(driver.registered(child.pid).values())
    tell(child, "again.close()")
    assert 256 * 1024 + 32 * 65536 == sum(driver.registered(child.pid).values())
    tell(child, "pool.close()")
    assert 0 == pool.trim()
    other.process.stdin.close()  # type: ignore[union-attr]
    other.process.wait()
    assert {} == driver.registered(other.pid)


@pytest.mark.parametrize(
    ("options", "first"),
    [
        ({"buffer_size": 1600, "prealloc": 100}, 0),  # buffer 100 begins within a page
        ({"buffer_size": 64, "prealloc": 64}, 64 * 64),
        ({"buffer_size": 4096, "prealloc": 7}, 7 * 4096),
    ],
)
def test_buffers_that_share_a_page(
    make_pool: MakePool,
    start: Start,
    driver: Driver,
    eventually: Eventually,
    options: dict[str, int],
    first: int,
) -> None:
    """No page is registered twice, and no buffer in part: those that share a page wait for each
    other. In the end all are registered."""
    pool = make_pool(capacity=512, bulk=16, refill_multiplier=1, **options)
    child = start(OBEY, pool.name)
    assert first == int(tell(child, "print(pool.pin(timeout=None).bytes)"))
    held = [pool.alloc() for _ in range(200)]
    size = pool.buffer_size
    eventually(lambda: tell(child, "print(pool.pinned.state)") == "registered")
    raw = ffi.new("struct shmpool_geometry *")
    lib.shmpool_geometry(pool._number, raw)
    base = int(tell(child, "print(pool._segment.address)")) + raw.data_offset
    for at, length in driver.registered(child.pid).items():
        assert (0, 0) == ((at - base) % 4096, (at - base) % size)
        assert length % size == 0
    del held
    pool.alloc_many(512).free()
    eventually(lambda: sum(driver.registered(child.pid).values()) == 512 * size)
    tell(child, "pool.close()")
    assert {} == driver.registered(child.pid)


def test_a_forked_child_has_nothing_registered(
    make_pool: MakePool, start: Start, driver: Driver
) -> None:
    """It makes no call of the driver, also when it closes the pool or ends; it can use the pool,
    and its parent stays pinned."""
    pool = make_pool(buffer_size=4096, capacity=64, prealloc=64)
    child = start(OBEY, pool.name)
    tell(child, "pool.pin(timeout=None)")
    fork = (
        "pid = os.fork(); "
        "pid or (pool.alloc().free(), print(pool.pinned.state, pool.pin().state, flush=True), "
        "pool.close(), os._exit(0)); print(os.waitpid(pid, 0)[1])"
    )
    assert "off unavailable\n0" == tell(child, fork)
    assert 64 * 4096 == sum(driver.registered(child.pid).values())
    assert {str(child.pid)} == {number for number, *_ in driver.calls()}
    assert 0 == pool.trim()


def test_the_driver_refuses_in_the_middle(
    make_pool: MakePool, start: Start, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is registered stays registered, and the rest works unregistered. pinned has the
    driver's words. Nothing is tried again before the next pin()."""
    monkeypatch.setenv("CUDA_ROOM", str(20 * MB))
    pool = make_pool(buffer_size=MB, capacity=32, prealloc=32)
    child = start(OBEY, pool.name)
    said = tell(child, "print(pool.pin(timeout=None))")
    assert f"state='failed', bytes={16 * MB}, total={32 * MB}" in said
    assert "cuMemHostRegister: CUDA_ERROR_OUT_OF_MEMORY: out of memory" in said
    tell(child, "pool.alloc_many(32).free()")
    tell(child, f"os.environ['CUDA_ROOM'] = '{200 * MB}'")
    assert "failed" == tell(child, "time.sleep(0.3); print(pool.pinned.state)")
    assert "registered" == tell(child, "print(pool.pin(timeout=None).state)")
    tell(child, "pool.close()")
    assert {} == driver.registered(child.pid)


def test_without_cuda(
    make_pool: MakePool, start: Start, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No driver, or no device: pin() says why, nothing is registered, and all else works."""
    pool = make_pool(buffer_size=4096, capacity=64)
    monkeypatch.setenv("CUDA_INIT", "100")
    child = start(OBEY, pool.name)
    assert "unavailable cuInit: CUDA_ERROR_NO_DEVICE: no device" == tell(
        child, "print(pool.pin(timeout=None).state, pool.pinned.reason)"
    )
    tell(child, "pool.alloc().free(); pool.trim(); pool.unpin(); pool.close()")
    monkeypatch.setattr("shmpool.pinning.DRIVER", "libno-such-driver.so.1")
    said = pool.pin()
    assert ("unavailable", 0) == (said.state, said.bytes)
    assert "the CUDA driver is not installed here (libno-such-driver.so.1" in said.reason
    assert said == pool.pinned
    pool.unpin()
    assert "off" == pool.pinned.state
    assert [] == driver.calls()


def test_refusals(make_pool: MakePool) -> None:
    """A pool that is closed or read-only, and a timeout that is none."""
    pool = make_pool(buffer_size=4096)
    with shmpool.Pool.attach(pool.name, readonly=True) as view:
        for call in (view.pin, view.unpin):
            with pytest.raises(shmpool.AccessDenied, match="read-only"):
                call()
        assert "off" == view.pinned.state
    with pytest.raises(shmpool.InvalidArgument):
        pool.pin(timeout=-1)
    with pytest.raises(TypeError):
        pool.pin(timeout="1")  # type: ignore[arg-type]
    pool.close()
    for call in (pool.pin, pool.unpin, lambda: pool.pinned):
        with pytest.raises(shmpool.PoolClosed):
            call()


@pytest.mark.parametrize(
    "end", ["pool.close()", "pool.unpin()", "del pool; import gc; gc.collect()"]
)
def test_closed_while_it_registers(
    make_pool: MakePool, start: Start, driver: Driver, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """close(), unpin() and the end of the object wait for the piece that is being registered,
    register no more, and unregister all."""
    monkeypatch.setenv("CUDA_GATE", str(driver.gate))
    driver.gate.touch()
    pool = make_pool(buffer_size=MB, capacity=32, prealloc=32)
    child = start(OBEY, pool.name)
    assert "registering" == tell(child, "print(pool.pin().state)")
    opened = f"later(lambda: not os.path.exists({str(driver.gate)!r}))"
    tell(child, f"opener = threading.Timer(0.1, os.unlink, [{str(driver.gate)!r}]); opener.start()")
    tell(child, end)
    tell(child, opened)
    assert {} == driver.registered(child.pid)
    child.process.stdin.close()  # type: ignore[union-attr]
    child.process.wait()
    assert sum(what == "register" for _, what, *_ in driver.calls()) <= 1


def test_ctrl_c_while_pin_waits(
    make_pool: MakePool, start: Start, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C ends the wait after the piece that is being registered; the thread goes on."""
    monkeypatch.setenv("CUDA_GATE", str(driver.gate))
    driver.gate.touch()
    pool = make_pool(buffer_size=MB, capacity=32, prealloc=32)
    child = start(OBEY, pool.name)
    gate = str(driver.gate)
    script = (
        "exec('try:\\n"
        " threading.Timer(0.1, lambda: (os.kill(os.getpid(), 2), os.unlink(GATE))).start()\\n"
        " pool.pin(timeout=None)\\nexcept KeyboardInterrupt:\\n print(1)')"
    )
    tell(child, f"GATE = {gate!r}")
    assert "1" == tell(child, script)
    tell(child, "later(lambda: pool.pinned.state == 'registered')")
    tell(child, "pool.close()")
    assert {} == driver.registered(child.pid)


def test_exit_with_views_alive(make_pool: MakePool, start: Start, driver: Driver) -> None:
    """At the end of the interpreter with a view alive, the pool stays open and pinned until that
    view ends; then all is unregistered."""
    pool = make_pool(buffer_size=4096, capacity=1024)
    pool.alloc_many(1024).free()
    child = start(OBEY, pool.name)
    tell(
        child, "pool.pin(timeout=None); buf = pool.alloc(); buf.length = 9; view = memoryview(buf)"
    )
    assert 0 == pool.trim()
    child.process.stdin.close()  # type: ignore[union-attr]
    assert 0 == child.process.wait()
    assert {} == driver.registered(child.pid)
    pool.recover()
    assert 1024 * 4096 == pool.trim()


def test_kill_9_at_any_moment(make_pool: MakePool, start: Start, driver: Driver) -> None:
    """Processes that pin, grow, trim and unpin are killed again and again. The driver is never
    called wrongly, and the pool stays exact and can be trimmed afterwards."""
    pool = make_pool(buffer_size=4096, capacity=512, bulk=16)
    script = """
    import sys
    import shmpool
    pool = shmpool.Pool.attach(sys.argv[1])
    print("begins", flush=True)
    while True:
        pool.pin(timeout=None)
        with pool.alloc_many(100):
            pool.trim()
        pool.unpin()
        pool.trim()
    """
    for _ in range(10):
        children = [start(script, pool.name) for _ in range(2)]
        for child in children:
            assert "begins" == child.line()
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGKILL)
            child.kill()
            for _, what, *values in driver.calls():
                assert what != "wrong", values
        pool.recover()
        assert pool.audit().ok
    pool.alloc_many(512).free()
    assert 512 * 4096 == pool.trim()
