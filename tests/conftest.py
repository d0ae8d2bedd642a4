# SPDX-License-Identifier: Apache-2.0
"""Fixtures: pools with names of their own, helper processes, checks that a test leaves nothing."""

import contextlib
import ctypes
import functools
import gc
import itertools
import mmap
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import advice
import hypothesis
import processor_time
import pytest

import shmpool
import shmpool.mp.program
import shmpool.pruning

if TYPE_CHECKING:
    from tests.bridge_storm import Bridge

collect_ignore = ["fuzz_wire.py"]  # not a test: it needs a library that only `make fuzz` installs
DEADLINE_S = 60.0  # a guard against hangs, not a measurement
hypothesis.settings.register_profile("any machine", deadline=None)  # however slow
hypothesis.settings.load_profile("any machine")
_numbers = itertools.count()

# A shell starts background processes with SIGINT ignored, and children would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

MakePool = Callable[..., shmpool.Pool]
Eventually = Callable[[Callable[[], object]], None]


class OwnExamples:
    """Gives the pool of a docstring's example a name of its own.

    The example names its pool as a user would. The name is replaced, so that it cannot collide with
    a pool of that name or with another run of the tests.
    """

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, None, None]:
        if not isinstance(item, pytest.DoctestItem):
            return (yield)
        before = shmpool.pool_files.PREFIX
        own = f"shmpool.test-{os.getpid()}-"
        shmpool.pool_files.PREFIX = shmpool.segment.PREFIX = own
        try:
            return (yield)
        finally:
            shmpool.pool_files.PREFIX = shmpool.segment.PREFIX = before
            for left in Path("/dev/shm").glob(f"{own}doc-*"):
                left.unlink()


def pytest_configure(config: pytest.Config) -> None:
    """Registers the plugins here, because examples are not below this folder."""
    config.pluginmanager.register(OwnExamples())
    config.pluginmanager.register(advice)
    config.pluginmanager.register(processor_time.ProcessorTime())


def _segments() -> set[str]:
    return {path.name for path in Path("/dev/shm").glob(f"shmpool.test-{os.getpid()}-*")}


def _children() -> set[int]:
    """The pids of this process's children, without the two helper processes of multiprocessing."""
    servants = {
        multiprocessing.forkserver._forkserver._forkserver_pid,  # type: ignore[attr-defined]
        multiprocessing.resource_tracker._resource_tracker._pid,  # type: ignore[attr-defined]
    }
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:  # as bytes: a process may have any name; it stands in brackets before the fields
            parent = path.read_bytes().rpartition(b")")[2].split()[1]
        except OSError:
            continue
        if int(parent) == os.getpid():
            found.add(int(path.parent.name))
    return found - servants


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Fails a test that leaves a segment or a child process behind. Ends what subprocess has
    started, or the warning that it still runs would fail a later test."""
    children, segments = _children(), _segments()
    yield
    running = _children() - children
    for started in gc.get_objects() if running else ():
        # type(): isinstance() asks a weakref.proxy, whose object may be gone.
        if issubclass(type(started), subprocess.Popen) and started.pid in running:
            started.kill()
            started.wait()
            for stream in (started.stdin, started.stdout, started.stderr):
                with contextlib.suppress(OSError):  # what it could not be given
                    stream and stream.close()
    left = _segments() - segments
    for name in left:
        (Path("/dev/shm") / name).unlink(missing_ok=True)
    assert set() == left
    assert set() == running


class Handles:
    """Calls of a Burst with made-up handles, which it writes into the Burst's memory."""

    def __init__(self, pool: shmpool.Pool, queue: shmpool.AlfQueue | None = None) -> None:
        self._pool = pool
        self._queue = queue
        with pool.alloc_many(1) as burst:
            self._state = self._words(burst)[2].value

    @staticmethod
    def of(burst: shmpool.Burst) -> list[int]:
        """The handles of a burst."""
        return [buf.generation << 32 | buf.index for buf in burst]

    @staticmethod
    def _words(burst: shmpool.Burst) -> tuple[ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint32]:
        """The fields handle, n and state of struct burst_object (hot/hot.h)."""
        at = id(burst) + object.__basicsize__ + 8
        return (
            ctypes.c_void_p.from_address(at),
            ctypes.c_uint32.from_address(at + 16),
            ctypes.c_uint32.from_address(at + 24),
        )

    def _code(self, handles: list[int], call: Callable[[shmpool.Burst], object]) -> int:
        """Returns 0, or the negative errno of the exception that the call raises."""
        forged = shmpool.Burst(self._pool, len(handles))
        at, n, state = self._words(forged)
        released = state.value
        (ctypes.c_uint64 * len(handles)).from_address(at.value or 0)[:] = handles
        n.value, state.value = len(handles), self._state
        try:
            call(forged)
        except shmpool.ShmpoolError as error:
            if not error.errno:  # a code of 0 would mean success
                raise
            return -error.errno
        finally:
            n.value, state.value = 0, released
        return 0

    def free(self, handles: list[int]) -> int:
        return self._code(handles, lambda burst: burst.free())

    def put(self, handles: list[int]) -> int:
        assert self._queue
        queue = self._queue
        return self._code(handles, lambda burst: queue.put_many(burst, 0))

    def read(self, handles: list[int]) -> int:
        return self._code(handles, lambda burst: burst.column(0, "u1"))

    def write(self, handles: list[int]) -> int:
        return self._code(handles, lambda burst: burst.set_column(0, 9, "u1"))

    def lengths(self, handles: list[int]) -> int:
        return self._code(handles, lambda burst: burst.lengths)

    def set_lengths(self, handles: list[int]) -> int:
        def assign(burst: shmpool.Burst) -> None:
            burst.lengths = 0  # type: ignore[assignment]

        return self._code(handles, assign)


@pytest.fixture
def new_name() -> Iterator[Callable[[], str]]:
    """new_name(): a pool name that no other test uses. The pool is unlinked at the end."""
    made: list[str] = []

    def new_name() -> str:
        name = f"test-{os.getpid()}-{next(_numbers)}"
        while os.path.lexists(f"/dev/shm/shmpool.{name}"):  # left by an earlier run with this pid
            name = f"test-{os.getpid()}-{next(_numbers)}"
        made.append(name)
        return name

    yield new_name
    for name in made:
        Path(f"/dev/shm/shmpool.{name}").unlink(missing_ok=True)


@pytest.fixture
def pool_name(new_name: Callable[[], str]) -> str:
    """A pool name that no other test uses."""
    return new_name()


@pytest.fixture
def own_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    """prune() considers only this process's pools, not one that a parallel test has just closed.

    Daemons that start_daemon() starts always do so.
    """
    every = shmpool.pruning.pool_names
    own = f"test-{os.getpid()}-"
    monkeypatch.setattr(
        shmpool.pruning, "pool_names", lambda: [name for name in every() if name.startswith(own)]
    )


@pytest.fixture
def make_pool(new_name: Callable[[], str]) -> Iterator[MakePool]:
    """make_pool(**options): a new pool, which is closed and unlinked at the end."""
    made: list[shmpool.Pool] = []

    def make_pool(**options: Any) -> shmpool.Pool:
        options = {"buffer_size": 256, "capacity": 64} | options
        made.append(shmpool.Pool.create(options.pop("name", None) or new_name(), **options))
        return made[-1]

    yield make_pool
    for pool in made:
        with contextlib.suppress(BufferError):  # the test failed while a view was alive
            pool.close()


@pytest.fixture
def pool(make_pool: MakePool) -> shmpool.Pool:
    """64 buffers of 256 bytes, no local caches."""
    return make_pool()


@pytest.fixture
def queue(make_pool: MakePool) -> shmpool.AlfQueue:
    """A queue of 8 in a pool of 64 buffers of 1024 bytes, which have room for arrays."""
    return make_pool(buffer_size=1024).create_queue("q", capacity=8)


def at_rest(pool: shmpool.Pool) -> bool:
    """Whether every buffer is free or queued, and no view is counted."""
    gc.collect()  # the program's pool is that of earlier tests too: what they left in cycles,
    pool.recover()  # and what their processes held
    audit = pool.audit()
    return audit.ok and not audit.held and not pool._exports


@pytest.fixture
def cached_pool(make_pool: MakePool) -> shmpool.Pool:
    """256 buffers of 256 bytes, with local caches of 64."""
    return make_pool(capacity=256, prealloc=256)


def join(thread: threading.Thread) -> None:
    """Waits until a thread has ended as a member. Python's join() returns a little earlier."""
    thread.join(DEADLINE_S)
    give_up = time.monotonic() + DEADLINE_S
    while os.path.exists(f"/proc/self/task/{thread.native_id}"):
        assert time.monotonic() < give_up, "the thread never ended"
        time.sleep(0.0002)


@pytest.fixture
def eventually() -> Eventually:
    """eventually(condition): returns when the condition is true, fails if it never is."""

    def eventually(condition: Callable[[], object]) -> None:
        give_up = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < give_up, "it never came true"
            time.sleep(0.001)

    return eventually


def resident(pid: int) -> int:
    """The resident memory of a process in bytes."""
    text = Path(f"/proc/{pid}/status").read_bytes()
    return int(re.findall(rb"VmRSS:\s+(\d+) kB", text)[0]) << 10


def descriptors(pid: int) -> int:
    """How many descriptors a process has open. Nameless pools look the same in open_files()."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def open_files(pid: int) -> set[str]:
    """The files behind a process's descriptors, except those that it closes while we read."""
    found = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.add(os.readlink(descriptor))
    return found


def room() -> int:
    """Free bytes of shared memory. A container has 64 MB unless it is given more."""
    status = os.statvfs("/dev/shm")
    return status.f_bavail * status.f_frsize


class Child:
    """A Python process that a test starts and exchanges lines with."""

    def __init__(self, script: str, arguments: tuple[object, ...]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", textwrap.dedent(script), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            errors="surrogateescape",
        )
        self.pid = self.process.pid

    def line(self) -> str:
        """Returns the next line that the process prints."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def send(self, line: object = "") -> None:
        """Sends the process a line."""
        assert self.process.stdin is not None
        print(line, file=self.process.stdin, flush=True)

    def end(self) -> str:
        """Waits until the process ends, with status 0. Returns the rest of its output."""
        rest, _ = self.process.communicate(timeout=DEADLINE_S)
        assert 0 == self.process.returncode
        return rest

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def start() -> Iterator[Callable[..., Child]]:
    """start(script, *args): runs Python code in a process that is killed at the end of the test."""
    children: list[Child] = []

    def start(script: str, *arguments: object) -> Child:
        children.append(Child(script, arguments))
        return children[-1]

    yield start
    for child in children:
        if child.process.poll() is None:
            child.kill()
        for stream in (child.process.stdin, child.process.stdout):
            if stream is not None and not stream.closed:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


SLOW = re.compile(r"^Executing .* took (\d+\.\d+) seconds$", re.MULTILINE)  # from asyncio
SLOW_S = 1.0  # a callback that takes longer delays every client
# The daemon's prune() considers only the pools of this test process, as with own_pools.
OWN_POOLS = f"""
import shmpool.pruning
every = shmpool.pruning.pool_names
own = "test-{os.getpid()}-"
shmpool.pruning.pool_names = lambda: [name for name in every() if name.startswith(own)]
"""
# Starts the daemon as `python -m shmpool.daemon` does.
PLAIN = """
import runpy
runpy.run_module("shmpool.daemon", run_name="__main__", alter_sys=True)
"""
# Starts the daemon with asyncio's debug mode on. Callbacks are timed by a clock that leaves out the
# time in which the daemon's threads waited for a processor, so a busy machine makes none slow. All
# threads count: a callback may wait for a thread that has the interpreter's lock.
DEBUGGED = """
import contextlib, os, time
from shmpool.cli.daemon import command

waited = {}

def waits():
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError), open(f"/proc/self/task/{thread}/schedstat") as file:
            waited[thread] = int(file.read().split()[1])
    return sum(waited.values())

def clock(now=time.monotonic):
    before = waits()
    while True:  # until no thread has waited between the two readings of its waits
        at, after = now(), waits()
        if after == before:
            return at - after / 1e9
        before = after

real, time.monotonic = time.monotonic, clock
import uvloop
time.monotonic = real
command(prog_name="python -m shmpool.daemon")
"""


class DaemonProcess:
    """A daemon for one test, run as systemd would run it, with asyncio's debug mode on.

    A test can wait for the daemon's notifications.
    """

    def __init__(
        self,
        directory: Path,
        config: str,
        arguments: tuple[str, ...],
        prefix: tuple[str, ...] = (),
        code: str = DEBUGGED,
    ) -> None:
        """prefix is a command that runs its arguments; code is Python that starts the daemon."""
        self.directory = directory
        self.socket = directory / "daemon.sock"
        self.config = directory / "shmpool.toml"
        self.config.write_text(config)
        self.log = directory / "log"
        self._notes = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notes.bind(str(directory / "notify"))
        environ = os.environ | {"NOTIFY_SOCKET": str(directory / "notify")}
        environ |= {"SHMPOOL_SOCKET": str(self.socket)}
        environ |= {"PYTHONASYNCIODEBUG": "1"} if code != PLAIN else {}
        given = ("--config", str(self.config), *arguments)
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, "-c", OWN_POOLS + code, *given],
                env=environ,
                stderr=log,
            )
        self.pid = self.process.pid

    def notified(self, line: str) -> list[str]:
        """Waits until the daemon has sent systemd this line. Returns all lines of that
        notification."""
        self._notes.settimeout(0.1)
        give_up = time.monotonic() + DEADLINE_S
        while time.monotonic() < give_up:
            ended = self.process.poll() is not None
            try:
                said = self._notes.recv(4096).decode().split("\n")
            except TimeoutError:
                assert not ended, f"the daemon has ended: {self.output()}"
            else:
                if line in said:
                    return said
        raise AssertionError(f"the daemon never said {line}: {self.output()}")

    def output(self) -> str:
        """Its stderr so far, without asyncio's notes about callbacks."""
        return re.sub(f"(?m){SLOW.pattern}\n", "", self.log.read_text())

    def asyncio_errors(self) -> list[str]:
        """The errors that asyncio's debug mode found.

        These are coroutines that were never awaited, and callbacks longer than SLOW_S since the
        daemon became ready.
        """
        text = self.log.read_text()
        found = [line for line in text.splitlines() if "never awaited" in line]
        running = text.partition("listening at ")[2]
        return found + [slow[0] for slow in SLOW.finditer(running) if float(slow[1]) > SLOW_S]

    def end(self, number: int = signal.SIGTERM) -> int:
        """Sends a signal and waits for the end. Returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(DEADLINE_S)

    def close(self) -> None:
        """Ends the daemon. `make coverage` needs what the daemon reports when it ends by itself."""
        if "COVERAGE_RUN" in os.environ:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.end()
        self.end(signal.SIGKILL)
        self._notes.close()


StartDaemon = Callable[..., DaemonProcess]


@pytest.fixture
def start_daemon(tmp_path: Path, new_name: Callable[[], str]) -> Iterator[StartDaemon]:
    """start_daemon(config, *arguments): starts a daemon and returns when it is ready.

    The daemon watches only pools of this test process. [daemon] options stand in the config as they
    are, pools after them. The test fails if asyncio's debug mode finds an error in the daemon;
    debug=False turns that mode off.
    """
    pytest.importorskip("aiohttp", reason="shmpool[daemon] is not installed")
    pytest.importorskip("click", reason="shmpool[cli] is not installed")
    made: list[DaemonProcess] = []

    def start_daemon(
        config: str = "",
        *arguments: str,
        options: str = "",
        ready: bool = True,
        prefix: tuple[str, ...] = (),
        debug: bool = True,
    ) -> DaemonProcess:
        directory = tmp_path / f"daemon-{len(made)}"
        directory.mkdir()
        own = f'[daemon]\nadopt = ["test-{os.getpid()}-*"]\nprune = false\n{options}\n'
        code = DEBUGGED if debug else PLAIN
        made.append(DaemonProcess(directory, own + config, arguments, prefix, code))
        if ready:
            made[-1].notified("READY=1")
        return made[-1]

    yield start_daemon
    for daemon in made:
        daemon.close()
    assert [] == [error for daemon in made for error in daemon.asyncio_errors()]


RunLink = Callable[..., "shmpool.bridge.link.Link"]


@pytest.fixture
def run_link() -> Iterator[RunLink]:
    """run_link(from_, to, **options): runs a link in this process until the end of the test."""
    from shmpool.bridge.config import LinkOptions
    from shmpool.bridge.link import Link, link_of

    made: list[Link] = []

    def run_link(source: str, to: str | list[str], **options: Any) -> Link:
        made.append(link_of(LinkOptions(source, to, **options)))
        made[-1].start()
        return made[-1]

    yield run_link
    for link in made:
        link.end()
    ended = [link.join(DEADLINE_S) for link in made]
    assert all(ended)


StartBridge = Callable[..., "Bridge"]


@pytest.fixture
def start_bridge(tmp_path: Path) -> Iterator[StartBridge]:
    """start_bridge(name, config, ...): a Bridge, which is killed at the end if it still runs."""
    from tests.bridge_storm import Bridge  # programs import this file, too, from another folder

    made: list[Bridge] = []

    def start_bridge(name: str, config: str, *arguments: Any, **options: Any) -> Bridge:
        made.append(Bridge(tmp_path, name, config, *arguments, **options))
        return made[-1]

    yield start_bridge
    for bridge in made:
        bridge.close()


MADV_WIPEONFORK = 18


@functools.cache
def _wiped_on_fork() -> bool:
    """Whether a forked child reads zeros where its parent asked for it. A child is asked, since
    qemu-user before version 8 says yes and does nothing."""
    memory = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory[0] = 1
    memory.madvise(MADV_WIPEONFORK)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads, which the child ignores
        child = os.fork()
    if child == 0:
        os._exit(memory[0])
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def need_wiped_memory() -> None:
    """For tests of fork(2) past the C library, and so past its fork handlers."""
    if not _wiped_on_fork():
        pytest.skip("madvise(MADV_WIPEONFORK) does nothing here, as under qemu-user before 8")


def need_own_stat() -> None:
    """For tests in which a process reads its own /proc/self/stat, which emulators make up: its name
    and the time of its start are not those that other processes see."""
    seen = []
    for path in ("/proc/self/stat", "/proc/self/task/../stat"):  # emulators know the first one only
        name, _, rest = Path(path).read_bytes().rpartition(b")")
        seen.append((name, rest.split()[19]))
    if seen[0] != seen[1]:
        pytest.skip("/proc/self/stat is made up here, as under qemu-user")


METHODS = ("fork", "spawn", "forkserver")
Begin = Callable[..., BaseProcess]


@pytest.fixture(params=METHODS)
def context(request: pytest.FixtureRequest) -> shmpool.mp.Context:
    """A context of each start method, with shmpool's queues."""
    return shmpool.get_context(request.param)


@pytest.fixture
def own_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives the queues of the test memory of their own."""
    monkeypatch.setattr(shmpool.mp.program, "_current", None)
    monkeypatch.setattr(shmpool.mp.program, "_idle", {})


@pytest.fixture
def begin() -> Iterator[Begin]:
    """begin(context, target, *args): starts a process, which is killed at the end of the test."""
    begun: list[BaseProcess] = []

    def begin(context: Any, target: Callable[..., object], *args: object) -> BaseProcess:
        begun.append(context.Process(target=target, args=args))
        begun[-1].start()
        return begun[-1]

    yield begin
    for process in begun:
        process.kill()
        process.join()


@pytest.fixture
def run() -> Callable[..., str]:
    """run(script, *args): runs Python code in a process that must exit with status 0. Returns its
    output."""

    def run(script: str, *arguments: object, prefix: tuple[str, ...] = ()) -> str:
        done = subprocess.run(
            [
                *prefix,
                sys.executable,
                "-W",
                "error",
                "-c",
                textwrap.dedent(script),
                *map(str, arguments),
            ],
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=DEADLINE_S,
        )
        assert (0, "") == (done.returncode, done.stderr), done.stderr
        return done.stdout

    return run
